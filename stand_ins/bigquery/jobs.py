"""Jobs: accepted at once, executed by a few threads, kept with their answers until the stand-in ends."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stand_ins.bigquery import loads, values
from stand_ins.bigquery.errors import BigQueryError, not_found
from stand_ins.bigquery.script import Outcome, Script, parameters_of
from stand_ins.bigquery.warehouse import Warehouse

_LOCATION = "US"  # where a job runs that names neither location nor dataset


@dataclass(eq=False)
class Job:
    resource: dict[str, Any]
    future: Future[None] | None = None
    rows: pa.Table | None = None
    error: BigQueryError | None = None
    cells: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return bool(self.resource["status"]["state"] == "DONE")

    def wait(self, seconds: float) -> None:
        if self.future is not None:
            wait([self.future], timeout=seconds)


class Jobs:
    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="bigquery-job")
        self._jobs: dict[str, Job] = {}

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def all(self) -> list[dict[str, Any]]:
        """The resources of all jobs, in the order in which they were accepted."""
        with self._lock:
            return [job.resource for job in self._jobs.values()]

    def get(self, job_id: str, location: str | None) -> Job:
        found = self._jobs.get(job_id)
        if found is None or (location or _LOCATION).lower() != found.resource["jobReference"]["location"].lower():
            not_found("Job", f"{self._warehouse.project}:{job_id}")
        return found

    def insert(self, body: dict[str, Any], content: bytes | None = None) -> Job:
        """Raises BigQueryError 409 where the id is taken."""
        reference = body.get("jobReference") or {}
        configuration = body.get("configuration") or {}
        job_id = reference.get("jobId") or f"job_{uuid.uuid4().hex}"
        location = reference.get("location") or self._where(configuration)
        now = str(time.time_ns() // 1_000_000)
        resource = {
            "kind": "bigquery#job",
            "id": f"{self._warehouse.project}:{location}.{job_id}",
            "jobReference": {"projectId": self._warehouse.project, "jobId": job_id, "location": location},
            "configuration": {**configuration, "jobType": "LOAD" if "load" in configuration else "QUERY"},
            "status": {"state": "RUNNING"},
            "statistics": {"creationTime": now, "startTime": now},
            "user_email": "tester@example.com",
        }
        work = self._work(configuration, content, location)
        job = Job(resource)
        if configuration.get("dryRun"):
            self._finish(job, work)
            if job.error is not None:
                raise job.error
            return job
        with self._lock:
            if job_id in self._jobs:
                raise BigQueryError(409, f"Already Exists: Job {resource['id']}")
            self._jobs[job_id] = job
            job.future = self._pool.submit(self._finish, job, work)
        job.wait(0.2)
        return job

    def _where(self, configuration: dict[str, Any]) -> str:
        query, load = configuration.get("query", {}), configuration.get("load", {})
        place = query.get("defaultDataset") or load.get("destinationTable")
        return str(self._warehouse.dataset(place["datasetId"])["location"]) if place else _LOCATION

    def _work(
        self, configuration: dict[str, Any], content: bytes | None, location: str
    ) -> Callable[[Job], dict[str, Any]]:
        if "load" in configuration:
            return lambda job: self._load(configuration["load"], content, location)
        if "query" not in configuration:
            raise BigQueryError(400, "Required parameter is missing: query or load")
        return lambda job: self._query(job, configuration, location)

    def _finish(self, job: Job, work: Callable[[Job], dict[str, Any]]) -> None:
        try:
            statistics = work(job)
        except BigQueryError as error:
            job.error, statistics = error, {}
        except Exception as error:  # a defect of the stand-in: say it to the client instead of letting it wait
            job.error, statistics = BigQueryError(501, f"{type(error).__name__}: {error}", "standInDefect"), {}
        now = str(time.time_ns() // 1_000_000)
        job.resource["statistics"] = {**job.resource["statistics"], **statistics, "endTime": now}
        status: dict[str, Any] = {"state": "DONE"}
        if job.error is not None:
            status |= {"errorResult": job.error.result(), "errors": [job.error.result()]}
        job.resource["status"] = status

    def _load(self, config: dict[str, Any], content: bytes | None, location: str) -> dict[str, Any]:
        if content is None:
            raise BigQueryError(400, "the stand-in loads uploaded files only, no sourceUris")
        self._warehouse.dataset(config["destinationTable"]["datasetId"], location)
        count = loads.load(self._warehouse, config, content)
        return {"load": {"inputFiles": "1", "inputFileBytes": str(len(content)), "outputRows": str(count)}}

    def _query(self, job: Job, configuration: dict[str, Any], location: str) -> dict[str, Any]:
        config = configuration["query"]
        if config.get("useLegacySql", True):
            raise BigQueryError(400, "the stand-in speaks GoogleSQL only; set useLegacySql to false", "invalidQuery")
        default = config.get("defaultDataset")
        place = (default.get("projectId", self._warehouse.project), default["datasetId"]) if default else None
        script = Script(
            self._warehouse, config["query"], parameters_of(config.get("queryParameters", [])), place, location
        )
        dry = bool(configuration.get("dryRun"))
        outcome = script.described() if dry else script.run()
        most = config.get("maximumBytesBilled")
        if most is not None and outcome.billed > int(most):
            raise BigQueryError(
                400, f"Query exceeded limit for bytes billed: {most}. {outcome.billed} or higher required."
            )
        job.rows = outcome.rows
        return _statistics(outcome)


def _statistics(outcome: Outcome) -> dict[str, Any]:
    total = str(sum(outcome.read.values()))
    query: dict[str, Any] = {
        "statementType": outcome.statement_type,
        "totalBytesProcessed": total,
        "totalBytesBilled": str(outcome.billed),
        "cacheHit": False,
    }
    if outcome.affected is not None:
        query["numDmlAffectedRows"] = str(outcome.affected)
    if outcome.rows is not None:
        query["schema"] = {"fields": values.fields_of(outcome.rows.schema)}
    statistics: dict[str, Any] = {"totalBytesProcessed": total, "query": query}
    if outcome.statement_type == "SCRIPT":
        statistics["numChildJobs"] = str(outcome.children)
    return statistics
