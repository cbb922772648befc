"""The submitted spec is really executed: Vertex runner, real client, stand-in, kfp.local; the stages do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from bandit_ops.runners.base import JobState, JobStatus
from bandit_ops.runners.job_folder import MARK
from bandit_ops.runners.vertex import VertexRunner
from local_stack.processes import living_with
from rl_core.config import Bandit
from rl_core.google_cloud.clients import GoogleClients
from stand_ins.faults import Faults
from stand_ins.vertex import VertexStandIn
from tests.pipelines.conftest import sleeps

if TYPE_CHECKING:
    from tests.pipelines.conftest import World

pytestmark = pytest.mark.process
OUTPUTS = {"version": "toy-v1-0001", "promoted": True, "reason": "no champion yet"}


@dataclass(frozen=True)
class OnVertex:
    """The world's bandit on Google Cloud; its steps run in the world's own code and BANDIT_HOME."""

    world: World
    stand_in: VertexStandIn
    runner: VertexRunner

    def submit(self, job_id: str, **changed: str | float | bool) -> None:
        self.runner.submit(job_id, "retrain", self.world.parameters(job_id, **changed))

    def wait(self, job_id: str) -> JobStatus:
        def ended() -> bool:
            status = self.runner.status(job_id)
            return status is not None and status.state.terminal

        self.world.until(ended, f"{job_id} to end")
        status = self.runner.status(job_id)
        assert status is not None
        return status

    def steps(self, job_id: str) -> dict[str, str]:
        return {
            detail.task_name: detail.state.name
            for detail in self.stand_in.pipelines.job(job_id).job_detail.task_details
        }

    def processes(self) -> list[psutil.Process]:
        """The living processes of the jobs."""
        return living_with(MARK, str(self.stand_in.folder))


@pytest.fixture
def vertex(world: World) -> Iterator[OnVertex]:
    google = {"project": "test-project", "image": f"python-banditloop@sha256:{'0' * 64}"}
    bandit = Bandit.model_validate(world.bandit.model_dump() | {"backend": "gcp", "runner": "vertex", "google": google})
    settings = world.settings.model_copy(update={"google_endpoint": "http://127.0.0.1:1"})
    with VertexStandIn(world.settings.home / "vertex", "europe-west1", Faults()) as stand_in:
        stand_in.pipelines.runs.root = world.root
        stand_in.step_environment["BANDIT_HOME"] = str(world.settings.home)
        clients = GoogleClients(bandit, settings)
        made = OnVertex(world, stand_in, VertexRunner(bandit, clients, settings))
        yield made
        clients.close()
    assert made.processes() == []


def test_a_run_gives_its_outputs_and_a_second_one_takes_its_steps_from_the_cache(vertex: OnVertex) -> None:
    vertex.submit("a0")
    assert vertex.wait("a0") == JobStatus(JobState.SUCCEEDED, "", OUTPUTS)
    assert vertex.world.calls() == ["ingester", "trainer", "evaluator", "deployer", "exporter"]
    assert vertex.steps("a0") == dict.fromkeys(vertex.world.calls(), "SUCCEEDED")

    vertex.submit("a1")
    assert vertex.wait("a1").state is JobState.SUCCEEDED
    assert vertex.world.calls()[5:] == ["deployer", "exporter"]
    assert vertex.steps("a1") == {
        "ingester": "SKIPPED",
        "trainer": "SKIPPED",
        "evaluator": "SKIPPED",
        "deployer": "SUCCEEDED",
        "exporter": "SUCCEEDED",
    }
    assert vertex.stand_in.pipelines.executed == ["a0", "a1"]


def in_experiment(vertex: OnVertex) -> dict[str, dict[str, float]]:
    """The metrics of each run in the bandit's experiment, as the console finds them."""
    from rl_core.google_cloud.experiments import experiment_path

    metadata = vertex.runner._clients.metadata
    experiment = experiment_path(vertex.runner._clients.names)
    store = experiment.partition("/contexts/")[0]
    runs = metadata.list_contexts(request={"parent": store, "filter": f'parent_contexts:"{experiment}"'})
    found = {}
    for run in runs:
        wanted = f'schema_title="system.Metrics" AND in_context("{run.name}")'
        artifacts = metadata.list_artifacts(request={"parent": store, "filter": wanted})
        found[run.display_name] = {key: value for artifact in artifacts for key, value in artifact.metadata.items()}
    return found


@pytest.mark.long
def test_every_run_appears_in_the_experiment_with_what_the_evaluator_measured(vertex: OnVertex) -> None:
    vertex.world.behave(deployer="fail")
    vertex.submit("a0")
    assert vertex.wait("a0").state is JobState.FAILED
    vertex.world.behave()
    vertex.submit("a1")
    vertex.submit("a1")  # an attach
    assert vertex.wait("a1").state is JobState.SUCCEEDED
    found = in_experiment(vertex)
    assert sorted(found) == ["a0", "a1"]
    assert vertex.steps("a1")["evaluator"] == "SKIPPED"
    assert found["a1"] == {"promote": 1.0, "promoted": 1.0, "rows": 2.0, "challenger_dr": 1.5}


def test_a_failing_step_is_a_failed_job_with_the_line_of_its_error(vertex: OnVertex) -> None:
    vertex.world.behave(ingester="fail")
    vertex.submit("a0")
    message = "ingester: StoreError: seq 5 is missing (gap); run the joiner first"
    assert vertex.wait("a0") == JobStatus(JobState.FAILED, message)


def test_cancelling_ends_every_process_of_the_job(vertex: OnVertex) -> None:
    vertex.world.behave(ingester="hang")
    vertex.submit("a0")
    vertex.world.until(lambda: any(map(sleeps, vertex.processes())))
    vertex.runner.cancel("a0")
    assert vertex.processes() == []
    assert vertex.runner.status("a0") == JobStatus(JobState.CANCELLED, "cancelled")


@pytest.mark.long
def test_what_still_runs_is_gone_with_the_stand_in(vertex: OnVertex) -> None:
    """See the fixture's last line."""
    vertex.world.behave(ingester="hang")
    vertex.submit("a0")
    vertex.world.until(lambda: any(map(sleeps, vertex.processes())))
