"""From an empty project to the first retrain, in cloud mode: a real Airflow and the real Google clients, offline.

What stands in for Google keeps its state and really does the work: steps run under kfp.local, functions under
functions-framework, the endpoint is the prediction server. The same seed then goes through the local backend.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import yaml
from google.api import httpbody_pb2

from local_stack.airflow_stack import AirflowStack
from rl_core.backends import open_backend
from rl_core.backends.contracts.store import EventStore
from rl_core.backends.gcp.endpoint.endpoint import endpoint_name
from rl_core.backends.gcp.registry.policy_registry import VertexRegistry
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.local.announcement import Announcement
from rl_core.config import Bandit, Settings
from rl_core.errors import EndpointError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.movielens.environment import MovieLensEnvironment, load_environment
from rl_core.policy.artefact import Policy
from rl_core.policy.windows import new_windows
from rl_core.waiting import wait_for
from stand_ins.cloud import Cloud
from stand_ins.free_port import free_port
from tests.harness.patience import patient

pytestmark = [pytest.mark.long, pytest.mark.airflow, pytest.mark.tf, pytest.mark.timeout(1800)]

ROUNDS, DECISIONS = 60, 120
Post = Callable[[dict[str, Any]], dict[str, Any]]


def traffic(environment: MovieLensEnvironment, post: Post) -> None:
    """The same users with the same event ids, one after the other, each followed by its reward."""
    users = np.random.default_rng(5).integers(len(environment.user_ids), size=DECISIONS).tolist()
    for number, user in enumerate(users):
        event_id = f"cloud-mode-{number:04d}"
        instance = {"observation": environment.observations_f32[user].tolist(), "event_id": event_id}
        (prediction,) = post({"instances": [instance], "parameters": {"source": "simulator"}})["predictions"]
        reward = float(environment.earned([user], [prediction["action_id"]], [event_id])[0])
        assert post({"rewards": [{"event_id": event_id, "reward": reward}]})["accepted"] == 1


def decided(store: EventStore) -> dict[str, tuple[str, float, float]]:
    """Action, propensity and reward of every interaction."""
    rows = store.interactions((0, store.head()), ["event_id", "action_id", "propensity", "reward"]).to_pylist()
    return {row["event_id"]: (row["action_id"], row["propensity"], row["reward"]) for row in rows}


class LocalMode:
    """The same stages in this process, over the local backend."""

    def __init__(self, bandit: Bandit, settings: Settings, salt: bytes, folder: Path) -> None:
        self.bandit, self.settings, self._salt, self._folder = bandit, settings, salt, folder
        self.registry, self.store = open_backend(bandit, settings).registry(), open_backend(bandit, settings).store()

    def startup(self) -> None:
        from rl_core.stages import generator

        self._learn(generator.run(self.bandit, self.settings, ROUNDS, self.bandit.startup.seed), "startup")

    def retrain(self) -> None:
        self._learn(new_windows(self.registry, self.store.head()), "sensor")

    def _learn(self, windows: Any, trigger: str) -> None:
        from rl_core.stages import deployer, evaluator, ingester, trainer

        bandit, settings, full = self.bandit, self.settings, trigger == "startup"
        data, policy, verdict = (self._folder / f"{trigger}-{name}" for name in ("data", "policy", "verdict"))
        champion = self.registry.alias("champion")
        ingester.run(bandit, settings, windows, data)
        trainer.run(bandit, settings, data, champion, full, bandit.agent, policy)
        evaluator.run(bandit, settings, data, policy, champion, full, verdict)
        deployer.run(bandit, settings, policy, verdict, champion, trigger, f"{trigger}-g0-a0")

    def champion(self) -> Policy:
        return Policy.load(self.registry.path(str(self.registry.alias("champion"))))

    @contextmanager
    def serving(self, repo: Path, bandit_yaml: Path) -> Iterator[Post]:
        state_dir = self.settings.state_dir(self.bandit)
        (state_dir / "endpoint").mkdir(parents=True)
        (state_dir / "endpoint" / "salt").write_bytes(self._salt)
        command = [sys.executable, "-m", "rl_core", "serve", str(bandit_yaml), "--port", str(free_port())]
        environment = os.environ | {"BANDIT_HOME": str(self.settings.home), "PYTHONPATH": str(repo)}
        server = subprocess.Popen(command, cwd=repo, env=environment)

        def url() -> str | None:
            assert server.poll() is None
            try:
                return Announcement.read(state_dir).url
            except EndpointError:
                return None

        try:
            base = wait_for(url, 30, "the local server", poll_s=0.1)
            yield lambda body: dict(
                httpx.post(f"{base}/predict", json=body, trust_env=False, timeout=patient(30)).json()
            )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(patient(20))

    def join(self) -> None:
        from rl_core.joining.event_logger import drain

        drain(self.bandit, self.settings)


@pytest.fixture
def composer(tmp_path: Path, repo: Path) -> Path:
    """What Cloud Composer would hold: the bundle, with one bandit that lives on Google Cloud."""
    bandits, bundle = tmp_path / "bandits", tmp_path / "composer-bundle"
    bandits.mkdir()
    shipped = yaml.safe_load((repo / "dags" / "bandits" / "movielens.yaml").read_text())
    content = shipped | {
        "backend": "gcp",
        "runner": "vertex",
        "startup": {"rounds": ROUNDS, "seed": 1},
        "serving": shipped["serving"] | {"publish_deadline_s": 20.0},  # traffic takes no 503
        "retrain": {"min_new_interactions": DECISIONS, "poke_interval_s": 3, "gate_timeout_s": 300},
        "google": {
            "project": "test-project",
            "image": f"python-banditloop@sha256:{'0' * 64}",
            "join_schedule": None,  # triggered when the traffic is over
            "endpoint": {"poll_s": 0.3},
        },
    }
    (bandits / "movielens.yaml").write_text(yaml.safe_dump(content))
    for script, out in (("composer_bundle", bundle), ("functions_bundle", bundle / "data/banditloop/functions")):
        command = [sys.executable, "-m", f"scripts.{script}", "--out", str(out), "--bandits", str(bandits)]
        subprocess.run(command, cwd=repo, check=True, capture_output=True)
    return bundle


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    runs = {"BANDIT_HOME": str(tmp_path / "remote"), "BANDIT_MOVIELENS_DIR": os.environ["BANDIT_MOVIELENS_DIR"]}
    with Cloud(tmp_path / "cloud", runs=runs) as cloud:
        yield cloud


@pytest.fixture
def cloud_settings(cloud: Cloud, settings: Settings, tmp_path: Path) -> Settings:
    variables = cloud.environment()
    return settings.model_copy(
        update={
            "home": tmp_path / "composer",
            "airflow_port": free_port(),
            "google_endpoint": variables["BANDIT_GOOGLE_ENDPOINT"],
            "pubsub_emulator_host": variables["BANDIT_PUBSUB_EMULATOR_HOST"],
        }
    )


@pytest.fixture
def airflow(cloud: Cloud, cloud_settings: Settings, composer: Path) -> Iterator[AirflowStack]:
    anonymous = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "test-project"}}
    options = cloud.vertex.environment | {
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(anonymous),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(composer / "plugins"),
        "PYTHONPATH": str(composer / "plugins"),
    }
    stack = AirflowStack(cloud_settings, dags=composer / "dags", options=options)
    stack.start(patient(180))
    try:
        stack.wait_for_dags([f"movielens_{noun}" for noun in ("startup", "retrain", "join", "teardown")], patient(60))
        yield stack
    finally:
        stack.stop()
        stack.api.close()


def run_dag(stack: AirflowStack, noun: str, conf: dict[str, Any] | None = None) -> str:
    dag_id = f"movielens_{noun}"
    stack.api.unpause(dag_id)
    run_id = stack.api.trigger(dag_id, conf)
    state = stack.api.wait_for_run(dag_id, run_id, 600)
    if state != "success":
        tasks = stack.api.task_states(dag_id, run_id)
        failed = [task for task, state in tasks.items() if state == "failed"]
        pytest.fail(f"{tasks}: {[stack.api.log(dag_id, run_id, task)[-3000:] for task in failed]}")
    return run_id


def test_the_loop_closes_on_google_cloud_as_it_does_here(
    repo: Path,
    tmp_path: Path,
    settings: Settings,
    cloud: Cloud,
    cloud_settings: Settings,
    airflow: AirflowStack,
    composer: Path,
    request: pytest.FixtureRequest,
) -> None:
    bandit = Bandit.from_yaml(composer / "dags" / "bandits" / "movielens.yaml")
    clients = GoogleClients(bandit, cloud_settings)
    request.addfinalizer(clients.close)
    registry, store = VertexRegistry(clients), BigQueryEventStore(clients)
    environment, _ = load_environment(bandit, settings)

    assert left_in(cloud, clients) == []
    run_id = run_dag(airflow, "startup")
    report = airflow.api.xcom("movielens_startup", run_id, "train.wait")
    assert set(report) == {"job_id", "state", "outputs"}
    assert len(json.dumps(report)) < 1000
    assert registry.alias("champion") == "movielens-v1-0001"
    assert store.head() == ROUNDS

    endpoint = endpoint_name(clients)

    def rawly(body: dict[str, Any]) -> dict[str, Any]:
        sent = httpbody_pb2.HttpBody(data=orjson.dumps(body), content_type="application/json")
        asked = {"endpoint": endpoint, "http_body": sent}
        answer: dict[str, Any] = orjson.loads(clients.predictions.raw_predict(asked).data)
        return answer

    traffic(environment, rawly)

    def joined() -> bool:
        run_dag(airflow, "join")
        return store.head() >= ROUNDS + DECISIONS

    wait_for(joined, 300, "every decision to be joined", poll_s=1)
    assert store.head() == ROUNDS + DECISIONS

    airflow.api.unpause("movielens_retrain")
    wait_for(lambda: len(registry.attempts()) == 2, 600, "the sensor to open and the retrain to end")
    wait_for(lambda: registry.alias("champion") == "movielens-v1-0002", 180, "the promotion")
    wait_for(lambda: airflow.api.runs("movielens_retrain")[0]["state"] == "success", 180, "the run's end")
    airflow.api.pause("movielens_retrain")
    (served,) = rawly({"instances": [{"observation": environment.observations_f32[0].tolist()}]})["predictions"]
    assert served["policy_version"] == "movielens-v1-0002"

    local = json.loads(bandit.model_dump_json()) | {"backend": "local", "runner": "local"}
    salt = clients.bucket.blob(f"{clients.names.folder}endpoint/salt").download_as_bytes()
    here = LocalMode(Bandit.from_json(json.dumps(local)), settings, salt, tmp_path)
    local_yaml = tmp_path / "movielens.yaml"
    local_yaml.write_text(here.bandit.model_dump_json())
    here.startup()
    with here.serving(repo, local_yaml) as post:
        traffic(environment, post)
    here.join()
    here.retrain()

    assert decided(store) == decided(here.store), "the same decisions, propensities and rewards"
    there = Policy.load(registry.path("movielens-v1-0002"))
    np.testing.assert_allclose(
        there.model.means(environment.observations_f32),
        here.champion().model.means(environment.observations_f32),
        rtol=1e-10,
        atol=1e-10,
    )
    assert [a.windows for a in registry.attempts()] == [a.windows for a in here.registry.attempts()]

    run_dag(airflow, "teardown", {"confirm": "movielens-v1"})
    assert left_in(cloud, clients) == []


def left_in(cloud: Cloud, clients: GoogleClients) -> list[str]:
    """Every resource and IAM binding of the project."""
    project, parent = f"projects/{cloud.project}", clients.names.parent
    admin = cloud.admin.everything()
    return [
        *admin["resources"],
        *(str(binding) for binding in admin["bindings"]),
        *(topic.name for topic in clients.publisher.list_topics(project=project)),
        *(subscription.name for subscription in clients.subscriber.list_subscriptions(project=project)),
        *(dataset.dataset_id for dataset in clients.bigquery.list_datasets()),
        *(bucket.name for bucket in clients.storage.list_buckets()),
        *(endpoint.name for endpoint in clients.endpoints.list_endpoints(parent=parent)),
        *(model.name for model in clients.models.list_models(parent=parent)),
    ]
