"""The page of a pipeline run shows the run's folder and nothing outside it."""

from __future__ import annotations

import json
import os
import re
import warnings
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from bandit_ops.job_identity import JobIdentity
from bandit_ops.ui import run_folder

DAG_ID = "toy_retrain"
JOB = JobIdentity.of("toy-v1", DAG_ID, "manual__1", "train").job_id


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "state" / "toy-v1" / "runs" / JOB
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"parameters": {"bandit": json.dumps({"name": "toy"})}}))
    (folder / "state.json").write_text(json.dumps({"state": "FAILED", "message": "<b>gap</b>", "outputs": {}}))
    (folder / "steps.json").write_text(json.dumps([{"step": "trainer", "state": "FAILED", "seconds": 1.234567}]))
    (folder / "log.txt").write_text("\x1b[31mseq 5 is missing\x1b[0m <script>alert(1)</script>\n")
    (tmp_path / "state" / "secret.txt").write_text("secret")
    (folder / "way-out").symlink_to(tmp_path / "state" / "secret.txt")
    return tmp_path / "state"


@pytest.fixture
def folder(home: Path) -> Path:
    found = run_folder.find(home, DAG_ID, JOB)
    assert found is not None
    return found


class TestFinding:
    def test_a_run_by_the_dag_that_started_it(self, folder: Path) -> None:
        assert folder.name == JOB

    def test_another_dags_run_is_not_found(self, home: Path) -> None:
        assert run_folder.find(home, "toy_startup", JOB) is None
        assert run_folder.find(home, "toy_retrain2", JOB) is None

    @pytest.mark.parametrize("dag_id", ["movielens_retrain", "toy_shop_retrain", "t_retrain", "retrain", "_retrain"])
    def test_another_bandits_run_is_not_found(self, home: Path, dag_id: str) -> None:
        assert run_folder.find(home, dag_id, JOB) is None

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"parameters": {"bandit": "{}"}}', '{"parameters": null}'])
    def test_a_run_that_does_not_say_whose_it_is_is_not_found(self, home: Path, folder: Path, content: str) -> None:
        (folder / "job.json").write_text(content)
        assert run_folder.find(home, DAG_ID, JOB) is None

    @pytest.mark.parametrize(
        "job_id", ["..", "../secret.txt", "*", "toy-v1-retrain-*-g0-a0", f"{JOB}/..", "%2e%2e", ""]
    )
    def test_nothing_but_a_job_id_is_looked_for(self, home: Path, job_id: str) -> None:
        assert run_folder.find(home, DAG_ID, job_id) is None


class TestFiles:
    def test_of_the_run_are_given(self, folder: Path) -> None:
        assert run_folder.file_in(folder, "log.txt") == folder / "log.txt"

    @pytest.mark.parametrize("name", ["../../../secret.txt", "way-out", "/etc/passwd", ".", "", "missing", "a\0b"])
    def test_outside_it_are_not(self, folder: Path, name: str) -> None:
        assert run_folder.file_in(folder, name) is None


class TestThePage:
    def test_shows_state_steps_log_and_files(self, folder: Path) -> None:
        page = run_folder.render(DAG_ID, JOB, folder)
        for text in (f"{JOB}: FAILED", "trainer", "1.23", "seq 5 is missing", f"{JOB}/files/log.txt"):
            assert text in page

    def test_escapes_what_it_shows_and_drops_colours(self, folder: Path) -> None:
        page = run_folder.render(DAG_ID, JOB, folder)
        assert "<script>" not in page
        assert "<b>gap" not in page
        assert "\x1b" not in page

    def test_escapes_names_of_files_and_columns_and_leads_to_the_file(self, folder: Path) -> None:
        name = "<img src=x onerror='alert(1)'>#50%?\".txt"
        (folder / name).write_text("here")
        (folder / "steps.json").write_text(json.dumps([{"<b>step": "<i>trainer"}]))
        page = run_folder.render("toy_<u>", JOB, folder)
        assert not {"<img", "<b>", "<i>", "<u>"} & set(re.findall("<[a-z]+>?", page))
        links = [unquote(unescape(link)) for link in re.findall("href='([^']*)'", page)]
        assert f"{JOB}/files/{name}" in links

    def test_shows_a_file_whose_name_is_no_utf8(self, folder: Path) -> None:
        (folder / os.fsdecode(b"caf\xe9.txt")).write_text("here")
        page = run_folder.render(DAG_ID, JOB, folder)
        assert "caf?.txt" in page.encode().decode()
        assert f"{JOB}/files/caf%E9.txt" in page

    def test_lists_no_link_out_of_the_folder(self, folder: Path) -> None:
        assert "way-out" not in run_folder.render(DAG_ID, JOB, folder)

    def test_of_a_run_that_has_only_begun_is_shown_too(self, home: Path, folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        assert "PENDING" in run_folder.render(DAG_ID, JOB, folder)

    def test_shows_the_end_of_a_long_log(self, folder: Path) -> None:
        (folder / "log.txt").write_text("first\n" + "x" * 200_000 + "\nlast\n")
        page = run_folder.render(DAG_ID, JOB, folder)
        assert "last" in page
        assert "first" not in page


@pytest.mark.parametrize("path", ["", "/files/log.txt"])
def test_nobody_reads_a_run_without_a_login(airflow_home: Path, home: Path, path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow's imports and the test client warn about themselves
        from fastapi.testclient import TestClient

        from bandit_ops.ui.lazy import LazyApp

        answer = TestClient(LazyApp()).get(f"/dags/{DAG_ID}/jobs/{JOB}{path}")
    assert answer.status_code == 401
    assert "gap" not in answer.text
