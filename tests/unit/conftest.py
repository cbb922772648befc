"""Fixtures of more than one file of unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rl_core.config import Bandit

if TYPE_CHECKING:
    from tests.provisioning_world import World


@pytest.fixture
def world(cloud_movielens: Bandit, tmp_path: Path) -> Iterator[World]:
    """An empty project on stand-ins."""
    from stand_ins.cloud import Cloud
    from tests.provisioning_world import World

    with Cloud(tmp_path / "cloud") as cloud, ExitStack() as handles:
        yield World(cloud, cloud_movielens, tmp_path, handles)
