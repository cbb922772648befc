"""Wrong project, missing permission, API, dataset, region: one clear error each, naming the setting and the role."""

from __future__ import annotations

from typing import Any

import pytest

from rl_core.backends.gcp.provisioning import build, preflight
from rl_core.errors import ProvisioningError
from tests.provisioning_world import PROVISIONER, World


def refused(world: World, may_make: bool = True, **google: Any) -> str:
    before = world.everything()
    with pytest.raises(ProvisioningError) as told:
        preflight.check(world.site(**google), may_make=may_make)
    assert world.everything() == before
    return str(told.value)


@pytest.mark.parametrize("may_make", [True, False])
def test_a_wrong_project(world: World, may_make: bool) -> None:
    told = refused(world, may_make, project="another-project")
    assert "google.project=another-project does not exist or" in told
    assert f"google.provisioner={PROVISIONER} may not see it" in told
    assert "\n" not in told


def test_missing_permissions_and_the_roles_that_have_them(world: World) -> None:
    world.cloud.admin.deny("storage.buckets.create", "iam.serviceAccounts.create")
    told = refused(world)
    assert f"google.provisioner={PROVISIONER} lacks iam.serviceAccounts.create, storage.buckets.create" in told
    assert "in google.project=test-project; give it roles/iam.serviceAccountAdmin, roles/storage.admin" in told


def test_permissions_of_another_account_are_no_concern(world: World) -> None:
    world.cloud.admin.deny("storage.buckets.create", to="somebody@example.com")
    preflight.check(world.site(), may_make=True)


@pytest.mark.parametrize("may_make", [True, False])
def test_a_wrong_region(world: World, may_make: bool) -> None:
    told = refused(world, may_make, region="europe-west99")
    assert "google.region=europe-west99 is no region of Cloud Functions; choose one of europe-west1," in told


def test_apis_that_are_not_enabled_with_the_command_that_enables_them(world: World) -> None:
    world.cloud.admin.disable("run.googleapis.com", "eventarc.googleapis.com")
    told = refused(world)
    assert "gcloud services enable eventarc.googleapis.com run.googleapis.com --project test-project" in told


def test_an_api_without_which_nothing_can_be_asked(world: World) -> None:
    world.cloud.admin.disable("cloudresourcemanager.googleapis.com")
    assert "gcloud services enable cloudresourcemanager.googleapis.com" in refused(world)


def test_a_permission_that_is_missing_on_the_resource_names_role_and_setting(world: World) -> None:
    world.cloud.admin.deny("artifactregistry.repositories.get")
    with pytest.raises(ProvisioningError) as told:
        world.provision(world.site(), "storage")
    assert "make image repository movielens-v1: permission denied" in str(told.value)
    role = f"roles/artifactregistry.admin on the project (google.provisioner={PROVISIONER})"
    assert f"give the acting account {role}" in str(told.value)
    assert "google.project=test-project, google.region=europe-west1" in str(told.value)


def test_a_missing_dataset_is_told_where_one_only_looks(world: World) -> None:
    site = world.site()
    world.provision(site)
    site.clients.bigquery.delete_dataset("movielens_v1", delete_contents=True)
    with pytest.raises(ProvisioningError) as told:
        build.verify(site, world.said.append)
    assert "lacks" in str(told.value)
    assert "dataset movielens_v1 with its tables (made with roles/bigquery.dataOwner" in str(told.value)
    assert "provision=true" in str(told.value)


def test_what_one_may_not_look_at_is_said_and_is_no_failure(world: World) -> None:
    world.provision(world.site())
    world.cloud.admin.deny("iam.serviceAccounts.get", "cloudfunctions.functions.get")
    build.verify(world.site(), world.said.append)
    assert [line for line in world.said if "function movielens-v1-logger: can't be verified: " in line]


def test_no_bundle_of_the_functions(world: World) -> None:
    with pytest.raises(ProvisioningError, match=r"no movielens\.zip in dist/functions .*make functions-bundle"):
        world.provision(world.site(bundle=False), "functions")


def test_no_image_of_the_server(world: World) -> None:
    with pytest.raises(
        ProvisioningError, match=r"google\.image is not set, .*europe-west1-docker\.pkg\.dev/test-project"
    ):
        world.provision(world.site(image=None, endpoint={"deploy_mode": "pointer"}), "endpoint")


def test_an_account_that_runs_the_tasks_and_is_not_known_is_told_with_its_roles(world: World) -> None:
    site = world.site(runtime_account=None)
    said = world.provision(site, "storage", "messaging", "identities")
    assert [line for line in said if "set google.impersonation_chain, or give by hand: " in line]
