"""What `make composer-bundle` writes; that it imports where Airflow is alone is tested in tests/composer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import composer_bundle


@pytest.fixture(scope="module")
def files() -> composer_bundle.Files:
    return composer_bundle.contents()


def names(files: composer_bundle.Files, folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in files if path.is_relative_to(folder)}


def test_dags_holds_the_dag_files_and_the_bandits(repo: Path, files: composer_bundle.Files) -> None:
    dags = {path.name for path in (repo / "dags").glob("*.py")}
    assert names(files, "dags") == dags | {f"bandits/{path.name}" for path in (repo / "dags/bandits").glob("*.yaml")}


def test_plugins_holds_what_airflow_imports_and_the_compiled_pipelines(files: composer_bundle.Files) -> None:
    plugins = names(files, "plugins")
    assert {path.split("/")[0] for path in plugins} == {
        "bandit_plugin.py",
        ".airflowignore",
        "bandit_ops",
        "rl_core",
        "pipeline_defs",
    }
    assert {path for path in plugins if path.startswith("pipeline_defs")} == {
        "pipeline_defs/compiled/retrain.yaml",
        "pipeline_defs/compiled/startup.yaml",
    }


def test_airflow_executes_no_file_of_a_package(files: composer_bundle.Files) -> None:
    ignored = set(files[Path("plugins/.airflowignore")].decode().split())
    packages = {path.split("/")[0] for path in names(files, "plugins") if "/" in path}
    assert {f"{package}/" for package in packages} <= ignored


@pytest.mark.parametrize("heavy", ["policy/saved_model.py", "serving/server.py", "stages/trainer.py"])
def test_what_only_a_job_or_a_server_needs_stays_away(files: composer_bundle.Files, heavy: str) -> None:
    assert f"rl_core/{heavy}" not in names(files, "plugins")


def test_a_module_that_is_imported_inside_a_function_comes_along(tmp_path: Path) -> None:
    package = tmp_path / "rl_core" / "far"
    package.mkdir(parents=True)
    for path in (tmp_path / "rl_core" / "__init__.py", package / "__init__.py", package / "unused.py"):
        path.touch()
    (package / "lazy.py").write_text("from rl_core.far import lazier\n")
    (package / "lazier.py").touch()
    (package / "query.sql").touch()
    task = tmp_path / "task.py"
    task.write_text("def execute():\n    from rl_core.far.lazy import thing\n")
    found = {str(path.relative_to(tmp_path / "rl_core")) for path in composer_bundle.needed(tmp_path, [task])}
    assert found == {"__init__.py", "far/__init__.py", "far/lazy.py", "far/lazier.py", "far/query.sql"}


def test_the_same_sources_give_the_same_bundle(tmp_path: Path) -> None:
    for out in ("one", "two"):
        composer_bundle.write(tmp_path / out, composer_bundle.contents())
    compared = subprocess.run(["diff", "-r", tmp_path / "one", tmp_path / "two"], capture_output=True, check=False)
    assert (compared.returncode, compared.stdout) == (0, b"")


def test_what_was_removed_from_the_sources_leaves_the_bundle(tmp_path: Path, files: composer_bundle.Files) -> None:
    old = tmp_path / "bundle" / "plugins" / "bandit_ops" / "old.py"
    composer_bundle.write(tmp_path / "bundle", {**files, old.relative_to(tmp_path / "bundle"): b""})
    assert old.exists()
    composer_bundle.write(tmp_path / "bundle", files)
    assert not old.exists()


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path, files: composer_bundle.Files) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"holds thesis\.txt, so it is no bundle"):
        composer_bundle.write(tmp_path, files)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_other_bandits_replace_the_shipped_ones(repo: Path, tmp_path: Path) -> None:
    shutil.copy(repo / "dags/bandits/movielens.yaml", tmp_path / "prod.yaml")
    found = composer_bundle.contents(bandits=tmp_path)
    assert [path.name for path in found if path.parent == Path("dags/bandits")] == ["prod.yaml"]


def test_a_folder_without_bandits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"holds no \*\.yaml"):
        composer_bundle.contents(bandits=tmp_path)


def test_version_names_commit_and_code(files: composer_bundle.Files) -> None:
    commit, code = files[composer_bundle.OURS / "VERSION"].decode().splitlines()
    assert commit.startswith("commit ")
    assert code.startswith("code sha256:")


def test_the_list_of_files_is_complete(files: composer_bundle.Files) -> None:
    assert files[composer_bundle.OURS / "FILES"].decode().split() == [str(path) for path in files]


def test_the_compiled_pipelines_are_found_beside_rl_core(tmp_path: Path, files: composer_bundle.Files) -> None:
    """As on a Composer worker, where plugins/ alone is on sys.path."""
    composer_bundle.write(tmp_path, files)
    program = "from bandit_ops.runners import spec; print(spec.load(spec.ROOT, 'retrain')['pipelineInfo']['name'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "plugins")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "banditloop-retrain"), done.stderr


def test_the_queries_come_with_the_modules_that_send_them(repo: Path, files: composer_bundle.Files) -> None:
    queries = {path.name for path in (repo / "rl_core" / "backends" / "gcp" / "store" / "sql").glob("*.sql")}
    found = {path.name for path in files if path.parent == Path("plugins/rl_core/backends/gcp/store/sql")}
    assert found == queries
    assert len(queries) > 2
