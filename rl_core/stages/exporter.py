"""Exports a promoted version for TensorFlow, after it serves: nobody waits for it, and its failure undoes nothing.

The registry keeps what it writes apart from the artefact, which is immutable (`exported(version)`):

    saved_model/    a TF-Agents policy, loaded by `tf.saved_model.load`: features [batch, d] to action indices [batch]
    encoder.json    what makes the features of an observation
    features.json   named features as the policy reads them: what `Vectoriser` makes an observation of; {} for a vector
    actions.json    the id of each action index: the actions that were active
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.policy import saved_model
from rl_core.policy.artefact import Policy


def run(bandit: Bandit, settings: Settings, version: str, promoted: bool) -> None:
    """Attach the SavedModel to a version that was promoted; one that has it already, or was not, is left as it is.

    Raises:
        PolicyError: the artefact is damaged, or TF-Agents is not installed.
        RegistryError: the version is unknown, or the registry does not take it.
    """
    registry = open_backend(bandit, settings).registry()
    if not promoted or registry.exported(version) is not None:
        print(f"exporter: {version} {'is exported already' if promoted else 'was not promoted'}", flush=True)
        return
    started = time.perf_counter()
    policy = Policy.load(registry.path(version), bandit.problem)
    active = bandit.problem.active
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "encoder.json").write_text(policy.encoder.model_dump_json(indent=1))
        declared = {name: feature.model_dump(mode="json") for name, feature in policy.features.items()}
        (folder / "features.json").write_text(json.dumps(declared, indent=1))
        (folder / "actions.json").write_text(json.dumps(active, indent=1))
        saved_model.export(policy.model.taken(bandit.problem.active_indices), folder / "saved_model")
        registry.attach(version, folder)
    print(f"exporter: {version} in {time.perf_counter() - started:.2f} s", flush=True)
