"""Makes, checks or takes away the whole of a bandit on Google Cloud, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.accounts import Account
from rl_core.backends.gcp.provisioning.bindings import Bindings
from rl_core.backends.gcp.provisioning.bucket import Bucket
from rl_core.backends.gcp.provisioning.dataset import Dataset
from rl_core.backends.gcp.provisioning.endpoint import DeployedServer, ServingEndpoint
from rl_core.backends.gcp.provisioning.functions import Function
from rl_core.backends.gcp.provisioning.grants import GRANTS, Principal
from rl_core.backends.gcp.provisioning.ledger import Binding, Ledger
from rl_core.backends.gcp.provisioning.preflight import actor
from rl_core.backends.gcp.provisioning.repository import Repository
from rl_core.backends.gcp.provisioning.resource import Found, Resource, Site
from rl_core.backends.gcp.provisioning.rest import call
from rl_core.backends.gcp.provisioning.scheduler import SchedulerJob
from rl_core.backends.gcp.provisioning.topics import Topic
from rl_core.errors import BanditError, ProvisioningError
from rl_core.google_cloud.failures import explained
from rl_core.google_cloud.names import ROLES

Say = Callable[[str], None]
_ADMINS = {
    "project": "roles/resourcemanager.projectIamAdmin",
    "bucket": "roles/storage.admin",
    "dataset": "roles/bigquery.dataOwner",
    "table": "roles/bigquery.dataOwner",
    "topic": "roles/pubsub.admin",
    "repository": "roles/artifactregistry.admin",
    "account": "roles/iam.serviceAccountAdmin",
    "function": "roles/run.admin",
}


def resources(site: Site, *, ever: bool = False) -> list[Resource]:
    """List the resources in the order in which they are made; the bucket, which holds the ledger, is the first.

    Args:
        ever: also what other settings of the bandit would ask for, and may have asked for once.
    """
    simulated = ever or site.bandit.environment is not None
    made: list[Resource] = [Bucket(site), Dataset(site), Repository(site), Topic(site, site.names.events_topic)]
    if simulated:
        made.append(Topic(site, site.names.simulate_topic))
    made += [Account(site, role) for role in ROLES if simulated or role != "simulator"]
    functions: list[Resource] = [Function(site, "logger")]
    if simulated:
        functions.append(Function(site, "simulator"))
        if ever or site.bandit.simulate.schedule is not None:
            functions.append(SchedulerJob(site))
    endpoint: list[Resource] = [ServingEndpoint(site)]
    if ever or site.names.google.endpoint.deploy_mode == "pointer":
        endpoint.append(DeployedServer(site))
    bindings = _bindings(site, wanted(site))
    return [
        *made,
        *[b for b in bindings if b.part == "identities"],
        *functions,
        *[b for b in bindings if b.part == "functions"],
        *endpoint,
    ]


def wanted(site: Site) -> set[Binding]:
    """List the bindings to add; where the run-time account is unknown, without its own: a person has to give these."""
    number = None
    found = set()
    for grant in GRANTS:
        if grant.simulated and site.bandit.environment is None:
            continue
        if grant.to == "pubsub" and number is None:
            number = _project_number(site)
        email = _email(site, grant.to, number)
        if email is not None:
            found |= {Binding(_named(site, t), grant.role, f"serviceAccount:{email}") for t in grant.targets}
    return found


def provision(site: Site, part: Part, say: Say) -> None:
    """Make what is missing of one part, and mend what is stale. Raises ProvisioningError at the first that can't be."""
    for resource in _of(site, part):
        with _explained(site, f"make {resource.describe()}", resource):
            found = resource.exists()
            if found in (Found.ABSENT, Found.STALE):
                resource.create()
        told = {Found.ABSENT: "created", Found.STALE: "updated", Found.FOREIGN: "was there before, kept as it is"}
        say(f"{resource.describe()}: {told.get(found, 'exists')}")
    if part == "identities" and site.runtime_account is None:
        say(f"the run-time account is unknown; set google.impersonation_chain, or give by hand: {_by_hand()}")


