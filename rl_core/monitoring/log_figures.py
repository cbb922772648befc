"""Counts what the log holds of late, by one query that DuckDB and BigQuery both understand."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rl_core.backends.contracts.bus import BUS_PREFIX
from rl_core.bandit.sample_ratio import Split

if TYPE_CHECKING:
    from rl_core.backends.contracts.store import EventStore
    from rl_core.config import Bandit

LOOK_BACK = timedelta(hours=1)
SPLIT_ROWS = 100_000  # at ε = 0.05, the loss of a tenth of those that explored is found in 99.9 % of such logs


@dataclass(frozen=True)
class LogFigures:
    """Counts of the last hour; those of rewards set apart reach back further by as long as a reward may take.

    Args:
        interactions: decisions that were closed, used or not.
        rewarded: the share of them that a reward closed; None where nothing was closed.
        split: of the last SPLIT_ROWS interactions, however old.
    """

    decisions: int = 0
    rewards: int = 0
    interactions: int = 0
    rewarded: float | None = None
    duplicates: int = 0
    late: int = 0
    unknown: int = 0
    unactivated: int = 0
    rewards_of_late: int = 0
    split: Split = field(default_factory=Split)


def local_figures(bandit: Bandit, store: EventStore, now: datetime) -> LogFigures:
    """Count the log of a bandit on this machine. Raises StoreError."""
    tables = counted(bandit, store.head(), now, rows="COUNT(*)")
    (row,) = store.query(f"WITH {tables} SELECT * FROM {COUNTED}").to_pylist()  # noqa: S608
    return figures_of(row)


def figures_of(row: dict[str, Any]) -> LogFigures:
    """Read the figures from a row with the columns of COUNTED."""
    closed, used = row["closed"], row["closed"] - row["unactivated"]
    return LogFigures(
        decisions=row["logged_decisions"],
        rewards=row["logged_rewards"],
        interactions=closed,
        rewarded=round(row["by_reward"] / used, 4) if used else None,
        duplicates=row["duplicates"],
        late=row["late"],
        unknown=row["unknown"],
        unactivated=row["unactivated"],
        rewards_of_late=row["rewards_of_late"],
        split=Split(row["explored"], float(row["expected"] or 0.0), float(row["variance"] or 0.0)),
    )


COUNTED = "logged CROSS JOIN closed CROSS JOIN apart"
"""One row of the tables that `counted` defines."""


def counted(bandit: Bandit, head: int, now: datetime, rows: str) -> str:
    """Write the definitions for a WITH clause; `rows` counts the rows of a log `l`, where one may be there twice."""
    since = instant(now - LOOK_BACK)
    since_apart = instant(now - LOOK_BACK - timedelta(seconds=bandit.join.reward_wait_s))
    return _COUNTED.format(since=since, since_apart=since_apart, beyond=head - SPLIT_ROWS, rows=rows, bus=BUS_PREFIX)


def instant(at: datetime) -> str:
    """Write a time as a literal of both dialects."""
    return f"TIMESTAMP '{at.isoformat(sep=' ')}'"


# A row explored where its propensity is ε/K, not 1 - ε + ε/K: at most ε/2, as long as ε is below 2/3. In the first case
# the probability to explore, ε - ε/K, is ε less the propensity, in the second 1 less it: K need not be read.
_COUNTED = """
recent AS (
  SELECT
    closed_by, closed_at, propensity <= 0.5000001 * epsilon AS explores,
    CASE WHEN propensity <= 0.5000001 * epsilon THEN epsilon - propensity ELSE 1.0 - propensity END AS q,
    served AND closed_by <> 'forgotten' AND SUBSTR(producer, 1, 4) = '{bus}' AND epsilon < 0.66
      AND propensity > 0.0 AND propensity <= 1.0 AS drawn
  FROM interactions WHERE seq > {beyond}
),
closed AS (
  SELECT
    COUNT(CASE WHEN closed_at >= {since} AND closed_by <> 'forgotten' THEN 1 END) AS closed,
    COUNT(CASE WHEN closed_at >= {since} AND closed_by = 'reward' THEN 1 END) AS by_reward,
    COUNT(CASE WHEN closed_at >= {since} AND closed_by = 'unactivated' THEN 1 END) AS unactivated,
    COUNT(CASE WHEN drawn AND explores THEN 1 END) AS explored,
    SUM(CASE WHEN drawn THEN q END) AS expected,
    SUM(CASE WHEN drawn THEN q * (1.0 - q) END) AS variance
  FROM recent
),
logged AS (
  SELECT
    (SELECT {rows} FROM decisions AS l WHERE l.received_at >= {since}) AS logged_decisions,
    (SELECT {rows} FROM rewards AS l WHERE l.received_at >= {since} AND NOT COALESCE(l.activation, FALSE))
      AS logged_rewards,
    (SELECT {rows} FROM rewards AS l WHERE l.received_at >= {since_apart} AND NOT COALESCE(l.activation, FALSE))
      AS rewards_of_late
),
apart AS (
  SELECT
    COUNT(CASE WHEN reason = 'duplicate' THEN 1 END) AS duplicates,
    COUNT(CASE WHEN reason = 'late' THEN 1 END) AS late,
    COUNT(CASE WHEN reason = 'unknown' THEN 1 END) AS unknown
  FROM rewards_apart WHERE received_at >= {since_apart}
)
"""
