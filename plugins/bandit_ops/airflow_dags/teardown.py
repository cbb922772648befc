"""Takes a bandit away, by hand: log, policies and endpoint are gone for ever. The form asks for the prefix to be typed.

## When this fails
- `tear_down`: *was typed to confirm* – type the prefix or `<prefix>-<pipe_version>`; nothing was touched.
- `tear_down`: *holds the training lease*, *is still active* – wait for the training, or set `force`.
- `tear_down`: *is in use* – stop server and event logger first (`make down`, where the bandit is on this machine).
- `tear_down`: *could not be removed* – the error lists what stayed and why; mend it and run this again.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from bandit_ops.house import house_rules, page
from bandit_ops.params import teardown_params
from bandit_ops.provisioning import TearDown
from rl_core.config import Bandit

_ON_GOOGLE_CLOUD = """
What provisioning made is deleted. What was there before the bandit stays as it is: resources without our label,
bindings that we did not add, a bucket that holds anything of others.
"""


def build(bandit: Bandit) -> DAG:
    """Build `<bandit>_teardown`."""
    doc = page(bandit, __doc__, _ON_GOOGLE_CLOUD)
    with DAG(**house_rules(bandit, "teardown", doc), schedule=None, params=teardown_params(bandit)) as dag:
        TearDown(task_id="tear_down", bandit=bandit, execution_timeout=timedelta(hours=1))
    return dag
