"""What `banditloop init` says: what it found in a file, what it left out, and the commands that follow."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

import numpy as np

from rl_core.importing.cells import reader_of
from rl_core.starting.definition import Definition
from rl_core.starting.kinds import plain
from rl_core.starting.roles import Roles
from rl_core.starting.table import Column

_SHOWN = 12
_LONGEST = 600
"""Characters of an example request; a longer one is in nobody's terminal."""


def found(source: str, columns: Mapping[str, Column], roles: Roles, definition: Definition) -> str:
    """Say what was found and what was left out, as lines."""
    values, given = columns[roles.reward].numbers
    actions = [f"{action} ({count:,})" for action, count in definition.actions.items()]
    more = f" and {len(actions) - _SHOWN:,} more" if len(actions) > _SHOWN else ""
    kinds = roles.features.kinds
    widest = max(map(len, kinds))
    lines = [
        f"init: {source}, {len(given):,} rows",
        f"  action       {roles.action}: {len(actions):,}, with rows each: {', '.join(actions[:_SHOWN])}{more}",
        f"  reward       {roles.reward}: {values[given].min():g} to {values[given].max():g}; "
        f"{np.count_nonzero(~given):,} rows have none and get {definition.default:g}",
        f"  propensity   {roles.propensity or 'none was found, and the import needs it (below)'}",
        f"  event id     {roles.event_id or 'none was found; rows are numbered'}",
        *([f"  eligible     {roles.eligible_actions}"] if roles.eligible_actions else []),
        f"  features     {len(kinds):,}, made into {roles.features.width:,} numbers and a 1:",
        *(f"    {name:<{widest}}  {kind.definition['kind']}: {kind.why}" for name, kind in kinds.items()),
    ]
    return "\n".join([*lines, *(f"  left out     {name!r}: {why}" for name, why in roles.features.left_out.items())])


def next_with_file(bandit: str, name: str, source: str, columns: Mapping[str, Column], roles: Roles, port: int) -> str:
    """Say which commands follow, to be copied."""
    said = {"event_id": roles.event_id, "action": roles.action, "propensity": roles.propensity or "COLUMN"}
    said |= {"reward": roles.reward, "eligible_actions": roles.eligible_actions}
    words = [f"{field}={column}" for field, column in said.items() if column]
    if tuple(roles.features.kinds) != roles.features.columns:
        words.append(f"observation={','.join(roles.features.columns)}")  # in the order of the features
    lines = [shlex.join(["banditloop", "check", bandit])]
    if roles.propensity is None:
        lines.append(
            "# add a column with the probability of the action that was taken, 1/K if K were drawn alike, as COLUMN:"
        )
    lines.append(shlex.join(["banditloop", "import", source, "--bandit", bandit, "--map", *words]))
    lines.append(
        f"make up   # then trigger {name}_startup in Airflow: it learns the first policy from what was imported"
    )
    request = json.dumps({"instances": [{"features": _first(columns, roles)}]}, ensure_ascii=False)
    if len(request) <= _LONGEST:
        lines.append(f"curl -s localhost:{port}/predict -d {shlex.quote(request)}")
    return "\n".join(f"  {line}" for line in lines)


def next_without(bandit: str) -> str:
    """Say what follows where there is no file."""
    return (
        f"  (fill in features, actions and reward)\n  {shlex.join(['banditloop', 'check', bandit])}\n"
        f"  {shlex.join(['banditloop', 'serve', bandit])}   # chooses at random until the first retrain\n"
        f"  {shlex.join(['banditloop', 'log', bandit])}     # beside it"
    )


def _first(columns: Mapping[str, Column], roles: Roles) -> dict[str, object]:
    """The features of the file's first row, as a request sends them."""
    cells = {name: columns[column].cells[0].as_py() for name, column in roles.features.named.items()}
    read = {name: reader_of(feature) for name, feature in roles.features.features.items()}
    said = {name: read[name](cell) for name, cell in cells.items() if cell is not None}
    return {name: plain(one) if isinstance(one, float) else one for name, one in said.items() if one is not None}
