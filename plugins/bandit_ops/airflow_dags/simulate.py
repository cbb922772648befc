"""Sends simulated users to the running prediction server; each gets a decision and returns the reward that is theirs.

Off unless the bandit's YAML says `simulate.enabled: true`; by hand it always works.

## When this fails
- `simulate`: *did not answer* – start the prediction server and the event logger first (`make up` does).
- `simulate`: *ended with 2* – the line above it says which setting is wrong.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from bandit_ops.house import house_rules, page
from bandit_ops.params import simulate_params
from bandit_ops.traffic import SimulateTraffic
from rl_core.config import Bandit

_ON_GOOGLE_CLOUD = """\
- `simulate`: *publish to …-simulate* – the line says which role or setting is missing.

On Google Cloud the task only asks the simulator function for the users; its log tells how it went.
"""


def build(bandit: Bandit) -> DAG | None:
    """Build `<bandit>_simulate`; None where there is no environment to simulate."""
    if bandit.environment is None:
        return None
    by_dag = bandit.google is None or bandit.google.simulate_by == "dag"
    schedule = bandit.simulate.schedule if bandit.simulate.enabled and by_dag else None
    with DAG(
        **house_rules(bandit, "simulate", page(bandit, __doc__, _ON_GOOGLE_CLOUD)),
        schedule=schedule,
        is_paused_upon_creation=True,
        params=simulate_params(bandit),
    ) as dag:
        SimulateTraffic(
            task_id="simulate",
            bandit=bandit,
            execution_timeout=timedelta(hours=1),
            retries=0,  # a second try would send the same users again
        )
    return dag
