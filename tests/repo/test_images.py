"""The images, as far as they can be judged without building them: what they copy, install, run as, and can import."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from rl_core.config import Bandit
from rl_core.google_cloud.names import names_of
from rl_core.stages import STAGES
from stand_ins.free_port import free_port
from tests.harness.patience import patient

if TYPE_CHECKING:
    from tests.repo.conftest import Dockerfile

TARGETS = ("job", "server", "stand-ins", "airflow")


@pytest.fixture(params=TARGETS)
def image(request: pytest.FixtureRequest, job: Dockerfile, airflow: Dockerfile) -> tuple[Dockerfile, str]:
    """A Dockerfile and the stage that becomes an image."""
    return (airflow, "final") if request.param == "airflow" else (job, request.param)


def run(folder: Path, *command: str, path: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with nothing of ours importable but what lies in the folder."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": path or str(folder), "BANDIT_HOME": str(folder / "home")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=given | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(120),
    )


def test_every_path_it_copies_exists_and_is_sent_to_the_builder(repo: Path, image: tuple[Dockerfile, str]) -> None:
    file, _ = image
    for stage in file.stages:
        for source in file.copied(stage):
            assert (repo / source).exists(), f"stage {stage} copies {source}, which does not exist"
            assert file.sent_to_the_builder(source), f"stage {stage} copies {source}, which .dockerignore keeps away"


def test_every_stage_it_copies_from_exists(image: tuple[Dockerfile, str]) -> None:
    file, _ = image
    assert set(re.findall(r"--from=(\S+)", file.text)) <= file.stages.keys()


def test_it_runs_as_a_numbered_user_who_is_not_root(image: tuple[Dockerfile, str]) -> None:
    file, target = image
    users = [user for stage in file.lineage(target) for user in stage.all("USER")]
    assert users[-1:] == ["10001:10001"]


def test_it_is_built_on_the_official_python_by_digest(image: tuple[Dockerfile, str]) -> None:
    file, target = image
    assert file.lineage(target)[0].base == "${PYTHON}"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", file.arguments["PYTHON"])


def test_it_installs_only_locks_with_hashes_and_compiles_them(repo: Path, image: tuple[Dockerfile, str]) -> None:
    file, _ = image
    commands = [c for stage in file.stages.values() for line in stage.all("RUN") for c in line.split("&&")]
    installs = [c for c in commands if re.search(r"\bpip (install|sync)\b", c)]
    assert len(installs) >= 2
    for install in installs:
        assert "--require-hashes" in install
        assert "--compile-bytecode" in install or "/installer/bin/pip install" in install
        locks = re.findall(r"/locks/(\S+)", install)
        assert locks
        assert all((repo / "requirements" / lock).exists() and lock.endswith(".txt") for lock in locks)


def test_our_own_code_is_compiled_and_python_may_cache(image: tuple[Dockerfile, str]) -> None:
    file, target = image
    compiled = " ".join(r for s in file.lineage(target) for r in s.all("RUN") if "compileall" in r).split()
    packages = {destination for destination in file.copied(target).values() if "/" not in destination}
    assert packages <= set(compiled)
    assert "PYTHONDONTWRITEBYTECODE" not in file.text


@pytest.mark.parametrize("name", ["docker/job.Dockerfile", "docker/airflow.Dockerfile", "cloudbuild.yaml"])
def test_nothing_refers_to_whatever_is_newest(repo: Path, name: str) -> None:
    assert not re.search(r":latest\b", (repo / name).read_text())


def test_cloud_build_pushes_where_a_bandit_looks_and_prints_the_digest(repo: Path, cloud_movielens: Bandit) -> None:
    build = yaml.safe_load((repo / "cloudbuild.yaml").read_text())
    values = {**build["substitutions"], "PROJECT_ID": "test-project", "BUILD_ID": "b1"}

    def filled(text: str) -> str:
        while "${" in text:
            text = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)
        return text

    base = names_of(cloud_movielens).image_base
    pushed = {"image": f"{base}:b1", "server_image": f"{base}-server:b1"}
    steps = [[filled(argument) for argument in step["args"]] for step in build["steps"]]
    for setting, image in pushed.items():
        assert any(f"--tag={image}" in step for step in steps)
        assert ["push", image] in steps
        assert ["inspect", f"--format=google.{setting}: {{{{index .RepoDigests 0}}}}", image] in steps
    assert "python" in base, "kfp.local warns of images without python in their name"
    assert all(re.search(r":\d[\d.]+$", step["name"]) for step in build["steps"])


def test_cloud_build_builds_stages_that_exist(repo: Path, job: Dockerfile) -> None:
    steps = yaml.safe_load((repo / "cloudbuild.yaml").read_text())["steps"]
    built = [step["args"] for step in steps if step["args"][0] == "build"]
    assert all("--file=docker/job.Dockerfile" in arguments for arguments in built)
    assert [arguments[2] for arguments in built] == ["--target=job", "--target=server"]
    assert {"job", "server"} <= job.stages.keys()
    assert list(job.stages)[-1] == "job", "a build without --target makes the last stage"


@pytest.fixture(scope="module")
def job_folder(job: Dockerfile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job.files("job", tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def airflow_folder(airflow: Dockerfile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return airflow.files("final", tmp_path_factory.mktemp("airflow"))


class TestTheJobImage:
    """Its files alone, with this interpreter in place of the image's."""

    def test_serves_by_default(self, job: Dockerfile, job_folder: Path) -> None:
        command = json.loads(job.stages["serving"].all("CMD")[0])
        assert command == ["python", "-m", "rl_core", "serve"]
        done = run(job_folder, *command[1:], "--help")
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("stage", STAGES)
    def test_has_what_the_body_of_a_component_imports(self, repo: Path, job_folder: Path, stage: str) -> None:
        spec = yaml.safe_load((repo / f"pipeline_defs/compiled/components/{stage}.yaml").read_text())
        source = spec["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]["command"][-1]
        functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        imports = [node for f in functions for node in ast.walk(f) if isinstance(node, ast.Import | ast.ImportFrom)]
        program = "\n".join(ast.unparse(node) for node in imports)
        assert f"from rl_core.stages import {stage}" in program
        done = run(job_folder, "-c", program)
        assert done.returncode == 0, done.stderr

    def test_needs_no_variable_for_keras(self, job: Dockerfile) -> None:
        settings = " ".join(rest for stage in job.lineage("job") for rest in stage.all("ENV")).split()
        assert "TF_USE_LEGACY_KERAS=1" in settings

    def test_answers_where_vertex_asks_and_is_found_by_other_containers(self, job_folder: Path, repo: Path) -> None:
        port = free_port()
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(job_folder),
            "BANDIT_HOME": str(job_folder / "home"),
            "BANDIT_SERVER_URL": f"http://server:{port}",
            "AIP_HTTP_PORT": str(port),
        }
        command = [sys.executable, "-m", "rl_core", "serve", str(repo / "dags/bandits/movielens.yaml")]
        with subprocess.Popen(command, cwd=job_folder, env=variables, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert f"serving on http://server:{port}" in server.stdout.readline()
                found = json.loads((job_folder / "home/movielens-v1/endpoint/endpoint.json").read_text())
                assert (found["url"], found["pid"]) == (f"http://server:{port}", None)
                assert run(job_folder, "docker/health.py", f"http://127.0.0.1:{port}/state").returncode == 0
                lost = run(job_folder, "docker/health.py", f"http://127.0.0.1:{port}/nowhere")
                assert (lost.returncode, "404" in lost.stdout) == (1, True)
            finally:
                server.terminate()
                assert server.wait(patient(20)) == 0
        assert run(job_folder, "docker/health.py", f"http://127.0.0.1:{port}/state").returncode == 1


def test_the_server_image_holds_the_servers_packages_and_is_otherwise_the_job_image(job: Dockerfile) -> None:
    assert job.stages["server"].all("COPY") == ["--from=server-packages /opt/job /opt/job"]
    assert "/locks/server.txt" in " ".join(job.stages["server-packages"].all("RUN"))
    assert job.stages["server"].base == job.stages["job"].base == "serving"


class TestTheAirflowImage:
    def test_has_a_second_environment_for_the_local_runner(self, airflow: Dockerfile) -> None:
        settings = " ".join(airflow.stages["final"].all("ENV")).split()
        assert "BANDIT_JOB_PYTHON=/opt/job/bin/python" in settings
        assert "--from=packages /opt/job /opt/job" in airflow.stages["final"].all("COPY")

    def test_starts_pipelines_with_its_files(self, airflow_folder: Path) -> None:
        done = run(airflow_folder, "-W", "ignore", "-m", "pipeline_defs.run_local", "--help")
        assert done.returncode == 0, done.stderr

    def test_finds_pipelines_and_code_as_the_repository_does(self, repo: Path, airflow_folder: Path) -> None:
        program = "from bandit_ops.runners import spec as s; s.load(s.ROOT, 'startup'); print(s.code_digest(s.ROOT))"
        digests = [
            run(airflow_folder, "-c", program, path=f"{root}:{root}/plugins").stdout.strip()
            for root in (airflow_folder, repo)
        ]
        assert digests[0] == digests[1] != ""

    def test_loads_its_dags(self, airflow_folder: Path) -> None:
        program = "from bandit_ops.airflow_dags import bandit_dags; print(*bandit_dags('dags/bandits', 'retrain'))"
        done = run(
            airflow_folder,
            "-W",
            "ignore",
            "-c",
            program,
            path=f"{airflow_folder}:{airflow_folder}/plugins",
            AIRFLOW_HOME=str(airflow_folder),
        )
        assert done.stdout.strip().endswith("movielens_retrain"), done.stderr


def test_the_stand_ins_image_can_start_them(job: Dockerfile, tmp_path: Path) -> None:
    folder = job.files("stand-ins", tmp_path)
    done = run(folder, "-m", "stand_ins", "--help", path=f"{folder}:{folder}/plugins")
    assert done.returncode == 0, done.stderr


class TestTheHealthOfAFile:
    def test_is_its_age(self, repo: Path, tmp_path: Path) -> None:
        path = tmp_path / "logger.json"
        health = str(repo / "docker/health.py")
        assert run(tmp_path, health, f"{path}@30").returncode == 1
        path.touch()
        assert run(tmp_path, health, f"{path}@30").returncode == 0
        long_ago = time.time() - 60
        os.utime(path, (long_ago, long_ago))
        done = run(tmp_path, health, f"{path}@30")
        assert done.returncode == 1
        said = re.search(r"was written (\d+) s ago; 30 s are allowed", done.stdout)
        assert said, done.stdout
        assert 60 <= int(said[1]) <= time.time() - long_ago + 1
        assert run(tmp_path, health, str(path)).returncode == 0
