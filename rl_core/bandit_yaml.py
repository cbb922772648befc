"""Reads a bandit's YAML strictly, and says all that is wrong with it, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rl_core.errors import ConfigError


class _Strict(yaml.SafeLoader):
    """YAML lets the last of two equal keys win; whoever wrote both meant both."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: dict[str, yaml.ScalarNode] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (first := keys.setdefault(key.value, key)) is not key:
                line, before = (mark.line + 1 for mark in (key.start_mark, first.start_mark))
                raise ConfigError(f"line {line}: {key.value!r} is written in line {before} already; keep one")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read one YAML file. Raises ConfigError naming the file, also for a key that is written twice."""
    try:
        return _Strict(path.read_text()).get_single_data()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: 2026-13-45 looks like a date
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def faults(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Say each thing that pydantic found wrong: place, rule, what was got; for an unknown key the nearest valid one."""
    found = []
    for one in error.errors():
        location = _as_written(one["loc"])
        place = ".".join(map(str, location)) or "bandit"
        if one["type"] == "extra_forbidden":
            found.append(f"{place}: there is no such key; {_nearest(location, model)}")
            continue
        got = "" if isinstance(one.get("input"), dict) else f" (got {_shown(one.get('input'))})"
        found += [f"{place}: {rule}{got}" for rule in one["msg"].removeprefix("Value error, ").splitlines()]
    return found


def settings_of(model: type[BaseModel], section: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """List every key of a model with its path, sections before what is in them."""
    for key, field in model.model_fields.items():
        yield (*section, key), field
        for inner in _models(field.annotation):
            yield from settings_of(inner, (*section, key))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _as_written(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without the kind, which pydantic puts between an environment and its keys."""
    return (location[0], *location[2:]) if location[0:1] == ("environment",) else location


def _nearest(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """What may have been meant: a key of the section that is spelt alike, or another section's."""
    paths = [path for path, _ in settings_of(model)]
    *section, key = (part for part in location if isinstance(part, str))
    here = {path[-1]: path for path in paths if path[:-1] == tuple(section)}
    if alike := get_close_matches(key, here, 1) or get_close_matches(key, {path[-1] for path in paths}, 1, 0.9):
        meant = here.get(alike[0]) or next(path for path in paths if path[-1] == alike[0])
        return f"did you mean {'.'.join(meant)}?"
    return f"the keys here are {', '.join(here)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
