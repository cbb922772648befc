"""`python -m rl_core bus cat`: what is on the message bus, as JSON lines."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator

from rl_core.backends import backend_class, open_backend
from rl_core.backends.contracts.bus import Delivery, MessageBus, Topic
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError
from rl_core.waiting import looks

_AT_ONCE = 1000
_LOOK_EVERY_S = 0.25


def show(bandit: Bandit, settings: Settings, topic: Topic | None, after: int, limit: int | None, follow: bool) -> int:
    """Print the messages behind an offset, of one topic or of both, one after the other, `limit` of each at most.

    Args:
        follow: then wait for more of the last topic, until interrupted.

    Raises:
        ConfigError: the bandit has no bus yet, or none on this machine.
    """
    folder = settings.state_dir(bandit) / "bus"
    if not backend_class(bandit).JOINED_BY_DAG and not folder.exists():
        raise ConfigError(f"{bandit.name} has no bus yet: {folder} is made by `python -m rl_core serve {bandit.name}`")
    topics: tuple[Topic, ...] = (topic,) if topic else ("decisions", "rewards")
    bus = open_backend(bandit, settings).bus()
    try:
        for one in topics:
            for delivery in _deliveries(bus, one, after, limit, follow and one == topics[-1]):
                print(_line(one, delivery), flush=follow)
    except BrokenPipeError:  # `| head` has seen enough; else Python complains when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    finally:
        bus.close()
    return 0


def _deliveries(bus: MessageBus, topic: Topic, after: int, limit: int | None, follow: bool) -> Iterator[Delivery]:
    left = math.inf if limit is None else limit
    for _ in looks(math.inf, _LOOK_EVERY_S):
        while found := bus.read(topic, after, int(min(left, _AT_ONCE))):
            yield from found
            after, left = found[-1].offset, left - len(found)
            if not left:
                return
        if not follow:
            return


def _line(topic: Topic, delivery: Delivery) -> str:
    try:
        payload = json.loads(delivery.payload) if delivery.payload else None
    except ValueError:
        payload = delivery.payload.decode(errors="replace")
    at = delivery.received_at.isoformat(timespec="microseconds")
    return json.dumps(
        {"topic": topic, "offset": delivery.offset, "key": delivery.key, "received_at": at, "payload": payload}
    )
