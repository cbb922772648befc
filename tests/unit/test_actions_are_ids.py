"""Actions are their ids: added, withdrawn, reordered and brought back, and what was learnt of one stays with it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rl_core.backends import open_backend
from rl_core.bandit.blocks import Meaning, combine, make_block
from rl_core.config import Agent, Bandit, Settings, Validation
from rl_core.dataset.trajectories import Dataset
from rl_core.errors import DataError, PolicyError
from rl_core.policy.artefact import Policy
from rl_core.policy.verdict import Verdict
from rl_core.problem_config import Problem
from rl_core.schema import INTERACTION_SCHEMA
from rl_core.stages import deployer, evaluator, ingester, trainer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = Agent(agent_alpha=0.2, tikhonov_weight=0.01)
WORLD = {action: np.random.default_rng(n).standard_normal(3) for n, action in enumerate("abcdefz")}
ROWS = 40


def _bandit(movielens: Bandit, actions: Sequence[Any], version: str = "v1", **problem: Any) -> Bandit:
    given = {
        "observation_dim": 3,
        "observation_version": "users-v1",
        "actions": list(actions),
        "action_set_version": "letters",
        "reward_min": -50,
        "reward_max": 50,
        "reward_default": 0,
        **problem,
    }
    return movielens.model_copy(update={"problem": Problem.model_validate(given), "pipe_version": version})


def _log(
    bandit: Bandit,
    settings: Settings,
    seed: int,
    n: int = ROWS,
    form: str = "ids",
    by: str = "uniform",
    source: str = "client",
) -> tuple[int, int]:
    """Append n interactions of a uniform policy over the active actions, under the bandit's own list of them.

    They say what was eligible by `ids`, by their list `alone`, or by `indices`, as logs of before ids do.
    """
    store, problem = open_backend(bandit, settings).store(), bandit.problem
    head, rng = store.head(), np.random.default_rng(seed)
    eligible = [problem.actions.index(action) for action in problem.active]
    rows = []
    for i in range(n):
        action, x = problem.active[rng.integers(len(eligible))], rng.standard_normal(3).astype(np.float32)
        row: dict[str, Any] = dict.fromkeys(INTERACTION_SCHEMA.names)
        row |= dict.fromkeys(("decided_at", "received_at", "closed_at"), NOW)
        row |= {"seq": head + i + 1, "event_id": f"event-{seed}-{i}", "producer": "bus-1", "offset": head + i + 1}
        row |= {"observation": x.tolist(), "observation_version": problem.observation_version}
        row |= {"action_id": action, "action_set_version": problem.action_set_version}
        if form == "indices":
            row |= {"action": problem.actions.index(action), "eligible_actions": eligible}
        if form == "ids":
            row |= {"eligible_action_ids": problem.active}
        row |= {"propensity": 1 / len(eligible), "epsilon": 1.0, "policy_version": by, "source": source}
        row |= {"reward": float(x @ WORLD[action]), "closed_by": "reward", "served": True, "schema_version": 1}
        rows.append(row)
    store.append_interactions(pa.Table.from_pylist(rows, INTERACTION_SCHEMA))
    return head, head + n


def _train(
    bandit: Bandit, settings: Settings, folder: Path, window: tuple[int, int], champion: str | None, full: bool = False
) -> str:
    """Ingest and train the window, and make the policy champion."""
    name = f"{bandit.id}-{window[0]}-{window[1]}-{full}-{champion}"
    data, policy, verdict = (folder / f"{name}-{part}" for part in ("data", "policy", "verdict"))
    ingester.run(bandit, settings, [window], data, champion)
    trainer.run(bandit, settings, data, champion, full, AGENT, policy)
    Verdict(promote=True, reason="not judged", champion=champion, rows=1, metrics={}).save(verdict)
    return deployer.run(bandit, settings, policy, verdict, champion, "manual", name).version


def _policy(bandit: Bandit, settings: Settings, version: str) -> Policy:
    return Policy.load(open_backend(bandit, settings).registry().path(version), bandit.problem)


LISTS = st.permutations("abcdef").flatmap(
    lambda ids: st.integers(2, 6).flatmap(
        lambda count: st.lists(st.booleans(), min_size=count, max_size=count).map(
            lambda off: [
                {"id": action, "active": not gone} if n >= 2 else action
                for n, (action, gone) in enumerate(zip(ids, off, strict=False))
            ]
        )
    )
)


@pytest.mark.slow
@hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(lists=st.lists(LISTS, min_size=2, max_size=4))
def test_any_sequence_of_lists_and_retrainings_is_one_training_with_the_last_list(
    movielens: Bandit, tmp_path_factory: pytest.TempPathFactory, lists: list[list[Any]]
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    settings, champion = Settings(home=folder / "home"), None
    for step, actions in enumerate(lists):
        bandit = _bandit(movielens, actions)
        champion = _train(bandit, settings, folder, _log(bandit, settings, seed=step), champion)
    assert champion is not None
    in_steps = _policy(bandit, settings, champion)
    whole = _train(bandit, settings, folder, (0, ROWS * len(lists)), champion, full=True)
    at_once = _policy(bandit, settings, whole)
    assert np.abs(in_steps.model.theta - at_once.model.theta).max() < 1e-9
    assert np.array_equal(in_steps.statistics.n, at_once.statistics.n)
    assert in_steps.actions == bandit.problem.actions


FORMS = st.sampled_from(["ids", "alone", "indices"])


@pytest.mark.slow
@hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(LISTS, FORMS, st.booleans()), min_size=2, max_size=5))
def test_lists_that_come_and_go_between_two_trainings_lose_nothing(
    movielens: Bandit, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[Any], str, bool]]
) -> None:
    """All actions were trained with once; then lists of some of them, in any order, are served and hardly trained."""
    folder = tmp_path_factory.mktemp("ids")
    settings, at_once = Settings(home=folder / "home"), Settings(home=folder / "at-once")
    first, last = _bandit(movielens, "abcdef"), _bandit(movielens, "fedcba")
    champion, begun = _train(first, settings, folder, _log(first, settings, 99), None), ROWS
    _log(first, at_once, 99)
    for seed, (actions, form, trained) in enumerate([*steps, ("fedcba", "alone", True)]):
        bandit = _bandit(movielens, actions)
        _, head = _log(bandit, settings, seed, form=form)
        _log(bandit, at_once, seed)
        if trained:
            champion, begun = _train(bandit, settings, folder, (begun, head), champion), head
    in_steps = _policy(last, settings, champion)
    whole = _policy(last, at_once, _train(last, at_once, folder / "whole", (0, head), None))
    assert in_steps.statistics.n.sum() == head, "every row counts"
    assert np.array_equal(in_steps.statistics.n, whole.statistics.n)
    assert np.abs(in_steps.model.theta - whole.model.theta).max() < 1e-9


def _ingested(bandit: Bandit, settings: Settings, out: Path, window: tuple[int, int]) -> Dataset:
    ingester.run(bandit, settings, [window], out)
    return Dataset.open(out)


def _rolled_back(before: Bandit, between: Bandit, settings: Settings, folder: Path) -> tuple[str, str, tuple[int, int]]:
    """The version that serves again, the one that was rolled back, and the rows that it decided by its own list."""
    first = _train(before, settings, folder, _log(before, settings, 1), None)
    second = _train(between, settings, folder, _log(between, settings, 2), first)
    return first, second, _log(between, settings, 3, form="alone", by=second)


class TestARow:
    LATER: ClassVar[list[Any]] = [{"id": "c", "active": False}, "b", "d", "a"]
    """The list that is trained with: other actions, in another order than those that were served."""

    @pytest.mark.parametrize("served", ["abc", ["b", {"id": "c", "active": False}, "a"]])
    def test_by_ids_by_its_list_alone_and_by_indices_is_the_same_row_of_the_dataset_and_the_same_sum(
        self, movielens: Bandit, tmp_path: Path, served: Any
    ) -> None:
        bandit, made, sums = _bandit(movielens, served), [], []
        for form in ("ids", "alone", "indices"):
            settings, data, policy = (
                Settings(home=tmp_path / form),
                tmp_path / form / "data",
                tmp_path / form / "policy",
            )
            made.append(_ingested(bandit, settings, data, _log(bandit, settings, 1, form=form)).index)
            trainer.run(bandit, settings, data, None, False, AGENT, policy)
            sums.append((policy / "block-0-40.npz").read_bytes())
        assert made[0] == made[1] == made[2], "windows, actions, and the checksum of every shard"
        assert (sums[0] == sums[1] == sums[2], made[0].unjudged) == (True, 0)

    def test_that_names_ids_is_judged_whatever_became_of_its_list(self, movielens: Bandit, tmp_path: Path) -> None:
        served, settings = _bandit(movielens, "abc"), Settings(home=tmp_path / "home")
        dataset = _ingested(_bandit(movielens, self.LATER), settings, tmp_path, _log(served, settings, 1))
        assert dataset.index.actions == ("c", "b", "d", "a")
        assert all(shard.eligible.tolist() == [[True, True, False, True]] * len(shard) for shard in dataset.read())
        assert (dataset.count(), dataset.index.unjudged, dataset.index.quarantined) == (ROWS, 0, {})

    @pytest.mark.parametrize("form", ["alone", "indices"])
    def test_of_a_list_that_nobody_knows_trains_and_no_policy_is_judged_on_it(
        self, movielens: Bandit, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        served, settings = _bandit(movielens, "abc"), Settings(home=tmp_path / "home")
        dataset = _ingested(_bandit(movielens, self.LATER), settings, tmp_path, _log(served, settings, 1, form=form))
        assert (dataset.count(), dataset.index.unjudged, dataset.index.quarantined) == (ROWS, ROWS, {})
        assert not any(shard.eligible.any() for shard in dataset.read())
        assert f"{ROWS} rows only train" in capsys.readouterr().out

    def test_of_an_action_that_came_and_went_between_two_trainings_is_learnt_from(
        self, movielens: Bandit, tmp_path: Path
    ) -> None:
        settings, later = Settings(home=tmp_path / "home"), _bandit(movielens, "ab")
        dataset = _ingested(later, settings, tmp_path, _log(_bandit(movielens, "abc"), settings, 1))
        assert dataset.index.actions == ("a", "b", "c")
        assert (dataset.count(), dataset.index.unjudged, dataset.index.quarantined) == (ROWS, 0, {})

    def test_beside_which_a_file_names_an_action_that_nobody_knows_is_not_judged_either(
        self, movielens: Bandit, tmp_path: Path
    ) -> None:
        settings, later = Settings(home=tmp_path / "home"), _bandit(movielens, "ab")
        lenient = later.model_copy(update={"validation": Validation(max_quarantined_share=0.9)})
        window = _log(_bandit(movielens, "abc"), settings, 1, source="import")
        dataset = _ingested(lenient, settings, tmp_path, window)
        gone = dataset.index.quarantined["action_id"]
        assert 0 < gone < ROWS, "rows of the action itself wait for it to be listed"
        assert dataset.count() == dataset.index.unjudged == ROWS - gone

    def test_of_a_policy_that_was_rolled_back_means_the_list_that_it_was_trained_with(
        self, movielens: Bandit, tmp_path: Path
    ) -> None:
        settings, before = Settings(home=tmp_path / "home"), _bandit(movielens, "abc")
        first, _, window = _rolled_back(before, _bandit(movielens, "bza"), settings, tmp_path)
        ingester.run(before, settings, [window], tmp_path / "after", first)
        dataset = Dataset.open(tmp_path / "after")
        assert set(dataset.index.actions) == {*"abcz"}
        assert (dataset.count(), dataset.index.unjudged, dataset.index.quarantined) == (ROWS, 0, {})

    def test_of_a_policy_whose_folder_was_removed_trains(self, movielens: Bandit, tmp_path: Path) -> None:
        settings, before = Settings(home=tmp_path / "home"), _bandit(movielens, "ab")
        first, second, window = _rolled_back(before, _bandit(movielens, "bz"), settings, tmp_path)
        shutil.rmtree(open_backend(before, settings).registry().path(second))
        ingester.run(before, settings, [window], tmp_path / "after", first)
        dataset = Dataset.open(tmp_path / "after")
        assert (dataset.count(), dataset.index.unjudged, dataset.index.quarantined) == (ROWS, ROWS, {})

    @pytest.mark.parametrize("form", ["alone", "indices"])
    def test_that_can_not_be_judged_ends_the_run_without_a_verdict(
        self, movielens: Bandit, tmp_path: Path, form: str
    ) -> None:
        served, settings = _bandit(movielens, "abc"), Settings(home=tmp_path / "home")
        later = _bandit(movielens, self.LATER)
        data, policy = tmp_path / "data", tmp_path / "policy"
        _ingested(later, settings, data, _log(served, settings, 1, form=form))
        trainer.run(later, settings, data, None, False, AGENT, policy)
        with pytest.raises(DataError, match="judge: 0, at least 10 are needed; 40 more rows only train"):
            evaluator.run(later, settings, data, policy, None, False, tmp_path / "verdict")
        _ingested(later, settings, data, (0, _log(later, settings, 2)[1]))
        trainer.run(later, settings, data, None, False, AGENT, policy)
        verdict = evaluator.run(later, settings, data, policy, None, False, tmp_path / "verdict")
        assert "the challenger is estimated" in verdict.reason, "it is judged on the others"
        assert "; 40 more rows only train" in verdict.reason
        assert verdict.metrics["unjudged"] == ROWS


class TestAnAction:
    def test_that_is_new_has_the_prior_and_the_others_keep_what_they_learnt(
        self, movielens: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        before = _bandit(movielens, "ab")
        version = _train(before, settings, tmp_path, _log(before, settings, 0), None)
        after = _bandit(movielens, "cba")
        policy, was = _policy(after, settings, version), _policy(before, settings, version)
        assert np.array_equal(policy.model.theta, np.stack([np.zeros(3), *was.model.theta[::-1]]))

    def test_that_is_gone_from_the_list_goes_on_where_it_stood_when_it_returns(
        self, movielens: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        with_it, without = _bandit(movielens, "abc"), _bandit(movielens, "ba")
        first = _train(with_it, settings, tmp_path, _log(with_it, settings, 0), None)
        learnt = _policy(with_it, settings, first).model.theta[2]
        second = _train(without, settings, tmp_path, _log(without, settings, 1), first)
        assert _policy(without, settings, second).model.num_actions == 2
        returned = _policy(with_it, settings, second)
        assert returned.statistics.n[2] == _policy(with_it, settings, first).statistics.n[2]
        assert returned.model.theta[2] == pytest.approx(learnt, rel=0.05)  # λ follows the features' scale, which moved

    def test_index_in_the_dataset_is_the_place_of_its_id(
        self, movielens: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        bandit = _bandit(movielens, ["b", {"id": "c", "active": False}, "a"])
        ingester.run(bandit, settings, [_log(bandit, settings, 0)], tmp_path)
        dataset = Dataset.open(tmp_path)
        assert dataset.index.actions == ("b", "c", "a")
        assert {int(a) for shard in dataset.read() for a in shard.action} == {0, 2}
        assert not any(shard.eligible[:, 1].any() for shard in dataset.read())


class TestTheList:
    def test_is_named_by_a_digest_of_its_ids_and_their_order(self, movielens: Bandit) -> None:
        names = {
            _bandit(movielens, actions).problem.action_set_version
            for actions in ("ab", "ba", "abc", ["a", "b", {"id": "c", "active": False}])
        }
        assert len(names) == 4
        assert all(name.startswith("letters@") for name in names)

    def test_reads_back_from_a_jobs_parameters_as_it_was(self, movielens: Bandit) -> None:
        bandit = _bandit(movielens, ["a", "b", {"id": "c", "active": False}])
        assert Bandit.from_json(bandit.job_json()).problem == bandit.problem

    @pytest.mark.parametrize(
        ("actions", "says"),
        [
            (["a", {"id": "b", "active": False}], "only 1 of 2 actions is active"),
            (["a", "b", {"name": "c"}], "an action is an id, or"),
        ],
    )
    def test_that_can_not_be_chosen_from_is_refused(self, movielens: Bandit, actions: list[Any], says: str) -> None:
        with pytest.raises(ValidationError, match=says):
            _bandit(movielens, actions)


class TestTheUnitOfTheReward:
    def test_is_part_of_a_block_with_the_range_seen(self) -> None:
        x, a = np.eye(2), np.array([0, 1])
        meaning = Meaning("o1", ("a", "b"), "e1", (0.0, 5.0, 0.0))
        block = make_block(x, a, [1.0, 4.5], np.array([1, 2]), a, (0, 2), 0.0, num_actions=2, meaning=meaning)
        assert block.seen == (1.0, 4.5)

    def test_of_blocks_that_are_added_must_be_one(self, movielens: Bandit, settings: Settings, tmp_path: Path) -> None:
        stars = _bandit(movielens, "ab")
        first = _train(stars, settings, tmp_path, _log(stars, settings, 0), None)
        percent = _bandit(movielens, "ab", reward_min=-500, reward_max=500)
        window = _log(percent, settings, 1)
        with pytest.raises(PolicyError, match=r"reward_min, reward_max.*can't be added; if only the bounds changed"):
            _train(percent, settings, tmp_path, window, first)
        assert open_backend(percent, settings).registry().alias("champion") == first

    def test_blocks_of_before_units_were_kept_are_taken_as_they_are(self) -> None:
        x, a = np.eye(2), np.array([0, 1])
        old, new = Meaning("o1", ("a", "b")), Meaning("o1", ("b", "a"), "e1", (0.0, 5.0, 0.0))
        blocks = [
            make_block(x, a, [1.0, 2.0], np.array([low + 1, low + 2]), a, (low, low + 2), 0.0, num_actions=2, meaning=m)
            for low, m in ((0, old), (2, new))
        ]
        assert combine(blocks, 4, actions=("a", "b")).b.tolist() == [[1, 2], [1, 2]]
