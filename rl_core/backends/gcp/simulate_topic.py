"""Asks the simulator function for traffic, through its topic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rl_core.errors import BusError
from rl_core.google_cloud.failures import explained

if TYPE_CHECKING:
    from rl_core.google_cloud.clients import GoogleClients

_DEADLINE_S = 30.0


def ask_for_traffic(clients: GoogleClients, request: Mapping[str, int | None]) -> str:
    """Publish a request as `rl_core.simulation.request` reads it; return the id of the message.

    Raises:
        BusError: Pub/Sub did not take it.
    """
    from google.pubsub_v1.types import PubsubMessage

    names = clients.names
    message = PubsubMessage(data=json.dumps(dict(request)).encode())
    with explained(BusError, f"publish to {names.simulate_topic}", names, "roles/pubsub.publisher on the topic"):
        # No retry: of two messages, each sends its users.
        answer = clients.publisher.publish(
            topic=names.simulate_topic, messages=[message], retry=None, timeout=_DEADLINE_S
        )
    return str(answer.message_ids[0])
