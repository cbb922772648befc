"""Joins decisions with the rewards that came for them, every few minutes, for bandits whose log is in BigQuery.

One BigQuery transaction gives each closed decision its place in `interactions`; runs never overlap, and a run that is
killed is made up for by the next. Bandits with `backend: local` have no such DAG: their event logger joins.

## When this fails
- `join`: *a gap holds the watermark* – events that a server had accepted did not arrive: see the logger function's
  log; docs/google-cloud.md says how to have them delivered anew.
- `join`: *permission denied* – the message names the role that is missing.
- `join`: *not found* – run the DAG `…_provision`, which makes dataset and tables.
"""

from __future__ import annotations

from airflow.sdk import DAG

from bandit_ops.house import house_rules
from bandit_ops.join import JoinLog
from rl_core.backends import backend_class
from rl_core.config import Bandit


def build(bandit: Bandit) -> DAG | None:
    """Build `<bandit>_join`; None on backend local."""
    if bandit.google is None or not backend_class(bandit).JOINED_BY_DAG:
        return None
    with DAG(**house_rules(bandit, "join", __doc__), schedule=bandit.google.join_schedule) as dag:
        JoinLog(task_id="join", bandit=bandit)
    return dag
