"""The five steps that both pipelines end with. A plain function: a nested pipeline would only hide the steps."""

from typing import Any, NamedTuple

from pipeline_defs.components.deployer import deployer
from pipeline_defs.components.evaluator import evaluator
from pipeline_defs.components.exporter import exporter
from pipeline_defs.components.ingester import ingester
from pipeline_defs.components.trainer import trainer


class Deployment(NamedTuple):
    """The outputs of a pipeline: what `status(job_id).outputs` of a runner holds once the deployer has ended."""

    version: str
    promoted: bool
    reason: str


def learn(
    *,
    bandit: Any,
    windows: Any,
    champion: Any,
    full_retrain: Any,
    agent_alpha: Any,
    tikhonov_weight: Any,
    half_life: Any,
    trigger: Any,
    job_id: Any,
) -> Deployment:
    """Wire ingester ≫ trainer ≫ evaluator ≫ deployer ≫ exporter; arguments are pipeline parameters or outputs."""
    ingested = ingester(bandit=bandit, windows=windows, champion=champion)
    dataset = ingested.outputs["dataset"]
    trained = trainer(
        bandit=bandit,
        dataset=dataset,
        champion=champion,
        full_retrain=full_retrain,
        agent_alpha=agent_alpha,
        tikhonov_weight=tikhonov_weight,
        half_life=half_life,
    )
    policy = trained.outputs["policy"]
    judged = evaluator(bandit=bandit, dataset=dataset, policy=policy, champion=champion, full_retrain=full_retrain)
    deployed = deployer(
        bandit=bandit,
        policy=policy,
        verdict=judged.outputs["verdict"],
        champion=champion,
        trigger=trigger,
        job_id=job_id,
    )
    deployed.set_caching_options(False)  # what serves is the world's state, not a function of the inputs
    version, promoted = deployed.outputs["version"], deployed.outputs["promoted"]
    exporter(bandit=bandit, version=version, promoted=promoted).set_caching_options(False)  # it is kept by the registry
    return Deployment(version, promoted, deployed.outputs["reason"])
