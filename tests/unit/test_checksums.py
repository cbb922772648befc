"""What is loaded is what was written: each kind of artefact is verified before its content is used.

Datasets: `test_trajectories.py`. Downloads from Cloud Storage: `test_vertex_registry.py`. MovieLens 100K:
`test_movielens_data.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rl_core.backends.contracts.registry import Lineage, WindowRef
from rl_core.backends.local.registry import FolderRegistry
from rl_core.bandit.blocks import Meaning, make_block
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit
from rl_core.errors import PolicyError, RegistryError
from rl_core.policy.artefact import Policy, write_artefact
from rl_core.policy.lineage import load_blocks
from rl_core.policy.manifest import sha256

ROWS, WINDOW = 300, (0, 300)


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    return FolderRegistry(tmp_path / "registry", "movielens-v1")


@pytest.fixture
def version(registry: FolderRegistry, movielens: Bandit, tmp_path: Path) -> str:
    problem, rng = movielens.problem, np.random.default_rng(1)
    observations = rng.standard_normal((ROWS, problem.observation_dim)).astype(np.float32)
    actions, rewards = rng.integers(problem.num_actions, size=ROWS), rng.standard_normal(ROWS)
    block = make_block(
        observations,
        actions.astype(np.int32),
        rewards.astype(np.float32),
        np.arange(1, ROWS + 1),
        (np.arange(ROWS) % 5).astype(np.int8),
        WINDOW,
        0.0,
        num_actions=problem.num_actions,
        meaning=Meaning(problem.observation_version, problem.actions),
    )
    statistics = accumulate(observations, actions, rewards, problem.num_actions)
    write_artefact(artefact := tmp_path / "artefact", problem, movielens.agent, statistics, [block])
    digest = registry.put_block(artefact / "block-0-300.npz")
    return registry.register(artefact, Lineage(None, (WindowRef(*WINDOW, digest),)))


def flip_a_bit(file: Path, at: int = -100) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_what_is_whole_is_loaded(registry: FolderRegistry, version: str, movielens: Bandit) -> None:
    Policy.load(registry.path(version), movielens.problem)
    [block] = load_blocks(registry, registry.lineage(version).windows, ())
    assert (block.seq_low, block.seq_high) == WINDOW


@pytest.mark.parametrize("name", ["statistics.npz", "block-0-300.npz"])
def test_a_file_that_the_manifest_names(registry: FolderRegistry, version: str, name: str) -> None:
    flip_a_bit(registry.path(version) / name)
    with pytest.raises(PolicyError, match=rf"{name}: sha256 is"):
        Policy.load(registry.path(version))


def test_a_manifest_that_agrees_with_its_changed_files(registry: FolderRegistry, version: str) -> None:
    """Whoever replaces a file and its checksum still can't replace what the registry knows of the manifest."""
    folder = registry.path(version)
    manifest, statistics = folder / "manifest.json", folder / "statistics.npz"
    before = sha256(statistics.read_bytes())
    flip_a_bit(statistics)
    manifest.write_text(manifest.read_text().replace(before, sha256(statistics.read_bytes())))
    with pytest.raises(RegistryError, match=r"manifest\.json is not the one that was registered"):
        registry.path(version)


def test_a_manifest_that_is_gone(registry: FolderRegistry, version: str) -> None:
    (registry.path(version) / "manifest.json").unlink()
    with pytest.raises(RegistryError, match=r"manifest\.json: No such file"):
        registry.path(version)


def test_a_block_that_the_registry_keeps(registry: FolderRegistry, version: str) -> None:
    [ref] = registry.lineage(version).windows
    flip_a_bit(registry.block_path(ref.block))
    with pytest.raises(PolicyError, match=rf"{ref.block}\.npz: sha256 is"):
        load_blocks(registry, [ref], ())
