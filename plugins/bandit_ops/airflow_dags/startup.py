"""Creates the bandit's first policy: pipeline `startup`, by hand, once.

`source=simulation` lets a uniform random policy act in the environment and trains on what it logged; `source=log`
trains on the log that is there already. The new policy becomes champion, and the endpoint serves it.

A bandit can do without: its server chooses at random until there is a policy, and the retrain DAG makes the first one
as soon as enough of that is logged. Then this DAG has nothing left to do, and says so.

Every task may be cleared and run again.

## When this fails
- `take_lease`: *has a champion already* – a startup or the first retrain made it; trigger the retrain DAG, or set
  `replace_champion` to start over.
- `take_lease`: *is held by* – another training runs; wait for it, then clear the task.
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
from bandit_ops.params import startup_params
from bandit_ops.pipeline_tasks import pipeline
from bandit_ops.plans import startup_plan
from bandit_ops.provisioning import advice, provisioning
from rl_core.config import Bandit


def build(bandit: Bandit) -> DAG:
    """Build `<bandit>_startup`."""
    doc, params = advice(bandit, __doc__), startup_params(bandit)
    with DAG(**house_rules(bandit, "startup", doc), schedule=None, params=params) as dag:
        lease = TakeLease(task_id="take_lease", bandit=bandit, planner=startup_plan)
        train = pipeline(bandit, lease.output, group_id="train", setups=[lease])
        announce = AnnounceChampion(task_id="announce_champion", bandit=bandit, report=train.wait.output)
        release = ReleaseLease(task_id="release_lease", bandit=bandit, after=train.cancel)

        provisioning(bandit, before=lease)
        lease >> train.submit
        [announce, train.cancel] >> release.as_teardown(setups=lease)
    return dag
