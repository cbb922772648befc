"""Which column of a file is what: the action, what it earned, with which probability; those left are features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from rl_core.errors import DataError
from rl_core.importing.cells import is_list
from rl_core.starting import features
from rl_core.starting.table import Column

FEW = 100
"""So many values has a column of text at most that is taken for the action; --action names one of more."""
_NAMES = {
    "action": "action action_id arm variant choice item item_id article product offer banner",
    "reward": "reward click clicked clicks conversion converted rating revenue purchase purchased bought",
    "propensity": "propensity probability prob p pscore propensity_score action_prob action_probability chance",
    "eligible_actions": "eligible_actions eligible available_actions candidates",
    "event_id": "event_id event visit visit_id request_id impression_id decision_id uuid id",
}


@dataclass(frozen=True)
class Roles:
    """Columns by what they hold."""

    action: str
    reward: str
    propensity: str | None
    event_id: str | None
    eligible_actions: str | None
    features: features.Found


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
    eligible = _optional("eligible_actions", said, columns, free, lambda column: is_list(column.cells), "lists")
    found = features.find(free, _NAMES["reward"].split())
    return Roles(action.name, reward.name, propensity, event_id, eligible, found)


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


def _option(role: str) -> str:
    return f"--{role.replace('_', '-')}"
