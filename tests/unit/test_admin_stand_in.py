"""The stand-in of the administrative services answers as they do: to the real client, and to one that errs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.oauth2.credentials import Credentials
from googleapiclient import discovery
from googleapiclient.errors import HttpError

from stand_ins.admin import AdminStandIn
from stand_ins.faults import Faults
from stand_ins.serving import served

PARENT = "projects/test-project/locations/europe-west1"


class Caller:
    """The real client, as somebody."""

    def __init__(self, url: str, who: str = "someone@example.com") -> None:
        self._url = url
        self._who = who
        self._opened: list[Any] = []

    def service(self, name: str, version: str) -> Any:
        made = discovery.build(
            name,
            version,
            credentials=Credentials(token=self._who),
            client_options={"api_endpoint": self._url},
            static_discovery=True,
            cache_discovery=False,
        )
        self._opened.append(made)
        return made

    def close(self) -> None:
        for made in self._opened:
            made.close()


@pytest.fixture
def admin() -> Iterator[AdminStandIn]:
    with AdminStandIn("test-project", Faults()) as made:
        yield made


@pytest.fixture
def caller(admin: AdminStandIn) -> Iterator[Caller]:
    with served(admin.app) as url:
        made = Caller(url)
        yield made
        made.close()


def refusal(request: Any) -> tuple[int, str]:
    with pytest.raises(HttpError) as told:
        request.execute()
    return int(told.value.resp.status), str(told.value.reason)


def test_fields_that_the_api_does_not_have_are_refused(caller: Caller) -> None:
    repositories = caller.service("artifactregistry", "v1").projects().locations().repositories()

    def create(body: dict[str, Any]) -> Any:
        return repositories.create(parent=PARENT, repositoryId="images", body=body)

    assert refusal(create({"format": "DOCKER", "colour": "red"})) == (
        400,
        'Invalid JSON payload received. Unknown name "colour": Cannot find field.',
    )
    assert refusal(create({"format": "DOCKER", "labels": {"a": 1}}))[0] == 400
    assert refusal(create({"format": "PAINTINGS"}))[0] == 400
    operation = create({"format": "DOCKER"}).execute()
    assert not operation["done"]
    assert refusal(create({"format": "DOCKER"}))[0] == 409


def test_a_policy_that_others_changed_meanwhile_is_not_overwritten(admin: AdminStandIn, caller: Caller) -> None:
    projects = caller.service("cloudresourcemanager", "v3").projects()
    policy = projects.getIamPolicy(resource="projects/test-project", body={}).execute()
    admin.bind("projects/test-project", "roles/viewer", "user:other@example.com")
    policy["bindings"] = [{"role": "roles/owner", "members": ["user:me@example.com"]}]
    status, why = refusal(projects.setIamPolicy(resource="projects/test-project", body={"policy": policy}))
    assert (status, "concurrent policy changes" in why) == (409, True)


def test_a_member_that_does_not_exist_can_not_be_bound(caller: Caller) -> None:
    projects = caller.service("cloudresourcemanager", "v3").projects()
    member = "serviceAccount:nobody@test-project.iam.gserviceaccount.com"
    policy = {"bindings": [{"role": "roles/viewer", "members": [member]}]}
    status, why = refusal(projects.setIamPolicy(resource="projects/test-project", body={"policy": policy}))
    assert (status, why) == (400, f"Service account {member.partition(':')[2]} does not exist.")


def test_what_one_may_not_do_another_may(admin: AdminStandIn, caller: Caller) -> None:
    admin.deny("iam.serviceAccounts.create", to="someone@example.com")
    body = {"accountId": "worker"}
    asked = {"permissions": ["iam.serviceAccounts.create", "iam.serviceAccounts.get"]}
    projects = caller.service("cloudresourcemanager", "v3").projects()
    held = projects.testIamPermissions(resource="projects/test-project", body=asked).execute()
    assert held == {"permissions": ["iam.serviceAccounts.get"]}
    accounts = caller.service("iam", "v1").projects().serviceAccounts()
    assert refusal(accounts.create(name="projects/test-project", body=body))[0] == 403
    other = Caller(caller._url, "other@example.com")
    created = other.service("iam", "v1").projects().serviceAccounts().create(name="projects/test-project", body=body)
    assert created.execute()["email"] == "worker@test-project.iam.gserviceaccount.com"
    other.close()


@pytest.mark.parametrize(
    ("parent", "why"),
    [
        ("projects/other/locations/europe-west1", "denied on resource"),
        ("projects/test-project/locations/mars-north1", "Permission denied on 'locations/mars-north1'"),
    ],
)
def test_another_project_or_region_is_forbidden(caller: Caller, parent: str, why: str) -> None:
    functions = caller.service("cloudfunctions", "v2").projects().locations().functions()
    status, told = refusal(functions.get(name=f"{parent}/functions/f"))
    assert (status, why in told) == (403, True)


def test_a_service_that_is_not_enabled_says_so(admin: AdminStandIn, caller: Caller) -> None:
    admin.disable("run.googleapis.com")
    services = caller.service("run", "v2").projects().locations().services()
    with pytest.raises(HttpError) as told:
        services.get(name=f"{PARENT}/services/s").execute()
    assert "SERVICE_DISABLED" in str(told.value.error_details)


def test_a_deleted_account_stays_in_policies_under_another_name(admin: AdminStandIn, caller: Caller) -> None:
    accounts = caller.service("iam", "v1").projects().serviceAccounts()
    email = accounts.create(name="projects/test-project", body={"accountId": "worker"}).execute()["email"]
    admin.bind("projects/test-project", "roles/viewer", f"serviceAccount:{email}")
    accounts.delete(name=f"projects/-/serviceAccounts/{email}").execute()
    [member] = admin.members("projects/test-project", "roles/viewer")
    assert member.startswith(f"deleted:serviceAccount:{email}?uid=")
