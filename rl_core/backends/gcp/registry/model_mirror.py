"""Vertex Model Registry as a mirror of the registry's document: one Model, a version of it for every policy.

    version alias     the policy's version, e.g. movielens-v1-0003; champion and challenger where the document has them
    labels            policy_version, parent, verdict (promoted | rejected | none), pipe_version
    artifact_uri      the policy's folder in the bucket

Nothing of ours reads it to decide. What is missing or differs, after a crash or an outage between document and mirror,
is put right at the next write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rl_core.backends.gcp.endpoint.containers import image_of, serving_container
from rl_core.backends.registry.state import AliasName, RegistryState
from rl_core.errors import RegistryError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.google_cloud.failures import explained, patiently, transient
from rl_core.waiting import tries

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

_log = logging.getLogger(__name__)
ROLE = "roles/aiplatform.user on the project"
_DEADLINE_S = 300.0
_CALL_S = 30.0
_TRIES = 5
_PATIENCE_S = 10.0
_ALIASES: tuple[AliasName, ...] = ("champion", "challenger")
_LABEL = "policy_version"

Versions = Mapping[str, "aiplatform_v1.Model"]


class ModelMirror:
    """Makes Vertex Model Registry show what the registry's document says."""

    def __init__(self, clients: GoogleClients) -> None:
        self._clients = clients
        self._name = clients.names.model

    def follow(self, state: Callable[[], RegistryState], uri_of: Callable[[str], str]) -> None:
        """Make Vertex show what the document says. An outage is a warning: the document stands, a later write repairs.

        Where several processes mirror at once, the last one to look leaves it right.

        Args:
            state: reads the document.
            uri_of: the gs:// folder of an artefact, by digest.

        Raises:
            RegistryError: a setting or a role is wrong, so that no later write would repair it either.
        """
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import TransportError

        with explained(RegistryError, f"mirror the registry in {self._name}", self._clients.names, ROLE):
            try:
                self._settle(state, uri_of)
            except (GoogleAPICallError, RetryError, TransportError, TimeoutError) as error:
                if not transient(error):
                    raise
                _log.warning("%s lags behind the registry until its next write: %s", self._name, error)

    def try_to_follow(self, state: Callable[[], RegistryState], uri_of: Callable[[str], str]) -> None:
        """Do as `follow`, and log what it would raise: the champion is swapped, and an error would deny that."""
        try:
            self.follow(state, uri_of)
        except RegistryError as error:
            _log.error("%s; the registry's own document is right", error)

    def versions(self) -> dict[str, aiplatform_v1.Model]:
        """Return the mirrored versions by policy version; of two copies, uploaded by two at once, the first."""
        from google.api_core.exceptions import NotFound

        try:
            listed = list(
                self._clients.models.list_model_versions(name=self._name, timeout=_CALL_S, retry=patiently(_PATIENCE_S))
            )
        except NotFound:
            return {}
        found: dict[str, aiplatform_v1.Model] = {}
        for model in sorted(listed, key=lambda one: int(one.version_id)):
            if version := model.labels.get(_LABEL):
                found.setdefault(version, model)
        return found

    def _settle(self, state: Callable[[], RegistryState], uri_of: Callable[[str], str]) -> None:
        from google.api_core.exceptions import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

        for left in tries(_TRIES, 0.5):
            seen = state()
            try:
                self._repair(seen, uri_of)
            except (Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound):
                if not left:  # else it may be that another process did the same meanwhile
                    raise
                continue
            if (now := state()).versions == seen.versions and now.aliases == seen.aliases:
                return

    def _repair(self, state: RegistryState, uri_of: Callable[[str], str]) -> None:
        mirrored = self.versions()
        missing = [version for version in state.versions if version not in mirrored]
        if missing and image_of(self._clients) is None:
            _log.warning("%s lags behind the registry: google.image is empty", self._name)
            missing = []
        for version in missing:
            self._upload(version, state, uri_of, first=not mirrored and version == missing[0])
        if missing:
            mirrored = self.versions()
        for version in state.versions:
            if version in mirrored:
                self._label(mirrored[version], _labels(state, version, self._clients.bandit.pipe_version))
        for alias in _ALIASES:
            self._point(alias, state.aliases.get(alias), mirrored)

    def _upload(self, version: str, state: RegistryState, uri_of: Callable[[str], str], first: bool) -> None:
        from google.api_core.exceptions import AlreadyExists
        from google.cloud import aiplatform_v1

        names = self._clients.names
        kms_key = names.google.kms_key
        request = aiplatform_v1.UploadModelRequest(
            parent=names.parent,
            parent_model="" if first else self._name,
            model_id=names.bandit_id if first else "",
            model=aiplatform_v1.Model(
                display_name=names.bandit_id,
                version_aliases=[version],
                labels={**names.labels, **_labels(state, version, self._clients.bandit.pipe_version)},
                artifact_uri=uri_of(state.of(version).digest),
                container_spec=serving_container(self._clients, version),
                encryption_spec=aiplatform_v1.EncryptionSpec(kms_key_name=kms_key) if kms_key else None,
            ),
        )
        try:
            self._clients.models.upload_model(request=request, timeout=_CALL_S).result(timeout=_DEADLINE_S)
        except AlreadyExists:
            if not first:
                raise
            self._upload(version, state, uri_of, first=False)  # another process made the model meanwhile

    def _label(self, model: aiplatform_v1.Model, labels: Mapping[str, str]) -> None:
        from google.cloud import aiplatform_v1
        from google.protobuf.field_mask_pb2 import FieldMask

        if labels.items() <= dict(model.labels).items():
            return
        changed = aiplatform_v1.Model(name=_numbered(model), labels={**model.labels, **labels})
        self._clients.models.update_model(model=changed, update_mask=FieldMask(paths=["labels"]), timeout=_CALL_S)

    def _point(self, alias: str, version: str | None, mirrored: Versions) -> None:
        """Taken from who has it before it is given: an alias belongs to one version of a model."""
        for known, model in mirrored.items():
            if alias in model.version_aliases and known != version:
                self._merge(model, f"-{alias}")
        wanted: Any = mirrored.get(version) if version else None
        if wanted is not None and alias not in wanted.version_aliases:
            self._merge(wanted, alias)

    def _merge(self, model: aiplatform_v1.Model, alias: str) -> None:
        self._clients.models.merge_version_aliases(
            name=_numbered(model), version_aliases=[alias], timeout=_CALL_S, retry=patiently(_PATIENCE_S)
        )


def _numbered(model: aiplatform_v1.Model) -> str:
    return f"{model.name.partition('@')[0]}@{model.version_id}"


def _labels(state: RegistryState, version: str, pipe_version: str) -> dict[str, str]:
    verdicts: list[str] = [attempt.verdict for attempt in state.attempts if attempt.version == version]
    return {
        _LABEL: version,
        "parent": state.of(version).lineage.parent or "none",
        "verdict": verdicts[-1] if verdicts else "none",
        "pipe_version": pipe_version,
    }
