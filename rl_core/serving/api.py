"""The bodies that the prediction server takes and gives, as OpenAPI models.

Fields that the log has too are derived from its columns.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from rl_core.config import Bandit
from rl_core.problem_config import Problem
from rl_core.schema import DECISION, REWARD, Column, Type
from rl_core.serving.requests import EVENT_ID, SUBJECT

_PYTHON: dict[Type, Any] = {
    "string": str,
    "float64": float,
    "timestamp": datetime,
    "float32[]": list[float],
}
_FLOAT32_MAX = 3.4028234e38
_STRICT = ConfigDict(extra="forbid")


def _fields(columns: tuple[Column, ...], **rules: dict[str, Any]) -> dict[str, Any]:
    """A pydantic field for each column named, with the column's type and words and the rules that go beyond it.

    The rule `null` says that null is taken, too, as if the field were left out.
    """
    by_name = {column.name: column for column in columns}
    fields: dict[str, Any] = {}
    for name, rule in rules.items():
        column = by_name[name]
        told = {"description": column.doc, **rule}
        python = _PYTHON[column.type] | None if told.pop("null", False) else _PYTHON[column.type]
        fields[name] = (python, Field(**told))
    return fields


def bodies(bandit: Bandit) -> tuple[Any, Any, Any]:
    """Make the models of what the predict, reward and activate routes take, in this order.

    Predict takes rewards and activations too, since on Vertex AI there is no other route.
    """
    one, many = _reward(bandit)
    activations = _activations(bandit)
    return predict_body(bandit) | many | activations, many | one, activations


def predict_body(bandit: Bandit) -> type[BaseModel]:
    """Make the model of a predict request: instances, with this bandit's dimension and actions."""
    problem = bandit.problem
    listed = {"type": "array", "items": {"enum": list(problem.actions)}, "minItems": 1, "uniqueItems": True}
    eligible: dict[str, Any] = {"anyOf": [listed, {"type": "null"}]}
    instance = create_model(
        "Instance",
        __config__=_STRICT,
        **_fields(
            DECISION,
            **_context(problem),
            event_id={"default": None, "pattern": EVENT_ID},
            subject={"default": None, "pattern": SUBJECT},
        ),
        eligible_actions=(
            list[str] | None,
            Field(
                default=None,
                description="the ids of the actions that may be chosen; all that are active, if left out",
                json_schema_extra=eligible,
            ),
        ),
    )
    parameters: Any = _parameters(bandit) | None
    context: dict[str, Any] = {"observation": [0.0] * problem.observation_dim}
    if problem.features:
        context = {"features": {name: one.example for name, one in problem.features.items()}}
    example = {"instances": [{**context, "event_id": "order-4711"}]}
    return create_model(
        "PredictBody",
        __config__=ConfigDict(extra="forbid", json_schema_extra={"example": example}),  # type: ignore[dict-item]
        instances=(list[instance], Field(min_length=1, max_length=bandit.serving.max_instances)),
        parameters=(parameters, None),
    )


_NUMBER = {"type": "number", "minimum": -_FLOAT32_MAX, "maximum": _FLOAT32_MAX}
_WORD = {"type": "string"}
_SENT = {
    "number": _NUMBER,
    "category": _WORD,
    "hashed": _WORD,
    "set": {"type": "array", "items": _WORD},
    "boolean": {"type": "boolean"},
    "time": {"type": "string", "format": "date-time"},
    "vector": {"type": "array", "items": _NUMBER},
}
"""How a feature of each kind is sent, as JSON schema."""


def _context(problem: Problem) -> dict[str, dict[str, Any]]:
    """What an instance tells of its context: an observation, or named features."""
    if not problem.features:
        dim = problem.observation_dim
        return {"observation": {"min_length": dim, "max_length": dim, "json_schema_extra": {"items": _NUMBER}}}
    needed = [name for name, one in problem.features.items() if not one.optional]
    sent = {
        name: {"anyOf": [_SENT[one.kind], {"type": "null"}]} if one.optional else _SENT[one.kind]
        for name, one in problem.features.items()
    }
    schema = {"type": "object", "properties": sent, "required": needed, "additionalProperties": False}
    return {"features": {"description": "the named features of the bandit's YAML", "json_schema_extra": schema}}


def _reward(bandit: Bandit) -> tuple[type[BaseModel], type[BaseModel]]:
    """One reward, and a list of them."""
    problem = bandit.problem
    reward = create_model(
        "Reward",
        __config__=_STRICT,
        **_fields(
            REWARD,
            event_id={"pattern": EVENT_ID},
            reward={"ge": problem.reward_min, "le": problem.reward_max},
            observed_at={"null": True, "default": None, "description": "when the world produced it; now, if left out"},
        ),
    )
    rewards = create_model(
        "Rewards",
        __config__=_STRICT,
        rewards=(list[reward], Field(min_length=1, max_length=bandit.serving.max_instances)),
    )
    return reward, rewards


