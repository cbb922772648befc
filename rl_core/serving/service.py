"""The server's work on a parsed request: decide, log, answer. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from rl_core.backends.contracts.bus import Message, Publisher, Receipt
from rl_core.config import Bandit
from rl_core.errors import BusError, EndpointError
from rl_core.features.vectorise import Vectoriser
from rl_core.serving.decisions import Answer, Decider, answer_of
from rl_core.serving.group_commit import GroupCommit
from rl_core.serving.metrics import ServerMetrics
from rl_core.serving.policies import Policies, Served, served_cold
from rl_core.serving.requests import Activation, PredictRequest, Reward, parse_activations, parse_predict, parse_rewards

COUNTERS = (
    *("requests", "decisions", "deferred", "repeated", "rewards", "activations"),
    *("refused_requests", "unavailable", "defects", "lost", "undelivered", "clipped"),
)
ANSWERS_REMEMBERED = 10_000
LATENCIES_REMEMBERED = 4096
MOST_WAITING = 4096
"""Events: with more of them waiting for the bus, an answer in best effort waits for it, too."""
_TOO_LATE = "serving.publish_deadline_s is over"


class Unavailable(EndpointError):
    """The request can't be answered now (503); sent again later with the same event ids, it will be."""


class Service:
    """Answers for one bandit, on one event loop; only `bus` and the policies' loading are on other threads."""

    def __init__(self, bandit: Bandit, policies: Policies, bus: Publisher, salt: bytes) -> None:
        self._bandit = bandit
        self._serving = bandit.serving
        self._policies = policies
        self._cold = served_cold(bandit)
        self._bus = bus
        self._commit = GroupCommit(bus, self._count_too_late)
        self._decider = Decider(bandit, salt)
        self._vectoriser = Vectoriser(bandit.problem.features) if bandit.problem.features else None
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._durable = self._serving.durability == "durable"
        self._best_effort = b"" if self._durable else b',"durability":"best_effort"'
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.latencies: deque[float] = deque(maxlen=LATENCIES_REMEMBERED)
        self._metrics = ServerMetrics(self.state)
        self.started_at = datetime.now(UTC).isoformat(timespec="microseconds")

    def close(self) -> None:
        """Write what was taken to the bus, and stop taking. Blocks."""
        self._commit.close()

    async def predict(self, body: bytes) -> bytes:
        """Answer a request to the predict route. Raises SchemaError, Unavailable."""
        started = time.perf_counter()
        served = self._served
        vectoriser = served.vectoriser if served else self._vectoriser
        request = parse_predict(body, self._bandit.problem, self._serving.max_instances, self._bus.now(), vectoriser)
        if not isinstance(request, PredictRequest):
            return await self._take(request)
        answer = await self._decide(request, served)
        took = time.perf_counter() - started
        self.latencies.append(took)
        self._metrics.latency.observe(took)
        return answer

    async def reward(self, body: bytes) -> bytes:
        """Answer a reward request. Raises SchemaError, Unavailable."""
        rewards = parse_rewards(body, self._bandit.problem, self._serving.max_instances, self._bus.now())
        return await self._take(rewards)

    async def activate(self, body: bytes) -> bytes:
        """Answer an activation request. Raises SchemaError, Unavailable."""
        activations = parse_activations(body, self._serving.max_instances, self._bus.now())
        return await self._take(activations)

    async def _decide(self, request: PredictRequest, served: Served | None) -> bytes:
        if served is None:
            raise Unavailable(f"{self._bandit.name} {self._why_nothing_serves()}, then send this again")
        given = [event_id for event_id in request.event_ids if event_id is not None]
        if not self._durable:
            await self._recall(given)
        decided = self._decider.decide(request, served, self._answers, self._bus.now())
        event_ids, new, rows, shared, deferred, clipped = decided
        self.counts["clipped"] += clipped
        answers = {event_id: self._answers[event_id] for event_id in given if event_id not in new}
        answers |= new
        fresh = len(new)
        if new:
            messages = [Message("decisions", key, row, shared) for key, row in zip(new, rows, strict=True)]
            for key, receipt in zip(new, await self._publish(messages), strict=True):
                if receipt is not None and receipt.repeated:  # another request was first: its answer stands
                    answers[key] = answer_of(receipt.payload)
                    fresh -= 1
        self._remember({event_id: answers[event_id] for event_id in given})
        self.counts["decisions"] += fresh
        self.counts["deferred"] += fresh * deferred
        self.counts["repeated"] += len(event_ids) - fresh
        told = b",".join([answers[event_id] for event_id in event_ids])
        return b'{"predictions":[%b]%b}' % (told, self._best_effort)

    async def _take(self, events: list[Reward] | list[Activation]) -> bytes:
        """Activations share the rewards' topic, and so their offsets: the log keeps them apart."""
        await self._publish([Message("rewards", event.event_id, _payload(event)) for event in events])
        self.counts["rewards" if isinstance(events[0], Reward) else "activations"] += len(events)
        return b'{"accepted":%d%b}' % (len(events), self._best_effort)

    async def _publish(self, messages: list[Message]) -> Sequence[Receipt | None]:
        """The receipts; all None in best-effort mode, which doesn't wait for them."""
        future = self._commit.submit(messages)
        if not self._durable:
            future.add_done_callback(lambda done: self._count_lost(done, len(messages)))
            if self._commit.waiting > MOST_WAITING:  # else a bus that is slower than its clients fills the memory
                await asyncio.wait((future,), timeout=self._serving.publish_deadline_s)
            return [None] * len(messages)
        deadline = self._serving.publish_deadline_s
        timer = asyncio.get_running_loop().call_later(deadline, future.cancel, _TOO_LATE)  # a fifth of asyncio.timeout
        try:
            return await future
        except asyncio.CancelledError as error:
            if error.args != (_TOO_LATE,):
                raise
            raise Unavailable(
                f"the message bus took more than serving.publish_deadline_s={deadline:g} s; "
                "send this again with the same event_id"
            ) from error
        except BusError as error:
            raise Unavailable(f"{error}; send this again with the same event_id") from error
        finally:
            timer.cancel()

    def _count_too_late(self, messages: Sequence[Message]) -> None:
        """Count requests whose decisions were logged after a 503: unless sent again, nobody has seen their answers."""
        self.counts["undelivered"] += any(message.topic == "decisions" for message in messages)

    def _count_lost(self, done: asyncio.Future[list[Receipt]], messages: int) -> None:
        if done.exception() is not None:
            self.counts["lost"] += messages

    async def _recall(self, event_ids: list[str]) -> None:
        """Look up what an earlier process answered under these ids: best effort answers before the bus could say.

        On another thread: a bus that is locked, or built anew at this moment, must not hold up every client.
        """
        unknown = [event_id for event_id in event_ids if event_id not in self._answers]
        if not unknown:
            return
        try:
            found = await asyncio.to_thread(lambda: [self._bus.lookup(event_id) for event_id in unknown])
        except BusError as error:
            raise Unavailable(f"{error}; send this again with the same event_id") from error
        told = zip(unknown, found, strict=True)
        self._remember({event_id: answer_of(payload) for event_id, payload in told if payload is not None})

    def _remember(self, answers: dict[str, Answer]) -> None:
        self._answers.update(answers)
        while len(self._answers) > ANSWERS_REMEMBERED:
            self._answers.popitem(last=False)

    @property
    def _served(self) -> Served | None:
        """What answers: the champion; in a cold start the uniform policy, unless it is to be refused."""
        snapshot = self._policies.snapshot
        return snapshot.champion or (self._cold if snapshot.vacant else None)

    def _why_nothing_serves(self) -> str:
        if self.vacant:
            return "has no policy yet and serving.cold_start is refuse: run its startup pipeline"
        return "has no champion loaded: see `refused` in /state and the server's log, mend it or roll back"

    def health(self) -> dict[str, Any]:
        """Return what the health route shows: status, champion, what answers, durability."""
        champion, served = self._policies.snapshot.champion, self._served
        return {
            "status": "ok" if champion else "cold start" if served else "no policy",
            "champion": champion and champion.version,
            "serves": served and served.version,
            "durability": self._serving.durability,
        }

    @property
    def vacant(self) -> bool:
        """Whether no policy was ever there, so that the server waits for the first."""
        return self._policies.snapshot.vacant

    def metrics(self) -> bytes:
        """Return the state and the latencies for Prometheus."""
        return self._metrics.text()

    def state(self) -> dict[str, Any]:
        """Return what `/state` shows: policies, counters since the start, latency in ms."""
        snapshot, served = self._policies.snapshot, self._served
        return {
            "serves": served and served.version,
            "champion": snapshot.champion and snapshot.champion.version,
            "challenger": snapshot.challenger and snapshot.challenger.version,
            "loaded": sorted(snapshot.loaded()),
            "refused": dict(snapshot.refused),
            **self.counts,
            "durability": self._serving.durability,
            "producer": self._bus.producer,
            "bus_error": self._commit.last_error,
            "latency": _latency(sorted(self.latencies)),
            "pid": os.getpid(),
            "started_at": self.started_at,
        }


def _latency(ascending_s: list[float]) -> dict[str, float] | None:
    def at(quantile: float) -> float:
        return round(1e3 * ascending_s[min(int(quantile * len(ascending_s)), len(ascending_s) - 1)], 3)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99)} if ascending_s else None


def _payload(event: Reward | Activation) -> bytes:
    kind = {"reward": event.reward} if isinstance(event, Reward) else {"activation": True}
    at = event.observed_at.isoformat(timespec="microseconds")
    return orjson.dumps({"event_id": event.event_id, **kind, "observed_at": at})
