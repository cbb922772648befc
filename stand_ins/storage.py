"""Cloud Storage: gcp-storage-emulator, with what it leaves out and we rely on.

The emulator keeps buckets and objects, parses uploads and checks checksums. It ignores preconditions and generations in
requests, pages of lists, the settings of a new bucket and unknown fields, and answers errors without a body; those
are handled here, before and after it, one request at a time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from http.client import HTTPMessage
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, quote

from anyio import to_thread
from gcp_storage_emulator.server import Router
from gcp_storage_emulator.storage import Storage
from starlette.types import Receive, Scope, Send

from stand_ins.faults import Faults
from stand_ins.storage_api import Call, find

_REASONS = {
    400: "invalid",
    404: "notFound",
    409: "conflict",
    412: "conditionNotMet",
    416: "requestedRangeNotSatisfiable",
}
_HANG_UP = 0
_READS = {"storage.objects.get", "storage.buckets.get"}


@dataclass
class Request:
    verb: str
    path: str
    query: dict[str, str]
    headers: HTTPMessage
    body: bytes
    target: str

    def json(self) -> Any:
        """The metadata it carries: its body, or the first part of a multipart one. None if it carries none."""
        kind = self.headers.get("content-type", "")
        content = self.body
        if kind.startswith("multipart/related"):
            content = content.split(b"\r\n\r\n", 1)[1].split(b"\r\n--", 1)[0]
        elif not kind.startswith("application/json") or "upload_id" in self.query:
            return None
        return json.loads(content) if content else None


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def refusal(status: int, message: str) -> Answer:
    """An error as Google writes it."""
    reason = _REASONS.get(status, HTTPStatus(status).phrase.replace(" ", ""))
    error = {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": "global", "reason": reason}],
    }
    return Answer(status, {"content-type": "application/json"}, json.dumps({"error": error}).encode())


class StorageStandIn:
    """Args:
    folder: where buckets and objects are kept.
    faults: by the API's own method ids, e.g. "storage.objects.insert".
    """

    def __init__(self, folder: Path, faults: Faults) -> None:
        self._folder = folder
        self._faults = faults
        self._lock = threading.Lock()
        self._uploads: dict[str, dict[str, str]] = {}
        self._storage = Storage(data_dir=str(folder.absolute()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Everything is on disk already."""

    def age(self, bucket: str, name: str, by: timedelta) -> None:
        """Make an object older than it is."""
        with self._lock:
            kept = self._storage.objects[bucket][name]
            kept["updated"] = (datetime.fromisoformat(kept["updated"]) - by).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = await to_thread.run_sync(self._answered, _request(scope, body))
        headers = [(name.lower().encode(), str(value).encode()) for name, value in answer.headers.items()]
        if answer.status == _HANG_UP:
            cycle: Any = getattr(send, "__self__")  # noqa: B009  ASGI has no word for hanging up; uvicorn's cycle has
            cycle.transport.abort()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _answered(self, request: Request) -> Answer:
        call = find(request.verb, request.path)
        if call is None:
            return refusal(404, f"no method of Cloud Storage: {request.verb} {request.path}")
        fault = self._faults.next(call.method.id)
        wrong = None
        if fault is not None and (fault.code or fault.drop):
            wrong = Answer(_HANG_UP) if fault.drop else refusal(int(fault.code or 0), fault.message)
            if not fault.after:
                return wrong
        if complaint := call.complaint(request.query, request.json()):
            return refusal(400, complaint)
        with self._lock:
            answer = self._unmet(call, request) or self._handled(call, request)
        return wrong or answer

    def _handled(self, call: Call, request: Request) -> Answer:
        method = call.method.id
        answer = _emulated(self._storage, request)
        if answer.status >= 400 and not answer.body:
            what = "/".join(call.path.values()) or request.path
            return refusal(answer.status, f"{HTTPStatus(answer.status).phrase}: {what}")
        if answer.status >= 300:
            return answer
        if method == "storage.buckets.insert":
            return self._settled(request.json())
        if method == "storage.buckets.patch":
            bucket = self._storage.buckets[call.path["bucket"]]
            bucket["labels"] = {
                name: value for name, value in (bucket.get("labels") or {}).items() if value is not None
            }
            return Answer(200, answer.headers, json.dumps(bucket).encode())
        if method == "storage.objects.list":
            return _page(answer, request.query)
        if method in ("storage.objects.delete", "storage.buckets.delete"):
            return Answer(204)
        if method == "storage.objects.insert":
            return self._written(call, request, answer)
        if method == "storage.objects.get" and request.query.get("alt") == "media":
            kept = self._object(call.path["bucket"], call.path["object"]) or {}
            answer.headers |= {"x-goog-generation": kept["generation"], "x-goog-metageneration": kept["metageneration"]}
        return answer

    def _unmet(self, call: Call, request: Request) -> Answer | None:
        """The answer where the object's generation is not the one the request wants."""
        if not call.method.id.startswith("storage.objects."):
            return None
        wanted, name = request.query, call.path.get("object") or call.path.get("destinationObject")
        if "upload_id" in request.query:
            wanted = self._uploads.get(request.query["upload_id"], {})
        if name is None:
            name = wanted.get("name") or (request.json() or {}).get("name")
        kept = self._object(call.path.get("bucket") or call.path.get("destinationBucket", ""), name or "")
        generation = "0" if kept is None else str(kept["generation"])
        if "generation" in wanted and wanted["generation"] != generation:
            return refusal(404, f"No such object: {name} at generation {wanted['generation']}")
        if kept is None and call.method.verb == "GET":
            return None
        if wanted.get("ifGenerationMatch", generation) != generation:
            return refusal(412, "At least one of the pre-conditions you specified did not hold.")
        if wanted.get("ifGenerationNotMatch") == generation:
            return Answer(304) if call.method.id in _READS else refusal(412, "The object has this generation.")
        return None

    def _written(self, call: Call, request: Request, answer: Answer) -> Answer:
        """A resumable upload gets its generation when it ends, not when it begins; a name is one segment of a link."""
        if upload := answer.headers.get("Location"):
            wanted = {**request.query, "name": request.query.get("name") or (request.json() or {}).get("name", "")}
            self._uploads[dict(parse_qsl(upload.partition("?")[2]))["upload_id"]] = wanted
            return answer
        made = json.loads(answer.body)
        if self._uploads.pop(request.query.get("upload_id", ""), None) is not None:
            newest = max(int(kept["generation"]) for kept in self._storage.objects[made["bucket"]].values())
            made["generation"] = str(newest + 1)
        base = made["mediaLink"].partition("?")[0].removesuffix(made["name"])
        made["mediaLink"] = f"{base}{quote(made['name'], safe='')}?generation={made['generation']}&alt=media"
        self._storage.patch_object(made["bucket"], made["name"], made)
        return Answer(200, answer.headers, json.dumps(made).encode())

    def _settled(self, wanted: Mapping[str, Any]) -> Answer:
        """A new bucket with everything that was asked for; deleted objects are gone at once."""
        bucket = {**self._storage.buckets[wanted["name"]], "softDeletePolicy": {"retentionDurationSeconds": "0"}}
        bucket = self._storage.create_bucket(wanted["name"], {**bucket, **wanted})
        return Answer(200, {"content-type": "application/json"}, json.dumps(bucket).encode())

    def _object(self, bucket: str, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._storage.objects.get(bucket, {}).get(name)
        return found


def _request(scope: Scope, body: bytes) -> Request:
    headers = HTTPMessage()
    for name, value in scope["headers"]:
        headers[name.decode("latin-1")] = value.decode("latin-1")
    path, query = scope["raw_path"].decode().partition("?")[0], scope["query_string"].decode()
    headers["content-length"] = headers["content-length"] or str(len(body))
    return Request(
        verb=headers["x-http-method-override"] or scope["method"],
        path=path,
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers=headers,
        body=body,
        target=f"{path}?{query}" if query else path,
    )


def _page(answer: Answer, query: Mapping[str, str]) -> Answer:
    found = json.loads(answer.body)
    start, most = int(query.get("pageToken") or 0), int(query.get("maxResults") or 1000)
    items = found.get("items", [])
    found["items"] = items[start : start + most]
    if start + most < len(items):
        found["nextPageToken"] = str(start + most)
    return Answer(200, answer.headers, json.dumps(found).encode())


class _Handler:
    """What the emulator's router wants of an http.server handler."""

    class server:  # noqa: N801
        server_address = ("127.0.0.1", 0)

    def __init__(self, storage: Storage, request: Request) -> None:
        self.storage, self.path, self.headers = storage, request.target, request.headers
        self.rfile, self.wfile = BytesIO(request.body), BytesIO()
        self.answer = Answer()

    def send_response(self, status: int, phrase: str) -> None:
        self.answer.status = status

    def send_header(self, name: str, value: str) -> None:
        if name.lower() != "content-length":
            self.answer.headers[name] = value

    def end_headers(self) -> None: ...


def _emulated(storage: Storage, request: Request) -> Answer:
    handler = _Handler(storage, request)
    Router(handler).handle(request.verb)
    handler.answer.body = handler.wfile.getvalue()
    return handler.answer
