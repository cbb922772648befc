"""The figures that say whether a bandit's loop lives, as one line of JSON per look.

docs/monitoring/ makes Cloud Monitoring metrics and alerts of the line; any other log reader can do the same.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rl_core.bandit.windows import new_windows, total
from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from rl_core.backends.base import EventStore, PolicyRegistry

EVENT = "banditloop_vital_signs"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """How far the way from server to log is.

    Args:
        acknowledged: events that servers confirmed to their clients, in the time that was looked at.
        stored: those of them that are in the log.
        rejected: those of them that could not become a row, and are kept apart.
        watermark: everything received before it is in the log; None where that is not known yet.
        gaps: producers of whom something is missing that should be there.
        read_at: now, by the clock of the watermark; None where that is the caller's.
    """

    acknowledged: int
    stored: int
    rejected: int = 0
    watermark: datetime | None = None
    gaps: int = 0
    read_at: datetime | None = None


@dataclass(frozen=True)
class VitalSigns:
    """None where there is nothing to measure yet."""

    bandit: str
    head: int
    new_interactions: int
    acknowledged: int
    stored: int
    missing: int
    rejected: int
    gaps: int
    watermark_lag_s: float | None
    champion: str | None
    champion_age_s: float | None
    last_attempt: str | None

    def line(self, severity: str) -> str:
        return json.dumps({"severity": severity, "event": EVENT, **asdict(self)})


def vital_signs(bandit: Bandit, registry: PolicyRegistry, head: int, delivery: Delivery, now: datetime) -> VitalSigns:
    """`now` and the watermark are times of the same kind: UTC."""
    champion, attempts = registry.alias("champion"), registry.attempts()
    promoted = [attempt.at for attempt in attempts if attempt.verdict == "promoted" and attempt.version == champion]
    return VitalSigns(
        bandit=bandit.artefact_name,
        head=head,
        new_interactions=total(new_windows(registry, head)),
        acknowledged=delivery.acknowledged,
        stored=delivery.stored,
        missing=max(0, delivery.acknowledged - delivery.stored - delivery.rejected),
        rejected=delivery.rejected,
        gaps=delivery.gaps,
        watermark_lag_s=None if delivery.watermark is None else _age_s(delivery.watermark, delivery.read_at or now),
        champion=champion,
        champion_age_s=_age_s(promoted[-1], now) if promoted else None,
        last_attempt=attempts[-1].verdict if attempts else None,
    )


def log_vital_signs(
    bandit: Bandit, registry: PolicyRegistry, store: EventStore, delivery: Delivery, now: datetime
) -> VitalSigns:
    """Write the line into the log of the calling task: an error where a gap holds the watermark."""
    signs = vital_signs(bandit, registry, store.head(), delivery, now)
    bad = signs.gaps > 0
    log.log(logging.ERROR if bad else logging.INFO, "%s", signs.line("ERROR" if bad else "INFO"))
    return signs


def local_delivery(bandit: Bandit, settings: Settings, store: EventStore) -> Delivery:
    """Of a bandit whose bus is on this machine: the first message that is not in the log holds the watermark."""
    from rl_core.backends import open_bus

    if not (settings.state_dir(bandit) / "bus").exists():
        return Delivery(0, 0)
    bus = open_bus(bandit, settings)
    try:
        stored = {topic: store.last_offset(topic, bus.producer) for topic in _TOPICS}
        waiting = [delivery.received_at for topic in _TOPICS for delivery in bus.read(topic, stored[topic], limit=1)]
        return Delivery(
            acknowledged=sum(bus.head(topic) for topic in _TOPICS),
            stored=sum(stored.values()),
            watermark=min(waiting, default=None) or bus.watermark(),
            read_at=bus.now(),
        )
    finally:
        bus.close()


def bigquery_delivery(store: EventStore, watermark: datetime | None, gaps: int, now: datetime) -> Delivery:
    """Of a bandit whose bus is Pub/Sub: between two heartbeats of a server lie exactly the events it confirmed.

    Of the last hour, without its last minutes: what is on its way is not missing.
    """
    since, until = (f"TIMESTAMP '{then.isoformat(sep=' ')}'" for then in (now - _LOOK_BACK, now - _ON_ITS_WAY))
    (row,) = store.query(_DELIVERY.format(since=since, until=until)).to_pylist()
    return Delivery(
        acknowledged=row["acknowledged"] or 0,
        stored=row["decisions"] + row["rewards"],
        rejected=row["rejected"],
        watermark=watermark,
        gaps=gaps,
    )


_LOOK_BACK, _ON_ITS_WAY = timedelta(hours=1), timedelta(minutes=2)
_TOPICS: Any = ("decisions", "rewards")
_DELIVERY = """
WITH heard AS (
  SELECT producer, MIN(decisions) AS d0, MAX(decisions) AS d1, MIN(rewards) AS r0, MAX(rewards) AS r1
  FROM heartbeats WHERE `at` >= {since} AND `at` <= {until} GROUP BY producer
)
SELECT
  (SELECT SUM(d1 - d0 + r1 - r0) FROM heard) AS acknowledged,
  (SELECT COUNT(DISTINCT CONCAT(d.producer, ':', CAST(d.`offset` AS STRING)))
     FROM decisions AS d JOIN heard ON d.producer = heard.producer
     WHERE d.received_at >= {since} AND d.`offset` > heard.d0 AND d.`offset` <= heard.d1) AS decisions,
  (SELECT COUNT(DISTINCT CONCAT(r.producer, ':', CAST(r.`offset` AS STRING)))
     FROM rewards AS r JOIN heard ON r.producer = heard.producer
     WHERE r.received_at >= {since} AND r.`offset` > heard.r0 AND r.`offset` <= heard.r1) AS rewards,
  (SELECT COUNT(DISTINCT CONCAT(x.producer, ':', x.kind, ':', CAST(x.`offset` AS STRING)))
     FROM rejected_events AS x WHERE x.received_at >= {since}) AS rejected
"""


def _age_s(then: datetime, now: datetime) -> float:
    return round((now - then).total_seconds(), 3)