def _activations(bandit: Bandit) -> type[BaseModel]:
    event_id = Annotated[str, Field(pattern=EVENT_ID)]
    rules = Field(min_length=1, max_length=bandit.serving.max_instances, description="event_ids of decisions")
    return create_model("Activations", __config__=_STRICT, activations=(list[event_id], rules))


class Parameters(BaseModel):
    """What a predict request may say of all its instances."""

    model_config = _STRICT
    source: Literal["client", "simulator"] = "client"


def _parameters(bandit: Bandit) -> type[Parameters]:
    """With this bandit's default for `defer_activation`."""
    deferred = Field(
        default=bandit.serving.defer_activation,
        description="the decisions train only once their use was confirmed, by an activation or a reward",
    )
    return create_model("Parameters", __base__=Parameters, defer_activation=(bool, deferred))


Prediction: type[BaseModel] = create_model(
    "Prediction",
    **_fields(DECISION, event_id={}, action_id={}, propensity={}, policy_version={}),
    deferred=(
        Literal[True],
        Field(default=None, description="there only where the decision trains once it is activated, else never"),
    ),
)


class PredictAnswer(BaseModel):
    """The answer to a predict request: one prediction per instance, in the same order."""

    predictions: list[Prediction]
    durability: Literal["best_effort"] | None = Field(
        default=None, description="there only where the answer did not wait for the log (serving.durability)"
    )


class RewardAnswer(BaseModel):
    """The answer to rewards or activations: how many were accepted."""

    accepted: int
    durability: Literal["best_effort"] | None = None


SERVES = "the policy_version of answers: the champion, `uniform` in a cold start, null while predictions are refused"


class Health(BaseModel):
    """Whether predictions are answered: what anybody may ask."""

    status: Literal["ok", "cold start", "no policy"] = Field(
        description="cold start: before the first policy, actions are chosen uniformly at random"
    )


class HealthInFull(Health):
    """Health with the champion; what is shown where no token is asked for."""

    champion: str | None
    serves: str | None = Field(description=SERVES)
    durability: Literal["durable", "best_effort"]


class About(HealthInFull):
    """What a client finds at `/`: the bandit and the routes."""

    banditloop: Literal["prediction server"]
    bandit: str
    routes: dict[str, str]


class Latency(BaseModel):
    """Time from request to answer within the server, in milliseconds."""

    p50_ms: float
    p99_ms: float


class State(BaseModel):
    """What the server has loaded, counted and met since it started."""

    serves: str | None = Field(description=SERVES)
    champion: str | None
    challenger: str | None
    loaded: list[str]
    refused: dict[str, str] = Field(description="versions that were not taken, with the reason")
    requests: int = Field(description="to the predict, reward and activate routes")
    decisions: int
    deferred: int = Field(description="decisions made that train only once they are activated")
    rewards: int
    activations: int
    repeated: int = Field(description="instances answered again under an event_id seen before")
    refused_requests: int = Field(description="requests answered 4xx")
    unavailable: int = Field(description="requests answered 503")
    defects: int = Field(description="requests answered 500")
    lost: int = Field(description="events that the message bus did not take after the answer; best_effort only")
    clipped: int = Field(description="numbers of observations outside their range, which were clipped")
    undelivered: int = Field(
        description="requests whose decisions are logged, though the client had hung up, or was answered 503 too early"
    )
    durability: Literal["durable", "best_effort"]
    producer: str = Field(description="the name under which the message bus numbers what this server accepts")
    bus_error: str | None = Field(description="why the last write to the message bus failed, if it did")
    latency: Latency | None = Field(description="of the last predictions, in the server")
    pid: int
    started_at: datetime


class Error(BaseModel):
    """Every error answer: one line."""

    error: str = Field(description="what was got, the rule, the next step")


Responses = dict[int | str, dict[str, Any]]


def _error(description: str) -> dict[str, Any]:
    return {"model": Error, "description": description}


LIMITED: Responses = {
    408: _error("the request was not here whole within serving.request_timeout_s; the connection is closed"),
    431: _error("request line and headers are too long; the connection is closed"),
}
UNAUTHORIZED: Responses = {
    401: {
        **_error("the token is missing or another one; only where the server has one (BANDIT_SERVER_TOKEN)"),
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "Bearer"}},
    }
}
REFUSED: Responses = {
    400: _error("the request breaks a rule; nothing of it was logged"),
    413: _error("the body is longer than serving.max_body_bytes"),
    "4XX": _error("as 400"),
    503: {
        **_error("no policy, a log that is too slow, or serving.max_concurrency requests at work: send it again"),
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}},
    },
}
