"""The wheel: what is in it, what it says of itself, and that its extras are what the locks hold."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rl_core import __version__

ROOMS = {"rl_core": "rl_core", "pipeline_defs": "pipeline_defs", "plugins/bandit_ops": "bandit_ops"}
FOR_TF_AGENTS = {"gin-config", "gym", "pillow"}
"""What TF-Agents imports; in the locks it asks for them itself."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make dist` does."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(files: dict[str, bytes]) -> Message:
    return Parser().parsestr(files[f"banditloop-{__version__}.dist-info/METADATA"].decode())


def pins(repo: Path, lock: str) -> dict[str, str]:
    text = (repo / "requirements" / f"{lock}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", text, re.MULTILINE))


def asked(repo: Path, side: str) -> set[str]:
    """The distributions that `requirements/<side>.in` asks for."""
    lines = (repo / "requirements" / f"{side}.in").read_text().splitlines()
    return {canonicalize_name(Requirement(line.partition("#")[0]).name) for line in lines if line[:1].isalpha()}


@pytest.fixture
def extras(repo: Path) -> dict[str, list[Requirement]]:
    """Requirements by extra; those of every installation under the name "base"."""
    project: dict[str, Any] = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    listed = {"base": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in listed.items()}


def test_holds_every_file_of_its_rooms_and_no_other(repo: Path, files: dict[str, bytes]) -> None:
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *ROOMS]
    listed = subprocess.run(tracked, cwd=repo, capture_output=True, text=True, check=True).stdout.split()
    present = [path for path in listed if (repo / path).exists()]
    wanted = {path.replace(room, ROOMS[room], 1): path for path in present for room in ROOMS if path.startswith(room)}
    assert {name for name in files if ".dist-info/" not in name} == wanted.keys()
    assert all(files[name] == (repo / path).read_bytes() for name, path in wanted.items())


def test_says_version_licence_and_python(repo: Path, metadata: Message, files: dict[str, bytes]) -> None:
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    licence = files[f"banditloop-{__version__}.dist-info/licenses/LICENSE"]
    assert licence == (repo / "LICENSE").read_bytes()
    assert metadata["Requires-Python"] == "<3.13,>=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"server", "job", "gcp", "airflow"}


def test_its_version_is_the_newest_of_the_changelog(repo: Path) -> None:
    released = re.findall(r"^## (\d\S+) – \d{4}-\d\d-\d\d$", (repo / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == __version__


def test_brings_a_command_and_an_airflow_plugin(files: dict[str, bytes]) -> None:
    points = ConfigParser()
    points.read_string(files[f"banditloop-{__version__}.dist-info/entry_points.txt"].decode())
    assert {group: dict(points[group]) for group in points.sections()} == {
        "console_scripts": {"banditloop": "rl_core.__main__:main"},
        "airflow.plugins": {"banditloop": "bandit_ops.plugin:BanditPlugin"},
    }


@pytest.mark.parametrize(
    ("side", "of", "only_here", "only_there"),
    [
        ("job", ("base", "server", "job", "gcp"), FOR_TF_AGENTS, {"tf-agents"}),
        ("server", ("base", "server", "gcp"), set(), set()),
        ("airflow", ("base", "airflow"), set(), set()),
    ],
)
def test_extras_ask_for_what_the_locks_are_made_from(
    repo: Path,
    extras: dict[str, list[Requirement]],
    side: str,
    of: tuple[str, ...],
    only_here: set[str],
    only_there: set[str],
) -> None:
    wanted = {canonicalize_name(requirement.name) for extra in of for requirement in extras[extra]}
    assert wanted - only_here == asked(repo, side) - only_there, f"make {of} of pyproject.toml and {side}.in equal"
    assert only_here <= wanted
    assert only_there <= asked(repo, side)


def test_extras_allow_what_is_tested_and_nothing_older(repo: Path, extras: dict[str, list[Requirement]]) -> None:
    """A lower bound names the locked release, in as many parts as matter; Composer's provider is the oldest tested."""
    tested = pins(repo, "dev")
    oldest = tested | {"apache-airflow-providers-google": "22.4.0"}
    for requirement in (one for extra in extras.values() for one in extra):
        name = canonicalize_name(requirement.name)
        assert tested[name] in requirement.specifier, f"{requirement} forbids {tested[name]}, which the locks hold"
        [bound] = [one.version for one in requirement.specifier if one.operator == ">="]
        assert f"{oldest[name]}.".startswith(f"{bound}."), f"{requirement}: {oldest[name]} is what was tested"


def test_only_what_tf_agents_needs_asks_for_an_old_python(extras: dict[str, list[Requirement]]) -> None:
    old = {requirement.name for extra in extras.values() for requirement in extra if requirement.marker is not None}
    assert old == FOR_TF_AGENTS | {"tensorflow", "tensorflow-probability", "tf-keras"}
    markers = {str(one.marker) for extra in extras.values() for one in extra if one.marker is not None}
    assert markers == {'python_version < "3.12"'}


def test_how_to_add_tf_agents_is_said_with_the_version_that_is_tested(repo: Path) -> None:
    line = f"pip install --no-deps tf-agents=={pins(repo, 'job')['tf-agents']}"
    for place in ("pyproject.toml", "docs/install.md", "rl_core/policy/saved_model.py"):
        assert line in (repo / place).read_text(), place
