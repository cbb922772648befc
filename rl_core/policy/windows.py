"""Windows as interval arithmetic: which interactions are new, which a later policy leaves out, and why.

At any time every interaction of the log is in exactly one of three places: counted in the champion's lineage, excluded
from every policy built on it, or new. All three follow from the attempts and the lineages; nothing else is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rl_core.backends.contracts.registry import Attempt, Exclusion, PolicyRegistry
from rl_core.backends.contracts.store import EventStore, Window


def subtract(window: Window, taken: Iterable[Window]) -> list[Window]:
    """Return the parts of `window` that no window of `taken` covers, ascending and disjoint."""
    low, high = window
    parts = []
    for taken_low, taken_high in sorted(taken):
        if low < min(taken_low, high):
            parts.append((low, min(taken_low, high)))
        low = max(low, taken_high)
    return [*parts, (low, high)] if low < high else parts


def _common(window: Window, others: Iterable[Window]) -> list[Window]:
    """The parts of `window` that some window of `others` covers."""
    return subtract(window, subtract(window, others))


def total(windows: Iterable[Window]) -> int:
    """Count the interactions in disjoint windows."""
    return sum(high - low for low, high in windows)


def any_served(store: EventStore, windows: Iterable[Window]) -> bool:
    """Tell whether any interaction of the windows may train: one whose answer was used, and that is not forgotten."""
    within = " OR ".join(f"(seq > {low} AND seq <= {high})" for low, high in windows)
    sql = f"SELECT seq FROM interactions WHERE served AND ({within or 'FALSE'}) LIMIT 1"  # noqa: S608
    return bool(store.query(sql).num_rows)


def counted(registry: PolicyRegistry, version: str | None) -> list[Window]:
    """Return the windows of a policy's lineage; none for no policy."""
    return [(ref.seq_low, ref.seq_high) for ref in registry.lineage(version).windows] if version else []


def new_windows(registry: PolicyRegistry, head: int) -> list[Window]:
    """Return what of the log up to seq `head` is new: no attempt has seen it and the champion does not hold it.

    Usually one window or none; more where a startup trained on newer interactions and left older ones behind.
    """
    attempted = (window for attempt in registry.attempts() for window in attempt.windows)
    return subtract((0, head), [*attempted, *counted(registry, registry.alias("champion"))])


def acceptable_windows(registry: PolicyRegistry, head: int) -> list[Window]:
    """Return what of the log up to `head` a policy started anew may hold: all but rejected or rolled back windows."""
    champion = registry.alias("champion")
    own = counted(registry, champion)
    refused = [part for window, _ in _refused(registry, champion) for part in subtract(window, own)]
    return subtract((0, head), refused)


def exclusions(registry: PolicyRegistry, champion: str | None, held: Sequence[Window]) -> tuple[Exclusion, ...]:
    """Return what a policy that is built on `champion` and holds `held` leaves out, with the reasons; disjoint."""
    taken, excluded = list(held), []
    for window, reason in (*_refused(registry, champion), *_replaced(registry, champion)):
        for low, high in subtract(window, taken):
            taken.append((low, high))
            excluded.append(Exclusion(low, high, reason))
    return tuple(sorted(excluded, key=lambda exclusion: exclusion.seq_low))


def _refused(registry: PolicyRegistry, champion: str | None) -> Iterator[tuple[Window, str]]:
    """What was put to the test by policies that the champion does not descend from."""
    line = _ancestry(registry, champion)
    earlier: list[Window] = []
    for attempt in registry.attempts():
        if attempt.version not in line:
            reason = attempt.reason if attempt.verdict == "rejected" else f"{attempt.version} was rolled back"
            yield from ((window, reason) for window in _tested(registry, attempt, earlier))
        earlier += attempt.windows


def _replaced(registry: PolicyRegistry, champion: str | None) -> Iterator[tuple[Window, str]]:
    """What the champion's ancestors held; counts only where it is not inherited: a policy was started anew since.

    What no attempt has seen is new: a deployer was killed, and its version made champion by hand.
    """
    attempted = [window for attempt in registry.attempts() for window in attempt.windows]
    for version in _ancestry(registry, champion):
        for window in counted(registry, version):
            seen = _common(window, attempted)
            yield from ((part, f"{version} was replaced by a policy started anew") for part in seen)


def _ancestry(registry: PolicyRegistry, version: str | None) -> list[str]:
    line = []
    while version is not None:
        line.append(version)
        version = registry.lineage(version).parent
    return line


def _tested(registry: PolicyRegistry, attempt: Attempt, earlier: Sequence[Window]) -> list[Window]:
    """The attempt's windows without those that the champion of its time held before: those had passed a test."""
    parent = registry.lineage(attempt.version).parent if attempt.version else None
    before = [part for window in counted(registry, parent) for part in _common(window, earlier)]
    return [part for window in attempt.windows for part in subtract(window, before)]
