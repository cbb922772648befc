"""`<bandit>_retrain` for each YAML in `bandits/`; bandit_ops/airflow_dags/retrain.py builds and describes it."""

from pathlib import Path

from bandit_ops.airflow_dags import bandit_dags

bandit_dags(Path(__file__).resolve().parent / "bandits", "retrain")
