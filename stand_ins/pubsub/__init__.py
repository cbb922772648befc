"""Google Cloud Pub/Sub over gRPC: topics, subscriptions, redelivery, push; kept in a folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import grpc

from stand_ins.faults import Faults
from stand_ins.pubsub.policies import Policies
from stand_ins.pubsub.publisher import Publisher
from stand_ins.pubsub.push import Pusher
from stand_ins.pubsub.queue import Unruly
from stand_ins.pubsub.state import State
from stand_ins.pubsub.subscriber import Subscriber
from stand_ins.serving import reached_at

__all__ = ["PubSubStandIn", "Unruly"]

_THREADS = 32


class PubSubStandIn:
    """Args:
    folder: holds topics, subscriptions and messages; another stand-in over it goes on with them.
    faults: by the names of the RPCs, and "Push" for the requests to push subscribers.
    """

    def __init__(self, folder: Path, faults: Faults | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._faults = faults or Faults()
        self._host = host
        self._state = State(folder)
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="pubsub"),
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        subscriber = Subscriber(self._state)
        self._subscriber = subscriber
        for part in (Publisher(self._state), subscriber, Policies(self._state)):
            self._server.add_generic_rpc_handlers((part.service(self._faults),))
        self._port = self._server.add_insecure_port(f"{host}:{port}")
        self._pusher = Pusher(self._state, self._faults)

    def __enter__(self) -> Self:
        self._server.start()
        self._pusher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriber.close()
        self._pusher.close()
        self._server.stop(grace=None).wait()
        self._state.close()

    @property
    def address(self) -> str:
        """host:port."""
        return f"{reached_at(self._host)}:{self._port}"

    @property
    def unruly(self) -> Unruly | None:
        """What Pub/Sub may do to whoever pulls or is pushed to; None does none of it."""
        return self._state.queue.unruly

    @unruly.setter
    def unruly(self, unruly: Unruly | None) -> None:
        self._state.queue.unruly = unruly

    def backlog(self, subscription: str) -> int:
        """How many messages of the subscription are not acknowledged."""
        return self._state.queue.backlog(subscription)
