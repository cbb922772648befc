"""One line of a VW dsjson log (Vowpal Wabbit, Azure Personalizer) as a row.

A line holds the context `c` (with the actions' own features in `c._multi`), the ranking `a` of the actions, numbered
from 1, and of the one that was shown, `_label_Action`, its `_label_probability` and `_label_cost` (less the reward).
https://github.com/VowpalWabbit/vowpal_wabbit/wiki/DSJson
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rl_core.importing.mapping import Mapping, at

DEFAULT = Mapping("_label_Action", "_label_probability", "_label_cost", ("observation",), "EventId", "a")
"""What a line's own names say. The observation has to be named, as paths within `c`; another `action` is a path within
each of `c._multi`, to the action's id; without it the numbers mean the bandit's actions in their order."""


def row(said: dict[str, Any], mapping: Mapping, actions: Sequence[str]) -> list[Any]:
    """Return the values of `mapping.columns`. Raises ValueError for a line that is no decision that was used."""
    shown, context = said.get("_label_Action"), said.get("c")
    if shown is None or not isinstance(context, dict):
        raise ValueError("no decision: it lacks c or _label_Action")
    if said.get("_skipLearn"):
        raise ValueError("its answer was not used (_skipLearn)")

    def id_of(number: Any) -> str:
        ids = actions if mapping.action == DEFAULT.action else context.get("_multi", ())
        one = ids[number - 1] if type(number) is int and 0 < number <= len(ids) else f"number {number}"
        return str(at(one, mapping.action)) if isinstance(one, dict) else str(one)

    def value(column: str) -> Any:
        if column == mapping.action:
            return id_of(shown)
        if column == mapping.eligible_actions:
            return [id_of(number) for number in said.get(column) or ()]
        if column == DEFAULT.reward:
            cost = said.get(column)
            return -cost if isinstance(cost, int | float) else cost
        return at(context if column in mapping.observation else said, column)

    return [value(column) for column in mapping.columns]
