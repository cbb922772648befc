"""google.pubsub.v1.Publisher."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types as t

from stand_ins.faults import Faults
from stand_ins.grpc_service import ApiError, Rpc, service
from stand_ins.pubsub.checks import check_messages, check_name
from stand_ins.pubsub.paging import merged, page
from stand_ins.pubsub.state import State

DELETED_TOPIC = "_deleted-topic_"
_CHANGEABLE = ("labels", "message_storage_policy", "message_retention_duration", "kms_key_name")


class Publisher:
    def __init__(self, state: State) -> None:
        self._state = state

    def service(self, faults: Faults) -> grpc.GenericRpcHandler:
        rpcs = {
            "CreateTopic": Rpc(self._create, t.Topic, t.Topic),
            "UpdateTopic": Rpc(self._update, t.UpdateTopicRequest, t.Topic),
            "Publish": Rpc(self._publish, t.PublishRequest, t.PublishResponse),
            "GetTopic": Rpc(lambda r: self._state.get(t.Topic, r.topic), t.GetTopicRequest, t.Topic),
            "ListTopics": Rpc(self._list, t.ListTopicsRequest, t.ListTopicsResponse),
            "ListTopicSubscriptions": Rpc(
                self._subscriptions, t.ListTopicSubscriptionsRequest, t.ListTopicSubscriptionsResponse
            ),
            "DeleteTopic": Rpc(self._delete, t.DeleteTopicRequest, empty_pb2.Empty),
        }
        return service("google.pubsub.v1.Publisher", rpcs, faults)

    def _create(self, topic: t.Topic) -> Any:
        check_name(topic.name, "topics")
        return self._state.create(topic)

    def _update(self, request: t.UpdateTopicRequest) -> Any:
        with self._state.transaction():
            stored = self._state.get(t.Topic, request.topic.name)
            return self._state.replace(merged(stored, request.topic, request.update_mask, _CHANGEABLE))

    def _publish(self, request: t.PublishRequest) -> t.PublishResponse:
        with self._state.transaction():
            self._state.get(t.Topic, request.topic)
            messages = t.PublishRequest.pb(request).messages
            check_messages(messages)
            return t.PublishResponse(message_ids=self._state.queue.publish(messages, self._of(request.topic)))

    def _list(self, request: t.ListTopicsRequest) -> t.ListTopicsResponse:
        mine = [topic for topic in self._state.all(t.Topic) if topic.name.startswith(f"{request.project}/topics/")]
        topics, token = page(mine, request)
        return t.ListTopicsResponse(topics=topics, next_page_token=token)

    def _subscriptions(self, request: t.ListTopicSubscriptionsRequest) -> t.ListTopicSubscriptionsResponse:
        self._state.get(t.Topic, request.topic)
        names, token = page([subscription.name for subscription in self._of(request.topic)], request)
        return t.ListTopicSubscriptionsResponse(subscriptions=names, next_page_token=token)

    def _delete(self, request: t.DeleteTopicRequest) -> empty_pb2.Empty:
        """Its subscriptions stay, and receive nothing any more."""
        with self._state.transaction():
            self._state.remove(t.Topic, request.topic)
            for subscription in self._of(request.topic):
                subscription.topic = DELETED_TOPIC
                self._state.replace(subscription)
        return empty_pb2.Empty()

    def _of(self, topic: str) -> list[t.Subscription]:
        return [found for found in self._state.all(t.Subscription) if found.topic == topic]


def topic_must_exist(state: State, topic: str) -> None:
    if state.find(t.Topic, topic) is None:
        raise ApiError(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={topic.rpartition('/')[2]}).")
