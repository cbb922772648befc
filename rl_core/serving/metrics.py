"""Writes the server's counters in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from typing import Any

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
    "undelivered": "requests whose decisions are logged, though the client had hung up, or was answered 503 too early",
}


def prometheus(state: dict[str, Any]) -> str:
    """Write `Service.state` as the text of `/metrics`."""
    lines = []
    for name, help_text in _COUNTERS.items():
        lines += [
            f"# HELP banditloop_{name}_total {help_text}",
            f"# TYPE banditloop_{name}_total counter",
            f"banditloop_{name}_total {state[name]}",
        ]
    lines += [
        "# HELP banditloop_policy the policies that are loaded, by role",
        "# TYPE banditloop_policy gauge",
        *(f'banditloop_policy{{role="{r}",version="{state[r]}"}} 1' for r in ("champion", "challenger") if state[r]),
        "# HELP banditloop_bus_ok 1 unless the last write to the message bus failed",
        "# TYPE banditloop_bus_ok gauge",
        f"banditloop_bus_ok {int(state['bus_error'] is None)}",
        "# HELP banditloop_durability whether an answer waits for the log, by mode: serving.durability",
        "# TYPE banditloop_durability gauge",
        f'banditloop_durability{{mode="{state["durability"]}"}} 1',
    ]
    if state["latency"]:
        lines += [
            "# HELP banditloop_predict_latency_seconds time in the server, of the last predictions",
            "# TYPE banditloop_predict_latency_seconds gauge",
            f'banditloop_predict_latency_seconds{{quantile="0.5"}} {state["latency"]["p50_ms"] / 1e3:g}',
            f'banditloop_predict_latency_seconds{{quantile="0.99"}} {state["latency"]["p99_ms"] / 1e3:g}',
        ]
    return "\n".join(lines) + "\n"
