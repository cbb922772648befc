"""What every DAG of the project has in common; `tests/dags` holds the DAGs to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bandit_ops.watching import deadlines, log_failure
from rl_core.backends import backend_class
from rl_core.config import Bandit

TAGS = frozenset({"banditloop", "startup", "retrain", "simulate", "rollback", "join", "provision", "teardown"})
"""The closed set of tags; a bandit's own name is the one tag besides."""

DESCRIPTIONS = {
    "startup": "Creates the bandit's first policy from simulated or logged interactions, and makes it champion.",
    "retrain": "Waits until enough interactions are new, trains, and deploys the policy unless it is clearly worse.",
    "simulate": "Sends simulated users to the prediction server and returns their rewards.",
    "rollback": "Makes an older policy the champion again, without training.",
    "provision": "Makes what the bandit lacks on Google Cloud and rolls out a new image or new functions.",
    "join": "Joins decisions with their rewards in BigQuery.",
    "teardown": "Deletes everything that the bandit keeps: its log, its policies, its endpoint.",
}
"""One sentence per kind of DAG, for Airflow's list of DAGs."""

RECURRING = frozenset({"retrain", "simulate", "join"})
FAILURES_BEFORE_PAUSE = 3
"""In a row; then Airflow pauses a recurring DAG, or "@continuous" would repeat the same failure for ever."""


def page(bandit: Bandit, doc: str | None, on_google_cloud: str) -> str:
    """Write the page of a DAG: its own, and what is true alone where a bandit is provisioned."""
    return (doc or "").rstrip() + "\n" + (on_google_cloud if backend_class(bandit).PARTS else "")


def house_rules(bandit: Bandit, noun: str, doc: str | None) -> dict[str, Any]:
    """Arguments of the DAG `<bandit>_<noun>`. No dagrun_timeout: it would skip the teardowns; tasks have timeouts."""
    return {
        "dag_id": f"{bandit.name}_{noun}",
        "doc_md": doc,
        "description": DESCRIPTIONS[noun],
        "tags": {"banditloop", noun, bandit.name},
        # Without one, the first run of "@continuous" is an interval of no length and every later one collides with it.
        "start_date": datetime(2026, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,
        "max_consecutive_failed_dag_runs": FAILURES_BEFORE_PAUSE if noun in RECURRING else 0,
        "default_args": {
            "retries": 2,
            "retry_delay": timedelta(seconds=5),
            "execution_timeout": timedelta(minutes=10),
            "on_failure_callback": log_failure,
        },
        **deadlines(bandit, noun),
    }
