"""Who may import whom: the rooms of docs/architecture.md, kept by a machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.imports import brought, loaded_by

RULES = {
    "dags": {"tensorflow", "tf_agents", "kfp", "google", "pandas", "numpy", "pipeline_defs", "rl_core"},
    "plugins": {"pipeline_defs", "kfp", "tensorflow", "tf_agents"},
    "pipeline_defs": {"airflow", "bandit_ops"},
    "rl_core": {"airflow", "kfp", "bandit_ops", "pipeline_defs", "local_stack"},
}
GROUND = {
    "__version__",
    "bandit_yaml",
    "checking",
    "config",
    "cron",
    "environment_config",
    "errors",
    "files",
    "framing",
    "clock",
    "frozen",
    "feature_config",
    "google_config",
    "problem_config",
    "packing",
    "schema",
    "waiting",
}
ARROWS = {
    "backends/contracts": set(),
    "google_cloud": set(),
    "backends/registry": {"backends/contracts"},
    "backends/local": {"backends/contracts", "backends/registry", "backends/conform"},
    "backends/gcp": {
        "backends/contracts",
        "backends/registry",
        "backends/conform",
        "backends/bus_rows",
        "google_cloud",
    },
    "bandit": {"backends/contracts"},
    "movielens": set(),
    "features": set(),
    "dataset": {"features", "bandit", "backends/contracts"},
    "policy": {"features", "bandit", "dataset", "backends/contracts"},
    "monitoring": {"policy", "bandit", "backends"},
    "serving": {"policy", "features", "bandit", "backends"},
    "joining": {"monitoring", "backends"},
    "importing": {"features", "bandit", "backends"},
    "starting": {"importing"},
    "environments": {"movielens", "features"},
    "simulation": {"serving", "environments", "movielens", "backends"},
    "stages": {"monitoring", "policy", "dataset", "features", "environments", "bandit", "backends"},
}
"""Which rooms of rl_core a room may import besides itself and the ground floor; a room stands for those in it."""
OUTSIDE_OF_BACKENDS = ("dags", "functions", "local_stack", "pipeline_defs", "plugins", "rl_core")
TENSORFLOW_ROOM = {"rl_core/policy/saved_model.py"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", RULES)
def test_no_file_imports_what_its_room_forbids(repo: Path, room: str) -> None:
    wrong = [
        f"{path.relative_to(repo)} imports {name}"
        for path in sorted((repo / room).rglob("*.py"))
        for name in imports(path)
        if name in RULES[room]
    ]
    assert not wrong, f"{room}/ never imports {sorted(RULES[room])}: {wrong}"


def imported_modules(path: Path) -> Iterator[str]:
    """What a file imports of rl_core, as paths: `from rl_core.a import b` gives "a/b"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "rl_core":
            yield from (f"{node.module}.{alias.name}".partition(".")[2].replace(".", "/") for alias in node.names)


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_between_the_rooms_of_rl_core_go_one_way(repo: Path, room: str) -> None:
    allowed = (room, *ARROWS[room], *GROUND)
    wrong = [
        f"{path.relative_to(repo)} imports {module}"
        for path in sorted((repo / "rl_core" / room).rglob("*.py"))
        for module in imported_modules(path)
        if not any(module == name or module.startswith(f"{name}/") for name in allowed)
    ]
    assert not wrong, f"{room} may import {sorted(ARROWS[room])}: {wrong}"


def test_a_backend_is_known_outside_its_folder_by_its_contract_alone(repo: Path) -> None:
    wrong = [
        f"{path.relative_to(repo)} imports {module}"
        for room in OUTSIDE_OF_BACKENDS
        for path in sorted((repo / room).rglob("*.py"))
        for module in imported_modules(path)
        for backend in ("backends/local", "backends/gcp")
        if module.startswith(f"{backend}/") and repo / "rl_core" / backend not in path.parents
        if path != repo / "rl_core" / "backends" / "__init__.py"
    ]
    assert not wrong, f"open_backend(bandit, settings) gives all that there is of a backend: {wrong}"


def test_nothing_but_open_backend_tells_one_backend_from_the_other(repo: Path) -> None:
    wrong = [
        f"{path.relative_to(repo)}:{node.lineno}"
        for room in ("functions", "local_stack", "pipeline_defs", "plugins", "rl_core", "scripts")
        for path in sorted((repo / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and "backend" in {getattr(one, "attr", "") for one in ast.walk(node)}
    ]
    allowed = {"rl_core/config.py", "rl_core/backends/__init__.py"}
    assert {place.partition(":")[0] for place in wrong} <= allowed, f"give the Backend a method for it: {wrong}"


ONE_WAY = {
    "rl_core/files.py replaces files": (r"os\.(replace|rename)\(|mkstemp|NamedTemporaryFile", {"delta/sync.py"}),
    "rl_core/waiting.py sleeps": (r"time\.sleep\(", {"local_stack/airflow_api.py"}),
}
"""What one module does for all others, how others would do it by themselves, and who may: the local bus, and these.

sync.py moves damaged files aside; airflow_api.py counts the answers it has had.
"""


@pytest.mark.parametrize("rule", ONE_WAY)
def test_what_one_module_does_is_done_nowhere_else(repo: Path, rule: str) -> None:
    sign, others = ONE_WAY[rule]
    wrong = [
        str(path.relative_to(repo))
        for room in OUTSIDE_OF_BACKENDS
        for path in sorted((repo / room).rglob("*.py"))
        if re.search(sign, path.read_text()) and not re.search(r"backends/local/(bus|journal|message_bus)", str(path))
        if not str(path).endswith((rule.partition(" ")[0], *others))
    ]
    assert not wrong, f"{rule}, and so do {wrong}"


def test_tensorflow_is_imported_in_one_room_of_rl_core(repo: Path) -> None:
    users = {
        str(path.relative_to(repo))
        for path in (repo / "rl_core").rglob("*.py")
        if {"tensorflow", "tf_agents", "tf_keras"} & set(imports(path))
    }
    assert users <= TENSORFLOW_ROOM


LIGHT = (
    "rl_core.serving.server",
    "rl_core.joining.event_logger",
    "rl_core.backends.local.joining.joiner",
    "rl_core.backends.gcp.backend",
    "rl_core.simulation.simulator",
    "rl_core.stages.generator",
    "rl_core.stages.ingester",
    "rl_core.stages.trainer",
    "rl_core.stages.evaluator",
    "rl_core.stages.deployer",
    "rl_core.stages.exporter",
    "bandit_ops.runners.local",
)
HEAVY = ("tensorflow", "kfp", "airflow", "pandas", "google.api_core", "deltalake", "duckdb", "matplotlib")


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    return loaded_by({module: f"import {module}" for module in LIGHT}, Path(__file__).parents[2])


@pytest.mark.process
@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_brings_nothing_heavy(loaded: dict[str, set[str]], module: str) -> None:
    assert brought(loaded[module], HEAVY) == []
