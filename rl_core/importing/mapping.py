"""What the columns of a file mean: `--map event_id=visit action=article observation=age,hour …`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rl_core.errors import ConfigError

_NEEDED = ("action", "propensity", "reward", "observation")
_OPTIONAL = ("event_id", "eligible_actions")


@dataclass(frozen=True)
class Mapping:
    """Columns by what they hold; of JSON, a column is a path with dots.

    Args:
        observation: one column of lists, or the columns of the numbers in their order; of named features, the column of
            each in the order of the YAML.
        event_id: None: rows are numbered.
        eligible_actions: a column of lists of action ids; None: every action could have been chosen in every row.
    """

    action: str
    propensity: str
    reward: str
    observation: tuple[str, ...]
    event_id: str | None = None
    eligible_actions: str | None = None

    @classmethod
    def parse(cls, words: Iterable[str], default: Mapping | None = None, features: Sequence[str] = ()) -> Mapping:
        """Parse `field=column` words; fields that are not named are as in `default`, else named like their column.

        Named features are looked for in columns of their names.

        Raises ConfigError naming the word, or what is missing.
        """
        given: dict[str, str] = {}
        for word in words:
            field, equals, column = word.partition("=")
            if not equals or not column or field not in (*_NEEDED, *_OPTIONAL) or field in given:
                known = ", ".join((*_NEEDED, *_OPTIONAL))
                raise ConfigError(f"--map {word!r}: give FIELD=COLUMN, each once, with a field out of {known}")
            given[field] = column
        columns: dict[str, Any] = {
            field: getattr(default, field) if default else field if field in _NEEDED else None
            for field in (*_NEEDED, *_OPTIONAL)
        }
        if features:
            columns["observation"] = tuple(features)
        columns |= given
        if isinstance(columns["observation"], str):
            columns["observation"] = tuple(columns["observation"].split(","))
        return cls(**columns)

    @property
    def columns(self) -> list[str]:
        """Return every column that is read, once."""
        some = (self.event_id, self.action, self.propensity, self.reward, self.eligible_actions, *self.observation)
        return list(dict.fromkeys(column for column in some if column))


def at(said: Any, path: str) -> Any:
    """Return the value at a path with dots in decoded JSON; None where nothing is."""
    if isinstance(said, dict) and path in said:
        return said[path]
    for name in path.split("."):
        said = said.get(name) if isinstance(said, dict) else None
    return said
