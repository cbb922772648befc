"""Everything that Pub/Sub delivers of the topic of events, read back through a subscription of its own."""

from __future__ import annotations

from google.api_core.exceptions import AlreadyExists
from google.pubsub_v1.types import Subscription, Topic

from rl_core.backends.contracts.bus import Topic as Table
from rl_core.backends.gcp.bus.messages import KINDS, Event, Heartbeat
from rl_core.google_cloud.clients import GoogleClients
from stand_ins.pubsub import PubSubStandIn


class DeliveredEvents:
    """Makes the topic where it is missing; delivers from then on."""

    def __init__(self, clients: GoogleClients, pubsub: PubSubStandIn) -> None:
        self.clients = clients
        self._pubsub = pubsub
        self.subscription = f"projects/{clients.names.project}/subscriptions/everything"
        self._all: list[Event] = []
        for make, resource in (
            (clients.publisher.create_topic, Topic(name=clients.names.events_topic)),
            (
                clients.subscriber.create_subscription,
                Subscription(name=self.subscription, topic=clients.names.events_topic, ack_deadline_seconds=60),
            ),
        ):
            try:
                make(resource)
            except AlreadyExists:
                continue

    def all(self) -> list[Event]:
        """In the order of delivery, those delivered twice twice."""
        subscriber = self.clients.subscriber
        while self._pubsub.backlog(self.subscription):
            received = list(subscriber.pull(subscription=self.subscription, max_messages=1000).received_messages)
            self._all += [Event.of(one.message.data, one.message.attributes) for one in received]
            subscriber.acknowledge(subscription=self.subscription, ack_ids=[one.ack_id for one in received])
        return self._all

    def of(self, table: Table) -> list[Event]:
        """Each once, by producer and offset."""
        found = {(e.producer, e.offset): e for e in self.all() if e.kind == KINDS[table]}
        return [found[place] for place in sorted(found)]

    def heartbeats(self) -> list[Heartbeat]:
        return [Heartbeat.of(event.payload) for event in self.all() if event.kind == "heartbeat"]
