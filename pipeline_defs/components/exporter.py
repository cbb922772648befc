from pipeline_defs.components import component


@component
def exporter(bandit: str, version: str, promoted: bool) -> None:
    """Export the version for TensorFlow, if it was promoted: a SavedModel, kept by the registry.

    Args:
        bandit: the bandit, as `Bandit.job_json()`.
        version: what the deployer registered.
        promoted: whether it serves now.
    """
    from rl_core.config import Bandit, Settings
    from rl_core.stages import exporter as stage

    stage.run(Bandit.from_json(bandit), Settings.from_environment(), version, promoted)
