"""The policy artefact: a folder that says what it is, proves it is whole, and scores without TensorFlow.

    manifest.json            agent, lineage, versions, checksums of all other files, probes
    statistics.npz           a [K, d, d], b [K, d], n [K], float64: what scores are computed from
    block-<low>-<high>.npz   the statistics of each window trained now, kept apart and by fold
    saved_model/             the same policy for TensorFlow (`rl_core.policy.saved_model`)

There is no clock in it: equal inputs give equal statistics, blocks and probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from rl_core.backends.contracts.registry import WindowRef
from rl_core.backends.contracts.store import Window
from rl_core.bandit.blocks import Block
from rl_core.bandit.linucb import LinUCB, Statistics
from rl_core.config import Agent, Problem
from rl_core.errors import PolicyError
from rl_core.files import write_atomically
from rl_core.policy.manifest import MANIFEST, Manifest, read_manifest, sha256, verify
from rl_core.policy.probes import check_probes, make_probes

STATISTICS = "statistics.npz"
SAVED_MODEL = "saved_model"

__all__ = [
    "MANIFEST",
    "SAVED_MODEL",
    "STATISTICS",
    "Manifest",
    "Policy",
    "block_name",
    "misfit",
    "read_manifest",
    "write_artefact",
]


@dataclass(frozen=True)
class Policy:
    """A loaded and verified artefact; server, evaluator and endpoint score with it."""

    manifest: Manifest
    linucb: LinUCB

    @classmethod
    def load(cls, path: Path, problem: Problem | None = None) -> Self:
        """Verify every checksum, rebuild the scores, check the probes and, if given, that it fits the problem.

        Raises:
            PolicyError: names the file and what differs.
        """
        manifest = read_manifest(path)
        if problem is not None and (difference := misfit(manifest, problem)) is not None:
            raise PolicyError(
                f"{path / MANIFEST}: {difference}; correct the YAML, or raise pipe_version and run startup"
            )
        for name, digest in manifest.files.items():
            verify(path / name, digest)
        agent = manifest.hyperparameters
        linucb = LinUCB(_statistics(path, manifest), agent.agent_alpha, agent.tikhonov_weight)
        check_probes(path / MANIFEST, manifest.probes, linucb)
        return cls(manifest, linucb)

    def scores(self, observations: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return upper confidence bounds [n, K] of observations [n, d]; the best action is the first of the highest."""
        return self.linucb.scores(observations)


def write_artefact(
    out: Path,
    problem: Problem,
    agent: Agent,
    statistics: Statistics,
    blocks: Sequence[Block] = (),
    *,
    parent: str | None = None,
    inherited: Sequence[WindowRef] = (),
    code_digest: str = "",
) -> Manifest:
    """Write statistics, blocks and manifest into `out`, next to `out/saved_model` if that was exported before.

    `statistics` is what `blocks` (of the windows trained now) and the `inherited` windows add up to.

    Raises:
        PolicyError: every action scores alike, so that no probe can tell this policy from a broken one.
    """
    out.mkdir(parents=True, exist_ok=True)
    statistics.save(out / STATISTICS)
    trained = []
    for block in blocks:
        name = block_name((block.seq_low, block.seq_high))
        block.save(out / name)
        trained.append(WindowRef(block.seq_low, block.seq_high, sha256((out / name).read_bytes())))
    files = sorted(f for f in out.rglob("*") if f.is_file() and f != out / MANIFEST)
    manifest = Manifest(
        hyperparameters=agent,
        observation_dim=problem.observation_dim,
        observation_version=problem.observation_version,
        action_set_version=problem.action_set_version,
        actions=problem.actions,
        parent=parent,
        windows=tuple(sorted((*inherited, *trained), key=lambda ref: ref.seq_low)),
        trained=tuple((ref.seq_low, ref.seq_high) for ref in trained),
        code_digest=code_digest,
        probes=make_probes(LinUCB(statistics, agent.agent_alpha, agent.tikhonov_weight), problem.observation_dim),
        files={str(f.relative_to(out)): sha256(f.read_bytes()) for f in files},
    )
    write_atomically(out / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def block_name(window: Window) -> str:
    """Name the file of a window's block within an artefact."""
    return f"block-{window[0]}-{window[1]}.npz"


def misfit(manifest: Manifest, problem: Problem) -> str | None:
    """Say in what the policy's problem differs from this one; None where it fits."""
    for field in ("observation_dim", "observation_version", "action_set_version"):
        of_policy, of_problem = getattr(manifest, field), getattr(problem, field)
        if of_policy != of_problem:
            return f"{field} is {of_policy!r} but the bandit's is {of_problem!r}"
    for index, (of_policy, of_problem) in enumerate(zip_longest(manifest.actions, problem.actions)):
        if of_policy != of_problem:
            return f"action {index} is {of_policy!r} but the bandit's is {of_problem!r} in the same action_set_version"
    return None


def another_problem(version: str, difference: str) -> str:
    """Say that a champion can't be compared with, and the way on; `difference` is what `misfit` says."""
    return (
        f"the champion {version} answers another problem: its {difference}; there is nothing to compare with. "
        "Raise pipe_version and run startup, or correct the problem in the bandit's YAML"
    )


def _statistics(path: Path, manifest: Manifest) -> Statistics:
    if STATISTICS not in manifest.files:
        raise PolicyError(f"{path / MANIFEST}: lists no {STATISTICS}; there is nothing to score from")
    statistics = Statistics.load(path / STATISTICS)
    expected = (len(manifest.actions), manifest.observation_dim)
    if statistics.b.shape != expected:
        raise PolicyError(
            f"{path / STATISTICS}: holds [actions, dims] {statistics.b.shape}, the manifest says {expected}; "
            "statistics and manifest don't belong together"
        )
    return statistics
