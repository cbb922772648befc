"""A root of one's own: the real components, pipelines and runner over stages that do nothing (see stub_stage.py)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from bandit_ops.runners.base import JobStatus, Parameters, Pipeline
from bandit_ops.runners.job_folder import MARK
from bandit_ops.runners.local import LocalRunner
from local_stack.processes import command_line, living_with, send
from rl_core.config import Bandit, Settings
from rl_core.problem_config import Problem
from tests.harness.patience import until

REPOSITORY = Path(__file__).parents[2]
STAGES = ("generator", "ingester", "trainer", "evaluator", "deployer", "exporter")


@dataclass(frozen=True)
class World:
    """One BANDIT_HOME, one copy of the code, one bandit; and what tests ask of them."""

    root: Path
    settings: Settings
    bandit: Bandit
    pipeline: Pipeline = "retrain"

    @property
    def runner(self) -> LocalRunner:
        return LocalRunner(self.bandit, self.settings, self.root)

    def folder(self, job_id: str) -> Path:
        return self.settings.state_dir(self.bandit) / "runs" / job_id

    def parameters(self, job_id: str, **changed: str | int | float | bool) -> Parameters:
        given: Parameters = {"rounds": 200, "seed": 1} if self.pipeline == "startup" else {"windows": "[[0, 200]]"}
        agent: Parameters = {"agent_alpha": 0.2, "tikhonov_weight": 0.01, "half_life": 0.0}
        who: Parameters = {"bandit": self.bandit.job_json(), "trigger": "sensor", "job_id": job_id}
        return given | agent | who | {"champion": "", "full_retrain": False} | changed

    def behave(self, **stages: str) -> None:
        """How stages behave from now on: fail, fail oddly, hang, hang deaf, slow; others do their nothing well."""
        (self.settings.home / "behaviour.json").write_text(json.dumps(stages))

    def submit(self, job_id: str, *, enable_caching: bool = True, **changed: str | int | float | bool) -> None:
        self.runner.submit(job_id, self.pipeline, self.parameters(job_id, **changed), enable_caching=enable_caching)

    def run(self, job_id: str, *, enable_caching: bool = True, **changed: str | int | float | bool) -> JobStatus:
        self.submit(job_id, enable_caching=enable_caching, **changed)
        return self.wait(job_id)

    def wait(self, job_id: str) -> JobStatus:
        def ended() -> bool:
            status = self.runner.status(job_id)
            return status is None or status.state.terminal

        self.until(ended, f"{job_id} to end")
        status = self.runner.status(job_id)
        assert status is not None, f"{job_id} is unknown"
        return status

    def until(self, true: Callable[[], object], what: str = "it to come true") -> None:
        until(true, lambda: f"{what}; the runs say {[log.read_text()[-500:] for log in self.logs()]}")

    def logs(self) -> list[Path]:
        return sorted((self.settings.state_dir(self.bandit) / "runs").glob("*/log.txt"))

    def steps(self, job_id: str) -> dict[str, str]:
        path = self.folder(job_id) / "steps.json"
        return {step["step"]: step["state"] for step in json.loads(path.read_text())} if path.exists() else {}

    def log(self, job_id: str) -> str:
        return (self.folder(job_id) / "log.txt").read_text()

    def calls(self) -> list[str]:
        """The stages that really ran, in order."""
        path = self.settings.home / "calls"
        return path.read_text().split() if path.exists() else []

    def processes(self) -> list[psutil.Process]:
        """The living processes of all jobs of this home."""
        return living_with(MARK, str(self.settings.home))

    def leader(self, job_id: str) -> psutil.Process:
        return psutil.Process(json.loads((self.folder(job_id) / "state.json").read_text())["pid"])

    def submitter(self, job_id: str, before: str = "") -> subprocess.Popen[bytes]:
        """Another process that submits this job; `before` is code that it executes first, knowing `local`."""
        program = f"""
from pathlib import Path
import os, signal, time
from bandit_ops.runners import local
from rl_core.config import Bandit, Settings
bandit = Bandit.model_validate_json({self.bandit.model_dump_json()!r})
runner = local.LocalRunner(bandit, Settings(home={str(self.settings.home)!r}), Path({str(self.root)!r}))
{before}
runner.submit({job_id!r}, {self.pipeline!r}, {self.parameters(job_id)!r})
"""
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'plugins'}"}
        return subprocess.Popen([sys.executable, "-c", program], env=environment)


def sleeps(process: psutil.Process) -> bool:
    """Whether this is the last process of a step that hangs; leader, sh and python above it are there too."""
    return command_line(process).startswith("sleep ")


def make_root(root: Path) -> Path:
    """The real rl_core and pipeline_defs over stages that do nothing."""
    ignored = shutil.ignore_patterns("__pycache__", "stages", "serving")
    shutil.copytree(REPOSITORY / "rl_core", root / "rl_core", ignore=ignored)
    shutil.copytree(REPOSITORY / "pipeline_defs", root / "pipeline_defs", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "requirements").mkdir()
    (root / "requirements" / "job.txt").write_text("kfp==2.17.0\n")
    (root / "rl_core" / "stages").mkdir()
    for stage in STAGES:
        shutil.copy(Path(__file__).with_name("stub_stage.py"), root / "rl_core" / "stages" / f"{stage}.py")
    return root


def make_world(root: Path, home: Path) -> World:
    home.mkdir(parents=True)
    problem = Problem(
        observation_dim=2,
        observation_version="o1",
        actions=("left", "right"),
        action_set_version="a1",
        reward_min=0,
        reward_max=1,
        reward_default=0,
    )
    startup = {"source": "log"}
    bandit = Bandit.model_validate(
        {"name": "toy", "prefix": "toy", "pipe_version": "v1", "problem": problem, "startup": startup}
    )
    return World(root, Settings(home=Path(os.path.realpath(home))), bandit)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code that all worlds run, so that it compiles once; whoever changes it does so in a copy."""
    return make_root(tmp_path_factory.mktemp("root") / "code")


@pytest.fixture
def kfp_world(root: Path, tmp_path: Path) -> Iterator[World]:
    """Its jobs are kfp.local's."""
    made = make_world(root, tmp_path / "world" / "home")
    yield made
    send(signal.SIGKILL, made.processes())


@pytest.fixture
def world(kfp_world: World) -> World:
    return kfp_world


@pytest.fixture(scope="module")
def warm(root: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose cache has the steps of a retrain, and has them again after each test, whatever that did to it."""
    made = make_world(root, tmp_path_factory.mktemp("warm") / "home")
    made.run("base")
    return made


@pytest.fixture
def each_at_once() -> Callable[..., None]:
    """Calls a function with each of the arguments at the same time."""

    def call(function: Callable[[str], None], *arguments: str) -> None:
        with ThreadPoolExecutor(len(arguments)) as pool:
            list(pool.map(function, arguments))

    return call
