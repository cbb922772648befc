"""The base of every settings class."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """A model that can't be changed once made and refuses fields it doesn't know; config sections derive from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86_400)]
"""Ten years at most: what timedelta and a database's timestamps hold."""
