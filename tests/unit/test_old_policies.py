"""A new server reads old policies: `tests/data/policies/v1` was written by the code of November 2026 and never changes.

It is a policy of two windows, (0, 200] kept by a registry and (200, 300] beside it, with a half-life of 500. When the
format changes, add a folder `v2` and keep this one readable; a server that can't read its champion serves nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rl_core.bandit.blocks import Block
from rl_core.config import Bandit
from rl_core.policy.artefact import Policy
from rl_core.problem_config import Problem
from rl_core.serving.policies import OneArtefact

DATA = Path(__file__).parents[1] / "data"
OLD = DATA / "policies" / "v1"
PROBLEM = Problem(
    observation_dim=4,
    observation_version="users-v1",
    actions=("a", "b", "c"),
    action_set_version="letters-v1",
    reward_min=-10,
    reward_max=10,
    reward_default=0,
)


def test_it_loads_with_checksums_and_probes() -> None:
    manifest = Policy.load(OLD, PROBLEM).manifest
    assert manifest.parent == "letters-v1-0001"
    assert [(ref.seq_low, ref.seq_high) for ref in manifest.windows] == [(0, 200), (200, 300)]
    assert manifest.trained == ((200, 300),)
    assert manifest.hyperparameters.half_life == 500.0
    assert len(manifest.probes.actions) == 8


def test_it_scores_as_on_the_day_it_was_trained() -> None:
    observations = np.array([[1, 0, 0, 0], [0.5, -0.5, 2, 1]], dtype=np.float32)
    expected = [
        [0.06825901456036512, -0.05910558897742005, 0.017218232249108435],
        [0.09301192096314313, -0.34167360835403454, 0.14538317370544168],
    ]
    assert Policy.load(OLD, PROBLEM).scores(observations) == pytest.approx(np.array(expected), rel=1e-9)


def test_a_server_takes_it() -> None:
    champion = OneArtefact(OLD, PROBLEM).snapshot.champion
    assert champion is not None
    assert isinstance(champion.policy, Policy)
    assert champion.policy.manifest.action_set_version == "letters-v1"


def test_its_block_can_be_learnt_on_from() -> None:
    block = Block.load(OLD / "block-200-300.npz")
    assert (block.seq_low, block.seq_high, block.half_life) == (200, 300, 500.0)
    assert sum(fold.n.sum() for fold in block.folds) == pytest.approx(93.4, abs=0.1)


@pytest.mark.parametrize("name", ["local", "gcp"])
def test_the_bandit_in_a_running_jobs_parameters_is_still_read(name: str) -> None:
    """Steps of a run that was submitted before an update, and containers told by BANDIT_DEFINITION, hold such JSON."""
    bandit = Bandit.from_json((DATA / "bandits" / f"v1-{name}.json").read_text())
    assert (bandit.id, bandit.backend) == ("movielens-v1", name)
