"""An import on every backend: the parts of a file end as interactions, once, also after the process was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rl_core.backends.contracts.store import EventStore
from rl_core.config import Bandit
from rl_core.importing import importer
from rl_core.importing.mapping import Mapping
from rl_core.importing.readers import Part
from rl_core.importing.rows import Checked, Checks

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

BACKENDS = ("gcp", "local")
PRODUCER = "import-0123456789abcdef"


def parts(bandit: Bandit) -> list[Checked]:
    """Two of three rows; every third row has no reward."""
    checks = Checks(bandit, Mapping("a", "p", "r", ("o",), "e"), PRODUCER)
    found = []
    for low in (0, 3):
        columns = {
            "e": pa.array([f"e{k}" for k in range(low, low + 3)]),
            "a": pa.array(bandit.problem.actions[:3]),
            "p": pa.array([0.05] * 3),
            "r": pa.array([1.0, 2.0, None]),
            "o": pa.array([[0.5] * bandit.problem.observation_dim] * 3),
        }
        found.append(checks.of(Part(columns, np.arange(low + 1, low + 4))))
    return found


def test_a_file_is_imported_once_and_goes_on_where_it_was_cut_short(
    backend: Backend, movielens: Bandit, store: EventStore
) -> None:
    def append(some: list[Checked]) -> int:
        joiner = backend.open_joiner(movielens)
        return importer.append(movielens, backend.open_store(), joiner, PRODUCER, "imported", some, 6)

    assert append(parts(movielens)[:1]) == 3
    assert [append(parts(movielens)) for _ in range(2)] == [6, 6]
    rows = store.interactions((0, 6), ["event_id", "reward", "action_id", "closed_by"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (f"e{k}", (1.0, 2.0, 0.0)[k % 3], f"movie-{k % 3 + 1}", ("reward", "reward", "timeout")[k % 3])
        for k in range(6)
    ]
    assert store.open_decisions() == ()
    assert store.query("SELECT * FROM rewards_apart").num_rows == 0
