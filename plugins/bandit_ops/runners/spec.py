"""Fills in the compiled pipeline at submit: its name (the scope of the cache), image, sizes; checks parameters."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

import rl_core
from bandit_ops.runners.base import Parameters, Pipeline
from rl_core.config import Bandit
from rl_core.environment_config import PythonWorld
from rl_core.errors import RunnerError

ROOT = Path(rl_core.__file__).absolute().parent.parent
"""Holds rl_core and pipeline_defs: the repository, site-packages, or plugins/ on Composer."""

_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
}


_LONGEST = 120_000
"""Bytes that KFP writes into one argument of a step, for which Linux has 131,072; the rest is for its outputs."""


def is_installed(root: Path) -> bool:
    """Tell whether the code in `root` is an installed wheel."""
    return any(root.glob("banditloop-*.dist-info"))


def load(root: Path, pipeline: Pipeline) -> dict[str, Any]:
    """Read a compiled pipeline. Raises RunnerError where it was not compiled."""
    path = root / "pipeline_defs" / "compiled" / f"{pipeline}.yaml"
    try:
        loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RunnerError(f"{path}: {error.strerror}; run `python -m pipeline_defs.compile`") from error
    return loaded


def fill(spec: dict[str, Any], pipeline_name: str, image: str, environment: dict[str, str]) -> None:
    """Set the name, and every step's image and environment, which are part of the cache key."""
    spec["pipelineInfo"]["name"] = pipeline_name
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = image
        executor["container"]["env"] = [{"name": key, "value": value} for key, value in sorted(environment.items())]


def size(spec: dict[str, Any], cpu: str | None, memory: str | None) -> None:
    """Set the limits of every step, e.g. "4" and "16G"; in cores and GB too, as KFP's compiler writes them."""
    limits: dict[str, str | float] = {}
    if cpu is not None:
        limits |= {"resourceCpuLimit": cpu, "cpuLimit": float(cpu)}
    if memory is not None:
        limits |= {"resourceMemoryLimit": memory, "memoryLimit": gigabytes(memory)}
    if limits:
        for executor in spec["deploymentSpec"]["executors"].values():
            executor["container"].setdefault("resources", {}).update(limits)


def gigabytes(quantity: str) -> float:
    """Convert a Kubernetes quantity to units of 10⁹ bytes: "1Gi" is 1.073741824."""
    number = float(quantity.rstrip("KMGTi"))
    unit = quantity.lstrip("0123456789.")
    base = 1024 if unit.endswith("i") else 1000
    return float(number * base ** ("KMGT".index(unit[0]) + 1) / 10**9)


def cache_where_compiled(spec: dict[str, Any], enable_caching: bool) -> None:
    """Switch caching off for every step, or leave each as it was compiled."""
    if not enable_caching:
        for task in spec["root"]["dag"]["tasks"].values():
            task["cachingOptions"] = {}


def generate_anew(spec: dict[str, Any], bandit: Bandit) -> None:
    """Never take from the cache what somebody's class generated: its code is in no key, and nobody imports it here.

    The generator finds its rows of before by itself, so that what follows it may still be cached.
    """
    task = spec["root"]["dag"]["tasks"].get("generator")
    if task is not None and isinstance(bandit.environment, PythonWorld):
        task["cachingOptions"] = {}


def checked(spec: dict[str, Any], pipeline: Pipeline, parameters: Parameters) -> Parameters:
    """Return the parameters in the types that the pipeline declares.

    1 is 1.0 to a step that takes a float, and to the cache.

    Raises:
        RunnerError: names a parameter that is missing, unknown or of another type.
    """
    declared = spec["root"]["inputDefinitions"]["parameters"]
    unknown = sorted(parameters.keys() - declared.keys())
    missing = sorted(
        name for name, rule in declared.items() if name not in parameters and not rule.get("isOptional", False)
    )
    if unknown or missing:
        raise RunnerError(
            f"pipeline {pipeline} takes the parameters {', '.join(sorted(declared))}; "
            f"got unknown {unknown or 'none'}, missing {missing or 'none'}"
        )
    for name, value in parameters.items():
        wanted = declared[name]["parameterType"]
        if not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "BOOLEAN"):
            raise RunnerError(f"pipeline {pipeline}: parameter {name} is a {wanted}, got {value!r}")
    doubles = {name for name in parameters if declared[name]["parameterType"] == "NUMBER_DOUBLE"}
    return {name: float(value) if name in doubles else value for name, value in parameters.items()}


def refuse_too_long(parameters: Parameters, bandit: Bandit) -> None:
    """Raise RunnerError where no step could be started with the parameters, since there are so many actions."""
    if (length := len(json.dumps(parameters))) > _LONGEST:
        lengths = ", ".join(f"{name} {len(str(one)):,}" for name, one in parameters.items() if len(str(one)) > 999)
        raise RunnerError(
            f"the pipeline's parameters are {length:,} bytes long ({lengths}), and a step takes {_LONGEST:,}: with "
            f"{bandit.problem.num_actions:,} actions, use fewer or shorter action ids, or fewer windows"
        )


def code_digest(root: Path) -> str:
    """Hash what a step executes (SHA-256): the code of rl_core and pipeline_defs, and the job's locked dependencies.

    An installed wheel has no lock: empty the cache after other versions of the dependencies were installed.
    """
    digest = hashlib.sha256()
    sources = [*root.glob("rl_core/**/*.py"), *root.glob("pipeline_defs/**/*.py"), root / "requirements" / "job.txt"]
    for path in sorted(sources):
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
