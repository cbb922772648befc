"""The simulator program: simulated traffic with a progress bar, for the running server of a bandit."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.environments import load_environment
from rl_core.simulation.traffic import Traffic, simulate

__all__ = ["Traffic", "main", "send", "simulate"]

_PLAIN_STEPS = 10


Watch = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""For so many users: what is to be called with the number of those served since."""


def main(bandit: Bandit, settings: Settings, decisions: int, concurrency: int, seed: int, round: int) -> int:
    """Send the users; return 0 if every decision was acknowledged, 1 if not, 130 after Ctrl-C. Raises as `send`."""
    with _interrupts() as interrupted:
        traffic = send(bandit, settings, decisions, concurrency, seed, round, stop=interrupted, watch=_progress)
        if interrupted():
            return 130
    return 0 if traffic.complete else 1


def send(
    bandit: Bandit,
    settings: Settings,
    decisions: int,
    concurrency: int,
    seed: int,
    round: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    watch: Watch = lambda users: nullcontext(lambda served: None),
) -> Traffic:
    """Send simulated users to the bandit's endpoint; print where they go and what became of them.

    Raises:
        EndpointError: no server runs, or it refused a request.
        ConfigError, DataError, SchemaError: the bandit has no environment, or it or its data is broken.
    """
    with closing(open_backend(bandit, settings)) as backend:
        where, connect = backend.line()
        environment, data = load_environment(bandit, settings)
        print(f"{bandit.name}: {decisions} users from {data}, {concurrency} at a time, to {where}", flush=True)
        with watch(decisions) as advance:
            traffic = simulate(
                environment,
                connect,
                decisions,
                concurrency=concurrency,
                seed=seed,
                round=round,
                stop=stop,
                on_decisions=advance,
            )
    print(_summary(traffic), flush=True)
    return traffic


def _summary(traffic: Traffic) -> str:
    versions = ", ".join(f"{version}: {count}" for version, count in sorted(traffic.policy_versions.items())) or "none"
    line = (
        f"acknowledged {traffic.acknowledged} of {traffic.requested} decisions and {traffic.rewards_acknowledged} "
        f"rewards in {traffic.wall_s:.1f} s ({traffic.acknowledged / max(traffic.wall_s, 1e-9):,.0f}/s); "
        f"mean reward {traffic.mean_reward:.3f}; "
        f"p50 {traffic.latency_ms(0.5):.1f} ms, p99 {traffic.latency_ms(0.99):.1f} ms; "
        f"{traffic.retries} retries; policies {versions}"
    )
    return f"{line}; ended early: {traffic.ended_early}" if traffic.ended_early else line


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the traffic after what is on its way; a second Ctrl-C ends the program."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line each tenth elsewhere."""
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(TextColumn("users"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("users", total=total)
            yield lambda count: bar.advance(task, count)
        return
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if done * _PLAIN_STEPS // total > before * _PLAIN_STEPS // total:
            print(f"{done} of {total} users served", flush=True)

    yield advance
