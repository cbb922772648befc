"""Steady traffic: so many decisions a second, sent when their time has come, whether the server is ready or not.

A request counts from the moment it should have been sent, so a server that stalls is seen to stall. None is repeated.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from rl_core.backends.local.http_client import HttpConnection
from rl_core.errors import EndpointError
from rl_core.movielens.environment import MovieLensEnvironment

CONNECTIONS = 64
REWARDED = 0.7
REWARDS_PER_REQUEST = 8


@dataclass(frozen=True, slots=True)
class Request:
    """`at`: when it was due, seconds since 1970. `problem` is None where it was answered 200."""

    at: float
    took_s: float
    path: str
    problem: str | None


class Load:
    """`rate` decisions a second from `run` on; 0.7 of them are rewarded, eight rewards to a request."""

    def __init__(self, url: str, environment: MovieLensEnvironment, rate: float, seed: int) -> None:
        self._url, self._environment, self._rate, self._seed = url, environment, rate, seed
        self._rng = random.Random(seed)
        self._free: asyncio.Queue[HttpConnection] = asyncio.Queue()
        self._rewards: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.acknowledged: list[str] = []
        self.first_answer: dict[str, float] = {}

    async def run(self, over: Callable[[], bool]) -> None:
        """Send until `over`, and wait for what is on its way."""
        for _ in range(CONNECTIONS):
            self._free.put_nowait(HttpConnection(lambda: self._url))
        running: set[asyncio.Task[None]] = set()
        began, count = time.time(), 0
        while not over():
            due = began + count / self._rate
            if (early := due - time.time()) > 0:
                await asyncio.sleep(early)
            for work in (self._ask(count, due), *self._rewarding(due)):
                task = asyncio.create_task(work)
                running.add(task)
                task.add_done_callback(running.discard)
            count += 1
        await asyncio.gather(*running)
        while not self._free.empty():
            self._free.get_nowait().close()

    def _rewarding(self, due: float) -> list[Any]:
        if len(self._rewards) < REWARDS_PER_REQUEST:
            return []
        rewards, self._rewards = self._rewards, []
        return [self._send(due, "/reward", {"rewards": rewards})]

    async def _ask(self, number: int, due: float) -> None:
        event_id = f"soak{self._seed}-{number:08d}"
        user = self._rng.randrange(len(self._environment.user_ids))
        observation = self._environment.observations_f32[user].tolist()
        body = {"instances": [{"observation": observation, "event_id": event_id}]}
        answer = await self._send(due, "/predict", body)
        if answer is None:
            return
        told = answer["predictions"][0]
        self.acknowledged.append(event_id)
        self.first_answer.setdefault(told["policy_version"], time.time())
        if self._rng.random() < REWARDED:
            reward = float(self._environment.earned([user], [told["action_id"]], [event_id])[0])
            self._rewards.append({"event_id": event_id, "reward": reward})

    async def _send(self, due: float, path: str, content: dict[str, Any]) -> dict[str, Any] | None:
        connection = await self._free.get()
        problem, answer = None, None
        try:
            status, text = await connection.post(path, orjson.dumps(content))
            if status == 200:
                answer = orjson.loads(text)
            else:
                problem = f"{status}: {text[:200].decode(errors='replace')}"
        except EndpointError as error:
            problem = str(error)
        finally:
            self._free.put_nowait(connection)
        self.requests.append(Request(due, time.time() - due, path, problem))
        return answer
