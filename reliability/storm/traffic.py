"""Clients who never give up: every event id is asked for until it is answered, every reward sent until it is taken.

Who asks what, when it is asked again, and what becomes of its reward is drawn from the seed, the client and the number
of the event. Nothing is taken from the server's word but its answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from rl_core.backends.local.http_client import HttpConnection
from rl_core.errors import EndpointError
from rl_core.movielens.environment import MovieLensEnvironment

Answer = tuple[str, float, str]  # action_id, propensity, policy_version
ASKING = {"once": 0.68, "batch": 0.1, "hang up": 0.08, "twice at once": 0.07, "again later": 0.07}
REWARDING = {"on time": 0.60, "doubled": 0.12, "late": 0.08, "before its decision": 0.06, "never": 0.14}
UNKNOWN = 0.04
"""The share of events beside which a reward is sent for a decision that nobody asked for."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5


@dataclass(slots=True)
class Sent:
    """A reward: its value, when it was sent first, and when it was acknowledged. Seconds since 1970."""

    value: float
    at: float
    acknowledged_at: float | None = None


@dataclass(slots=True)
class Record:
    """What one client knows of one event id."""

    asked_at: float
    answer: Answer | None = None
    answered_at: float | None = None
    abandoned: bool = False
    changed: bool = False
    rewards: list[Sent] = field(default_factory=list)


