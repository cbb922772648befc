"""The methods of the services by path, and the types of what they are sent, out of googleapiclient's own documents."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from stand_ins.admin.errors import RestError, invalid

SERVICES = (
    "cloudfunctions.v2",
    "cloudscheduler.v1",
    "artifactregistry.v1",
    "iam.v1",
    "cloudresourcemanager.v3",
    "serviceusage.v1",
    "run.v2",
    "storage.v1",
    "bigquery.v2",
)
_STANDARD = {"$.xgafv", "access_token", "alt", "callback", "fields", "key", "oauth_token", "prettyPrint", "quotaUser"}
_FORMATS = {
    "google-duration": re.compile(r"^-?\d+(\.\d{1,9})?s$"),
    "int64": re.compile(r"^-?\d+$"),
    "byte": re.compile(r"^[A-Za-z0-9+/_-]*={0,2}$"),
}
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True)
class Method:
    """One method; `names` are the variables of its path in their order."""

    service: str
    spec: Mapping[str, Any]
    pattern: re.Pattern[str]
    schemas: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.spec["id"])

    @property
    def host(self) -> str:
        return f"{self.service.partition('.')[0]}.googleapis.com"

    def check_query(self, query: Collection[str]) -> None:
        """Raises RestError for a parameter that the method lacks, or one it needs and did not get."""
        known = {k: p for k, p in self.spec.get("parameters", {}).items() if p["location"] == "query"}
        for name in set(query) - known.keys() - _STANDARD:
            raise invalid(f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.')
        for name, parameter in known.items():
            if parameter.get("required") and name not in query:
                raise invalid(f"Required parameter: {name}")

    def check_body(self, body: Any) -> None:
        request = self.spec.get("request")
        if request is None:
            if body is not None:
                raise invalid(f"{self.id} takes no body")
            return
        self._check({"$ref": request["$ref"]}, {} if body is None else body, "")

    def _check(self, schema: Mapping[str, Any], value: Any, place: str) -> None:
        if "$ref" in schema:
            self._check(self.schemas[schema["$ref"]], value, place)
            return
        kind: str = schema["type"]
        if kind == "any" or value is None:
            return
        if not _is(value, kind):
            raise invalid(f"Invalid value at '{place}' ({kind}), {json.dumps(value)[:80]}")
        if kind == "array":
            items: list[Any] = value
            for index, item in enumerate(items):
                self._check(schema["items"], item, f"{place}[{index}]")
        elif kind == "object":
            self._check_object(schema, value, place)
        elif kind == "string":
            _check_string(schema, value, place)

    def _check_object(self, schema: Mapping[str, Any], value: Mapping[str, Any], place: str) -> None:
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            inner = properties.get(name, others)
            if inner is None:
                where = f" at '{place}'" if place else ""
                raise invalid(f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.')
            self._check(inner, item, f"{place}.{name}" if place else name)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and not (kind in ("integer", "number") and isinstance(value, bool))


def _check_string(schema: Mapping[str, Any], value: str, place: str) -> None:
    form = _FORMATS.get(schema.get("format", ""))
    if ("enum" in schema and value not in schema["enum"]) or (form is not None and not form.match(value)):
        raise invalid(f"Invalid value at '{place}' ({schema.get('format', 'TYPE_ENUM')}), \"{value}\"")


def find(http_method: str, path: str) -> Method:
    """Raises RestError NOT_FOUND, as Google's front end does for a path that no service has."""
    for method in _methods():
        if method.spec["httpMethod"] == http_method and method.pattern.fullmatch(path):
            return method
    raise RestError("NOT_FOUND", f"The requested URL {path} was not found on this server.")


@cache
def _methods() -> tuple[Method, ...]:
    folder = files("googleapiclient") / "discovery_cache" / "documents"
    found: list[Method] = []
    for service in SERVICES:
        document = json.loads((folder / f"{service}.json").read_text())
        for spec in _walk(document):
            path = f"/{document['servicePath']}{spec.get('flatPath', spec['path'])}"
            pattern = re.compile(re.sub(r"\\\{[^}]+\\\}", "[^/:]+", re.escape(path)))
            found.append(Method(service, spec, pattern, document["schemas"]))
    return tuple(found)


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from node.get("methods", {}).values()
    for inner in node.get("resources", {}).values():
        yield from _walk(inner)
