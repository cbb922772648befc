"""The join in ten lines, and the histories that joiners are tried on: any delay, repetition, order and crash."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from hypothesis import strategies as st

from tests.log_rows import WAIT_S, activation, decision, older_activation, reward

Row = dict[str, Any]
Closed = dict[str, tuple[Any, ...]]
"""By event: producer and offset of the decision that counts, time and value of its reward, closed_by, served."""
Apart = set[tuple[str, int, str]]
"""Producer, offset, reason."""
Crash = tuple[Literal["append_interactions", "append_apart"], Literal["before", "after"]]
FAR = 1000  # seconds: past every wait
_WAIT = timedelta(seconds=WAIT_S)


def joined(made: Iterable[Row], earned: Iterable[Row], default: float) -> tuple[Closed, Apart]:
    """What becomes of a finished log: the rules without order, state or time of reading."""
    served = sorted((d for d in made if d["served"]), key=lambda d: (d["received_at"], d["producer"], d["offset"]))
    first = {d["event_id"]: d for d in reversed(served)}
    won: dict[str, Row] = {}
    used: set[str] = set()
    apart: Apart = set()
    for r in sorted(earned, key=lambda r: (r["producer"], r["offset"])):
        d = first.get(r["event_id"])
        if r.get("activation"):
            if d and r["received_at"] + _WAIT >= d["received_at"] and r["received_at"] <= d["decided_at"] + _WAIT:
                used.add(r["event_id"])
            continue
        if d is None or r["received_at"] + _WAIT < d["received_at"]:
            fate = "unknown"
        elif r["received_at"] > d["decided_at"] + _WAIT:
            fate = "late"
        else:
            used.add(d["event_id"])
            fate = "duplicate" if d["event_id"] in won else "won"
        if fate == "won":
            won[r["event_id"]] = r
        else:
            apart.add((r["producer"], r["offset"], fate))
    closed: Closed = {}
    for key, d in first.items():
        why = "reward" if key in won else "unactivated" if d["deferred"] and key not in used else "timeout"
        value = (won[key]["received_at"], won[key]["reward"]) if key in won else (None, default)
        closed[key] = (d["producer"], d["offset"], *value, why, why != "unactivated")
    return closed, apart


_TOLD = ("producer", "offset", "reward_received_at", "reward", "closed_by", "served")


def told(interactions: Iterable[Row]) -> Closed:
    """What the model tells of each event."""
    rows = list(interactions)
    found = {row["event_id"]: tuple(row[name] for name in _TOLD) for row in rows}
    assert len(found) == len(rows), "a decision was closed twice"
    return found


@dataclass(frozen=True)
class Step:
    """Rows that arrive, once or twice, and then a run of one of two joiners.

    Args:
        watermark: in seconds; every row that arrives later was received at it or after.
        again: the answer to the append was lost, so it is sent again.
        joiner: which of the two runs.
        restarted: it begins with an empty memory.
        crash: it ends there, before or after that write.
    """

    decisions: Sequence[Row]
    rewards: Sequence[Row]
    watermark: int | None
    again: bool = False
    joiner: int = 0
    restarted: bool = False
    crash: Crash | None = None


@dataclass(frozen=True)
class History:
    """`close_early` only where the rows of one server arrive in order: else what is read first need not be first."""

    close_early: bool
    steps: Sequence[Step]

    @property
    def decisions(self) -> list[Row]:
        return [row for step in self.steps for row in step.decisions]

    @property
    def rewards(self) -> list[Row]:
        return [row for step in self.steps for row in step.rewards]


_SECONDS = {"decided": 30, "delay": 25, "rewarded": 60}
_CRASHES: list[Crash] = [
    (method, when) for method in ("append_interactions", "append_apart") for when in ("before", "after")
]


_KINDS: list[Callable[[str, int, str, float], Row]] = [
    lambda event_id, when, producer, value: reward(event_id, when, 0, value, producer),
    lambda event_id, when, producer, value: activation(event_id, when, 0, producer),
    lambda event_id, when, producer, value: older_activation(event_id, when, 0, producer),
]


@st.composite
def histories(draw: st.DrawFn, in_order: bool, steps: int = 4, events: int = 6) -> History:
    """Args:
    in_order: of each server the rows arrive by offset, as from a bus that is read; or in any order, as from one that
        pushes.
    events: ids of decisions, some of them made several times; rewards name one more, which nobody decided.
    """
    early = in_order and draw(st.booleans())
    server = st.sampled_from(["bus-1"] if early else ["bus-1", "bus-2"])
    event, step, flag, most = st.integers(0, events - 1), st.integers(0, steps - 1), st.booleans(), 3 * events
    decided, delay, rewarded = (st.integers(0, longest) for longest in _SECONDS.values())
    made = [
        (
            start + late,
            decision(f"e{key}", start, 0, producer, shown or key % 3 > 0, start + late, deferred or None),
            at,
        )
        for key, producer, start, late, shown, deferred, at in draw(
            st.lists(st.tuples(event, server, decided, delay, flag, flag, step), min_size=events, max_size=most)
        )
    ]
    earned = [
        (when, kind(f"e{key}", when, producer, float(value)), at)
        for key, producer, when, value, kind, at in draw(
            st.lists(
                st.tuples(st.integers(0, events), server, rewarded, st.integers(1, 2), st.sampled_from(_KINDS), step),
                min_size=events,
                max_size=most,
            )
        )
    ]
    arriving = [_arriving(rows, in_order, steps) for rows in (made, earned)]
    received = [[when for rows in arriving for when, _ in rows[n]] for n in range(steps)]
    done = []
    for n in range(steps):
        promise = min(itertools.chain(*received[n + 1 :]), default=FAR)
        crash = draw(st.sampled_from([None, *_CRASHES])) if draw(st.integers(0, 2)) == 2 else None
        mark = draw(st.sampled_from([promise, promise - 1, promise - 7, None]))
        one, other = ([row for _, row in rows[n]] for rows in arriving)
        restarted = draw(st.integers(0, 3)) == 3
        done.append(Step(one, other, mark, draw(flag), draw(st.integers(0, 1)), restarted, crash))
    return History(early, [*done, Step([], [], FAR)])


def _arriving(rows: list[tuple[int, Row, int]], in_order: bool, steps: int) -> list[list[tuple[int, Row]]]:
    """Numbered by server in the order they were received in, and put into the step in which they arrive."""
    last: dict[str, tuple[int, int]] = {}
    arriving: list[list[tuple[int, Row]]] = [[] for _ in range(steps)]
    for when, row, step in sorted(rows, key=lambda one: one[0]):
        offset, before = last.get(row["producer"], (0, 0))
        step = max(step, before) if in_order else step
        last[row["producer"]] = (offset + 1, step)
        arriving[step].append((when, row | {"offset": offset + 1}))
    return arriving
