"""`banditloop status`: for each bandit what serves, what is logged, and what is missing for the next training."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rl_core.backends import open_backend
from rl_core.backends.contracts.backend import Backend
from rl_core.backends.contracts.registry import Attempt
from rl_core.checking import read_bandits
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError
from rl_core.monitoring.delivery import local_delivery
from rl_core.monitoring.vital_signs import vital_signs
from rl_core.schema import UNIFORM

_LOGGER = {True: "at work", False: "does not run", None: "a Cloud Function, which was not asked"}


@dataclass(frozen=True)
class LogStatus:
    """Where the log stands.

    Args:
        lag: events on the bus that are not stored yet.
        new: interactions that no attempt has seen and the champion does not hold; `wanted` of them open the gate.
    """

    head: int
    open: int
    lag: int
    new: int
    wanted: int
    alarms: Mapping[str, str]


@dataclass(frozen=True)
class Status:
    """What is known of a bandit; None where there is nothing, or nobody was asked, and `faults` says what is wrong.

    Args:
        since: when the champion was promoted, as ISO 8601 in UTC.
        registry: whether it could be read; else champion and last attempt are not known.
        status: `ok`, `cold start` or `no policy`, as /health has it; None where the server does not answer.
        logger: whether an event logger is at work; None where the backend has none.
        last_attempt: verdict, reason, version and time.
    """

    bandit: str
    id: str
    registry: bool = False
    champion: str | None = None
    since: str | None = None
    server: str | None = None
    status: str | None = None
    serves: str | None = None
    logger: bool | None = None
    log: LogStatus | None = None
    last_attempt: Mapping[str, str | None] | None = None
    faults: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Say it in a few lines."""
        log, last, none = self.log, self.last_attempt, "none yet" if self.registry else "?"
        said = {
            "champion": f"{self.champion} since {self.since or '?'}" if self.champion else none,
            "server": self.server or "none",
            "logger": _LOGGER[self.logger],
            "log": "?" if self.logger is not None else "in BigQuery, not asked; the DAG …_join logs its vital signs",
        }
        if self.server:
            said["server"] += f", {self.status}, serves {self.serves}" if self.status else ", does not answer"
        if log:
            said["log"] = f"{log.head:,} interactions, {log.open:,} decisions open, {log.lag:,} events not stored yet"
            said["new"] = f"{log.new:,} of the {log.wanted:,} interactions that a retrain waits for"
        said["last attempt"] = f"{last['verdict']} {last['at']}: {last['reason']}" if last else none
        said |= {f"alarm {name}": hint for name, hint in log.alarms.items()} if log else {}
        named = [f"  {name:<13}{what}" for name, what in said.items()]
        return [f"{self.bandit} ({self.id})", *named, *(f"  ! {one}" for one in self.faults)]


def main(names: Sequence[str], settings: Settings, as_json: bool) -> int:
    """Print the status of the named bandits, of all in dags/bandits where none is named.

    Returns 0 if all that should answer does, else 1. Raises ConfigError for a bandit that there isn't.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells each request
    bandits, problems = _asked(names, settings)
    found = [status_of(bandit, settings) for bandit in bandits]
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        print("\n\n".join("\n".join(one.lines()) for one in found), flush=True)
    for problem in problems:
        print(f"passed over {problem}", file=sys.stderr)
    return 1 if problems or any(one.faults for one in found) else 0


def status_of(bandit: Bandit, settings: Settings) -> Status:
    """Ask all that can be asked shortly; what does not answer is a fault, and hides nothing else."""
    backend, faults, known = open_backend(bandit, settings), list[str](), dict[str, object]()
    for ask in (_registry, _where, _server, _logger, _log):
        try:
            known |= ask(backend)
        except (BanditError, OSError) as error:
            faults += [told] if (told := str(error)) not in faults else []
    if known.get("status") == "no policy":
        faults.append("predictions are refused, or replicas differ: see `refused` in the server's /state")
    if known.get("logger") is False:
        faults.append("no event logger is at work: make up, or banditloop log")
    return Status(bandit=bandit.name, id=bandit.id, faults=faults, **known)  # type: ignore[arg-type]


def _registry(backend: Backend) -> dict[str, object]:
    registry = backend.registry()
    champion, attempts = registry.alias("champion"), registry.attempts()
    since = [one.at for one in attempts if one.verdict == "promoted" and one.version == champion]
    return {
        "registry": True,
        "champion": champion,
        "since": _when(since[-1]) if since else None,
        "last_attempt": _told(attempts[-1]) if attempts else None,
    }


def _where(backend: Backend) -> dict[str, object]:
    return {"server": backend.line().where}


def _server(backend: Backend) -> dict[str, object]:
    serves = backend.endpoint().state()["serves"]
    status = "no policy" if serves is None else "cold start" if serves == UNIFORM else "ok"
    return {"status": status, "serves": serves}


def _logger(backend: Backend) -> dict[str, object]:
    return {"logger": backend.logger_lives()}


def _log(backend: Backend) -> dict[str, object]:
    if backend.folder is None:
        return {}
    bandit, store = backend.bandit, backend.store()
    delivery = local_delivery(bandit, backend.settings, store)
    signs = vital_signs(bandit, backend.registry(), store.head(), delivery, datetime.now(UTC))
    wanted = bandit.retrain.min_new_interactions
    log = LogStatus(signs.head, signs.open, signs.missing, signs.new_interactions, wanted, signs.alarms())
    return {"log": log}


def _told(attempt: Attempt) -> dict[str, str | None]:
    at = _when(attempt.at)
    return {"verdict": attempt.verdict, "reason": attempt.reason, "version": attempt.version, "at": at}


def _when(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def _asked(names: Sequence[str], settings: Settings) -> tuple[Iterable[Bandit], list[str]]:
    if settings.definition is not None:
        return [settings.bandit(None)], []
    bandits, problems = read_bandits(settings.bandit_paths(names))
    return bandits.values(), problems
