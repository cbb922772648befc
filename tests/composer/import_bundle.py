"""Run by the interpreter of an environment that stands for Composer: imports a bundle as Airflow does, prints JSON.

    python import_bundle.py BUNDLE

The environment says where Airflow's home and folders are; `BUNDLE/plugins` is on sys.path, as in Composer.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAVY = ("tensorflow", "kfp", "deltalake", "duckdb", "pandas", "pyarrow", "google.cloud.aiplatform", "googleapiclient")


def parsed(folder: Path) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    before, began = set(sys.modules), time.monotonic()
    bag = DagBag(folder, bundle_path=folder, bundle_name="dags")
    return {
        "parse_s": time.monotonic() - began,
        "import_errors": {Path(path).name: error for path, error in bag.import_errors.items()},
        "dags": {dag_id: sorted(dag.task_ids) for dag_id, dag in bag.dags.items()},
        "serialized": {
            dag_id: sorted(DagSerialization.from_dict(DagSerialization.to_dict(dag)).task_ids)
            for dag_id, dag in bag.dags.items()
        },
        "heavy": sorted(name for name in set(sys.modules) - before if name in HEAVY),
    }


def plugins(folder: Path) -> dict[str, Any]:
    """`scanned`: files of the folder that Airflow executed, which makes each a module of its bare stem."""
    from airflow import plugins_manager

    loaded, errors = plugins_manager._get_plugins()
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    stems = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - packages}
    scanned = sorted(name for name, file in stems.items() if "." not in name and file.startswith(f"{folder}/"))
    return {"plugins": [plugin.name for plugin in loaded], "errors": errors, "scanned": scanned}


def sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Our modules: dotted name and file."""
    for path in sorted(folder.rglob("*.py")):
        yield ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"), path


def not_importable(folder: Path) -> dict[str, str]:
    found = {}
    for name, _ in sources(folder):
        try:
            importlib.import_module(name)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def unknown_to_the_provider(path: Path) -> Iterator[str]:
    """What this file imports from a provider, calls on it, or passes to it, and the installed version lacks."""
    tree, known = ast.parse(path.read_bytes()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow.providers."):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if hasattr(module, alias.name):
                    known[alias.asname or alias.name] = getattr(module, alias.name)
                else:
                    yield f"{path.name}: {node.module} has no {alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (called := _called(node, known)) is not None:
            accepted = _arguments(called)
            for keyword in node.keywords:
                if keyword.arg is not None and keyword.arg not in accepted:
                    yield f"{path.name}:{node.lineno}: {ast.unparse(node.func)} takes no {keyword.arg}"


def _called(node: ast.Call, known: dict[str, Any]) -> Any:
    """The provider's class, function or method that is called, as in `Hook(…)` and `Hook(…).method(…)`."""
    if isinstance(node.func, ast.Name):
        return known.get(node.func.id)
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
        owner = _called(node.func.value, known)
        return None if owner is None else getattr(owner, node.func.attr)
    return None


def _arguments(called: Any) -> set[str]:
    """Named parameters; of a class, those of every constructor it hands `**kwargs` on to."""
    functions = [vars(c).get("__init__", c) for c in called.__mro__] if inspect.isclass(called) else [called]
    functions = [f for f in functions if not inspect.isclass(f) and f is not object.__init__]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name for f in functions for p in inspect.signature(f).parameters.values() if p.kind not in kinds}


def main(bundle: Path) -> dict[str, Any]:
    provider = importlib.import_module("airflow.providers.google")
    files = [path for _, path in sources(bundle / "plugins")]
    return {
        "provider": provider.__version__,
        "parsing": parsed(bundle / "dags"),
        "plugins": plugins(bundle / "plugins"),
        "not_importable": not_importable(bundle / "plugins"),
        "unknown_to_the_provider": [problem for path in files for problem in unknown_to_the_provider(path)],
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(Path(sys.argv[1]))))
