"""Media uploads of load jobs: everything in one multipart request, or a session that takes the file in pieces."""

from __future__ import annotations

import email
import re
import uuid
from dataclasses import dataclass, replace
from email.policy import HTTP

from starlette.requests import Request
from starlette.responses import Response

from stand_ins.bigquery.errors import BigQueryError

_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass
class Upload:
    """Args:
    response: what to answer while the file is not complete; None: `metadata` is the body of the job to insert.
    repeated: the file was complete before, so that the job may be there.
    """

    path: str
    metadata: bytes = b""
    content: bytes = b""
    response: Response | None = None
    complete: bool = False
    repeated: bool = False


class Uploads:
    def __init__(self, project: str) -> None:
        self._sessions: dict[str, Upload] = {}
        self._project = project

    def taken(self, request: Request, body: bytes) -> Upload:
        path = re.sub(r"^(/resumable)?/upload", "", request.url.path)
        kind = request.query_params.get("uploadType")
        if kind == "multipart" and request.method == "POST":
            return _multipart(path, request.headers["content-type"], body)
        if kind != "resumable":
            raise BigQueryError(400, f"Invalid upload type: {kind}")
        session = request.query_params.get("upload_id")
        if request.method == "POST":
            session = uuid.uuid4().hex
            self._sessions[session] = Upload(path, body)
            url = f"{request.url.scheme}://{request.url.netloc}{request.url.path}"
            place = f"{url}?uploadType=resumable&upload_id={session}"
            return Upload(path, response=Response(status_code=200, headers={"location": place}))
        upload = self._sessions.get(session or "")
        if upload is None:
            raise BigQueryError(404, "Not found: upload session")
        return self._piece(upload, request.headers.get("content-range", ""), body, str(session))

    def _piece(self, upload: Upload, span: str, body: bytes, session: str) -> Upload:
        found = _RANGE.fullmatch(span)
        if found is None:
            raise BigQueryError(400, f"Invalid Content-Range: {span!r}")
        first, total = found[1], found[3]
        if upload.complete:  # its answer was lost
            return replace(upload, repeated=True)
        if first is not None:
            if int(first) != len(upload.content):
                raise BigQueryError(400, f"the upload goes on at {len(upload.content)}, not at {first}")
            upload.content += body
        if total != "*" and len(upload.content) == int(total):
            upload.complete = True
            return upload
        headers = {"range": f"bytes=0-{len(upload.content) - 1}"} if upload.content else {}
        return Upload(upload.path, response=Response(status_code=308, headers=headers))


def _multipart(path: str, content_type: str, body: bytes) -> Upload:
    message = email.message_from_bytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + body, policy=HTTP)
    boundary = message.get_boundary()
    if boundary is None:
        raise BigQueryError(400, "multipart body without boundary")
    parts = body.split(b"--" + boundary.encode())[1:-1]
    if len(parts) != 2:
        raise BigQueryError(400, f"multipart body of {len(parts)} parts; a job has two")
    metadata, content = (part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts)
    return Upload(path, metadata, content)
