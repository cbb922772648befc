"""Parses request bodies by hand, since pydantic costs more than the decision. One bad instance refuses all.

Every refusal is a SchemaError of one line that names the place, what was got, the rule and the next step.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from rl_core.errors import SchemaError
from rl_core.features.vectorise import Vectoriser, canonical
from rl_core.problem_config import Problem

SOURCES = ("client", "simulator")
EVENT_ID = r"^[^\x00-\x1f\x7f]{1,128}$"
SUBJECT = EVENT_ID.replace("128", "256")
_EVENT_ID = re.compile(EVENT_ID[1:-1])
_SUBJECT = re.compile(SUBJECT[1:-1])
_NUMBERS = {int, float}
_BARE = {"observation"}
_LARGEST = float(np.finfo(np.float32).max)
_MISSING = object()


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """n instances, parsed. `observations` is [n, observation_dim], finite; None stands for what the client left open.

    Args:
        eligible: action indices, ascending.
        largest: the size of the largest number among the observations.
        deferred: the decisions train only once they are activated.
        subjects: whose data each instance is.
        features: the named features of each as the log keeps them, JSON; None where a problem has none.
    """

    observations: npt.NDArray[np.float32]
    largest: float
    event_ids: list[str | None]
    eligible: list[list[int] | None]
    source: str
    deferred: bool | None
    subjects: list[str | None]
    features: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Reward:
    """What a decision earned, as a client reports it."""

    event_id: str
    reward: float
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class Activation:
    """Says that the decision's answer was used; it carries no value that anything could be trained on."""

    event_id: str
    observed_at: datetime


def parse_predict(
    body: bytes, problem: Problem, max_instances: int, now: datetime, vectoriser: Vectoriser | None = None
) -> PredictRequest | list[Reward] | list[Activation]:
    """Parse the body of a request to the predict route. Raises SchemaError.

    `{"instances": [{"observation", "event_id"?, "eligible_actions"?, "subject"?}],
    "parameters"?: {"source"?, "defer_activation"?}}`; or `{"rewards": [...]}` as `parse_rewards` takes it, or
    `{"activations": [...]}` as `parse_activations` does: on Vertex AI no other route is reachable.
    """
    request = _json_object(body, '{"instances": [{"observation": [...]}]}')
    if "rewards" in request:
        return _rewards(request, problem, max_instances, now)
    if "activations" in request:
        return _activations(request, max_instances, now)
    _only(request, "the body", ("instances", "parameters"))
    instances = _list(request, "instances", max_instances)
    event_ids: list[str | None] = []
    eligible: list[list[int] | None] = []
    subjects: list[str | None] = []
    rows: list[Any] = []
    context = "observation" if vectoriser is None else "features"
    if vectoriser is None and all(type(instance) is dict and instance.keys() == _BARE for instance in instances):
        # The usual large request, where asking each instance for what it doesn't have costs as much as deciding.
        rows = [instance["observation"] for instance in instances]
        event_ids, eligible, subjects = [None] * len(rows), [None] * len(rows), [None] * len(rows)
    else:
        for i, instance in enumerate(instances):
            where = f"instances[{i}]"
            _object(instance, where, '{"observation": [...]}' if vectoriser is None else '{"features": {...}}')
            _only(instance, where, (context, "event_id", "eligible_actions", "subject"))
            rows.append(instance.get(context, _MISSING))
            event_ids.append(_event_id(instance["event_id"], f"{where}.event_id") if "event_id" in instance else None)
            subjects.append(_subject(instance["subject"], where) if "subject" in instance else None)
            given = instance.get("eligible_actions")
            eligible.append(None if given is None else _eligible(given, where, problem))
    parameters = _parameters(request.get("parameters"))
    if vectoriser is None:
        return PredictRequest(*_observations(rows, problem), event_ids, eligible, *parameters, subjects)
    for i, row in enumerate(rows):
        if type(row) is not dict:
            what = "missing" if row is _MISSING else _shown(row)
            raise SchemaError(f"instances[{i}].features is {what}; send an object of {', '.join(vectoriser.names)}")
    made = vectoriser.rows(rows)
    sent = [canonical(row) for row in rows]
    return PredictRequest(made, float(np.abs(made).max()), event_ids, eligible, *parameters, subjects, sent)


