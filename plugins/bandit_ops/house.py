"""What every DAG of the project has in common; `tests/dags` holds the DAGs to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bandit_ops.watching import deadlines, log_failure
from rl_core.config import Bandit

TAGS = frozenset({"banditloop", "startup", "retrain", "simulate", "rollback", "join", "provision", "teardown"})
"""The closed set of tags; a bandit's own name is the one tag besides."""

RECURRING = frozenset({"retrain", "simulate", "join"})
FAILURES_BEFORE_PAUSE = 3
"""In a row; then Airflow pauses a recurring DAG, or "@continuous" would repeat the same failure for ever."""


def house_rules(bandit: Bandit, noun: str, doc: str | None) -> dict[str, Any]:
    """Arguments of the DAG `<bandit>_<noun>`. No dagrun_timeout: it would skip the teardowns; tasks have timeouts."""
    return {
        "dag_id": f"{bandit.name}_{noun}",
        "doc_md": doc,
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
