"""The API's methods, by their ids in its description."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from stand_ins.bigquery import loads, values
from stand_ins.bigquery.errors import BigQueryError
from stand_ins.bigquery.jobs import Job, Jobs
from stand_ins.bigquery.warehouse import Warehouse

_PAGE = 10_000
_LONGEST_WAIT_S = 10.0


class InsertIds:
    """insertAll drops a row whose id it remembers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[tuple[str, str, str]] = set()

    def drop(self) -> None:
        with self._lock:
            self._seen.clear()

    def fresh(self, dataset: str, table: str, insert_id: str | None) -> bool:
        if insert_id is None:
            return True
        with self._lock:
            known = (dataset, table, insert_id) in self._seen
            self._seen.add((dataset, table, insert_id))
        return not known


@dataclass(frozen=True)
class Call:
    """One request: what its path, its query and its body say."""

    warehouse: Warehouse
    jobs: Jobs
    insert_ids: InsertIds
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: dict[str, Any]
    content: bytes | None

    def page(self, total: int) -> tuple[int, int, dict[str, str]]:
        """First and last row of the page, and the token of the next."""
        start = int(self.query.get("pageToken") or self.query.get("startIndex") or 0)
        end = min(total, start + min(_PAGE, int(self.query.get("maxResults", _PAGE))))
        return start, end, {"pageToken": str(end)} if end < total and end > start else {}

    @property
    def micros(self) -> bool:
        return self.query.get("formatOptions.useInt64Timestamp", "").lower() == "true"


def _datasets_list(call: Call) -> dict[str, Any]:
    return {"kind": "bigquery#datasetList", "datasets": call.warehouse.datasets()}


def _datasets_delete(call: Call) -> None:
    call.warehouse.drop_dataset(call.path["datasetId"], call.query.get("deleteContents", "").lower() == "true")


def _tables_get(call: Call) -> dict[str, Any]:
    dataset, table = call.path["datasetId"], call.path["tableId"]
    found = call.warehouse.table(dataset, table)
    with call.warehouse.cursor() as cursor:
        ((count,),) = cursor.execute(f'SELECT count(*) FROM "{dataset}"."{table}"').fetchall()  # noqa: S608
    return {**found, "numRows": str(count)}


def _tables_list(call: Call) -> dict[str, Any]:
    found = call.warehouse.tables(call.path["datasetId"])
    start, end, token = call.page(len(found))
    known = ("kind", "id", "tableReference", "type", "timePartitioning", "rangePartitioning", "clustering", "labels")
    tables = [{name: table[name] for name in known if name in table} for table in found[start:end]]
    return {"kind": "bigquery#tableList", "tables": tables, "totalItems": len(found)} | (
        {"nextPageToken": token["pageToken"]} if token else {}
    )


def _tabledata_list(call: Call) -> dict[str, Any]:
    chosen = call.query.get("selectedFields")
    columns = chosen.split(",") if chosen else None
    rows = call.warehouse.read(call.path["datasetId"], call.path["tableId"], columns)
    start, end, token = call.page(rows.num_rows)
    cells = values.rows_of(rows.slice(start, end - start), call.micros)
    return {"kind": "bigquery#tableDataList", "totalRows": str(rows.num_rows), "rows": cells, **token}


def _insert_all(call: Call) -> dict[str, Any]:
    dataset, table = call.path["datasetId"], call.path["tableId"]
    fields = call.warehouse.table(dataset, table)["schema"]["fields"]
    given = call.body.get("rows", [])
    if not given:
        raise BigQueryError(400, "No rows present in the request.")
    faults = {n: found for n, row in enumerate(given) if (found := loads.faults_of(row.get("json"), fields))}
    good = [n for n in range(len(given)) if n not in faults]
    if faults and not call.body.get("skipInvalidRows"):
        stopped = {n: [{"reason": "stopped", "location": "", "debugInfo": "", "message": ""}] for n in good}
        faults, good = faults | stopped, []
    fresh = [given[n]["json"] for n in good if call.insert_ids.fresh(dataset, table, given[n].get("insertId"))]
    if fresh:
        call.warehouse.append(dataset, table, loads.table_of(fresh, fields))
        call.warehouse.streamed_at[dataset, table] = time.monotonic()
    answer: dict[str, Any] = {"kind": "bigquery#tableDataInsertAllResponse"}
    if faults:
        answer["insertErrors"] = [{"index": n, "errors": faults[n]} for n in sorted(faults)]
    return answer


def _jobs_get(call: Call) -> Job:
    return call.jobs.get(call.path["jobId"], call.query.get("location"))


