"""Finds and renders the folder of a local pipeline run. Nothing outside that folder is ever opened."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bandit_ops.job_identity import JobIdentity

LOG_TAIL_BYTES = 64_000
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse } th, td { text-align: left; padding: .25rem 1rem .25rem 0; vertical-align: top }
pre { overflow-x: auto; padding: 1rem; border: 1px solid #8886; border-radius: 6px; font-size: 13px }
"""


def find(home: Path, dag_id: str, job_id: str) -> Path | None:
    """Find `home/<bandit id>/runs/<job_id>`, where a DAG of this id started it.

    The id of a job names the last word of its DAG's, `job.json` the bandit, which names the words before.
    """
    try:
        scope = JobIdentity.parse(job_id).scope
    except ValueError:
        return None
    for folder in home.glob(f"*/runs/{job_id}"):
        words = JobIdentity.of(folder.parent.parent.name, dag_id, "", "").scope.rpartition("-")[0]
        if scope.startswith(f"{words}-") and _bandit_of(folder) == dag_id.rpartition("_")[0]:
            return folder
    return None


def _bandit_of(folder: Path) -> str | None:
    """The name of the bandit that the run is of; None where the folder holds no job."""
    try:
        return str(json.loads(_json(folder / "job.json", {})["parameters"]["bandit"])["name"])
    except (KeyError, TypeError, ValueError):
        return None


def file_in(folder: Path, name: str) -> Path | None:
    """Find the regular file of that name; None for anything that leads out of the folder, symbolic links included."""
    try:
        path = (folder / name).resolve()
    except (ValueError, OSError):  # a null byte, or a name longer than names can be
        return None
    return path if path.is_file() and path.is_relative_to(folder.resolve()) else None


def render(dag_id: str, job_id: str, folder: Path) -> str:
    """Write the page of a run as HTML."""
    state = _json(folder / "state.json", {})
    title = f"{job_id}: {state.get('state', 'PENDING')}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Started by {escape(dag_id)}. {escape(str(state.get('message', '')))}</p>",
        _outputs(state.get("outputs") or {}),
        _steps(_json(folder / "steps.json", [])),
        f"<h2>Log</h2><pre>{escape(_tail(folder / 'log.txt'))}</pre>",
        _files(dag_id, job_id, folder),
    ]
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body><main>{''.join(parts)}</main></body></html>"


def _outputs(outputs: dict[str, Any]) -> str:
    rows = [f"<tr><th scope='row'>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in outputs.items()]
    return f"<h2>Result</h2><table>{''.join(rows)}</table>" if rows else ""


def _steps(steps: list[dict[str, Any]]) -> str:
    if not steps:
        return ""
    columns = list(dict.fromkeys(key for step in steps for key in step))
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(step.get(column)))}</td>' for column in columns)}</tr>" for step in steps
    )
    return f"<h2>Steps</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _files(dag_id: str, job_id: str, folder: Path) -> str:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())[:500]
    items = [f"<li>{_link(f'{job_id}/files/{name}', name)}</li>" for name in names if file_in(folder, name)]
    return f"<h2>Files</h2><ul>{''.join(items)}</ul>"


def _link(path: str, text: str) -> str:
    """A name that is no UTF-8 is shown with a mark in its place, and its link still leads to it."""
    shown = text.encode("utf-8", "replace").decode()
    return f"<a href='{quote(path, errors='surrogateescape')}'>{escape(shown)}</a>"


def _json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return default


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return "(nothing yet)"
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