def verify(site: Site, say: Say) -> None:
    """Raise one ProvisioningError that lists all that is missing; nothing is changed."""
    missing = []
    for resource in _of(site, None):
        described = resource.describe()
        try:
            with _explained(site, f"look at {described}", resource):
                found = resource.exists()
        except ProvisioningError as error:
            say(f"{described}: can't be verified: {error}")
            if not _may_not_look(error):
                missing.append(str(error))
            continue
        say(f"{described}: {'would be created' if found is Found.ABSENT else found.value}")
        if found is Found.ABSENT:
            missing.append(f"{described} (made with {resource.role})")
    if missing:
        raise ProvisioningError(
            f"{site.names.bandit_id} lacks {len(missing)}: {'; '.join(missing)}. Run the DAG with "
            f"provision=true, or correct google.project={site.names.project}, google.region={site.names.region}"
        )


def teardown(site: Site, say: Say) -> None:
    """Take away what we made, last made first, past what fails. Raises one ProvisioningError that lists what stayed."""
    problems: list[str] = []
    for resource in reversed([*_of(site, None, ever=True), *_left_over(site)]):
        described = resource.describe()
        if problems and isinstance(resource, Bucket):
            say(f"{described}: kept until the rest is gone: it holds the ledger of bindings")
            continue
        try:
            with _explained(site, f"delete {described}", resource):
                found = resource.delete()
        except BanditError as error:
            say(f"{described}: NOT removed: {error}")
            problems.append(str(error))
            continue
        told = {Found.ABSENT: "is gone already", Found.FOREIGN: "was there before, kept"}
        say(f"{described}: {told.get(found, 'removed')}")
    if problems:
        raise ProvisioningError(f"{len(problems)} could not be removed: {'; '.join(problems)}. Mend it, run this again")


def _of(site: Site, part: Part | None, *, ever: bool = False) -> list[Resource]:
    with explained(ProvisioningError, f"look at project {site.names.project}", site.names, "roles/browser on it"):
        return [resource for resource in resources(site, ever=ever) if part in (None, resource.part)]


def _left_over(site: Site) -> list[Bindings]:
    """Bindings that the ledger knows and the settings no longer ask for."""
    with explained(ProvisioningError, "read the ledger", site.names, "roles/storage.objectUser on the bucket"):
        known = Ledger(site).bindings()
    targets = {binding.target for binding in wanted(site)}
    return _bindings(site, {binding for binding in known if binding.target not in targets})


def _bindings(site: Site, wanted: set[Binding]) -> list[Bindings]:
    grouped: dict[str, list[Binding]] = {}
    for binding in sorted(wanted):
        grouped.setdefault(binding.target, []).append(binding)
    found = []
    for target, group in grouped.items():
        kind = target.partition(" ")[0]
        part: Part = "functions" if kind == "function" else "identities"
        found.append(Bindings(site, target, group, part, f"{_ADMINS[kind]} on the project"))
    return found


def _named(site: Site, target: str) -> str:
    """With an account's e-mail for what it does: which account that is may change in the YAML."""
    kind, _, which = target.partition(" ")
    return f"account {_account(site, which)}" if kind == "account" else target


def _account(site: Site, who: str) -> str:
    return site.names.account(next(role for role in ROLES if role == who))


def _email(site: Site, principal: Principal, number: str | None) -> str | None:
    if principal == "airflow":
        return site.runtime_account
    if principal == "pubsub":
        return f"service-{number}@gcp-sa-pubsub.iam.gserviceaccount.com"
    return _account(site, principal)


def _project_number(site: Site) -> str:
    projects = site.clients.rest("cloudresourcemanager", "v3").projects()
    return str(call(projects.get(name=f"projects/{site.names.project}"))["name"]).rpartition("/")[2]


def _by_hand() -> str:
    return ", ".join(sorted({f"{grant.role} on {grant.place}" for grant in GRANTS if grant.to == "airflow"}))


@contextmanager
def _explained(site: Site, what: str, resource: Resource) -> Iterator[None]:
    try:
        with explained(ProvisioningError, what, site.names, f"{resource.role} ({actor(site)})"):
            yield
    except BanditError as error:
        if str(error).startswith(what):
            raise
        raise ProvisioningError(f"{what}: {error} ({actor(site)})") from error


def _may_not_look(error: BaseException | None) -> bool:
    from google.api_core.exceptions import Forbidden

    return error is not None and (isinstance(error, Forbidden) or _may_not_look(error.__cause__))
