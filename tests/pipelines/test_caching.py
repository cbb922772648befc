"""A step runs again where something it depends on has changed, and only there; and the run says which."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bandit_ops.runners.base import JobState
from rl_core.backends import open_backend
from rl_core.environment_config import MovieLens, PythonWorld
from tests.log_rows import at, decision, decisions

if TYPE_CHECKING:
    from tests.pipelines.conftest import World

pytestmark = pytest.mark.process
ALL_CACHED = {"ingester": "SKIPPED", "trainer": "SKIPPED", "evaluator": "SKIPPED"}
ALL_CACHED |= {"deployer": "SUCCEEDED", "exporter": "SUCCEEDED"}
ALL_RAN = dict.fromkeys(ALL_CACHED, "SUCCEEDED")


class TestAnIdenticalSecondRun:
    def test_skips_every_cached_step_and_says_so(self, warm: World) -> None:
        before = warm.calls()
        status = warm.run("identical")
        assert warm.calls() == [*before, "deployer", "exporter"]
        assert warm.steps("identical") == ALL_CACHED
        assert "trainer: cached" in warm.log("identical")
        assert "5 steps, 3 cached" in warm.log("identical")
        assert status.outputs == {"version": "toy-v1-0001", "promoted": True, "reason": "no champion yet"}

    @pytest.mark.long
    def test_of_startup_skips_the_generator_too(self, warm: World) -> None:
        startup = replace(warm, pipeline="startup")
        assert startup.run("born").state is JobState.SUCCEEDED
        assert startup.steps("born") == {"generator": "SUCCEEDED", **ALL_RAN}
        startup.run("born-again")
        assert startup.steps("born-again") == {"generator": "SKIPPED", **ALL_CACHED}

    @pytest.mark.long
    def test_of_startup_asks_the_generator_of_somebodys_class_again(self, warm: World) -> None:
        environment = PythonWorld(kind="python", factory="nowhere:World")  # nobody but the generator imports it
        startup = replace(warm, pipeline="startup", bandit=warm.bandit.model_copy(update={"environment": environment}))
        assert startup.run("theirs").state is JobState.SUCCEEDED
        startup.run("theirs-again")
        assert startup.steps("theirs-again") == {"generator": "SUCCEEDED", **ALL_CACHED}

    def test_under_another_trigger_is_still_identical(self, warm: World) -> None:
        warm.run("by-hand", trigger="manual")
        assert warm.steps("by-hand") == ALL_CACHED

    def test_runs_everything_where_caching_is_off(self, warm: World) -> None:
        warm.run("uncached", enable_caching=False)
        assert warm.steps("uncached") == ALL_RAN


class TestRunsAgain:
    def test_with_another_window(self, warm: World) -> None:
        warm.run("window", windows="[[200, 400]]")
        assert warm.steps("window") == ALL_RAN

    def test_with_another_parameter_from_the_step_that_takes_it(self, warm: World) -> None:
        warm.run("alpha", agent_alpha=1.0)
        assert warm.steps("alpha") == {**ALL_RAN, "ingester": "SKIPPED"}

    def test_with_another_champion(self, warm: World) -> None:
        """Its ranges and actions are the dataset's."""
        warm.run("champion", champion="toy-v1-0001")
        assert warm.steps("champion") == ALL_RAN

    @pytest.mark.parametrize(
        "changed",
        [pytest.param({"prefix": "toy2"}, marks=pytest.mark.long), {"pipe_version": "v2"}],
        ids=["prefix", "pipe_version"],
    )
    def test_under_another_pipeline_name_although_every_input_is_equal(
        self, warm: World, changed: dict[str, str]
    ) -> None:
        other = replace(warm, bandit=warm.bandit.model_copy(update=changed))
        other.run("name", bandit=warm.bandit.job_json())
        assert other.steps("name") == ALL_RAN

    @pytest.mark.parametrize(
        "file",
        [
            pytest.param("rl_core/stages/trainer.py", marks=pytest.mark.long),
            "rl_core/backends/promotion.py",
            pytest.param("pipeline_defs/learning.py", marks=pytest.mark.long),
        ],
    )
    def test_after_a_change_of_code(self, warm: World, tmp_path: Path, file: str) -> None:
        root = tmp_path / "changed"
        shutil.copytree(warm.root, root)
        (root / file).write_text((root / file).read_text() + "\n")
        replace(warm, root=root).run(f"code-{Path(file).stem}")
        assert warm.steps(f"code-{Path(file).stem}") == ALL_RAN

    def test_after_a_change_of_the_locked_dependencies(self, warm: World, tmp_path: Path) -> None:
        root = tmp_path / "changed"
        shutil.copytree(warm.root, root)
        (root / "requirements" / "job.txt").write_text("kfp==2.18.0\n")
        replace(warm, root=root).run("lock")
        assert warm.steps("lock") == ALL_RAN

    def test_on_other_ratings_although_the_path_is_the_same(self, world: World, tmp_path: Path) -> None:
        ratings = tmp_path / "u.data"
        ratings.write_text("1\t1\t5\t881250949\n")
        world = replace(
            world,
            bandit=world.bandit.model_copy(update={"environment": MovieLens()}),
            settings=world.settings.model_copy(update={"movielens_dir": tmp_path}),
        )
        world.run("before")
        ratings.write_text("1\t1\t4\t881250949\n")
        world.run("after")
        assert world.steps("after") == ALL_RAN


