"""Logs the uniform random policy's interactions with the bandit's environment: what the first policy learns from.

The producer is named by everything that shapes its rows, so that the same call finds its own rows and adds none.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from rl_core.backends import job_log, open_backend
from rl_core.backends.contracts.store import EventStore, Window
from rl_core.config import Bandit, Settings
from rl_core.environments import load_environment
from rl_core.environments.protocol import Environment, Shown
from rl_core.errors import StoreError
from rl_core.features.vectorise import canonical
from rl_core.schema import DECISION_SCHEMA, REWARD_SCHEMA, SCHEMA_VERSION, UNIFORM

PART_ROWS = 100_000


def run(bandit: Bandit, settings: Settings, rounds: int, seed: int) -> list[Window]:
    """Log `rounds` interactions, joined with their rewards; return the windows that hold them and nothing else.

    Raises:
        ConfigError: the bandit has no environment, or it doesn't fit the problem.
        SchemaError: the environment shows or gives what breaks the problem's rules.
        StoreError: the log can't be written, or the joiner left rows open or without their reward.
    """
    started = time.perf_counter()
    environment, data = load_environment(bandit, settings)
    store = open_backend(bandit, settings).store()
    producer = _producer(bandit, environment, rounds, seed)
    known = _closed(store, producer)
    if len(known) < rounds:
        generated = _Generated(
            bandit, environment, producer, rounds, seed, _first_decision(store, producer, bandit, rounds)
        )
        for low in range(0, rounds, PART_ROWS):
            decisions, rewards = generated.part(low, min(low + PART_ROWS, rounds))
            job_log.append(store, decisions, rewards)
            if rounds > PART_ROWS:
                print(f"generator: {low + len(decisions)} of {rounds} interactions logged", flush=True)
        store.complete(producer)
        store.joiner(bandit).run(None)
        known = _closed(store, producer)
    if len(known) < rounds:
        raise StoreError(
            f"{len(known)} of {rounds} generated decisions were joined with their reward; run the generator again"
        )
    windows = _runs(known)
    print(
        f"generator: {rounds} uniform random interactions on {data} data, seq "
        f"{', '.join(f'({low}, {high}]' for low, high in windows)}, {time.perf_counter() - started:.2f} s",
        flush=True,
    )
    return windows


def _producer(bandit: Bandit, environment: Environment, rounds: int, seed: int) -> str:
    """Named after the bandit, its problem and world, and the call."""
    said = f"{bandit.id}\0{bandit.problem.model_dump_json()}\0{bandit.environment}\0{rounds}\0{seed}\0"
    return f"generator-{hashlib.sha256(said.encode() + environment.identity()).hexdigest()[:24]}"


def _closed(store: EventStore, producer: str) -> list[int]:
    """The seqs of the producer's interactions that closed with their reward, ascending."""
    found = store.query(
        f"SELECT seq FROM interactions WHERE producer = '{producer}' AND closed_by = 'reward' ORDER BY seq"  # noqa: S608
    )
    seqs: list[int] = found["seq"].to_pylist()
    return seqs


def _first_decision(store: EventStore, producer: str, bandit: Bandit, rounds: int) -> datetime:
    """When the first decision was made: as logged by a run that was cut short, else so that no reward is waited for."""
    begun, wait = job_log.begun_at(store, producer), bandit.join.reward_wait_s
    return begun or datetime.now(UTC) - timedelta(seconds=wait + 1, microseconds=rounds)


def _runs(seqs: Sequence[int]) -> list[Window]:
    ascending = np.asarray(seqs)
    runs = np.split(ascending, np.flatnonzero(np.diff(ascending) != 1) + 1)
    return [(int(run[0]) - 1, int(run[-1])) for run in runs]


@dataclass(frozen=True, eq=False)
class _Generated:
    """All rows of a call; any part of them is the same whenever it is made."""

    bandit: Bandit
    environment: Environment
    producer: str
    rounds: int
    seed: int
    first: datetime

    def part(self, low: int, high: int) -> tuple[pa.Table, pa.Table]:
        """Decisions and rewards of rounds low..high-1; `low` is a multiple of PART_ROWS."""
        environment, n = self.environment, high - low
        rng = np.random.default_rng([self.seed, low // PART_ROWS])
        users = environment.observe(rng, n)
        active = np.asarray(self.bandit.problem.active_indices, np.int32)
        actions = active[rng.integers(0, len(active), n)]
        event_ids = self._event_ids(low, high)
        microseconds = int(self.first.timestamp()) * 1_000_000 + self.first.microsecond + np.arange(low, high)
        stamps = {
            "event_id": pa.array(event_ids),
            "received_at": pa.array(microseconds).cast(pa.timestamp("us", tz="UTC")),
            "producer": pa.repeat(self.producer, n),
            "offset": pa.array(np.arange(low + 1, high + 1)),
        }
        action_ids = pa.array(self.bandit.problem.actions).take(pa.array(actions))
        rewards = environment.earned(users, action_ids.to_pylist(), event_ids)
        decisions = stamps | _contexts(environment.shown(users)) | self._choices(action_ids, len(active))
        decisions |= {"decided_at": stamps["received_at"]}
        observed = stamps | {"reward": pa.array(rewards), "observed_at": stamps["received_at"]}
        return job_log.rows_of(decisions, DECISION_SCHEMA), job_log.rows_of(observed, REWARD_SCHEMA)

    def _event_ids(self, low: int, high: int) -> list[str]:
        """UUIDs of version 8: 72 bits name the producer, the last 48 count."""
        name = self.producer.removeprefix("generator-")
        head = f"{name[:8]}-{name[8:12]}-8{name[12:15]}-a{name[15:18]}-"
        return [f"{head}{index:012x}" for index in range(low, high)]

    def _choices(self, action_ids: pa.Array, num_active: int) -> dict[str, pa.Array]:
        problem, n = self.bandit.problem, len(action_ids)
        return {
            "policy_version": pa.repeat(UNIFORM, n),
            "observation_version": pa.repeat(problem.observation_version, n),
            "action_id": action_ids,
            "action_set_version": pa.repeat(problem.action_set_version, n),
            "propensity": pa.repeat(1.0 / num_active, n),
            "epsilon": pa.repeat(1.0, n),
            "seed_stream": pa.repeat(f"{self.producer}/{self.seed}", n),
            "source": pa.repeat("generator", n),
            "served": pa.repeat(True, n),
            "schema_version": pa.repeat(pa.scalar(SCHEMA_VERSION, pa.int32()), n),
        }


def _contexts(shown: Shown) -> dict[str, pa.Array]:
    """What was shown, as the server logs it."""
    if isinstance(shown, list):
        texts = [canonical(one) for one in shown]
        return {"observation": job_log.empty_lists(len(texts)), "features": pa.array(texts, pa.string())}
    return {"observation": job_log.lists(shown.ravel(), shown.shape[1])}
