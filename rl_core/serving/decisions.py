"""Makes decisions of instances: scores in one go, one draw per event id, and the row that goes to the log."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Container, Sequence
from datetime import datetime
from typing import NamedTuple

import orjson

from rl_core.bandit.exploration import choose_all, draws_uniform
from rl_core.config import Bandit
from rl_core.schema import SCHEMA_VERSION
from rl_core.serving.policies import Served
from rl_core.serving.requests import PredictRequest

Answer = bytes
"""What a client is told of one decision: a JSON object."""

_random = random.Random()  # noqa: S311  seeded by the system; ids are unique, not secret, and os.urandom costs 50 µs
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_ANSWERED = ("event_id", "action_id", "propensity", "policy_version")


class Decided(NamedTuple):
    """What became of one request: the event id of each instance, and the answer to each id that was not known before.

    `rows` are those of the new ones for the log; each continues `shared`. `clipped` counts the numbers of their
    observations that lay outside their range.
    """

    event_ids: list[str]
    new: dict[str, Answer]
    rows: list[bytes]
    shared: bytes
    deferred: bool
    clipped: int


def answer_of(payload: bytes) -> Answer:
    """Read the answer out of a logged payload: a repeated request gets the answer that it got before."""
    row = orjson.loads(payload)
    answer = {name: row[name] for name in _ANSWERED}
    return orjson.dumps({**answer, "deferred": True} if row.get("deferred") else answer)


def uuid7() -> str:
    """Make a time-ordered UUID, version 7 (RFC 9562): 48 bits of milliseconds, 74 random bits."""
    return uuids7(1)[0]


def uuids7(count: int) -> list[str]:
    """Make so many of them, of one millisecond."""
    high, low = divmod(time.time_ns() // 1_000_000, 1 << 16)
    begin, digits = f"{high:08x}-{low:04x}-7", _random.randbytes(10 * count).hex()
    parts = (digits[start : start + 20] for start in range(0, len(digits), 20))
    return [f"{begin}{part[:3]}-{_VARIANT[part[3]]}{part[4:7]}-{part[7:19]}" for part in parts]


class Decider:
    """Decides for one bandit; the service calls it once per request.

    Answers and rows are put together as JSON text: as dicts, those of 256 instances cost more than the decisions.

    A row names the ids that could be chosen, unless that was all of a list that its policy was trained with: whoever
    has the policy finds them there (docs/decisions/0021).

    Args:
        salt: secret of this endpoint; with it an event id's draw is fixed, without it nobody can foresee the draw.
    """

    def __init__(self, bandit: Bandit, salt: bytes) -> None:
        self._salt = salt
        self._epsilon = bandit.serving.epsilon
        self._defer = bandit.serving.defer_activation
        self._action_ids = [orjson.dumps(action_id) for action_id in bandit.problem.actions]
        problem = bandit.problem
        self._list = problem.action_set_version
        self._all = _eligible_ids(self._action_ids, problem.active_indices)
        self._restricted = problem.active_indices if problem.inactive else None
        self._chosen: dict[tuple[int, float], bytes] = {}
        self._constant = {
            "action_set_version": self._list,
            "seed_stream": "blake2b(salt, event_id)",
            "served": True,
            "rollout_stage": None,
            "schema_version": SCHEMA_VERSION,
            "policy_info": None,
        }

    def decide(self, request: PredictRequest, served: Served, known: Container[str], at: datetime) -> Decided:
        """Decide for each event id that is not known yet; one that occurs twice is decided by its first instance.

        Args:
            at: the time by the bus's clock, with which rewards are stamped: the wait for them is the time that passes.
        """
        made = iter(uuids7(request.event_ids.count(None)))
        event_ids = [next(made) if given is None else given for given in request.event_ids]
        if clipped := served.policy.encoder.clipped(request.observations, request.largest):
            served.policy.encoder.refuse_absurd(request.observations, served.coordinates)
        eligible = request.eligible
        if self._restricted is not None:
            eligible = [self._restricted if given is None else given for given in eligible]
        epsilon = self._epsilon if served.epsilon is None else served.epsilon
        actions, propensities = choose_all(
            served.policy.scores(request.observations, request.largest),
            eligible,
            epsilon,
            draws_uniform(self._salt, event_ids),
        )
        deferred = self._defer if request.deferred is None else request.deferred
        told = b',"policy_version":%b%b}' % (orjson.dumps(served.version), b',"deferred":true' if deferred else b"")
        any_eligible = any(given is not None for given in request.eligible)
        all_eligible = b"" if self._list in served.policy.lists else self._all
        if request.features is None:
            observed = orjson.dumps(request.observations, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
            contexts = [b"[%b]" % numbers for numbers in observed]
        else:
            contexts = [b'[],"features":%b' % orjson.dumps(sent) for sent in request.features]
        new: dict[str, Answer] = {}
        rows: list[bytes] = []
        for i, event_id in enumerate(event_ids):
            if event_id in known or event_id in new:
                continue
            chosen = self._chosen.get((actions[i], propensities[i])) or self._chosen_as(actions[i], propensities[i])
            named = b'"event_id":%b%b' % (orjson.dumps(event_id), chosen)
            row = b'%b,"observation":%b' % (named, contexts[i])
            if any_eligible:
                its = request.eligible[i]
                row += all_eligible if its is None else _eligible_ids(self._action_ids, its)
            if (subject := request.subjects[i]) is not None:
                row += b',"subject":%b' % orjson.dumps(subject)
            new[event_id] = b"{%b%b" % (named, told)
            rows.append(row + b"}")
        decided_at = at.isoformat(timespec="microseconds").encode()
        made_as = served.policy.observation_version
        shared = self._shared(served.version, made_as, epsilon, request.source, deferred)
        begin = b'{"decided_at":"%b",%b%b,' % (decided_at, shared, b"" if any_eligible else all_eligible)
        return Decided(event_ids, new, rows, begin, deferred, clipped)

    @functools.lru_cache(maxsize=64)  # noqa: B019  a server has one
    def _shared(self, version: str, made_as: str, epsilon: float, source: str, deferred: bool) -> bytes:
        """What all rows of a request have in common but for its time, as the inside of a JSON object."""
        its: dict[str, object] = {"policy_version": version, "observation_version": made_as}
        its |= {"epsilon": epsilon, "source": source}
        shared = {**self._constant, **its}
        if deferred:
            shared["deferred"] = True
        return orjson.dumps(shared)[1:-1]

    def _chosen_as(self, action: int, propensity: float) -> bytes:
        """JSON: there are at most two propensities for each action and number of eligible ones."""
        written = b',"action_id":%b,"propensity":%b' % (self._action_ids[action], orjson.dumps(propensity))
        self._chosen[action, propensity] = written
        return written


def _eligible_ids(action_ids: Sequence[bytes], indices: Sequence[int]) -> bytes:
    """What a row says of the actions that could be chosen, to continue a JSON object."""
    return b',"eligible_action_ids":[%b]' % b",".join([action_ids[index] for index in indices])
