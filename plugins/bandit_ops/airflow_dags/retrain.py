"""Lets the bandit learn from what it logged: waits until enough interactions are new, then runs pipeline `retrain`.

The next run begins when one ends. A run waits in its gate for `gate_timeout_s` at most and then skips, so a run that
you trigger by hand starts soon; its form can skip the gate and change the agent. A policy that is worse than the
champion is not deployed: `announce_champion` is skipped then, and says why.

Without a champion the first run trains the first policy, on all that is new: what the server logged while it chose at
random, or what else is in the log. Nobody has to run the startup DAG for that.

## When this fails
- The DAG is paused: three runs in a row failed, and the next would too. Mend what the last one says, then unpause.
- `gate` skipped: too little is new, or nothing of it may train (nobody activated it). Its log says which.
- `take_lease`: *half_life can't change* – leave it in the form, or set `full_retrain`.
- `take_lease`: *is held by* – another training runs; a scheduled run skips, a manual one can be cleared later.
- `train.wait`: the pipeline failed. Its log gives the error and the run's page; clear `train.submit` to run it again.
- `train.wait`: *break a rule* – the log holds rows that may not train; the error says which, why, and in which file.
- `train.wait`: *after that: exporter* – the policy serves without a SavedModel; clear `train.submit` to export it.
- `train.cancel_if_active`: a job may still run; clear the task until it succeeds.
- `release_lease`: *is still active* – as above; until then no other training begins.
"""

from __future__ import annotations

from airflow.sdk import DAG

from bandit_ops.assets import AnnounceChampion
from bandit_ops.house import house_rules
from bandit_ops.lease import ReleaseLease, TakeLease
from bandit_ops.params import retrain_params
from bandit_ops.pipeline_tasks import pipeline
from bandit_ops.plans import retrain_plan
from bandit_ops.sensors import InteractionSensor
from rl_core.config import Bandit


def build(bandit: Bandit) -> DAG:
    """Build `<bandit>_retrain`."""
    schedule, params = bandit.retrain.schedule, retrain_params(bandit)
    with DAG(**house_rules(bandit, "retrain", __doc__), schedule=schedule, params=params) as dag:
        gate = InteractionSensor(task_id="gate", bandit=bandit)
        lease = TakeLease(task_id="take_lease", bandit=bandit, planner=retrain_plan)
        train = pipeline(bandit, lease.output, group_id="train", setups=[lease])
        announce = AnnounceChampion(task_id="announce_champion", bandit=bandit, report=train.wait.output)
        release = ReleaseLease(task_id="release_lease", bandit=bandit, after=train.cancel)

        gate >> lease >> train.submit
        [announce, train.cancel] >> release.as_teardown(setups=lease)
    return dag
