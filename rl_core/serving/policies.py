"""The policies that are served: a thread follows the registry's aliases and swaps one reference when one is loaded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.config import Bandit
from rl_core.errors import BanditError
from rl_core.feature_config import Features, names_of
from rl_core.features.encoder import Encoder
from rl_core.features.vectorise import Vectoriser
from rl_core.policy.artefact import Policy
from rl_core.problem_config import Problem
from rl_core.schema import UNIFORM

_log = logging.getLogger(__name__)
POLL_S = 0.1
RETRY_REFUSED_S = 5.0


@dataclass(frozen=True)
class Uniform:
    """Prefers no action: with an exploration floor of 1 every eligible one has the same chance."""

    num_actions: int
    encoder: Encoder
    features: Features
    observation_version: str
    retired: tuple[str, ...] = ()
    lists: frozenset[str] = frozenset()

    def scores(self, observations: NDArray[np.float32], largest: float = np.inf) -> NDArray[np.float64]:
        """Return zeros [n, K] for observations [n, d]."""
        return np.zeros((len(observations), self.num_actions))


@dataclass(frozen=True)
class Served:
    """A policy with its version, as it serves. Args:
    epsilon: its exploration floor; None: serving.epsilon.
    declared: the names of the features that the bandit declares now: they may be sent before a policy reads them.
    """

    version: str
    policy: Policy | Uniform
    epsilon: float | None = None
    declared: Collection[str] = ()

    @cached_property
    def vectoriser(self) -> Vectoriser | None:
        """What makes numbers of named features, as the policy's own definition has it; None where there are none."""
        also = (*self.declared, *self.policy.retired)
        return Vectoriser(self.policy.features, also) if self.policy.features else None

    @cached_property
    def coordinates(self) -> list[str]:
        """What each number is called that named features are made into; [] where there are none."""
        return names_of(self.policy.features)


def served_cold(bandit: Bandit) -> Served | None:
    """Return what serves before the first policy; None where serving.cold_start says to refuse."""
    if bandit.serving.cold_start == "refuse":
        return None
    problem = bandit.problem
    policy = Uniform(problem.num_actions, Encoder.of(problem), problem.features, problem.observation_version)
    return Served(UNIFORM, policy, epsilon=1.0)


def _served(version: str, artefact: Path, problem: Problem) -> Served:
    """Load a policy as it serves. Raises PolicyError."""
    return Served(version, Policy.load(artefact, problem), declared=problem.features)


@dataclass(frozen=True)
class Snapshot:
    """The policies loaded at one moment; a request takes one snapshot and uses it to its end.

    `vacant`: there is nothing to load, since no champion was ever named: a cold start. One that was named and can't be
    loaded is none.
    """

    champion: Served | None = None
    challenger: Served | None = None
    predecessor: Served | None = None
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    vacant: bool = False

    def loaded(self) -> dict[str, Served]:
        """Return the loaded policies by version."""
        present = (served for served in (self.champion, self.challenger, self.predecessor) if served)
        return {served.version: served for served in present}


class Policies(Protocol):
    """A source of policies; the service asks it for the snapshot."""

    @property
    def snapshot(self) -> Snapshot:
        """The policies loaded now."""

    def start(self, on_change: Callable[[], None]) -> None:
        """Load what there is, then follow; `on_change` is called on any thread after the snapshot was replaced."""

    def close(self) -> None:
        """Stop following."""


class OneArtefact:
    """Serves the artefact folder that `AIP_STORAGE_URI` names, as `version` or the folder's name.

    Raises:
        PolicyError: the artefact is damaged.
    """

    def __init__(self, artefact: Path, problem: Problem, version: str | None = None) -> None:
        self.snapshot = Snapshot(champion=_served(version or artefact.name, artefact, problem))

    def start(self, on_change: Callable[[], None]) -> None:
        pass

    def close(self) -> None:
        pass


class RegistryWatcher:
    """Loads champion and challenger as the registry names them, and keeps the champion's predecessor.

    A version that can't be loaded is refused with its reason and tried again every few seconds while an alias names it;
    the champion before it goes on serving. An alias that disappears changes nothing.

    Args:
        poll_s: seconds between two looks at the aliases.
    """

    def __init__(self, registry: PolicyRegistry, problem: Problem, poll_s: float = POLL_S) -> None:
        self.snapshot = Snapshot()
        self._registry = registry
        self._problem = problem
        self._poll_s = poll_s
        self._on_change: Callable[[], None] = lambda: None
        self._pointers: tuple[str | None, str | None] | None = None
        self._retry_at = float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policies", daemon=True)

    def start(self, on_change: Callable[[], None]) -> None:
        self.poll()
        self._on_change = on_change
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.poll()

    def poll(self) -> None:
        """Look at the aliases once; load and swap where they moved."""
        try:
            pointers = self._registry.alias("champion"), self._registry.alias("challenger")
        except (BanditError, OSError) as error:
            _log.warning("the registry can't be read, the policies stay as they are: %s", error)
            return
        if pointers == self._pointers and time.monotonic() < self._retry_at:
            return
        before = self.snapshot
        after = self._follow(before, *pointers)
        self._pointers = pointers
        self._retry_at = time.monotonic() + RETRY_REFUSED_S if after.refused else float("inf")
        self.snapshot = after
        for version, reason in after.refused.items():
            if before.refused.get(version) != reason:
                _log.error("policy %s refused: %s", version, reason)
        if after.champion is not before.champion and after.champion is not None:
            _log.info("champion is %s", after.champion.version)
        if after.vacant and not before.vacant:
            _log.info("no champion yet, a cold start: see serving.cold_start")
        self._on_change()

    def _follow(self, now: Snapshot, champion: str | None, challenger: str | None) -> Snapshot:
        refused: dict[str, str] = {}
        loaded = now.loaded()
        for version in (champion, challenger):
            if version is not None and version not in loaded and version not in refused:
                try:
                    loaded[version] = _served(version, self._registry.path(version), self._problem)
                except Exception as error:  # whatever a damaged artefact raises, serving goes on
                    refused[version] = str(error) if isinstance(error, BanditError) else repr(error)
        next_one = loaded.get(champion, now.champion) if champion is not None else now.champion
        after = replace(
            now,
            champion=next_one,
            challenger=loaded.get(challenger) if challenger is not None else None,
            refused=MappingProxyType(refused),
            vacant=champion is None and next_one is None,
        )
        if next_one is not now.champion and now.champion is not None:
            after = replace(after, predecessor=now.champion)
        return after
