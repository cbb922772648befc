"""Finds where the journal ends, when a process begins or the mark is gone."""

from __future__ import annotations

import logging
from pathlib import Path

from rl_core.backends.local.bus.mark import Mark, Place
from rl_core.backends.local.bus.segments import Segments
from rl_core.errors import BusError

_OLDER = ("bus.sqlite", "journal-*.log")
_log = logging.getLogger(__name__)


def refuse_older_format(folder: Path) -> None:
    """Raises BusError where a bus of the format before lies: what it holds may not be in the store yet."""
    if any(found for pattern in _OLDER for found in folder.glob(pattern)):
        raise BusError(
            f"{folder}: holds a bus of an older format (SQLite), which this version doesn't read. Run the version that "
            "wrote it once more (`python -m rl_core log BANDIT`) until logger.json shows a lag of 0, then move the "
            "folder away: a new bus begins by itself"
        )


def end_of_journal(segments: Segments, marked: Mark | None, known: Mark | None) -> Mark | None:
    """Behind the mark, or behind what the process knows: after a power cut there is more. None where there is no bus.

    Raises BusError where the bus in use is gone.
    """
    if known and marked and marked.state.producer != known.state.producer:
        return marked  # another bus: the caller says so
    numbers = segments.numbers()
    if known and not numbers:
        raise BusError(f"{segments.folder}: its files are gone while the bus is in use; start its processes again")
    starts = [mark for mark in (marked, known) if mark] or _last_in(segments, numbers)
    if not numbers or not starts:
        if marked:
            lost = "%s: the segments of %s are gone, up to decision %d and reward %d; another bus begins"
            _log.error(lost, segments.folder, marked.state.producer, *marked.state.heads)
        for number in numbers:
            kept = segments.set_aside(number)
            segments.path(number).unlink()
            _log.error("%s: nothing in it is readable; what it held is lost, see %s", segments.path(number), kept)
        return None
    state, place = end = max(starts, key=lambda mark: (mark.state.heads, mark.place, mark.state.reading.stamp_ns))
    for segment in [number for number in numbers if number >= place.segment]:
        for frame in segments.frames(segment, place.position if segment == place.segment else 0):
            before = frame.before
            back = any(new < old for new, old in zip(before.heads, end.state.heads, strict=True))
            if back or before.producer != state.producer:
                break  # left by who died before it counted
            end = Mark(frame.after, Place(segment, frame.end))
    return end


def _last_in(segments: Segments, numbers: list[int]) -> list[Mark]:
    """The ends of the last two readable segments: the last may not have counted yet."""
    found = list[Mark]()
    for segment in reversed(numbers):
        if frames := list(segments.frames(segment)):
            found.append(Mark(frames[-1].after, Place(segment, frames[-1].end)))
        if len(found) == 2:
            break
    return found
