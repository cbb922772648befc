"""What was forgotten on request: no later training may read it from the pipeline cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials


def forgotten_rows(bandit: Bandit, settings: Settings, credentials: Credentials | None = None) -> int:
    """Count the interactions that are empty by now, since somebody was forgotten. Raises StoreError."""
    backend = open_backend(bandit, settings, credentials)
    try:
        found = backend.store().query("SELECT COUNT(*) AS n FROM interactions WHERE closed_by = 'forgotten'")
    finally:
        backend.close()
    return int(found["n"][0].as_py())


def ingest_anew(spec: dict[str, Any], rows: int) -> None:
    """Let the ingester miss what it cached while fewer rows were forgotten: a step's environment is in its key."""
    if rows:
        container = spec["deploymentSpec"]["executors"]["exec-ingester"]["container"]
        container["env"].append({"name": "FORGOTTEN_ROWS", "value": str(rows)})
