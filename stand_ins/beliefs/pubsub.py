"""What the message bus stands on: attributes, acknowledgement in time, and a second delivery of what nobody took."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from typing import Any

from google.api_core.exceptions import NotFound

from stand_ins.beliefs.scratch import Belief, Scratch, until


def take(scratch: Scratch, wanted: str) -> Any:
    """The message with this data, however long Pub/Sub takes; others are acknowledged and dropped."""

    def look() -> Any:
        pulled = scratch.clients.subscriber.pull(subscription=scratch.subscription, max_messages=100, timeout=20)
        for received in pulled.received_messages:
            if received.message.data == wanted.encode():
                return received
            scratch.clients.subscriber.acknowledge(subscription=scratch.subscription, ack_ids=[received.ack_id])
        return None

    received = until(look, timeout_s=60)
    assert received is not None, f"{wanted} did not come within 60 s"
    return received


def publish(scratch: Scratch, *texts: str, **attributes: str) -> list[str]:
    messages = [{"data": text.encode(), "attributes": attributes} for text in texts]
    return list(scratch.clients.publisher.publish(topic=scratch.topic, messages=messages).message_ids)


def attributes_travel_with_the_data(scratch: Scratch) -> str | None:
    _ = scratch.subscription
    publish(scratch, "travels", kind="decision", producer="bus-1", offset="7", received_at="2026-01-01T00:00:00.000001")
    received = take(scratch, "travels")
    assert dict(received.message.attributes) == {
        "kind": "decision",
        "producer": "bus-1",
        "offset": "7",
        "received_at": "2026-01-01T00:00:00.000001",
    }
    scratch.clients.subscriber.acknowledge(subscription=scratch.subscription, ack_ids=[received.ack_id])
    return None


def what_is_not_taken_comes_again(scratch: Scratch) -> str | None:
    _ = scratch.subscription
    (message_id,) = publish(scratch, "again")
    first = take(scratch, "again")
    scratch.clients.subscriber.modify_ack_deadline(
        subscription=scratch.subscription, ack_ids=[first.ack_id], ack_deadline_seconds=0
    )
    second = take(scratch, "again")
    assert second.message.message_id == first.message.message_id == message_id
    scratch.clients.subscriber.acknowledge(subscription=scratch.subscription, ack_ids=[second.ack_id])
    return None


def a_request_of_many_is_acknowledged_in_one(scratch: Scratch) -> str | None:
    ids = publish(scratch, *(f"many {number}" for number in range(1000)))
    assert len(set(ids)) == 1000
    return None


def an_acknowledgement_comes_well_within_the_deadline(scratch: Scratch) -> str | None:
    took = []
    for number in range(20):
        began = time.perf_counter()
        publish(scratch, f"timed {number}")
        took.append(1000 * (time.perf_counter() - began))
    assert sorted(took)[-2] < 2000, f"serving.publish_deadline_s is 2 s, publishes took {took} ms"
    return f"median {statistics.median(took):.0f} ms, worst {max(took):.0f} ms"


def a_topic_that_is_not_there_is_not_found(scratch: Scratch) -> str | None:
    try:
        scratch.clients.publisher.publish(topic=f"{scratch.names.events_topic}-absent", messages=[{"data": b"x"}])
    except NotFound:
        return None
    raise AssertionError("a message for no topic was taken")


def a_message_tells_when_it_was_taken(scratch: Scratch) -> str | None:
    _ = scratch.subscription
    began = datetime.now(UTC)
    publish(scratch, "stamped")
    received = take(scratch, "stamped")
    scratch.clients.subscriber.acknowledge(subscription=scratch.subscription, ack_ids=[received.ack_id])
    skew = abs((received.message.publish_time - began).total_seconds())
    assert skew < 30, f"publish_time is {skew:.0f} s off this machine's clock"
    return f"{skew:.2f} s from this machine's clock"


BELIEFS = (
    Belief("pubsub", "a message tells when Pub/Sub took it", a_message_tells_when_it_was_taken),
    Belief("pubsub", "attributes travel with the data", attributes_travel_with_the_data),
    Belief("pubsub", "what nobody acknowledges comes again under its message id", what_is_not_taken_comes_again),
    Belief("pubsub", "1,000 messages are acknowledged in one answer", a_request_of_many_is_acknowledged_in_one),
    Belief(
        "pubsub",
        "a publish is acknowledged well within the deadline",
        an_acknowledgement_comes_well_within_the_deadline,
    ),
    Belief("pubsub", "a topic that is not there is NOT_FOUND", a_topic_that_is_not_there_is_not_found),
)
