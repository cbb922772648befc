"""The shipped DAGs load, are wired as the documentation says, and take only valid parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from tests.dags.conftest import Parse, Parsed

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Airflow's own, lazily

NOUNS = ("startup", "retrain", "simulate", "rollback", "teardown")
TRAINING = {
    "take_lease": {"train.submit", "train.wait", "train.cancel_if_active", "release_lease"},
    "train.submit": {"train.wait", "train.cancel_if_active"},
    "train.wait": {"train.cancel_if_active", "announce_champion"},
    "train.cancel_if_active": {"release_lease"},
    "announce_champion": {"release_lease"},
    "release_lease": set(),
}


def test_every_file_imports(shipped: Parsed) -> None:
    assert shipped.import_errors == {}


def test_a_bandit_has_one_dag_of_each_kind(shipped: Parsed) -> None:
    assert sorted(shipped.dags) == sorted(f"movielens_{noun}" for noun in NOUNS)


@pytest.mark.parametrize(
    ("noun", "order"),
    [
        ("startup", TRAINING),
        ("retrain", {"gate": {"take_lease"}, **TRAINING}),
        ("simulate", {"simulate": set()}),
        ("rollback", {"promote": set()}),
        ("teardown", {"tear_down": set()}),
    ],
)
def test_tasks_run_in_this_order(shipped: Parsed, noun: str, order: dict[str, set[str]]) -> None:
    dag = shipped.dags[f"movielens_{noun}"]
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == order


@pytest.mark.parametrize("noun", NOUNS)
def test_there_is_no_cycle(shipped: Parsed, noun: str) -> None:
    shipped.dags[f"movielens_{noun}"].check_cycle()


@pytest.mark.parametrize("noun", ["startup", "retrain"])
class TestTheThreePipelineTasks:
    def test_are_setup_work_and_teardown(self, shipped: Parsed, noun: str) -> None:
        tasks = shipped.dags[f"movielens_{noun}"].task_dict
        assert [t for t in tasks if tasks[t].is_setup] == ["take_lease", "train.submit"]
        assert sorted(t for t in tasks if tasks[t].is_teardown) == ["release_lease", "train.cancel_if_active"]

    def test_stay_in_their_worker_while_they_wait_on_one_machine(self, shipped: Parsed, noun: str) -> None:
        assert getattr(shipped.dags[f"movielens_{noun}"].task_dict["train.wait"], "mode", None) == "poke"

    def test_hold_no_worker_while_they_wait_where_workers_are_shared(
        self, parse: Parse, dags_folder: Path, monkeypatch: pytest.MonkeyPatch, noun: str
    ) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
        dags = parse(dags_folder).dags
        assert getattr(dags[f"movielens_{noun}"].task_dict["train.wait"], "mode", None) == "reschedule"


class TestAssets:
    def outlets(self, dag: DAG) -> dict[str, list[tuple[str, str]]]:
        outlets = {t.task_id: [(a.name, a.uri) for a in t.outlets] for t in dag.tasks}
        return {task_id: found for task_id, found in outlets.items() if found}

    def test_the_gate_tells_of_interactions_and_the_announcement_of_a_champion(self, shipped: Parsed) -> None:
        assert self.outlets(shipped.dags["movielens_retrain"]) == {
            "gate": [("movielens-v1-interactions", "x-banditloop://movielens-v1/interactions")],
            "announce_champion": [("movielens-v1-champion", "x-banditloop://movielens-v1/champion")],
        }

    def test_whatever_changes_the_champion_announces_it(self, shipped: Parsed) -> None:
        champion = ("movielens-v1-champion", "x-banditloop://movielens-v1/champion")
        assert self.outlets(shipped.dags["movielens_startup"]) == {"announce_champion": [champion]}
        assert self.outlets(shipped.dags["movielens_rollback"]) == {"promote": [champion]}


class TestTheForms:
    def test_retrain_offers_these_fields_with_the_defaults_of_the_yaml(
        self, shipped: Parsed, movielens: Bandit
    ) -> None:
        assert shipped.dags["movielens_retrain"].params.dump() == {
            "skip_gate": False,
            "min_new_interactions": movielens.retrain.min_new_interactions,
            "full_retrain": False,
            "agent_alpha": movielens.agent.agent_alpha,
            "tikhonov_weight": movielens.agent.tikhonov_weight,
            "half_life": movielens.agent.half_life,
            "enable_caching": True,
        }

    def test_every_field_is_typed_titled_and_described(self, shipped: Parsed) -> None:
        for dag in shipped.dags.values():
            for name in dag.params:
                param = dag.params.get_param(name)
                assert param.schema.get("type"), f"{dag.dag_id}: param {name} has no type"
                assert param.schema.get("title"), f"{dag.dag_id}: param {name} has no title"
                assert param.description, f"{dag.dag_id}: param {name} has no description"

    @pytest.mark.parametrize(
        ("noun", "name", "bad"),
        [
            ("retrain", "min_new_interactions", 0),
            ("retrain", "min_new_interactions", "many"),
            ("retrain", "agent_alpha", -0.1),
            ("retrain", "tikhonov_weight", 0),
            ("retrain", "skip_gate", "yes"),
            ("startup", "source", "guess"),
            ("startup", "rounds", 1.5),
            ("simulate", "concurrency", 257),
            ("rollback", "version", "the good one"),
            ("teardown", "confirm", ""),
        ],
    )
    def test_a_value_that_breaks_its_rule_is_refused(self, shipped: Parsed, noun: str, name: str, bad: Any) -> None:
        from airflow.sdk.exceptions import ParamValidationError

        with pytest.raises(ParamValidationError):
            shipped.dags[f"movielens_{noun}"].params.get_param(name).__copy__().resolve(bad)


@pytest.mark.parametrize("noun", NOUNS)
def test_templates_render_from_tasks_that_ran_before(shipped: Parsed, noun: str) -> None:
    """No task of ours uses Jinja: values travel typed, as XCom references, and only from upstream."""
    from airflow.sdk.definitions.xcom_arg import XComArg

    from bandit_ops.task import BanditTask

    for task in shipped.dags[f"movielens_{noun}"].tasks:
        for field in set(task.template_fields) - set(BanditTask.template_fields):
            value = getattr(task, field)
            assert isinstance(value, XComArg), f"{task.task_id}.{field} is {value!r}"
            sources = {source.task_id for source, _ in value.iter_references()}
            assert sources <= task.get_flat_relative_ids(upstream=True), f"{task.task_id}.{field} reads {sources}"


def test_dags_survive_serialization(shipped: Parsed) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in shipped.dags.values():
        again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        assert again.task_ids == dag.task_ids


def test_the_recurring_dag_is_continuous_and_only_simulation_waits_for_a_switch(shipped: Parsed) -> None:
    assert {dag.dag_id: str(dag.schedule) for dag in shipped.dags.values()} == {
        "movielens_startup": "None",
        "movielens_retrain": "@continuous",
        "movielens_simulate": "None",
        "movielens_rollback": "None",
        "movielens_teardown": "None",
    }


def test_dag_files_are_short(repo: Path) -> None:
    for path in [*(repo / "dags").glob("*.py"), *(repo / "plugins/bandit_ops/airflow_dags").glob("*.py")]:
        lines = len(path.read_text().splitlines())
        assert lines <= 60, f"{path.name} has {lines} lines; WHEN fits into 60, move HOW to plugins/bandit_ops"
