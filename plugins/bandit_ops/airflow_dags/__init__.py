"""The DAGs of each bandit, one module per kind. A file in any DAG folder builds them from a folder of YAMLs:

    from bandit_ops.airflow_dags import bandit_dags

    bandit_dags("/opt/bandits")

Airflow parses a file only where it finds the words "airflow" and "dag" in it; this import has both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bandit_ops.airflow_dags import join, provision, retrain, rollback, simulate, startup, teardown
from bandit_ops.bandits import check_bandits, good_bandits
from rl_core.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import DAG

__all__ = ["KINDS", "bandit_dags", "check_bandits"]

KINDS = {
    "startup": startup.build,
    "retrain": retrain.build,
    "simulate": simulate.build,
    "rollback": rollback.build,
    "join": join.build,
    "provision": provision.build,
    "teardown": teardown.build,
}
"""What builds the DAG `<bandit>_<kind>`; None for a bandit that has none of the kind."""


def bandit_dags(bandits: str | Path, *kinds: str) -> dict[str, DAG]:
    """Build the DAGs of every valid YAML in the folder `bandits`, by id; of all kinds, unless some are named.

    Airflow finds them without a global variable. A bad YAML is passed over, for it must not take the others down with
    it: a second file that calls `check_bandits` with the same folder reports it.

    Raises:
        ConfigError: the folder holds no YAML, or a kind is none of `KINDS`.
    """
    if unknown := sorted(set(kinds) - KINDS.keys()):
        raise ConfigError(f"there are no DAGs of the kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
    wanted = [KINDS[kind] for kind in kinds or KINDS]
    built = [build(bandit) for bandit in good_bandits(Path(bandits)) for build in wanted]
    return {dag.dag_id: dag for dag in built if dag is not None}
