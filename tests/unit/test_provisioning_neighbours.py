"""What others have in the project: it is used, never changed, and it outlives us."""

from __future__ import annotations

import pytest
from google.cloud.bigquery import SchemaField, Table  # noqa: TID253

from rl_core.backends.gcp.provisioning import build
from rl_core.errors import ProvisioningError
from tests.provisioning_world import ACCOUNTS, COMPOSER, World

MATE = "user:colleague@example.com"


def test_everything_that_was_there_is_there_again_after_the_teardown(world: World) -> None:
    site = world.site(bucket="shared-bucket")
    clients = site.clients
    bucket = clients.storage.create_bucket("shared-bucket", location="europe-west1")
    bucket.blob("theirs.txt").upload_from_string("theirs")
    clients.bigquery.create_dataset("movielens_v1")
    clients.bigquery.create_table(Table("test-project.movielens_v1.theirs", [SchemaField("a", "INTEGER")]))
    clients.publisher.create_topic(name=clients.names.events_topic)
    job = clients.names.account("job")
    world.cloud.admin.add(f"{ACCOUNTS}/{job}", email=job, uniqueId="2", description="not banditloop's")
    world.cloud.admin.add(clients.names.repository, format="DOCKER", labels={"team": "other"})
    world.cloud.admin.bind("projects/test-project", "roles/owner", MATE)
    world.cloud.admin.bind("projects/test-project", "roles/aiplatform.user", f"serviceAccount:{COMPOSER}")
    world.cloud.admin.bind("b/shared-bucket", "roles/storage.objectViewer", MATE)
    before = world.everything()

    said = world.provision(site)
    kept = [line for line in said if line.endswith("was there before, kept as it is")]
    assert len(kept) == 4, kept
    assert "dataset movielens_v1 with its tables: updated" in said
    assert world.everything() != before

    build.teardown(site, world.said.append)
    assert world.everything() == before
    assert clients.storage.get_bucket("shared-bucket").labels == {}


def test_a_bucket_of_ours_that_holds_what_others_put_there_is_kept_and_said(world: World) -> None:
    site = world.site()
    world.provision(site)
    site.clients.bucket.blob("theirs.txt").upload_from_string("theirs")
    with pytest.raises(ProvisioningError, match=r"1 could not be removed: .*theirs.txt in it is not ours"):
        build.teardown(site, world.said.append)
    assert [blob.name for blob in site.clients.bucket.list_blobs()] == ["theirs.txt"]
    site.clients.bucket.blob("theirs.txt").delete()
    build.teardown(site, world.said.append)
    assert not site.clients.bucket.exists()


def test_bindings_of_an_account_that_is_named_no_longer_go_too(world: World) -> None:
    theirs = "jobs@test-project.iam.gserviceaccount.com"
    world.cloud.admin.add(f"{ACCOUNTS}/{theirs}", email=theirs, uniqueId="3")
    before = world.everything()
    world.provision(world.site(vertex={"service_account": theirs}))
    assert theirs in str(world.everything()["bindings"])
    build.teardown(world.site(), world.said.append)
    assert world.everything() == before


def test_an_account_that_the_yaml_names_is_not_made_but_asked_for(world: World) -> None:
    with pytest.raises(
        ProvisioningError, match=r"google\.vertex\.service_account names jobs@other\.iam\.gserviceaccount\.com"
    ):
        world.provision(world.site(vertex={"service_account": "jobs@other.iam.gserviceaccount.com"}))


def test_policies_that_others_change_at_the_same_time_lose_nothing(world: World) -> None:
    from stand_ins.faults import Fault

    method = "cloudresourcemanager.projects.setIamPolicy"
    world.cloud.faults.add(Fault(method, "409", times=3))
    world.cloud.admin.bind("projects/test-project", "roles/owner", MATE)
    world.provision(world.site())
    assert world.cloud.admin.members("projects/test-project", "roles/owner") == {MATE}
    assert f"serviceAccount:{COMPOSER}" in world.cloud.admin.members("projects/test-project", "roles/bigquery.jobUser")


def test_a_bucket_that_lies_elsewhere_is_an_error_that_names_the_setting(world: World) -> None:
    site = world.site(bucket="far-away")
    site.clients.storage.create_bucket("far-away", location="us-central1")
    with pytest.raises(ProvisioningError, match=r"far-away lies in .*google\.location \(or google\.region\) says"):
        world.provision(site, "storage")


def test_changed_functions_are_deployed_again_and_unchanged_ones_are_not(world: World) -> None:
    world.provision(world.site())
    world.bundle.write_bytes(b"other functions")
    said = world.provision(world.site(), "functions")
    updated = [line for line in said if not line.endswith(": exists")]
    assert updated == ["function movielens-v1-logger: updated", "function movielens-v1-simulator: updated"]


def test_a_function_whose_build_failed_says_why_and_is_mended_by_the_next_run(world: World) -> None:
    world.cloud.admin.world.builds_fail = "Build failed: no module named numpy"
    with pytest.raises(ProvisioningError, match="make function movielens-v1-logger: Build failed: no module"):
        world.provision(world.site())
    world.cloud.admin.world.builds_fail = None
    assert "function movielens-v1-logger: updated" in world.provision(world.site(), "functions")


def test_scheduler_sends_only_where_the_dag_does_not(world: World) -> None:
    name = "projects/test-project/locations/europe-west1/jobs/movielens-v1-simulate"
    jobs = world.cloud.admin.world.resources
    world.provision(world.site())
    assert jobs[name]["state"] == "PAUSED"
    world.provision(world.site(simulate_by="scheduler", simulate={"enabled": True}), "functions")
    assert jobs[name]["state"] == "ENABLED"
    world.provision(world.site(simulate={"enabled": True}), "functions")
    assert jobs[name]["state"] == "PAUSED"


def test_a_bandit_without_an_environment_needs_no_simulator(world: World) -> None:
    said = world.provision(world.site(environment=None))
    assert not [line for line in said if "simulat" in line]
