"""The policy artefact: a folder that says what it is, proves it is whole, and scores without TensorFlow.

    manifest.json            agent, lineage, versions, checksums of all other files, probes
    statistics.npz           a [K, d, d], b [K, d], n [K], float64: what scores are computed from
    block-<low>-<high>.npz   the statistics of each window trained now, kept apart and by fold

What TensorFlow needs of a promoted version lies apart (`rl_core/stages/exporter.py`).
There is no clock in it: equal inputs give equal statistics, blocks and probes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from rl_core.backends.contracts.registry import WindowRef
from rl_core.backends.contracts.store import Window
from rl_core.bandit.blocks import Block
from rl_core.bandit.linucb import Statistics
from rl_core.config import Agent
from rl_core.dataset.action_set import ActionSet
from rl_core.errors import PolicyError
from rl_core.feature_config import Features
from rl_core.features.catalogue import Catalogue
from rl_core.features.encoder import Encoder
from rl_core.files import write_atomically
from rl_core.policy.manifest import MANIFEST, Manifest, read_manifest, sha256, verify
from rl_core.policy.probes import check_probes, make_probes
from rl_core.policy.solving import Model, Recipe
from rl_core.problem_config import Problem

STATISTICS = "statistics.npz"

__all__ = [
    "MANIFEST",
    "STATISTICS",
    "Manifest",
    "Policy",
    "block_name",
    "misfit",
    "read_manifest",
    "redefined",
    "write_artefact",
]


@dataclass(frozen=True)
class Policy:
    """A loaded and verified artefact; server, evaluator and endpoint score with it.

    `actions` are the ids that scores and statistics are of, in their order: the problem's where one was given.
    `features` are the named ones that it reads, as they were declared when it was trained.
    """

    manifest: Manifest
    model: Model
    actions: tuple[str, ...]
    statistics: Statistics
    features: Features = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, problem: Problem | None = None) -> Self:
        """Verify every checksum, rebuild the scores, check the probes and, if given, fit it to the problem's actions.

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
        statistics, actions = _statistics(path, manifest), manifest.actions
        model = manifest.recipe().solve(statistics, actions, actions)
        check_probes(path / MANIFEST, manifest.probes, model)
        if problem is None:
            return cls(manifest, model, actions, statistics, manifest.features)
        recipe = manifest.recipe(problem)
        described = manifest.hyperparameters.model != "disjoint" and recipe.catalogue != manifest.catalogue
        if described or not set(problem.actions) <= set(actions):
            model = recipe.solve(statistics, actions, problem.actions)
        elif problem.actions != actions:
            model = model.taken([actions.index(action) for action in problem.actions])
        features = manifest.features or problem.features
        return cls(manifest, model, problem.actions, statistics.aligned(actions, problem.actions), features)

    @property
    def observation_version(self) -> str:
        """How what it scores is made of what was sent."""
        return self.manifest.observation_version

    @property
    def retired(self) -> tuple[str, ...]:
        """Names of features that only policies before it read."""
        return self.manifest.retired

    @cached_property
    def encoder(self) -> Encoder:
        """What makes features of the observations that it scores."""
        return self.manifest.encodes

    @cached_property
    def lists(self) -> frozenset[str]:
        """The lists of actions, by `action_set_version`, that it or one of its ancestors was trained with."""
        return frozenset(self.manifest.named_sets)

    def scores(self, observations: npt.NDArray[np.floating], largest: float = np.inf) -> npt.NDArray[np.float64]:
        """Return upper confidence bounds [n, K] of observations [n, d]; the best action is the first of the highest.

        `largest` is as of `Encoder.encode`.
        """
        return self.model.scores(self.encoder.encode(observations, largest))

    def means(self, observations: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the expected rewards [n, K] of observations [n, d]."""
        return self.model.means(self.encoder.encode(observations))


def write_artefact(
    out: Path,
    problem: Problem,
    agent: Agent,
    statistics: Statistics,
    blocks: Sequence[Block] = (),
    *,
    scale: npt.NDArray[np.float64] | None = None,
    actions: Sequence[str] | None = None,
    encoder: Encoder | None = None,
    catalogue: Catalogue | None = None,
    features: npt.NDArray[np.floating] | None = None,
    action_sets: Mapping[str, ActionSet] | None = None,
    retired: Iterable[str] = (),
    parent: str | None = None,
    inherited: Sequence[WindowRef] = (),
    code_digest: str = "",
) -> Manifest:
    """Write statistics, blocks and manifest into `out`.

    Args:
        statistics: what `blocks` (of the windows trained now) and the `inherited` windows add up to.
        scale: the size of each feature, to which λ is relative; None: λ is absolute.
        actions: the id of each of its actions; None: the problem's.
        encoder: made the features it was trained on; None: one without ranges.
        catalogue: what is known of the actions, for a model that shares.
        features: [n, d] that it was trained on, to choose probes from; None: random ones.
        action_sets: what the lineage's rows may name beside the problem's own list.
        retired: names of features that policies before it read.
    """
    out.mkdir(parents=True, exist_ok=True)
    encoder = encoder or Encoder.of(problem)
    known = tuple(problem.actions if actions is None else actions)
    model = Recipe(agent, scale, catalogue).solve(statistics, known, known)
    statistics.save(out / STATISTICS)
    trained = []
    for block in blocks:
        name = block_name((block.seq_low, block.seq_high))
        block.save(out / name)
        trained.append(WindowRef(block.seq_low, block.seq_high, sha256((out / name).read_bytes())))
    files = sorted(f for f in out.rglob("*") if f.is_file() and f != out / MANIFEST)
    own = {problem.action_set_version: ActionSet(actions=problem.actions, inactive=problem.inactive)}
    manifest = Manifest(
        hyperparameters=agent,
        observation_dim=problem.observation_dim,
        observation_version=problem.observation_version,
        features=problem.features,
        retired=tuple(name for name in retired if name not in problem.features),
        action_set_version=problem.action_set_version,
        actions=known,
        action_sets={**(action_sets or {}), **own},
        encoder=encoder,
        scale=None if scale is None else tuple(scale.tolist()),
        catalogue=catalogue,
        rewards=(problem.reward_min, problem.reward_max, problem.reward_default),
        parent=parent,
        windows=tuple(sorted((*inherited, *trained), key=lambda ref: ref.seq_low)),
        trained=tuple((ref.seq_low, ref.seq_high) for ref in trained),
        code_digest=code_digest,
        probes=make_probes(model, features),
        files={str(f.relative_to(out)): sha256(f.read_bytes()) for f in files},
    )
    write_atomically(out / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def block_name(window: Window) -> str:
    """Name the file of a window's block within an artefact."""
    return f"block-{window[0]}-{window[1]}.npz"


def misfit(manifest: Manifest, problem: Problem) -> str | None:
    """Say in what the policy's problem differs from this one; None where it fits.

    Actions may differ: they are told by their ids. So may the definition of named features, of which it keeps its own.
    """
    if redefined(manifest, problem):
        return None
    # Policies of before keep no definition of their features.
    unsaid = problem.features and not manifest.features and "@" in manifest.observation_version
    once = "; declare features as before and retrain once, then they may be declared anew" if unsaid else ""
    for name in ("observation_dim", "observation_version"):
        of_policy, of_problem = getattr(manifest, name), getattr(problem, name)
        if of_policy != of_problem:
            return f"{name} is {of_policy!r} but the bandit's is {of_problem!r}{once}"
    return None


def redefined(manifest: Manifest, problem: Problem) -> bool:
    """Tell whether the problem declares its named features otherwise than when the policy was trained.

    It serves by its own definition until a policy takes its place that was trained on the whole log by the new one.
    """
    own = manifest.features and problem.features
    return bool(own) and manifest.observation_version != problem.observation_version


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
    expected = (len(manifest.actions), manifest.encodes.width)
    if statistics.b.shape != expected:
        raise PolicyError(
            f"{path / STATISTICS}: holds [actions, dims] {statistics.b.shape}, the manifest says {expected}; "
            "statistics and manifest don't belong together"
        )
    return statistics
