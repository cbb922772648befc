"""The names of a bandit's resources on Google Cloud, by which provisioning, run time and teardown agree."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from rl_core.config import Bandit
from rl_core.errors import ConfigError
from rl_core.google_config import Google

Role = Literal["job", "server", "logger", "simulator"]
ROLES: tuple[Role, ...] = ("job", "server", "logger", "simulator")
LABEL = "banditloop"
"""The label that every resource of ours carries; its value is the bandit id."""

_BUCKET_NAME_MOST = 63  # https://cloud.google.com/storage/docs/buckets#naming
_ARTEFACT_NAME_MOST = 49  # labels and ids of models, endpoints and functions end at 63, suffixes included
_ACCOUNT_ID_MOST = 30  # https://cloud.google.com/iam/docs/service-accounts-create


@dataclass(frozen=True)
class Names:
    """The names of one bandit's resources, all derived from `{prefix}-{pipe_version}`."""

    google: Google
    bandit_id: str

    @property
    def project(self) -> str:
        return self.google.project

    @property
    def region(self) -> str:
        return self.google.region

    @property
    def location(self) -> str:
        """Where dataset and bucket lie."""
        return self.google.location or self.google.region

    @property
    def parent(self) -> str:
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def labels(self) -> dict[str, str]:
        return {**self.google.labels, LABEL: self.bandit_id}

    @property
    def bucket(self) -> str:
        return self.google.bucket or f"{self.project}-{self.bandit_id}"

    @property
    def folder(self) -> str:
        """The prefix of this bandit's objects in the bucket, which may be shared."""
        return f"{self.bandit_id}/"

    @property
    def pipeline_root(self) -> str:
        return f"gs://{self.bucket}/{self.folder}pipelines"

    @property
    def dataset(self) -> str:
        """The dataset's id: BigQuery takes letters, digits and underscores."""
        return self.bandit_id.replace("-", "_")

    def table(self, name: str) -> str:
        """Return the full name of a table."""
        return f"{self.project}.{self.dataset}.{name}"

    @property
    def events_topic(self) -> str:
        """The topic of decisions, rewards and heartbeats; the attribute `kind` says which."""
        return f"projects/{self.project}/topics/{self.bandit_id}-events"

    @property
    def simulate_topic(self) -> str:
        return f"projects/{self.project}/topics/{self.bandit_id}-simulate"

    @property
    def logger_function(self) -> str:
        return f"{self.parent}/functions/{self.bandit_id}-logger"

    @property
    def simulator_function(self) -> str:
        return f"{self.parent}/functions/{self.bandit_id}-simulator"

    @property
    def scheduler_job(self) -> str:
        return f"{self.parent}/jobs/{self.bandit_id}-simulate"

    @property
    def repository(self) -> str:
        return f"{self.parent}/repositories/{self.bandit_id}"

    @property
    def image_base(self) -> str:
        """The job image without digest. kfp.local wants "python" in an image's name."""
        return f"{self.region}-docker.pkg.dev/{self.project}/{self.bandit_id}/python-banditloop"

    @property
    def endpoint(self) -> str:
        """The endpoint's display name; its id is Vertex's."""
        return self.bandit_id

    @property
    def model(self) -> str:
        """The Vertex model whose versions are the policies."""
        return f"{self.parent}/models/{self.bandit_id}"

    @property
    def experiment(self) -> str:
        return self.google.vertex.experiment or self.bandit_id

    def account(self, role: Role) -> str:
        """Return the e-mail of the service account that acts as `role`; one named in the YAML goes first."""
        chosen = {"job": self.google.vertex.service_account, "server": self.google.endpoint.service_account}.get(role)
        return chosen or f"{self.account_id(role)}@{self.project}.iam.gserviceaccount.com"

    def account_id(self, role: Role) -> str:
        """Return the id of the service account that acts as `role`; one that is too long is cut, with a hash."""
        whole = f"{self.bandit_id}-{role}"
        if len(whole) <= _ACCOUNT_ID_MOST:
            return whole
        digest = hashlib.sha256(self.bandit_id.encode()).hexdigest()[:6]
        room = _ACCOUNT_ID_MOST - len(f"-{digest}-{role}")
        return f"{self.bandit_id[:room].rstrip('-')}-{digest}-{role}"


def names_of(bandit: Bandit) -> Names:
    """Return the names of a bandit's resources. Raises ConfigError where the bandit has no section `google`."""
    if bandit.google is None:
        raise ConfigError(f"{bandit.name}: has no section google; add one with at least a project")
    if len(bandit.id) > _ARTEFACT_NAME_MOST:
        raise ConfigError(
            f"{bandit.name}: {bandit.id} has {len(bandit.id)} letters; on Google Cloud "
            f"prefix and pipe_version have at most {_ARTEFACT_NAME_MOST} together, with their hyphen"
        )
    names = Names(bandit.google, bandit.id)
    if len(names.bucket) > _BUCKET_NAME_MOST:
        raise ConfigError(
            f"{bandit.name}: the bucket would be called {names.bucket}, which has {len(names.bucket)} letters and may "
            f"have {_BUCKET_NAME_MOST}; set google.bucket"
        )
    return names
