"""Nothing that runs code when it is read: no pickle, by whatever name, anywhere in the repository."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle", "torch"}
LOADERS = {"read_pickle", "to_pickle", "load_npz", "unsafe_load", "full_load"}


def findings(source: str) -> list[str]:
    """What of a module's source pickles, or could."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Call):
            names = _of_call(node)
        found += [f"line {getattr(node, 'lineno', 0)}: {name}" for name in names if _pickles(name)]
    return found


def _pickles(name: str) -> bool:
    return name.partition(".")[0] in MODULES or name in LOADERS | {"allow_pickle", "yaml.load", "__import__"}


def _of_call(call: ast.Call) -> list[str]:
    called = ast.unparse(call.func)
    allowing = [
        keyword.arg or ""
        for keyword in call.keywords
        if keyword.arg == "allow_pickle"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    imported = call.args[:1] if called in {"importlib.import_module", "__import__"} else []
    literal = [str(one.value) for one in imported if isinstance(one, ast.Constant)]
    return [called.rpartition(".")[2] if called.rpartition(".")[2] in LOADERS else called, *allowing, *literal]


def test_the_repository_pickles_nothing(repo: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=repo, capture_output=True, text=True, check=True).stdout
    sources = [repo / name for name in tracked.splitlines() if (repo / name).exists()]
    assert len(sources) > 200
    wrong = {str(path.relative_to(repo)): found for path in sources if (found := findings(path.read_text()))}
    assert not wrong, f"{wrong}: JSON, npz (rl_core/bandit/npz.py), Parquet or TFRecord carry data and run nothing"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "import joblib as j",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "pd.read_pickle(path)",
        "import importlib\nimportlib.import_module('cloudpickle')",
        "import marshal",
        "import torch\ntorch.load(path)",
        "yaml.load(text)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert findings(source)


def test_the_search_lets_pass() -> None:
    assert not findings("import numpy as np\nnp.load(path, allow_pickle=False)\njson.load(file)\nyaml.safe_load(text)")
