"""The joiner's checkpoint: how far it has dealt with decisions and rewards, by producer; a restarted one begins there.

A file beside the tables. It counts as long as interactions and rewards_apart hold what they held when it was written;
without it, or where a partial commit of theirs was cut off, `pending` looks at the whole log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rl_core.files import sync_folder, write_atomically

NOTE = "checkpoint.json"
OLDER = "dealt.json"  # what it was called before
Offsets = Mapping[str, int]


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint: of each producer, the offset up to which nothing is open, waits or is to be joined.

    Args:
        head: the last seq of interactions at that time.
        apart: how many rewards had been set apart.
        read: of each producer, the last reward that was known then: later ones closed none of the interactions.
    """

    decisions: Offsets
    rewards: Offsets
    head: int
    apart: int
    read: Offsets
    activations: Offsets = field(default_factory=dict)  # which notes of before that table lack

    def offsets(self, table: Literal["decisions", "rewards", "activations"]) -> Offsets:
        found: Offsets = getattr(self, table)
        return found


def read(store: Path) -> Checkpoint | None:
    """Read the checkpoint; None where there is none that can be read."""
    for name in (NOTE, OLDER):
        with suppress(OSError, ValueError, TypeError):
            return Checkpoint(**json.loads((store / name).read_text()))
    return None


def remove(store: Path) -> None:
    """Delete a checkpoint that counts no more: the log may grow beyond its numbers again, with other rows."""
    for name in (NOTE, OLDER):
        (store / name).unlink(missing_ok=True)
    sync_folder(store)


def write(store: Path, done: Checkpoint) -> None:
    """Write the checkpoint, atomically."""
    write_atomically(store / NOTE, json.dumps(asdict(done)).encode())
    (store / OLDER).unlink(missing_ok=True)
