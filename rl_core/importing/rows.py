"""Checks rows of a file against the bandit's problem, and makes decisions and rewards of those that keep every rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.backends.job_log import empty_lists, lists, rows_of
from rl_core.config import Bandit
from rl_core.importing import named
from rl_core.importing.cells import NOTHING, is_list
from rl_core.importing.mapping import Mapping
from rl_core.importing.readers import Part
from rl_core.problem_config import Problem
from rl_core.schema import DECISION_SCHEMA, REWARD_SCHEMA, SCHEMA_VERSION

_NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_NOTHING = pa.array(sorted(NOTHING))
_WRITTEN_OUT = 100  # actions
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Checked:
    """n rows that keep every rule, as arrays [n]; and the lines of the others, with the reason.

    Args:
        observation: [n, observation_dim].
        reward: NaN where the file has none.
        eligible: mask [n, K]; None: all.
        features: of named features, those of each row as a JSON object [n].
    """

    lines: NDArray[np.int64]
    event_id: pa.Array
    action: NDArray[np.int32]
    propensity: NDArray[np.float64]
    reward: NDArray[np.float64]
    observation: NDArray[np.float32]
    eligible: Flags | None
    aside: list[tuple[int, str]] = field(default_factory=list)
    features: pa.Array | None = None


class Checks:
    """The checks of one file, part by part. Event ids are remembered, so that each is taken once."""

    def __init__(self, bandit: Bandit, mapping: Mapping, producer: str) -> None:
        self._problem, self._mapping, self._producer = bandit.problem, mapping, producer
        self._ids = pa.array(self._problem.actions, pa.string())
        self._seen: list[pa.Array] = []

    def of(self, part: Part) -> Checked:
        problem, mapping, columns = self._problem, self._mapping, part.columns
        n, reasons = len(part.lines), np.zeros(len(part.lines), np.int64)
        said: list[str] = [""]

        def refuse(wrong: Flags, reason: str) -> None:
            said.append(reason)
            reasons[wrong & (reasons == 0)] = len(said) - 1

        event_id = self._event_ids(part)
        refuse(np.asarray(pc.fill_null(pc.equal(event_id, ""), True)), "event_id is missing")
        action = pc.index_in(columns[mapping.action].cast(pa.string()), self._ids)
        refuse(np.asarray(action.is_null()), "action is none of the bandit's actions")
        chosen = pc.fill_null(action, 0).to_numpy(zero_copy_only=False).astype(np.int32)
        features, wrong = named.of(part, problem.features, mapping.observation) if problem.features else (None, {})
        for reason, rows in wrong.items():
            refuse(rows, reason)
        observation, sound = (
            (np.empty((n, 0), np.float32), ~np.zeros(n, np.bool_)) if features else self._observations(part, n)
        )
        refuse(~sound, f"observation is not {problem.observation_dim} finite numbers")
        eligible, known = self._eligible(part, n)
        refuse(~known, "eligible_actions holds an action that the bandit doesn't have, or none")
        if eligible is not None:
            refuse(~eligible[np.arange(n), chosen], "action is none of its eligible_actions")
        propensity, _ = numbers(columns[mapping.propensity])
        refuse(~((propensity > 0) & (propensity <= 1)), "propensity is not in (0, 1]")
        reward, given = numbers(columns[mapping.reward])
        inside = (reward >= problem.reward_min) & (reward <= problem.reward_max)
        refuse(given & ~inside, f"reward is not in {problem.reward_min:g}..{problem.reward_max:g}")
        refuse(self._repeated(event_id, reasons == 0), "event_id was there before")
        good = reasons == 0
        aside = [(int(part.lines[row]), said[reasons[row]]) for row in np.flatnonzero(~good)]
        return Checked(
            part.lines[good],
            event_id.filter(pa.array(good)),
            chosen[good],
            propensity[good],
            reward[good],
            observation[good],
            None if eligible is None else eligible[good],
            sorted([*aside, *part.unreadable]),
            None if features is None else features.filter(pa.array(good)),
        )

    def _event_ids(self, part: Part) -> pa.Array:
        if self._mapping.event_id is None:
            return pa.array([f"{self._producer}-{line}" for line in part.lines.tolist()], pa.string())
        return part.columns[self._mapping.event_id].cast(pa.string())

    def _observations(self, part: Part, n: int) -> tuple[NDArray[np.float32], Flags]:
        dim, names = self._problem.observation_dim, self._mapping.observation
        columns = [part.columns[name] for name in names]
        if len(columns) == 1 and is_list(columns[0]):
            right = np.asarray(pc.fill_null(pc.equal(pc.list_value_length(columns[0]), dim), False))
            found = np.full((n, dim), np.nan)
            found[right] = numbers(pc.list_flatten(columns[0].filter(pa.array(right))))[0].reshape(-1, dim)
        elif len(columns) == dim:
            found = np.stack([numbers(column)[0] for column in columns], axis=1)
        else:
            found = np.full((n, dim), np.nan)
        with np.errstate(over="ignore"):
            single = found.astype(np.float32)
        return single, np.asarray(np.isfinite(single).all(axis=1))

    def _eligible(self, part: Part, n: int) -> tuple[Flags | None, Flags]:
        if self._mapping.eligible_actions is None:
            return None, np.ones(n, np.bool_)
        column = part.columns[self._mapping.eligible_actions]
        if not is_list(column):
            return None, np.zeros(n, np.bool_)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        index = pc.index_in(pc.list_flatten(column).cast(pa.string()), self._ids)
        rows, unknown = np.repeat(np.arange(n), lengths), np.asarray(index.is_null())
        known = lengths > 0
        known[rows[unknown]] = False
        mask = np.zeros((n, len(self._ids)), np.bool_)
        mask[rows[~unknown], pc.drop_null(index).to_numpy()] = True
        return mask, known

    def _repeated(self, event_id: pa.Array, good: Flags) -> Flags:
        wrong = np.zeros(len(event_id), np.bool_)
        if self._mapping.event_id is None:
            return wrong
        for earlier in self._seen:
            wrong |= np.asarray(pc.is_in(event_id, earlier))
        mine = np.flatnonzero(good & ~wrong)
        kept = event_id.take(pa.array(mine))
        codes = kept.dictionary_encode().indices.to_numpy()
        first = np.unique(codes, return_index=True)[1]
        wrong[np.delete(mine, first)] = True
        self._seen.append(kept.take(pa.array(first)))
        return wrong


def numbers(column: pa.Array) -> tuple[NDArray[np.float64], Flags]:
    """Return a column as numbers [n], NaN where it holds none, and where it holds anything at all [n]."""
    given = np.asarray(column.is_valid())
    if pa.types.is_string(column.type):
        trimmed = pc.utf8_trim_whitespace(column)
        given = given & ~np.asarray(pc.is_in(pc.utf8_lower(trimmed), _NOTHING))
        column = pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, pa.scalar(None, pa.string()))
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    elif not (
        pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type)
    ):
        column = pa.nulls(len(column), pa.float64())
    values: NDArray[np.float64] = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(
        zero_copy_only=False
    )
    return values, given


def in_tables(
    parts: Iterable[Checked], bandit: Bandit, producer: str, policy: str, first: datetime
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield decisions and rewards of each part, with offsets by place; the same whenever they are made.

    Args:
        first: when the first decision is said to be received; the others follow, a microsecond each.
    """
    made = earned = 0
    for part in parts:
        n, problem = len(part.lines), bandit.problem
        if not n:
            continue
        began = (first - datetime(1970, 1, 1, tzinfo=first.tzinfo)) // timedelta(microseconds=1)
        at = pa.array(began + made + np.arange(n)).cast(pa.timestamp("us", tz="UTC"))
        stamps = {"received_at": at, "producer": pa.repeat(producer, n), "event_id": part.event_id}
        decisions = stamps | {
            "offset": pa.array(made + 1 + np.arange(n)),
            "decided_at": at,
            "policy_version": pa.repeat(policy, n),
            "observation": lists(part.observation.ravel(), part.observation.shape[1])
            if part.features is None
            else empty_lists(n),
            "features": pa.nulls(n, pa.string()) if part.features is None else part.features,
            "observation_version": pa.repeat(problem.observation_version, n),
            "action_id": pa.array(problem.actions).take(pa.array(part.action)),
            "action_set_version": pa.repeat(problem.action_set_version, n),
            "eligible_action_ids": _eligible_ids(part, problem),
            "propensity": pa.array(part.propensity),
            "epsilon": pa.repeat(0.0, n),
            "source": pa.repeat("import", n),
            "served": pa.repeat(True, n),
            "schema_version": pa.repeat(pa.scalar(SCHEMA_VERSION, pa.int32()), n),
        }
        has = np.isfinite(part.reward)
        mask, count = pa.array(has), int(has.sum())
        rewards = {name: column.filter(mask) for name, column in stamps.items()} | {
            "offset": pa.array(earned + 1 + np.arange(count)),
            "reward": pa.array(part.reward[has]),
            "observed_at": at.filter(mask),
        }
        yield rows_of(decisions, DECISION_SCHEMA), rows_of(rewards, REWARD_SCHEMA)
        made, earned = made + n, earned + count


def _eligible_ids(part: Checked, problem: Problem) -> pa.Array:
    """The ids of the actions that could have been chosen in each row, so that they are known whatever list is next.

    Of many actions they would be most of the log: where all could be chosen null says so, as long as none is withdrawn.
    """
    n, k, ids = len(part.lines), problem.num_actions, pa.array(problem.actions, pa.string())
    if part.eligible is None:
        if k > _WRITTEN_OUT and not problem.inactive:
            return pa.nulls(n, pa.list_(pa.string()))
        return lists(ids.take(pa.array(np.tile(np.arange(k, dtype=np.int32), n))), k)
    begins = np.concatenate([[0], part.eligible.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(begins, ids.take(pa.array(np.nonzero(part.eligible)[1])))


def counted(reasons: Iterable[tuple[int, str]]) -> list[tuple[str, int, int]]:
    """Return reasons with how many lines have it and the first of them, the commonest first."""
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for line, reason in reasons:
        counts[reason] += 1
        first[reason] = min(line, first.get(reason, line))
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]
