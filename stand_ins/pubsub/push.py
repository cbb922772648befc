"""Push subscriptions: each message is POSTed as Eventarc hands it to a function, until the answer is 2xx."""

from __future__ import annotations

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import urllib3
from google.pubsub_v1.types import ReceivedMessage, Subscription

from stand_ins.faults import Faults
from stand_ins.pubsub.state import State

TYPE = "google.cloud.pubsub.topic.v1.messagePublished"
_AT_ONCE = 8
_BACKOFF_S, _LONGEST_BACKOFF_S = 0.05, 2.0  # Pub/Sub's own are 10 s and 600 s, or the subscription's


class Pusher:
    """One thread looks for what is due, a few send it."""

    def __init__(self, state: State, faults: Faults) -> None:
        self._state = state
        self._faults = faults
        self._stop = threading.Event()
        self._senders = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="push")
        self._room = threading.Semaphore(_AT_ONCE)
        self._http = urllib3.PoolManager(maxsize=_AT_ONCE, retries=False)
        self._failures: dict[tuple[str, str], int] = {}
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What was sent is answered first."""
        self._stop.set()
        with self._state.changed:
            self._state.changed.notify_all()
        self._thread.join()
        self._senders.shutdown()
        self._http.clear()

    def _run(self) -> None:
        while not self._stop.is_set():
            pushed = [self._push(subscription) for subscription in self._subscriptions()]
            if not any(pushed):
                with self._state.changed:
                    self._state.changed.wait(0.05)

    def _subscriptions(self) -> list[Subscription]:
        return [found for found in self._state.all(Subscription) if found.push_config.push_endpoint]

    def _push(self, subscription: Subscription) -> bool:
        self._room.acquire()
        leased = [] if self._stop.is_set() else self._state.queue.lease(subscription, 1)
        if not leased:
            self._room.release()
            return False
        self._senders.submit(self._send, subscription, leased[0])
        return True

    def _send(self, subscription: Subscription, received: ReceivedMessage) -> None:
        try:
            if self._taken(subscription, received):
                self._failures.pop((subscription.name, received.message.message_id), None)
                self._state.queue.acknowledge(subscription.name, [received.ack_id])
            else:
                key = (subscription.name, received.message.message_id)
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                pause = min(_BACKOFF_S * 2 ** (failures - 1), _LONGEST_BACKOFF_S)
                self._state.queue.modify(subscription.name, [received.ack_id], pause)
        finally:
            self._room.release()

    def _taken(self, subscription: Subscription, received: ReceivedMessage) -> bool:
        endpoint = subscription.push_config.push_endpoint
        fault = self._faults.next("Push")
        if fault is not None and not fault.after and (fault.drop or fault.code):
            return False
        headers, body = cloud_event(subscription, received)
        try:
            answer = self._http.request(
                "POST", endpoint, body=body, headers=headers, timeout=subscription.ack_deadline_seconds
            )
        except urllib3.exceptions.HTTPError:
            return False
        lost = fault is not None and (fault.drop or fault.code is not None)
        return 200 <= answer.status < 300 and not lost


def cloud_event(subscription: Subscription, received: ReceivedMessage) -> tuple[dict[str, str], bytes]:
    """Headers and body of a CloudEvent in binary mode; the body alone is what a plain push subscriber gets."""
    message = received.message
    at = message.publish_time.isoformat().replace("+00:00", "Z")
    wrapped = {
        "data": base64.b64encode(message.data).decode(),
        "attributes": dict(message.attributes),
        "messageId": message.message_id,
        "message_id": message.message_id,
        "publishTime": at,
        "publish_time": at,
        **({"orderingKey": message.ordering_key} if message.ordering_key else {}),
    }
    headers = {
        "content-type": "application/json",
        "host": urlsplit(subscription.push_config.push_endpoint).netloc,
        "ce-id": message.message_id,
        "ce-source": f"//pubsub.googleapis.com/{subscription.topic}",
        "ce-specversion": "1.0",
        "ce-time": at,
        "ce-type": TYPE,
    }
    return headers, json.dumps({"message": wrapped, "subscription": subscription.name}).encode()
