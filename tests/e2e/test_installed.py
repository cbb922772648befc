"""banditloop as another team has it: from the wheel, in an environment of its own, with the checkout out of sight."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Lineage
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, Settings
from rl_core.google_cloud.clients import GoogleClients
from rl_core.policy.artefact import write_artefact
from stand_ins.cloud import Cloud
from stand_ins.free_port import free_port
from tests.harness.patience import patient

pytestmark = [pytest.mark.long, pytest.mark.process, pytest.mark.timeout(1200)]

REPO = Path(__file__).parents[2]
UV = REPO / ".uv" / "bin" / "uv"
SHIPPED = REPO / "dags" / "bandits" / "movielens.yaml"
README = (REPO / "README.md").read_text().partition("## Install into your own project")[2].partition("\n## ")[0]
PATIENCE_S = 180.0  # what takes longer hangs


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    [built] = out.glob("*.whl")
    return built


def run(command: list[str | Path], **variables: str) -> subprocess.CompletedProcess[str]:
    """Without any of our settings or paths, away from the checkout."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("BANDIT_", "PYTHON", "AIRFLOW"))}
    return subprocess.run(
        command, env=given | variables, cwd="/", capture_output=True, text=True, check=False, timeout=patient(600)
    )


def done(command: list[str | Path], **variables: str) -> None:
    """Run what must end well."""
    ended = run(command, **variables)
    assert ended.returncode == 0, ended.stderr + ended.stdout


