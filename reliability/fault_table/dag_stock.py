"""The provider's own operator, blocking and deferrable. Copied into an Airflow's own DAG folder."""

from datetime import timedelta
from pathlib import Path

from airflow.providers.google.cloud.operators.vertex_ai.pipeline_job import RunPipelineJobOperator
from airflow.sdk import DAG

PARAMETERS = {
    "bandit": "{}",
    "windows": "[[0, 200]]",
    "champion": "",
    "full_retrain": False,
    "agent_alpha": 0.2,
    "tikhonov_weight": 0.01,
    "half_life": 0.0,
    "trigger": "manual",
    "job_id": "stock",
}

quick = {"retries": 2, "retry_delay": timedelta(seconds=1), "execution_timeout": timedelta(minutes=2)}
for dag_id, deferrable in (("fault_stock", False), ("fault_deferrable", True)):
    with DAG(dag_id, schedule=None, catchup=False, max_active_runs=16, default_args=quick):
        RunPipelineJobOperator(
            task_id="run",
            project_id="test-project",
            region="europe-west1",
            display_name="stock",
            template_path=str(Path(__file__).parent / f"{dag_id}.json"),
            pipeline_root="gs://test-project-fault/pipelines",
            parameter_values=PARAMETERS,
            poll_interval=2,
            deferrable=deferrable,
        )
