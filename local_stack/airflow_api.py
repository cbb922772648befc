"""A small client of Airflow's public REST API, version 2: what the demo and the tests ask of it."""

from __future__ import annotations

import time
from typing import Any

import httpx

from rl_core.errors import BanditError
from rl_core.waiting import wait_for

FINISHED = ("success", "failed")
_ASKED = 5
_PAUSE_S = 1.0


class AirflowApi:
    """Talks to a local Airflow whose simple auth manager hands out admin tokens (`SIMPLE_AUTH_MANAGER_ALL_ADMINS`)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._token: str | None = None

    def close(self) -> None:
        self._client.close()

    def token(self) -> str:
        if self._token is None:
            answer = self._client.get("/auth/token")
            answer.raise_for_status()
            self._token = str(answer.json()["access_token"])
        return self._token

    def request(self, method: str, path: str, **kwargs: Any) -> Any:
        """`path` is relative to /api/v2. Raises BanditError with Airflow's own words, or httpx.TransportError.

        Asks again after a 500, which has changed nothing: the api-server notes each change that is asked for in its
        table `log` on its event loop, and where another request's change is between its write and its commit, which
        needs the loop too, the two wait for each other until SQLite gives one up as locked. What only looks is asked
        again where no answer came, too.
        """
        for left in reversed(range(_ASKED)):
            try:
                headers = {"Authorization": f"Bearer {self.token()}"}
                answer = self._client.request(method, f"/api/v2{path}", headers=headers, **kwargs)
            except httpx.TransportError:
                if method != "GET" or not left:
                    raise
            else:
                if answer.status_code != 500 or not left:
                    break
            time.sleep(_PAUSE_S)
        if answer.is_error:
            raise BanditError(f"Airflow answered {answer.status_code} to {method} {path}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def health(self) -> dict[str, Any]:
        """Raises httpx.HTTPError, or ValueError, while the api-server is not there yet."""
        answer = self._client.get("/api/v2/monitor/health")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def execution_health(self) -> None:
        """Raises httpx.HTTPError while tasks would not be answered.

        Airflow makes the part of the api-server that tasks ask at the first request to it, which takes seconds of CPU
        (10 s were seen) during which nobody is answered: better asked for before the first task does.
        """
        self._client.get("/execution/health").raise_for_status()

    def dags(self) -> list[str]:
        return [dag["dag_id"] for dag in self.request("GET", "/dags")["dags"]]

    def import_errors(self) -> dict[str, str]:
        """What Airflow could not load: the last line of the reason, by file name."""
        found = self.request("GET", "/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"].strip().splitlines()[-1] for error in found}

    def pause(self, dag_id: str, paused: bool = True) -> None:
        self.request("PATCH", f"/dags/{dag_id}", json={"is_paused": paused})

    def unpause(self, dag_id: str) -> None:
        self.pause(dag_id, paused=False)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run by hand with the given params and return its run_id."""
        body = {"logical_date": None, "conf": conf or {}}
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The newest 100 runs, oldest first."""
        query = {"order_by": "-run_after", "limit": 100}
        found: list[dict[str, Any]] = self.request("GET", f"/dags/{dag_id}/dagRuns", params=query)["dag_runs"]
        return found[::-1]

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return found

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        self.request("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": state})

    def wait_for_run(self, dag_id: str, run_id: str, timeout_s: float = 300, poll_s: float = 0.5) -> str:
        """The run's final state: success or failed."""

        def state() -> str | None:
            now = str(self.run(dag_id, run_id)["state"])
            return now if now in FINISHED else None

        return str(wait_for(state, timeout_s, f"run {run_id} of {dag_id} to end", poll_s))

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """The run's task instances by task id."""
        found = self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 100})
        return {task["task_id"]: task for task in found["task_instances"]}

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        return {task_id: task["state"] for task_id, task in self.tasks(dag_id, run_id).items()}

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Return once it is so. A task that tells its own state at the same moment overwrites it: Airflow holds the row
        by SELECT … FOR UPDATE, which SQLite ignores.
        """
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        for _ in range(_ASKED):
            self.request("PATCH", path, json={"new_state": state})
            time.sleep(_PAUSE_S)
            if self.request("GET", path)["state"] == state:
                return
        raise BanditError(f"asked {_ASKED} times in vain that {task_id} of {run_id} be {state}")

    def clear(self, dag_id: str, run_id: str, task_ids: list[str], *, downstream: bool = True) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": task_ids,
            "include_downstream": downstream,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.request("GET", path, params={"deserialize": True})["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """The task's log as lines of text."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        lines = self.request("GET", path, params={"full_content": True})["content"]
        return "\n".join(text for line in lines for text in _log_texts(line))


def _log_texts(line: Any) -> list[str]:
    """What one structured log line says: its event, why a task was skipped, and the exceptions it carries."""
    if not isinstance(line, dict):
        return [str(line)]
    errors = line.get("error_detail") or []
    event = " ".join(str(line[key]) for key in ("event", "reason") if key in line)
    return [event, *(f"{error['exc_type']}: {error['exc_value']}" for error in errors)]
