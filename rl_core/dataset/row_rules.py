"""The rules that a row of the log must keep to train.

RULES stand in the order in which they are asked: a row's reason is the first that it breaks, and each rule may rely on
those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.dataset.action_set import ActionSet
from rl_core.errors import SchemaError
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
        actions: the ids that may train; their order is the index in the dataset.
        sets: what an index means in a row, by its `action_set_version`.
        encoder: tells which observations are absurd.
    """

    policies: Sequence[str]
    others: Sequence[str]
    actions: tuple[str, ...]
    sets: Mapping[str, ActionSet]
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

    def any_of(self, name: str, bad: Wrong) -> Wrong:
        """Mark rows [n] whose list holds a `bad` element, of all rows' elements one behind the other."""
        rows = np.zeros(self.table.num_rows, np.bool_)
        if bad.any():
            rows[np.repeat(np.arange(len(rows)), self.lengths(name))[bad]] = True
        return rows

    @cached_property
    def _vectorised(self) -> tuple[NDArray[np.float32], Wrong]:
        """What is made of named features, [n, d], and which rows [n] they can't be read in."""
        import orjson

        vectoriser = Vectoriser(self.problem.features)
        made = np.zeros((self.table.num_rows, vectoriser.width), np.float32)
        wrong = np.zeros(len(made), np.bool_)
        for i, text in enumerate(self.table["features"].to_pylist()):
            try:
                made[i] = vectoriser.row(orjson.loads(text), "features")
            except (SchemaError, ValueError, TypeError, AttributeError):
                wrong[i] = True
        return made, wrong

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
        found = pc.index_in(self.table["action_id"], pa.array(self.known.actions, pa.string()))
        index: NDArray[np.int32] = pc.fill_null(found, -1).to_numpy()
        return index

    @cached_property
    def of_set(self) -> NDArray[np.int64]:
        """Return which of the known action sets each row names, [n]; -1 for none."""
        found = pc.index_in(self.table["action_set_version"], pa.array(list(self.known.sets), pa.string()))
        index: NDArray[np.int64] = pc.fill_null(found, -1).cast(pa.int64()).to_numpy()
        return index

    @cached_property
    def translated(self) -> NDArray[np.int32]:
        """Return what each index means, by set, [sets + 1, widest + 1]; -1 where a set has no such index."""
        widths = [len(one.actions) for one in self.known.sets.values()]
        table = np.full((len(widths) + 1, max(widths, default=0) + 1), -1, np.int32)
        at = {action: index for index, action in enumerate(self.known.actions)}
        for number, one in enumerate(self.known.sets.values()):
            table[number, : len(one.actions)] = [at.get(action, -1) for action in one.actions]
        return table

    def meant(self, of_set: NDArray[np.int64], index: NDArray[Any]) -> NDArray[np.int32]:
        """Translate indices as they stand in rows, [m], of these sets; -1 where they mean nothing that is known."""
        last = self.translated.shape[1] - 1
        found: NDArray[np.int32] = self.translated[of_set, np.where((index >= 0) & (index < last), index, last)]
        return found

    @cached_property
    def contradicted(self) -> Wrong:
        """Mark rows whose index is another action than their id, in the action set that they name."""
        given = pc.fill_null(self.table["action"], _NO_INDEX).to_numpy()
        wrong: Wrong = (given != _NO_INDEX) & (self.meant(self.of_set, given) != self.action)
        return wrong

    @cached_property
    def eligible_meant(self) -> NDArray[np.int32]:
        """Return what the entries of all rows' eligible actions mean, one behind the other."""
        flat = pc.list_flatten(self.table["eligible_actions"])
        flat = (pc.fill_null(flat, -1) if flat.null_count else flat).to_numpy()
        if (alike := self._alike(flat)) is not None:
            return np.tile(self.meant(np.repeat(self.of_set[:1], len(alike)), alike), self.table.num_rows)
        return self.meant(np.repeat(self.of_set, self.lengths("eligible_actions")), flat)

    def _alike(self, flat: NDArray[np.int32]) -> NDArray[np.int32] | None:
        """Return the list that all rows share, in the same action set: most logs have one, which is looked at once."""
        n = self.table.num_rows
        if not n or (self.of_set != self.of_set[0]).any() or (self.lengths("eligible_actions") * n != len(flat)).any():
            return None
        lists = flat.reshape(n, -1)
        return lists[0] if (lists == lists[0]).all() else None

    @cached_property
    def eligible(self) -> Wrong:
        """Return which actions could have been chosen, a mask [n, K]."""
        n, lengths = self.table.num_rows, self.lengths("eligible_actions")
        mask = np.zeros((n, len(self.known.actions)), np.bool_)
        meant = self.eligible_meant
        if n and (lengths == lengths[0]).all() and ((lists := meant.reshape(n, -1)) == lists[0]).all():
            mask[:, lists[0]] = True
        else:
            mask[np.repeat(np.arange(n), lengths), meant] = True
        return mask


def _no_floor(batch: Batch) -> Wrong:
    """A policy mixed with a uniform floor gives no action less than ε/K, and none more than what is left."""
    epsilon, propensity = batch.values("epsilon"), batch.values("propensity")
    share = epsilon / batch.eligible.sum(axis=1)
    within = (propensity >= share - _ROUNDING) & (propensity <= 1.0 - epsilon + share + _ROUNDING)
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
        "action_set_version",
        lambda problem: f"action_set_version must be {problem.action_set_version!r}, or one that the champion knows",
        lambda batch: batch.of_set < 0,
        "write the name of a list that was trained with, or leave these rows out: nobody knows what their indices mean",
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
        lambda problem: "action_id must be one of problem.actions, or one that the champion knows",
        lambda batch: batch.action < 0,
        "add the action to the bandit's YAML, with active: false if it is not to be chosen",
    ),
    Rule(
        "action",
        lambda problem: "action must be the index of action_id in the list that action_set_version names",
        lambda batch: batch.contradicted,
        "the id is what counts: give the list that the indices are of a name of its own, or leave action null",
    ),
    Rule(
        "eligible_actions",
        lambda problem: "eligible_actions must hold at least one index of its action set, and no other",
        lambda batch: (
            batch.any_of("eligible_actions", batch.eligible_meant < 0) | (batch.lengths("eligible_actions") == 0)
        ),
    ),
    Rule(
        "action_eligible",
        lambda problem: "action must be one of eligible_actions",
        lambda batch: ~batch.eligible[np.arange(batch.table.num_rows), batch.action],
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
