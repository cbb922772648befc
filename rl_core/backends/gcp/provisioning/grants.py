"""Who may do what, where, and why: the one list for provisioning, for error messages and for docs/google-cloud.md.

`python -m rl_core.backends.gcp.provisioning.grants` prints it as the tables of that page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Principal = Literal["job", "server", "logger", "simulator", "airflow", "provisioner", "pubsub", "connection", "builder"]
PRINCIPALS: dict[Principal, str] = {
    "job": "account of the pipeline steps",
    "server": "account of the prediction server",
    "logger": "account of the logger function",
    "simulator": "account of the simulator function",
    "airflow": "run-time account of tasks and sensors (google.impersonation_chain, or the connection's own)",
    "pubsub": "Pub/Sub's service agent",
    "provisioner": "account that provisions and tears down (google.provisioner)",
    "connection": "account of the Airflow connection (on Composer: the environment's)",
    "builder": "account of Cloud Build; in projects made since mid-2024 Compute Engine's default one, without any role",
}


@dataclass(frozen=True)
class Grant:
    """One role that one principal needs on one resource, and why.

    Args:
        on: a key of policies.target_of; "tables" stands for those in `tables`.
        permissions: what is tested on the project before anything is made; of the provisioner's grants only.
        simulated: only for bandits with an environment.
    """

    role: str
    on: str
    to: Principal
    why: str
    tables: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    simulated: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(f"table {table}" for table in self.tables) or (self.on,)

    @property
    def place(self) -> str:
        return f"tables {', '.join(self.tables)}" if self.tables else self.on


_LOGGED = ("decisions", "rewards", "activations", "heartbeats", "rejected_events", "joiner")
_JOINED = ("interactions", "rewards_apart", "joiner")
_GENERATED = ("decisions", "rewards", "completions", *_JOINED)
_STAGED = ("decisions_staging", "rewards_staging", "interactions_staging")

GRANTS: tuple[Grant, ...] = (
    Grant("roles/aiplatform.user", "project", "job", "mirror policies as models, log metrics, deploy a policy"),
    Grant("roles/bigquery.jobUser", "project", "job", "read windows and append simulated rows by jobs"),
    Grant("roles/bigquery.dataViewer", "dataset", "job", "read the log"),
    Grant("roles/bigquery.dataEditor", "tables", "job", "append simulated rows and join them", (*_GENERATED, *_STAGED)),
    Grant("roles/storage.objectUser", "bucket", "job", "pipeline root, policies, blocks, registry"),
    Grant("roles/artifactregistry.reader", "repository", "job", "pull the image"),
    Grant("roles/pubsub.publisher", "topic events", "server", "accept decisions and rewards"),
    Grant("roles/storage.objectUser", "bucket", "server", "read registry and policies, report what is loaded"),
    Grant("roles/artifactregistry.reader", "repository", "server", "pull the image"),
    Grant("roles/bigquery.dataEditor", "tables", "logger", "append what arrives", _LOGGED),
    Grant("roles/bigquery.jobUser", "project", "logger", "tell the joiner of rows that came very late"),
    Grant("roles/eventarc.eventReceiver", "project", "logger", "receive events of the topic"),
    Grant("roles/run.invoker", "function logger", "logger", "Eventarc calls the function as its own account"),
    Grant("roles/aiplatform.user", "project", "simulator", "ask the endpoint for decisions", simulated=True),
    Grant("roles/storage.objectViewer", "bucket", "simulator", "read the environment's data", simulated=True),
    Grant("roles/eventarc.eventReceiver", "project", "simulator", "receive events of the topic", simulated=True),
    Grant("roles/run.invoker", "function simulator", "simulator", "as for the logger", simulated=True),
    Grant("roles/aiplatform.user", "project", "airflow", "submit and watch runs, stage policies"),
    Grant("roles/bigquery.jobUser", "project", "airflow", "join by query jobs"),
    Grant("roles/bigquery.dataViewer", "dataset", "airflow", "count and join what is logged"),
    Grant("roles/bigquery.dataEditor", "tables", "airflow", "write what is joined", _JOINED),
    Grant("roles/storage.objectUser", "bucket", "airflow", "registry, lease, compiled pipelines"),
    Grant("roles/pubsub.publisher", "topic events", "airflow", "the joiner's heartbeat"),
    Grant("roles/pubsub.publisher", "topic simulate", "airflow", "ask for simulated traffic", simulated=True),
    Grant("roles/iam.serviceAccountUser", "account job", "airflow", "run jobs as that account"),
    Grant("roles/iam.serviceAccountUser", "account server", "airflow", "deploy_mode=model deploys as that account"),
    Grant("roles/iam.serviceAccountUser", "account server", "job", "deploy_mode=model deploys as that account"),
    Grant("roles/iam.serviceAccountTokenCreator", "account logger", "pubsub", "sign pushes (projects of before 2021)"),
    Grant("roles/iam.serviceAccountTokenCreator", "account simulator", "pubsub", "as for the logger", simulated=True),
)
"""At run time. Provisioning gives them; none of them allows to create a dataset, table, topic, bucket or account."""

BY_HAND: tuple[Grant, ...] = (
    Grant(
        "roles/storage.admin",
        "project",
        "provisioner",
        "bucket and its policy",
        permissions=("storage.buckets.create", "storage.buckets.setIamPolicy"),
    ),
    Grant(
        "roles/bigquery.dataOwner",
        "project",
        "provisioner",
        "dataset, tables and their policies",
        permissions=("bigquery.datasets.create", "bigquery.tables.create"),
    ),
    Grant(
        "roles/bigquery.jobUser",
        "project",
        "provisioner",
        "the joiner's first row",
        permissions=("bigquery.jobs.create",),
    ),
    Grant(
        "roles/pubsub.admin",
        "project",
        "provisioner",
        "topics and their policies",
        permissions=("pubsub.topics.create", "pubsub.topics.setIamPolicy"),
    ),
    Grant(
        "roles/iam.serviceAccountAdmin",
        "project",
        "provisioner",
        "service accounts and their policies",
        permissions=("iam.serviceAccounts.create", "iam.serviceAccounts.setIamPolicy"),
    ),
    Grant(
        "roles/iam.serviceAccountUser",
        "project",
        "provisioner",
        "functions and server run as the accounts made",
        permissions=("iam.serviceAccounts.actAs",),
    ),
    Grant(
        "roles/resourcemanager.projectIamAdmin",
        "project",
        "provisioner",
        "the few roles that Google has on projects only",
        permissions=("resourcemanager.projects.setIamPolicy",),
    ),
    Grant(
        "roles/artifactregistry.admin",
        "project",
        "provisioner",
        "image repository and its policy",
        permissions=("artifactregistry.repositories.create",),
    ),
    Grant(
        "roles/cloudfunctions.admin",
        "project",
        "provisioner",
        "logger and simulator",
        permissions=("cloudfunctions.functions.create",),
    ),
    Grant(
        "roles/run.admin",
        "project",
        "provisioner",
        "who may call the functions",
        permissions=("run.services.setIamPolicy",),
    ),
    Grant(
        "roles/cloudscheduler.admin",
        "project",
        "provisioner",
        "the Scheduler job",
        permissions=("cloudscheduler.jobs.create",),
        simulated=True,
    ),
    Grant(
        "roles/aiplatform.user",
        "project",
        "provisioner",
        "endpoint and deployed server",
        permissions=("aiplatform.endpoints.create",),
    ),
    Grant(
        "roles/serviceusage.serviceUsageViewer",
        "project",
        "provisioner",
        "see which APIs are enabled",
        permissions=("serviceusage.services.get",),
    ),
    Grant(
        "roles/iam.serviceAccountTokenCreator",
        "google.provisioner and each account of google.impersonation_chain",
        "connection",
        "act as them",
    ),
    Grant("roles/cloudbuild.builds.builder", "project", "builder", "build the functions and the image"),
)
"""What a person gives once."""

KMS = (
    "roles/cloudkms.cryptoKeyEncrypterDecrypter on google.kms_key, for the service agents of BigQuery, Cloud Storage, "
    "Pub/Sub, Artifact Registry, Cloud Functions, Cloud Run, Eventarc and Vertex AI"
)

APIS: tuple[str, ...] = (
    "aiplatform",
    "artifactregistry",
    "bigquery",
    "cloudbuild",
    "cloudfunctions",
    "cloudresourcemanager",
    "cloudscheduler",
    "eventarc",
    "iam",
    "iamcredentials",
    "pubsub",
    "run",
    "serviceusage",
    "storage",
)
"""To be enabled, each with ".googleapis.com"."""


def markdown() -> str:
    """Write the grants as the tables of docs/google-cloud.md."""
    rows = []
    for title, grants in (("Given by provisioning", GRANTS), ("Given by a person, once", BY_HAND)):
        rows += [f"### {title}", "", "| who | role | on | why |", "|---|---|---|---|"]
        rows += [f"| {grant.to} | `{grant.role}` | {grant.place} | {grant.why} |" for grant in grants]
        rows += [""]
    rows += [f"With CMEK besides: {KMS}.", ""]
    rows += ["### Who is who", "", *(f"- **{name}**: {text}" for name, text in PRINCIPALS.items())]
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown())
