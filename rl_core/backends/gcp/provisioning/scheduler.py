"""The Cloud Scheduler job that asks the simulator function for traffic, where `google.simulate_by` is "scheduler".

It is made for every bandit with an environment and a schedule, and paused wherever the DAG `…_simulate` is what sends
traffic: one of the two runs, never both.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.resource import Found, Owned, Site
from rl_core.backends.gcp.provisioning.rest import call, get


class SchedulerJob(Owned):
    """The Cloud Scheduler job that publishes to the simulate topic."""

    part: Part = "functions"
    role = "roles/cloudscheduler.admin on the project"

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> str:
        return f"Scheduler job {self._name.rpartition('/')[2]}"

    def exists(self) -> Found:
        job = get(self._jobs.get(name=self._name))
        if job is None:
            return Found.ABSENT
        wanted = {**self._body, "state": self._state}
        if self._site.owner_by(job.get("description")) is Found.FOREIGN:
            return Found.FOREIGN
        return Found.OURS if all(job.get(key) == value for key, value in wanted.items()) else Found.STALE

    def create(self) -> None:
        job = get(self._jobs.get(name=self._name))
        if job is None:
            job = call(self._jobs.create(parent=self._name.rpartition("/jobs/")[0], body=self._body))
        elif any(job.get(key) != value for key, value in self._body.items()):
            job = call(self._jobs.patch(name=self._name, updateMask="schedule,timeZone,pubsubTarget", body=self._body))
        if job.get("state") != self._state:
            change = self._jobs.resume if self._state == "ENABLED" else self._jobs.pause
            call(change(name=self._name, body={}))

    def _remove(self) -> None:
        call(self._jobs.delete(name=self._name))

    @property
    def _name(self) -> str:
        return self._site.names.scheduler_job

    @property
    def _state(self) -> str:
        wanted = self._site.bandit.simulate.enabled and self._site.names.google.simulate_by == "scheduler"
        return "ENABLED" if wanted else "PAUSED"

    @property
    def _body(self) -> dict[str, Any]:
        simulate = self._site.bandit.simulate
        asked = json.dumps({"decisions": simulate.decisions, "concurrency": simulate.concurrency})
        return {
            "name": self._name,
            "description": self._site.mark,
            "schedule": simulate.schedule,
            "timeZone": "Etc/UTC",
            "pubsubTarget": {
                "topicName": self._site.names.simulate_topic,
                "data": base64.b64encode(asked.encode()).decode(),
            },
        }

    @property
    def _jobs(self) -> Any:
        return self._site.clients.rest("cloudscheduler", "v1").projects().locations().jobs()