def parse_rewards(body: bytes, problem: Problem, max_rewards: int, now: datetime) -> list[Reward]:
    """Parse `{"rewards": [{"event_id", "reward", "observed_at"?}]}`, or one such object. Raises SchemaError.

    `observed_at` is `now` if left out.
    """
    request = _json_object(body, '{"rewards": [{"event_id": "…", "reward": 1.0}]}')
    if "rewards" not in request:
        return [_reward(request, "the reward", problem, now)]
    return _rewards(request, problem, max_rewards, now)


def parse_activations(body: bytes, max_activations: int, now: datetime) -> list[Activation]:
    """Parse `{"activations": ["<event_id>", ...]}`. Raises SchemaError."""
    return _activations(_json_object(body, '{"activations": ["…"]}'), max_activations, now)


def _activations(request: dict[str, Any], max_activations: int, now: datetime) -> list[Activation]:
    _only(request, "the body", ("activations",))
    given = _list(request, "activations", max_activations)
    event_ids = [_event_id(event_id, f"activations[{i}]") for i, event_id in enumerate(given)]
    return [Activation(event_id, now) for event_id in event_ids]


def _rewards(request: dict[str, Any], problem: Problem, max_rewards: int, now: datetime) -> list[Reward]:
    _only(request, "the body", ("rewards",))
    given = _list(request, "rewards", max_rewards)
    return [_reward(reward, f"rewards[{i}]", problem, now) for i, reward in enumerate(given)]


def _reward(given: object, where: str, problem: Problem, now: datetime) -> Reward:
    reward = _object(given, where, '{"event_id": "…", "reward": 1.0}')
    _only(reward, where, ("event_id", "reward", "observed_at"))
    for field in ("event_id", "reward"):
        if field not in reward:
            raise SchemaError(f"{where} has no {field}; a reward names its decision's event_id and a number")
    value, low, high = reward["reward"], problem.reward_min, problem.reward_max
    if type(value) not in _NUMBERS or not low <= value <= high:
        raise SchemaError(f"{where}.reward is {_shown(value)}; a reward is a number within {low:g}..{high:g}")
    observed_at = reward.get("observed_at")
    at = now if observed_at is None else _time(observed_at, f"{where}.observed_at")
    return Reward(_event_id(reward["event_id"], f"{where}.event_id"), float(value), at)


def _time(value: object, where: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)  # type: ignore[arg-type]  # a TypeError is an answer too
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        pass
    raise SchemaError(f"{where} is {_shown(value)}; write ISO 8601 with an offset, like 2026-01-31T12:00:00.123456Z")


def _observations(rows: list[Any], problem: Problem) -> tuple[npt.NDArray[np.float32], float]:
    """The observations, [n, d], and the size of the largest number among them."""
    dim, version = problem.observation_dim, problem.observation_version
    for i, got in enumerate(rows):
        if type(got) is list and len(got) == dim:
            continue
        where = f"instances[{i}].observation"
        if isinstance(got, list):
            raise SchemaError(f"{where} has {len(got)} numbers; {version} has {dim}: send {dim}")
        what = "missing" if got is _MISSING else _shown(got)
        raise SchemaError(f"{where} is {what}; send a list of {dim} numbers ({version})")
    if not _NUMBERS.issuperset(map(type, chain.from_iterable(rows))):
        i, j = next((i, j) for i, row in enumerate(rows) for j, value in enumerate(row) if type(value) not in _NUMBERS)
        raise SchemaError(f"instances[{i}].observation[{j}] is {_shown(rows[i][j])}; send numbers only")
    observations = np.fromiter(chain.from_iterable(rows), np.float64, dim * len(rows))
    largest = max(float(observations.max()), -float(observations.min()))
    if largest > _LARGEST:
        i, j = divmod(int(np.flatnonzero(np.abs(observations) > _LARGEST)[0]), dim)
        raise SchemaError(f"instances[{i}].observation[{j}] is {rows[i][j]!r}; it must fit float32 (below 3.4e38)")
    return observations.astype(np.float32).reshape(len(rows), dim), largest


