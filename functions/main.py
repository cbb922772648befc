"""The Cloud Functions (2nd generation) of one bandit. Entry points only: rl_core.joining and .simulation do the work.

    log_event   a message of the topic `…-events` becomes a row in BigQuery
    simulate    a message of the topic `…-simulate` becomes simulated users

The bandit's YAML lies beside, in bandit/. A function that raises has its message delivered again.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import tempfile
from datetime import datetime
from functools import cache
from pathlib import Path

import functions_framework
from cloudevents.http import CloudEvent

os.environ.setdefault("BANDIT_HOME", f"{tempfile.gettempdir()}/banditloop")  # nothing else can be written here

from rl_core.backends import open_backend
from rl_core.backends.contracts.bus import Sink
from rl_core.config import Bandit, Settings
from rl_core.errors import SchemaError
from rl_core.simulation.request import TrafficRequest, serve

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
_log = logging.getLogger("banditloop")


@functions_framework.cloud_event  # type: ignore[untyped-decorator]
def log_event(event: CloudEvent) -> None:
    """Write a message of the topic `…-events` as a row into BigQuery. Raises StoreError: deliver it again."""
    payload, attributes = _message(event)
    published_at = event.data["message"].get("publishTime")
    _sink().take(payload, attributes, datetime.fromisoformat(published_at) if published_at else None)


@functions_framework.cloud_event  # type: ignore[untyped-decorator]
def simulate(event: CloudEvent) -> None:
    """Send the simulated users that a message asks for.

    Not for retries: a second delivery sends other users under other event ids.
    """
    payload, _ = _message(event)
    try:
        request = TrafficRequest.of(payload)
    except SchemaError as error:
        _log.error("%s", error)  # delivered again it would be no better
        return
    seed = int.from_bytes(hashlib.sha256(str(event["id"]).encode()).digest()[:4]) >> 1
    serve(request, _bandit(), Settings.from_environment(), seed)


def _message(event: CloudEvent) -> tuple[bytes, dict[str, str]]:
    """Payload and attributes of google.cloud.pubsub.topic.v1.messagePublished."""
    message = event.data["message"]
    return base64.b64decode(message.get("data") or ""), message.get("attributes") or {}


@cache
def _bandit() -> Bandit:
    [path] = (Path(__file__).resolve().parent / "bandit").glob("*.yaml")
    return Settings.from_environment().bandit(str(path))


@cache
def _sink() -> Sink:
    return open_backend(_bandit(), Settings.from_environment()).sink()
