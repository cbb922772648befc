"""Writes docs/reference/bandit-yaml.md from the model: every key of a bandit's YAML, what it takes, its default.

python -m scripts.bandit_yaml_page
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from rl_core.config import Bandit

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "bandit-yaml.md"
HEAD = """# Reference: a bandit's YAML

Written by `python -m scripts.bandit_yaml_page` from the models of `rl_core/*config.py`; change it there.
`banditloop check FILE` says all that is wrong with a YAML.
"""
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def page() -> str:
    """Write the page: a table of the top level, then one for each section."""
    schema = Bandit.model_json_schema()
    return HEAD + "".join(_tables(schema, schema["$defs"], ()))


def _tables(schema: dict[str, Any], models: dict[str, Any], section: tuple[str, ...]) -> list[str]:
    said = _attributes(schema)
    rows, below = [], []
    for key, field in schema["properties"].items():
        takes, what = (
            " or ".join(map(_takes, field.get("anyOf", [field]))),
            field.get("description") or said.get(key, ""),
        )
        if kinds := _sections(field, models):
            path = (*section, key)
            takes, what = f"[a section](#{''.join(path)})", what or _first(kinds[0])
            below += _tables(kinds[0], models, path)
            for other in kinds[1:]:
                below += _tables(other, models, (*section, f"{key}, kind {other['properties']['kind']['const']}"))
        default = "required" if key in schema.get("required", []) else _default(field["default"], bool(kinds))
        rows.append(f"| `{key}` | {takes} | {default} | {what.rstrip('.').replace('<', '&lt;')} |\n")
    head = f"\n## {'.'.join(section) or 'Top level'}\n\n{_first(schema)}\n\n"
    return [head, "| key | takes | default | what |\n|---|---|---|---|\n", *rows, *below]


def _first(schema: dict[str, Any]) -> str:
    """The first paragraph of the class's docstring."""
    return " ".join(str(schema["description"]).split("\n\n")[0].split())


def _attributes(schema: dict[str, Any]) -> dict[str, str]:
    """What the docstring says of each key, also of several at once: `one, other: text`."""
    text = schema["description"].partition("\n\nAttributes:")[2]
    told = re.findall(r"^ *([\w, ]+): ((?:.|\n(?! *[\w, ]+: ))*)", text, re.M)
    return {key: " ".join(what.split()) for keys, what in told for key in keys.split(", ")}


def _sections(field: dict[str, Any], models: dict[str, Any]) -> list[dict[str, Any]]:
    """The models that a section may be: of several kinds, one each."""
    kinds = [kind for one in field.get("anyOf", []) for kind in one.get("oneOf", [])]
    refs = [one["$ref"] for one in (field, *field.get("anyOf", []), *kinds) if "$ref" in one]
    return [models[ref.rpartition("/")[2]] for ref in refs]


def _takes(one: dict[str, Any]) -> str:
    if allowed := one.get("enum", [one["const"]] if "const" in one else []):
        return " or ".join(f"`{value}`" for value in allowed)
    kind = one.get("type", "")
    if "prefixItems" in one:
        return f"[{', '.join(map(_takes, one['prefixItems']))}]"
    if kind == "array":
        return f"list of {_takes(one['items'])}" + (f", {one['minItems']} at least" if "minItems" in one else "")
    bounds = [f"{sign} {one[key]:,}" for key, sign in _BOUNDS.items() if key in one]
    pattern = [f"like `{one['pattern']}`".replace("|", "\\|")] if "pattern" in one else []
    return ", ".join([" ".join([{"object": "mapping"}.get(kind, kind), *pattern]), *bounds])


def _default(value: Any, is_section: bool) -> str:
    return "its defaults" if is_section and value else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
    sys.exit(0)
