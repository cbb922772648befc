"""The compose files: everything they name exists, nothing is open to the network, no secret is in them."""

from __future__ import annotations

import base64
import inspect
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from rl_core.config import Bandit, ServingContainer, Settings
from stand_ins.free_port import free_port
from tests.harness.patience import patient

if TYPE_CHECKING:
    from tests.repo.conftest import Dockerfile

BASE, OVERLAY = "docker-compose.yaml", "docker-compose.emulators.yaml"
SECRETS = {"POSTGRES_PASSWORD", "AIRFLOW_FERNET_KEY", "AIRFLOW_JWT_SECRET", "AIRFLOW_SECRET_KEY"}


def load(*files: Path) -> dict[str, Any]:
    """The files as compose merges them: mappings by key, `volumes` by appending, everything else replaced."""
    merged: dict[str, Any] = {"services": {}, "volumes": {}}
    for file in files:
        content = yaml.safe_load(file.read_text())
        merged["volumes"] |= content["volumes"]
        for name, service in content["services"].items():
            known = merged["services"].setdefault(name, {})
            for key, value in service.items():
                if isinstance(known.get(key), dict):
                    known[key] = {**known[key], **value}
                elif isinstance(known.get(key), list) and key == "volumes":
                    known[key] = [*known[key], *value]
                else:
                    known[key] = value
    return merged


@pytest.fixture(params=[(BASE,), (BASE, OVERLAY)], ids=["local", "emulators"])
def files(request: pytest.FixtureRequest, repo: Path) -> list[Path]:
    return [repo / name for name in request.param]


@pytest.fixture
def compose(files: list[Path]) -> dict[str, Any]:
    return load(*files)


