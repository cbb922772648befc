"""How the stages are wired: Kubeflow Pipelines components and pipelines, without logic. Imports kfp, never Airflow."""
