"""The one list of grants: narrow, complete, and what the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rl_core.backends.gcp.provisioning.grants import APIS, BY_HAND, GRANTS, KMS, PRINCIPALS, markdown
from rl_core.backends.gcp.store import joiner
from rl_core.backends.gcp.store.tables import KINDS

CREATING = re.compile(r"admin|owner|creator$|editor$", re.IGNORECASE)
NARROW = {
    "roles/bigquery.dataEditor",  # on single tables, where it creates none
    "roles/iam.serviceAccountTokenCreator",  # creates tokens, for Pub/Sub's own agent
}


def test_at_run_time_nobody_may_create_a_resource() -> None:
    wide = {grant.role for grant in GRANTS if CREATING.search(grant.role)}
    assert wide <= NARROW
    assert all(grant.tables for grant in GRANTS if grant.role == "roles/bigquery.dataEditor")


def test_only_what_google_has_on_projects_alone_is_given_on_the_project() -> None:
    assert {grant.role for grant in GRANTS if grant.on == "project"} == {
        "roles/aiplatform.user",
        "roles/bigquery.jobUser",
        "roles/eventarc.eventReceiver",
    }


def test_a_grant_names_tables_that_exist() -> None:
    assert {table for grant in GRANTS for table in grant.tables} <= KINDS.keys()


@pytest.mark.parametrize("who", ["airflow", "job"])
def test_whoever_joins_may_write_every_table_that_the_joiner_writes(who: str) -> None:
    sql = (Path(joiner.__file__).parent / "sql" / "join.sql").read_text()
    written = set(re.findall(r"^(?:INSERT INTO|UPDATE) (\w+)", sql, re.MULTILINE))
    assert written == {"interactions", "rewards_apart", "joiner"}
    assert written <= {table for grant in GRANTS if grant.to == who for table in grant.tables}


def test_nothing_is_granted_twice() -> None:
    single = [(target, grant.role, grant.to) for grant in GRANTS for target in grant.targets]
    assert len(single) == len(set(single))


def test_the_provisioner_has_no_role_without_a_permission_that_is_tested_first() -> None:
    assert [grant.role for grant in BY_HAND if grant.to == "provisioner" and not grant.permissions] == []
    assert not {"roles/owner", "roles/editor"} & {grant.role for grant in BY_HAND}


def test_every_service_of_a_permission_is_an_api_to_enable() -> None:
    services = {permission.partition(".")[0] for grant in BY_HAND for permission in grant.permissions}
    assert services - {"resourcemanager"} <= set(APIS)


def test_it_prints_every_grant_as_markdown() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rl_core.backends.gcp.provisioning.grants"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == markdown().strip()
    for grant in (*GRANTS, *BY_HAND):
        assert f"| {grant.to} | `{grant.role}` | {grant.place} | {grant.why} |" in done.stdout
    assert KMS in done.stdout
    assert all(f"**{principal}**" in done.stdout for principal in PRINCIPALS)


def test_the_page_about_google_cloud_shows_these_tables(repo: Path) -> None:
    assert markdown().strip() in (repo / "docs" / "google-cloud.md").read_text(), "paste what the module prints"
