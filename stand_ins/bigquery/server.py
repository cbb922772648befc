"""The HTTP side: requests checked against the API's description, faults, answers in BigQuery's shapes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Self

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from stand_ins.bigquery import methods
from stand_ins.bigquery.api import api
from stand_ins.bigquery.errors import BigQueryError
from stand_ins.bigquery.jobs import Jobs
from stand_ins.bigquery.uploads import Uploads
from stand_ins.bigquery.warehouse import Warehouse
from stand_ins.faults import Faults


class BigQueryStandIn:
    """Args:
    folder: where datasets, tables and rows are kept; jobs end with the stand-in.
    project: the only one that there is.
    """

    def __init__(self, folder: Path, project: str, faults: Faults) -> None:
        self._project = project
        self._faults = faults
        self._warehouse = Warehouse(folder, project)
        self._jobs = Jobs(self._warehouse)
        self._rows_seen = methods.InsertIds()
        self._uploads = Uploads(project)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.close()
        self._warehouse.close()

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The resources of the jobs so far, oldest first."""
        return self._jobs.all()

    @property
    def app(self) -> ASGIApp:
        return self._answer

    def drop_insert_ids(self) -> None:
        """BigQuery remembers insertIds for a minute at best: from now on a row sent again is there twice."""
        self._rows_seen.drop()

    def buffer_streamed_rows(self, seconds: float) -> None:
        """For so long after insertAll, UPDATE and DELETE refuse a table's rows: BigQuery half an hour, here first 0.

        https://cloud.google.com/bigquery/docs/reference/standard-sql/data-manipulation-language#limitations
        """
        self._warehouse.buffer_s = seconds

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        try:
            response = await run_in_threadpool(self._handle, request, body)
        except _Dropped:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            return  # the server closes a connection whose answer was promised and never came
        except BigQueryError as error:
            response = JSONResponse(error.body(), error.status)
        await response(scope, receive, send)

    def _handle(self, request: Request, body: bytes) -> Response:
        path, query = request.url.path, dict(request.query_params)
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        upload = self._uploads.taken(request, body) if "/upload/" in path else None
        if upload is not None and upload.response is not None:
            return upload.response
        if upload is not None:
            path, query, verb = upload.path, {}, "POST"
            body = upload.metadata
        else:
            verb = request.method
        method, values = api().method(verb, path, query)
        fault = self._faults.next(method.id)
        if fault is not None and not fault.after:
            _fail(fault.code, fault.drop, fault.message)
        try:
            answer = self._call(method, values, query, body, None if upload is None else upload.content)
        except BigQueryError as error:
            if upload is None or not upload.repeated or error.status != 409:
                raise
            reference = json.loads(body)["jobReference"]
            answer = self._jobs.get(reference["jobId"], reference.get("location")).resource
        if fault is not None and fault.after:
            _fail(fault.code, fault.drop, fault.message)
        return Response(status_code=204) if answer is None else JSONResponse(answer)

    def _call(
        self, method: Any, values: dict[str, str], query: dict[str, str], body: bytes, content: bytes | None
    ) -> dict[str, Any] | None:
        if values["projectId"] != self._project:
            if method.id.startswith("bigquery.jobs."):
                raise BigQueryError(
                    403,
                    f"Access Denied: Project {values['projectId']}: User does not have bigquery.jobs.create permission "
                    f"in project {values['projectId']}.",
                )
            raise BigQueryError(404, f"Not found: Project {values['projectId']}")
        sent: dict[str, Any] = {}
        if method.request is not None:
            try:
                sent = json.loads(body)
            except ValueError as error:
                raise BigQueryError(400, f"Invalid JSON payload received: {error}", "parseError") from error
            api().check(sent, method.request)
        call = methods.METHODS.get(method.id)
        if call is None:
            raise BigQueryError(501, f"the stand-in has no {method.id}", "notImplemented")
        return call(methods.Call(self._warehouse, self._jobs, self._rows_seen, values, query, sent, content))


class _Dropped(Exception):
    """The connection ends here."""


def _fail(code: str | None, drop: bool, message: str) -> None:
    if drop:
        raise _Dropped
    if code is not None:
        raise BigQueryError(int(code), message)
