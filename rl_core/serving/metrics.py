"""The server's metrics for Prometheus, in a registry of each server's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_COUNTERS = {
    "requests": "requests to the predict, reward and activate routes",
    "decisions": "decisions made",
    "deferred": "decisions made that train only once they are activated",
    "repeated": "instances answered again under an event_id seen before",
    "rewards": "rewards taken",
    "activations": "activations taken",
    "refused_requests": "requests answered 4xx",
    "unavailable": "requests answered 503",
    "defects": "requests answered 500",
    "lost": "events answered for in best-effort mode that the message bus did not take",
    "clipped": "numbers of observations that lay outside their range, and were clipped",
    "undelivered": "requests whose decisions are logged, though the client had hung up, or was answered 503 too early",
}


class ServerMetrics(Collector):
    """Reads what `Service` counts, when it is asked, and holds the times that its predictions took.

    Args:
        state: as of `Service.state`.
    """

    def __init__(self, state: Callable[[], dict[str, Any]]) -> None:
        self._state = state
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self.latency = Histogram(
            "banditloop_predict_latency_seconds",
            "time in the server, of every prediction; sum the buckets of all replicas, then take quantiles",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return everything in Prometheus' text format, of CONTENT_TYPE."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Make the metrics of the state, as the registry asks for them."""
        state = self._state()
        for name, help_text in _COUNTERS.items():
            yield CounterMetricFamily(f"banditloop_{name}", help_text, state[name])
        told = "the policies by role: champion and challenger as loaded, and what serves"
        policy = GaugeMetricFamily("banditloop_policy", told, labels=["role", "version"])
        for role in ("champion", "challenger", "serves"):
            if state[role]:
                policy.add_metric([role, state[role]], 1)
        yield policy
        bus_ok = "1 unless the last write to the message bus failed"
        yield GaugeMetricFamily("banditloop_bus_ok", bus_ok, state["bus_error"] is None)
        mode = "whether an answer waits for the log, by mode: serving.durability"
        durability = GaugeMetricFamily("banditloop_durability", mode, labels=["mode"])
        durability.add_metric([state["durability"]], 1)
        yield durability
