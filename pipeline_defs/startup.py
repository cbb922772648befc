"""Creates a bandit's first policy: generates interactions, then trains, judges and deploys."""

from kfp import dsl

from pipeline_defs.components.generator import generator
from pipeline_defs.learning import Deployment, learn


@dsl.pipeline(name="banditloop-startup", description=__doc__)  # type: ignore[untyped-decorator]
def startup(
    bandit: str,
    rounds: int,
    seed: int,
    agent_alpha: float,
    tikhonov_weight: float,
    half_life: float,
    job_id: str,
    champion: str = "",
    full_retrain: bool = False,
    trigger: str = "startup",
) -> Deployment:
    generated = generator(bandit=bandit, rounds=rounds, seed=seed)
    return learn(
        bandit=bandit,
        windows=generated.output,
        champion=champion,
        full_retrain=full_retrain,
        agent_alpha=agent_alpha,
        tikhonov_weight=tikhonov_weight,
        half_life=half_life,
        trigger=trigger,
        job_id=job_id,
    )
