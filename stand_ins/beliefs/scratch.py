"""Resources that a check may use: made at first use under a name of their own, and gone afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from rl_core.google_cloud.clients import GoogleClients


@dataclass(frozen=True)
class Belief:
    """Args:
    check: raises AssertionError where the service does something else; returns what it measured, if anything.
    """

    service: str
    statement: str
    check: Callable[[Scratch], str | None]


class Scratch:
    """`names` of the clients' bandit name everything; its prefix must be nobody else's."""

    def __init__(self, clients: GoogleClients) -> None:
        self.clients = clients
        self.names = clients.names
        self.left_behind: list[str] = []
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def undo(self, what: str, call: Callable[[], object]) -> None:
        """Call it at the end, whatever happened; what fails then is named in `left_behind`."""

        def guarded() -> None:
            try:
                call()
            except Exception as error:  # the others must still be undone
                self.left_behind.append(f"{what} ({' '.join(str(error).split())})")

        self._undo.callback(guarded)

    @cached_property
    def dataset(self) -> str:
        from google.cloud import bigquery

        name = f"{self.names.project}.{self.names.dataset}"
        dataset = bigquery.Dataset(name)
        dataset.location, dataset.labels = self.names.location, self.names.labels
        dataset.default_table_expiration_ms = 3_600_000  # even if this process is killed
        self.undo(f"dataset {name}", lambda: self.clients.bigquery.delete_dataset(name, delete_contents=True))
        self.clients.bigquery.create_dataset(dataset)
        return name

    @cached_property
    def bucket(self) -> Any:
        bucket = self.clients.storage.bucket(self.names.bucket)
        bucket.labels = self.names.labels
        self.undo(f"bucket gs://{bucket.name}", lambda: bucket.delete(force=True))
        self.clients.storage.create_bucket(bucket, location=self.names.location)
        return bucket

    @cached_property
    def topic(self) -> str:
        publisher, name = self.clients.publisher, self.names.events_topic
        self.undo(f"topic {name}", lambda: publisher.delete_topic(topic=name))
        publisher.create_topic(name=name)
        return name

    @cached_property
    def subscription(self) -> str:
        subscriber, name = self.clients.subscriber, self.topic.replace("/topics/", "/subscriptions/")
        self.undo(f"subscription {name}", lambda: subscriber.delete_subscription(subscription=name))
        subscriber.create_subscription(name=name, topic=self.topic, ack_deadline_seconds=10)
        return name


def until(true: Callable[[], object], timeout_s: float, every_s: float = 0.2) -> object:
    """The first answer that counts as true, or the last one given."""
    deadline = time.monotonic() + timeout_s
    while not (answer := true()) and time.monotonic() < deadline:
        time.sleep(every_s)
    return answer
