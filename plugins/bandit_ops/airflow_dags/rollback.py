"""Makes an older policy the champion again: `previous`, or a version by name. Nothing is trained; it takes seconds.

The endpoint loads and probes the version before it becomes champion. The swap fails if another run has promoted a
policy meanwhile. Interactions that only the rolled-back policy was trained on are in no later policy.

## When this fails
- `promote`: *has no parent to go back to* – the champion is the first policy; name a version in the form.
- `promote`: *is not a registered version* – the error lists the latest ones.
- `promote`: *the champion is* – another run was faster; look at what serves now, then trigger again.
"""

from __future__ import annotations

from airflow.sdk import DAG

from bandit_ops.house import house_rules
from bandit_ops.params import rollback_params
from bandit_ops.rollback import PromoteVersion
from rl_core.config import Bandit


def build(bandit: Bandit) -> DAG:
    """Build `<bandit>_rollback`."""
    with DAG(**house_rules(bandit, "rollback", __doc__), schedule=None, params=rollback_params()) as dag:
        PromoteVersion(task_id="promote", bandit=bandit)
    return dag
