"""The definition of a bandit (`Bandit`, one YAML each), and a process's settings (`Settings`, from the environment).

All are frozen and checked when made. Nothing else in the project reads `os.environ`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from rl_core.bandit_yaml import faults, read_yaml
from rl_core.cron import Schedule
from rl_core.environment_config import Environment, MovieLens
from rl_core.errors import ConfigError
from rl_core.frozen import Frozen, Seconds
from rl_core.google_config import Google
from rl_core.packing import packed, unpacked
from rl_core.problem_config import Problem

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")  # what RFC 6750 allows in a header, at a length that is not guessed
BANDITS = Path(__file__).resolve().parent.parent / "dags" / "bandits"
_CONTROL_ONLY: Any = {  # what only schedule and control plane need: it would void every cache
    "runner": True,
    "enable_caching": True,
    "retrain": True,
    "simulate": True,
    "startup": {"rounds", "seed"},
    "retention": True,
    "google": {
        "image",
        "labels",
        "gcp_conn_id",
        "impersonation_chain",
        "provisioner",
        "join_schedule",
        "simulate_by",
        "alert_after_s",
        "vertex",
    },
}


class Agent(Frozen):
    """LinUCB's hyperparameters, named as TF-Agents names them, and the linear model that it learns.

    Attributes:
        model: disjoint: each action learns by itself. shared: one model over the features of observation and action
            (TF-Agents' `accepts_per_arm_features`). hybrid: what is shared, and what each action differs by. It may be
            changed at any time: all are solved from the same sums.
        crosses: which features of the observation the shared part multiplies with which of the action; without any,
            what is good of an action is so for everybody. `observation` names a vector.
    """

    model: Literal["disjoint", "shared", "hybrid"] = Field(
        default="disjoint", description="what actions have in common"
    )
    crosses: tuple[tuple[str, str], ...] = Field(
        default=(), description="pairs [feature of the observation, feature of the action]"
    )

    agent_alpha: float = Field(default=1.0, ge=0, description="width of the confidence bound")
    tikhonov_weight: float = Field(
        default=1.0, gt=0, description="ridge penalty, relative to the features' mean squares; never discounted"
    )
    half_life: float = Field(default=0.0, ge=0, description="of a row's weight, in interactions; 0: it never decays")

    @property
    def numbers(self) -> dict[str, float]:
        """The hyperparameters that forms and pipelines take; the rest is the YAML's alone."""
        return {name: float(getattr(self, name)) for name in ("agent_alpha", "tikhonov_weight", "half_life")}


class Serving(Frozen):
    """How the prediction server answers: exploration, where it listens, durability and limits.

    Attributes:
        durability: whether an answer waits until its decision is on the message bus.
        publish_deadline_s: how long it waits at most, in seconds; then 503.
        max_body_bytes, max_instances: of one request; more is refused.
    """

    epsilon: float = Field(default=0.05, gt=0, le=1, description="uniform exploration floor; never 0: logs need it")
    host: str = Field(default="127.0.0.1", description="the address that it listens at")
    port: int = Field(
        default=8471,
        ge=1,
        le=65535,
        description="BANDIT_SERVER_PORT goes before it; `make up` takes the next free one above",
    )
    durability: Literal["durable", "best_effort"] = "durable"
    publish_deadline_s: Seconds = 2.0
    max_body_bytes: int = Field(default=4_194_304, ge=1024)
    max_instances: int = Field(default=1024, ge=1)
    max_concurrency: int = Field(default=256, ge=1, description="requests at work at once; more are answered 503")
    request_timeout_s: Seconds = Field(default=10.0, description="for a request to arrive whole; then 408")
    defer_activation: bool = Field(default=False, description="decisions train only once their use was confirmed")
    cold_start: Literal["uniform", "refuse"] = Field(
        default="uniform", description="before the first policy: choose uniformly at random, or answer 503"
    )


class Join(Frozen):
    """How decisions and rewards are joined.

    Attributes:
        reward_wait_s: how long a decision stays open for its reward, in seconds by the bus's clock.
    """

    reward_wait_s: Seconds = 60.0
    close_early: bool = Field(default=False, description="only for worlds where every decision earns a reward")


class Validation(Frozen):
    """When the ingester stops: how large a share of rows may break a rule."""

    max_quarantined_share: float = Field(
        default=0.01, ge=0, lt=1, description="of the rows of a run; with more of them nothing is trained"
    )
    other_policies: tuple[str, ...] = Field(
        default=(), description="policies that the log may name besides the registry's: those of an imported log"
    )


class Retention(Frozen):
    """How long the raw log is kept; interactions stay, since a full retrain reads them all."""

    raw_log_days: float | None = Field(
        default=None,
        gt=0,
        le=36_600,
        description="decisions, rewards and what was set apart are deleted when older; null: never",
    )
    bus_hours: float = Field(
        default=24.0,
        gt=0,
        le=24 * 366,
        description="backend local: for so long a repeated event_id gets its first answer",
    )


class Startup(Frozen):
    """What the first policy learns from.

    Attributes:
        source: simulated interactions, or those that are logged already; left out, what there is an environment for.
        rounds: how many interactions to simulate.
    """

    source: Literal["simulation", "log"] = "simulation"
    rounds: int = Field(default=200, ge=1)
    seed: int = Field(default=1, description="of the simulation; the same seed gives the same interactions")


class Retrain(Frozen):
    """When to retrain, and how patiently.

    Attributes:
        schedule: of the DAG: a preset as @hourly, or five fields of cron.
        min_new_interactions: how many open the gate.
        gate_timeout_s: how long a run waits in its gate before it skips, in seconds.
        poke_interval_s: seconds between two looks of the gate, and of a task at its pipeline job.
        run_timeout_s: how long a task waits for its pipeline job, in seconds.
    """

    schedule: Schedule | None = "@continuous"
    min_new_interactions: int = Field(default=1000, ge=1)
    gate_timeout_s: Seconds = 120.0
    poke_interval_s: Seconds = 5.0
    run_timeout_s: Seconds = 3600.0


class Simulate(Frozen):
    """Simulated traffic by schedule.

    Attributes:
        enabled: whether the schedule holds; by hand it always works.
        schedule: as retrain.schedule.
        decisions: how many users a run sends, one decision each.
        concurrency: how many of them at a time.
    """

    enabled: bool = False
    schedule: Schedule | None = "*/10 * * * *"
    decisions: int = Field(default=1000, ge=1)
    concurrency: int = Field(default=16, ge=1, le=256)


class Bandit(Frozen):
    """The definition of one bandit, read from `dags/bandits/<name>.yaml`; every program and DAG takes one.

    Attributes:
        name: of the file, and what its DAGs begin with.
        prefix, pipe_version: together they name everything that the bandit owns; another version begins another log.
        backend: where data lives.
        runner: what starts pipelines.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    prefix: Name
    pipe_version: Name
    backend: Literal["local", "gcp"] = "local"
    runner: Literal["local", "vertex"] = "local"
    problem: Problem
    environment: Environment | None = Field(default=None, description="the simulated world, for bandits that have one")
    agent: Agent = Agent()
    serving: Serving = Serving()
    join: Join = Join()
    validation: Validation = Validation()
    retention: Retention = Retention()
    startup: Startup = Startup()
    retrain: Retrain = Retrain()
    simulate: Simulate = Simulate()
    google: Google | None = None
    enable_caching: bool = Field(default=True, description="what the forms of the DAGs begin with")

    @model_validator(mode="before")
    @classmethod
    def _source_that_there_is(cls, given: Any) -> Any:
        """Without an environment the log is all that a startup can learn from."""
        if isinstance(given, dict) and given.get("environment") is None and isinstance(given.get("startup", {}), dict):
            return {**given, "startup": {"source": "log", **given.get("startup", {})}}
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if wrong := list(self._contradictions()):
            raise ValueError("\n".join(wrong))
        return self

    def _contradictions(self) -> Iterator[str]:
        if self.startup.source == "simulation" and self.environment is None:
            yield "startup.source=simulation needs an environment; add one or set startup.source: log"
        if isinstance(self.environment, MovieLens) and self.problem.features:
            yield "environment: movielens observes numbers, not named features; leave one of them out"
        if (self.backend == "gcp" or self.runner == "vertex") and self.google is None:
            yield f"backend={self.backend} with runner={self.runner} needs a section google with at least a project"
        yield from self._contradictory_model()
        days, least = self.retention.raw_log_days, 7 + self.join.reward_wait_s / 86_400
        if days is not None and days <= least:
            yield (
                f"retention.raw_log_days={days:g} must exceed join.reward_wait_s and 7 days more ({least:.3g} days): "
                "what is open, or late after an outage, must not be deleted"
            )
        if self.runner == "vertex" and self.backend == "local":
            yield "runner=vertex can't reach backend=local on this machine; set backend: gcp"

    def _contradictory_model(self) -> Iterator[str]:
        agent, problem = self.agent, self.problem
        if agent.model != "disjoint" and not problem.action_features:
            yield f"agent.model={agent.model} shares by problem.action_features; declare them, or set model: disjoint"
        if agent.model != "disjoint" and not problem.has_intercept:
            yield f"agent.model={agent.model} needs problem.intercept: true"
        if agent.crosses and agent.model == "disjoint":
            yield "agent.crosses are of the models shared and hybrid; set agent.model, or leave them out"
        for of_user, of_action in agent.crosses:
            rule = "a pair is [feature of the observation, feature of the action]"
            if of_user not in problem.observed_names:
                known = ", ".join(problem.observed_names)
                yield f"agent.crosses has {of_user!r}, which is not observed ({known}); {rule}"
            if of_action not in problem.action_features:
                known = ", ".join(problem.action_features)
                yield f"agent.crosses has {of_action!r}, which is not among problem.action_features ({known}); {rule}"

    @property
    def id(self) -> str:
        """`{prefix}-{pipe_version}`: names every folder, table, endpoint and policy of this bandit."""
        return f"{self.prefix}-{self.pipe_version}"

    def pipeline_name(self, pipeline: Literal["startup", "retrain"]) -> str:
        """Name a pipeline of this bandit: the scope of the pipeline cache."""
        return f"{self.prefix}-{pipeline}-{self.pipe_version}"

    def job_json(self) -> str:
        """Write canonical JSON for pipeline steps, a part of every cache key, without what only the schedule needs.

        Packed where it would be too long for a step's command line.
        """
        return packed(self.model_dump_json(exclude=_CONTROL_ONLY))

    @classmethod
    def from_json(cls, text: str) -> Bandit:
        """Read a bandit's JSON, packed or not. Raises ConfigError."""
        bandit, wrong = _validated(cls, _json(text))
        if bandit is None:
            raise ConfigError(f"bandit: {wrong[0]}" + (f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""))
        return bandit

    @classmethod
    def from_yaml(cls, path: Path) -> Bandit:
        """Read a bandit's YAML. Raises ConfigError naming the file, the field and the rule of the first fault."""
        bandit, wrong = cls.read(path)
        if bandit is None:
            more = f"; and {len(wrong) - 1} more: `banditloop check` names them" if len(wrong) > 1 else ""
            raise ConfigError(wrong[0] + more)
        return bandit

    @classmethod
    def read(cls, path: Path) -> tuple[Bandit | None, list[str]]:
        """Read a bandit's YAML; or return all that is wrong with it, each in a line with file, field and rule."""
        try:
            loaded = read_yaml(path)
        except ConfigError as error:
            return None, [str(error)]
        bandit, wrong = _validated(cls, loaded)
        if isinstance(loaded, dict) and (name := loaded.get("name", path.stem)) != path.stem:
            wrong.append(f"name is {name!r} but the file is called {path.name}; make them equal")
        return (None if wrong else bandit), [f"{path}: {one}" for one in wrong]


def _json(text: str) -> Any:
    try:
        return json.loads(unpacked(text))
    except ValueError as error:
        raise ConfigError(f"bandit: not JSON ({error})") from error


def _validated(cls: type[Bandit], loaded: Any) -> tuple[Bandit | None, list[str]]:
    """The bandit, or what is wrong."""
    if not isinstance(loaded, dict):
        return None, [f"expected a mapping of settings, got {type(loaded).__name__}"]
    try:
        return cls.model_validate(loaded), []
    except ValidationError as error:
        return None, faults(error, cls)


class Settings(Frozen):
    """Where this process runs: the `BANDIT_*` variables, listed in `.env.example`; every program reads them once."""

    model_config = ConfigDict(hide_input_in_errors=True)  # it may be the token

    home: Path = Path("var")
    movielens_dir: Path | None = None
    job_python: str = sys.executable
    server_port: int | None = Field(default=None, ge=1, le=65535)
    server_url: str | None = Field(default=None, pattern=r"^http://[^/\s]+$")
    server_token: SecretStr | None = Field(default=None, description="what clients of the prediction server must show")
    airflow_port: int = Field(default=8088, ge=1, le=65535)
    airflow_db: Literal["auto", "postgres", "sqlite"] = "auto"
    google_endpoint: str | None = Field(default=None, pattern=r"^http://[^/\s]+$")
    pubsub_emulator_host: str | None = Field(default=None, pattern=r"^[^:/\s]+:\d+$")
    image: str | None = None
    definition: str | None = None
    policy_version: str | None = None

    @field_validator("server_token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not _TOKEN.fullmatch(token.get_secret_value()):
            raise ValueError(
                f"got {len(token)} characters; a token has 16 to 256 letters, digits or any of -._~+/=, no blanks: "
                "make one with `openssl rand -hex 32`"
            )
        return token

    @classmethod
    def from_environment(cls) -> Settings:
        """Read every `BANDIT_*` variable once; unknown ones are an error, so a typo can't be ignored.

        Raises:
            ConfigError: names the variable, what it held and the rule.
        """
        given = {k: v for k, v in os.environ.items() if k.startswith("BANDIT_") and v != ""}
        known = {f"BANDIT_{field.upper()}": field for field in cls.model_fields}
        for name in given:
            if name not in known:
                raise ConfigError(f"{name} is not a setting; the settings are {', '.join(sorted(known))}")
        try:
            settings = cls.model_validate({known[name]: value for name, value in given.items()})
        except ValidationError as error:
            first = error.errors()[0]
            name = f"BANDIT_{str(first['loc'][0]).upper()}"
            got = "" if name == "BANDIT_SERVER_TOKEN" else f"={given.get(name)!r}"
            raise ConfigError(f"{name}{got}: {first['msg']}") from error
        # Children have other working directories, so a relative path must be made absolute here.
        paths = {name: value.expanduser().absolute() for name, value in settings if isinstance(value, Path)}
        python = settings.job_python
        return settings.model_copy(update=paths | {"job_python": os.path.abspath(python) if "/" in python else python})

    def variables(self) -> dict[str, str]:
        """Return the environment of a child with these settings: absolute paths, and the token as it is."""
        given = {field: value for field, value in self if value is not None}
        plain = {
            field: value.get_secret_value() if isinstance(value, SecretStr) else value for field, value in given.items()
        }
        paths = {field: value.absolute() for field, value in plain.items() if isinstance(value, Path)}
        return {f"BANDIT_{field.upper()}": str(value) for field, value in (plain | paths).items()}

    def state_dir(self, bandit: Bandit) -> Path:
        """Return `$BANDIT_HOME/{prefix}-{pipe_version}`, where the local backend keeps everything of a bandit."""
        return self.home / bandit.id

    def server_port_of(self, bandit: Bandit) -> int:
        """Return the port of the bandit's server: BANDIT_SERVER_PORT, else serving.port."""
        return self.server_port or bandit.serving.port

    def bandit(self, name: str | None) -> Bandit:
        """Load the bandit that BANDIT_DEFINITION holds, as on Vertex AI, else the named one. Raises ConfigError."""
        if self.definition is not None:
            return Bandit.from_json(self.definition)
        if name is None:
            raise ConfigError("which bandit? give its YAML, its name in dags/bandits, or its JSON in BANDIT_DEFINITION")
        return Bandit.from_yaml(self.bandit_path(name))

    def bandit_path(self, name: str) -> Path:
        """Find a bandit's YAML by name, or take the path that is given. Raises ConfigError naming the known bandits."""
        if name.endswith((".yaml", ".yml")):
            return Path(name).absolute()
        path = BANDITS / f"{name}.yaml"
        if not path.exists():
            known = ", ".join(sorted(found.stem for found in BANDITS.glob("*.yaml"))) or "none"
            raise ConfigError(f"no bandit called {name!r} in {BANDITS}; there are: {known}. Or give the path of a YAML")
        return path

    def bandit_paths(self, names: Sequence[str]) -> list[Path]:
        """Find the YAMLs of some bandits; of all in `dags/bandits` where none is named. Raises ConfigError."""
        paths = [self.bandit_path(name) for name in names] or sorted(BANDITS.glob("*.yaml"))
        if not paths:
            raise ConfigError(f"{BANDITS} holds no *.yaml; give the path of one")
        return paths


class ServingContainer(Frozen):
    """The variables that Vertex AI sets in a custom container; all defaults where it did not start us.

    https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
    """

    http_port: int | None = Field(default=None, ge=1, le=65535)
    health_route: str = Field(default="/health", pattern=r"^/[^\s{}?#]*$")
    predict_route: str = Field(default="/predict", pattern=r"^/[^\s{}?#]*$")
    storage_uri: str | None = Field(default=None, description="one policy artefact to serve instead of the registry's")

    @classmethod
    def from_environment(cls) -> ServingContainer:
        """Read `AIP_HTTP_PORT`, `AIP_HEALTH_ROUTE`, `AIP_PREDICT_ROUTE`, `AIP_STORAGE_URI`. Raises ConfigError."""
        variables = {f"AIP_{field.upper()}": field for field in cls.model_fields}
        given = {name: os.environ[name] for name in variables if os.environ.get(name)}
        try:
            return cls.model_validate({variables[name]: value for name, value in given.items()})
        except ValidationError as error:
            first = error.errors()[0]
            name = f"AIP_{str(first['loc'][0]).upper()}"
            raise ConfigError(f"{name}={given.get(name)!r}: {first['msg']}") from error

    @property
    def remote_artefact(self) -> str | None:
        """The folder in Cloud Storage that `AIP_STORAGE_URI` names."""
        return self.storage_uri if self.storage_uri and self.storage_uri.startswith("gs://") else None

    @property
    def artefact(self) -> Path | None:
        """The folder on this machine that it names. Raises ConfigError for anything but a path, file:// or gs://."""
        if self.storage_uri is None or self.remote_artefact is not None:
            return None
        if "://" in (path := self.storage_uri.removeprefix("file://")):
            raise ConfigError(f"AIP_STORAGE_URI={self.storage_uri!r}: only a path, file:// or gs:// can be served")
        return Path(path)
