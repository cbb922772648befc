"""Writes the sources of the Cloud Functions: `dist/functions/<bandit>.zip`, one for each bandit with backend gcp.

    make functions-bundle
    .venv/bin/python -m scripts.functions_bundle --bandits path/to/prod/bandits

main.py            entry points log_event and simulate
requirements.txt   hashed
bandit/            the bandit's YAML
rl_core/           the modules that the entry points need

Equal sources give equal bytes.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

from rl_core.backends import backend_class
from rl_core.config import Bandit
from rl_core.errors import BanditError
from scripts.composer_bundle import needed

REPO = Path(__file__).resolve().parent.parent
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # a zip's own; the time of day would change the bytes


def contents(yaml: Path, repo: Path = REPO) -> dict[str, bytes]:
    """Collect the archive's files by name."""
    main = repo / "functions" / "main.py"
    files = {
        "main.py": main.read_bytes(),
        "requirements.txt": (repo / "requirements" / "functions.txt").read_bytes(),
        f"bandit/{yaml.name}": yaml.read_bytes(),
    }
    return files | {path.relative_to(repo).as_posix(): path.read_bytes() for path in needed(repo, [main])}


def write(path: Path, files: dict[str, bytes]) -> None:
    """Write the archive; equal files give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:  # stored: what a compressor writes depends on its version
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _BEGINNING)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=REPO / "dist" / "functions", help="default: dist/functions")
    parser.add_argument("--bandits", type=Path, default=REPO / "dags" / "bandits", help="folder of the YAMLs")
    args = parser.parse_args(arguments)
    written = 0
    for yaml in sorted(args.bandits.glob("*.yaml")):
        try:
            bandit = Bandit.from_yaml(yaml)
        except BanditError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if "functions" in backend_class(bandit).PARTS:
            path = args.out / f"{bandit.name}.zip"
            write(path, files := contents(yaml))
            print(f"{path}: {len(files)} files, {path.stat().st_size / 1024:,.0f} KiB")
            written += 1
    if not written:
        print(f"note: no bandit in {args.bandits} has backend: gcp; there is nothing to deploy", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
