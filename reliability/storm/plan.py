"""What is going to happen to whom: drawn from the seed alone, before anything runs."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Lane = Literal["server", "logger", "trainer", "airflow", "disk"]

SHARES = {"server": 0.46, "logger": 0.33, "trainer": 0.07, "airflow": 0.14}
"""Of the kills. A training and Airflow take half a minute to be there again, so they can't have more."""

RECOVERY_S = {"server": 1.5, "logger": 2.0, "trainer": 30.0, "airflow": 16.0, "disk": 3.0}
"""About how long each takes; what is left of the storm's time is spread between the faults."""

KINDS: dict[Lane, dict[str, float]] = {
    "server": {"kill": 0.75, "kill while it starts": 0.15, "kill, stays away": 0.10},
    "logger": {"kill": 0.85, "kill while it starts": 0.15},
    "trainer": {"leader": 0.3, "step": 0.4, "all": 0.3},
    "airflow": {"worker": 0.35, "task": 0.25, "scheduler": 0.2, "scheduler and workers": 0.2},
    "disk": {
        "full": 0.4,
        "damage a segment": 0.25,
        "delete a segment": 0.1,
        "damage the mark": 0.15,
        "damage the keys": 0.1,
    },
}
"""Of the disk all but "full" damage the bus, of which there is one copy: what they take is in the audit's figures."""


@dataclass(frozen=True)
class Fault:
    """One fault of a lane, `after_s` seconds after the one before it is overcome; `chance` (0..1) sizes it."""

    kind: str
    after_s: float
    chance: float


@dataclass(frozen=True)
class Plan:
    seed: int
    lanes: dict[Lane, tuple[Fault, ...]]

    @property
    def digest(self) -> str:
        """Equal for equal seeds and sizes: the same faults in the same order, with the same pauses."""
        written = json.dumps({lane: [asdict(fault) for fault in faults] for lane, faults in self.lanes.items()})
        return hashlib.sha256(f"{self.seed} {written}".encode()).hexdigest()[:16]

    @property
    def kills(self) -> int:
        return sum(len(faults) for lane, faults in self.lanes.items() if lane != "disk")


def draw(seed: int, kills: int, seconds: float, *, airflow: bool = True, corruption: bool = True) -> Plan:
    """A plan with that many SIGKILLs in about that many seconds, and a fault of the disk for every ten of them."""
    shares = {lane: share for lane, share in SHARES.items() if airflow or lane != "airflow"}
    counts = _apportioned(kills, shares) | {"disk": max(6, kills // 10)}
    lanes: dict[Lane, tuple[Fault, ...]] = {}
    for lane, kinds in KINDS.items():
        if count := counts.get(lane, 0):
            rng = random.Random(f"{seed}/{lane}")
            its = {"full": 1.0} if lane == "disk" and not corruption else kinds
            lanes[lane] = tuple(_faults(rng, lane, _every_kind(rng, its, count), seconds))
    return Plan(seed, lanes)


def _apportioned(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers in these proportions that add up to the total; nobody gets none."""
    whole = sum(shares.values())
    counts = {name: max(1, int(total * share / whole)) for name, share in shares.items()}
    counts["server"] += max(0, total - sum(counts.values()))
    return counts


def _faults(rng: random.Random, lane: Lane, kinds: Sequence[str], seconds: float) -> Iterator[Fault]:
    pause = max(0.3, seconds / len(kinds) - RECOVERY_S[lane])
    for kind in kinds:
        hasty = kind == "kill while it starts"
        after = rng.uniform(0.05, 0.9) if hasty else min(rng.expovariate(1 / pause), 2.5 * pause)
        yield Fault(kind, round(after, 3), round(rng.random(), 4))


def _every_kind(rng: random.Random, kinds: dict[str, float], count: int) -> Sequence[str]:
    """As often as its weight says, and each at least once where there is room: a short storm shows them all, too."""
    drawn = list(kinds)[:count]
    drawn += rng.choices(list(kinds), list(kinds.values()), k=count - len(drawn))
    rng.shuffle(drawn)
    return drawn
