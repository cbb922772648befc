"""Trains a bandit on windows of its log, judges the policy against the champion, and deploys it if it is fit."""

from kfp import dsl

from pipeline_defs.learning import Deployment, learn


@dsl.pipeline(name="banditloop-retrain", description=__doc__)  # type: ignore[untyped-decorator]
def retrain(
    bandit: str,
    windows: str,
    champion: str,
    full_retrain: bool,
    agent_alpha: float,
    tikhonov_weight: float,
    half_life: float,
    trigger: str,
    job_id: str,
) -> Deployment:
    return learn(
        bandit=bandit,
        windows=windows,
        champion=champion,
        full_retrain=full_retrain,
        agent_alpha=agent_alpha,
        tikhonov_weight=tikhonov_weight,
        half_life=half_life,
        trigger=trigger,
        job_id=job_id,
    )
