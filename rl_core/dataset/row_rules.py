"""The rules that a row of the log must keep to train.

RULES stand in the order in which they are asked: a row's reason is the first that it breaks, and each rule may rely on
those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.dataset.eligibility import Eligibility, Lists
from rl_core.features.encoder import Encoder
from rl_core.features.vectorise import Vectoriser
from rl_core.problem_config import Problem
from rl_core.schema import UNIFORM

COLUMNS = (
    "seq",
    "event_id",
    "policy_version",
    "observation",
    "observation_version",
    "features",
    "action_id",
    "action",
    "action_set_version",
    "eligible_actions",
    "eligible_action_ids",
    "propensity",
    "epsilon",
    "reward",
)
_ROUNDING = 1e-9  # of a propensity: sums of a few float64

_NO_INDEX = -(2**31)

Wrong = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """One rule: as a sentence (`says`), as a mask [n] of rows that break it (`wrong`), and what mends it (`remedy`)."""

    name: str
    says: Callable[[Problem], str]
    wrong: Callable[[Batch], Any]
    remedy: str = "mend what writes such rows"


@dataclass(frozen=True)
class Known:
    """What rows are held against beside the problem.

    Attributes:
        policies: that may have made a decision.
        others: those of them whose propensities keep no floor.
        lists: the ids that may train, in the order of the index in the dataset; and what an index means in a row.
        encoder: tells which observations are absurd.
    """

    policies: Sequence[str]
    others: Sequence[str]
    lists: Lists
    encoder: Encoder


class Batch:
    """n rows of the log as arrays, made once for all rules and for the dataset."""

    def __init__(self, table: pa.Table, problem: Problem, known: Known) -> None:
        self.table = table
        self.problem = problem
        self.known = known

    def values(self, name: str) -> NDArray[Any]:
        """Return a column without nulls, [n]."""
        column: NDArray[Any] = self.table[name].to_numpy()
        return column

    def lengths(self, name: str) -> NDArray[Any]:
        """Return the length of each row's list in a column, [n]."""
        found: NDArray[Any] = pc.list_value_length(self.table[name]).to_numpy()
        return found

    @cached_property
    def _vectorised(self) -> tuple[NDArray[np.float32], Wrong]:
        """What is made of named features, [n, d], and which rows [n] they can't be read in."""
        return Vectoriser(self.problem.features).logged(self.table["features"].to_pylist())

    @property
    def unreadable(self) -> Wrong:
        """Mark rows [n] whose named features are not what the problem declares."""
        return self._vectorised[1] if self.problem.features else np.zeros(self.table.num_rows, np.bool_)

    @cached_property
    def observation(self) -> NDArray[np.float32]:
        """Return the observations, [n, d] float32; of named features, what is made of them."""
        if self.problem.features:
            return self._vectorised[0]
        flat: NDArray[np.float32] = pc.list_flatten(self.table["observation"]).to_numpy()
        return flat.reshape(-1, self.problem.observation_dim)

    @cached_property
    def action(self) -> NDArray[np.int32]:
        """Return the index of each row's action id among the known ones, [n]; -1 where it is none of them."""
        return self.known.lists.indices(self.table["action_id"]).astype(np.int32)

    @cached_property
    def eligibility(self) -> Eligibility:
        """What each row says of the actions that could have been chosen."""
        return Eligibility(self.table, self.known.lists)

    @property
    def contradicted(self) -> Wrong:
        """Mark rows whose index is another action than their id in the list that they name, if it is known."""
        given, of_list = pc.fill_null(self.table["action"], _NO_INDEX).to_numpy(), self.eligibility.lists_of
        wrong: Wrong = (given != _NO_INDEX) & (of_list >= 0) & (self.known.lists.meant(of_list, given) != self.action)
        return wrong

    @property
    def ineligible(self) -> Wrong:
        """Mark rows whose action could not have been chosen."""
        found = self.eligibility
        wrong: Wrong = found.told & ~found.known[np.arange(self.table.num_rows), self.action]
        return wrong


