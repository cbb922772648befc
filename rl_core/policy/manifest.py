"""The manifest of a policy artefact: what the policy is, what it was trained on, and the checksums of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from rl_core.backends.contracts.registry import WindowRef
from rl_core.config import Agent
from rl_core.dataset.action_set import ActionSet
from rl_core.errors import PolicyError
from rl_core.feature_config import Features
from rl_core.features.catalogue import Catalogue
from rl_core.features.encoder import Encoder
from rl_core.policy.probes import Probes
from rl_core.policy.solving import Recipe
from rl_core.problem_config import Problem

MANIFEST = "manifest.json"


class Manifest(BaseModel):
    """The content of `manifest.json`: `windows` are all that count in the policy, `trained` those trained now.

    Attributes:
        actions: the id of each index of the statistics, withdrawn ones too.
        action_sets: the lists of actions that the rows of its lineage may name, by `action_set_version`.
        features: the named features as they were declared; {} where there are none, and in manifests of before.
        retired: names of features that only policies before it read: requests may go on sending them.
        encoder: what makes features of observations; None in manifests of before there was one.
        scale: the size of each feature, to which λ is relative; None: λ is absolute.
        catalogue: what is known of the actions; None where they have no features.
        rewards: reward_min, reward_max and reward_default, in the problem's unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1, 2] = 2
    agent: Literal["linucb"] = "linucb"
    hyperparameters: Agent
    observation_dim: int
    observation_version: str
    features: Features = {}
    retired: tuple[str, ...] = ()
    action_set_version: str
    actions: tuple[str, ...]
    action_sets: dict[str, ActionSet] = {}
    encoder: Encoder | None = None
    scale: tuple[float, ...] | None = None
    catalogue: Catalogue | None = None
    rewards: tuple[float, float, float] | None = None
    parent: str | None
    windows: tuple[WindowRef, ...]
    trained: tuple[tuple[int, int], ...]
    score_dtype: Literal["float64"] = "float64"
    tie_rule: Literal["lowest"] = "lowest"
    code_digest: str
    probes: Probes
    files: dict[str, str]  # path within the folder -> sha256

    @property
    def encodes(self) -> Encoder:
        """What makes features of its observations."""
        return self.encoder or Encoder(dim=self.observation_dim)

    def recipe(self, problem: Problem | None = None) -> Recipe:
        """How the policy is solved from its statistics; given a problem, for actions as it describes them now."""
        catalogue = self.catalogue if self.catalogue is None or problem is None else self.catalogue.renewed(problem)
        return Recipe(self.hyperparameters, None if self.scale is None else np.asarray(self.scale), catalogue)

    @property
    def named_sets(self) -> dict[str, ActionSet]:
        """The lists of actions by `action_set_version`; its own in a manifest of before they were kept."""
        return self.action_sets or {self.action_set_version: ActionSet(actions=self.actions)}


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the artefact folder `path`, without verifying the files it lists. Raises PolicyError."""
    try:
        return Manifest.model_validate_json(read_bytes(path / MANIFEST))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the text"
        raise PolicyError(f"{path / MANIFEST}: {place}: {first['msg']}; train the policy again") from error


def read_bytes(file: Path) -> bytes:
    """Read a file of an artefact. Raises PolicyError where it can't be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PolicyError(f"{file}: can't be read ({reason}); the policy artefact is incomplete") from error


def verify(file: Path, expected: str) -> None:
    """Raise PolicyError unless the file's sha256 is the expected one."""
    content = read_bytes(file)
    if (got := sha256(content)) != expected:
        raise PolicyError(
            f"{file}: sha256 is {got[:12]}…, it was {expected[:12]}… when it was written; "
            f"the file ({len(content)} bytes) was damaged or replaced after training"
        )


def sha256(content: bytes) -> str:
    """Return the SHA-256 of the content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def code_digest() -> str:
    """Hash the source of `rl_core` (SHA-256), which says what code trained a policy."""
    root = Path(__file__).resolve().parents[1]
    return sha256(b"".join(f"{f.relative_to(root)}\0".encode() + f.read_bytes() for f in sorted(root.rglob("*.py"))))
