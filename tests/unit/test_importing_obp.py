"""Open Bandit Pipeline's data: the arrays of `obtain_batch_bandit_feedback()`, and the Open Bandit Dataset's CSV."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_core.__main__ import run
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.errors import DataError
from rl_core.importing import importer

N, ACTIONS, DIM = 400, 5, 3
RNG = np.random.default_rng(11)


def feedback() -> dict[str, Any]:
    """What the pipeline's datasets return, with the last action never taken."""
    pscore = np.array([0.4, 0.3, 0.2, 0.1])
    action = RNG.choice(4, N, p=pscore)
    return {
        "n_rounds": N,
        "n_actions": ACTIONS,
        "action": action,
        "position": RNG.integers(3, size=N),
        "reward": RNG.integers(2, size=N),
        "pscore": pscore[action],
        "context": RNG.normal(size=(N, DIM)),
        "action_context": RNG.normal(size=(ACTIONS, 2)),
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BANDIT_HOME", str(tmp_path / "home"))
    return tmp_path


def commands(said: str) -> list[list[str]]:
    return [shlex.split(command) for command in re.findall(r"^  banditloop (.*)$", said, re.MULTILINE)]


def test_arrays_become_a_bandit_and_its_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = feedback()
    np.savez(folder / "feedback.npz", **held)
    assert run(["init", "shop", "--from", "feedback.npz", "--out", "."]) == 0
    bandit = Bandit.from_yaml(folder / "shop.yaml")
    assert bandit.problem.actions == ("0", "1", "2", "3", "4"), "all that there are, in their order"
    kinds = {name: feature.kind for name, feature in bandit.problem.features.items()}
    assert kinds == {"context": "vector", "position": "number"}
    for command in commands(capsys.readouterr().out):
        assert run(command) == 0
    assert f"{N} can be imported, 0 set aside" in capsys.readouterr().out
    store = open_backend(bandit, Settings.from_environment()).store()
    rows = store.interactions((0, N), ["action_id", "reward", "propensity", "features"]).to_pydict()
    assert rows["action_id"] == held["action"].astype(str).tolist()
    assert rows["reward"] == held["reward"].tolist()
    assert rows["propensity"] == held["pscore"].tolist()
    assert json.loads(rows["features"][7]) == {"context": held["context"][7].tolist(), "position": held["position"][7]}


def test_a_problem_of_vectors_takes_the_context_as_it_is(
    tmp_path: Path, movielens: Bandit, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    held = feedback()
    problem = movielens.problem.model_copy(
        update={"observation_dim": DIM, "actions": tuple("01234"), "reward_min": 0.0, "reward_max": 1.0}
    )
    rows = movielens.validation.model_copy(update={"other_policies": ("imported",)})
    bandit = movielens.model_copy(update={"problem": problem, "environment": None, "validation": rows})
    np.savez(tmp_path / "feedback.npz", **held)
    assert importer.run(bandit, settings, tmp_path / "feedback.npz") == 0
    store = open_backend(bandit, settings).store()
    logged = store.interactions((0, N), ["observation"])["observation"].to_pylist()
    np.testing.assert_array_equal(np.asarray(logged, np.float32), held["context"].astype(np.float32))


def test_a_feedback_without_positions_saves_none_as_an_object_which_is_not_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(folder / "feedback.npz", **feedback() | {"position": None})
    assert run(["init", "shop", "--from", "feedback.npz", "--out", "."]) == 0
    assert list(Bandit.from_yaml(folder / "shop.yaml").problem.features) == ["context"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no pscore": ({"pscore": None}, r"feedback.npz: not the arrays .*; save it with np.savez\("),
    "a slate": ({"action": np.zeros((N, 3), int)}, r"one row is a round with one action.* action \[400, 3\]"),
    "actions by name": ({"action": np.array(["a"] * N)}, "action holds <U1; it numbers the actions from 0"),
    "rounds that differ": ({"reward": np.zeros(N - 1)}, r"reward \[399\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_arrays_are_refused(tmp_path: Path, movielens: Bandit, settings: Settings, case: str) -> None:
    wrong, said = WRONG[case]
    np.savez(tmp_path / "feedback.npz", **feedback() | wrong)
    rows = movielens.validation.model_copy(update={"other_policies": ("imported",)})
    with pytest.raises(DataError, match=said):
        importer.run(movielens.model_copy(update={"validation": rows}), settings, tmp_path / "feedback.npz")


def test_the_published_csv_needs_no_word(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = [[f"{hash_:032x}" for hash_ in RNG.integers(1 << 60, size=4)] for _ in range(2)]
    with (folder / "all.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        head = ["timestamp", "item_id", "position", "click", "propensity_score", "user_feature_0", "user_feature_1"]
        writer.writerow(["", *head, "user-item_affinity_0"])
        for n in range(N):
            row = [f"2019-11-24 00:{n // 60:02d}:{n % 60:02d}.038034+00:00", n % 8, 1 + n % 3, int(n % 9 == 0), 0.125]
            writer.writerow([n, *row, users[0][n % 4], users[1][n // 4 % 4], n % 2])
    assert run(["init", "zozo", "--from", "all.csv", "--out", "."]) == 0
    problem = Bandit.from_yaml(folder / "zozo.yaml").problem
    assert sorted(problem.actions) == list("01234567")
    kinds = {name: feature.kind for name, feature in problem.features.items()}
    assert kinds == {
        "timestamp": "time",
        "position": "number",
        "user_feature_0": "category",
        "user_feature_1": "category",
        "user_item_affinity_0": "number",
    }
    for command in commands(capsys.readouterr().out):
        assert run(command) == 0
    assert f"{N} can be imported, 0 set aside" in capsys.readouterr().out
