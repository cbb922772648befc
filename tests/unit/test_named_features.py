"""Named features: what a request says by name becomes numbers, the same in server and training."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from rl_core import __version__
from rl_core.backends import open_backend
from rl_core.backends.contracts.store import EventStore, JoinableStore
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.config import Agent, Bandit, ServingContainer, Settings
from rl_core.dataset.trajectories import Dataset
from rl_core.errors import SchemaError
from rl_core.feature_config import names_of
from rl_core.features.encoder import Encoder
from rl_core.features.vectorise import Vectoriser, hash_bucket
from rl_core.joining.event_logger import EventLogger
from rl_core.problem_config import Problem
from rl_core.schema import INTERACTION_SCHEMA
from rl_core.serving.parts import Parts
from rl_core.serving.policies import RegistryWatcher
from rl_core.serving.server import application
from rl_core.stages import deployer, evaluator, ingester, trainer
from tests.harness.patience import until

FEATURES = {
    "age": {"kind": "number", "min": 0, "max": 100, "missing": 50},
    "country": {"kind": "category", "values": ["de", "fr"], "missing": "de"},
    "campaign": {"kind": "hashed", "buckets": 4},
    "interests": {"kind": "set", "values": ["news", "sport"]},
    "member": "boolean",
    "seen_at": "time",
    "embedding": {"kind": "vector", "dim": 2, "missing": "zeros"},
    "price": "number",
}
ROW: dict[str, Any] = {
    "age": 75,
    "country": "fr",
    "campaign": "spring",
    "interests": ["sport", "opera"],
    "member": True,
    "seen_at": "2026-01-05T06:00:00Z",  # a Monday, at a quarter of the day
    "embedding": [0.5, -1],
    "price": 9.5,
}


def _problem(features: dict[str, Any] | None = None, **more: Any) -> Problem:
    given = {"features": features or FEATURES, "actions": ["a", "b", "c"]}
    return Problem.model_validate(given | {"reward_min": 0, "reward_max": 1, "reward_default": 0} | more)


def _made(row: dict[str, Any], features: dict[str, Any] | None = None) -> dict[str, float]:
    problem = _problem(features)
    numbers = Vectoriser(problem.features).rows([row])[0]
    return dict(zip(names_of(problem.features), numbers.tolist(), strict=True))


class TestEachKind:
    def test_becomes_its_numbers(self) -> None:
        made = _made(ROW)
        campaign = hash_bucket("spring", 4)
        assert made == pytest.approx(
            {
                "age": 0.5,
                **{"country=de": 0, "country=fr": 1, "country=other": 0},
                **{f"campaign#{n}": float(n == campaign) for n in range(4)},
                **{"interests:news": 0, "interests:sport": 1, "interests:other": 1},
                "member": 1,
                **{"seen_at.day.sin": 1, "seen_at.day.cos": 0},
                **{"seen_at.week.sin": np.sin(2 * np.pi / 28), "seen_at.week.cos": np.cos(2 * np.pi / 28)},
                **{"embedding[0]": 0.5, "embedding[1]": -1},
                "price": 9.5,
            },
            abs=1e-6,
        )

    def test_that_is_missing_is_what_was_declared(self) -> None:
        left_out = {name: ROW[name] for name in ("campaign", "member", "seen_at", "price")}
        null = left_out | {"age": None, "country": None, "interests": None, "embedding": None}
        expected = _made(ROW | {"age": 50, "country": "de", "interests": [], "embedding": [0, 0]})
        assert _made(left_out) == _made(null) == expected

    def test_takes_a_word_that_it_does_not_know_for_another(self) -> None:
        assert _made(ROW | {"country": "no such land"})["country=other"] == 1

    def test_out_of_its_declared_range_is_clipped_and_counted(self) -> None:
        vectoriser = Vectoriser(_problem().features)
        assert vectoriser.rows([ROW | {"age": 1e9}])[0][0] == 1
        assert vectoriser.clipped == 1

    def test_hashes_alike_in_every_release(self) -> None:
        assert [hash_bucket(word, 64) for word in ("", "spring", "ä")] == [51, 53, 14]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"agee": 1}, r"has 'agee', which is no feature; did you mean age\?"),
            ({"zzz": 1}, "has 'zzz', which is no feature; the features are age, country"),
            ({"price": None}, "price is missing; send it, or declare what stands for it"),
            ({"price": "9.5"}, r"price is '9\.5'; send a number that fits float32"),
            ({"price": True}, "price is 'True'; send a number"),
            ({"price": 1e39}, "send a number that fits float32"),
            ({"country": 1}, "country is '1'; send a word"),
            ({"interests": "news"}, "send a list of words"),
            ({"interests": [1]}, "send a word"),
            ({"member": 1}, "send true or false"),
            ({"seen_at": "2026-01-05T06:00:00"}, "write ISO 8601 with an offset"),
            ({"seen_at": "soon"}, "write ISO 8601 with an offset"),
            ({"embedding": [1]}, "send a list of 2 numbers"),
        ],
    )
    def test_refuses_what_it_is_not_and_says_the_rule(self, change: dict[str, Any], says: str) -> None:
        with pytest.raises(SchemaError, match=rf"instances\[0\]\.features.*{says}"):
            _made(ROW | change)


class TestTheDefinition:
    def test_gives_dimension_version_and_intercept(self) -> None:
        problem = _problem()
        assert problem.observation_dim == len(names_of(problem.features)) == 19
        assert problem.observation_version.startswith("features@")
        assert problem.has_intercept
        assert Problem.model_validate_json(problem.model_dump_json()) == problem

    def test_that_changes_has_another_version(self) -> None:
        changed = FEATURES | {"country": {"kind": "category", "values": ["de", "fr", "it"]}}
        assert _problem(changed).observation_version != _problem().observation_version

    @pytest.mark.parametrize(
        "feature",
        [
            "colour",
            {"kind": "number", "min": 1},
            {"kind": "category", "values": []},
            {"kind": "set", "values": ["a", "a"]},
        ],
    )
    def test_that_means_nothing_is_refused(self, feature: Any) -> None:
        with pytest.raises(ValidationError, match="features"):
            _problem({"odd": feature})

    def test_without_a_range_is_standardised_by_what_was_seen_first(self) -> None:
        problem = _problem({"price": "number", "age": FEATURES["age"]})
        prices = np.random.default_rng(0).normal(2026.0, 3.0, 5000)
        seen = Vectoriser(problem.features).rows([{"price": price, "age": 20} for price in prices.tolist()])
        features = Encoder.of(problem).learnt(seen).encode(seen)
        assert features[:, 0].mean() == pytest.approx(0, abs=1e-3)
        assert features[:, 0].std() == pytest.approx(1, abs=1e-3)
        assert set(features[:, 1].tolist()) == {np.float32(-0.6)}
        assert set(features[:, 2].tolist()) == {1.0}


FRONT_PAGE: dict[str, Any] = {
    "country": {"kind": "category", "values": ["de", "fr"]},
    "member": "boolean",
    "age": {"kind": "number", "min": 0, "max": 100},
}
BEST = {("de", True): "a", ("de", False): "b", ("fr", True): "c", ("fr", False): "c"}


class TestTheLoop:
    """Cold start, log, join, training and the new policy, all by names."""

    @pytest.fixture
    def bandit(self) -> Bandit:
        given = {
            "name": "news",
            "prefix": "news",
            "pipe_version": "v1",
            "join": {"reward_wait_s": 60, "close_early": True},
        }
        return Bandit.model_validate(given | {"problem": _problem(FRONT_PAGE), "agent": {"agent_alpha": 0.1}})

    def test_learns_what_each_kind_of_visitor_reads(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        backend = open_backend(bandit, settings)
        registry, rng = backend.registry(), np.random.default_rng(0)
        with ExitStack() as stack:
            bus = LocalBus(tmp_path / "bus")
            stack.callback(bus.close)
            parts = Parts(RegistryWatcher(registry, bandit.problem), bus, b"salt")
            client = stack.enter_context(TestClient(application(bandit, ServingContainer(), parts)))
            logger = EventLogger(bandit, bus, cast(JoinableStore, backend.store()))
            visitors = [
                {
                    "country": str(rng.choice(["de", "fr"])),
                    "member": bool(rng.random() < 0.5),
                    "age": int(rng.integers(100)),
                }
                for _ in range(900)
            ]
            for low in range(0, 900, 300):
                asked = [{"features": visitor} for visitor in visitors[low : low + 300]]
                answer = client.post("/predict", json={"instances": asked})
                assert answer.status_code == 200, answer.text
                rewards = [
                    {"event_id": one["event_id"], "reward": float(one["action_id"] == _best(visitor))}
                    for one, visitor in zip(answer.json()["predictions"], visitors[low:], strict=False)
                ]
                assert client.post("/reward", json={"rewards": rewards}).status_code == 200
            until(lambda: logger.run_once() is not None and backend.store().head() == 900)
            _log_broken(backend.store(), bandit)
            row = backend.store().interactions((0, 1)).to_pylist()[0]
            assert (row["observation"], orjson.loads(row["features"])) == ([], visitors[0])
            version = _train(bandit, settings, tmp_path)
            until(lambda: client.get("/health").json()["champion"] == version)
            for visitor in visitors[:50]:
                answer = client.post("/predict", json={"instances": [{"features": visitor}] * 20})
                served = [one["action_id"] for one in answer.json()["predictions"]]
                assert served.count(_best(visitor)) >= 12, "but for exploration: fewer once in 10^6 runs"
            said = client.get("/openapi.json").json()["components"]["schemas"]["PredictBody"]["example"]
            assert client.post("/predict", json=said).status_code == 200, "what /docs offers to be tried"
            assert client.get("/openapi.json").json()["info"]["version"] == __version__
            wrong = client.post("/predict", json={"instances": [{"features": {"country": "de"}}]})
            assert (wrong.status_code, "member is missing" in wrong.text) == (400, True)
            assert client.post("/predict", json={"instances": [{"observation": [1.0] * 5}]}).status_code == 400


def _log_broken(store: EventStore, bandit: Bandit) -> None:
    """Three rows whose features are not what the problem declares."""
    row = store.interactions((0, 1)).to_pylist()[0]
    texts = ("not JSON", '{"country": "de"}', None)
    rows = [row | {"seq": 901 + i, "event_id": f"x{i}", "features": text} for i, text in enumerate(texts)]
    store.append_interactions(pa.Table.from_pylist(rows, INTERACTION_SCHEMA))


def _best(visitor: dict[str, Any]) -> str:
    return BEST[visitor["country"], visitor["member"]]


def _train(bandit: Bandit, settings: Settings, folder: Path) -> str:
    data, policy, verdict = (folder / name for name in ("data", "policy", "verdict"))
    assert ingester.run(bandit, settings, [(0, 903)], data) == 900
    assert Dataset.open(data).index.quarantined == {"features": 3}
    agent = Agent(agent_alpha=0.1)
    trainer.run(bandit, settings, data, None, True, agent, policy)
    assert evaluator.run(bandit, settings, data, policy, None, True, verdict).promote
    return deployer.run(bandit, settings, policy, verdict, None, "manual", "job").version
