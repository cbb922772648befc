"""Runs in Vertex Experiments: real clients, a store of contexts that remembers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud import aiplatform_v1 as v1  # noqa: TID253  the real message types

from rl_core.config import Bandit, Settings
from rl_core.errors import RunnerError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.google_cloud.experiments import associate, experiment_path
from stand_ins.faults import Fault, Faults
from stand_ins.grpc_service import Rpc, not_found, service
from stand_ins.vertex.metadata import MetadataState, metadata_service

JOB = "movielens-v1-retrain-0123456789ab-g0-a0"


class Vertex:
    """Metadata, and a pipeline service that knows one job, whose context it makes when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.state = MetadataState(folder)
        self.folder = folder
        self.faults = Faults()
        self.jobs: dict[str, Any] = {}

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        return [
            metadata_service(self.folder, self.faults),
            service(
                "google.cloud.aiplatform.v1.PipelineService",
                {"GetPipelineJob": Rpc(self._job, v1.GetPipelineJobRequest, v1.PipelineJob)},
                self.faults,
            ),
        ]

    def begin(self, name: str) -> Any:
        """Vertex gets to the run: context and parameters are there."""
        return self.state.pipeline_run(name, "movielens-retrain-v1", {"agent_alpha": 1.0, "windows": "[[0, 200]]"})

    def _job(self, request: Any) -> Any:
        if request.name not in self.jobs:
            not_found(request.name)
        job = v1.PipelineJob(name=request.name)
        context = f"{request.name.split('/pipelineJobs/')[0]}/metadataStores/default/contexts/{JOB}"
        if context in self.state.read()["resources"]:
            job.job_detail = v1.PipelineJobDetail(pipeline_run_context=self.state.get(context))
        return job


@pytest.fixture
def vertex(tmp_path: Path) -> Vertex:
    return Vertex(tmp_path / "vertex")


@pytest.fixture
def clients(vertex: Vertex, cloud_movielens: Bandit, settings: Settings) -> Iterator[GoogleClients]:
    from google.cloud.aiplatform_v1.services.metadata_service.transports import MetadataServiceGrpcTransport
    from google.cloud.aiplatform_v1.services.pipeline_service.transports import PipelineServiceGrpcTransport

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers(tuple(vertex.handlers()))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    clients = GoogleClients(cloud_movielens, settings)
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    clients.metadata = v1.MetadataServiceClient(transport=MetadataServiceGrpcTransport(channel=channel))
    clients.pipelines = v1.PipelineServiceClient(transport=PipelineServiceGrpcTransport(channel=channel))
    yield clients
    clients.close()
    server.stop(grace=None).wait()


@pytest.fixture
def job(vertex: Vertex, clients: GoogleClients) -> str:
    name = f"{clients.names.parent}/pipelineJobs/{JOB}"
    vertex.jobs[name] = True
    return name


def runs(clients: GoogleClients) -> list[str]:
    """As the console and the SDK ask: the pipeline runs among the experiment's children."""
    kinds = " OR ".join(f'schema_title="system.{kind}"' for kind in ("ExperimentRun", "PipelineRun"))
    wanted = f'({kinds}) AND parent_contexts:"{experiment_path(clients.names)}"'
    store = f"{clients.names.parent}/metadataStores/default"
    request = {"parent": store, "filter": wanted}
    return [context.display_name for context in clients.metadata.list_contexts(request=request)]


def test_a_run_without_a_context_is_to_be_asked_for_again(clients: GoogleClients, job: str) -> None:
    assert associate(clients, JOB) is False


def test_a_run_appears_once_with_its_parameters_and_metrics(clients: GoogleClients, vertex: Vertex, job: str) -> None:
    run = vertex.begin(job)
    assert associate(clients, JOB)
    assert associate(clients, JOB), "an attach"
    vertex.state.pipeline_metrics(run.name, "verdict", {"challenger_dr": 3.9, "promote": 1.0})
    assert runs(clients) == [JOB]
    lineage = clients.metadata.query_context_lineage_subgraph(context=run.name)
    assert lineage.executions[0].metadata["input:agent_alpha"] == 1.0
    assert lineage.artifacts[0].metadata["challenger_dr"] == 3.9


def test_two_bandits_runs_that_meet_in_making_the_experiment_both_appear(
    clients: GoogleClients, vertex: Vertex, job: str
) -> None:
    vertex.begin(job)
    vertex.faults.add(Fault("CreateContext", code="ALREADY_EXISTS", after=True))
    assert associate(clients, JOB)
    assert runs(clients) == [JOB]


@pytest.mark.parametrize("method", ["GetPipelineJob", "GetContext", "CreateContext", "AddContextChildren"])
def test_an_outage_leaves_nothing_that_the_next_call_does_not_mend(
    clients: GoogleClients, vertex: Vertex, job: str, method: str
) -> None:
    vertex.begin(job)
    vertex.faults.add(Fault(method, code="RESOURCE_EXHAUSTED", message="quota"))
    with pytest.raises(RunnerError, match="not answered"):
        associate(clients, JOB)
    assert associate(clients, JOB)
    assert runs(clients) == [JOB]


def test_a_missing_permission_names_the_role(clients: GoogleClients, vertex: Vertex, job: str) -> None:
    vertex.begin(job)
    vertex.faults.add(Fault("AddContextChildren", code="PERMISSION_DENIED", message="no"))
    with pytest.raises(RunnerError, match=r"aiplatform\.user"):
        associate(clients, JOB)


def test_a_name_that_is_no_experiment_is_refused(clients: GoogleClients, vertex: Vertex, job: str) -> None:
    vertex.begin(job)
    foreign = v1.Context(display_name="x", schema_title="system.Pipeline", schema_version="0.0.1")
    store = f"{clients.names.parent}/metadataStores/default"
    clients.metadata.create_context(parent=store, context=foreign, context_id=clients.names.experiment)
    with pytest.raises(RunnerError, match=r"google\.vertex\.experiment"):
        associate(clients, JOB)
