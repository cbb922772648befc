from pipeline_defs.components import component


@component
def generator(bandit: str, rounds: int, seed: int) -> str:
    """Log the uniform random policy's interactions with the environment.

    Args:
        bandit: the bandit, as `Bandit.job_json()`.
        rounds: how many interactions to generate.
        seed: names the random stream; the same seed generates the same interactions.

    Returns:
        The windows they fill, as JSON: `[[seq_low, seq_high], ...]`.
    """
    import json

    from rl_core.config import Bandit, Settings
    from rl_core.stages import generator as stage

    windows = stage.run(Bandit.from_json(bandit), Settings.from_environment(), rounds, seed)
    return json.dumps(windows)
