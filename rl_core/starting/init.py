"""`banditloop init`: writes a bandit's YAML, and says what it found in the file, what it left out, and what is next."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from rl_core.bandit_yaml import read_yaml
from rl_core.config import BANDITS, Bandit, Settings
from rl_core.errors import BanditError, ConfigError, DataError
from rl_core.importing.tables import as_file, project_of
from rl_core.starting import told
from rl_core.starting.definition import Definition
from rl_core.starting.roles import Roles, choose
from rl_core.starting.table import Column, read

_FIRST_PORT = 8471


def init(name: str, source: str | None, folder: Path | None, said: Mapping[str, str | None], settings: Settings) -> int:
    """Write `NAME.yaml`, from a file of decisions where there is one; print what it holds.

    Args:
        source: a file, or a table `bq://project.dataset.table`.
        folder: where to; None: `dags/bandits` of the checkout, else the current folder.
        said: columns by role (action, reward, propensity, event_id) that are not to be guessed.

    Raises:
        ConfigError: the name is none, the YAML is there already, or the folder is not.
        DataError: the file is none that a bandit can be made of.
        StoreError: the table can't be read.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ConfigError(f"NAME {name!r}: a bandit's name is up to 40 of a-z, 0-9 and _, a letter first")
    if source is None and any(said.values()):
        raise ConfigError("--action, --reward, --propensity and --event-id name columns of a file: give it with --from")
    folder = folder or (BANDITS if BANDITS.is_dir() else Path())
    path = folder / f"{name}.yaml"
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; make it, or name another with --out")
    port, shown = _free_port(folder), name if folder == BANDITS else str(path)
    if source is None:
        definition, follows = Definition(), told.next_without(shown)
    else:
        columns, roles, definition = _looked_at(source, said, settings)
        follows = told.next_with_file(shown, name, source, columns, roles, port)
        print(told.found(source, columns, roles, definition))
    text = definition.yaml(name, port)
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already, and stays as it is; choose another NAME, or remove it") from error
    except OSError as error:
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error
    print(f"init: wrote {path}. Next:\n{follows}")
    return 0


def _looked_at(
    source: str, said: Mapping[str, str | None], settings: Settings
) -> tuple[dict[str, Column], Roles, Definition]:
    project = project_of(source)
    nobody = Bandit.from_json(json.dumps(yaml.safe_load(Definition(project=project).yaml("init", _FIRST_PORT))))
    with as_file(nobody, settings, source) as path:
        try:
            columns = read(path)
            roles = choose(columns, said)
            definition = _found(source, project, columns, roles)
            definition.yaml(nobody.name, _FIRST_PORT)
        except BanditError as error:
            raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return columns, roles, definition


def _found(source: str, project: str | None, columns: Mapping[str, Column], roles: Roles) -> Definition:
    values, given = columns[roles.reward].numbers
    low, high = float(values[given].min()), float(values[given].max())
    if low == high:  # a click is 1, and no click an empty cell
        low, high = min(low, 0.0), max(high, 0.0)
    return Definition(
        features=roles.features.kinds,
        left_out=roles.features.left_out,
        actions=_actions(columns, roles),
        low=low,
        high=high,
        default=0.0 if low <= 0 <= high else low,
        source=Path(source).name if project is None else source,
        project=project,
    )


def _actions(columns: Mapping[str, Column], roles: Roles) -> dict[str, int]:
    """How many rows have each action; those that only could have been chosen have none."""
    found = columns[roles.action].counts
    if roles.eligible_actions is None:
        return found
    ids = pc.list_flatten(columns[roles.eligible_actions].cells).cast(pa.string())
    never = sorted(set(pc.drop_null(ids).unique().to_pylist()) - found.keys())
    return found | dict.fromkeys(never, 0)


def _free_port(folder: Path) -> int:
    """Return a port that no other YAML of the folder has."""
    ports = [_FIRST_PORT - 1]
    for path in folder.glob("*.yaml"):
        try:
            ports.append(int(read_yaml(path)["serving"]["port"]))
        except (BanditError, LookupError, TypeError, ValueError):
            continue  # it has none, or is no bandit: check says so
    return max(ports) + 1
