"""The link from a task to the page of its pipeline run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

URL_PREFIX = "/banditloop"


class PipelineRunLink(BaseOperatorLink):
    """Links an operator with a `bandit` and a `job_id` (set once it is known) to the page of its pipeline run.

    Computed in the task's process when it ends or is rescheduled, and kept as an XCom that the UI reads. Airflow does
    so for links that are declared on the operator, not for those that a plugin registers.
    """

    name = "Pipeline run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the page's address; "" while there is no job."""
        task: Any = operator  # the instance that has just run
        return "" if task.job_id is None else page_of(task.bandit, operator.dag_id, task.job_id)


def page_of(bandit: Bandit, dag_id: str, job_id: str) -> str:
    """The address of a page that shows the run: Airflow's own for a local runner, else Google's console."""
    if bandit.runner == "local":
        return run_page(dag_id, job_id)
    from bandit_ops.runners.vertex import console_url
    from rl_core.google_cloud.names import names_of

    return console_url(names_of(bandit), job_id)


def run_page(dag_id: str, job_id: str) -> str:
    """Return the address of a local job's page in Airflow's UI."""
    from airflow.sdk.configuration import conf

    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}{URL_PREFIX}/dags/{dag_id}/jobs/{job_id}"
