"""Provisioning and teardown with the real Google clients, against stand-ins that keep what they are told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.cloud.bigquery import SchemaField, Table  # noqa: TID253

from rl_core.backends.gcp.provisioning import build
from rl_core.backends.gcp.store.tables import JOINER
from rl_core.errors import ProvisioningError
from rl_core.schema import DECISION, bigquery_schema
from stand_ins.faults import Fault
from tests.provisioning_world import World


class TestAnEmptyProject:
    def test_gets_everything_once(self, world: World) -> None:
        first = world.provision(world.site())
        assert all(line.endswith(": created") for line in first)
        made = world.everything()
        assert [topic.rpartition("/")[2] for topic in made["topics"]] == [
            "movielens-v1-events",
            "movielens-v1-simulate",
        ]
        assert "decisions" in made["tables"]["movielens_v1"]
        second = world.provision(world.site())
        assert len(second) == len(first)
        assert all(line.endswith(": exists") for line in second)
        assert world.everything() == made

    def test_is_empty_again_after_the_teardown(self, world: World) -> None:
        before = world.everything()
        world.provision(world.site())
        build.teardown(world.site(), world.said.append)
        assert world.everything() == before

    def test_is_empty_again_although_the_settings_no_longer_ask_for_all_of_it(self, world: World) -> None:
        before = world.everything()
        world.provision(world.site())
        build.teardown(world.site(environment=None, simulate={"schedule": None}), world.said.append)
        assert world.everything() == before

    def test_can_be_torn_down(self, world: World) -> None:
        build.teardown(world.site(), world.said.append)
        assert all(line.endswith(": is gone already") for line in world.said)

    def test_lacks_everything_when_it_is_only_looked_at(self, world: World) -> None:
        before = world.everything()
        with pytest.raises(ProvisioningError) as told:
            build.verify(world.site(), world.said.append)
        assert world.everything() == before
        for needed in (
            "bucket test-project-movielens-v1 (made with roles/storage.admin",
            "dataset movielens_v1 with its tables",
            "topic movielens-v1-events (made with roles/pubsub.admin",
            "service account movielens-v1-job@",
            "IAM of project test-project",
            "function movielens-v1-logger",
            "Scheduler job movielens-v1-simulate",
            "endpoint movielens-v1",
            "google.project=test-project",
            "provision=true",
        ):
            assert needed in str(told.value)

    def test_satisfies_a_look_once_it_is_provisioned(self, world: World) -> None:
        world.provision(world.site())
        build.verify(world.site(bundle=False), world.said.append)

    def test_of_which_one_table_is_missing_is_told_by_its_dataset(self, world: World) -> None:
        world.provision(world.site())
        world.site().clients.bigquery.delete_table("test-project.movielens_v1.rewards")
        world.site().clients.publisher.delete_topic(topic="projects/test-project/topics/movielens-v1-events")
        with pytest.raises(ProvisioningError, match=r"lacks .*topic movielens-v1-events"):
            build.verify(world.site(), world.said.append)
        assert any("dataset movielens_v1" in line and "settings have changed" in line for line in world.said)
        assert "dataset movielens_v1 with its tables: updated" in world.provision(world.site())


def test_a_table_from_before_a_column_was_added_gets_it(world: World) -> None:
    client = world.site().clients.bigquery
    client.create_dataset("movielens_v1")
    columns = [SchemaField.from_api_repr(field) for field in bigquery_schema(JOINER)]
    older = [column for column in columns if column.name != "joined_at"]
    client.create_table(Table("test-project.movielens_v1.joiner", older))
    assert "dataset movielens_v1 with its tables: updated" in world.provision(world.site(), "storage")
    assert client.get_table("movielens_v1.joiner").schema[-1].name == "joined_at"
    again = world.provision(world.site(), "storage")
    assert "dataset movielens_v1 with its tables: was there before, kept as it is" in again


def test_a_column_that_may_be_null_since_is_let_be_null(world: World) -> None:
    client = world.site().clients.bigquery
    client.create_dataset("movielens_v1")
    older = [
        SchemaField.from_api_repr(field | ({"mode": "REQUIRED"} if field["name"] == "action" else {}))
        for field in bigquery_schema(DECISION)
    ]
    client.create_table(Table("test-project.movielens_v1.decisions", older))
    assert "dataset movielens_v1 with its tables: updated" in world.provision(world.site(), "storage")
    modes = {column.name: column.mode for column in client.get_table("movielens_v1.decisions").schema}
    assert (modes["action"], modes["action_id"]) == ("NULLABLE", "REQUIRED")
    again = world.provision(world.site(), "storage")
    assert "dataset movielens_v1 with its tables: was there before, kept as it is" in again


class TestACrash:
    """At every kind of call, before or after it takes effect; what the next run finds is what the crash left."""

    @pytest.mark.parametrize("after", [False, True])
    def test_of_provisioning_is_made_up_for(self, world: World, after: bool) -> None:
        world.provision(world.site())
        complete = world.everything()
        build.teardown(world.site(), world.said.append)
        methods = [name for name in world.cloud.faults.calls if _makes(name)]
        assert len(methods) >= 12, methods
        crashes = self._crash_once_in_each(world, methods, after, lambda: world.provision(world.site()))
        assert crashes >= len(methods)
        assert world.everything() == complete

    def test_of_the_teardown_is_made_up_for(self, world: World) -> None:
        empty = world.everything()
        world.provision(world.site())
        world.cloud.faults.calls.clear()
        build.teardown(world.site(), world.said.append)
        methods = [name for name in world.cloud.faults.calls if "elete" in name or "setIamPolicy" in name]
        assert len(methods) >= 10, methods
        world.provision(world.site())
        crashes = self._crash_once_in_each(
            world, methods, False, lambda: build.teardown(world.site(), world.said.append)
        )
        assert 0 < crashes < len(methods) / 2  # it goes on past what fails
        assert world.everything() == empty

    def _crash_once_in_each(self, world: World, methods: list[str], after: bool, run: Callable[[], object]) -> int:
        for method in methods:
            code = "400" if method[0].islower() else "INVALID_ARGUMENT"
            world.cloud.faults.add(Fault(method, code, after=after))
        for crashes in range(len(methods) + 1):
            try:
                run()
            except ProvisioningError:
                continue
            return crashes
        raise AssertionError("it never came to an end")

    def test_that_was_an_outage_is_not_even_seen(self, world: World) -> None:
        for method in ("iam.projects.serviceAccounts.create", "cloudfunctions.projects.locations.functions.create"):
            world.cloud.faults.add(Fault(method, "503"))
            world.cloud.faults.add(Fault(method, drop=True))
        assert all(line.endswith(": created") for line in world.provision(world.site()))


def _makes(method: str) -> bool:
    last = method.rpartition(".")[2]
    return last.startswith(("create", "insert", "Create", "setIamPolicy", "SetIamPolicy", "pause"))
