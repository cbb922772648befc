"""Writes what goes into the folders of a Cloud Composer environment: `dist/composer/{dags,plugins,data}`.

    make composer-bundle
    .venv/bin/python scripts/composer_bundle.py --bandits path/to/prod/bandits

dags/       the DAG files, and bandits/*.yaml
plugins/    bandit_plugin.py, .airflowignore, bandit_ops, the modules of rl_core that it needs, the compiled pipelines.
            Composer puts this folder on sys.path of workers, scheduler, DAG processor and web server
data/       banditloop/: VERSION, FILES (what an update may remove later), pipelines/ and functions/ for people

Equal sources give equal bytes. `scripts/deploy_composer.sh` uploads it.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parent.parent
FOLDERS = ("dags", "plugins", "data")
OURS = Path("data/banditloop")
PIPELINES = ("startup", "retrain")

Files = dict[Path, bytes]
"""Contents by path within the bundle."""


def contents(repo: Path = REPO, bandits: Path | None = None) -> Files:
    """Collect every file of the bundle. `bandits` replaces the repository's folder of YAMLs, as for prod beside dev."""
    code = _dags(repo, bandits or repo / "dags" / "bandits") | _plugins(repo)
    files = code | _data(repo)
    files[OURS / "VERSION"] = f"commit {_commit(repo)}\ncode sha256:{_digest(code)}\n".encode()
    files[OURS / "FILES"] = b""
    files[OURS / "FILES"] = "".join(f"{path}\n" for path in sorted(files)).encode()
    return dict(sorted(files.items()))


def write(out: Path, files: Files) -> None:
    """Replace `out` by the files. Raises SystemExit where `out` holds something that is no bundle."""
    strangers = sorted(path.name for path in out.glob("*") if path.name not in FOLDERS)
    if strangers:
        raise SystemExit(f"error: {out} holds {strangers[0]}, so it is no bundle; give another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    for path, content in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(content)


def _dags(repo: Path, bandits: Path) -> Files:
    yamls = {Path("dags/bandits", path.name): path.read_bytes() for path in bandits.glob("*.yaml")}
    if not yamls:
        raise SystemExit(f"error: {bandits} holds no *.yaml; describe a bandit there, or name another --bandits")
    return {Path("dags", path.name): path.read_bytes() for path in (repo / "dags").glob("*.py")} | yamls


def _plugins(repo: Path) -> Files:
    own = repo / "plugins"
    sources = [own / "bandit_plugin.py", own / ".airflowignore", *_sources(own / "bandit_ops")]
    files = {path.relative_to(repo): path.read_bytes() for path in sources}
    files |= {Path("plugins", path.relative_to(repo)): path.read_bytes() for path in needed(repo, sources)}
    # Beside rl_core, where bandit_ops.runners.spec looks for them.
    compiled = (Path("pipeline_defs", "compiled", f"{name}.yaml") for name in PIPELINES)
    return files | {Path("plugins", path): (repo / path).read_bytes() for path in compiled}


def _data(repo: Path) -> Files:
    compiled = {f"pipelines/{name}.yaml": repo / "pipeline_defs" / "compiled" / f"{name}.yaml" for name in PIPELINES}
    functions = {f"functions/{path.name}": path for path in (repo / "dist" / "functions").glob("*.zip")}
    return {OURS / name: path.read_bytes() for name, path in (compiled | functions).items()}


def needed(repo: Path, sources: list[Path]) -> list[Path]:
    """Find the files of rl_core that these sources import, at the top or inside a function, directly or through others.

    A package's files that are not Python (SQL) come with it.
    """
    waiting = [path for path in sources if path.suffix == ".py"]
    found: set[Path] = set()
    while waiting:
        for module in _imports(waiting.pop()):
            for path in _files_of(repo, module) - found:
                found.add(path)
                if path.suffix == ".py":
                    waiting.append(path)
    return sorted(found)


def _imports(path: Path) -> Iterator[str]:
    """Dotted names below rl_core; `from a import b` gives a.b too, which may be a module."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "rl_core")


def _files_of(repo: Path, module: str) -> set[Path]:
    """The module's file and those of the packages around it; nothing where the name is no module."""
    parts = module.split(".")
    file = repo.joinpath(*parts).with_suffix(".py")
    package = file if file.exists() else repo.joinpath(*parts, "__init__.py")
    if not package.exists():
        return set()
    around = {repo.joinpath(*parts[:depth]) for depth in range(1, len(parts))} | {package.parent}
    return {package} | {path for folder in around for path in _beside(folder) if _comes_along(path)}


def _beside(folder: Path) -> Iterator[Path]:
    """What lies in the folder, and in those of its folders that are no packages, as sql/."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not (path / "__init__.py").exists():
            yield from path.iterdir()


def _comes_along(path: Path) -> bool:
    return path.is_file() and (path.name == "__init__.py" or path.suffix in (".sql", ".json", ".yaml", ".txt"))


def _sources(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _commit(repo: Path) -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=repo, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _digest(files: Files) -> str:
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _warnings(files: Files) -> Iterator[str]:
    for path, content in files.items():
        if path.parent == Path("dags/bandits") and (yaml.safe_load(content) or {}).get("backend", "local") == "local":
            yield f"{path.name}: backend is local, which Composer can't keep; set backend: gcp, runner: vertex"
    if not any(path.parent == OURS / "functions" for path in files):
        yield "data/ has no functions; `make functions-bundle` first, for provisioning from Composer"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=REPO / "dist" / "composer", help="default: dist/composer")
    parser.add_argument("--bandits", type=Path, help="folder of the YAMLs; default: dags/bandits")
    args = parser.parse_args(arguments)
    files = contents(REPO, args.bandits)
    write(args.out, files)
    for folder in FOLDERS:
        sizes = [len(content) for path, content in files.items() if path.parts[0] == folder]
        print(f"{args.out / folder}: {len(sizes)} files, {sum(sizes) / 1024:,.0f} KiB")
    print(files[OURS / "VERSION"].decode(), end="")
    for warning in _warnings(files):
        print(f"note: {warning}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
