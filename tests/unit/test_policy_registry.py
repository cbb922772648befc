"""The folder registry beyond the contract: racing processes, killed ones, a damaged pointer file."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.local.registry import FolderRegistry
from rl_core.backends.registry.state import RegistryState
from rl_core.errors import RegistryError
from tests.harness.patience import patient

REPOSITORY = Path(__file__).parents[2]

PROMOTE = """
import sys, time
from pathlib import Path
from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.local.registry import FolderRegistry
from rl_core.errors import PromotionConflict

registry = FolderRegistry(Path(sys.argv[1]), "b-v1")
version = registry.register(Path(sys.argv[2]), Lineage(None, ()))
print("ready", flush=True)
sys.stdin.readline()
try:
    registry.promote(version, None)
    print("won", version)
except PromotionConflict:
    print("lost", version)
"""


def artefact(folder: Path, name: str) -> Path:
    made = folder / f"artefact-{name}"
    made.mkdir()
    (made / "manifest.json").write_text(name)
    return made


def test_what_the_pointer_names_is_on_disk_before_it_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut would else leave a champion of empty files."""
    made = artefact(tmp_path, "a")
    (made / "saved_model").mkdir()
    (made / "saved_model" / "variables").write_bytes(b"1234")
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    registry = FolderRegistry(tmp_path / "registry", "b-v1")
    kept = registry.path(registry.register(made, Lineage(None, ())))
    pointer = synced.index((tmp_path / "registry" / "registry.json").stat().st_ino)
    for path in (kept, *kept.rglob("*"), kept.parent):
        assert path.stat().st_ino in synced[:pointer], path


class TestRacingProcesses:
    def test_get_distinct_versions_and_one_of_them_is_promoted(self, tmp_path: Path) -> None:
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", PROMOTE, str(tmp_path / "registry"), str(artefact(tmp_path, str(i)))],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(5)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        ends = [racer.communicate(timeout=patient(60))[0].split() for racer in racers]
        registry = FolderRegistry(tmp_path / "registry", "b-v1")
        assert sorted(version for _, version in ends) == registry.versions() == [f"b-v1-000{n}" for n in range(1, 6)]
        assert [version for end, version in ends if end == "won"] == [registry.alias("champion")]


class TestADamagedPointerFile:
    @pytest.mark.parametrize("content", ["", "{", '{"format": 2}', '{"versions": {"v": {}}}', "[]"])
    def test_is_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "registry.json").write_text(content)
        with pytest.raises(RegistryError, match=r"registry\.json is damaged .*; restore it from a copy, or move"):
            FolderRegistry(tmp_path, "b-v1").versions()
        assert (tmp_path / "registry.json").read_text() == content

    def test_that_can_not_be_read_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "registry.json").mkdir()
        with pytest.raises(RegistryError, match=r"registry\.json can't be read: Is a directory"):
            FolderRegistry(tmp_path, "b-v1").alias("champion")


class TestAKilledRegistration:
    def test_leaves_no_trace_in_the_next(self, tmp_path: Path) -> None:
        registry = FolderRegistry(tmp_path / "registry", "b-v1")
        half = tmp_path / "registry" / "versions" / "b-v1-0001"
        half.mkdir(parents=True)
        (half / "half").write_text("")
        version = registry.register(artefact(tmp_path, "whole"), Lineage(None, ()))
        assert [f.name for f in registry.path(version).iterdir()] == ["manifest.json"]
        assert [f.name for f in (tmp_path / "registry" / "versions").iterdir()] == ["b-v1-0001"]


class TestAFolderThatCanNotBeWritten:
    def test_is_an_error_of_the_registry(self, tmp_path: Path) -> None:
        (tmp_path / "registry").write_text("")
        with pytest.raises(RegistryError, match=r"registry"):
            FolderRegistry(tmp_path / "registry", "b-v1").lease("run", 1)


class TestReading:
    def test_needs_no_lock(self, tmp_path: Path) -> None:
        registry = FolderRegistry(tmp_path, "b-v1")

        def change(state: RegistryState, now: datetime) -> None:
            state.aliases["champion"] = "b-v1-0001"
            assert FolderRegistry(tmp_path, "b-v1").alias("champion") is None

        registry._change(change)
        assert registry.alias("champion") == "b-v1-0001"
