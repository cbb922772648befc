"""Where this machine's programs find the prediction server: `endpoint/endpoint.json` in the state folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from rl_core.errors import EndpointAbsent, EndpointError
from rl_core.files import write_atomically


@dataclass(frozen=True)
class Announcement:
    """Where a server listens: the content of `endpoint.json`; `pid` is None for a process in another container."""

    url: str
    pid: int | None
    started_at: str

    @staticmethod
    def path(state_dir: Path) -> Path:
        """Return where the announcement lies in a state folder."""
        return state_dir / "endpoint" / "endpoint.json"

    def write(self, state_dir: Path) -> None:
        """Write the announcement; the server does once it listens. Raises OSError."""
        path = self.path(state_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(self)).encode())

    def remove(self, state_dir: Path) -> None:
        """Delete the announcement, unless another server's stands there by now."""
        try:
            if self.read(state_dir) == self:
                self.path(state_dir).unlink()
        except (EndpointError, FileNotFoundError):
            pass

    @classmethod
    def read(cls, state_dir: Path) -> Self:
        """Read the announcement. Raises EndpointError where there is none or its process is gone."""
        path = cls.path(state_dir)
        try:
            found = cls(**json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise EndpointAbsent(f"no prediction server: {path} is not there; {start(state_dir)}") from error
        except (OSError, ValueError, TypeError) as error:
            raise EndpointError(f"{path}: not a server's announcement ({error}); {start(state_dir)}") from error
        if found.pid is not None and not lives(found.pid):
            raise EndpointError(f"{found.url}: its server (pid {found.pid}) is gone; {start(state_dir)}")
        return found


def start(state_dir: Path) -> str:
    """Return the advice of an error: how to start a server there."""
    return f"start the server that keeps its state in {state_dir} with: python -m rl_core serve <bandit>"


def lives(pid: int) -> bool:
    """Tell whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
