"""The named features of a file: every column without another role, under a name that a YAML and a request can say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import TypeAdapter

from rl_core.errors import DataError
from rl_core.feature_config import Features, names_of
from rl_core.starting.kinds import Kind, kind_of
from rl_core.starting.table import Column

_LONGEST_NAME = 64


@dataclass(frozen=True)
class Found:
    """The features by name, the column of each in the same order, and the columns left out with the reason."""

    kinds: Mapping[str, Kind]
    columns: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def named(self) -> dict[str, str]:
        """The column of each feature, by its name."""
        return dict(zip(self.kinds, self.columns, strict=True))

    @cached_property
    def features(self) -> Features:
        return TypeAdapter(Features).validate_python({name: kind.definition for name, kind in self.kinds.items()})

    @property
    def width(self) -> int:
        """How many numbers they are made into."""
        return len(names_of(self.features))


def find(columns: Mapping[str, Column], earned: Collection[str]) -> Found:
    """Choose name and kind of each column; `earned` are names of what is only known afterwards. Raises DataError."""
    kinds: dict[str, Kind] = {}
    taken: list[str] = []
    left_out: dict[str, str] = {}
    for column in columns.values():
        late = column.name.strip().lower() in earned
        kind = "by its name earned after the decision, too" if late else kind_of(column)
        if isinstance(kind, Kind):
            kinds[_name(column.name, kinds)] = kind
            taken.append(column.name)
        else:
            left_out[column.name] = kind
    if not kinds:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in left_out.items()) or "there is no other column"
        raise DataError(f"no column is left that could be a feature, something known before the decision ({reasons})")
    return Found(kinds, tuple(taken), left_out)


def _name(column: str, taken: Collection[str]) -> str:
    """Make a feature's name of a column's: letters, digits and _; with a number behind it where it is taken."""
    plain = unicodedata.normalize("NFKD", column.replace("ß", "ss")).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", plain).strip("_") or "feature"
    name = f"_{name}" if name[0].isdigit() else name
    alike, number = name[:_LONGEST_NAME], 1
    while alike in taken:
        number += 1
        alike = f"{name[: _LONGEST_NAME - 4]}_{number}"
    return alike
