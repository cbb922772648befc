"""Validation: holds each row of the log against the rules; those that break one are quarantined with its name.

Nothing is copied as long as every row keeps them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rl_core.bandit.blocks import digests_of, folds_of
from rl_core.config import Bandit
from rl_core.dataset.action_set import ActionSet
from rl_core.dataset.eligibility import Lists
from rl_core.dataset.row_rules import ABSURD, RULES, TWICE, Batch, Known, Wrong
from rl_core.dataset.tfrecord import Rows
from rl_core.features.encoder import Encoder
from rl_core.schema import UNIFORM


@dataclass(frozen=True, eq=False)
class Checked:
    """The result of one check: n rows that may train, their folds [n], and the others with their `reason`."""

    rows: Rows
    folds: NDArray[np.int8]
    apart: pa.Table


class Validation:
    """The validation of one run by the ingester: rows come in parts, ascending by seq.

    Attributes:
        checked: rows so far.
        apart: how many of them broke which rule.
        first: the lowest seq among those, by rule.
    """

    def __init__(
        self,
        bandit: Bandit,
        registered: Collection[str],
        encoder: Encoder | None = None,
        sets: Mapping[str, ActionSet] | None = None,
        chosen: Iterable[str] = (),
    ) -> None:
        """`encoder` is the champion's, `sets` are lists that policies know, `chosen` ids that a server chose."""
        problem = bandit.problem
        own = ActionSet(actions=problem.actions, inactive=problem.inactive)
        known_sets = {problem.action_set_name: own, **(sets or {}), problem.action_set_version: own}
        self._bandit = bandit
        self._known = Known(
            policies=sorted({UNIFORM, *registered, *bandit.validation.other_policies}),
            others=bandit.validation.other_policies,
            lists=Lists(
                dict.fromkeys([*problem.actions, *(a for s in known_sets.values() for a in s.actions), *chosen]),
                known_sets,
            ),
            encoder=encoder if encoder is not None and encoder.defines(problem) else Encoder.of(problem),
        )
        self._seen = np.empty(0, np.uint64)  # 8 bytes a row: two ids share them once in 10^5 runs of 10^7 rows
        self.checked = 0
        self.apart: Counter[str] = Counter()
        self.first: dict[str, int] = {}

    def check(self, table: pa.Table) -> Checked:
        """Split rows with COLUMNS (nulls only within the lists) into those that may train and those that may not."""
        batch = self._batch(table.combine_chunks())
        self.checked += table.num_rows
        set_apart = []
        for rule in RULES:
            wrong = rule.wrong(batch)
            if wrong.any():
                set_apart.append(self._set_apart(batch.table, wrong, rule.name))
                batch = self._batch(batch.table.filter(pa.array(~wrong)))
        if self.encoder.clip is None and batch.table.num_rows:
            batch.known = self._known = replace(self._known, encoder=self.encoder.learnt(batch.observation))
        wrong = ABSURD.wrong(batch)
        if wrong.any():
            set_apart.append(self._set_apart(batch.table, wrong, ABSURD.name))
            batch = self._batch(batch.table.filter(pa.array(~wrong)))
        digests = digests_of(batch.table["event_id"].to_pylist())
        wrong = self._repeated(digests)
        if wrong.any():
            set_apart.append(self._set_apart(batch.table, wrong, TWICE.name))
            batch, digests = self._batch(batch.table.filter(pa.array(~wrong))), digests[~wrong]
        rows = Rows(
            batch.values("seq"),
            self.encoder.encode(batch.observation),
            batch.action,
            batch.values("reward").astype(np.float32),
            batch.values("propensity"),
            batch.eligibility.known & batch.eligibility.whole[:, None],
        )
        empty = table.slice(0, 0).append_column("reason", pa.array([], pa.string()))
        return Checked(rows, folds_of(digests), pa.concat_tables([empty, *set_apart]))

    @property
    def encoder(self) -> Encoder:
        """What makes the features of the rows; it learns its ranges from the first rows that it is shown."""
        return self._known.encoder

    @property
    def actions(self) -> tuple[str, ...]:
        """The id of each action index of the rows: the problem's, then those that only others know."""
        return self._known.lists.actions

    @property
    def total_apart(self) -> int:
        return self.apart.total()

    @property
    def too_many(self) -> bool:
        """Whether more rows broke a rule than `limit` allows, so that the run must stop."""
        return self.total_apart > self.limit * self.checked

    @property
    def limit(self) -> float:
        """The share of rows that may break a rule, in [0, 1]."""
        return self._bandit.validation.max_quarantined_share

    def commonest(self) -> str:
        """Say which rule most rows broke, how many, the first of them, and what to do."""
        (name, count) = self.apart.most_common(1)[0]
        rule = next(rule for rule in (*RULES, ABSURD, TWICE) if rule.name == name)
        return f"{count} as {rule.says(self._bandit.problem)} ({name}, first at seq {self.first[name]}): {rule.remedy}"

    def _batch(self, table: pa.Table) -> Batch:
        return Batch(table, self._bandit.problem, self._known)

    def _set_apart(self, table: pa.Table, wrong: Wrong, name: str) -> pa.Table:
        rows = table.filter(pa.array(wrong))
        self.apart[name] += rows.num_rows
        self.first.setdefault(name, rows["seq"][0].as_py())
        return rows.append_column("reason", pa.repeat(name, rows.num_rows))

    def _repeated(self, digests: NDArray[np.uint64]) -> Wrong:
        """Which ids came before, in this part or an earlier one."""
        earlier, self._seen = self._seen, np.sort(np.concatenate([self._seen, digests]))
        before = np.zeros(len(digests), np.bool_)
        if (self._seen[1:] != self._seen[:-1]).all():
            return before
        order = np.argsort(digests, kind="stable")
        ascending = digests[order]
        before[order[1:]] = ascending[1:] == ascending[:-1]
        if len(earlier):
            at = np.searchsorted(earlier, ascending)
            before[order] |= earlier[np.minimum(at, len(earlier) - 1)] == ascending
        return before
