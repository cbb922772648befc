"""Sends requests to the topic of events: each within a deadline, and it is known whether all of it was taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rl_core.backends.gcp.bus.messages import Event
from rl_core.errors import BusError, ConfigError
from rl_core.google_cloud.failures import explained, transient

if TYPE_CHECKING:
    from rl_core.google_cloud.clients import GoogleClients

MESSAGES_PER_REQUEST = 1000  # https://cloud.google.com/pubsub/quotas
BYTES_PER_REQUEST = 9_000_000  # of 10 MB; attributes and framing are estimated
_ENVELOPE_BYTES = 300
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5


class EventsTopic:
    """The topic that one publisher sends to.

    Args:
        deadline_s: for one request with its retries; the library's own would be tried for ten minutes.
    """

    def __init__(self, clients: GoogleClients, deadline_s: float) -> None:
        self._clients = clients
        self._deadline_s = deadline_s

    def connect(self) -> None:
        """Load the library and find credentials, which takes longer than a deadline may. Raises ConfigError."""
        _ = self._clients.publisher

    def send(self, events: Sequence[Event]) -> None:
        """Send one request. Raises BusError: Pub/Sub may have taken all of it or nothing."""
        from google.api_core.retry import Retry
        from google.pubsub_v1.types import PublishRequest

        names = self._clients.names
        raw = PublishRequest.pb(PublishRequest(topic=names.events_topic))
        for event in events:
            raw.messages.add(data=event.payload, attributes=event.attributes)
        retry = Retry(predicate=transient, initial=_FIRST_PAUSE_S, maximum=_LONGEST_PAUSE_S, timeout=self._deadline_s)
        try:
            with explained(BusError, f"publish to {names.events_topic}", names, "roles/pubsub.publisher on the topic"):
                self._clients.publisher.publish(PublishRequest.wrap(raw), retry=retry, timeout=self._deadline_s)
        except ConfigError as error:  # no credentials
            raise BusError(str(error)) from error


def requests(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Split events into as few requests as Pub/Sub takes them in."""
    group: list[Event] = []
    size = 0
    for event in events:
        more = len(event.payload) + 4 * len(event.key) + _ENVELOPE_BYTES
        if group and (len(group) == MESSAGES_PER_REQUEST or size + more > BYTES_PER_REQUEST):
            yield group
            group, size = [], 0
        group.append(event)
        size += more
    if group:
        yield group
