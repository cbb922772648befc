from kfp.dsl import Dataset, Input, Model, Output

from pipeline_defs.components import component


@component
def trainer(
    bandit: str,
    dataset: Input[Dataset],
    champion: str,
    full_retrain: bool,
    agent_alpha: float,
    tikhonov_weight: float,
    half_life: float,
    policy: Output[Model],
) -> None:
    """Train LinUCB in closed form from the dataset's blocks and those of the champion's lineage.

    Args:
        bandit: the bandit, as `Bandit.job_json()`.
        dataset: what the ingester wrote.
        champion: the version to learn on from; empty where there is none.
        full_retrain: make every block anew instead of adding to the champion's.
        agent_alpha: width of the confidence bound.
        tikhonov_weight: ridge penalty, never discounted.
        half_life: of a row's weight, in interactions; 0: it never decays.
        policy: the policy artefact: statistics, blocks and manifest.
    """
    from pathlib import Path

    from rl_core.config import Agent, Bandit, Settings
    from rl_core.stages import trainer as stage

    definition = Bandit.from_json(bandit)
    asked = {"agent_alpha": agent_alpha, "tikhonov_weight": tikhonov_weight, "half_life": half_life}
    stage.run(
        definition,
        Settings.from_environment(),
        Path(dataset.path),
        champion or None,
        full_retrain,
        Agent.model_validate({**definition.agent.model_dump(), **asked}),
        Path(policy.path),
    )
