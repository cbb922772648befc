"""The Vertex runner over the real client, against a stand-in that keeps what it is told. No Airflow runs here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bandit_ops.runners.base import JobState, JobStatus, Parameters
from bandit_ops.runners.vertex import SPEC_LABEL, VertexRunner
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError, RunnerError, RunnerUnavailable
from rl_core.google_cloud.clients import GoogleClients
from stand_ins.faults import Fault, Faults
from stand_ins.vertex import VertexStandIn
from tests.harness.patience import patient

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1 as v1

JOB = "movielens-v1-retrain-0123456789ab-g0-a0"
OUTPUTS = {"version": "an output", "promoted": True, "reason": "an output"}
OpenRunner = Callable[..., VertexRunner]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def vertex(tmp_path: Path, faults: Faults) -> Iterator[VertexStandIn]:
    """Jobs run until a test says otherwise."""
    with VertexStandIn(tmp_path / "vertex", "europe-west1", faults) as stand_in:
        stand_in.pipelines.script("", ["PENDING", "RUNNING"])
        yield stand_in


@pytest.fixture
def open_runner(cloud_movielens: Bandit, settings: Settings, vertex: VertexStandIn) -> Iterator[OpenRunner]:
    """Each runner has clients of its own, as each task has; `google` changes the bandit's section."""
    with ExitStack() as handles:

        def opened(bandit: Bandit = cloud_movielens, forgotten: int = 0, **google: Any) -> VertexRunner:
            written = bandit.model_dump(mode="json")
            bandit = Bandit.model_validate(written | {"google": written["google"] | google})
            anonymous = settings.model_copy(update={"google_endpoint": "http://127.0.0.1:1"})
            clients = GoogleClients(bandit, anonymous)
            handles.callback(clients.close)
            return VertexRunner(bandit, clients, settings, forgotten=lambda: forgotten)

        yield opened


@pytest.fixture
def runner(open_runner: OpenRunner) -> VertexRunner:
    return open_runner()


@pytest.fixture
def parameters(cloud_movielens: Bandit) -> Parameters:
    return {
        "bandit": cloud_movielens.job_json(),
        "windows": "[[0, 200]]",
        "champion": "",
        "full_retrain": False,
        "agent_alpha": 1,
        "tikhonov_weight": 0.01,
        "half_life": 0,
        "trigger": "manual",
        "job_id": JOB,
    }


def spec(job: v1.PipelineJob) -> dict[str, Any]:
    from stand_ins.vertex.pipeline_rules import spec_of

    return spec_of(job)


