"""Runs the whole loop once: a bandit gets its first policy, serves, is logged, and retrains itself three times."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bandit_ops.runners.local import LocalRunner
from local_stack.report import build_report, plot
from local_stack.stack import Stack
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError
from rl_core.movielens.environment import load_environment
from rl_core.simulation.traffic import simulate
from rl_core.waiting import looks, wait_for

RETRAIN_TIMEOUT_S = 180
LAST_WORDS = 500  # a little traffic for the last policy, so that its row has a mean reward
SOURCES = {
    "movielens-100k": "real MovieLens 100K",
    "synthetic": "SYNTHETIC ratings of MovieLens' shape (no data folder, no network)",
    "file": "your own ratings file",
}


@dataclass
class Walls:
    """Wall-clock seconds; a retrain counts from the last decision of its traffic to the new policy answering."""

    startup: float = 0.0
    retrain: list[float] = field(default_factory=list)
    total: float = 0.0

    def rounded(self) -> dict[str, Any]:
        return {
            "startup": round(self.startup, 1),
            "retrain": [round(one, 1) for one in self.retrain],
            "total": round(self.total, 1),
        }


class Demo:
    """The demo; its state, `$BANDIT_HOME/demo`, is deleted at the start of the next (downloaded data stays)."""

    def __init__(self, bandit_yaml: Path, settings: Settings, rounds: int, console: Console) -> None:
        home = settings.home / "demo"
        self.settings = settings.model_copy(update={"home": home})
        self.bandit = Bandit.from_yaml(bandit_yaml)
        self.stack = Stack({bandit_yaml: self.bandit}, self.settings)
        self.rounds = rounds
        self.console = console
        self.acknowledged: list[str] = []
        self.walls = Walls()

    def run(self) -> dict[str, Any]:
        """Run it, write report.json and report.png, print the table, and leave no process behind."""
        begun = time.monotonic()
        if self.stack.running():
            self.console.print("stopping what an interrupted demo left running …")
            self.stack.stop()
        self._clear()
        self.environment, self.data = load_environment(self.bandit, self.settings)
        self.console.print(
            f"data: {SOURCES[self.data]}, {len(self.environment.user_ids)} users; log and state: {self.settings.home}",
            soft_wrap=True,
        )
        try:
            with self._step("Airflow, prediction server, event logger") as step:
                if failed := self.stack.start(lambda text: step.say(text)):
                    raise BanditError(failed[0])
            self._startup()
            self.stack.airflow.api.unpause(f"{self.bandit.name}_retrain")
            for number in range(1, self.rounds + 1):
                self._traffic(number, self.bandit.retrain.min_new_interactions)
                self._wait_for_retrain(number)
            self._traffic(self.rounds + 1, LAST_WORDS)
            self._drain()
            self.walls.total = time.monotonic() - begun
            report = self._report()
            self._export()
        finally:
            with self._step("stopping every process"):
                self.stack.stop()
        self._print(report)
        return report

    def _clear(self) -> None:
        home = self.settings.home
        home.mkdir(parents=True, exist_ok=True)
        for entry in home.iterdir():
            if entry.name != "data":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _startup(self) -> None:
        begun = time.monotonic()
        dag_id = f"{self.bandit.name}_startup"
        api = self.stack.airflow.api
        with self._step(f"{dag_id}: generator, ingester, trainer, evaluator, deployer"):
            api.unpause(dag_id)
            run_id = api.trigger(dag_id)
            if (state := api.wait_for_run(dag_id, run_id)) != "success":
                raise BanditError(f"{dag_id} ended as {state}: {api.task_states(dag_id, run_id)}")
        self.walls.startup = time.monotonic() - begun

    def _traffic(self, number: int, decisions: int) -> None:
        with self._step(f"traffic {number}: simulated users") as step:
            done = 0

            def count(more: int) -> None:
                nonlocal done
                done += more
                step.say(f"{done:,} of {decisions:,} decisions")

            traffic = simulate(
                self.environment,
                open_backend(self.bandit, self.settings).line().connect,
                decisions,
                concurrency=self.bandit.simulate.concurrency,
                seed=number,
                on_decisions=count,
            )
            if traffic.ended_early:
                raise BanditError(f"traffic {number} ended early: {traffic.ended_early}")
            self.acknowledged += traffic.acknowledged_ids
            step.say(f"{traffic.acknowledged:,} decisions acknowledged, mean reward {traffic.mean_reward:.3f}")

    def _wait_for_retrain(self, number: int) -> None:
        begun = time.monotonic()
        registry = open_backend(self.bandit, self.settings).registry()
        before = registry.alias("champion")
        with self._step(f"retrain {number}: the sensor counts, {self.bandit.name}_retrain trains and deploys") as step:
            wanted = f"retrain {number}; Airflow's logs: {self.stack.airflow.home / 'logs'}"
            wait_for(lambda: len(registry.attempts()) > number, RETRAIN_TIMEOUT_S, wanted, poll_s=0.1)
            attempt = registry.attempts()[-1]
            champion = str(registry.alias("champion"))
            open_backend(self.bandit, self.settings).endpoint().serve(champion)
            step.say(f"{attempt.verdict}: {before} → {champion}")
        self.walls.retrain.append(time.monotonic() - begun)

    def _drain(self) -> None:
        """Wait until the logger has carried everything acknowledged into the store and joined it."""
        store = open_backend(self.bandit, self.settings).store()
        with self._step("the event logger carries the last events into the store"):
            wanted = len(self.acknowledged) + self.bandit.startup.rounds
            for _ in looks(30, 0.2):  # what is missing then, the report says
                if store.head() >= wanted:
                    break

    def _export(self) -> None:
        """Wait for the last export, as nobody else does: a stack that stops ends its jobs."""
        runner = LocalRunner(self.bandit, self.settings)
        with self._step("the exporter writes the last policy's SavedModel"):
            for _ in looks(60, 0.2):
                if not runner.active():
                    break

    def _report(self) -> dict[str, Any]:
        return build_report(
            self.bandit,
            open_backend(self.bandit, self.settings).store(),
            open_backend(self.bandit, self.settings).registry(),
            self.environment,
            self.data,
            self.walls.rounded(),
            self.acknowledged,
        )

    def _print(self, report: dict[str, Any]) -> None:
        path = self.settings.home / "report.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
        plot(report, path.with_suffix(".png"))
        self.console.print(rounds_table(report))
        for one in report["rejected"]:
            low, high = one["window"]
            self.console.print(f"the policy of window {low}–{high} was rejected: {one['reason']}", soft_wrap=True)
        self.console.print(log_line(report), soft_wrap=True)
        walls = report["wall_s"]
        self.console.print(f"startup {walls['startup']} s, retrains {walls['retrain']} s, all {walls['total']} s")
        self.console.print(f"report: {path}", soft_wrap=True)

    def _step(self, title: str) -> _Step:
        return _Step(title, self.console)


class _Step:
    """A line of progress: redrawn while the work goes on and left when it is done; on a pipe, one line at the end."""

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console, self._said = title, console, ""
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
        )

    def __enter__(self) -> _Step:
        self._begun = time.monotonic()
        self._task = self._progress.add_task(self._title)
        if self._console.is_terminal:
            self._progress.start()
        return self

    def say(self, text: str) -> None:
        self._said = text
        self._progress.update(self._task, description=f"{self._title}: {text}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()
        mark = "[green]✓[/]" if kind is None else "[red]✗[/]"
        detail = f" — {self._said}" if self._said else ""
        self._console.print(f"{mark} {self._title} ({time.monotonic() - self._begun:.1f} s){detail}", soft_wrap=True)


def rounds_table(report: dict[str, Any]) -> Table:
    """Make the report's table. greedy, served: % of the gap, noise-free; decided, reward: of its own traffic."""
    title = f"{report['data']}; greedy, served: % of the gap, random = 0, oracle = 100"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)
    for heading in ("policy", "trigger", "window", "trained", "decided", "reward", "greedy", "served"):
        table.add_column(heading, justify="left" if heading in ("policy", "trigger") else "right", no_wrap=True)
    for one in report["rounds"]:
        low, high = one["window"]
        mean = "–" if one["mean_reward"] is None else f"{one['mean_reward']:.3f}"
        table.add_row(
            one["policy_version"],
            one["trigger"],
            f"{low}–{high}",
            f"{one['trained_interactions']:,}",
            f"{one['decisions_served']:,}",
            mean,
            f"{one['pct_of_gap_greedy']:.1f}",
            f"{one['pct_of_gap_served']:.1f}",
        )
    return table


def log_line(report: dict[str, Any]) -> str:
    """Write the report's line on the log."""
    log = report["log"]
    return (
        f"log: {log['decisions_acknowledged']:,} decisions acknowledged, {log['decisions_in_store']:,} in the store, "
        f"{log['duplicates']} duplicates, {log['rewards_in_store']:,} rewards, "
        f"reward matches user {log['reward_matches_user']:.4f}"
    )
