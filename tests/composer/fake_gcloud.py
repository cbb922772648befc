"""A `gcloud` whose bucket is a folder and whose Airflow looks whether each DAG file finds the plugins it imports.

FAKE_GCLOUD names the folder: `bucket/` holds dags/, plugins/, data/; `calls` gets a line per call; `airflow` may hold
"2.10" (too old a gcloud); `broken` gets the commands after which a DAG file in the bucket could not have been loaded.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_GCLOUD"])
BUCKET = STATE / "bucket"
URL = "gs://europe-west1-bandits-0a1b2c3d-bucket"


def import_errors() -> list[str]:
    found = []
    for path in sorted((BUCKET / "dags").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bandit_ops"):
                module = BUCKET / "plugins" / str(node.module).replace(".", "/")
                if not (module.with_suffix(".py").exists() or (module / "__init__.py").exists()):
                    found.append(f"dags-folder {path.name} ModuleNotFoundError: No module named {node.module!r}")
    return found


def local(text: str) -> Path:
    return BUCKET / text.removeprefix(f"{URL}/") if text.startswith("gs://") else Path(text)


def composer(arguments: list[str]) -> int:
    if arguments[:2] == ["environments", "describe"]:
        if arguments[2] != "prod" or arguments[arguments.index("--location") + 1] != "europe-west1":
            print("ERROR: NOT_FOUND: environment", file=sys.stderr)
            return 1
        print(f"{URL}/dags")
        return 0
    assert arguments[:2] == ["environments", "run"]
    if (STATE / "no_airflow_3").exists():
        print("ERROR: Cannot execute subcommand dags. Supported Airflow versions: [1.10.14, 3.0.0)", file=sys.stderr)
        return 1
    assert arguments[arguments.index("dags") :] == ["dags", "list-import-errors", "--", "--output", "plain"]
    print("\n".join(import_errors()) or "No data found")
    return 0


def storage(command: str, arguments: list[str]) -> int:
    paths = [text for text in arguments if not text.startswith("--")]
    if command == "cat":
        if not local(paths[0]).exists():
            print("ERROR: (gcloud.storage.cat) The following URLs matched no objects or files", file=sys.stderr)
            return 1
        print(local(paths[0]).read_text(), end="")
        return 0
    if command == "rsync":
        assert "--delete-unmatched-destination-objects" not in arguments
        shutil.copytree(local(paths[0]), local(paths[1]), dirs_exist_ok=True)
    elif command == "rm":
        local(paths[0]).unlink()
    else:
        assert command == "cp"
        shutil.copy(local(paths[0]), local(paths[1]))
    if import_errors():
        with (STATE / "broken").open("a") as broken:
            broken.write(f"{command} {' '.join(paths)}\n")
    return 0


def main(arguments: list[str]) -> int:
    with (STATE / "calls").open("a") as calls:
        calls.write(" ".join(arguments) + "\n")
    without_project = [text for text in arguments if not text.startswith("my-project") and text != "--project"]
    if without_project[0] == "composer":
        return composer(without_project[1:])
    assert without_project[0] == "storage"
    return storage(without_project[1], without_project[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
