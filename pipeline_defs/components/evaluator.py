from kfp.dsl import Dataset, Input, Metrics, Model, Output

from pipeline_defs.components import component


@component
def evaluator(
    bandit: str,
    dataset: Input[Dataset],
    policy: Input[Model],
    champion: str,
    full_retrain: bool,
    verdict: Output[Metrics],
) -> None:
    """Judge the policy against the champion on data neither was trained on.

    Args:
        bandit: the bandit, as `Bandit.job_json()`.
        dataset: what the ingester wrote.
        policy: what the trainer wrote.
        champion: the version in production; empty where there is none.
        full_retrain: whether the policy was trained on every window anew.
        verdict: a folder with `verdict.json`; its figures are the artefact's metadata, which experiments show.
    """
    import math
    from pathlib import Path

    from rl_core.config import Bandit, Settings
    from rl_core.stages import evaluator as stage

    judged = stage.run(
        Bandit.from_json(bandit),
        Settings.from_environment(),
        Path(dataset.path),
        Path(policy.path),
        champion or None,
        full_retrain,
        Path(verdict.path),
    )
    for name, value in {"promote": judged.promote, "rows": judged.rows, **judged.metrics}.items():
        if math.isfinite(value):
            verdict.log_metric(name, float(value))
