"""The Cloud Functions (2nd generation), event logger and simulator: Eventarc calls each with what its topic gets."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.resource import Found, Owned, Site
from rl_core.backends.gcp.provisioning.rest import OPERATION_TIMEOUT_S, call, get, wait
from rl_core.errors import ProvisioningError
from rl_core.google_cloud.names import LABEL
from rl_core.waiting import looks

_SPEC = f"{LABEL}-spec"
"""The label that says what the function was made from: source and settings."""

_EVENT = "google.cloud.pubsub.topic.v1.messagePublished"
_RUNTIME = "python311"


@dataclass(frozen=True)
class Shape:
    """The size of a Cloud Function and how it is called.

    Args:
        again: a message that the function failed on is delivered again, for a day.
    """

    entry_point: str
    memory: str
    timeout_s: int
    most_instances: int
    concurrency: int
    again: bool


SHAPES: dict[Literal["logger", "simulator"], Shape] = {
    "logger": Shape("log_event", "512Mi", 60, 10, 80, again=True),
    # One at a time, and never again: a second try would send the same users twice.
    "simulator": Shape("simulate", "1Gi", 540, 1, 1, again=False),
}


class Function(Owned):
    """One Cloud Function with its trigger."""

    part: Part = "functions"
    role = "roles/cloudfunctions.admin on the project, and roles/iam.serviceAccountUser on the function's account"

    def __init__(self, site: Site, which: Literal["logger", "simulator"]) -> None:
        self._site = site
        self._which: Literal["logger", "simulator"] = which
        names = site.names
        self._name = names.logger_function if which == "logger" else names.simulator_function
        self._topic = names.events_topic if which == "logger" else names.simulate_topic

    def describe(self) -> str:
        return f"function {self._name.rpartition('/')[2]}"

    def exists(self) -> Found:
        function = get(self._functions.get(name=self._name))
        if function is None:
            return Found.ABSENT
        labels = function.get("labels", {})
        if self._site.owner(labels) is Found.FOREIGN:
            return Found.FOREIGN
        known = self._site.bundle is None or labels.get(_SPEC) == self._spec
        return Found.OURS if known and function.get("state") == "ACTIVE" else Found.STALE

    def create(self) -> None:
        """Deploy the function. Raises ProvisioningError where no bundle is there, or the build fails."""
        function = self._settled()
        self._upload()
        body = {**self._body, "labels": {**self._site.names.labels, _SPEC: self._spec}}
        if function is None:
            parent, _, short = self._name.rpartition("/functions/")
            request = self._functions.create(parent=parent, functionId=short, body=body)
        else:
            request = self._functions.patch(name=self._name, updateMask=",".join(sorted(body)), body=body)
        wait(call(request), self._operation)

    def _remove(self) -> None:
        wait(call(self._functions.delete(name=self._name)), self._operation)

    def _settled(self) -> dict[str, Any] | None:
        """The function once nobody deploys it any more: a predecessor of this task may have left that behind."""
        for _ in looks(OPERATION_TIMEOUT_S, 2.0):
            function = get(self._functions.get(name=self._name))
            state = (function or {}).get("state")
            if state not in ("DEPLOYING", "DELETING"):
                return function
        raise ProvisioningError(f"{self._name} stays {state}; look at its build, then try again")

    def _upload(self) -> None:
        from google.api_core.exceptions import PreconditionFailed

        blob = self._site.clients.bucket.blob(self._object)
        with suppress(PreconditionFailed):  # its name is its content
            blob.upload_from_string(self._zip, content_type="application/zip", if_generation_match=0)

    @property
    def _zip(self) -> bytes:
        bundle = self._site.bundle
        if bundle is None:
            raise ProvisioningError(
                f"no {self._site.bandit.name}.zip in dist/functions or in Composer's data/functions, so "
                f"{self.describe()} can't be deployed; run `make functions-bundle` and upload it"
            )
        return bundle.read_bytes()

    @property
    def _object(self) -> str:
        digest = hashlib.sha256(self._zip).hexdigest()
        return f"{self._site.names.folder}functions/{digest}.zip"

    @property
    def _spec(self) -> str:
        return hashlib.sha256(json.dumps(self._body, sort_keys=True).encode()).hexdigest()[:40]

    @property
    def _body(self) -> dict[str, Any]:
        names, shape = self._site.names, SHAPES[self._which]
        account = names.account(self._which)
        body: dict[str, Any] = {
            "description": f"{self._which} of {names.bandit_id}",
            "buildConfig": {
                "runtime": _RUNTIME,
                "entryPoint": shape.entry_point,
                "source": {"storageSource": {"bucket": names.bucket, "object": self._object}},
            },
            "serviceConfig": {
                "serviceAccountEmail": account,
                "ingressSettings": "ALLOW_INTERNAL_ONLY",
                "availableCpu": "1",
                "availableMemory": shape.memory,
                "timeoutSeconds": shape.timeout_s,
                "minInstanceCount": 0,
                "maxInstanceCount": shape.most_instances,
                "maxInstanceRequestConcurrency": shape.concurrency,
            },
            "eventTrigger": {
                "eventType": _EVENT,
                "triggerRegion": names.region,
                "pubsubTopic": self._topic,
                "serviceAccountEmail": account,
                "retryPolicy": "RETRY_POLICY_RETRY" if shape.again else "RETRY_POLICY_DO_NOT_RETRY",
            },
        }
        if names.google.kms_key is not None:
            body["kmsKeyName"] = names.google.kms_key
            body["buildConfig"]["dockerRepository"] = names.repository  # one with the same key is asked for
        return body

    def _operation(self, name: str) -> Any:
        return self._site.clients.rest("cloudfunctions", "v2").projects().locations().operations().get(name=name)

    @property
    def _functions(self) -> Any:
        return self._site.clients.rest("cloudfunctions", "v2").projects().locations().functions()
