"""Actions with features: what is learnt of one serves those that are like it, from their first decision."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError
from rl_core.feature_config import Features
from rl_core.features.catalogue import Catalogue
from rl_core.features.encoder import Encoder
from rl_core.features.vectorise import Vectoriser
from rl_core.policy.artefact import Policy
from rl_core.policy.verdict import Verdict
from rl_core.schema import INTERACTION_SCHEMA
from rl_core.stages import deployer, evaluator, exporter, ingester, trainer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECTIONS = {"cup": "sport", "race": "sport", "vote": "politics", "tax": "politics", "derby": "sport"}
LIKED, OTHER = 0.8, 0.2
"""How often readers click on an article of the section that they like, and on others."""
SHARED = {"model": "shared", "crosses": [["likes", "section"]]}
HYBRID = {**SHARED, "model": "hybrid"}
DISJOINT = {"model": "disjoint"}


def _article(name: str) -> dict[str, Any]:
    return {"id": name, "features": {"section": SECTIONS[name]}}


def _bandit(articles: str = "cup race vote tax", agent: dict[str, Any] | None = None, **problem: Any) -> Bandit:
    said = {
        "features": {"likes": {"kind": "category", "values": ["sport", "politics"]}},
        "action_features": {"section": {"kind": "category", "values": ["sport", "politics"]}},
        "actions": [_article(name) for name in articles.split()],
        "reward_min": 0,
        "reward_max": 1,
        "reward_default": 0,
        **problem,
    }
    given = {"name": "news", "prefix": "news", "pipe_version": "v1", "problem": said, "agent": agent or SHARED}
    return Bandit.from_json(orjson.dumps(given).decode())


def _log(bandit: Bandit, settings: Settings, seed: int, n: int = 2000) -> tuple[int, int]:
    """Append n visits, each shown an article by chance."""
    store, problem, rng = open_backend(bandit, settings).store(), bandit.problem, np.random.default_rng(seed)
    head, rows = store.head(), []
    for i in range(n):
        liked, action = str(rng.choice(["sport", "politics"])), problem.active[rng.integers(len(problem.active))]
        row: dict[str, Any] = dict.fromkeys(INTERACTION_SCHEMA.names)
        row |= dict.fromkeys(("decided_at", "received_at", "closed_at"), NOW)
        row |= {"seq": head + i + 1, "event_id": f"{seed}-{i}", "producer": "bus-1", "offset": head + i + 1}
        row |= {"observation": [], "observation_version": problem.observation_version}
        row |= {"features": orjson.dumps({"likes": liked}).decode(), "source": "client", "served": True}
        row |= {"action_id": action, "eligible_action_ids": problem.active, "schema_version": 1}
        row |= {"action_set_version": problem.action_set_version}
        row |= {"propensity": 1 / len(problem.active), "epsilon": 1.0, "policy_version": "uniform"}
        row |= {"reward": float(rng.random() < (LIKED if SECTIONS[action] == liked else OTHER)), "closed_by": "reward"}
        rows.append(row)
    store.append_interactions(pa.Table.from_pylist(rows, INTERACTION_SCHEMA))
    return head, head + n


def _train(
    bandit: Bandit, settings: Settings, folder: Path, window: tuple[int, int], champion: str | None, full: bool = False
) -> str:
    name = f"{window[0]}-{window[1]}-{bandit.agent.model}-{full}"
    data, policy, verdict = (folder / name / part for part in ("data", "policy", "verdict"))
    ingester.run(bandit, settings, [window], data, champion)
    trainer.run(bandit, settings, data, champion, full, bandit.agent, policy)
    judged = evaluator.run(bandit, settings, data, policy, champion, full, verdict)
    assert "nothing was learnt" not in judged.reason
    (folder / "said.txt").write_text(judged.reason)
    Verdict(promote=True, reason="for the test", champion=champion, rows=1, metrics={}).save(verdict)
    return deployer.run(bandit, settings, policy, verdict, champion, "manual", name).version


def _policy(bandit: Bandit, settings: Settings, version: str) -> Policy:
    return Policy.load(open_backend(bandit, settings).registry().path(version), bandit.problem)


def _expected(bandit: Bandit, policy: Policy, liked: str) -> dict[str, float]:
    """The click rates that the policy expects of such a reader, by article."""
    row = Vectoriser(bandit.problem.features).rows([{"likes": liked}])
    return dict(zip(policy.actions, policy.means(row)[0].tolist(), strict=True))


@pytest.mark.parametrize("agent", [SHARED, HYBRID], ids=["shared", "hybrid"])
def test_a_new_action_is_judged_by_those_of_its_kind_before_its_first_decision(
    agent: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    before = _bandit(agent=agent)
    version = _train(before, settings, tmp_path, _log(before, settings, 1), None)
    after = _bandit("derby vote race cup tax", agent)
    expected = _expected(after, _policy(after, settings, version), "sport")
    near = 0.1 if agent is SHARED else 0.15  # of a hybrid a part of what is shared has gone into each action's own
    assert expected["derby"] == pytest.approx(LIKED, abs=near)  # five standard errors of 500 visits are 0.09
    assert expected["vote"] == pytest.approx(OTHER, abs=near)
    assert _expected(after, _policy(after, settings, version), "politics")["derby"] == pytest.approx(OTHER, abs=near)


def test_a_disjoint_model_knows_nothing_of_it(settings: Settings, tmp_path: Path) -> None:
    before, after = _bandit(agent=DISJOINT), _bandit("derby vote race cup tax", DISJOINT)
    version = _train(before, settings, tmp_path, _log(before, settings, 1), None)
    assert _expected(after, _policy(after, settings, version), "sport")["derby"] == 0


def test_the_model_is_changed_by_the_next_retrain_which_reads_no_row_anew(settings: Settings, tmp_path: Path) -> None:
    disjoint, hybrid = _bandit(agent=DISJOINT), _bandit(agent=HYBRID)
    first = _train(disjoint, settings, tmp_path, _log(disjoint, settings, 1), None)
    second = _train(hybrid, settings, tmp_path, _log(hybrid, settings, 2, 200), first)
    said = (tmp_path / "said.txt").read_text()
    assert "its model is hybrid, likes × section crossed, the champion's disjoint" in said
    whole = _train(hybrid, settings, tmp_path, (0, 2200), second, full=True)
    one, other = (_policy(hybrid, settings, version) for version in (second, whole))
    assert one.model.theta == pytest.approx(other.model.theta, rel=1e-8)
    assert _expected(hybrid, one, "sport")["cup"] == pytest.approx(LIKED, abs=0.1)


@pytest.mark.parametrize("agent", [SHARED, HYBRID], ids=["shared", "hybrid"])
def test_actions_that_come_and_go_leave_what_one_training_with_the_last_list_would(
    agent: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    champion = None
    for step, articles in enumerate(("cup vote", "tax vote cup race", "race tax derby", "derby vote tax race")):
        bandit = _bandit(articles, agent)
        champion = _train(bandit, settings, tmp_path, _log(bandit, settings, step, 300), champion)
    assert champion is not None
    at_once = _train(bandit, settings, tmp_path, (0, 1200), champion, full=True)
    one, other = (_policy(bandit, settings, version) for version in (champion, at_once))
    rows = Vectoriser(bandit.problem.features).rows([{"likes": "sport"}, {"likes": "politics"}, {"likes": "?"}])
    assert one.actions == bandit.problem.actions
    assert one.scores(rows) == pytest.approx(other.scores(rows), rel=1e-8)


def test_the_verdict_names_actions_that_came_went_and_came_back(settings: Settings, tmp_path: Path) -> None:
    first, second, third = _bandit("cup vote"), _bandit("tax vote race"), _bandit("cup tax race")
    champion = _train(first, settings, tmp_path, _log(first, settings, 1, 300), None)
    champion = _train(second, settings, tmp_path, _log(second, settings, 2, 300), champion)
    assert "new since the champion: tax, race; withdrawn since the champion: cup" in (tmp_path / "said.txt").read_text()
    _train(third, settings, tmp_path, _log(third, settings, 3, 300), champion)
    said = (tmp_path / "said.txt").read_text()
    assert "brought back since the champion: cup; withdrawn since the champion: vote" in said


def test_an_action_that_is_described_anew_is_scored_by_what_it_is_now(settings: Settings, tmp_path: Path) -> None:
    before = _bandit()
    version = _train(before, settings, tmp_path, _log(before, settings, 1), None)
    moved = [{"id": "cup", "features": {"section": "politics"}}, *(_article(name) for name in ("race", "vote", "tax"))]
    after = _bandit(actions=moved)
    was, now = (_expected(one, _policy(one, settings, version), "sport")["cup"] for one in (before, after))
    assert was == pytest.approx(LIKED, abs=0.1)
    assert now < (LIKED + OTHER) / 2  # the rows of a sport's article count as politics' too, from now on


def test_a_policy_keeps_the_features_it_was_solved_with_when_they_are_defined_anew() -> None:
    before = _bandit()
    catalogue = Catalogue.of(before.problem, before.agent.crosses)
    other = _bandit(action_features={"section": {"kind": "hashed", "buckets": 8}})
    assert catalogue.renewed(other.problem) == catalogue
    gone = _bandit("cup vote", action_features={"section": {"kind": "hashed", "buckets": 8}})
    assert Catalogue.of(gone.problem, gone.agent.crosses, catalogue).vectors.keys() == {"cup", "race", "vote", "tax"}


@pytest.mark.parametrize("agent", [SHARED, HYBRID], ids=["shared", "hybrid"])
def test_actions_that_nobody_described_teach_nothing_that_is_shared(
    agent: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    without, with_it = _bandit("cup race vote tax", agent), _bandit("cup race vote tax derby", agent)
    first = _train(without, settings, tmp_path, _log(without, settings, 1), None)
    window = _log(with_it, settings, 2)  # derby came and went between two trainings
    before, after = (
        _policy(without, settings, version) for version in (first, _train(without, settings, tmp_path, window, first))
    )
    assert after.manifest.actions == ("cup", "race", "vote", "tax", "derby")
    for liked in ("sport", "politics"):
        expected, truth = (_expected(without, policy, liked) for policy in (after, before))
        assert expected == pytest.approx(truth, abs=0.05)


def test_the_size_of_an_action_s_number_makes_no_difference(settings: Settings, tmp_path: Path) -> None:
    scores = []
    for version, unit in (("v1", 1.0), ("v2", 1e6)):
        numbers = dict(zip(("cup", "race", "vote", "tax"), (1.0, 2.0, -1.0, -3.0), strict=True))
        bandit = _bandit(
            action_features={"price": "number"},
            actions=[{"id": name, "features": {"price": unit * number}} for name, number in numbers.items()],
            agent={"model": "shared", "crosses": [["likes", "price"]]},
        ).model_copy(update={"pipe_version": version})
        made = _train(bandit, settings, tmp_path / version, _log(bandit, settings, 1), None)
        rows = Vectoriser(bandit.problem.features).rows([{"likes": "sport"}, {"likes": "politics"}])
        scores.append(_policy(bandit, settings, made).scores(rows))
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


@pytest.mark.tf
@pytest.mark.parametrize("agent", [SHARED, HYBRID], ids=["shared", "hybrid"])
def test_in_tensorflow_it_chooses_as_it_serves(agent: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    bandit = _bandit("cup vote", agent=agent)
    version = _train(bandit, settings, tmp_path, _log(bandit, settings, 1), None)
    exporter.run(bandit, settings, version, promoted=True)
    folder = open_backend(bandit, settings).registry().exported(version)
    assert folder is not None
    import tensorflow as tf
    from tf_agents.trajectories import time_step

    declared = TypeAdapter(Features).validate_json((folder / "features.json").read_bytes())
    rows = Vectoriser(declared).rows([{"likes": "sport"}, {"likes": "politics"}])
    features = Encoder.model_validate_json((folder / "encoder.json").read_bytes()).encode(rows)
    step = time_step.restart(tf.constant(features, tf.float32), batch_size=2)
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    chosen = loaded.action(step).action.numpy()
    assert [orjson.loads((folder / "actions.json").read_bytes())[index] for index in chosen] == ["cup", "vote"]
    assert chosen.tolist() == _policy(bandit, settings, version).scores(rows).argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"actions": [{"id": "cup", "features": {"sektion": "sport"}}, _article("tax")]}, "did you mean section?"),
        ({"actions": ["cup", _article("tax")]}, "action 'cup': section is missing; give it, or declare"),
        ({"actions": [{"id": "cup", "features": 7}, _article("tax")]}, "the features of an action are {name: value"),
        ({"actions": [{"id": "cup", "features": {"section": 7}}, _article("tax")]}, "section is '7', no category"),
        ({"action_features": {}}, "action 'cup' has features, but none are declared"),
        ({"agent": {"model": "shared", "crosses": [["age", "section"]]}}, "'age', which is not observed"),
        ({"agent": {"model": "shared", "crosses": [["likes", "author"]]}}, "'author', which is not among"),
        ({"agent": {"crosses": [["likes", "section"]]}}, "agent.crosses are of the models shared and hybrid"),
        ({"agent": SHARED, "action_features": {}, "actions": ["cup", "tax"]}, "shares by problem.action_features"),
        ({"agent": SHARED, "intercept": False}, "needs problem.intercept: true"),
    ],
)
def test_a_yaml_that_can_not_be_meant_is_refused_with_the_rule(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        _bandit(**changed)


def test_every_fault_of_every_action_is_told(tmp_path: Path) -> None:
    wrong = [{"id": "cup", "features": {"sektion": "sport"}}, {"id": "tax", "features": {"section": 7}}]
    with pytest.raises(ConfigError) as error:
        _bandit(actions=wrong)
    assert str(error.value).startswith("bandit: problem: action 'cup': 'sektion' is no feature; did you mean section?")
    assert str(error.value).endswith("; and 2 more")


def test_a_definition_reads_back_from_a_jobs_parameters_as_it_was() -> None:
    bandit = _bandit(agent=HYBRID)
    again = Bandit.from_json(bandit.job_json())
    assert (again.problem, again.agent) == (bandit.problem, bandit.agent)
