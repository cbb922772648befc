"""Simulated users: each arrives, asks for a decision, and sends the reward that belongs to that user and action."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import orjson

from rl_core.backends.contracts.connection import Connect, Connection, Unreachable
from rl_core.environments.protocol import Environment
from rl_core.errors import EndpointError
from rl_core.serving.decisions import uuid7
from rl_core.waiting import pauses

REWARDS_PER_REQUEST = 8
_ARRIVE_TOGETHER = 1000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

_User = tuple[Any, Any]
"""As the environment knows it, and what it shows: an array [d], or a dict of named features."""


@dataclass
class Traffic:
    """What became of simulated users; a decision or reward is acknowledged when the server answered 200 for it."""

    requested: int
    acknowledged_ids: list[str] = field(default_factory=list)
    rewards_acknowledged: int = 0
    reward_sum: float = 0.0
    retries: int = 0
    latencies_s: list[float] = field(default_factory=list)  # per request, from the first attempt to the answer
    policy_versions: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0
    ended_early: str | None = None

    @property
    def acknowledged(self) -> int:
        return len(self.acknowledged_ids)

    @property
    def complete(self) -> bool:
        """Whether every decision and every reward was acknowledged."""
        return self.acknowledged == self.requested == self.rewards_acknowledged

    @property
    def mean_reward(self) -> float:
        return self.reward_sum / max(self.acknowledged, 1)

    def latency_ms(self, quantile: float) -> float:
        """Return a quantile (0..1) of the requests' latencies, in milliseconds."""
        return 1e3 * float(np.quantile(self.latencies_s, quantile)) if self.latencies_s else 0.0


def simulate(
    environment: Environment,
    connect: Connect,
    decisions: int,
    *,
    concurrency: int = 16,
    seed: int = 0,
    round: int = 0,
    batch: int = 1,
    patience_s: float = 30.0,
    stop: Callable[[], bool] = lambda: False,
    on_decisions: Callable[[int], None] = lambda count: None,
) -> Traffic:
    """Send `decisions` users, `concurrency` at a time, each over a connection of its own.

    A request that got 503 or no answer is sent again with the same event ids, for `patience_s` at most; then, or when
    `stop()` turns true, the traffic ends early and says so. `batch` users share a request. The order of arrival is
    determined by (seed, round); event ids are new each time.

    Raises:
        EndpointError: the server refused a request (4xx), in its own words, or there is none to be reached.
        SchemaError: the environment shows or gives what breaks the problem's rules.
    """
    rng = np.random.default_rng((seed, round))
    arrivals = _arrivals(environment, rng, decisions)
    run = _Run(environment, round, batch, patience_s, stop, on_decisions, Traffic(decisions))
    started = time.perf_counter()
    _to_its_end(lambda: run.everyone(arrivals, connect, concurrency))
    run.traffic.wall_s = time.perf_counter() - started
    return run.traffic


@dataclass
class _Run:
    environment: Environment
    round: int
    batch: int
    patience_s: float
    stop: Callable[[], bool]
    on_decisions: Callable[[int], None]
    traffic: Traffic

    async def everyone(self, arrivals: Iterator[_User], connect: Connect, concurrency: int) -> None:
        lines = [asyncio.create_task(self._line(arrivals, connect())) for _ in range(concurrency)]
        try:
            await asyncio.gather(*lines)
        finally:
            for line in lines:
                line.cancel()

    async def _line(self, arrivals: Iterator[_User], connection: Connection) -> None:
        """Users who use one connection, one after the other; their rewards follow a few at a time."""
        rewards: list[dict[str, Any]] = []
        try:
            while (users := list(islice(arrivals, self.batch))) and not self._ending():
                rewards += await self._decide(connection, users)
                if len(rewards) >= REWARDS_PER_REQUEST:
                    await self._reward(connection, rewards)
                    rewards = []
            if rewards:
                await self._reward(connection, rewards)
        except _OutOfPatience as error:
            self.traffic.ended_early = str(error)
        finally:
            connection.close()

    def _ending(self) -> bool:
        if self.stop() and not self.traffic.ended_early:
            self.traffic.ended_early = "interrupted"
        return self.traffic.ended_early is not None

    async def _decide(self, connection: Connection, users: list[_User]) -> list[dict[str, Any]]:
        """Ask for one decision per user and return the rewards they give."""
        event_ids = [uuid7() for _ in users]
        instances = [
            {**_context(shown), "event_id": event_id} for (_, shown), event_id in zip(users, event_ids, strict=True)
        ]
        started = time.perf_counter()
        answer = await self._send(
            connection, "/predict", {"instances": instances, "parameters": {"source": "simulator"}}
        )
        self.traffic.latencies_s.append(time.perf_counter() - started)
        action_ids = [prediction["action_id"] for prediction in answer["predictions"]]
        given = self.environment.earned([user for user, _ in users], action_ids, event_ids, self.round).tolist()
        rewards = []
        for event_id, reward, prediction in zip(event_ids, given, answer["predictions"], strict=True):
            rewards.append({"event_id": event_id, "reward": reward})
            self.traffic.policy_versions[prediction["policy_version"]] += 1
            self.traffic.reward_sum += reward
        self.traffic.acknowledged_ids += event_ids
        self.on_decisions(len(users))
        return rewards

    async def _reward(self, connection: Connection, rewards: list[dict[str, Any]]) -> None:
        await self._send(connection, "/reward", {"rewards": rewards})
        self.traffic.rewards_acknowledged += len(rewards)

    async def _send(self, connection: Connection, path: str, content: dict[str, Any]) -> dict[str, Any]:
        body = orjson.dumps(content)
        deadline = time.monotonic() + self.patience_s
        for pause in pauses(_FIRST_PAUSE_S, _LONGEST_PAUSE_S):
            try:
                status, text = await connection.post(path, body)
            except Unreachable:
                raise
            except EndpointError as error:
                problem = str(error)
            else:
                if status == 200:
                    answer: dict[str, Any] = orjson.loads(text)
                    return answer
                problem = f"{path} answered {status}: {text.decode(errors='replace')}"
                if status != 503:
                    raise EndpointError(problem)
            if time.monotonic() + pause > deadline or self._ending():
                raise _OutOfPatience(f"gave up after {self.patience_s:g} s: {problem}")
            self.traffic.retries += 1
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: pauses don't end")


def _arrivals(environment: Environment, rng: np.random.Generator, decisions: int) -> Iterator[_User]:
    """Let so many users arrive, a part at a time, since what a million of them show is too much to hold."""
    for low in range(0, decisions, _ARRIVE_TOGETHER):
        users = environment.observe(rng, min(_ARRIVE_TOGETHER, decisions - low))
        yield from zip(users, environment.shown(users), strict=True)


def _context(shown: Any) -> dict[str, Any]:
    return {"features": shown} if isinstance(shown, dict) else {"observation": shown.tolist()}


def _to_its_end(begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine; beside a loop that runs already, as in a Jupyter kernel, in a thread of its own."""

    def run() -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(begin())

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # the job image has it, Cloud Functions don't
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _OutOfPatience(EndpointError):
    pass
