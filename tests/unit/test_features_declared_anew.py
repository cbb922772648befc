"""Named features that are declared anew: the champion serves on by its own definition, the next retrain is full."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from bandit_ops.plans import Circumstances, retrain_plan
from rl_core.backends import open_backend
from rl_core.backends.contracts.store import JoinableStore
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.config import Bandit, ServingContainer, Settings
from rl_core.dataset.trajectories import Dataset
from rl_core.errors import DataError
from rl_core.joining.event_logger import EventLogger
from rl_core.policy.artefact import read_manifest
from rl_core.problem_config import Problem
from rl_core.schema import INTERACTION_SCHEMA
from rl_core.serving.parts import Parts
from rl_core.serving.policies import RegistryWatcher
from rl_core.serving.server import application
from rl_core.stages import deployer, evaluator, ingester, trainer
from tests.harness.patience import until

FIRST: dict[str, Any] = {
    "country": {"kind": "category", "values": ["de", "fr"]},
    "member": "boolean",
    "age": {"kind": "number", "min": 0, "max": 100},
}
ANEW: dict[str, Any] = {
    "member": "boolean",
    "country": {"kind": "category", "values": ["fr", "de", "it"]},
    "device": {"kind": "category", "values": ["phone", "desk"], "missing": "desk"},
}
BEST = {"de": "a", "fr": "b"}
Serve = Callable[[Bandit, str], TestClient]


def bandit_of(features: dict[str, Any]) -> Bandit:
    given = {"features": features, "actions": ["a", "b"], "reward_min": 0, "reward_max": 1, "reward_default": 0}
    return Bandit.model_validate(
        {
            "name": "news",
            "prefix": "news",
            "pipe_version": "v1",
            "join": {"reward_wait_s": 60, "close_early": True},
            "problem": Problem.model_validate(given),
            "agent": {"agent_alpha": 0.1},
        }
    )


@pytest.fixture
def serve(settings: Settings, tmp_path: Path) -> Iterator[Serve]:
    """A server that began with a YAML, with a bus of its own."""
    with ExitStack() as stack:

        def begin(bandit: Bandit, bus_name: str) -> TestClient:
            bus = LocalBus(tmp_path / bus_name)
            stack.callback(bus.close)
            registry = open_backend(bandit, settings).registry()
            parts = Parts(RegistryWatcher(registry, bandit.problem), bus, b"salt")
            client = stack.enter_context(TestClient(application(bandit, ServingContainer(), parts)))
            logger = EventLogger(bandit, bus, cast(JoinableStore, open_backend(bandit, settings).store()))
            client.log = logger.run_once  # type: ignore[attr-defined]
            return client

        yield begin


def visit(client: TestClient, visitors: list[dict[str, Any]], bandit: Bandit, settings: Settings) -> None:
    """Decisions and their rewards, until all are joined."""
    answer = client.post("/predict", json={"instances": [{"features": visitor} for visitor in visitors]})
    assert answer.status_code == 200, answer.text
    rewards = [
        {"event_id": one["event_id"], "reward": float(one["action_id"] == BEST[visitor["country"]])}
        for one, visitor in zip(answer.json()["predictions"], visitors, strict=True)
    ]
    assert client.post("/reward", json={"rewards": rewards}).status_code == 200
    store = open_backend(bandit, settings).store()
    head = store.head() + len(visitors)
    until(lambda: client.log() is not None and store.head() == head)  # type: ignore[attr-defined]


def serves(client: TestClient, version: str) -> None:
    """Wait for the policy."""
    until(lambda: client.get("/health").json()["champion"] == version)


def visitors(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {"country": str(rng.choice(["de", "fr"])), "member": bool(rng.random() < 0.5), "age": int(rng.integers(100))}
        for _ in range(count)
    ]


def retrained(bandit: Bandit, settings: Settings, folder: Path) -> deployer.Deployment:
    """What …_retrain plans and its pipeline does."""
    backend = open_backend(bandit, settings)
    form = {"full_retrain": False, "enable_caching": True, "agent_alpha": 0.1, "tikhonov_weight": 1.0, "half_life": 0}
    plan = retrain_plan(Circumstances(bandit, form, backend.registry(), backend.store(), manual=False))["parameters"]
    windows = [(low, high) for low, high in orjson.loads(str(plan["windows"]))]
    champion, full = str(plan["champion"]) or None, bool(plan["full_retrain"])
    data, policy, verdict = (folder / name for name in ("data", "policy", "verdict"))
    ingester.run(bandit, settings, windows, data, champion)
    trainer.run(bandit, settings, data, champion, full, bandit.agent, policy)
    evaluator.run(bandit, settings, data, policy, champion, full, verdict)
    return deployer.run(bandit, settings, policy, verdict, champion, "sensor", folder.name)


@pytest.fixture
def first(serve: Serve, settings: Settings, tmp_path: Path) -> TestClient:
    """The server of the first definition, with a champion that was trained by it."""
    bandit = bandit_of(FIRST)
    client = serve(bandit, "bus")
    visit(client, visitors(400, seed=1), bandit, settings)
    done = retrained(bandit, settings, tmp_path / "first")
    assert done.promoted
    serves(client, done.version)
    return client


def test_the_champion_serves_on_and_the_next_retrain_trains_on_the_whole_log(
    first: TestClient, serve: Serve, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = bandit_of(FIRST), bandit_of(ANEW)
    registry, store = open_backend(new, settings).registry(), open_backend(new, settings).store()
    restarted = serve(new, "bus-of-the-restarted")
    for client in (first, restarted):
        assert client.get("/health").json()["champion"] == "news-v1-0001"
        visit(client, visitors(100, seed=2), old, settings)
        wrong = client.post("/predict", json={"instances": [{"features": {"country": "de", "member": True}}]})
        assert (wrong.status_code, "age is missing" in wrong.text) == (400, True)
    early = {"country": "de", "member": True, "age": 31, "device": "phone"}
    wrong = first.post("/predict", json={"instances": [{"features": early}]})
    assert (wrong.status_code, "the features are country, member, age" in wrong.text) == (400, True)
    visit(restarted, [early], old, settings)
    logged = store.interactions((400, 601), ["observation_version", "features"])
    assert orjson.loads(logged["features"][-1].as_py()) == early, "what is declared may be sent, and trains later"
    made_by = logged["observation_version"].unique().to_pylist()
    assert made_by == [old.problem.observation_version], "what the decision was made by, not what the YAML says"

    with caplog.at_level(logging.INFO, "bandit_ops.plans"):
        done = retrained(new, settings, tmp_path / "anew")
    assert "features are declared anew" in caplog.text
    assert done.promoted, done.reason
    was, now = old.problem.observation_version, new.problem.observation_version
    assert f"features are declared anew, {was} is {now}, and all of the log was trained on" in done.reason
    assert registry.attempts()[-1].reason == done.reason
    assert "difference_dr" in registry.attempts()[-1].metrics, "compared with the champion"
    manifest = read_manifest(registry.path(done.version))
    assert sum(high - low for low, high in manifest.trained) == store.head() == 601

    for client in (first, restarted):  # one of them began with the old YAML
        serves(client, done.version)
        for country, best in BEST.items():
            asked = [{"features": {"country": country, "member": True}}] * 40
            answer = client.post("/predict", json={"instances": asked})
            served = [one["action_id"] for one in answer.json()["predictions"]]
            assert served.count(best) >= 30, "but for exploration: fewer once in 10^6 runs"
        still = client.post("/predict", json={"instances": [{"features": visitors(1, seed=3)[0]}]})
        assert still.status_code == 200, "whoever asks may go on sending what was read before"
        wrong = client.post("/predict", json={"instances": [{"features": {"country": "de", "membre": True}}]})
        assert (wrong.status_code, "did you mean member?" in wrong.text) == (400, True)
    visit(restarted, [{"country": "de", "member": False, "device": "phone"}] * 50, new, settings)
    assert retrained(new, settings, tmp_path / "next").promoted
    assert "declared anew" not in registry.attempts()[-1].reason, "an increment again"
    assert read_manifest(registry.path("news-v1-0003")).trained == ((601, 651),)
    assert read_manifest(registry.path("news-v1-0003")).retired == ("age",)


def test_a_new_feature_without_a_value_for_older_rows_stops_the_retrain_and_the_champion_stays(
    first: TestClient, settings: Settings, tmp_path: Path
) -> None:
    new = bandit_of(FIRST | {"device": {"kind": "category", "values": ["phone", "desk"]}})
    with pytest.raises(DataError, match=r"400 of 400 interactions .*declare what stands for a feature that is missing"):
        retrained(new, settings, tmp_path / "anew")
    assert first.get("/health").json()["champion"] == "news-v1-0001"


@pytest.mark.parametrize(("unread", "promoted"), [(150, True), (400, False)])
def test_rows_that_the_champion_cannot_read_are_not_compared(
    first: TestClient, settings: Settings, tmp_path: Path, unread: int, promoted: bool
) -> None:
    """As an import has them, say, made by the new definition."""
    new = bandit_of(ANEW)
    store = open_backend(new, settings).store()
    rows = store.interactions((0, 400)).to_pylist()
    for row in rows[:unread]:
        said = {name: value for name, value in orjson.loads(row["features"]).items() if name != "age"}
        row |= {"features": orjson.dumps(said | {"device": "phone"}).decode()}
    again = [row | {"seq": 401 + n, "event_id": f"again-{n}"} for n, row in enumerate(rows)]
    store.append_interactions(pa.Table.from_pylist(again, INTERACTION_SCHEMA))
    backend = open_backend(new, settings)
    data, policy = tmp_path / "data", tmp_path / "policy"
    ingester.run(new, settings, [(400, 800)], data, "news-v1-0001")
    trainer.run(new, settings, data, None, True, new.agent, policy)
    verdict = evaluator.run(new, settings, data, policy, backend.registry().alias("champion"), True, tmp_path / "v")
    assert verdict.promote is promoted
    assert f"{unread:,} rows that the champion can't read are not compared" in verdict.reason
    assert ("too few rows to judge: 0" in verdict.reason) is not promoted


def test_ranges_of_another_definition_are_not_taken_for_its_own(
    first: TestClient, settings: Settings, tmp_path: Path
) -> None:
    """Two definitions may give as many numbers: which is which decides."""
    prices = {"cheap": "number", "dear": "number"}
    old, new = bandit_of(prices), bandit_of({"dear": "number", "cheap": "number"})
    old, new = (one.model_copy(update={"prefix": "prices"}) for one in (old, new))
    store, rng = open_backend(old, settings).store(), np.random.default_rng(4)
    rows = open_backend(bandit_of(FIRST), settings).store().interactions((0, 400)).to_pylist()
    for row in rows:
        said = {"cheap": abs(float(rng.normal(1, 0.1))), "dear": abs(float(rng.normal(1e6, 1e4)))}
        row |= {"features": orjson.dumps(said).decode()}
    store.append_interactions(pa.Table.from_pylist(rows, INTERACTION_SCHEMA))
    champion = retrained(old, settings, tmp_path / "old").version
    ingester.run(new, settings, [(0, 400)], tmp_path / "data", champion)
    clip = Dataset.open(tmp_path / "data").index.encoder.clip
    assert clip is not None
    assert clip[0] > 1e6 > clip[1]
