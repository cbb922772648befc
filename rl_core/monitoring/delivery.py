"""Measures delivery: how much of what servers acknowledged is in the log, and how far behind it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rl_core.config import Bandit, Settings
from rl_core.monitoring.log_figures import (
    COUNTED,
    LOOK_BACK,
    LogFigures,
    counted,
    figures_of,
    instant,
    local_figures,
)

if TYPE_CHECKING:
    from rl_core.backends.contracts.bus import MessageBus
    from rl_core.backends.contracts.store import EventStore, OpenDecisions


@dataclass(frozen=True)
class Delivery:
    """How complete and how late the log is.

    Args:
        acknowledged: events that servers confirmed to their clients, in the time that was looked at.
        stored: those of them that are in the log.
        rejected: of the last hour, those of them that could not become a row (dead letters).
        rejected_ever: of all that `acknowledged` counts; None where that is of the last hour, too.
        watermark: everything received before it is in the log; None where that is not known yet.
        gaps: producers of whom something is missing that should be there.
        read_at: now, by the clock of the watermark; None where that is the caller's.
        log: what the log holds of late.
        open_decisions: what waits for its reward, by producer.
    """

    acknowledged: int
    stored: int
    rejected: int = 0
    watermark: datetime | None = None
    gaps: int = 0
    read_at: datetime | None = None
    log: LogFigures = field(default_factory=LogFigures)
    rejected_ever: int | None = None
    open_decisions: Sequence[OpenDecisions] = ()

    @property
    def missing(self) -> int:
        """Events acknowledged that are neither in the log nor a dead letter."""
        apart = self.rejected if self.rejected_ever is None else self.rejected_ever
        return max(0, self.acknowledged - self.stored - apart)


def local_delivery(bandit: Bandit, settings: Settings, store: EventStore) -> Delivery:
    """Measure the delivery of a bandit whose bus is on this machine."""
    from rl_core.backends import open_backend

    if not (settings.state_dir(bandit) / "bus").exists():
        seen = local_figures(bandit, store, datetime.now(UTC))
        return Delivery(0, 0, log=seen, open_decisions=store.open_decisions())
    bus = open_backend(bandit, settings).bus()
    try:
        return delivery_of(bandit, bus, store)
    finally:
        bus.close()


def delivery_of(bandit: Bandit, bus: MessageBus, store: EventStore) -> Delivery:
    """Measure delivery from a bus and a store; the first message that is not in the log holds the watermark back."""
    stored = {topic: store.last_offset(topic, bus.producer) for topic in _TOPICS}
    waiting = [one for topic in _TOPICS for one in bus.read(topic, stored[topic], limit=1)]
    watermark = min((one.received_at for one in waiting if one.payload), default=None) or bus.watermark()
    now = bus.now()  # after the watermark, which waits for its turn
    (refused,) = store.query(_REJECTED.format(since=instant(now - LOOK_BACK), producer=bus.producer)).to_pylist()
    return Delivery(
        acknowledged=sum(bus.head(topic) for topic in _TOPICS),
        stored=sum(stored.values()) - refused["ever"],
        rejected=refused["of_late"],
        rejected_ever=refused["ever"],
        watermark=watermark,
        read_at=now,
        log=local_figures(bandit, store, now),
        open_decisions=store.open_decisions(),
    )


def bigquery_delivery(
    bandit: Bandit, store: EventStore, watermark: datetime | None, gaps: int, now: datetime
) -> Delivery:
    """Measure the last hour's delivery of a bandit on Pub/Sub, from the heartbeats of its servers.

    Between two heartbeats of a server lie exactly the events it confirmed. The last minutes are left out: what is on
    its way is not missing.
    """
    since, until = instant(now - LOOK_BACK), instant(now - _ON_ITS_WAY)
    tables = counted(bandit, store.head(), now, rows=_DISTINCT)
    (row,) = store.query(_DELIVERY.format(since=since, until=until, tables=tables, counted=COUNTED)).to_pylist()
    return Delivery(
        acknowledged=row["acknowledged"] or 0,
        stored=row["decisions"] + row["rewards"] + row["activations"],
        rejected=row["rejected"],
        watermark=watermark,
        gaps=gaps,
        log=figures_of(row),
        open_decisions=store.open_decisions(),
    )


_DISTINCT = "COUNT(DISTINCT CONCAT(l.producer, ':', CAST(l.`offset` AS STRING)))"
_ON_ITS_WAY = timedelta(minutes=2)
_TOPICS: Any = ("decisions", "rewards")
_REJECTED = """
SELECT COUNT(*) AS ever, COUNT(CASE WHEN received_at >= {since} THEN 1 END) AS of_late
FROM rejected_events WHERE producer = '{producer}'
"""
_DELIVERY = """
WITH heard AS (
  SELECT producer, MIN(decisions) AS d0, MAX(decisions) AS d1, MIN(rewards) AS r0, MAX(rewards) AS r1
  FROM heartbeats WHERE `at` >= {since} AND `at` <= {until} GROUP BY producer
),
delivered AS (
  SELECT
    (SELECT SUM(d1 - d0 + r1 - r0) FROM heard) AS acknowledged,
    (SELECT COUNT(DISTINCT CONCAT(d.producer, ':', CAST(d.`offset` AS STRING)))
       FROM decisions AS d JOIN heard ON d.producer = heard.producer
       WHERE d.received_at >= {since} AND d.`offset` > heard.d0 AND d.`offset` <= heard.d1) AS decisions,
    (SELECT COUNT(DISTINCT CONCAT(r.producer, ':', CAST(r.`offset` AS STRING)))
       FROM rewards AS r JOIN heard ON r.producer = heard.producer
       WHERE r.received_at >= {since} AND r.`offset` > heard.r0 AND r.`offset` <= heard.r1) AS rewards,
    (SELECT COUNT(DISTINCT CONCAT(a.producer, ':', CAST(a.`offset` AS STRING)))
       FROM activations AS a JOIN heard ON a.producer = heard.producer
       WHERE a.received_at >= {since} AND a.`offset` > heard.r0 AND a.`offset` <= heard.r1) AS activations,
    (SELECT COUNT(DISTINCT CONCAT(x.producer, ':', x.kind, ':', CAST(x.`offset` AS STRING)))
       FROM rejected_events AS x WHERE x.received_at >= {since}) AS rejected
),
{tables}
SELECT * FROM delivered CROSS JOIN {counted}
"""
