"""The decision problem of a bandit: what is observed, which actions there are, what they can earn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from rl_core.feature_config import Features, faults_of, names_of
from rl_core.frozen import Frozen


class Problem(Frozen):
    """The decision problem: what is observed, what can be done, what comes back.

    An action is its id: actions may be added, reordered, withdrawn (`{id: film-7, active: false}`, or taken out of the
    list) and brought back; what was learnt of an id stays with it. Their order is the action index, which is only good
    within one `action_set_version`.

    Attributes:
        observation_dim: how many numbers (float32) describe a context.
        observation_version: how the numbers are made; logged with each decision.
        actions: stable action ids.
        inactive: those of them that are not chosen.
        action_set_version: a name, to which a digest of the list is added by itself: `name@digest`.
        features: named features (`rl_core/feature_config.py`): requests send them instead of an observation, which is
            made of them then; `observation_dim` and `observation_version` follow from them.
        action_features: named features of actions: `{id: budget, features: {section: politics}}`. With them a policy
            may share what it learns of one action with those that are like it (`agent.model`).
        described: the features of each action by its id; taken from the entries of `actions`.
        intercept: adds a 1 to each observation, so that also users whose observation is 0 get what is best on average;
            null: for named features.
        reward_min, reward_max: the bounds of a reward, in the problem's own unit; others are refused.
    """

    features: Features = Field(
        default={}, description="named features by name, instead of `observation_dim`: docs/serving.md has the kinds"
    )
    observation_dim: int = Field(ge=1, le=4096)
    observation_version: str = Field(default="vector", min_length=1)
    actions: tuple[str, ...] = Field(min_length=2, description="stable action ids; their order is the action index")
    inactive: tuple[str, ...] = Field(default=(), description="ids of `actions` that are withdrawn: kept, not chosen")
    action_features: Features = Field(default={}, description="named features of the actions, by name")
    described: dict[str, dict[str, Any]] = Field(
        default={}, description="by action id, its features; usually written beside the id in `actions`"
    )
    action_set_version: str = Field(default="actions", min_length=1, description="a name; a digest is added to it")
    intercept: bool | None = Field(default=None, description="add a 1 to each observation; null: for named features")
    reward_min: float
    reward_max: float
    reward_default: float = Field(description="the reward of a decision that nobody rewarded in time")

    @property
    def num_actions(self) -> int:
        return len(self.actions)

    @property
    def active_indices(self) -> list[int]:
        """The indices of the actions that may be chosen, ascending."""
        withdrawn = frozenset(self.inactive)
        return [index for index, action in enumerate(self.actions) if action not in withdrawn]

    @property
    def active(self) -> tuple[str, ...]:
        """The ids that may be chosen, in their order."""
        return tuple(self.actions[index] for index in self.active_indices)

    @property
    def has_intercept(self) -> bool:
        return bool(self.features) if self.intercept is None else self.intercept

    @property
    def observed_names(self) -> dict[str, list[str]]:
        """The names of what each named feature is made into, in order; of a vector one name, `observation`."""
        if self.features:
            return {name: feature.names(name) for name, feature in self.features.items()}
        return {"observation": [f"observation[{index}]" for index in range(self.observation_dim)]}

    @property
    def standardised_coordinates(self) -> tuple[int, ...]:
        """Which numbers of an observation are brought to mean 0 and spread 1: those without a declared range."""
        found, at = [], 0
        for name, feature in self.features.items():
            if feature.kind == "number" and feature.min is None:
                found.append(at)
            at += len(feature.names(name))
        return tuple(found)

    @property
    def action_set_name(self) -> str:
        """`action_set_version` without the digest, as logs of before the digest have it."""
        return self.action_set_version.rpartition("@")[0]

    @model_validator(mode="before")
    @classmethod
    def _read_features(cls, given: Any) -> Any:
        """Derive dimension and version from the features."""
        if not isinstance(given, dict) or not given.get("features"):
            return given
        try:
            features = TypeAdapter(Features).validate_python(given["features"])
        except ValidationError:  # the field itself says what is wrong, and where
            return given | {"observation_dim": 1}
        name = str(given.get("observation_version", "features")).partition("@")[0]
        version = f"{name}@{_digest({one: feature.model_dump(mode='json') for one, feature in features.items()})}"
        return given | {"observation_dim": len(names_of(features)), "observation_version": version}

    @model_validator(mode="before")
    @classmethod
    def _read_actions(cls, given: Any) -> Any:
        """Take `{id, active, features}` apart, and give the list its digest."""
        if not isinstance(given, dict) or not isinstance(given.get("actions"), list | tuple):
            return given
        actions, inactive, described = [], list(given.get("inactive", ())), dict(given.get("described", {}))
        for action in given["actions"]:
            if isinstance(action, dict):
                if not action.keys() <= {"id", "active", "features"} or "id" not in action:
                    raise ValueError(f"an action is an id, or {{id: …, active: false, features: {{…}}}}; got {action}")
                inactive += [] if action.get("active", True) else [action["id"]]
                if not isinstance(action.get("features", {}), dict):
                    raise ValueError(f"the features of an action are {{name: value, …}}; got {action}")
                if "features" in action:
                    described[str(action["id"])] = action["features"]
                action = action["id"]
            actions.append(action)
        name = str(given.get("action_set_version", "actions")).partition("@")[0]
        version = f"{name}@{_digest([actions, sorted(map(str, inactive))])}"
        made = {"actions": actions, "inactive": inactive, "described": described, "action_set_version": version}
        return given | made

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.actions)) != len(self.actions):
            twice = sorted({a for a in self.actions if self.actions.count(a) > 1})
            raise ValueError(f"actions lists {twice[0]!r} more than once; action ids must be unique")
        if unknown := sorted(set(self.inactive) - set(self.actions)):
            raise ValueError(f"inactive names {unknown[0]!r}, which is not one of actions")
        if len(self.active) < 2:
            raise ValueError(f"only {len(self.active)} of {self.num_actions} actions is active; a choice needs two")
        if bad := [action for action in self.actions if not action or action != action.strip()]:
            raise ValueError(f"actions lists {bad[0]!r}; an action id is not empty and has no blanks at its ends")
        if wrong := list(self._misdescribed()):
            raise ValueError("\n".join(wrong))
        if not self.reward_min <= self.reward_default <= self.reward_max:
            raise ValueError(
                f"reward_default={self.reward_default} lies outside reward_min..reward_max "
                f"({self.reward_min}..{self.reward_max})"
            )
        return self

    def _misdescribed(self) -> Iterator[str]:
        """What is wrong with the features of the actions."""
        if unknown := sorted(self.described.keys() - set(self.actions)):
            yield f"described names {unknown[0]!r}, which is not one of actions"
        for action in self.actions if self.action_features else sorted(self.described):
            given = self.described.get(action, {})
            if not self.action_features:
                yield f"action {action!r} has features, but none are declared: declare them under action_features"
            yield from (f"action {action!r}: {wrong}" for wrong in faults_of(self.action_features, given))


def _digest(definition: Any) -> str:
    return hashlib.sha256(json.dumps(definition, default=str).encode()).hexdigest()[:10]
