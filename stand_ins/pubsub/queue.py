"""Messages between a topic and its subscriptions: leased, acknowledged, or delivered again when their time is over."""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from google.pubsub_v1.types import PubsubMessage, ReceivedMessage, Subscription

_ANSWER_BYTES = 3_500_000  # below gRPC's own limit of 4 MB, which a client without options has


@dataclass
class Unruly:
    """What at-least-once delivery allows: messages in any order, and some of them again after their acknowledgement.

    Args:
        again: share of the messages whose first acknowledgement is lost.
    """

    again: float = 0.3
    shuffle: bool = True
    seed: int = 0
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311  chance, not secrets


Transaction = Callable[..., AbstractContextManager[sqlite3.Connection]]
"""Of `State`; called with quiet=True it wakes nobody."""


class Queue:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.unruly: Unruly | None = None

    def publish(self, messages: Sequence[Any], subscriptions: Sequence[Subscription]) -> list[str]:
        """Returns the ids of the (raw protobuf) messages; all of it is kept, or none."""
        ids = []
        with self._transaction() as db:
            for message in messages:
                message.publish_time.GetCurrentTime()
                row = db.execute("INSERT INTO messages (body) VALUES (?)", (message.SerializeToString(),)).lastrowid
                ids.append(str(row))
            for subscription in subscriptions:
                ordered = subscription.enable_message_ordering
                db.executemany(
                    "INSERT INTO deliveries (subscription, message, ordering_key, due) VALUES (?, ?, ?, 0)",
                    [
                        (subscription.name, int(i), message.ordering_key if ordered else "")
                        for i, message in zip(ids, messages, strict=True)
                    ],
                )
        return ids

    def lease(self, subscription: Subscription, most: int) -> list[ReceivedMessage]:
        """Up to `most` messages that are due, which come again unless they are acknowledged in time."""
        now, unruly = time.time(), self.unruly
        query = (
            "SELECT d.message, d.attempts, m.body FROM deliveries d JOIN messages m ON m.id = d.message "
            "WHERE d.subscription = ? AND d.due <= ? "
            "AND (d.ordering_key = '' OR NOT EXISTS (SELECT 1 FROM deliveries e "
            "WHERE e.subscription = d.subscription AND e.ordering_key = d.ordering_key AND e.due > ?)) "
            "ORDER BY d.message LIMIT ?"
        )
        with self._transaction(quiet=True) as db:
            rows = db.execute(query, (subscription.name, now, now, 10 * most if unruly else most)).fetchall()
            if unruly and unruly.shuffle and not subscription.enable_message_ordering:
                unruly.random.shuffle(rows)
            leased: list[ReceivedMessage] = []
            size = 0
            for number, attempts, body in rows[:most]:
                if leased and size + len(body) > _ANSWER_BYTES:
                    break
                size += len(body)
                ack_id = uuid.uuid4().hex
                db.execute(
                    "UPDATE deliveries SET due = ?, ack_id = ?, attempts = attempts + 1 "
                    "WHERE subscription = ? AND message = ?",
                    (now + subscription.ack_deadline_seconds, ack_id, subscription.name, number),
                )
                message = PubsubMessage.deserialize(body)
                message.message_id = str(number)
                attempt = attempts + 1 if subscription.dead_letter_policy else 0
                leased.append(ReceivedMessage(ack_id=ack_id, message=message, delivery_attempt=attempt))
        return leased

    def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        """An acknowledgement that came too late is none."""
        now, unruly = time.time(), self.unruly
        with self._transaction() as db:
            for ack_id in ack_ids:
                where, values = "subscription = ? AND ack_id = ? AND due > ?", (subscription, ack_id, now)
                if unruly and unruly.random.random() < unruly.again:
                    db.execute(f"UPDATE deliveries SET due = 0, repeated = 1 WHERE {where} AND repeated = 0", values)  # noqa: S608
                    where += " AND due > 0"
                db.execute(f"DELETE FROM deliveries WHERE {where}", values)  # noqa: S608  of the words above

    def modify(self, subscription: str, ack_ids: Sequence[str], seconds: float) -> None:
        """Let them come again in `seconds` unless they are acknowledged; 0: at once."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE deliveries SET due = ? WHERE subscription = ? AND ack_id = ? AND due > ?",
                [(time.time() + seconds if seconds else 0, subscription, i, time.time()) for i in ack_ids],
            )

    def drop(self, subscription: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM deliveries WHERE subscription = ?", (subscription,))

    def backlog(self, subscription: str) -> int:
        with self._transaction(quiet=True) as db:
            (count,) = db.execute("SELECT COUNT(*) FROM deliveries WHERE subscription = ?", (subscription,)).fetchone()
        return int(count)