def _query_results(call: Call) -> dict[str, Any]:
    job = _jobs_get(call)
    job.wait(min(_LONGEST_WAIT_S, int(call.query.get("timeoutMs", 10_000)) / 1000))
    return _results(call, job, call.micros)


def _results(call: Call, job: Job, micros: bool) -> dict[str, Any]:
    """Of getQueryResults and of jobs.query. Raises what the job failed with."""
    answer = {"kind": "bigquery#getQueryResultsResponse", "jobReference": job.resource["jobReference"]}
    if not job.done:
        return {**answer, "jobComplete": False}
    if job.error is not None:
        raise job.error
    query = job.resource["statistics"]["query"]
    answer |= {"jobComplete": True, "totalBytesProcessed": query["totalBytesProcessed"], "cacheHit": False}
    if "numDmlAffectedRows" in query:
        answer["numDmlAffectedRows"] = query["numDmlAffectedRows"]
    if job.rows is None:
        return {**answer, "totalRows": "0", "schema": {"fields": []}}
    start, end, token = call.page(job.rows.num_rows)
    answer |= {"schema": query["schema"], "totalRows": str(job.rows.num_rows), **token}
    if cells := values.rows_of(job.rows.slice(start, end - start), micros):
        answer["rows"] = cells  # an answer without rows has no such key, and the client goes by it
    return answer


_JOB_FIELDS = ("dryRun", "labels", "jobTimeoutMs", "maxSlots", "reservation")
_REQUEST_FIELDS = (
    "kind",
    "location",
    "requestId",
    "timeoutMs",
    "maxResults",
    "formatOptions",
    "jobCreationMode",
    "queryResultsFormat",
    "arrowSerializationOptions",
    *_JOB_FIELDS,
)


def _jobs_query(call: Call) -> dict[str, Any]:
    config = {name: value for name, value in call.body.items() if name not in _REQUEST_FIELDS}
    configuration = {"query": config} | {name: call.body[name] for name in _JOB_FIELDS if name in call.body}
    reference = {"location": call.body["location"]} if "location" in call.body else {}
    job = call.jobs.insert({"jobReference": reference, "configuration": configuration})
    job.wait(min(_LONGEST_WAIT_S, int(call.body.get("timeoutMs", 10_000)) / 1000))
    micros = bool(call.body.get("formatOptions", {}).get("useInt64Timestamp"))
    limited = Call(**{**vars(call), "query": {"maxResults": str(call.body.get("maxResults", _PAGE))}})
    return {**_results(limited, job, micros), "kind": "bigquery#queryResponse"}


def _explained(call: Callable[[Call], dict[str, Any] | None]) -> Callable[[Call], dict[str, Any] | None]:
    def answer(request: Call) -> dict[str, Any] | None:
        try:
            return call(request)
        except duckdb.Error as error:
            raise BigQueryError(501, f"{type(error).__name__}: {' '.join(str(error).split())}") from error

    return answer


METHODS: dict[str, Callable[[Call], dict[str, Any] | None]] = {
    name: _explained(call)
    for name, call in {
        "bigquery.datasets.insert": lambda call: call.warehouse.make_dataset(call.body),
        "bigquery.datasets.get": lambda call: call.warehouse.dataset(call.path["datasetId"]),
        "bigquery.datasets.list": _datasets_list,
        "bigquery.datasets.patch": lambda call: call.warehouse.patch(call.path["datasetId"], "", call.body),
        "bigquery.datasets.delete": _datasets_delete,
        "bigquery.tables.insert": lambda call: call.warehouse.make_table(call.path["datasetId"], call.body),
        "bigquery.tables.get": _tables_get,
        "bigquery.tables.list": _tables_list,
        "bigquery.tables.patch": lambda call: call.warehouse.patch(
            call.path["datasetId"], call.path["tableId"], call.body
        ),
        "bigquery.tables.delete": lambda call: call.warehouse.drop(call.path["datasetId"], call.path["tableId"]),
        "bigquery.tabledata.list": _tabledata_list,
        "bigquery.tabledata.insertAll": _insert_all,
        "bigquery.jobs.insert": lambda call: call.jobs.insert(call.body, call.content).resource,
        "bigquery.jobs.get": lambda call: _jobs_get(call).resource,
        "bigquery.jobs.cancel": lambda call: {"kind": "bigquery#jobCancelResponse", "job": _jobs_get(call).resource},
        "bigquery.jobs.list": lambda call: {"kind": "bigquery#jobList", "jobs": call.jobs.all()},
        "bigquery.jobs.query": _jobs_query,
        "bigquery.jobs.getQueryResults": _query_results,
    }.items()
}