class TestAStaleHitIsImpossible:
    def test_after_the_state_of_the_bandit_was_removed(self, warm: World) -> None:
        warm.run("before-removal")
        assert warm.steps("before-removal") == ALL_CACHED
        shutil.rmtree(warm.settings.state_dir(warm.bandit))
        warm.run("after-removal")
        assert warm.steps("after-removal") == ALL_RAN

    @pytest.mark.long
    def test_where_the_cached_output_was_deleted(self, world: World) -> None:
        world.run("before")
        shutil.rmtree(world.settings.home / "cache" / "toy-retrain-v1" / "artifacts" / "before")
        world.run("after")
        assert world.steps("after") == ALL_RAN

    @pytest.mark.parametrize(
        ("what", "harm"),
        [
            pytest.param("gone", lambda file: file.unlink(), id="a file is gone"),
            pytest.param("damaged", lambda file: file.write_bytes(b"x" * file.stat().st_size), id="a file is damaged"),
        ],
    )
    def test_where_a_part_of_the_cached_output_is_not_what_it_was(
        self, warm: World, what: str, harm: Callable[[Path], None]
    ) -> None:
        for file in (warm.settings.home / "cache" / "toy-retrain-v1" / "artifacts").rglob("trainer/**/made-by"):
            harm(file)
        warm.run(what)
        assert warm.steps(what) == {**ALL_RAN, "ingester": "SKIPPED"}
        assert "cached outputs are gone or damaged; the step runs again" in warm.log(what)
        warm.run(f"{what}-healed")
        assert warm.steps(f"{what}-healed") == ALL_CACHED

    @pytest.mark.parametrize(
        ("n", "content"), [*enumerate(["", "[]", '{"dataset": 7', '{"dataset": {"__kfp_artifact__": true}}'])]
    )
    def test_where_the_entry_is_damaged(self, warm: World, n: int, content: str) -> None:
        for entry in (warm.settings.home / "cache" / "toy-retrain-v1" / "entries").iterdir():
            if "/evaluator/" in entry.read_text():
                entry.write_text(content)
        assert warm.run(f"entry-{n}").state is JobState.SUCCEEDED
        assert warm.steps(f"entry-{n}") == {**ALL_CACHED, "evaluator": "SUCCEEDED"}

    def test_after_somebody_was_forgotten(self, warm: World) -> None:
        store = open_backend(warm.bandit, warm.settings).store()
        store.append("decisions", decisions(decision("a", 0, 1), decision("b", 0, 2)))
        store.joiner(warm.bandit).run(at(100))
        warm.run("all-known")
        assert warm.steps("all-known") == ALL_CACHED
        store.forget([], ["b"])
        warm.run("one-forgotten")
        assert warm.steps("one-forgotten") == ALL_RAN
        warm.run("one-forgotten-again")
        assert warm.steps("one-forgotten-again") == ALL_CACHED
        store.forget([], ["a"])
        warm.run("both-forgotten")
        assert warm.steps("both-forgotten") == ALL_RAN

    @pytest.mark.long
    def test_where_the_step_failed(self, world: World) -> None:
        world.behave(trainer="fail")
        world.run("a0")
        world.behave()
        assert world.run("a1").state is JobState.SUCCEEDED
        assert world.steps("a1") == {**ALL_RAN, "ingester": "SKIPPED"}


@pytest.mark.long
def test_two_runs_at_once_fill_one_cache_without_harm(world: World, each_at_once: Callable[..., None]) -> None:
    each_at_once(world.submit, "one", "two")
    assert {world.wait("one").state, world.wait("two").state} == {JobState.SUCCEEDED}
    world.run("three")
    assert world.steps("three") == ALL_CACHED


def test_a_catalogue_of_nine_thousand_actions_runs(world: World) -> None:
    """KFP hands a step its parameters as one argument, and Linux takes 128 KiB for one."""
    problem = world.bandit.problem.model_copy(update={"actions": tuple(f"sku-{n:09d}" for n in range(9000))})
    large = replace(world, bandit=world.bandit.model_copy(update={"problem": problem}))
    assert large.run("large").state is JobState.SUCCEEDED
