"""google.pubsub.v1.Subscriber."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types as t

from stand_ins.faults import Faults
from stand_ins.grpc_service import Rpc, service
from stand_ins.pubsub.checks import check_name, invalid
from stand_ins.pubsub.paging import merged, page
from stand_ins.pubsub.publisher import topic_must_exist
from stand_ins.pubsub.state import State

_PULL_WAITS_S = 1.0  # the service holds an empty pull open for a while; far longer than this
_WEEK_S = 7 * 24 * 3600
_NOT_HERE = ("filter", "bigquery_config", "cloud_storage_config", "bigtable_config", "message_transforms")
_CHANGEABLE = (
    "push_config",
    "ack_deadline_seconds",
    "retain_acked_messages",
    "message_retention_duration",
    "labels",
    "expiration_policy",
    "dead_letter_policy",
    "retry_policy",
)


class Subscriber:
    def __init__(self, state: State) -> None:
        self._state = state
        self._closed = threading.Event()

    def close(self) -> None:
        """Whoever waits for messages gets none."""
        self._closed.set()
        with self._state.changed:
            self._state.changed.notify_all()

    def service(self, faults: Faults) -> grpc.GenericRpcHandler:
        empty = empty_pb2.Empty
        rpcs = {
            "CreateSubscription": Rpc(self._create, t.Subscription, t.Subscription),
            "GetSubscription": Rpc(
                lambda r: self._state.get(t.Subscription, r.subscription), t.GetSubscriptionRequest, t.Subscription
            ),
            "UpdateSubscription": Rpc(self._update, t.UpdateSubscriptionRequest, t.Subscription),
            "ListSubscriptions": Rpc(self._list, t.ListSubscriptionsRequest, t.ListSubscriptionsResponse),
            "DeleteSubscription": Rpc(self._delete, t.DeleteSubscriptionRequest, empty),
            "ModifyPushConfig": Rpc(self._modify_push, t.ModifyPushConfigRequest, empty),
            "ModifyAckDeadline": Rpc(self._modify_deadline, t.ModifyAckDeadlineRequest, empty),
            "Acknowledge": Rpc(self._acknowledge, t.AcknowledgeRequest, empty),
            "Pull": Rpc(self._pull, t.PullRequest, t.PullResponse),
            "StreamingPull": Rpc(self._stream, t.StreamingPullRequest, t.StreamingPullResponse, client_streams=True),
        }
        return service("google.pubsub.v1.Subscriber", rpcs, faults)

    def _create(self, subscription: t.Subscription) -> Any:
        check_name(subscription.name, "subscriptions")
        with self._state.transaction():
            topic_must_exist(self._state, subscription.topic)
            return self._state.create(_checked(subscription))

    def _update(self, request: t.UpdateSubscriptionRequest) -> Any:
        with self._state.transaction():
            stored = self._state.get(t.Subscription, request.subscription.name)
            return self._state.replace(_checked(merged(stored, request.subscription, request.update_mask, _CHANGEABLE)))

    def _modify_push(self, request: t.ModifyPushConfigRequest) -> empty_pb2.Empty:
        with self._state.transaction():
            stored = self._state.get(t.Subscription, request.subscription)
            stored.push_config = request.push_config
            self._state.replace(stored)
        return empty_pb2.Empty()

    def _list(self, request: t.ListSubscriptionsRequest) -> t.ListSubscriptionsResponse:
        prefix = f"{request.project}/subscriptions/"
        mine = [found for found in self._state.all(t.Subscription) if found.name.startswith(prefix)]
        subscriptions, token = page(mine, request)
        return t.ListSubscriptionsResponse(subscriptions=subscriptions, next_page_token=token)

    def _delete(self, request: t.DeleteSubscriptionRequest) -> empty_pb2.Empty:
        with self._state.transaction():
            self._state.remove(t.Subscription, request.subscription)
            self._state.queue.drop(request.subscription)
        return empty_pb2.Empty()

    def _acknowledge(self, request: t.AcknowledgeRequest) -> empty_pb2.Empty:
        self._state.get(t.Subscription, request.subscription)
        if not request.ack_ids:
            invalid("You have passed no ack_ids.")
        self._state.queue.acknowledge(request.subscription, request.ack_ids)
        return empty_pb2.Empty()

    def _modify_deadline(self, request: t.ModifyAckDeadlineRequest) -> empty_pb2.Empty:
        self._state.get(t.Subscription, request.subscription)
        if not 0 <= request.ack_deadline_seconds <= 600 or not request.ack_ids:
            invalid("ack_deadline_seconds is 0 to 600, and at least one ack_id is named.")
        self._state.queue.modify(request.subscription, request.ack_ids, request.ack_deadline_seconds)
        return empty_pb2.Empty()

    def _pull(self, request: t.PullRequest) -> t.PullResponse:
        if request.max_messages < 1:
            invalid("max_messages is at least 1.")
        wait_s = 0.0 if request.return_immediately else _PULL_WAITS_S
        return t.PullResponse(
            received_messages=self._next(request.subscription, min(request.max_messages, 1000), wait_s)
        )

    def _next(self, name: str, most: int, wait_s: float) -> list[t.ReceivedMessage]:
        deadline = time.monotonic() + wait_s
        while True:
            with self._state.changed:
                subscription = self._state.get(t.Subscription, name)
                if subscription.push_config.push_endpoint:
                    invalid("This method is not supported for this subscription type: it is a push subscription.")
                leased = self._state.queue.lease(subscription, most)
                left = deadline - time.monotonic()
                if leased or left <= 0 or self._closed.is_set():
                    return leased
                self._state.changed.wait(min(left, 0.1))

    def _stream(
        self, requests: Iterator[t.StreamingPullRequest], context: grpc.ServicerContext
    ) -> Iterator[t.StreamingPullResponse]:
        first = next(requests)
        self._state.get(t.Subscription, first.subscription)
        self._heed(first.subscription, first)
        return self._answers(first, requests, context)

    def _answers(
        self, first: t.StreamingPullRequest, requests: Iterator[t.StreamingPullRequest], context: grpc.ServicerContext
    ) -> Iterator[t.StreamingPullResponse]:
        reader = threading.Thread(target=self._listen, args=(first.subscription, requests), daemon=True)
        reader.start()
        most = min(first.max_outstanding_messages or 100, 100)
        while context.is_active() and not self._closed.is_set():
            if leased := self._next(first.subscription, most, 0.2):
                yield t.StreamingPullResponse(received_messages=leased)

    def _listen(self, subscription: str, requests: Iterator[t.StreamingPullRequest]) -> None:
        try:
            for request in requests:
                self._heed(subscription, request)
        except Exception:  # noqa: S110  the client went away
            pass

    def _heed(self, subscription: str, request: t.StreamingPullRequest) -> None:
        self._state.queue.acknowledge(subscription, request.ack_ids)
        for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True):
            self._state.queue.modify(subscription, [ack_id], seconds)


def _checked(subscription: t.Subscription) -> t.Subscription:
    for field, _ in t.Subscription.pb(subscription).ListFields():
        if field.name in _NOT_HERE:
            invalid(f"this stand-in has no subscriptions with {field.name}")
    if not subscription.ack_deadline_seconds:
        subscription.ack_deadline_seconds = 10
    if not 10 <= subscription.ack_deadline_seconds <= 600:
        invalid(f"Invalid ack deadline {subscription.ack_deadline_seconds}: it is 10 to 600 seconds.")
    if not subscription.message_retention_duration:
        subscription.message_retention_duration = {"seconds": _WEEK_S}
    endpoint = subscription.push_config.push_endpoint
    if endpoint and not endpoint.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
        invalid(f"Invalid push endpoint given (endpoint={endpoint}): it is https, or on this machine.")
    subscription.state = t.Subscription.State.ACTIVE
    return subscription
