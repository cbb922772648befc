"""Checks, before anything is made: is the project there, may we, are the APIs enabled, is the region one."""

from __future__ import annotations

from collections.abc import Iterator

from rl_core.backends.gcp.provisioning.grants import APIS, BY_HAND
from rl_core.backends.gcp.provisioning.resource import Site
from rl_core.backends.gcp.provisioning.rest import call
from rl_core.errors import ProvisioningError


def check(site: Site, *, may_make: bool) -> None:
    """Raise one ProvisioningError that names every setting to correct, role to give and API to enable.

    Args:
        may_make: whether the acting account's permissions to make things are tested too.
    """
    problems = list(_project(site, may_make))
    if not problems:
        problems = [*_apis(site), *_region(site)]
    if problems:
        raise ProvisioningError(f"{site.names.bandit_id} can't be provisioned: {'; '.join(problems)}")


def actor(site: Site) -> str:
    """Name the account that acts, for an error message."""
    provisioner = site.names.google.provisioner
    return f"google.provisioner={provisioner}" if provisioner else "the acting account (google.provisioner is not set)"


def _project(site: Site, may_make: bool) -> Iterator[str]:
    from google.api_core.exceptions import Forbidden, NotFound

    project = site.names.project
    needed = {permission: grant.role for grant in BY_HAND for permission in grant.permissions if _needed(site, grant)}
    asked = {"permissions": sorted(needed) if may_make else ["resourcemanager.projects.get"]}
    try:
        request = site.clients.rest("cloudresourcemanager", "v3").projects()
        held = call(request.testIamPermissions(resource=f"projects/{project}", body=asked)).get("permissions", [])
    except (Forbidden, NotFound) as error:
        if "SERVICE_DISABLED" in str(error.errors) or "is disabled" in str(error):
            yield f"enable the API: gcloud services enable cloudresourcemanager.googleapis.com --project {project}"
            return
        yield (
            f"google.project={project} does not exist or {actor(site)} may not see it; correct google.project, or give "
            f"that account the roles of docs/google-cloud.md ({error.message})"
        )
        return
    if may_make and (missing := sorted(set(needed) - set(held))):
        roles = sorted({needed[permission] for permission in missing})
        yield (
            f"{actor(site)} lacks {', '.join(missing)} in google.project={project}; give it {', '.join(roles)} "
            "on the project"
        )


def _needed(site: Site, grant: object) -> bool:
    return site.bandit.environment is not None or not getattr(grant, "simulated", False)


def _apis(site: Site) -> Iterator[str]:
    from google.api_core.exceptions import Forbidden

    project = site.names.project
    names = [f"projects/{project}/services/{api}.googleapis.com" for api in APIS]
    try:
        answer = call(
            site.clients.rest("serviceusage", "v1").services().batchGet(parent=f"projects/{project}", names=names)
        )
    except Forbidden:  # each API says so by itself when it is called
        return
    off = [s["name"].rpartition("/")[2] for s in answer.get("services", []) if s.get("state") != "ENABLED"]
    if off:
        yield f"enable the APIs: gcloud services enable {' '.join(off)} --project {project}"


def _region(site: Site) -> Iterator[str]:
    from google.api_core.exceptions import Forbidden

    project, region = site.names.project, site.names.region
    locations = site.clients.rest("cloudfunctions", "v2").projects().locations()
    try:
        answer = call(locations.list(name=f"projects/{project}", pageSize=500))
    except Forbidden:
        return
    known = sorted(location["locationId"] for location in answer.get("locations", []))
    if region not in known:
        yield f"google.region={region} is no region of Cloud Functions; choose one of {', '.join(known)}"
