"""`banditloop init`: writes a bandit's YAML, and says what it found in the file, what it left out, and what is next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rl_core.bandit_yaml import read_yaml
from rl_core.config import BANDITS
from rl_core.errors import BanditError, ConfigError, DataError
from rl_core.starting.definition import Definition
from rl_core.starting.roles import Roles, choose
from rl_core.starting.table import Column, read

_SHOWN = 12
_FIRST_PORT = 8471


def init(name: str, source: Path | None, folder: Path | None, said: Mapping[str, str | None]) -> int:
    """Write `NAME.yaml`, from a file of decisions where there is one; print what it holds.

    Args:
        folder: where to; None: `dags/bandits` of the checkout, else the current folder.
        said: columns by role (action, reward, propensity, event_id) that are not to be guessed.

    Raises:
        ConfigError: the name is none, the YAML is there already, or the folder is not.
        DataError: the file is none that a bandit can be made of.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ConfigError(f"NAME {name!r}: a bandit's name is up to 40 of a-z, 0-9 and _, a letter first")
    if source is None and any(said.values()):
        raise ConfigError("--action, --reward, --propensity and --event-id name columns of a file: give it with --from")
    folder = folder or (BANDITS if BANDITS.is_dir() else Path())
    path = folder / f"{name}.yaml"
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; make it, or name another with --out")
    definition, roles = Definition(), None
    if source is not None:
        try:
            columns = read(source)
            roles = choose(columns, said)
            definition = _found(source, columns, roles)
            definition.yaml(name, _FIRST_PORT)
        except BanditError as error:
            raise DataError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
        print(_told(source, columns, roles, definition))
    text = definition.yaml(name, _free_port(folder))
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already, and stays as it is; choose another NAME, or remove it") from error
    except OSError as error:
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error
    print(f"init: wrote {path}. Next:\n{_next(name if folder == BANDITS else str(path), name, source, roles)}")
    return 0


def _found(source: Path, columns: Mapping[str, Column], roles: Roles) -> Definition:
    values, given = columns[roles.reward].numbers
    low, high = float(values[given].min()), float(values[given].max())
    if low == high:  # a click is 1, and no click an empty cell
        low, high = min(low, 0.0), max(high, 0.0)
    return Definition(
        features=roles.features.kinds,
        left_out=roles.features.left_out,
        actions=columns[roles.action].counts,
        low=low,
        high=high,
        default=0.0 if low <= 0 <= high else low,
        source=source.name,
    )


def _told(source: Path, columns: Mapping[str, Column], roles: Roles, found: Definition) -> str:
    """What was found and what was left out, as lines."""
    values, given = columns[roles.reward].numbers
    actions = [f"{action} ({count:,})" for action, count in found.actions.items()]
    more = f" and {len(actions) - _SHOWN:,} more" if len(actions) > _SHOWN else ""
    lines = [
        f"init: {source}, {len(given):,} rows",
        f"  action       {roles.action}: {len(actions):,}, with rows each: {', '.join(actions[:_SHOWN])}{more}",
        f"  reward       {roles.reward}: {values[given].min():g} to {values[given].max():g}; "
        f"{np.count_nonzero(~given):,} rows have none and get {found.default:g}",
        f"  propensity   {roles.propensity or 'none was found, and the import needs it (below)'}",
        f"  event id     {roles.event_id or 'none was found; rows are numbered'}",
        f"  features     {len(roles.features.kinds):,}, made into {roles.features.width:,} numbers and a 1:",
        *(f"    {name:<{_widest(roles)}} {kind.definition['kind']}: {kind.why}" for name, kind in found.features.items()),
    ]
    return "\n".join([*lines, *(f"  left out     {name!r}: {why}" for name, why in found.left_out.items())])


def _widest(roles: Roles) -> int:
    return max(map(len, roles.features.kinds))


def _next(bandit: str, name: str, source: Path | None, roles: Roles | None) -> str:
    """The commands that follow, to be copied."""
    check = shlex.join(["banditloop", "check", bandit])
    if roles is None or source is None:
        return (
            f"  (fill in features, actions and reward)\n  {check}\n"
            f"  {shlex.join(['banditloop', 'serve', bandit])}   # chooses at random until the first retrain\n"
            f"  {shlex.join(['banditloop', 'log', bandit])}     # beside it"
        )
    said = {"event_id": roles.event_id, "action": roles.action, "propensity": roles.propensity or "COLUMN"}
    said |= {"reward": roles.reward, "eligible_actions": roles.eligible_actions}
    words = [f"{field}={column}" for field, column in said.items() if column]
    if tuple(roles.features.kinds) != roles.features.columns:
        words.append(f"observation={','.join(roles.features.columns)}")  # in the order of the features
    lines = [check]
    if roles.propensity is None:
        lines.append(
            "# add a column with the probability of the action that was taken, 1/K if K were drawn alike, as COLUMN:"
        )
    lines.append(shlex.join(["banditloop", "import", str(source), "--bandit", bandit, "--map", *words]))
    lines.append(
        f"make up   # then trigger {name}_startup in Airflow: it learns the first policy from what was imported"
    )
    return "\n".join(f"  {line}" for line in lines)


def _free_port(folder: Path) -> int:
    """Return a port that no other YAML of the folder has."""
    ports = [_FIRST_PORT - 1]
    for path in folder.glob("*.yaml"):
        try:
            ports.append(int(read_yaml(path)["serving"]["port"]))
        except (BanditError, LookupError, TypeError, ValueError):
            continue  # it has none, or is no bandit: check says so
    return max(ports) + 1
