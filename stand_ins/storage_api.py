"""Cloud Storage's JSON API as its discovery document describes it: which method a request calls, what it may say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import googleapiclient

_TEMPLATE = re.compile(r"\{\+?(\w+)\}")
_UPLOAD_PARAMETERS = {"uploadType", "upload_id", "upload_protocol"}


@dataclass(frozen=True)
class Method:
    """`id` is the API's, e.g. "storage.objects.insert"; `path` begins with a slash and holds {parameters}."""

    id: str
    verb: str
    pattern: re.Pattern[str]
    parameters: frozenset[str]
    body: str | None


@dataclass(frozen=True)
class Call:
    method: Method
    path: Mapping[str, str]

    def complaint(self, query: Mapping[str, str], body: Any) -> str | None:
        """What the API does not know in this request; None if nothing."""
        if unknown := sorted(set(query) - self.method.parameters):
            return f"Unknown name {unknown[0]!r}: cannot bind query parameter of {self.method.id}"
        if self.method.body is not None and isinstance(body, dict):
            field = next(_unknown_fields(body, self.method.body, ""), None)
            return field and f"Unknown name {field!r} in the body of {self.method.id}"
        return None


def find(verb: str, raw_path: str) -> Call | None:
    """`raw_path` as sent, still quoted: an object's name is one segment of it."""
    for method in _methods():
        if method.verb == verb and (match := method.pattern.fullmatch(raw_path)):
            return Call(method, {name: unquote(value) for name, value in match.groupdict().items()})
    return None


@cache
def _document() -> dict[str, Any]:
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    found: dict[str, Any] = json.loads((folder / "storage.v1.json").read_text())
    return found


@cache
def _methods() -> tuple[Method, ...]:
    document = _document()
    found = []
    for resource in document["resources"].values():
        for method in resource.get("methods", {}).values():
            paths = [(document["basePath"] + method["path"], method["httpMethod"])]
            if method.get("supportsMediaDownload"):
                paths.append((f"/download{paths[0][0]}", "GET"))
            for protocol in method.get("mediaUpload", {}).get("protocols", {}).values():
                paths += [(protocol["path"], "POST"), (protocol["path"], "PUT")]
            parameters = {*document["parameters"], *method.get("parameters", {}), *_UPLOAD_PARAMETERS}
            for path, verb in dict.fromkeys(paths):
                pattern = re.compile(_TEMPLATE.sub(r"(?P<\1>[^/]+)", path))
                body = method.get("request", {}).get("$ref")
                found.append(Method(method["id"], verb, pattern, frozenset(parameters), body))
    return tuple(found)


def _unknown_fields(value: Any, schema: str, path: str) -> Iterator[str]:
    properties = _document()["schemas"][schema].get("properties", {})
    for name, inner in value.items():
        if name not in properties:
            yield f"{path}{name}"
        else:
            yield from _unknown_within(inner, properties[name], f"{path}{name}.")


def _unknown_within(value: Any, kind: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _unknown_within(one, kind.get("items", {}), path)
    elif isinstance(value, dict) and "$ref" in kind:
        yield from _unknown_fields(value, kind["$ref"], path)
    elif isinstance(value, dict) and "properties" in kind:
        for name, inner in value.items():
            if name in kind["properties"]:
                yield from _unknown_within(inner, kind["properties"][name], f"{path}{name}.")
            else:
                yield f"{path}{name}"
