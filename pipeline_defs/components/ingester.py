from kfp.dsl import Dataset, Output

from pipeline_defs.components import component


@component
def ingester(bandit: str, windows: str, champion: str, dataset: Output[Dataset]) -> int:
    """Write the windows' interactions as sharded TFRecords of TF-Agents trajectories.

    Args:
        bandit: the bandit, as `Bandit.job_json()`.
        windows: JSON `[[seq_low, seq_high], ...]`.
        champion: whose ranges and actions hold, a version; "" for none.
        dataset: a folder of shards and `dataset.json`.

    Returns:
        How many interactions were written.
    """
    import json
    from pathlib import Path

    from rl_core.config import Bandit, Settings
    from rl_core.stages import ingester as stage

    chosen = [(low, high) for low, high in json.loads(windows)]
    return stage.run(
        Bandit.from_json(bandit), Settings.from_environment(), chosen, Path(dataset.path), champion or None
    )