def _no_floor(batch: Batch) -> Wrong:
    """A policy mixed with a uniform floor gives no action less than ε/K, and none more than what is left.

    Where nobody knows K, nobody can tell.
    """
    epsilon, propensity, count = batch.values("epsilon"), batch.values("propensity"), batch.eligibility.count
    share = epsilon / np.maximum(count, 1)
    within = (propensity >= share - _ROUNDING) & (propensity <= 1.0 - epsilon + share + _ROUNDING)
    within |= (count == 0) & np.isfinite(epsilon)
    if others := batch.known.others:
        within |= pc.is_in(batch.table["policy_version"], pa.array(others, pa.string())).to_numpy()
    broken: Wrong = ~within
    return broken


def _between(values: NDArray[Any], low: float, high: float) -> Wrong:
    inside: Wrong = (values >= low) & (values <= high)
    return inside


RULES: tuple[Rule, ...] = (
    Rule(
        "observation_version",
        lambda problem: f"observation_version must be {problem.observation_version!r}",
        lambda batch: (
            np.zeros(batch.table.num_rows, np.bool_)  # named features are logged as they were sent: made anew
            if batch.problem.features
            else pc.not_equal(batch.table["observation_version"], batch.problem.observation_version).to_numpy()
        ),
        "raise pipe_version and run startup, or correct the problem in the bandit's YAML",
    ),
    Rule(
        "features",
        lambda problem: f"features must be a JSON object of {', '.join(problem.features)}, each of its kind",
        lambda batch: batch.unreadable,
        "mend what writes such rows, or declare what stands for a feature that is missing",
    ),
    Rule(
        "policy_version",
        lambda problem: (
            f"policy_version must be {UNIFORM!r}, one that the registry knows, or one of validation.other_policies"
        ),
        lambda batch: ~pc.is_in(batch.table["policy_version"], pa.array(batch.known.policies, pa.string())).to_numpy(),
        "list the policies of an imported log under validation.other_policies in the bandit's YAML",
    ),
    Rule(
        "observation_dim",
        lambda problem: f"observation must hold {0 if problem.features else problem.observation_dim} numbers",
        lambda batch: batch.lengths("observation") != (0 if batch.problem.features else batch.problem.observation_dim),
    ),
    Rule(
        "observation_finite",
        lambda problem: "observation must be finite",
        lambda batch: ~np.isfinite(batch.observation).all(axis=1),
    ),
    Rule(
        "action_id",
        lambda problem: "action_id must be one of problem.actions, or known to the champion, or chosen by a server",
        lambda batch: batch.action < 0,
        "add the action to the bandit's YAML, with active: false if it is not to be chosen",
    ),
    Rule(
        "action",
        lambda problem: "action must be the index of action_id in the list that action_set_version names",
        lambda batch: batch.contradicted,
        "the id is what counts: leave action null",
    ),
    Rule(
        "eligible_actions",
        lambda problem: "eligible_action_ids must hold ids; of an older row, eligible_actions indices of its list",
        lambda batch: batch.eligibility.misnamed,
        "leave eligible_action_ids null where all that are active in the row's list could have been chosen",
    ),
    Rule(
        "action_eligible",
        lambda problem: "action_id must be one of the actions that could have been chosen",
        lambda batch: batch.ineligible,
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
ABSURD = Rule(
    "observation_range",
    lambda problem: "observation must lie within 1000 times what is usual for each of its numbers",
    lambda batch: batch.known.encoder.absurd(batch.observation).any(axis=1),
    "send each number in the unit of the rows that were trained on first",
)
"""Asked when the encoder has its ranges, learnt from the first rows that keep the rules above."""
TWICE = Rule("duplicate", lambda problem: "event_id must be that of one row", lambda batch: None)
"""Asked last, across the parts: the first by seq is kept."""
