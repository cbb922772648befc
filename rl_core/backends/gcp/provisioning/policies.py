"""Reads and writes the IAM policy of one resource, the same way whatever the resource is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rl_core.backends.gcp.provisioning.resource import Site
from rl_core.backends.gcp.provisioning.rest import call

Policy = dict[str, Any]
"""As REST has it: `{"etag", "version", "bindings": [{"role", "members", "condition"?}]}`."""

_VERSION = 3  # the one that keeps conditions of others
_DATASET_ROLES = {"roles/bigquery.dataViewer": "READER", "roles/bigquery.dataEditor": "WRITER"}


class PolicyOf(NamedTuple):
    """How to read and write the IAM policy of one resource.

    `write` raises Conflict, PreconditionFailed or Aborted where somebody else was faster.
    """

    name: str
    read: Callable[[], Policy]
    write: Callable[[Policy], None]


def target_of(site: Site, target: str) -> PolicyOf:
    """Return the policy of a resource that is named by a key.

    Args:
        target: "project", "bucket", "dataset", "table <name>", "topic events|simulate", "repository",
            "account <e-mail>" or "function logger|simulator" (the Cloud Run service under it, which is what is called).
    """
    kind, _, which = target.partition(" ")
    names = site.names
    if kind == "project":
        projects = site.clients.rest("cloudresourcemanager", "v3").projects()
        body = {"options": {"requestedPolicyVersion": _VERSION}}
        resource = f"projects/{names.project}"
        return _rest(f"project {names.project}", projects, resource, lambda: {"resource": resource, "body": body})
    if kind == "repository":
        repositories = site.clients.rest("artifactregistry", "v1").projects().locations().repositories()
        return _rest(f"repository {names.repository.rpartition('/')[2]}", repositories, names.repository)
    if kind == "account":
        accounts = site.clients.rest("iam", "v1").projects().serviceAccounts()
        project = which.partition("@")[2].partition(".")[0]
        return _rest(f"service account {which}", accounts, f"projects/{project}/serviceAccounts/{which}")
    if kind == "function":
        function = names.logger_function if which == "logger" else names.simulator_function
        services = site.clients.rest("run", "v2").projects().locations().services()
        return _rest(f"service {function.rpartition('/')[2]}", services, function.replace("/functions/", "/services/"))
    if kind == "topic":
        return _topic(site, names.events_topic if which == "events" else names.simulate_topic)
    return {"bucket": _bucket, "dataset": _dataset, "table": _table}[kind](site, which)


def _rest(name: str, resources: Any, resource: str, asked: Callable[[], dict[str, Any]] | None = None) -> PolicyOf:
    options = {"options_requestedPolicyVersion": _VERSION}
    arguments = asked() if asked else {"resource": resource, **options}

    def read() -> Policy:
        return call(resources.getIamPolicy(**arguments))

    def write(policy: Policy) -> None:
        call(resources.setIamPolicy(resource=resource, body={"policy": policy}))

    return PolicyOf(name, read, write)


def _topic(site: Site, topic: str) -> PolicyOf:
    from google.iam.v1 import policy_pb2
    from google.protobuf.json_format import MessageToDict, ParseDict

    publisher = site.clients.publisher

    def read() -> Policy:
        policy: Policy = MessageToDict(publisher.get_iam_policy(request={"resource": topic}))
        return policy

    def write(policy: Policy) -> None:
        message = ParseDict(policy, policy_pb2.Policy())
        publisher.set_iam_policy(request={"resource": topic, "policy": message})

    return PolicyOf(f"topic {topic.rpartition('/')[2]}", read, write)


def _bucket(site: Site, _: str) -> PolicyOf:
    from google.api_core.iam import Policy as Written

    bucket = site.clients.bucket

    def read() -> Policy:
        policy = bucket.get_iam_policy(requested_policy_version=_VERSION)
        return {"etag": policy.etag, "version": policy.version, "bindings": list(policy.bindings)}

    def write(policy: Policy) -> None:
        bucket.set_iam_policy(Written.from_api_repr({**policy, "version": _VERSION}))

    return PolicyOf(f"bucket {bucket.name}", read, write)


def _table(site: Site, name: str) -> PolicyOf:
    from google.api_core.iam import Policy as Written

    client, table = site.clients.bigquery, site.names.table(name)

    def read() -> Policy:
        policy = client.get_iam_policy(table)
        return {"etag": policy.etag, "version": policy.version, "bindings": list(policy.bindings)}

    def write(policy: Policy) -> None:
        client.set_iam_policy(table, Written.from_api_repr(policy))

    return PolicyOf(f"table {name}", read, write)


def _dataset(site: Site, _: str) -> PolicyOf:
    """A dataset has access entries; those of accounts and of the roles that we give are shown as bindings."""
    from google.cloud.bigquery import AccessEntry

    client, place = site.clients.bigquery, f"{site.names.project}.{site.names.dataset}"
    roles = {old: new for new, old in _DATASET_ROLES.items()}
    held: dict[str, Any] = {}

    def ours(entry: Any) -> bool:
        return entry.entity_type == "userByEmail" and entry.role in {*roles, *_DATASET_ROLES}

    def read() -> Policy:
        held["dataset"] = client.get_dataset(place)
        bindings: dict[str, list[str]] = {}
        for entry in filter(ours, held["dataset"].access_entries):
            bindings.setdefault(roles.get(entry.role, entry.role), []).append(f"serviceAccount:{entry.entity_id}")
        return {"bindings": [{"role": role, "members": members} for role, members in bindings.items()]}

    def write(policy: Policy) -> None:
        dataset = held["dataset"]  # with its etag
        kept = [entry for entry in dataset.access_entries if not ours(entry)]
        dataset.access_entries = kept + [
            AccessEntry(_DATASET_ROLES[binding["role"]], "userByEmail", member.partition(":")[2])
            for binding in policy["bindings"]
            for member in binding["members"]
        ]
        client.update_dataset(dataset, ["access_entries"])

    return PolicyOf(f"dataset {site.names.dataset}", read, write)
