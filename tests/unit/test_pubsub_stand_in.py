"""Our Pub/Sub keeps what it is told, redelivers, pushes, and refuses what the real one refuses."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions as google
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import field_mask_pb2
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import (
    PublishRequest,
    PubsubMessage,
    PushConfig,
    StreamingPullRequest,
    Subscription,
    Topic,
    UpdateSubscriptionRequest,
    UpdateTopicRequest,
)
from starlette.requests import Request
from starlette.responses import Response

from stand_ins.faults import Fault, Faults
from stand_ins.pubsub import PubSubStandIn
from stand_ins.serving import served
from tests.harness.patience import until

TOPIC = "projects/p/topics/events"
SUBSCRIPTION = "projects/p/subscriptions/reader"


class World:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.faults = Faults()
        self.stand_in = stack.enter_context(PubSubStandIn(folder, self.faults))
        self.channel = stack.enter_context(grpc.insecure_channel(self.stand_in.address))
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=self.channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=self.channel))

    def subscribed(self, **fields: Any) -> None:
        self.publisher.create_topic(Topic(name=TOPIC))
        self.subscriber.create_subscription(Subscription(name=SUBSCRIPTION, topic=TOPIC, **fields))

    def publish(self, *texts: str, **fields: Any) -> list[str]:
        messages = [PubsubMessage(data=text.encode(), **fields) for text in texts]
        return list(self.publisher.publish(topic=TOPIC, messages=messages, retry=None).message_ids)

    def pull(self) -> dict[str, str]:
        """Ack ids by text."""
        answer = self.subscriber.pull(subscription=SUBSCRIPTION, max_messages=100)
        return {received.message.data.decode(): received.ack_id for received in answer.received_messages}

    def acknowledge(self, *ack_ids: str) -> None:
        self.subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=ack_ids)


@contextmanager
def opened(folder: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(folder, stack)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with opened(tmp_path) as world:
        yield world


class TestMessages:
    def test_are_delivered_to_every_subscription_there_was(self, world: World) -> None:
        world.subscribed()
        other = "projects/p/subscriptions/other"
        world.publish("early")
        world.subscriber.create_subscription(Subscription(name=other, topic=TOPIC))
        ids = world.publish("late", attributes={"kind": "decision"})
        assert list(world.pull()) == ["early", "late"]
        [received] = world.subscriber.pull(subscription=other, max_messages=10).received_messages
        message = received.message
        assert (message.message_id, message.data, dict(message.attributes)) == (ids[0], b"late", {"kind": "decision"})
        assert abs(message.publish_time.timestamp() - time.time()) < 5

    def test_come_again_unless_they_are_acknowledged_in_time(self, world: World) -> None:
        world.subscribed()
        world.publish("a", "b")
        pulled = world.pull()
        world.acknowledge(pulled["a"])
        assert world.pull() == {}, "b is leased"
        world.subscriber.modify_ack_deadline(subscription=SUBSCRIPTION, ack_ids=[pulled["b"]], ack_deadline_seconds=0)
        again = world.pull()
        assert list(again) == ["b"]
        world.acknowledge(pulled["b"])
        assert world.stand_in.backlog(SUBSCRIPTION) == 1, "the old acknowledgement id is void"
        world.acknowledge(again["b"])
        assert world.stand_in.backlog(SUBSCRIPTION) == 0

    def test_outlive_a_restart(self, tmp_path: Path) -> None:
        with opened(tmp_path) as world:
            world.subscribed()
            world.publish("a", "b")
        with opened(tmp_path) as world:
            assert list(world.pull()) == ["a", "b"]
            assert world.publish("c") == ["3"], "ids are not given twice"

    def test_with_one_ordering_key_come_one_after_the_other(self, world: World) -> None:
        world.subscribed(enable_message_ordering=True)
        world.publish("a1", ordering_key="a")
        first = world.pull()
        world.publish("a2", ordering_key="a")
        world.publish("b1", ordering_key="b")
        assert list(world.pull()) == ["b1"]
        world.acknowledge(first["a1"])
        assert list(world.pull()) == ["a2"]

    def test_are_streamed_and_acknowledged_on_the_stream(self, world: World) -> None:
        world.subscribed()
        world.publish("a", "b")
        acknowledged: list[str] = []

        def requests() -> Iterator[StreamingPullRequest]:
            yield StreamingPullRequest(subscription=SUBSCRIPTION, stream_ack_deadline_seconds=10)
            while not acknowledged:
                time.sleep(0.005)
            yield StreamingPullRequest(ack_ids=acknowledged)

        stream = world.subscriber.streaming_pull(requests=requests())
        received = next(iter(stream)).received_messages
        assert [one.message.data for one in received] == [b"a", b"b"]
        acknowledged.extend(one.ack_id for one in received)
        until(lambda: world.stand_in.backlog(SUBSCRIPTION) == 0)
        stream.cancel()


class TestPush:
    def test_is_tried_until_the_answer_is_2xx(self, world: World) -> None:
        got: list[tuple[str | None, dict[str, Any]]] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            request = Request(scope, receive)
            got.append((request.headers.get("ce-type"), json.loads(await request.body())))
            await Response(status_code=503 if len(got) < 4 else 204)(scope, receive, send)

        with served(app) as url:
            world.subscribed(push_config=PushConfig(push_endpoint=f"{url}/"))
            [message_id] = world.publish("a", attributes={"kind": "reward"})
            until(lambda: world.stand_in.backlog(SUBSCRIPTION) == 0)
        assert [body["message"]["messageId"] for _, body in got] == [message_id] * 4
        kind, body = got[-1]
        assert kind == "google.cloud.pubsub.topic.v1.messagePublished"
        assert base64.b64decode(body["message"]["data"]) == b"a"
        assert body["message"]["attributes"] == {"kind": "reward"}
        assert body["subscription"] == SUBSCRIPTION

    def test_waits_for_a_subscriber_that_is_away(self, world: World, tmp_path: Path) -> None:
        world.subscribed(push_config=PushConfig(push_endpoint="http://127.0.0.1:1/"))
        world.publish("a", "b")
        until(lambda: world.faults.calls.get("Push", 0) > 3)
        assert world.stand_in.backlog(SUBSCRIPTION) == 2
        got = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            got.append(await Request(scope, receive).body())
            await Response(status_code=200)(scope, receive, send)

        with served(app) as url:
            world.subscriber.modify_push_config(
                subscription=SUBSCRIPTION, push_config=PushConfig(push_endpoint=f"{url}/")
            )
            until(lambda: world.stand_in.backlog(SUBSCRIPTION) == 0)
        assert len(got) == 2


class TestResources:
    def test_are_made_changed_listed_and_deleted(self, world: World) -> None:
        world.subscribed(ack_deadline_seconds=20)
        mask = field_mask_pb2.FieldMask(paths=["labels"])
        changed = Topic(name=TOPIC, labels={"banditloop": "v1"})
        world.publisher.update_topic(UpdateTopicRequest(topic=changed, update_mask=mask))
        assert dict(world.publisher.get_topic(topic=TOPIC).labels) == {"banditloop": "v1"}
        given = Subscription(name=SUBSCRIPTION, ack_deadline_seconds=60, labels={"a": "b"})
        found = world.subscriber.update_subscription(
            UpdateSubscriptionRequest(subscription=given, update_mask={"paths": ["ack_deadline_seconds"]})
        )
        assert (found.ack_deadline_seconds, dict(found.labels), found.topic) == (60, {}, TOPIC)
        assert [topic.name for topic in world.publisher.list_topics(project="projects/p")] == [TOPIC]
        assert list(world.publisher.list_topic_subscriptions(topic=TOPIC)) == [SUBSCRIPTION]
        world.publisher.delete_topic(topic=TOPIC)
        assert world.subscriber.get_subscription(subscription=SUBSCRIPTION).topic == "_deleted-topic_"
        world.subscriber.delete_subscription(subscription=SUBSCRIPTION)
        assert list(world.subscriber.list_subscriptions(project="projects/p")) == []

    def test_are_listed_in_pages(self, world: World) -> None:
        names = [f"projects/p/topics/topic-{i}" for i in range(5)]
        for name in names:
            world.publisher.create_topic(name=name)
        pages = world.publisher.list_topics(request={"project": "projects/p", "page_size": 2}).pages
        assert [[topic.name for topic in page.topics] for page in pages] == [names[:2], names[2:4], names[4:]]

    def test_have_a_policy_that_is_changed_by_its_etag(self, world: World) -> None:
        world.subscribed()
        policy = world.publisher.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=TOPIC))
        policy.bindings.append(policy_pb2.Binding(role="roles/pubsub.publisher", members=["serviceAccount:a@b"]))
        request = iam_policy_pb2.SetIamPolicyRequest(resource=TOPIC, policy=policy)
        world.publisher.set_iam_policy(request)
        found = world.publisher.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=TOPIC))
        assert [binding.role for binding in found.bindings] == ["roles/pubsub.publisher"]
        with pytest.raises(google.Aborted):
            world.publisher.set_iam_policy(request)


class TestRefusals:
    def test_name_what_is_not_there(self, world: World) -> None:
        with pytest.raises(google.NotFound, match="events"):
            world.publish("a")
        with pytest.raises(google.NotFound, match="reader"):
            world.pull()
        with pytest.raises(google.NotFound, match="events"):
            world.subscriber.create_subscription(Subscription(name=SUBSCRIPTION, topic=TOPIC))

    def test_of_what_is_there_already(self, world: World) -> None:
        world.subscribed()
        with pytest.raises(google.AlreadyExists):
            world.publisher.create_topic(name=TOPIC)

    @pytest.mark.parametrize(
        "name", ["events", "projects/p/topics/ab", "projects/p/topics/goog-a", "projects//topics/abc"]
    )
    def test_of_names_that_break_the_rules(self, world: World, name: str) -> None:
        with pytest.raises(google.InvalidArgument, match="Invalid resource name"):
            world.publisher.create_topic(name=name)

    @pytest.mark.parametrize(
        ("messages", "why"),
        [
            ([], "empty batch"),
            ([PubsubMessage()], "data or attributes"),
            ([PubsubMessage(data=b"a", message_id="1")], "given by the service"),
            ([PubsubMessage(data=b"a", attributes={"a": "x" * 1025})], "at most 1024"),
            ([PubsubMessage(data=b"a")] * 1001, "message_count"),
            ([PubsubMessage(data=b"a" * 2_600_000)] * 4, "request_size"),
        ],
    )
    def test_of_messages_that_break_the_limits(self, world: World, messages: list[PubsubMessage], why: str) -> None:
        world.subscribed()
        with pytest.raises(google.InvalidArgument, match=why):
            world.publisher.publish(topic=TOPIC, messages=messages)
        assert world.stand_in.backlog(SUBSCRIPTION) == 0

    def test_of_fields_that_the_api_does_not_have(self, world: World) -> None:
        world.subscribed()
        call = world.channel.unary_unary("/google.pubsub.v1.Publisher/Publish")
        request = PublishRequest.serialize(PublishRequest(topic=TOPIC, messages=[PubsubMessage(data=b"a")]))
        with pytest.raises(grpc.RpcError, match="PublishRequest has no field 99"):
            call(request + b"\x9a\x06\x01a")

    def test_come_where_a_test_asks_for_them(self, world: World) -> None:
        world.subscribed()
        world.faults.add(Fault("Publish", "RESOURCE_EXHAUSTED", after=True))
        with pytest.raises(google.ResourceExhausted):
            world.publish("a")
        assert list(world.pull()) == ["a"]
