"""Writes the vital signs as a file for Prometheus: `metrics.prom` beside `logger.json`.

For the textfile collector of node_exporter, https://github.com/prometheus/node_exporter#textfile-collector.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest

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
    write_atomically(settings.state_dir(bandit) / METRICS_FILE, prometheus(signs, now))
    return signs


def prometheus(signs: VitalSigns, measured_at: datetime) -> bytes:
    """Return gauges `banditloop_log_<figure>`; a word instead of a number is a label of a gauge that is 1.

    With them goes when they were measured, since a collector goes on reading the file of a logger that is dead.
    """
    registry = CollectorRegistry()

    def gauge(name: str, help_text: str, number: float, /, **labels: str) -> None:
        if (known := gauges.get(name)) is None:
            known = gauges[name] = Gauge(f"banditloop_log_{name}", help_text, ["bandit", *labels], registry=registry)
        known.labels(bandit=signs.bandit, **labels).set(number)

    gauges: dict[str, Gauge] = {}
    for name, value in asdict(signs).items():
        if value is not None and name in FIGURES:
            word = isinstance(value, str)
            gauge(name, FIGURES[name], 1 if word else value, **({"value": value} if word else {}))
    for producer, waiting in signs.open_by_producer.items():
        gauge("open_decisions", "decisions of a producer that wait", waiting["count"], producer=producer)
        gauge("open_decisions_age_seconds", "age of the oldest of them", waiting["age_s"], producer=producer)
    rung = signs.alarms()
    for name in ALARMS:
        gauge("alarm", "1 where something is wrong", name in rung, alarm=name)
    when = "when all these were measured, in seconds since 1970"
    gauge("measured_at_seconds", when, round(measured_at.timestamp(), 3))
    return generate_latest(registry)
