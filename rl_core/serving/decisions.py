"""Makes decisions of instances: scores in one go, one draw per event id, and the row that goes to the log."""

from __future__ import annotations

import random
import time
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from rl_core.bandit.exploration import choose, draw_uniform
from rl_core.config import Bandit
from rl_core.schema import SCHEMA_VERSION
from rl_core.serving.policies import Served
from rl_core.serving.requests import PredictRequest

Answer = dict[str, Any]
_random = random.Random()  # noqa: S311  seeded by the system; ids are unique, not secret, and os.urandom costs 50 µs
_ANSWERED = ("event_id", "action", "action_id", "propensity", "policy_version")


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision made: its answer to the client, and its row as it goes to the message bus."""

    answer: Answer
    payload: bytes


New = dict[str, Decision]


def answer_of(payload: bytes) -> Answer:
    """Read the answer out of a logged payload: a repeated request gets the answer that it got before."""
    row = orjson.loads(payload)
    answer = {name: row[name] for name in _ANSWERED}
    return {**answer, "deferred": True} if row.get("deferred") else answer


def uuid7() -> str:
    """Make a time-ordered UUID, version 7 (RFC 9562): 48 bits of milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    bits = _random.getrandbits(74)
    value = milliseconds << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Decider:
    """Decides for one bandit; the service calls it once per request.

    Args:
        salt: secret of this endpoint; with it an event id's draw is fixed, without it nobody can foresee the draw.
    """

    def __init__(self, bandit: Bandit, salt: bytes) -> None:
        self._salt = salt
        self._epsilon = bandit.serving.epsilon
        self._defer = bandit.serving.defer_activation
        self._action_ids = bandit.problem.actions
        self._all = list(range(bandit.problem.num_actions))
        self._constant = {
            "observation_version": bandit.problem.observation_version,
            "action_set_version": bandit.problem.action_set_version,
            "epsilon": self._epsilon,
            "seed_stream": "blake2b(salt, event_id)",
            "served": True,
            "rollout_stage": None,
            "schema_version": SCHEMA_VERSION,
            "policy_info": None,
        }

    def decide(
        self, request: PredictRequest, served: Served, known: Container[str], at: datetime
    ) -> tuple[list[str], New]:
        """Return the event id of each instance, and a new decision for each event id that is not known yet.

        An event id that occurs twice in the request is decided once, by its first instance.

        Args:
            at: the time by the bus's clock, with which rewards are stamped: the wait for them is the time that passes.
        """
        scores = served.policy.scores(request.observations)
        decided_at = at.isoformat(timespec="microseconds")
        event_ids = [uuid7() if given is None else given for given in request.event_ids]
        deferred = self._defer if request.deferred is None else request.deferred
        new: New = {}
        for i, event_id in enumerate(event_ids):
            if event_id in known or event_id in new:
                continue
            eligible = request.eligible[i]
            action, propensity = choose(scores[i], eligible, self._epsilon, draw_uniform(self._salt, event_id))
            answer = {
                "event_id": event_id,
                "action": action,
                "action_id": self._action_ids[action],
                "propensity": propensity,
                "policy_version": served.version,
            }
            if deferred:
                answer["deferred"] = True
            row = {
                **answer,
                **self._constant,
                "decided_at": decided_at,
                "observation": request.observations[i].tolist(),
                "eligible_actions": self._all if eligible is None else eligible,
                "source": request.source,
            }
            if (subject := request.subjects[i]) is not None:
                row["subject"] = subject
            new[event_id] = Decision(answer, orjson.dumps(row))
        return event_ids, new