@pytest.fixture
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def variables(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def test_the_compose_tool_accepts_it(files: list[Path], repo: Path) -> None:
    command = next(
        (c for c in (["docker", "compose"], ["docker-compose"]) if shutil.which(c[0]) and _runs([*c, "version"])), None
    )
    if command is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    chosen = [argument for file in files for argument in ("-f", str(file))]
    given = dict.fromkeys(SECRETS, "c2VjcmV0")
    done = subprocess.run([*command, *chosen, "config", "--quiet"], env=given, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_services_are_those_of_the_documentation(repo: Path) -> None:
    local = {"postgres", "airflow-init", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor"}
    assert set(load(repo / BASE)["services"]) == local | {"server", "logger"}
    assert set(load(repo / BASE, repo / OVERLAY)["services"]) == local | {
        "server",
        "logger",
        "stand-ins",
    }


def test_every_published_port_is_of_this_machine_alone_and_listened_on(services: dict[str, dict[str, Any]]) -> None:
    published = {name: port for name, service in services.items() for port in service.get("ports", [])}
    assert published
    for name, port in published.items():
        found = re.fullmatch(r"127\.0\.0\.1:(\d+|\$\{[A-Z_]+:-\d+\}):(\d+)", port)
        assert found, f"{name} publishes {port}; bind it to 127.0.0.1"
        assert f":{found[2]}" in " ".join(services[name]["healthcheck"]["test"]), (
            f"nobody checks {name}'s port {found[2]}"
        )


def test_everything_long_running_is_restarted_and_watched(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if name == "airflow-init":
            assert service["restart"] == "no"
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_whom_a_service_waits_for_exists_and_can_be_healthy(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "test" in services[other]["healthcheck"]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert services[other]["restart"] == "no"


def test_volumes_are_declared_and_mounted_files_exist(compose: dict[str, Any], repo: Path) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts}
    assert {source for source in sources if not source.startswith("./")} == set(compose["volumes"])
    made = {"./dist/functions"}  # by scripts.functions_bundle, as the file says
    for source in sources - set(compose["volumes"]) - made:
        assert (repo / source).is_file(), f"{source} is no file; docker would make a folder of it"


def test_images_are_built_from_stages_that_exist_or_have_a_version(
    services: dict[str, dict[str, Any]], job: Dockerfile, airflow: Dockerfile
) -> None:
    for name, service in services.items():
        build = service.get("build")
        if build is None:
            assert re.fullmatch(r"[a-z]+:\d[\w.-]+", service["image"]), f"{name}: {service['image']}"
        elif build["dockerfile"] == "docker/job.Dockerfile":
            assert build["target"] in job.stages
        else:
            assert build["dockerfile"] == "docker/airflow.Dockerfile"
            assert airflow.stages
        assert ":latest" not in service["image"]


def test_an_image_holds_what_its_volume_is_mounted_on(
    services: dict[str, dict[str, Any]], job: Dockerfile, airflow: Dockerfile
) -> None:
    """A named volume takes the owner of the folder it covers: without one, it would be root's."""
    made = {
        "docker/job.Dockerfile": " ".join(job.stages["base"].all("RUN")),
        "docker/airflow.Dockerfile": " ".join(airflow.stages["final"].all("RUN")),
    }
    for service in services.values():
        if "build" in service:
            for mount in service.get("volumes", []):
                source, target = mount.split(":")[:2]
                if not source.startswith("./"):
                    assert f" {target}" in made[service["build"]["dockerfile"]]


def test_variables_are_settings(services: dict[str, dict[str, Any]]) -> None:
    of_bandit = {f"BANDIT_{field.upper()}" for field in Settings.model_fields}
    of_vertex = {f"AIP_{field.upper()}" for field in ServingContainer.model_fields}
    for name, service in services.items():
        own = {variable for variable in variables(service) if variable.startswith(("BANDIT_", "AIP_"))}
        assert own <= of_bandit | of_vertex, name


IN_AIRFLOW = """
import json, sys
from airflow.cli.cli_parser import get_parser
from airflow.configuration import conf
asked = json.load(sys.stdin)
for command in asked["commands"]:
    get_parser().parse_args(command)
options = {f"AIRFLOW__{section}__{option}".upper()
           for section, found in conf.configuration_description.items() for option in found["options"]}
print(json.dumps(sorted(set(asked["variables"]) - options)))
"""


def test_airflow_knows_its_options_and_commands(repo: Path, airflow: Dockerfile, tmp_path: Path) -> None:
    services = load(repo / BASE, repo / OVERLAY)["services"]
    image = re.findall(r"AIRFLOW__\w+(?==)", " ".join(airflow.stages["final"].all("ENV")))
    given = {variable for service in services.values() for variable in variables(service)} | set(image)
    checks = (service["healthcheck"].get("test", []) for service in services.values())
    lines = [*(service.get("command", []) for service in services.values()), *(check[1:] for check in checks)]
    asked = {
        "variables": [variable for variable in given if variable.startswith("AIRFLOW__")],
        "commands": [line[1:] for line in lines if line[:1] == ["airflow"]],
    }
    assert asked["variables"]
    assert asked["commands"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_AIRFLOW],
        input=json.dumps(asked),
        env={"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_commands_of_ours_are_understood(services: dict[str, dict[str, Any]], repo: Path) -> None:
    from rl_core.__main__ import build_parser
    from stand_ins.__main__ import build_parser as stand_ins_parser

    parsers = {"rl_core": build_parser(), "stand_ins": stand_ins_parser()}
    for service in services.values():
        command, check = service.get("command", []), service["healthcheck"].get("test", [])
        if command[:2] == ["python", "-m"]:
            parsers[command[2]].parse_args(command[3:])
        if check[1:2] == ["python"]:
            assert (repo / check[2]).exists()


def test_a_bandit_that_is_served_is_mounted(services: dict[str, dict[str, Any]], repo: Path) -> None:
    for service in services.values():
        if service.get("command", [])[:3] == ["python", "-m", "rl_core"]:
            name = service["command"][-1]
            mount = next(m for m in service["volumes"] if f"/dags/bandits/{name}.yaml" in m.split(":")[1])
            bandit = Bandit.from_yaml(repo / mount.split(":")[0])
            if bandit.backend == "local" and service["command"][3] == "log":
                assert f"/{bandit.artefact_name}/logger.json@" in " ".join(service["healthcheck"]["test"])


def test_addresses_are_services_and_their_ports(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for variable, value in variables(service).items():
            if variable.startswith(("BANDIT_", "grpc_", "AIRFLOW__CORE__EXECUTION")) and "${" not in value:
                address = urlsplit(value if "://" in value else f"//{value}")
                if address.port is not None:
                    told = str(services[str(address.hostname)])
                    assert str(address.port) in told, f"{name}: {variable}={value}: nothing listens there"


def test_whoever_is_led_to_the_stand_ins_can_reach_all_of_them(repo: Path) -> None:
    from stand_ins.cloud import Cloud

    services = load(repo / BASE, repo / OVERLAY)["services"]
    wanted = _variables_of(Cloud)
    for name in ("airflow-scheduler", "airflow-dag-processor", "airflow-api-server"):
        given = variables(services[name])
        assert wanted <= given.keys(), name
        certificates = Path(given["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"])
        assert f"--ca={certificates}" in services["stand-ins"]["command"]
        assert any(mount.startswith(f"shared:{certificates.parent}") for mount in services[name]["volumes"])


def _variables_of(cloud: Any) -> set[str]:
    from stand_ins import vertex

    source = inspect.getsource(cloud.environment) + inspect.getsource(vars(vertex.VertexStandIn)["environment"].fget)
    return set(re.findall(r'"(BANDIT_[A-Z_]+|grpc_proxy|no_grpc_proxy|GRPC_[A-Z_]+)"', source))


def test_the_stand_ins_start_as_compose_starts_them(repo: Path, tmp_path: Path) -> None:
    service = load(repo / OVERLAY)["services"]["stand-ins"]

    def here(argument: str) -> str:
        moved = re.sub(r"^(--\w+(-\w+)*-port)=\d+$", lambda found: f"{found[1]}={free_port()}", argument)
        return moved.replace("/shared", str(tmp_path)).replace("/var/lib/banditloop", str(tmp_path))

    command = [here(argument) for argument in service["command"][1:]]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{repo}:{repo}/plugins"}
    with subprocess.Popen(
        [sys.executable, *command], env=variables, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as stand_ins:
        try:
            assert stand_ins.stdout is not None
            said = list(iter(stand_ins.stdout.readline, "stand-ins are up; stop them with Ctrl-C\n"))
            rest = next(line for line in said if "BANDIT_GOOGLE_ENDPOINT" in line).split("=")[1].strip()
            assert rest.startswith("http://127.0.0.1:")
            check = [
                a.replace("http://127.0.0.1:9050", rest).replace("/shared", str(tmp_path))
                for a in service["healthcheck"]["test"][2:]
            ]
            done = subprocess.run([sys.executable, *check], cwd=repo, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout
        finally:
            stand_ins.terminate()
            assert stand_ins.wait(patient(30)) == 0


def test_the_cloud_bandit_fits_the_stand_ins(repo: Path) -> None:
    bandit = Bandit.from_yaml(repo / "docker/emulators/movielens_cloud.yaml")
    command = load(repo / OVERLAY)["services"]["stand-ins"]["command"]
    assert (bandit.backend, bandit.runner) == ("gcp", "vertex")
    assert bandit.google is not None
    assert {f"--project={bandit.google.project}", f"--region={bandit.google.region}"} <= set(command)


class TestSecrets:
    def test_are_never_in_the_files(self, services: dict[str, dict[str, Any]]) -> None:
        for name, service in services.items():
            for variable, value in variables(service).items():
                if re.search("PASSWORD$|SECRET|_KEY$|SQL_ALCHEMY_CONN", variable):
                    assert re.search(r"\$\{[A-Z_]+:\?", value), f"{name}: {variable} holds its value"

    def test_that_are_missing_are_named_with_what_to_do(self, repo: Path) -> None:
        asked = re.findall(r"\$\{([A-Z_]+):\?([^}]*)\}", (repo / BASE).read_text())
        assert {name for name, _ in asked} == SECRETS
        assert {message for _, message in asked} == {"is missing, run scripts/compose_env.sh once"}

    def test_are_made_once_and_for_one_reader(self, repo: Path, tmp_path: Path) -> None:
        (tmp_path / "scripts").mkdir()
        shutil.copy(repo / "scripts/compose_env.sh", tmp_path / "scripts")
        written = []
        for _ in range(2):
            subprocess.run(["bash", tmp_path / "scripts/compose_env.sh"], check=True, capture_output=True)
            written.append((tmp_path / ".env").read_text())
        assert written[0] == written[1]
        assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
        values = dict(line.split("=", 1) for line in written[0].splitlines() if not line.startswith("#"))
        assert values.keys() == SECRETS
        assert len(set(values.values())) == len(SECRETS)
        assert len(base64.urlsafe_b64decode(values["AIRFLOW_FERNET_KEY"])) == 32
        assert re.fullmatch(r"[\w-]{43}", values["POSTGRES_PASSWORD"]), "it stands in a URL"

    def test_are_ignored_by_git(self, repo: Path) -> None:
        assert "/.env" in (repo / ".gitignore").read_text().split()
