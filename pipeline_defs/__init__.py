"""The wiring of the stages: Kubeflow Pipelines components and pipelines, without logic. Imports kfp, never Airflow."""

import sys

# kfp.local tries `import docker` and does without; the checkout's folder docker/ would pass for that package.
sys.modules.setdefault("docker", None)  # type: ignore[arg-type]