class TestASubmittedJob:
    def test_carries_who_it_is_and_what_it_runs(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        job = vertex.pipelines.job(JOB)
        assert job.name == f"projects/test-project/locations/europe-west1/pipelineJobs/{JOB}"
        assert job.display_name == "movielens-retrain-v1"
        assert job.service_account == "movielens-v1-job@test-project.iam.gserviceaccount.com"
        assert job.runtime_config.gcs_output_directory == "gs://test-project-movielens-v1/movielens-v1/pipelines"
        assert job.labels["banditloop"] == "movielens-v1"
        assert job.labels["bandit"] == "movielens"
        assert len(job.labels[SPEC_LABEL]) == 40
        sent = spec(job)
        assert sent["pipelineInfo"]["name"] == "movielens-retrain-v1"
        for executor in sent["deploymentSpec"]["executors"].values():
            assert executor["container"]["image"].endswith(f"@sha256:{'0' * 64}")
            assert "resources" not in executor["container"]

    def test_has_the_sizes_identity_network_key_and_labels_of_its_yaml(
        self, open_runner: OpenRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        key = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"
        job_settings = {
            "display_name": "Learn",
            "service_account": "me@test-project.iam.gserviceaccount.com",
            "labels": {"team": "growth"},
            "network": "projects/1/global/networks/n",
            "cpu": "4",
            "memory": "16Gi",
        }
        open_runner(kms_key=key, vertex=job_settings).submit(JOB, "retrain", parameters)
        job = vertex.pipelines.job(JOB)
        assert (job.display_name, job.service_account) == ("Learn", "me@test-project.iam.gserviceaccount.com")
        assert (job.network, job.encryption_spec.kms_key_name) == ("projects/1/global/networks/n", key)
        assert job.labels["team"] == "growth"
        resources = spec(job)["deploymentSpec"]["executors"]["exec-trainer"]["container"]["resources"]
        assert resources["resourceCpuLimit"] == "4"
        assert resources["resourceMemoryLimit"] == "16Gi"
        assert resources["cpuLimit"] == 4
        assert resources["memoryLimit"] == pytest.approx(17.18, abs=0.01)

    def test_ingests_anew_once_somebody_was_forgotten(
        self, open_runner: OpenRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        jobs = {rows: f"{JOB[:-1]}{rows}" for rows in (0, 2)}
        for rows, job_id in jobs.items():
            open_runner(forgotten=rows).submit(job_id, "retrain", parameters)
        open_runner(forgotten=3).submit(jobs[2], "retrain", parameters)  # the same job, though more is forgotten by now
        containers = {
            rows: {
                step: executor["container"].get("env", [])
                for step, executor in spec(vertex.pipelines.job(job_id))["deploymentSpec"]["executors"].items()
            }
            for rows, job_id in jobs.items()
        }
        assert containers[2].pop("exec-ingester") == [
            *containers[0].pop("exec-ingester"),
            {"name": "FORGOTTEN_ROWS", "value": "2"},
        ]
        assert containers[2] == containers[0]

    @pytest.mark.parametrize("caching", [True, False])
    def test_caches_as_asked_and_never_the_deployer(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters, caching: bool
    ) -> None:
        runner.submit(JOB, "retrain", parameters, enable_caching=caching)
        tasks = spec(vertex.pipelines.job(JOB))["root"]["dag"]["tasks"]
        cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
        assert cached == ({"ingester", "trainer", "evaluator"} if caching else set())

    def test_is_found_in_the_console(self, runner: VertexRunner) -> None:
        assert runner.url(JOB) == (
            f"https://console.cloud.google.com/vertex-ai/locations/europe-west1/pipelines/runs/{JOB}"
            "?project=test-project"
        )

    def test_is_the_only_one_of_its_id(
        self, open_runner: OpenRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        open_runner().submit(JOB, "retrain", parameters)
        open_runner().submit(JOB, "retrain", parameters)
        assert vertex.pipelines.created == [JOB]

    def test_under_the_id_of_another_is_refused_by_name(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        with pytest.raises(RunnerError, match=r"runs something else \(parameter windows\); clear the task") as refused:
            runner.submit(JOB, "retrain", {**parameters, "windows": "[[0, 400]]"})
        assert not isinstance(refused.value, RunnerUnavailable)
        assert vertex.pipelines.created == [JOB]

    def test_under_the_id_of_one_with_another_image_is_refused(
        self, open_runner: OpenRunner, parameters: Parameters
    ) -> None:
        open_runner().submit(JOB, "retrain", parameters)
        other = open_runner(image=f"python-banditloop@sha256:{'1' * 64}")
        with pytest.raises(RunnerError, match="image of exec-deployer"):
            other.submit(JOB, "retrain", parameters)

    def test_is_among_the_active_ones_until_it_ends(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        for job_id in (JOB, "other-job", "third-job"):
            runner.submit(job_id, "retrain", {**parameters, "job_id": job_id})
        assert runner.active() == sorted([JOB, "other-job", "third-job"])
        vertex.pipelines.play("other-job", "FAILED")
        vertex.pipelines.play("third-job", "SUCCEEDED")  # whose outputs a list does not tell
        assert runner.active() == [JOB]


class TestTheState:
    @pytest.mark.parametrize(
        ("shown", "state"),
        [
            ("QUEUED", JobState.PENDING),
            ("PENDING", JobState.PENDING),
            ("RUNNING", JobState.RUNNING),
            ("CANCELLING", JobState.RUNNING),
            ("PAUSED", JobState.PAUSED),
            ("FAILED", JobState.FAILED),
            ("CANCELLED", JobState.CANCELLED),
        ],
    )
    def test_is_told_as_it_is(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters, shown: str, state: JobState
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        vertex.pipelines.play(JOB, shown)
        status = runner.status(JOB)
        assert status is not None
        assert status.state is state
        assert status.outputs == {}

    def test_of_a_success_has_the_pipelines_outputs_in_their_types(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        vertex.pipelines.play(JOB, "SUCCEEDED")
        assert runner.status(JOB) == JobStatus(JobState.SUCCEEDED, "", OUTPUTS)

    @pytest.mark.parametrize("state", ["RUNNING", "FAILED"])
    def test_has_the_outputs_as_soon_as_they_are_told_whatever_comes_after(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters, state: str
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        vertex.pipelines.play(JOB, "SUCCEEDED")
        vertex.pipelines.job(JOB).state = f"PIPELINE_STATE_{state}"
        status = runner.status(JOB)
        assert status is not None
        assert (status.state, status.outputs, status.decided) == (JobState(state), OUTPUTS, True)

    def test_of_a_success_that_has_not_told_its_outputs_yet_is_no_success_yet(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        vertex.pipelines.play(JOB, "SUCCEEDED")
        job = vertex.pipelines.job(JOB)
        detail = job.job_detail.task_details[0]
        detail.execution.metadata = {"output:promoted": "False", "output:version": "v", "output:reason": "r"}
        assert runner.status(JOB) == JobStatus(
            JobState.SUCCEEDED, "", {"promoted": False, "version": "v", "reason": "r"}
        )
        detail.execution.metadata = {}
        status = runner.status(JOB)
        assert status is not None
        assert status.state is JobState.RUNNING

    def test_of_a_job_that_nobody_submitted_is_none(self, runner: VertexRunner) -> None:
        assert runner.status(JOB) is None

    @pytest.mark.parametrize("job_id", ["", "A0", "a_0", "../a", "a" * 129])
    def test_of_an_id_that_can_not_be_is_an_error(self, runner: VertexRunner, job_id: str) -> None:
        with pytest.raises(RunnerError, match="must match"):
            runner.status(job_id)


class TestCancel:
    def test_returns_once_the_job_has_ended(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        runner.cancel(JOB)
        assert vertex.pipelines.states() == {JOB: "CANCELLED"}

    def test_of_what_is_unknown_or_has_ended_does_nothing(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner.cancel(JOB)
        runner.submit(JOB, "retrain", parameters)
        vertex.pipelines.play(JOB, "SUCCEEDED")
        runner.cancel(JOB)
        assert vertex.pipelines.states() == {JOB: "SUCCEEDED"}

    def test_that_does_not_come_to_an_end_says_so(
        self, runner: VertexRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        vertex.pipelines.deaf = True
        runner.cancel_timeout_s = 0.5
        with pytest.raises(RunnerUnavailable, match="not ended 0 s after it was cancelled"):
            runner.cancel(JOB)


class TestWhatMayPass:
    """Faults of the network and of the service, in submit and in status."""

    @pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL", "ABORTED"])
    @pytest.mark.parametrize("method", ["CreatePipelineJob", "GetPipelineJob"])
    def test_is_asked_again(
        self,
        runner: VertexRunner,
        vertex: VertexStandIn,
        faults: Faults,
        parameters: Parameters,
        method: str,
        code: str,
    ) -> None:
        faults.add(Fault(method, code, times=2))
        runner.submit(JOB, "retrain", parameters)
        status = runner.status(JOB)
        assert status is not None
        assert not status.state.terminal
        assert vertex.pipelines.created == [JOB]

    @pytest.mark.parametrize(
        "lost",
        [
            Fault("CreatePipelineJob", "UNAVAILABLE", after=True),
            Fault("CreatePipelineJob", "DEADLINE_EXCEEDED", after=True),
            Fault("CreatePipelineJob", drop=True, after=True),
            Fault("CreatePipelineJob", after=True, delay_s=7.0),
        ],
        ids=["503", "504", "reset", "slow"],
    )
    def test_the_lost_answer_to_a_submit_is_one_job(
        self, runner: VertexRunner, vertex: VertexStandIn, faults: Faults, parameters: Parameters, lost: Fault
    ) -> None:
        faults.add(lost)
        runner.call_timeout_s = 5.0
        runner.submit(JOB, "retrain", parameters)
        assert vertex.pipelines.created == [JOB]
        assert faults.calls["CreatePipelineJob"] == 2

    def test_a_connection_that_ends_without_an_answer_is_made_again(
        self, runner: VertexRunner, vertex: VertexStandIn, faults: Faults, parameters: Parameters
    ) -> None:
        runner.submit(JOB, "retrain", parameters)
        faults.add(Fault("GetPipelineJob", drop=True))
        assert runner.status(JOB) is not None
        vertex.proxy.drop()
        assert runner.status(JOB) is not None

    def test_a_half_closed_connection_ends_in_one_error_in_time_and_the_next_task_is_well(
        self, open_runner: OpenRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner = open_runner()
        runner.submit(JOB, "retrain", parameters)
        runner.patience_s, runner.call_timeout_s = 1.5, 0.6
        with vertex.proxy.half_closed():
            began = time.monotonic()
            with pytest.raises(RunnerUnavailable, match="no answer from Vertex within 2 s"):
                runner.status(JOB)
            assert time.monotonic() - began < patient(10)
        assert open_runner().status(JOB) is not None

    @pytest.mark.parametrize("method", ["CreatePipelineJob", "GetPipelineJob", "CancelPipelineJob"])
    def test_that_does_not_pass_is_one_error_that_may_be_ridden_out(
        self, runner: VertexRunner, faults: Faults, parameters: Parameters, method: str
    ) -> None:
        if method == "CancelPipelineJob":
            runner.submit(JOB, "retrain", parameters)
        runner.patience_s = 1.0
        faults.add(Fault(method, "UNAVAILABLE", times=100))
        act = runner.cancel if method == "CancelPipelineJob" else runner.status
        if method == "CreatePipelineJob":
            act = lambda job_id: runner.submit(job_id, "retrain", parameters)  # noqa: E731
        with pytest.raises(RunnerUnavailable, match=r"google\.region=europe-west1"):
            act(JOB)


class TestWhatStays:
    def refused(self, call: Callable[[], Any]) -> str:
        began = time.monotonic()
        with pytest.raises(RunnerError) as error:
            call()
        assert not isinstance(error.value, RunnerUnavailable)
        assert time.monotonic() - began < patient(5), "it was tried again"
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_another_project_names_setting_and_role(self, open_runner: OpenRunner, parameters: Parameters) -> None:
        runner = open_runner(project="other-project")
        for call in (lambda: runner.status(JOB), lambda: runner.submit(JOB, "retrain", parameters)):
            said = self.refused(call)
            assert "google.project=other-project" in said
            assert "roles/aiplatform.user" in said

    def test_a_missing_permission_names_the_roles(
        self, runner: VertexRunner, faults: Faults, parameters: Parameters
    ) -> None:
        faults.add(Fault("CreatePipelineJob", "PERMISSION_DENIED", message="iam.serviceAccounts.actAs denied"))
        said = self.refused(lambda: runner.submit(JOB, "retrain", parameters))
        assert "roles/iam.serviceAccountUser on movielens-v1-job@test-project.iam.gserviceaccount.com" in said

    def test_an_invalid_argument_is_said_in_googles_words(
        self, open_runner: OpenRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        runner = open_runner(kms_key="not-a-key")
        assert "encryption_spec.kms_key_name 'not-a-key'" in self.refused(
            lambda: runner.submit(JOB, "retrain", parameters)
        )
        assert vertex.pipelines.created == []

    def test_parameters_that_do_not_fit_never_leave_this_machine(
        self, runner: VertexRunner, faults: Faults, parameters: Parameters
    ) -> None:
        said = self.refused(lambda: runner.submit(JOB, "retrain", {**parameters, "windows": 7}))
        assert "parameter windows is a STRING, got 7" in said
        assert "CreatePipelineJob" not in faults.calls

    def test_a_missing_image_says_how_to_get_one(self, open_runner: OpenRunner, parameters: Parameters) -> None:
        runner = open_runner(image=None)
        with pytest.raises(ConfigError, match=r"google\.image is not set.*gcloud builds submit"):
            runner.submit(JOB, "retrain", parameters)

    def test_another_region_is_one_error_that_names_it(self, open_runner: OpenRunner, parameters: Parameters) -> None:
        """Its host does not answer, which may pass, so it is asked for a while."""
        runner = open_runner(region="europe-west4")
        runner.patience_s = 1.0
        with pytest.raises(RunnerUnavailable, match=r"correct google\.region=europe-west4"):
            runner.submit(JOB, "retrain", parameters)

    def test_names_as_long_as_a_bandit_may_have_are_taken(
        self, cloud_movielens: Bandit, open_runner: OpenRunner, vertex: VertexStandIn, parameters: Parameters
    ) -> None:
        from bandit_ops.job_identity import JobIdentity

        long = cloud_movielens.model_copy(update={"prefix": "p" * 40, "pipe_version": "v" * 8})
        job_id = JobIdentity.of(long.id, "long_retrain", "manual__1", "train").job_id
        open_runner(long, bucket="a-bucket").submit(job_id, "retrain", parameters)
        assert vertex.pipelines.created == [job_id]


class TestTheStandIn:
    def test_goes_on_with_its_jobs_where_another_ended(
        self, open_runner: OpenRunner, tmp_path: Path, parameters: Parameters, cloud_movielens: Bandit
    ) -> None:
        open_runner().submit(JOB, "retrain", parameters)
        with VertexStandIn(tmp_path / "vertex", "europe-west1", Faults()) as second:
            assert second.pipelines.states() == {JOB: "PENDING"}
            assert open_runner().status(JOB) is not None

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"labels": {"Team": "x"}}, "label 'Team'"),
            ({"display_name": "x" * 129}, "display_name has 129 characters"),
            ({"service_account": "me"}, "service_account 'me'"),
            ({"runtime_config": {"gcs_output_directory": "/tmp"}}, "is no gs:// path"),
            ({"pipeline_spec": {"root": 1}}, "pipeline_spec is no compiled pipeline"),
            ({"state": "PIPELINE_STATE_RUNNING"}, "state is output only"),
        ],
    )
    def test_refuses_what_vertex_refuses(
        self,
        runner: VertexRunner,
        vertex: VertexStandIn,
        settings: Settings,
        cloud_movielens: Bandit,
        parameters: Parameters,
        change: dict[str, Any],
        message: str,
    ) -> None:
        from google.api_core.exceptions import InvalidArgument
        from google.cloud import aiplatform_v1 as v1

        good = runner._described("retrain", parameters, True)
        for field, value in change.items():
            setattr(good, field, value if field != "state" else v1.PipelineState[value])
        clients = GoogleClients(cloud_movielens, settings.model_copy(update={"google_endpoint": "http://127.0.0.1:1"}))
        with pytest.raises(InvalidArgument, match=message):
            clients.pipelines.create_pipeline_job(
                parent=clients.names.parent, pipeline_job=good, pipeline_job_id="another"
            )
        clients.close()