def _event_id(value: object, where: str) -> str:
    if isinstance(value, str) and _EVENT_ID.fullmatch(value):
        return value
    raise _no_name(value, where, 128)


def _subject(value: object, where: str) -> str:
    if isinstance(value, str) and _SUBJECT.fullmatch(value):
        return value
    raise _no_name(value, f"{where}.subject", 256)


def _no_name(value: object, where: str, most: int) -> SchemaError:
    got = f"{len(value)} characters long" if isinstance(value, str) and len(value) > most else _shown(value)
    return SchemaError(f"{where} is {got}; use a string of 1 to {most} characters, no control characters")


def _eligible(value: object, where: str, problem: Problem) -> list[int]:
    """The indices, ascending, of actions that are given by their ids, without withdrawn ones."""
    where = f"{where}.eligible_actions"
    rule = f"list action ids ({problem.action_set_version}), at least one, each once"
    if not isinstance(value, list) or not value:
        raise SchemaError(f"{where} is {_shown(value)}; {rule}, or leave it out for all")
    index_of = _index_of(problem.actions)
    indices: list[int] = []
    for j, action in enumerate(value):
        if type(action) is not str:
            raise SchemaError(f"{where}[{j}] is {_shown(action)}; {rule}")
        if action not in index_of:
            raise SchemaError(
                f"{where}[{j}] is {_shown(action)}, which is no action{_nearest(action, problem)}; {rule}"
            )
        indices.append(index_of[action])
    if len(set(indices)) != len(indices):
        twice = next(action for action in value if value.count(action) > 1)
        raise SchemaError(f"{where} holds {_shown(twice)} more than once; {rule}")
    if not problem.inactive:
        return sorted(indices)
    active = sorted(index for index in indices if problem.actions[index] not in problem.inactive)
    if not active:
        raise SchemaError(f"{where} names withdrawn actions only ({problem.action_set_version}); {rule}")
    return active


@lru_cache(maxsize=4)
def _index_of(actions: tuple[str, ...]) -> dict[str, int]:
    return {action: index for index, action in enumerate(actions)}


def _nearest(action: str, problem: Problem) -> str:
    """Words that name the action meant, most likely; looked for among a thousand, since clients wait meanwhile."""
    alike = get_close_matches(action[:128], problem.actions[:1000], 1)
    return f" (did you mean {_shown(alike[0])}?)" if alike else ""


def _parameters(given: object) -> tuple[str, bool | None]:
    """Source, and whether to defer the activation."""
    if given is None:
        return SOURCES[0], None
    parameters = _object(given, "parameters", '{"source": "client"}')
    _only(parameters, "parameters", ("source", "defer_activation"))
    source, deferred = parameters.get("source", SOURCES[0]), parameters.get("defer_activation")
    if source not in SOURCES:
        raise SchemaError(f"parameters.source is {_shown(source)}; it is one of {', '.join(SOURCES)}")
    if type(deferred) is not bool and "defer_activation" in parameters:
        raise SchemaError(f"parameters.defer_activation is {_shown(deferred)}; it is true or false, or left out")
    return str(source), deferred


def _json_object(body: bytes, example: str) -> dict[str, Any]:
    try:
        loaded = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise SchemaError(f"the body is not JSON ({error}); NaN and Infinity are not JSON. Send {example}") from error
    return _object(loaded, "the body", example)


def _object(value: object, where: str, example: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemaError(f"{where} is {_shown(value)}; send an object like {example}")
    return value


def _list(request: dict[str, Any], key: str, most: int) -> list[Any]:
    got = request.get(key)
    if not isinstance(got, list) or not got:
        what = _shown(got) if key in request else "missing"
        raise SchemaError(f"{key} is {what}; send a list of 1 to {most}")
    if len(got) > most:
        raise SchemaError(
            f"{key} has {len(got)} entries; serving.max_instances is {most}: send them in several requests"
        )
    return got


def _only(given: Collection[str], where: str, known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise SchemaError(f"{where} has {_shown(key)}, which is unknown; the fields are {', '.join(known)}")


def _shown(value: object) -> str:
    if isinstance(value, dict | list) and value:
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else f"{text[:60]}…"
