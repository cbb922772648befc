"""`scripts/deploy_composer.sh` against a gcloud that has a bucket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import composer_bundle

SCRIPT = composer_bundle.REPO / "scripts" / "deploy_composer.sh"
VERSION, FILES = composer_bundle.OURS / "VERSION", composer_bundle.OURS / "FILES"
Deploy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    """The folder of the fake: an environment in which somebody else has a DAG and a plugin already."""
    cloud = tmp_path / "cloud"
    for name in ("dags/others.py", "plugins/others_plugin.py"):
        (cloud / "bucket" / name).parent.mkdir(parents=True)
        (cloud / "bucket" / name).touch()
    (cloud / "bucket/plugins/.airflowignore").write_text("others_lib/\n")
    (cloud / "calls").touch()
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("fake_gcloud.py")}" "$@"\n')
    gcloud.chmod(0o755)
    return cloud


@pytest.fixture(scope="module")
def files() -> composer_bundle.Files:
    return composer_bundle.contents() | {VERSION: b"commit 0123abc\ncode sha256:00\n"}


@pytest.fixture
def bundle(tmp_path: Path, files: composer_bundle.Files) -> Path:
    composer_bundle.write(tmp_path / "bundle", files)
    return tmp_path / "bundle"


@pytest.fixture
def deploy(tmp_path: Path, cloud: Path, bundle: Path) -> Deploy:
    def run(*options: str, environment: str = "prod") -> subprocess.CompletedProcess[str]:
        variables = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "FAKE_GCLOUD": str(cloud)}
        given = ["--bundle", str(bundle), "--poll", "0", "--wait", "1", *options]
        command = ["bash", str(SCRIPT), environment, "europe-west1", *given]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    return run


def in_bucket(cloud: Path) -> set[str]:
    return {str(path.relative_to(cloud / "bucket")) for path in (cloud / "bucket").rglob("*") if path.is_file()}


def replace(bundle: Path, **changed: str | None) -> None:
    """Write the bundle anew with files added, or taken away where None."""
    files = {path.relative_to(bundle): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    for name, content in changed.items():
        path = Path(name)
        if content is None:
            del files[path]
        else:
            files[path] = content.encode()
    files[FILES] = "".join(f"{path}\n" for path in sorted(files)).encode()
    composer_bundle.write(bundle, files)


def test_the_script_is_bash() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_a_first_deployment_brings_the_bundle_and_leaves_the_rest(cloud: Path, bundle: Path, deploy: Deploy) -> None:
    before = in_bucket(cloud)
    done = deploy("--project", "my-project")
    assert done.returncode == 0, done.stderr
    assert in_bucket(cloud) == before | set((bundle / FILES).read_text().split())
    assert "deployed: commit 0123abc" in done.stdout
    calls = (cloud / "calls").read_text().splitlines()
    assert all("--project my-project" in call for call in calls)


def test_what_others_keep_from_airflow_stays_kept(cloud: Path, deploy: Deploy) -> None:
    deploy()
    deploy()
    lines = (cloud / "bucket/plugins/.airflowignore").read_text().split()
    assert sorted(lines) == ["bandit_ops/", "others_lib/", "pipeline_defs/", "rl_core/"]


class TestAnUpdate:
    """The new bundle renames a module that a DAG imports, and drops a DAG."""

    @pytest.fixture
    def updated(self, cloud: Path, bundle: Path, deploy: Deploy) -> Path:
        old, new = "plugins/bandit_ops/old.py", "plugins/bandit_ops/new.py"
        replace(bundle, **{old: "", "dags/a.py": "from bandit_ops.old import x", "dags/z.py": "import bandit_ops.old"})
        assert deploy().returncode == 0
        replace(bundle, **{old: None, new: "", "dags/a.py": "from bandit_ops.new import x", "dags/z.py": None})
        done = deploy()
        assert done.returncode == 0, done.stderr
        return cloud

    def test_removes_what_the_bundle_has_no_more(self, updated: Path, bundle: Path) -> None:
        others = {"dags/others.py", "plugins/others_plugin.py"}
        assert in_bucket(updated) == others | set((bundle / FILES).read_text().split())

    def test_never_leaves_a_dag_without_its_plugins(self, updated: Path) -> None:
        assert not (updated / "broken").exists()


def test_import_errors_fail_the_deployment_and_remove_nothing(cloud: Path, bundle: Path, deploy: Deploy) -> None:
    replace(bundle, **{"dags/a.py": "", "plugins/bandit_ops/old.py": ""})
    assert deploy().returncode == 0
    replace(bundle, **{"dags/a.py": "from bandit_ops.gone import x", "plugins/bandit_ops/old.py": None})
    done = deploy()
    assert done.returncode == 1
    assert "No module named 'bandit_ops.gone'" in done.stderr
    assert "plugins/bandit_ops/old.py" in in_bucket(cloud)


def test_a_broken_dag_file_goes_with_the_deployment_that_lacks_it(cloud: Path, bundle: Path, deploy: Deploy) -> None:
    replace(bundle, **{"dags/bad.py": "from bandit_ops.gone import x"})
    assert deploy().returncode == 1
    replace(bundle, **{"dags/bad.py": None})
    done = deploy()
    assert done.returncode == 0, done.stderr
    assert "dags/bad.py" not in in_bucket(cloud)


def test_a_dry_run_prints_the_commands_and_changes_nothing(cloud: Path, deploy: Deploy) -> None:
    before = in_bucket(cloud)
    done = deploy("--dry-run")
    assert done.returncode == 0, done.stderr
    assert in_bucket(cloud) == before
    printed = [line for line in done.stdout.splitlines() if line.startswith("would run: gcloud")]
    assert [line.split()[3:5] for line in printed] == [["storage", "rsync"]] * 3 + [
        ["composer", "environments"],
        ["storage", "cp"],
    ]


def test_a_bundle_of_uncommitted_code_is_refused_unless_allowed(bundle: Path, deploy: Deploy) -> None:
    replace(bundle, **{str(VERSION): "commit 0123abc-dirty\ncode sha256:00\n"})
    done = deploy()
    assert done.returncode == 1
    assert "Commit, run make composer-bundle, or --allow-dirty" in done.stderr
    assert deploy("--allow-dirty").returncode == 0


def test_a_missing_bundle_is_said(bundle: Path, deploy: Deploy) -> None:
    shutil.rmtree(bundle)
    assert "run: make composer-bundle" in deploy().stderr


def test_an_unknown_environment_is_said(deploy: Deploy) -> None:
    done = deploy(environment="prd")
    assert done.returncode == 1
    assert "can't describe environment prd in europe-west1" in done.stderr


def test_a_gcloud_that_knows_no_airflow_3_is_said(cloud: Path, deploy: Deploy) -> None:
    (cloud / "no_airflow_3").touch()
    done = deploy()
    assert done.returncode == 1
    assert "gcloud components update" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["prod"], ["prod", "europe-west1", "--frobnicate"]])
def test_wrong_arguments_are_said(arguments: list[str]) -> None:
    done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: " in done.stderr
