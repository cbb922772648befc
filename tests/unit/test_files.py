"""Files that are replaced: whole or not at all, and on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rl_core.files import move_synced, replacing, write_atomically


def test_a_block_that_raises_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    write_atomically(path := tmp_path / "state.json", b"before")

    def fails() -> None:
        with replacing(path) as file:
            file.write(b"half of what")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_content_until_the_block_ends(tmp_path: Path) -> None:
    write_atomically(path := tmp_path / "state.json", b"before")
    with replacing(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"


def test_permissions_are_those_asked_for_less_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "shown", b"")
        write_atomically(tmp_path / "secret", b"", mode=0o600)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("shown", "secret")] == [0o644, 0o600]


def test_a_folder_is_moved_with_all_below_it(tmp_path: Path) -> None:
    (tmp_path / "incoming" / "deep").mkdir(parents=True)
    (tmp_path / "incoming" / "deep" / "file").write_bytes(b"x")
    move_synced(tmp_path / "incoming", tmp_path / "whole")
    assert (tmp_path / "whole" / "deep" / "file").read_bytes() == b"x"
    assert not (tmp_path / "incoming").exists()
