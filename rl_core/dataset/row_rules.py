"""The rules that a row of the log must keep to train.

RULES stand in the order in which they are asked: a row's reason is the first that it breaks, and each rule may rely on
those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.config import Bandit, Problem
from rl_core.schema import UNIFORM

COLUMNS = (
    "seq",
    "event_id",
    "policy_version",
    "observation",
    "observation_version",
    "action",
    "action_set_version",
    "eligible_actions",
    "propensity",
    "epsilon",
    "reward",
)
_ROUNDING = 1e-9  # of a propensity: sums of a few float64

Wrong = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """One rule: as a sentence (`says`), as a mask [n] of rows that break it (`wrong`), and what mends it (`remedy`)."""

    name: str
    says: Callable[[Problem], str]
    wrong: Callable[[Batch], Any]
    remedy: str = "mend what writes such rows"


class Batch:
    """n rows of the log as arrays, made once for all rules and for the dataset."""

    def __init__(self, table: pa.Table, bandit: Bandit, policies: Collection[str]) -> None:
        self.table = table
        self.problem = bandit.problem
        self.policies = policies
        self.others = bandit.validation.other_policies

    def values(self, name: str) -> NDArray[Any]:
        """Return a column without nulls, [n]."""
        column: NDArray[Any] = self.table[name].to_numpy()
        return column

    def lengths(self, name: str) -> NDArray[Any]:
        """Return the length of each row's list in a column, [n]."""
        found: NDArray[Any] = pc.list_value_length(self.table[name]).to_numpy()
        return found

    def any_of(self, name: str, wrong: Callable[[NDArray[Any]], Wrong], nothing: Any) -> Wrong:
        """Mark rows [n] whose list holds an element that is `wrong`; `nothing` stands for a null among them."""
        bad = wrong(pc.fill_null(pc.list_flatten(self.table[name]), nothing).to_numpy())
        rows = np.zeros(self.table.num_rows, np.bool_)
        if bad.any():
            rows[np.repeat(np.arange(len(rows)), self.lengths(name))[bad]] = True
        return rows

    @cached_property
    def observation(self) -> NDArray[np.float32]:
        """Return the observations, [n, d] float32."""
        flat: NDArray[np.float32] = pc.list_flatten(self.table["observation"]).to_numpy()
        return flat.reshape(-1, self.problem.observation_dim)

    @cached_property
    def eligible(self) -> Wrong:
        """Return which actions could have been chosen, a mask [n, K]."""
        mask = np.zeros((self.table.num_rows, self.problem.num_actions), np.bool_)
        row = np.repeat(np.arange(len(mask)), self.lengths("eligible_actions"))
        mask[row, pc.list_flatten(self.table["eligible_actions"]).to_numpy()] = True
        return mask


def _version(name: str) -> Rule:
    return Rule(
        name,
        lambda problem: f"{name} must be {getattr(problem, name)!r}",
        lambda batch: pc.not_equal(batch.table[name], getattr(batch.problem, name)).to_numpy(),
        "raise pipe_version and run startup, or correct the problem in the bandit's YAML",
    )


def _no_floor(batch: Batch) -> Wrong:
    """A policy mixed with a uniform floor gives no action less than ε/K, and none more than what is left."""
    epsilon, propensity = batch.values("epsilon"), batch.values("propensity")
    share = epsilon / batch.eligible.sum(axis=1)
    within = (propensity >= share - _ROUNDING) & (propensity <= 1.0 - epsilon + share + _ROUNDING)
    if batch.others:
        within |= pc.is_in(batch.table["policy_version"], pa.array(batch.others, pa.string())).to_numpy()
    broken: Wrong = ~within
    return broken


def _between(values: NDArray[Any], low: float, high: float) -> Wrong:
    inside: Wrong = (values >= low) & (values <= high)
    return inside


RULES: tuple[Rule, ...] = (
    _version("observation_version"),
    _version("action_set_version"),
    Rule(
        "policy_version",
        lambda problem: (
            f"policy_version must be {UNIFORM!r}, one that the registry knows, or one of validation.other_policies"
        ),
        lambda batch: ~pc.is_in(batch.table["policy_version"], pa.array(batch.policies, pa.string())).to_numpy(),
        "list the policies of an imported log under validation.other_policies in the bandit's YAML",
    ),
    Rule(
        "observation_dim",
        lambda problem: f"observation must hold {problem.observation_dim} numbers",
        lambda batch: batch.lengths("observation") != batch.problem.observation_dim,
    ),
    Rule(
        "observation_finite",
        lambda problem: "observation must be finite",
        lambda batch: ~np.isfinite(batch.observation).all(axis=1),
    ),
    Rule(
        "action",
        lambda problem: f"action must lie in 0..{problem.num_actions - 1}",
        lambda batch: ~_between(batch.values("action"), 0, batch.problem.num_actions - 1),
    ),
    Rule(
        "eligible_actions",
        lambda problem: f"eligible_actions must hold at least one of 0..{problem.num_actions - 1}, and no other",
        lambda batch: (
            (batch.lengths("eligible_actions") == 0)
            | batch.any_of("eligible_actions", lambda index: ~_between(index, 0, batch.problem.num_actions - 1), -1)
        ),
    ),
    Rule(
        "action_eligible",
        lambda problem: "action must be one of eligible_actions",
        lambda batch: ~batch.eligible[np.arange(batch.table.num_rows), batch.values("action")],
    ),
    Rule(
        "propensity",
        lambda problem: "propensity must lie in (0, 1]",
        lambda batch: ~((batch.values("propensity") > 0) & (batch.values("propensity") <= 1)),
    ),
    Rule(
        "propensity_floor",
        lambda problem: "propensity must lie in epsilon/K..1 - epsilon + epsilon/K, for K eligible actions",
        _no_floor,
    ),
    Rule(
        "reward",
        lambda problem: f"reward must lie in {problem.reward_min:g}..{problem.reward_max:g}",
        lambda batch: ~_between(batch.values("reward"), batch.problem.reward_min, batch.problem.reward_max),
        "mend what writes such rows, or correct the bounds in the bandit's YAML",
    ),
)
TWICE = Rule("duplicate", lambda problem: "event_id must be that of one row", lambda batch: None)
"""Asked last, across the parts: the first by seq is kept."""
