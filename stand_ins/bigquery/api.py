"""BigQuery's own description of its API, bundled with googleapiclient: which methods there are and what they take."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import googleapiclient

from stand_ins.bigquery.errors import BigQueryError

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str, int, float),  # Google takes a number for a string; its client sends a FLOAT64 parameter so
    "integer": (int, str),
    "number": (int, float, str),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True)
class Method:
    """Args:
    id: e.g. "bigquery.jobs.insert".
    request: the schema of its body, None if it takes none.
    """

    id: str
    verb: str
    path: re.Pattern[str]
    parameters: frozenset[str]
    request: str | None


_UNDESCRIBED = {"bigquery.jobs.get": {"projection"}}
"""What Google's own client sends and the API takes, though its description doesn't list it."""


class Api:
    def __init__(self) -> None:
        folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
        document = json.loads((folder / "bigquery.v2.json").read_text())
        self._schemas: dict[str, Any] = document["schemas"]
        common = frozenset(document["parameters"])
        self._methods = [
            Method(
                method["id"],
                method["httpMethod"],
                re.compile("/bigquery/v2/" + re.sub(r"\{\+?(\w+)\}", r"(?P<\1>[^/]+)", method["path"])),
                common | set(method["parameters"]) | _UNDESCRIBED.get(method["id"], set()),
                method["request"]["$ref"] if "request" in method else None,
            )
            for resource in document["resources"].values()
            for method in resource.get("methods", {}).values()
            if not method["path"].startswith("{")
        ]

    def method(self, verb: str, path: str, query: Mapping[str, str]) -> tuple[Method, dict[str, str]]:
        """The method that is called, and the values in its path. Raises BigQueryError."""
        for method in self._methods:
            found = method.path.fullmatch(path)
            if found and method.verb == verb:
                if unknown := set(query) - method.parameters:
                    raise BigQueryError(400, f'Invalid query parameter. Unknown name "{min(unknown)}"')
                return method, found.groupdict()
        raise BigQueryError(404, f"The requested URL {path} was not found on this server.")

    def check(self, value: Any, schema: str, at: str = "") -> None:
        """Raises BigQueryError where the value is none of the schema: unknown fields and wrong types are refused."""
        self._check(value, {"$ref": schema}, at)

    def _check(self, value: Any, rule: Mapping[str, Any], at: str) -> None:
        one: Any
        if "$ref" in rule:
            rule = self._schemas[rule["$ref"]]
        kind = rule.get("type", "any")
        if value is None or kind == "any":
            return
        wrong_bool = isinstance(value, bool) and kind != "boolean"
        if wrong_bool or type(value) not in _JSON_TYPES[kind]:
            raise BigQueryError(400, f"Invalid value at '{at}' ({kind}), {json.dumps(value)[:80]}")
        if kind == "array":
            for n, one in enumerate(list(value)):
                self._check(one, rule["items"], f"{at}[{n}]")
        elif kind == "object":
            known, others = rule.get("properties", {}), rule.get("additionalProperties")
            for name, one in dict(value).items():
                if name not in known and others is None:
                    raise BigQueryError(
                        400, f"Invalid JSON payload received. Unknown name \"{name}\" at '{at}': Cannot find field."
                    )
                self._check(one, known.get(name, others), f"{at}.{name}".lstrip("."))


@cache
def api() -> Api:
    return Api()
