"""What an update of the code must leave as it is, because runs in flight were begun by the code before it.

Airflow goes on with a run by the names of its tasks, and our tasks find their job by a name made of those of DAG, run
and group. So these are pinned. Adding tasks is harmless; a renamed one leaves its job to nobody. If one must go, raise
`pipe_version`: the bandit's DAGs are its YAML's, and runs of the old version end as they began.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bandit_ops.job_identity import JobIdentity, active_jobs, attempts
from bandit_ops.runners.base import JobState, JobStatus
from bandit_ops.runners.job_folder import JobFolder
from bandit_ops.runners.vertex import SPEC_LABEL
from rl_core.google_cloud.names import LABEL

if TYPE_CHECKING:
    from tests.dags.conftest import Parse

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Airflow's own, lazily

TASKS = Path(__file__).parents[1] / "data" / "task_ids.json"
RUN = "scheduled__2026-11-22T21:00:00+00:00"


@pytest.mark.parametrize("backend", ["local", "gcp"])
def test_no_task_is_renamed_or_gone(
    parse: Parse, dags_folder: Path, add_bandit: Callable[..., Path], backend: str
) -> None:
    google = {"project": "test-project", "image": f"python-banditloop@sha256:{'0' * 64}"}
    on_google = {"backend": "gcp", "runner": "vertex", "google": google} if backend == "gcp" else {}
    add_bandit("pinned", **on_google)
    parsed = parse(dags_folder)
    assert parsed.import_errors == {}
    now = {dag_id.removeprefix("pinned_"): set(dag.task_ids) for dag_id, dag in parsed.dags.items()}
    for noun, pinned in json.loads(TASKS.read_text())[backend].items():
        missing = set(pinned) - now.get(noun, set())
        assert not missing, f"{noun}: {sorted(missing)} were there before; runs in flight wait for them"


@pytest.mark.parametrize(
    ("identity", "job_id"),
    [
        (
            JobIdentity.of("movielens-v1", "movielens_retrain", RUN, "train"),
            "movielens-v1-retrain-8fa2af5b9e26-g0-a0",
        ),
        (
            JobIdentity.of("movielens-v1", "movielens_retrain", RUN, "train", map_index=3)
            .of_generation(2)
            .next_attempt(),
            "movielens-v1-retrain-afc912774c9a-g2-a1",
        ),
        (
            JobIdentity.of("movielens-v1", "movielens_startup", "manual__2026-11-22T21:00:00+00:00", "train"),
            "movielens-v1-startup-15fc4d454f5d-g0-a0",
        ),
    ],
)
def test_a_job_is_called_what_it_was_called(identity: JobIdentity, job_id: str) -> None:
    assert identity.job_id == job_id


def test_the_job_of_a_run_in_flight_is_found_again() -> None:
    """As the code of November 2026 submitted it: a first attempt that failed and a second that runs."""
    submitted = {
        "movielens-v1-retrain-8fa2af5b9e26-g0-a0": JobStatus(JobState.FAILED),
        "movielens-v1-retrain-8fa2af5b9e26-g0-a1": JobStatus(JobState.RUNNING),
    }
    first = JobIdentity.of("movielens-v1", "movielens_retrain", RUN, "train")
    assert [job.job_id for job, _ in attempts(submitted.get, first)] == list(submitted)
    assert [job.attempt for job in active_jobs(submitted.get, first, range(3))] == [1]


def test_jobs_on_vertex_are_labelled_as_they_were() -> None:
    assert (LABEL, SPEC_LABEL) == ("banditloop", "banditloop-spec")


def test_the_folder_of_a_local_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = (
        '{"state": "SUCCEEDED", "message": "", "outputs": {"version": "movielens-v1-0002"}, "pid": 7, "at": "then"}'
    )
    (tmp_path / "state.json").write_text(written)
    assert JobFolder(tmp_path).settle() == JobStatus(JobState.SUCCEEDED, "", {"version": "movielens-v1-0002"})
