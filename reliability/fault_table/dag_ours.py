"""Our three tasks, and nothing else, for faults to happen to.

Copied into an Airflow's DAG folder as `<dag_id>.py`, beside its bandit in `<dag_id>.json`.
"""

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, BaseOperator, Context

from bandit_ops.pipeline_tasks import pipeline
from rl_core.config import Bandit

bandit = Bandit.from_json(Path(__file__).with_suffix(".json").read_text())

PLAN = {
    "pipeline": "retrain",
    "parameters": {
        "windows": "[[0, 200]]",
        "champion": "",
        "full_retrain": False,
        "agent_alpha": 0.2,
        "tikhonov_weight": 0.01,
        "half_life": 0.0,
        "trigger": "manual",
    },
    "enable_caching": False,
}


class Decide(BaseOperator):
    def execute(self, context: Context) -> dict[str, object]:
        return PLAN


quick = {"retries": 2, "retry_delay": timedelta(seconds=1), "execution_timeout": timedelta(minutes=2)}
with DAG(Path(__file__).stem, schedule=None, catchup=False, max_active_runs=16, default_args=quick):
    decide = Decide(task_id="decide")
    pipeline(bandit, decide.output, group_id="train", setups=[decide])
