"""Reports a bad bandit YAML as one Airflow import error.

The DAG files pass over a bad YAML, so that it harms no other bandit; this file makes no DAG and says what is wrong.
"""

from pathlib import Path

from bandit_ops.airflow_dags import check_bandits

check_bandits(Path(__file__).resolve().parent / "bandits")
