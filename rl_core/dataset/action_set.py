"""Action sets: what an index in a row means, by the row's `action_set_version`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ActionSet(BaseModel):
    """What an `action_set_version` names: the id of each index, and those that are not chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    actions: tuple[str, ...]
    inactive: tuple[str, ...] = ()