class Traffic:
    """Args:
    wait_s: reward_wait_s of the bandit.
    pause_s: how long a client rests between two events, on average.
    """

    def __init__(
        self, url: str, environment: MovieLensEnvironment, seed: int, clients: int, wait_s: float, pause_s: float
    ) -> None:
        self._url, self._environment, self._seed = url, environment, seed
        self._clients, self._wait, self._pause = clients, wait_s, pause_s
        self._beside: set[asyncio.Task[None]] = set()
        self._quiet = False
        self.records: dict[str, Record] = {}
        self.strangers: dict[str, Sent] = {}
        self.acknowledged = 0
        self.acknowledged_times: list[float] = []
        self.retries = 0
        self.unforeseen: list[str] = []

    def finish(self) -> None:
        """Begin nothing new; what is begun is carried to its end."""
        self._quiet = True

    async def run(self) -> None:
        """Return once `finish` was called and every question and reward has been taken."""
        await asyncio.gather(*(self._client(number) for number in range(self._clients)))
        while self._beside:
            await asyncio.gather(*list(self._beside))

    async def _client(self, number: int) -> None:
        connection, count = HttpConnection(lambda: self._url), 0
        while not self._quiet:
            rng = random.Random(f"{self._seed}/{number}/{count}")
            with contextlib.suppress(UnforeseenAnswer):
                await self._event(rng, connection, f"s{self._seed}-c{number:02d}-{count:06d}")
            count += 1
            await asyncio.sleep(rng.uniform(0, 2 * self._pause))
        connection.close()

    async def _event(self, rng: random.Random, connection: HttpConnection, event_id: str) -> None:
        asking = _drawn(rng, ASKING)
        event_ids = [f"{event_id}-{i}" for i in range(rng.randint(2, 6))] if asking == "batch" else [event_id]
        users = [rng.randrange(len(self._environment.user_ids)) for _ in event_ids]
        if asking == "hang up":
            await self._hang_up(rng, event_id, users[0])
            return
        fates = [_drawn(rng, REWARDING) for _ in event_ids]
        for one, user, fate in zip(event_ids, users, fates, strict=True):
            if fate == "before its decision":
                self._record(one)
                await self._reward(connection, one, self._environment.reward(user, 0, one))
        if asking == "twice at once":
            other = HttpConnection(lambda: self._url)
            await asyncio.gather(self._ask(connection, event_ids, users), self._ask(other, event_ids, users))
            other.close()
        else:
            await self._ask(connection, event_ids, users)
        for one, user, fate in zip(event_ids, users, fates, strict=True):
            self._besides(self._afterwards(random.Random(f"{self._seed}/{one}"), one, user, fate))
        if asking == "again later":
            self._besides(self._again(rng.uniform(0.2, 2 * self._wait), event_ids, users))
        if rng.random() < UNKNOWN:
            self._besides(self._stranger(f"{event_id}-nobody"))

    async def _afterwards(self, rng: random.Random, event_id: str, user: int, fate: str) -> None:
        record = self.records[event_id]
        if record.answer is None or fate in ("never", "before its decision"):
            return
        value = float(self._environment.earned([user], [record.answer[0]], [event_id])[0])
        connection = HttpConnection(lambda: self._url)
        late = fate == "late"
        await asyncio.sleep(self._wait + rng.uniform(0.5, 1.5) if late else rng.uniform(0, 0.6 * self._wait))
        await self._reward(connection, event_id, value)
        if fate == "doubled":
            await asyncio.sleep(rng.uniform(0, 0.5 * self._wait))
            await self._reward(connection, event_id, max(-9.0, value - 1))
        connection.close()

    async def _again(self, after_s: float, event_ids: Sequence[str], users: Sequence[int]) -> None:
        await asyncio.sleep(after_s)
        connection = HttpConnection(lambda: self._url)
        await self._ask(connection, event_ids, users)
        connection.close()

    async def _stranger(self, event_id: str) -> None:
        connection = HttpConnection(lambda: self._url)
        self.strangers[event_id] = sent = Sent(1.0, time.time())
        await self._send(connection, event_id, sent)
        connection.close()

    async def _hang_up(self, rng: random.Random, event_id: str, user: int) -> None:
        """Send a question and be gone before the answer."""
        self._record(event_id).abandoned = True
        body = orjson.dumps({"instances": [self._instance(event_id, user)]})
        host, port = self._url.removeprefix("http://").split(":")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /predict HTTP/1.1\r\nhost: storm\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await asyncio.sleep(rng.uniform(0, 0.01))
            writer.transport.abort()

    async def _ask(self, connection: HttpConnection, event_ids: Sequence[str], users: Sequence[int]) -> None:
        for event_id in event_ids:
            self._record(event_id)
        instances = [self._instance(event_id, user) for event_id, user in zip(event_ids, users, strict=True)]
        answer = await self._post(connection, "/predict", {"instances": instances})
        now = time.time()
        for event_id, given in zip(event_ids, answer["predictions"], strict=True):
            record = self.records[event_id]
            told: Answer = (given["action_id"], given["propensity"], given["policy_version"])
            if record.answer is None:
                record.answer, record.answered_at = told, now
                self.acknowledged += 1
                self.acknowledged_times.append(now)
            elif record.answer != told:
                record.changed = True

    async def _reward(self, connection: HttpConnection, event_id: str, value: float) -> None:
        sent = Sent(value, time.time())
        self.records[event_id].rewards.append(sent)
        await self._send(connection, event_id, sent)

    async def _send(self, connection: HttpConnection, event_id: str, sent: Sent) -> None:
        await self._post(connection, "/reward", {"rewards": [{"event_id": event_id, "reward": sent.value}]})
        sent.acknowledged_at = time.time()

    async def _post(self, connection: HttpConnection, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Until it is answered 200. Raises UnforeseenAnswer."""
        body, pause = orjson.dumps(content), _FIRST_PAUSE_S
        while True:
            with contextlib.suppress(EndpointError):
                status, text = await connection.post(path, body)
                if status == 200:
                    answer: dict[str, Any] = orjson.loads(text)
                    return answer
                if status != 503:
                    self.unforeseen.append(f"{path} answered {status}: {text[:300].decode(errors='replace')}")
                    raise UnforeseenAnswer
            self.retries += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _record(self, event_id: str) -> Record:
        return self.records.setdefault(event_id, Record(time.time()))

    def _instance(self, event_id: str, user: int) -> dict[str, Any]:
        return {"observation": self._environment.observations_f32[user].tolist(), "event_id": event_id}

    def _besides(self, work: Coroutine[Any, Any, None]) -> None:
        async def carried() -> None:
            with contextlib.suppress(UnforeseenAnswer):
                await work

        task = asyncio.create_task(carried())
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


class UnforeseenAnswer(Exception):
    """Neither 200 nor 503: a defect, kept in `Traffic.unforeseen`."""


def _drawn(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
