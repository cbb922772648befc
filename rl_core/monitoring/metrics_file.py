"""Writes the vital signs as a file for Prometheus: `metrics.prom` beside `logger.json`.

For the textfile collector of node_exporter, https://github.com/prometheus/node_exporter#textfile-collector.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from datetime import UTC, datetime

from rl_core.backends import open_backend
from rl_core.backends.contracts.bus import MessageBus
from rl_core.backends.contracts.store import EventStore
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError
from rl_core.files import write_atomically
from rl_core.monitoring.delivery import delivery_of
from rl_core.monitoring.vital_signs import ALARMS, FIGURES, VitalSigns, vital_signs

METRICS_FILE = "metrics.prom"


_EVERY_S = 30.0
_log = logging.getLogger(__name__)


class MetricsFile:
    """Keeps `metrics.prom` up to date for the logger, also while the log can't be written; a failure is logged."""

    def __init__(self, bandit: Bandit, settings: Settings, bus: MessageBus, store: EventStore) -> None:
        self._what = (bandit, settings, bus, store)
        self._written = -_EVERY_S

    def keep(self) -> None:
        """Write the file if the last one is half a minute old."""
        if time.monotonic() - self._written < _EVERY_S:
            return
        self._written = time.monotonic()
        try:
            write_metrics(*self._what)
        except (BanditError, OSError) as error:
            _log.warning("%s is not brought up to date: %s", METRICS_FILE, error)


def write_metrics(bandit: Bandit, settings: Settings, bus: MessageBus, store: EventStore) -> VitalSigns:
    """Measure, and replace the file. Raises BanditError, OSError: it stays as it was."""
    registry, delivery = open_backend(bandit, settings).registry(), delivery_of(bandit, bus, store)
    now = datetime.now(UTC)
    signs = vital_signs(bandit, registry, store.head(), delivery, now)
    write_atomically(settings.state_dir(bandit) / METRICS_FILE, prometheus(signs, now).encode())
    return signs


def prometheus(signs: VitalSigns, measured_at: datetime) -> str:
    """Write gauges `banditloop_log_<figure>`; a word instead of a number is a label of a gauge that is 1.

    With them goes when they were measured, since a collector goes on reading the file of a logger that is dead.
    """
    lines = []
    for name, value in asdict(signs).items():
        if value is None or name not in FIGURES:
            continue
        metric, labels = f"banditloop_log_{name}", f'bandit="{signs.bandit}"'
        lines += [f"# HELP {metric} {FIGURES[name]}", f"# TYPE {metric} gauge"]
        word = isinstance(value, str)
        lines.append(f'{metric}{{{labels},value="{value}"}} 1' if word else f"{metric}{{{labels}}} {value}")
    lines += ["# HELP banditloop_log_alarm 1 where something is wrong", "# TYPE banditloop_log_alarm gauge"]
    rung = signs.alarms()
    lines += [f'banditloop_log_alarm{{bandit="{signs.bandit}",alarm="{name}"}} {int(name in rung)}' for name in ALARMS]
    lines += [
        "# HELP banditloop_log_measured_at_seconds when all these were measured, in seconds since 1970",
        "# TYPE banditloop_log_measured_at_seconds gauge",
        f'banditloop_log_measured_at_seconds{{bandit="{signs.bandit}"}} {measured_at.timestamp():.3f}',
    ]
    return "\n".join(lines) + "\n"