@contextmanager
def serving(programs: Path, bandit: Path, folder: Path, **variables: str) -> Iterator[str]:
    """The URL of a server that has begun to listen."""
    url, log = f"http://127.0.0.1:{(port := free_port())}", folder / "server.log"
    given = {"PATH": os.environ["PATH"], "BANDIT_HOME": str(folder / "home"), **variables}
    with log.open("w") as out:
        command = [str(programs / "banditloop"), "serve", str(bandit), "--port", str(port)]
        server = subprocess.Popen(command, env=given, cwd=folder, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert server.poll() is None, log.read_text()
            try:
                httpx.get(f"{url}/health", trust_env=False, timeout=patient(30))
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        assert server.wait(timeout=patient(20)) == 0, log.read_text()


def promote_a_policy(bandit: Bandit, settings: Settings, folder: Path) -> str:
    rng, problem = np.random.default_rng(3), bandit.problem
    observations = rng.standard_normal((500, problem.observation_dim)).astype(np.float32)
    actions = rng.integers(problem.num_actions, size=500)
    write_artefact(
        folder / "artefact",
        problem,
        bandit.agent,
        accumulate(observations, actions, rng.standard_normal(500), problem.num_actions),
    )
    registry = open_backend(bandit, settings).registry()
    version = registry.register(folder / "artefact", Lineage(None, ()))
    registry.promote(version, None)
    return version


def chosen_by(url: str, bandit: Bandit) -> str:
    """The version that decides once the server has found the champion."""
    body = {"instances": [{"observation": [0.5] * bandit.problem.observation_dim}]}
    deadline = time.monotonic() + PATIENCE_S
    while (answer := httpx.post(f"{url}/predict", json=body, trust_env=False, timeout=patient(30))).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    return str(answer.json()["predictions"][0]["policy_version"])


@pytest.fixture(scope="module")
def server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    pinned = re.findall(r"^\S+==[^\s;]+", (REPO / "requirements" / "server.txt").read_text(), re.MULTILINE)
    (folder / "tested.txt").write_text("\n".join(pinned))  # a release of tomorrow is no fault of ours
    done([sys.executable, "-m", "venv", folder / "venv"])
    (folder / "dist").symlink_to(wheel.parent)
    [command] = re.findall(r"^pip install .*$", README, re.MULTILINE)
    paths = f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done(["bash", "-c", f"cd {folder} && {command}"], PATH=paths, PIP_CONSTRAINT=str(folder / "tested.txt"))
    return folder / "venv" / "bin"


class TestTheExtraServer:
    """An empty environment, after README's `pip install`."""

    def test_brings_the_command(self, server: Path) -> None:
        ended = run([server / "banditloop", "serve", "--help"])
        assert (ended.returncode, ended.stdout.split()[:3]) == (0, ["usage:", "banditloop", "serve"]), ended.stderr

    @pytest.mark.parametrize(
        "heavy", ["airflow", "tensorflow", "google.cloud.aiplatform", "google.cloud.storage", "kfp"]
    )
    def test_brings_nothing_heavy(self, server: Path, heavy: str) -> None:
        assert "ModuleNotFoundError" in run([server / "python", "-c", f"import {heavy}"]).stderr

    def test_decides(self, server: Path, movielens: Bandit, settings: Settings, tmp_path: Path) -> None:
        version = promote_a_policy(movielens, settings, tmp_path)
        with serving(server, SHIPPED, tmp_path) as url:
            assert chosen_by(url, movielens) == version

    @pytest.mark.parametrize(
        ("command", "backend", "told"),
        [
            ("log", "local", "`log` needs deltalake, which is not installed: pip install 'banditloop[job]'"),
            ("forget", "local", "`forget` needs deltalake, which is not installed: pip install 'banditloop[job]'"),
            ("status", "local", "`status` needs deltalake, which is not installed: pip install 'banditloop[job]'"),
            ("serve", "gcp", "needs google.cloud.aiplatform, which is not installed: pip install 'banditloop[gcp]'"),
        ],
    )
    def test_says_which_extra_another_command_needs(
        self, server: Path, cloud_movielens: Bandit, tmp_path: Path, command: str, backend: str, told: str
    ) -> None:
        bandit = SHIPPED if backend == "local" else tmp_path / "movielens.yaml"
        if backend == "gcp":
            bandit.write_text(yaml.safe_dump(cloud_movielens.model_dump(mode="json")))
        ended = run([server / "banditloop", command, bandit], BANDIT_HOME=str(tmp_path / "home"))
        assert ended.returncode == 2
        assert told in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_a_bandit_by_name_is_told_to_come_by_its_path(self, server: Path) -> None:
        ended = run([server / "banditloop", "serve", "movielens"])
        assert ended.returncode == 2
        assert "give the path of a YAML" in ended.stderr


@pytest.fixture(scope="module")
def image(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "venv"
    done([sys.executable, "-m", "venv", "--without-pip", folder])
    done([UV, "pip", "sync", "--python", folder, "--require-hashes", REPO / "requirements" / "server.txt"])
    done([UV, "pip", "install", "--python", folder, "--no-deps", wheel])
    done([UV, "pip", "check", "--python", folder])
    return folder / "bin"


class TestTheServerImage:
    """What requirements/server.txt locks is all that a server needs, on both backends."""

    def test_decides_on_backend_local(self, image: Path, movielens: Bandit, settings: Settings, tmp_path: Path) -> None:
        version = promote_a_policy(movielens, settings, tmp_path)
        with serving(image, SHIPPED, tmp_path) as url:
            assert chosen_by(url, movielens) == version

    def test_decides_on_backend_gcp(self, image: Path, cloud_movielens: Bandit, tmp_path: Path) -> None:
        (tmp_path / "movielens.yaml").write_text(yaml.safe_dump(cloud_movielens.model_dump(mode="json")))
        with Cloud(tmp_path / "cloud") as cloud:
            variables = cloud.environment()
            settings = Settings(
                home=tmp_path / "home",
                google_endpoint=variables["BANDIT_GOOGLE_ENDPOINT"],
                pubsub_emulator_host=variables["BANDIT_PUBSUB_EMULATOR_HOST"],
            )
            clients = GoogleClients(cloud_movielens, settings)
            clients.bucket.create(location="europe-west1")
            clients.publisher.create_topic(name=clients.names.events_topic)
            version = promote_a_policy(cloud_movielens, settings, tmp_path)
            with serving(image, tmp_path / "movielens.yaml", tmp_path, **variables) as url:
                assert chosen_by(url, cloud_movielens) == version
            clients.close()


LOOK = """
import json, sys, warnings
warnings.simplefilter("ignore")
from airflow import plugins_manager
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1], bundle_path=sys.argv[1], bundle_name="dags")
plugins, errors = plugins_manager._get_plugins()
print(json.dumps({
    "dags": sorted(bag.dags),
    "import_errors": {path: error.splitlines()[-1] for path, error in bag.import_errors.items()},
    "plugins": [plugin.name for plugin in plugins],
    "plugin_errors": errors,
    "code": sys.modules["bandit_ops"].__file__,
}))
"""


@pytest.fixture(scope="module")
def packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("packages")
    done([UV, "pip", "install", "--no-deps", "--target", folder, wheel])
    return folder


@pytest.mark.airflow
class TestTheExtraAirflow:
    """The wheel beside an Airflow, whose DAG folder holds three lines and no code of ours."""

    @pytest.fixture
    def theirs(self, tmp_path: Path) -> Path:
        """A folder of YAMLs, and a DAG folder with README's file that names it."""
        (tmp_path / "bandits").mkdir()
        content = yaml.safe_load(SHIPPED.read_text())
        (tmp_path / "bandits" / "shop.yaml").write_text(yaml.safe_dump(content | {"name": "shop", "prefix": "shop"}))
        (tmp_path / "dags").mkdir()
        [lines] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        (tmp_path / "dags" / "bandits.py").write_text(lines.replace("/opt/bandits", str(tmp_path / "bandits")))
        return tmp_path

    def look(self, theirs: Path, packages: Path) -> dict[str, Any]:
        """What Airflow's DAG processor and plugin manager find."""
        ended = run(
            [sys.executable, "-c", LOOK, theirs / "dags"],
            PYTHONPATH=str(packages),
            AIRFLOW_HOME=str(theirs / "airflow"),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__CORE__PLUGINS_FOLDER=str(theirs / "plugins"),
        )
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        assert found["code"].startswith(str(packages))
        return found

    def test_builds_our_dags_from_three_lines(self, theirs: Path, packages: Path) -> None:
        found = self.look(theirs, packages)
        assert found["import_errors"] == {}
        kinds = ("retrain", "rollback", "simulate", "startup", "teardown")
        assert found["dags"] == [f"shop_{kind}" for kind in kinds]

    def test_registers_the_plugin_by_itself(self, theirs: Path, packages: Path) -> None:
        found = self.look(theirs, packages)
        assert (found["plugins"], found["plugin_errors"]) == (["banditloop"], {})

    def test_registers_it_once_where_our_plugins_folder_is_airflows_too(self, theirs: Path, packages: Path) -> None:
        (theirs / "plugins").mkdir()
        shutil.copy(REPO / "plugins" / "bandit_plugin.py", theirs / "plugins")
        found = self.look(theirs, packages)
        assert (found["plugins"], found["plugin_errors"]) == (["banditloop"], {})

    def test_says_where_it_looked_when_the_folder_holds_no_yaml(self, theirs: Path, packages: Path) -> None:
        (theirs / "bandits" / "shop.yaml").unlink()
        [error] = self.look(theirs, packages)["import_errors"].values()
        assert f"{theirs / 'bandits'}: holds no *.yaml" in error

    def test_passes_over_a_bad_yaml_that_a_second_file_reports(self, theirs: Path, packages: Path) -> None:
        (theirs / "bandits" / "torn.yaml").write_text("name: [unclosed")
        lines = f'from bandit_ops.airflow_dags import check_bandits\n\ncheck_bandits("{theirs / "bandits"}")\n'
        (theirs / "dags" / "check.py").write_text(lines)
        found = self.look(theirs, packages)
        assert "shop_retrain" in found["dags"]
        [(path, error)] = found["import_errors"].items()
        assert path.endswith("check.py")
        assert "torn.yaml: not YAML" in error
