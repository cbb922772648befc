"""Two DAGs that train one bandit under its lease, wired as the shipped ones are, and one that waits for a champion."""

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, BaseOperator, Context

from bandit_ops.assets import AnnounceChampion, champion_asset
from bandit_ops.lease import ReleaseLease, TakeLease
from bandit_ops.pipeline_tasks import pipeline
from bandit_ops.plans import Circumstances, Plan
from rl_core.config import Bandit

bandit = Bandit.from_json((Path(__file__).parent / "toy_faults.json").read_text())
quick = {"retries": 2, "retry_delay": timedelta(seconds=1), "execution_timeout": timedelta(minutes=2)}


def plan(at: Circumstances) -> Plan:
    return {
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


class NoteChampions(BaseOperator):
    def execute(self, context: Context) -> list[object]:
        return [event.extra for event in context["triggering_asset_events"][champion_asset(bandit)]]


for noun in ("first", "second"):
    with DAG(f"toy_{noun}", schedule=None, catchup=False, default_args=quick):
        lease = TakeLease(task_id="take_lease", bandit=bandit, planner=plan)
        train = pipeline(bandit, lease.output, group_id="train", setups=[lease])
        announce = AnnounceChampion(task_id="announce_champion", bandit=bandit, report=train.wait.output)
        release = ReleaseLease(task_id="release_lease", bandit=bandit, after=train.cancel)
        lease >> train.submit
        [announce, train.cancel] >> release.as_teardown(setups=lease)

with DAG("toy_onlooker", schedule=[champion_asset(bandit)], catchup=False, default_args=quick):
    NoteChampions(task_id="note")
