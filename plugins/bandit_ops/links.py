"""The link from a task to the page of its pipeline run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from bandit_ops.pipeline_tasks import SubmitPipeline, WaitForPipeline, open_runner, sibling

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

URL_PREFIX = "/banditloop"


class PipelineRunLink(BaseOperatorLink):
    """Computed in the task's process when it ends and kept as an XCom; the UI only reads it."""

    name = "Pipeline run"
    operators = [SubmitPipeline, WaitForPipeline]  # noqa: RUF012 - Airflow's own declaration

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        ti: Any = ti_key  # the task runner passes the running task instance
        if not isinstance(operator, SubmitPipeline | WaitForPipeline):
            return ""
        report = ti.xcom_pull(task_ids=[operator.task_id, sibling(operator, "submit")])
        job_ids = [found["job_id"] for found in report if found]
        if not job_ids:
            return ""
        if operator.bandit.runner == "local":
            return run_page(operator.dag_id, job_ids[0])
        return open_runner(operator.bandit).url(job_ids[0])


def run_page(dag_id: str, job_id: str) -> str:
    from airflow.sdk.configuration import conf

    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}{URL_PREFIX}/dags/{dag_id}/jobs/{job_id}"
