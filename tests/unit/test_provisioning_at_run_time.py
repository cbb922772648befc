"""What run-time code says in a project that was never provisioned, or where it may do nothing: setting and role."""

from __future__ import annotations

import pytest

from bandit_ops.runners.vertex import VertexRunner
from rl_core.backends.gcp.endpoint.endpoint import open_vertex_endpoint
from rl_core.backends.gcp.registry.policy_registry import VertexRegistry
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.errors import EndpointError, RegistryError, RunnerError, StoreError
from stand_ins.faults import Fault
from tests.provisioning_world import World

PLACE = r"google\.project=test-project, google\.region=europe-west1"
ADVICE = rf"not found .*run the DAG …_provision, or correct {PLACE}; the acting account needs roles/"


def test_a_missing_dataset_as_the_sensor_sees_it(world: World) -> None:
    clients = world.site().clients
    with pytest.raises(StoreError, match=ADVICE):
        BigQueryEventStore(clients).head()


def test_a_missing_bucket_as_the_lease_sees_it(world: World) -> None:
    clients = world.site().clients
    with pytest.raises(RegistryError, match=ADVICE):
        VertexRegistry(clients).lease("a run", 60)


def test_a_missing_endpoint_as_the_deployer_sees_it(world: World) -> None:
    clients = world.site().clients
    with pytest.raises(
        EndpointError, match=r"no Vertex endpoint .*run the DAG …_provision, or correct google\.project"
    ):
        open_vertex_endpoint(clients).state()


def test_a_missing_permission_names_its_role(world: World) -> None:
    site = world.site()
    world.provision(site, "storage")
    clients = site.clients
    cases = (
        (
            "bigquery.tabledata.list",
            "403",
            StoreError,
            r"roles/bigquery\.dataViewer on the dataset",
            lambda: BigQueryEventStore(clients).head(),
        ),
        (
            "storage.objects.get",
            "403",
            RegistryError,
            r"roles/storage\.objectUser on the bucket",
            lambda: VertexRegistry(clients).versions(),
        ),
        (
            "GetPipelineJob",
            "PERMISSION_DENIED",
            RunnerError,
            r"roles/aiplatform\.user on the project",
            lambda: VertexRunner(clients.bandit, clients, clients.settings).status("movielens-v1-startup-0-g0-a0"),
        ),
    )
    for method, code, kind, role, ask in cases:
        world.cloud.faults.add(Fault(method, code))
        with pytest.raises(kind, match=rf"permission denied .*give the acting account {role}.*, or correct {PLACE}"):
            ask()
        world.cloud.faults.clear()
