"""The policy artefact: what is written loads and scores equally; what is damaged or foreign is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rl_core.backends.contracts.registry import WindowRef
from rl_core.bandit.blocks import Block, Meaning, combine, make_block
from rl_core.bandit.linucb import LinUCB, Statistics
from rl_core.config import Agent
from rl_core.errors import PolicyError
from rl_core.policy.artefact import MANIFEST, STATISTICS, Manifest, Policy, write_artefact
from rl_core.problem_config import Problem

PROBLEM = Problem(
    observation_dim=4,
    observation_version="users-v1",
    actions=("a", "b", "c"),
    action_set_version="letters-v1",
    reward_min=-10,
    reward_max=10,
    reward_default=0,
)
AGENT = Agent(agent_alpha=0.2, tikhonov_weight=0.01)


def _block(rows: int = 300) -> Block:
    rng = np.random.default_rng(7)
    return make_block(
        rng.standard_normal((rows, 4)).astype(np.float32),
        rng.integers(0, 3, rows),
        rng.standard_normal(rows),
        np.arange(1, rows + 1),
        rng.integers(0, 5, rows),
        (0, rows),
        AGENT.half_life,
        num_actions=3,
        meaning=Meaning(PROBLEM.observation_version, PROBLEM.actions),
    )


def _write(out: Path, **more: object) -> Manifest:
    block = _block()
    return write_artefact(out, PROBLEM, AGENT, combine([block], 300), [block], **more)  # type: ignore[arg-type]


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    _write(tmp_path / "policy", parent="movielens-v1-0001", code_digest="c0de")
    return tmp_path / "policy"


class TestAnArtefact:
    def test_scores_exactly_as_the_statistics_it_was_written_from(self, artefact: Path) -> None:
        observations = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
        expected = LinUCB.of(combine([_block()], 300), 0.2, 0.01).scores(observations)
        assert np.array_equal(Policy.load(artefact, PROBLEM).scores(observations), expected)

    def test_lists_inherited_windows_before_those_trained_now(self, tmp_path: Path) -> None:
        block = Block(300, 310, 0.0, _block().meaning, _block().folds)
        inherited = (WindowRef(0, 300, "b10c"),)
        written = write_artefact(tmp_path, PROBLEM, AGENT, combine([block], 310), [block], inherited=inherited)
        assert [(ref.seq_low, ref.seq_high) for ref in written.windows] == [(0, 300), (300, 310)]
        assert written.trained == ((300, 310),)
        assert written.windows[1].block == written.files["block-300-310.npz"]

    def test_keeps_its_trained_blocks_loadable(self, artefact: Path) -> None:
        loaded = Block.load(artefact / "block-0-300.npz")
        assert np.array_equal(combine([loaded], 300).a, combine([_block()], 300).a)

    def test_is_byte_for_byte_the_same_for_equal_inputs(self, artefact: Path, tmp_path: Path) -> None:
        _write(tmp_path / "again", parent="movielens-v1-0001", code_digest="c0de")
        assert (artefact / MANIFEST).read_bytes() == (tmp_path / "again" / MANIFEST).read_bytes()

    def test_differs_with_another_parent(self, artefact: Path, tmp_path: Path) -> None:
        _write(tmp_path / "other", parent=None, code_digest="c0de")
        assert (artefact / MANIFEST).read_bytes() != (tmp_path / "other" / MANIFEST).read_bytes()

    def test_probes_are_clear_of_ties(self, artefact: Path) -> None:
        probes = Policy.load(artefact).manifest.probes
        ordered = np.sort(np.asarray(probes.scores), axis=1)
        assert len(probes.actions) == 8
        assert (ordered[:, -1] - ordered[:, -2] > 1e-3).all()

    def test_covers_files_that_were_there_before(self, tmp_path: Path) -> None:
        (tmp_path / "saved_model").mkdir()
        (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"graph")
        assert "saved_model/saved_model.pb" in _write(tmp_path).files

    def test_of_a_policy_that_learnt_nothing_says_so(self, tmp_path: Path) -> None:
        assert not write_artefact(tmp_path, PROBLEM, Agent(agent_alpha=0), Statistics.zeros(3, 4)).probes.clear
        assert Policy.load(tmp_path, PROBLEM).scores(np.ones((1, 4), np.float32)).tolist() == [[0, 0, 0]]


def _edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        held = json.loads((path / MANIFEST).read_text())
        change(held)
        (path / MANIFEST).write_text(json.dumps(held))

    return damage


def _shift_probe(held: dict[str, object]) -> None:
    held["probes"]["scores"][2][1] += 0.01  # type: ignore[index]


def _swap_probe_action(held: dict[str, object]) -> None:
    held["probes"]["actions"][0] = (held["probes"]["actions"][0] + 1) % 3  # type: ignore[index]


def _flip_a_bit(path: Path) -> None:
    content = bytearray((path / STATISTICS).read_bytes())
    content[len(content) // 2] ^= 1
    (path / STATISTICS).write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"manifest\.json: can't be read"),
    "no manifest": (lambda p: (p / MANIFEST).unlink(), r"manifest\.json: can't be read"),
    "empty manifest": (lambda p: (p / MANIFEST).write_text(""), r"manifest\.json: the text: Invalid JSON"),
    "half a manifest": (
        lambda p: (p / MANIFEST).write_text((p / MANIFEST).read_text()[:200]),
        r"manifest\.json: the text: Invalid JSON",
    ),
    "a manifest of another format": (_edit(lambda m: m.update(format=3)), r"manifest\.json: format"),
    "a manifest without checksums": (_edit(lambda m: m.update(files={})), r"lists no statistics\.npz"),
    "a manifest without probes": (
        _edit(lambda m: m.update(probes={"observations": [], "scores": [], "actions": []})),
        r"manifest\.json: probes",
    ),
    "no statistics": (lambda p: (p / STATISTICS).unlink(), r"statistics\.npz: can't be read"),
    "a flipped bit": (_flip_a_bit, r"statistics\.npz: sha256 is"),
    "truncated statistics": (
        lambda p: (p / STATISTICS).write_bytes((p / STATISTICS).read_bytes()[:-100]),
        r"statistics\.npz: sha256 is",
    ),
    "a damaged block": (lambda p: (p / "block-0-300.npz").write_bytes(b""), r"block-0-300\.npz: sha256 is"),
    "another probe score": (_edit(_shift_probe), r"probe 2: action 1 scores"),
    "another probe action": (_edit(_swap_probe_action), r"probe 0: the policy chooses"),
    "another alpha": (
        _edit(lambda m: m["hyperparameters"].update(agent_alpha=0.3)),  # type: ignore[attr-defined]
        r"probe 0: action",
    ),
    "another dimension": (_edit(lambda m: m["encoder"].update(dim=5)), r"statistics\.npz: holds \[actions, dims\]"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_refused_in_one_line_that_names_file_and_difference(
    artefact: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(artefact)
    with pytest.raises(PolicyError, match=says) as refused:
        Policy.load(artefact)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("observation_dim", 5, "observation_dim is 4 but the bandit's is 5"),
        ("observation_version", "users-v2", "observation_version is 'users-v1' but the bandit's is 'users-v2'"),
    ],
)
def test_a_policy_for_another_problem_is_refused(artefact: Path, field: str, value: object, says: str) -> None:
    problem = PROBLEM.model_copy(update={field: value})
    with pytest.raises(PolicyError, match=says):
        Policy.load(artefact, problem)
