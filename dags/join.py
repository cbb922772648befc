"""Joins decisions with the rewards that came for them, every few minutes, for bandits whose log is in BigQuery.

One BigQuery transaction gives each closed decision its place in `interactions`; runs never overlap, and a run that is
killed is made up for by the next. Bandits with `backend: local` have no such DAG: their event logger joins.

## When this fails
- `join`: *a gap holds the watermark* – events that a server had accepted did not arrive: see the logger function's
  log; docs/google-cloud.md says how to have them delivered anew.
- `join`: *permission denied* – the message names the role that is missing.
- `join`: *not found* – run the DAG `…_provision`, which makes dataset and tables.
"""

from airflow.sdk import DAG

from bandit_ops.bandits import good_bandits
from bandit_ops.house import house_rules
from bandit_ops.join import JoinLog

for bandit in good_bandits(__file__):
    if bandit.backend == "gcp" and bandit.google is not None:
        with DAG(**house_rules(bandit, "join", __doc__), schedule=bandit.google.join_schedule):
            JoinLog(task_id="join", bandit=bandit)
