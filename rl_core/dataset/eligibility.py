"""Which actions could have been chosen in each row of the log.

A row says it by ids, or means all that its list has active; older rows say it by indices of that list. A list that came
and went between two trainings is known to nobody: such a row trains all the same, and no policy is judged on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.dataset.action_set import ActionSet

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


class Lists:
    """K known actions by their ids, and what the lists that rows may name say of them. An index of -1 is none.

    Attributes:
        actions: the id of each index, [K].
    """

    def __init__(self, actions: Iterable[str], sets: Mapping[str, ActionSet]) -> None:
        """`sets` are the lists by `action_set_version`; all their actions are among `actions`."""
        self.actions = tuple(actions)
        self._ids = pa.array(self.actions, pa.string())
        self._names = pa.array(list(sets), pa.string())
        widest = max((len(one.actions) for one in sets.values()), default=0)
        self._meant = np.full((len(sets) + 1, widest + 1), -1, np.int64)  # the last row and column: no list, no index
        self.active = np.zeros((len(sets) + 1, len(self.actions)), np.bool_)
        for number, one in enumerate(sets.values()):
            indices = self._meant[number, : len(one.actions)] = self.indices(pa.array(one.actions, pa.string()))
            self.active[number, indices[~np.isin(one.actions, one.inactive)]] = True

    def indices(self, ids: pa.Array | pa.ChunkedArray) -> Indices:
        """Return the index of each id, [n]."""
        return _found(ids, self._ids)

    def numbers(self, versions: pa.ChunkedArray) -> Indices:
        """Return which list each `action_set_version` names, [n]."""
        return _found(versions, self._names)

    def meant(self, lists: Indices, indices: NDArray[Any]) -> Indices:
        """Translate indices of these lists, [n] each, into known ones."""
        last = self._meant.shape[1] - 1
        found: Indices = self._meant[lists, np.where((indices >= 0) & (indices < last), indices, last)]
        return found


class Eligibility:
    """The eligible actions of n rows of the log.

    Attributes:
        lists_of: which list each row names, [n].
    """

    def __init__(self, table: pa.Table, lists: Lists) -> None:
        self._lists = lists
        self.lists_of = lists.numbers(table["action_set_version"])
        ids = table["eligible_action_ids"]
        self._by_id = _lengths(ids)
        older = pc.if_else(pa.array(self._by_id > 0), None, table["eligible_actions"])
        self._by_index = _lengths(older)
        self._of_ids, self._of_indices = (
            np.repeat(np.arange(table.num_rows), n) for n in (self._by_id, self._by_index)
        )
        self._flat_ids = pc.list_flatten(ids)
        flat = pc.fill_null(pc.list_flatten(older), -1).to_numpy()
        self._indices = lists.meant(self.lists_of[self._of_indices], flat)

    @cached_property
    def known(self) -> Flags:
        """Which known actions could have been chosen, [n, K]; there may have been more where a row is not `whole`."""
        silent = self._by_id + self._by_index == 0
        mask: Flags = self._lists.active[self.lists_of] & silent[:, None]
        for rows, indices in self._named:
            mask[rows[indices >= 0], indices[indices >= 0]] = True
        return mask

    @cached_property
    def whole(self) -> Flags:
        """Whether all actions that could have been chosen are known, [n]."""
        whole: Flags = (self.lists_of >= 0) | (self._by_id + self._by_index > 0)
        for rows, indices in self._named:
            whole[rows[indices < 0]] = False
        return whole

    @cached_property
    def count(self) -> Indices:
        """How many actions could have been chosen, [n]; 0 where nobody knows."""
        return np.where(self.whole, self.known.sum(axis=1), self._by_id + self._by_index)

    @property
    def told(self) -> Flags:
        """Whether a row's own action must be among those in `known`, [n]: not where its list alone would tell."""
        told: Flags = (self.lists_of >= 0) | (self._by_id > 0)
        return told

    @property
    def misnamed(self) -> Flags:
        """Which rows [n] hold an id that is null, or an index that their list does not have."""
        wrong = np.zeros(len(self.lists_of), np.bool_)
        wrong[self._of_ids[np.asarray(self._flat_ids.is_null())]] = True
        wrong[self._of_indices[(self._indices < 0) & (self.lists_of[self._of_indices] >= 0)]] = True
        return wrong

    @cached_property
    def _named(self) -> tuple[tuple[Indices, Indices], ...]:
        """Rows and indices of all that is said, by ids and by older indices."""
        return (self._of_ids, self._lists.indices(self._flat_ids)), (self._of_indices, self._indices)


def _found(values: pa.Array | pa.ChunkedArray, among: pa.Array) -> Indices:
    found: Indices = pc.fill_null(pc.index_in(values, among), -1).cast(pa.int64()).to_numpy(zero_copy_only=False)
    return found


def _lengths(column: pa.ChunkedArray) -> Indices:
    found: Indices = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return found
