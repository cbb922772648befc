"""Plays `docs/examples/news.yaml`: from an old system's CSV to the third retrain, with articles that come and go.

The readers are played; everything else is as it would be: the import, a prediction server and an event logger of their
own, requests over HTTP, clicks that come late or never, and the stages that a pipeline runs.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bandit_ops.runners.launch import child_environment
from local_stack.services import Services
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.files import write_atomically
from rl_core.importing import importer
from rl_core.policy.windows import new_windows
from rl_core.stages import deployer, evaluator, ingester, trainer
from rl_core.waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "docs" / "examples" / "news.yaml"
OLD_VISITS, VISITS, A_REQUEST = 3000, 1200, 100
OLD_PAGE = "old-page"
NEW, WITHDRAWN = "election", "storm"
"""The articles that come and go before the second retrain's traffic."""
NEVER, LATE = 0.05, 0.05
"""Shares of the clicks that are never reported, and that come after `join.reward_wait_s`."""
TOPICS = {
    "budget": "politics",
    "election": "politics",
    "cup-final": "sport",
    "film": "culture",
    "interview": "culture",
    "stocks": "money",
}


class Readers:
    """The readers, and what they would click on."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def visits(self, count: int) -> list[dict[str, Any]]:
        """Draw so many visits, as named features."""
        rng, topics = self._rng, ("politics", "sport", "culture", "money")
        hours = rng.integers(0, 24 * 7, count)
        return [
            {
                "country": str(rng.choice(["de", "fr", "it"], p=[0.5, 0.3, 0.2])),
                "member": bool(rng.random() < 0.3),
                "visited": f"2026-01-{5 + hour // 24:02d}T{hour % 24:02d}:30:00Z",
                "interests": [str(topic) for topic in rng.choice(topics, rng.integers(1, 3), replace=False)],
            }
            for hour in hours.tolist()
        ]

    def chances(self, visit: dict[str, Any], articles: Sequence[str]) -> NDArray[np.float64]:
        """Return how likely each article is clicked on, [K]."""
        evening = visit["visited"][11:13] >= "17"
        chance = dict.fromkeys(articles, 0.04)
        for article in articles:
            chance[article] += 0.25 * (TOPICS.get(article) in visit["interests"])
        chance |= {one: chance[one] + more for one, more in self._tastes(visit, evening) if one in chance}
        return np.array([chance[article] for article in articles])

    def _tastes(self, visit: dict[str, Any], evening: bool) -> Iterator[tuple[str, float]]:
        yield "storm", 0.12
        yield "recipe", 0.2 * evening
        yield "budget", 0.1 * visit["member"]
        yield "film", 0.1 * (visit["country"] == "fr")
        yield NEW, 0.15

    def clicks(self, visit: dict[str, Any], article: str) -> bool:
        """Whether this reader clicks on the article."""
        return bool(self._rng.random() < self.chances(visit, [article])[0])

    def share(self, chance: float) -> bool:
        return bool(self._rng.random() < chance)

    def any_of(self, articles: Sequence[str]) -> str:
        return articles[int(self._rng.integers(len(articles)))]


@dataclass
class Round:
    """One policy and what it earned: clicks per 100 visits, and that between chance (0) and the best choice (100)."""

    policy: str
    learnt_from: int
    visits: int
    clicks_per_100: float
    percent_of_gap: float
    said: str


class Example:
    """The play; its state, `$BANDIT_HOME/example`, is deleted at the start of the next."""

    def __init__(self, settings: Settings, console: Console, seed: int = 3) -> None:
        self.settings = settings.model_copy(update={"home": settings.home / "example"})
        self.console, self.readers = console, Readers(seed)
        self.yaml = self.settings.home / "news.yaml"
        self.rounds: list[Round] = []
        self.late: list[str] = []

    def run(self) -> dict[str, Any]:
        """Play it, write report.json, print the table, and leave no process behind."""
        shutil.rmtree(self.settings.home, ignore_errors=True)
        self.settings.home.mkdir(parents=True)
        shutil.copy(SOURCE, self.yaml)
        self._import()
        self._learn("startup")
        with self._served():
            self._traffic()
        self._learn("sensor")
        with self._served():
            self._traffic()
        self._learn("sensor")
        self._change_the_articles()
        with self._served():
            self._traffic()
            self._learn("sensor")
            self._traffic()
            self._report_late()
        report = {"rounds": [asdict(one) for one in self.rounds], "log": self._log()}
        write_atomically(self.settings.home / "report.json", json.dumps(report, indent=1).encode())
        self._print(report)
        return report

    @property
    def bandit(self) -> Bandit:
        return Bandit.from_yaml(self.yaml)

    def _import(self) -> None:
        """What the page before wrote down: every article with the same chance, and who clicked."""
        path, articles = self.settings.home / "visits.csv", self.bandit.problem.actions
        with path.open("w", newline="") as out:
            columns = ["visit", "country", "member", "visited", "interests", "article", "chance", "clicked"]
            writer = csv.writer(out)
            writer.writerow(columns)
            for number, visit in enumerate(self.readers.visits(OLD_VISITS)):
                article = self.readers.any_of(articles)
                clicked = "1" if self.readers.clicks(visit, article) else ""
                told = {**visit, "interests": "|".join(visit["interests"])}
                writer.writerow([f"old-{number}", *told.values(), article, 1 / len(articles), clicked])
        self.console.print(f"an old system's log: {path}")
        words = ["event_id=visit", "action=article", "propensity=chance", "reward=clicked"]
        importer.run(self.bandit, self.settings, path, words, policy=OLD_PAGE)

    def _learn(self, trigger: str) -> None:
        """What a pipeline does with all that is new."""
        bandit, settings = self.bandit, self.settings
        backend = open_backend(bandit, settings)
        champion = backend.registry().alias("champion")
        windows = new_windows(backend.registry(), backend.store().head())
        folder = settings.home / "runs" / f"{len(self.rounds)}-{trigger}"
        data, policy, verdict = (folder / name for name in ("data", "policy", "verdict"))
        rows = ingester.run(bandit, settings, windows, data, champion)
        trainer.run(bandit, settings, data, champion, False, bandit.agent, policy)
        evaluator.run(bandit, settings, data, policy, champion, False, verdict)
        done = deployer.run(bandit, settings, policy, verdict, champion, trigger, folder.name)
        self.rounds.append(Round(done.version, rows, 0, 0.0, 0.0, done.reason))

    def _change_the_articles(self) -> None:
        """An article comes, one goes: two words in the YAML, and the server is started anew."""
        said = yaml.safe_load(self.yaml.read_text())
        articles = [one | {"active": False} if one["id"] == WITHDRAWN else one for one in said["problem"]["actions"]]
        said["problem"]["actions"] = [*articles, {"id": NEW, "features": {"topic": TOPICS[NEW]}}]
        self.yaml.write_text(yaml.safe_dump(said, sort_keys=False))
        self.console.print(f"half-way: {NEW} is new, {WITHDRAWN} is withdrawn")

    @contextmanager
    def _served(self) -> Iterator[None]:
        services = Services(self.yaml, self.bandit, self.settings, child_environment(self.settings, ROOT))
        try:
            services.start()
            yield
        finally:
            services.stop()

    def _traffic(self) -> None:
        """Visits and their clicks, until every decision is joined."""
        problem, now = self.bandit.problem, self.rounds[-1]
        store = open_backend(self.bandit, self.settings).store()
        head, articles = store.head(), problem.active
        earned, chance, best = [], [], []
        for request in range(VISITS // A_REQUEST):
            visits = self.readers.visits(A_REQUEST)
            named = enumerate(visits, start=1 + request * A_REQUEST)
            instances = [{"event_id": f"{now.policy}-{n}", "features": visit} for n, visit in named]
            answers = self._post("/predict", {"instances": instances})["predictions"]
            rewards = []
            for visit, answer in zip(visits, answers, strict=True):
                chances = self.readers.chances(visit, articles)
                earned.append(self.readers.chances(visit, [answer["action_id"]])[0])
                chance.append(chances.mean())
                best.append(chances.max())
                if self.readers.clicks(visit, answer["action_id"]) and not self.readers.share(NEVER):
                    if self.readers.share(LATE):
                        self.late.append(answer["event_id"])
                    else:
                        rewards.append({"event_id": answer["event_id"], "reward": 1.0})
            if rewards:
                self._post("/reward", {"rewards": rewards})
        wait_for(lambda: store.head() == head + VISITS, 120.0, "every visit to be joined", poll_s=0.2)
        now.visits, now.clicks_per_100 = VISITS, round(100 * float(np.mean(earned)), 1)
        gap = (np.mean(earned) - np.mean(chance)) / (np.mean(best) - np.mean(chance))
        now.percent_of_gap = round(100 * float(gap), 1)

    def _report_late(self) -> None:
        """Clicks whose decisions are closed: they are set apart, and change nothing."""
        store = open_backend(self.bandit, self.settings).store()
        self._post("/reward", {"rewards": [{"event_id": one, "reward": 1.0} for one in self.late]})
        sql, late = "SELECT count(*) AS n FROM rewards_apart", len(self.late)
        # More of them where the machine stood still for longer than `join.reward_wait_s`.
        wait_for(lambda: store.query(sql)["n"][0].as_py() >= late, 120.0, "late clicks to be set apart", poll_s=0.2)

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        url = open_backend(self.bandit, self.settings).line().where + path
        request = urllib.request.Request(url, json.dumps(content).encode())  # noqa: S310  our own server
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    def _log(self) -> dict[str, Any]:
        store = open_backend(self.bandit, self.settings).store()
        shown = store.query("SELECT action_id, count(*) AS n FROM interactions GROUP BY action_id ORDER BY action_id")
        counts = {row["action_id"]: row["n"] for row in shown.to_pylist()}
        return {"interactions": store.head(), "late_clicks": len(self.late), "shown": counts}

    def _print(self, report: dict[str, Any]) -> None:
        table = Table("policy", "learnt from", "visits", "clicks per 100", "% of the gap", box=SIMPLE_HEAD)
        for one in self.rounds:
            figures = f"+{one.learnt_from:,}", f"{one.visits:,}", f"{one.clicks_per_100}", f"{one.percent_of_gap}"
            table.add_row(one.policy, *figures)
        self.console.print(table)
        self.console.print(
            f"the gap lies between an article by chance (0) and each reader's best one (100). In the log: "
            f"{report['log']['interactions']:,} visits, {report['log']['late_clicks']} late clicks set apart. "
            f"Report: {self.settings.home / 'report.json'}",
            soft_wrap=True,
        )


def main(settings: Settings, console: Console) -> int:
    """Play it once, with how long it took."""
    begun = time.monotonic()
    Example(settings, console).run()
    console.print(f"took {time.monotonic() - begun:.0f} s")
    return 0
