from typing import NamedTuple

from kfp.dsl import Input, Metrics, Model, Output

from pipeline_defs.components import component


@component
def deployer(
    bandit: str,
    policy: Input[Model],
    verdict: Input[Metrics],
    champion: str,
    trigger: str,
    job_id: str,
    measured: Output[Metrics],
) -> NamedTuple("Deployment", [("version", str), ("promoted", bool), ("reason", str)]):  # type: ignore[valid-type]
    """Register the policy, hand it to the endpoint, test it there, and promote it where the verdict says so.

    Args:
        bandit: the bandit, as `Bandit.job_json()`.
        policy: what the trainer wrote.
        verdict: what the evaluator wrote.
        champion: the version it must replace; empty where there is none.
        trigger: `startup`, `sensor` or `manual`.
        job_id: the pipeline run; a second run of the same job records nothing twice.
        measured: the verdict's figures and whether the policy serves: a cached evaluator leaves a run without any.

    Returns:
        The version, whether it serves now, and why.
    """
    from pathlib import Path

    from rl_core.config import Bandit, Settings
    from rl_core.stages import deployer as stage

    deployment = stage.run(
        Bandit.from_json(bandit),
        Settings.from_environment(),
        Path(policy.path),
        Path(verdict.path),
        champion or None,
        trigger,
        job_id,
    )
    for name, value in {**verdict.metadata, "promoted": deployment.promoted}.items():
        if isinstance(value, int | float):
            measured.log_metric(name, float(value))
    return deployment.version, deployment.promoted, deployment.reason
