"""The joiner where the log is in BigQuery: one transaction per run, and how far the servers' events have arrived.

Runs are serialised by the one row of table `joiner`: each changes it, so that of two at once BigQuery aborts one, which
then begins again with what the other left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from rl_core.backends.contracts.bus import BUS_PREFIX
from rl_core.backends.contracts.store import JoinRun
from rl_core.backends.gcp.store.queries import Null, Parameter, Queries, sql_file
from rl_core.config import Bandit
from rl_core.errors import StoreError
from rl_core.schema import DECISION, REWARD, Column
from rl_core.waiting import tries

JOINER_PRODUCER = f"{BUS_PREFIX}joiner"
_OVERTAKEN = "another run of the joiner came in between"
_TRIES = 10
_GAP_AFTER = timedelta(seconds=60)  # what is missing for less is on its way


@dataclass(frozen=True)
class Server:
    """What is known of a producer, from its heartbeats and from what is stored.

    Args:
        heard_at: when Pub/Sub took its last heartbeat.
        delivered_at: of all producers alike: whatever was accepted before it has been delivered, as far as ours tell.
        ended: it said that it accepts nothing more under this name.
        met_at: its last heartbeat all of whose events are stored.
        unmet_since: its first heartbeat some of whose events are not.
    """

    producer: str
    heard_at: datetime
    delivered_at: datetime | None
    ended: bool
    met_at: datetime | None
    unmet_since: datetime | None
    decisions: int
    rewards: int
    stored_decisions: int
    stored_rewards: int


@dataclass(frozen=True)
class Gap:
    """A producer that holds the watermark back, since events of it are missing."""

    server: Server

    def __str__(self) -> str:
        one = self.server
        return (
            f"{one.producer} had {one.decisions} decisions and {one.rewards} rewards acknowledged, of which all up to "
            f"{one.stored_decisions} and {one.stored_rewards} are stored, since {one.unmet_since}; look at the logger "
            "function and its dead letters. What is lost for good: insert its producer, kind and offset into "
            "rejected_events"
        )


@dataclass(frozen=True)
class JoinerRow:
    """The one row of table `joiner`."""

    head: int
    revision: int
    open: int
    open_from: datetime
    next_from: datetime | None
    watermark: datetime | None


class JoinedLog(Protocol):
    """What the joiner needs of the event store."""

    queries: Queries

    def joiner_row(self) -> JoinerRow: ...


class SqlJoiner:
    """`Joiner` over a BigQueryEventStore; a run keeps nothing for the next."""

    def __init__(self, bandit: Bandit, store: JoinedLog) -> None:
        if bandit.google is None:
            raise StoreError(f"{bandit.name}: has no section google; this joiner is BigQuery's")
        self._bandit = bandit
        self._store = store
        self._servers: list[Server] | None = None
        self._silent_after = timedelta(seconds=bandit.google.silent_after_s)

    def run(self, watermark: datetime | None) -> JoinRun:
        wait = timedelta(microseconds=int(self._bandit.join.reward_wait_s * 1_000_000))
        sql = sql_file(
            "join",
            overtaken=_OVERTAKEN,
            decision=_listed(DECISION),
            of_decision=_listed(DECISION, "o."),
            reward=_listed(REWARD),
        )
        for left in tries(_TRIES, 0.05, 1.0):
            parameters = self._parameters(self._store.joiner_row(), watermark, wait)
            try:
                answer = self._store.queries.transact("join", sql, **parameters)
            except StoreError as error:
                if _OVERTAKEN not in str(error) or not left:
                    raise
                continue
            (row,) = answer.rows.to_pylist()
            return JoinRun(row["interactions"], row["apart"], row["head"], row["open"])
        raise AssertionError("unreachable")

    def watermark(self) -> datetime | None:
        """Return the time before which every event that a server accepted is in the store; None: not known.

        As far as heartbeats tell. A server that said goodbye, or was not heard of for google.silent_after_s before the
        time up to which delivery works, is taken as gone, unless something that it accepted is still missing: that
        holds the watermark, see `gaps`. How far delivery works: sql/watermark.sql.
        """
        servers = self.servers()
        here = next((server.delivered_at for server in servers), None)
        if here is None:
            return None
        marks = [here]
        for server in servers:
            silent = server.ended or server.heard_at < here - self._silent_after
            gone = silent and server.unmet_since is None
            if server.producer == JOINER_PRODUCER or gone:
                continue
            if server.met_at is None:
                return None
            marks.append(server.met_at)
        return min(marks)

    def gaps(self) -> list[Gap]:
        """Return the producers with events missing for a minute or longer, as `watermark` last found them."""
        servers = self._servers if self._servers is not None else self.servers()
        here = max((server.heard_at for server in servers), default=datetime.min.replace(tzinfo=UTC))
        return [Gap(s) for s in servers if s.unmet_since is not None and s.unmet_since < here - _GAP_AFTER]

    def servers(self) -> list[Server]:
        """Query what is known of every producer."""
        known = self._store.joiner_row().watermark
        answer = self._store.queries.run(
            "watermark",
            sql_file("watermark"),
            watermark=Null("TIMESTAMP") if known is None else known,
            silent_us=self._silent_after // timedelta(microseconds=1),
            prompt_us=_GAP_AFTER // timedelta(microseconds=1),
        )
        self._servers = [Server(**row) for row in answer.rows.to_pylist()]
        return self._servers

    def _parameters(self, row: JoinerRow, watermark: datetime | None, wait: timedelta) -> dict[str, Parameter]:
        return {
            "revision": row.revision,
            "head": row.head,
            "open_from": row.open_from,
            "watermark": Null("TIMESTAMP") if watermark is None else watermark,
            "given_up_before": Null("TIMESTAMP") if watermark is None else watermark - wait,
            "wait_us": wait // timedelta(microseconds=1),
            "close_early": self._bandit.join.close_early,
            "reward_default": float(self._bandit.problem.reward_default),
            "now": datetime.now(UTC),
        }


def _listed(columns: tuple[Column, ...], owner: str = "") -> str:
    return ", ".join(f"{owner}`{column.name}`" for column in columns)
