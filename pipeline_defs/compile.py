"""Writes the pipelines and components as YAML, or checks that what is committed is current.

python -m pipeline_defs.compile            writes pipeline_defs/compiled/
python -m pipeline_defs.compile --check    exits with 1 and a diff where it is stale
"""

import argparse
import difflib
import sys
import tempfile
from pathlib import Path
from typing import Any

from kfp import compiler

from pipeline_defs.components.deployer import deployer
from pipeline_defs.components.evaluator import evaluator
from pipeline_defs.components.exporter import exporter
from pipeline_defs.components.generator import generator
from pipeline_defs.components.ingester import ingester
from pipeline_defs.components.trainer import trainer
from pipeline_defs.retrain import retrain
from pipeline_defs.startup import startup

COMPILED = Path(__file__).parent / "compiled"

SOURCES: dict[str, Any] = {
    "startup.yaml": startup,
    "retrain.yaml": retrain,
    "components/generator.yaml": generator,
    "components/ingester.yaml": ingester,
    "components/trainer.yaml": trainer,
    "components/evaluator.yaml": evaluator,
    "components/deployer.yaml": deployer,
    "components/exporter.yaml": exporter,
}


def compiled() -> dict[str, str]:
    """Compile each file, by its path within COMPILED; the same sources and kfp version give the same text."""
    texts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, source in SOURCES.items():
            path = Path(folder, Path(name).name)
            compiler.Compiler().compile(source, package_path=str(path))
            texts[name] = path.read_text()
    return texts


def write(folder: Path = COMPILED) -> None:
    """Write all files into the folder."""
    for name, text in compiled().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def stale(folder: Path = COMPILED) -> list[str]:
    """Return the first 20 lines of a unified diff for each file that is missing, outdated or no longer made."""
    wanted = compiled()
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.yaml")}
    diffs = []
    for name in sorted(wanted.keys() | found.keys()):
        old, new = found.get(name, ""), wanted.get(name, "")
        if old != new:
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "committed", "current", lineterm="")
            diffs.append("\n".join([f"{name} is stale:", *list(lines)[:20]]))
    return diffs


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status, 1 where a file is stale."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_defs.compile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is stale")
    if not parser.parse_args(arguments).check:
        write()
        return 0
    diffs = stale()
    for diff in diffs:
        print(diff)
    if diffs:
        print(f"{len(diffs)} stale file(s) in {COMPILED}; run `python -m pipeline_defs.compile` and commit them.")
    return 1 if diffs else 0


if __name__ == "__main__":
    sys.exit(main())
