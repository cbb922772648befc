"""Which column of a file is what: the action, what it earned, with which probability; the numbers left are observed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from rl_core.errors import DataError
from rl_core.starting.table import SHARE, Column

FEW = 100
"""So many values has a column of text at most that is taken for the action; --action names one of more."""
_NAMES = {
    "action": "action action_id arm variant choice item article product offer banner",
    "reward": "reward click clicked clicks conversion converted rating revenue purchase purchased bought",
    "propensity": "propensity probability prob p pscore action_prob action_probability chance",
    "event_id": "event_id event visit visit_id request_id impression_id decision_id uuid id",
}
_TIMES = ("time", "timestamp", "date", "datetime", "ts")


@dataclass(frozen=True)
class Roles:
    """Columns by what they hold, and those left out with the reason."""

    action: str
    reward: str
    propensity: str | None
    event_id: str | None
    observation: tuple[str, ...]
    left_out: Mapping[str, str]


def choose(columns: Mapping[str, Column], said: Mapping[str, str | None]) -> Roles:
    """Find the role of each column; `said` names those that a person has named. Raises DataError."""
    named = [name for name in said.values() if name is not None]
    for role, name in said.items():
        if name is not None and name not in columns:
            near = get_close_matches(name, columns, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(columns)}"
            raise DataError(f"{_option(role)} {name!r}: the file has no such column; {meant}")
        if name is not None and named.count(name) > 1:
            raise DataError(f"{_option(role)} {name!r}: the same column is named twice; each has one role")
    free = {name: column for name, column in columns.items() if name not in named}
    action = columns[said.get("action") or _only("action", _actions(free), free)]
    if len(action.counts) < 2:
        raise DataError(
            f"the action {action.name!r} holds {_kinds(action)}; a choice needs two: say with --action which it is"
        )
    free.pop(action.name, None)
    reward = columns[said.get("reward") or _only("reward", _named("reward", free), free)]
    _check_reward(reward)
    free.pop(reward.name, None)
    propensity = _optional("propensity", said, columns, free, _is_chance, "in (0, 1] in every row")
    event_id = _optional("event_id", said, columns, free, _is_one_each, "another one in every row")
    observation, left_out = _observed(free)
    return Roles(action.name, reward.name, propensity, event_id, observation, left_out)


def _observed(columns: Mapping[str, Column]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The columns of numbers in the order of the file, of which an import takes the rows; why others are left out."""
    left_out = {name: why for name, column in columns.items() if (why := _unfit(column))}
    numbers = [column for name, column in columns.items() if name not in left_out]
    incomplete: NDArray[np.bool_] | bool = False
    for column in sorted(numbers, key=lambda column: np.count_nonzero(~column.numbers[1])):
        empty = ~column.numbers[1]
        if np.mean(incomplete | empty) > SHARE:
            left_out[column.name] = f"{np.count_nonzero(empty):,} of {len(empty):,} cells are empty"
        else:
            incomplete = incomplete | empty
    observation = tuple(name for name in columns if name not in left_out)
    if not observation:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in left_out.items()) or "there is no other column"
        raise DataError(f"no usable column is left to be observed; it takes one of numbers that differ ({reasons})")
    return observation, {name: left_out[name] for name in columns if name in left_out}


def _optional(
    role: str,
    said: Mapping[str, str | None],
    columns: Mapping[str, Column],
    free: dict[str, Column],
    fits: Callable[[Column], bool],
    rule: str,
) -> str | None:
    """The column that is said, or a usual one that fits; it is no longer free."""
    name = said.get(role) or next((column.name for column in _named(role, free) if fits(column)), None)
    if name is not None and not fits(columns[name]):
        raise DataError(f"{_option(role)} {name!r}: it is not {rule}")
    if name is not None:
        free.pop(name, None)
    return name


def _named(role: str, columns: Mapping[str, Column]) -> list[Column]:
    """The columns with a usual name, the more usual first."""
    usual = _NAMES[role].split()
    found = [column for column in columns.values() if column.name.strip().lower() in usual]
    return sorted(found, key=lambda column: usual.index(column.name.strip().lower()))


def _actions(columns: Mapping[str, Column]) -> list[Column]:
    """The column with the most usual name; else those of text with few values, of which one alone is no choice."""
    if usual := [column for column in _named("action", columns) if 0 < len(column.counts) <= len(column.cells) // 2]:
        return usual[:1]
    others = {column.name for role in _NAMES for column in _named(role, columns)}
    texts = [c for c in columns.values() if c.counts and not (c.is_number or c.is_time or c.name in others)]
    few = [column for column in texts if len(column.counts) <= min(FEW, len(column.cells) // 2)]
    return [column for column in few if len(column.counts) > 1] or few


def _only(role: str, found: list[Column], columns: Mapping[str, Column]) -> str:
    if len(found) == 1 or (found and role == "reward"):
        return found[0].name
    looked = found or columns.values()
    what = "more than one column could be" if found else "no column is plainly"
    raise DataError(f"{what} the {role}: say which with {_option(role)} COLUMN. There are {_listed(looked)}")


def _listed(columns: Iterable[Column]) -> str:
    return ", ".join(f"{column.name!r} ({_kinds(column)})" for column in columns)


def _kinds(column: Column) -> str:
    if not column.counts:
        return "lists, objects or nothing"
    first = next(iter(column.counts))
    return f"{len(column.counts):,} values as {first!r}" if len(column.counts) > 1 else f"nothing but {first!r}"


def _check_reward(column: Column) -> None:
    if not column.is_number:
        raise DataError(
            f"the reward {column.name!r}: {column.stray or 'every cell is empty'}; write 1 for what is good"
        )
    values, given = column.numbers
    if given.all() and values.min() == values.max():
        raise DataError(
            f"the reward {column.name!r} is {values[0]:g} in every row, of which nothing can be learnt: say with "
            "--reward which it is, or leave the cell empty where nothing was earned"
        )


def _is_chance(column: Column) -> bool:
    values, given = column.numbers
    return bool(column.is_number and ((values[given] > 0) & (values[given] <= 1)).all())


def _is_one_each(column: Column) -> bool:
    return len(column.counts) == len(column.cells)


def _unfit(column: Column) -> str | None:
    """Why a column can't be observed; None: it can."""
    name = column.name.strip().lower()
    if not name or "," in name:
        return "it has no name" if not name else "a name with a comma can't be said in --map"
    if column.cells.null_count == len(column.cells):
        return "every cell is empty"
    if column.is_time or name in _TIMES:
        return "a time"
    if not column.counts:
        return "lists or objects"
    if not column.is_number:
        share = np.isfinite(column.numbers[0]).mean()
        return f"{column.stray}" if share > 0.5 else f"text, {_kinds(column)}: only numbers are observed"
    if name == "id" or name.endswith("_id"):
        return "an id, by its name"
    if name in _NAMES["reward"].split():
        return "by its name earned after the decision, too"
    return "the same in every row" if len(column.counts) == 1 else None


def _option(role: str) -> str:
    return f"--{role.replace('_', '-')}"
