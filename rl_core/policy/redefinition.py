"""What a policy makes of the log whose named features were declared otherwise than they are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rl_core.backends.contracts.store import EventStore, Window
from rl_core.dataset.trajectories import Rows
from rl_core.feature_config import Features
from rl_core.features.encoder import Encoder
from rl_core.features.vectorise import Vectoriser


@dataclass(frozen=True, eq=False)
class OtherDefinition:
    """Rows of the log by an older definition: their seqs [n], ascending, what it makes of them [n, d], what it can't
    read [n].
    """

    seq: NDArray[np.int64]
    made: NDArray[np.float32]
    wrong: NDArray[np.bool_]

    @classmethod
    def of(cls, features: Features, windows: Sequence[Window], store: EventStore) -> Self:
        """Read the windows again, which takes some 10 µs a row. Raises StoreError."""
        vectoriser = Vectoriser(features)
        parts = []
        for window in sorted(windows):
            rows = store.interactions(window, ["seq", "features"])
            parts.append((rows["seq"].to_numpy(), *vectoriser.logged(rows["features"].to_pylist())))
        seq, made, wrong = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(seq, made, wrong)

    def readable(self, rows: Rows) -> NDArray[np.intp]:
        """Return the positions of the rows, which are of these windows, that it can read."""
        return np.flatnonzero(~self.wrong[self._at(rows)])

    def features(self, rows: Rows, encoder: Encoder) -> NDArray[np.float32]:
        """Return the features [n, width] that its encoder makes of rows that it can read."""
        encoded: NDArray[np.float32] = encoder.encode(self.made[self._at(rows)])
        return encoded

    def _at(self, rows: Rows) -> NDArray[np.intp]:
        return np.searchsorted(self.seq, rows.seq)
