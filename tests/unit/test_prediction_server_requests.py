"""Request bodies: what is read, and what each refusal says."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_core.config import Bandit
from rl_core.errors import SchemaError
from rl_core.problem_config import Problem
from rl_core.serving import api
from rl_core.serving.decisions import uuid7
from rl_core.serving.requests import PredictRequest, parse_predict, parse_rewards

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
PROBLEM = Problem(
    observation_dim=3,
    observation_version="test-k3",
    actions=("a", "b", "c", "d"),
    action_set_version="test-4",
    reward_min=-1.0,
    reward_max=5.0,
    reward_default=0.0,
)

KEYS = st.sampled_from(["instances", "observation", "event_id", "rewards", "reward", "parameters"]) | st.text()
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ANY_JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner))


def predict(content: Any) -> PredictRequest:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request = parse_predict(body, PROBLEM, 4, NOW)
    assert isinstance(request, PredictRequest)
    return request


def instance(**fields: Any) -> dict[str, Any]:
    return {"instances": [{"observation": [1, 2.5, -3], **fields}]}


class TestPredict:
    def test_reads_observations_as_float32(self) -> None:
        request = predict({"instances": [{"observation": [0.1, 2, 3]}, {"observation": [4, 5, 6]}]})
        assert request.observations.dtype == np.float32
        assert request.observations.tolist() == [[float(np.float32(0.1)), 2, 3], [4, 5, 6]]

    def test_leaves_open_what_the_client_leaves_open(self) -> None:
        request = predict(instance())
        assert (request.event_ids, request.eligible, request.source) == ([None], [None], "client")

    def test_takes_event_id_eligible_actions_and_source(self) -> None:
        request = predict(
            {
                **instance(event_id="Bestellung 4711 ä", eligible_actions=["d", "a"]),
                "parameters": {"source": "simulator"},
            }
        )
        assert request.event_ids == ["Bestellung 4711 ä"]
        assert request.eligible == [[0, 3]], "ascending, as scores are"
        assert request.source == "simulator"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b'{"instances": [{"observation": [NaN, 1, 2]}]}', "NaN and Infinity are not JSON"),
            (b'{"instances": [{"observation": [1e400, 1, 2]}]}', "not JSON"),
            (b"\xff\xfe", "not JSON"),
            (b"[" * 5000, "not JSON"),
            ([1], r"the body is a list of 1; send an object"),
            ({}, "instances is missing; send a list of 1 to 4"),
            ({"instances": []}, r"instances is \[\]; send a list"),
            ({"instances": {}}, r"instances is \{\}; send a list"),
            ({"instances": [{"observation": [1, 2, 3]}] * 5}, "instances has 5 entries; serving.max_instances is 4"),
            ({"instances": [[1, 2, 3]]}, r"instances\[0\] is a list of 3; send an object"),
            ({"instances": [{}]}, r"instances\[0\].observation is missing; send a list of 3 numbers"),
            (instance(observations=[1]), 'has "observations", which is unknown; the fields are observation, event_id'),
            (
                {"instances": [{"observation": [1, 2, 3]}, {"observation": [1, 2]}]},
                r"instances\[1\].observation has 2 numbers; test-k3 has 3",
            ),
            (instance(observation="1,2,3"), r'observation is "1,2,3"; send a list of 3 numbers'),
            (instance(observation=[1, "2", 3]), r'instances\[0\].observation\[1\] is "2"; send numbers only'),
            (instance(observation=[1, None, 3]), r"observation\[1\] is null"),
            (instance(observation=[1, True, 3]), r"observation\[1\] is true"),
            (instance(observation=[1, [2], 3]), r"observation\[1\] is a list of 1"),
            (instance(observation=[1, 2, 1e39]), r"observation\[2\] is 1e\+39; it must fit float32"),
            (instance(observation=[1, 2, 10**60]), r"observation\[2\] is 1e\+60; it must fit float32"),
            (instance(event_id=""), r'event_id is ""; use a string of 1 to 128 characters'),
            (instance(event_id="x" * 129), "event_id is 129 characters long"),
            (instance(event_id=7), "event_id is 7; use a string"),
            (instance(event_id=None), "event_id is null; use a string"),
            (instance(event_id="a\nb"), "no control characters"),
            (instance(eligible_actions=[]), r"eligible_actions is \[\]; list action ids \("),
            (instance(eligible_actions=[3]), r"eligible_actions\[0\] is 3; list action ids \("),
            (instance(eligible_actions=["a", "B"]), r'eligible_actions\[1\] is "B", which is no action; list'),
            (instance(eligible_actions=["dd"]), r'eligible_actions\[0\] is "dd".* \(did you mean "d"\?\)'),
            (instance(eligible_actions=["a", "b", "a"]), r'holds "a" more than once'),
            (instance(eligible_actions=["a", 1]), r"eligible_actions\[1\] is 1; list action ids"),
            (instance(eligible_actions=[["a"]]), r"eligible_actions\[0\] is a list of 1"),
            (instance(eligible_actions=[1e30]), r"eligible_actions\[0\] is 1e\+30; list action ids"),
            (instance(eligible_actions=[10**30]), r"eligible_actions\[0\] is 1e\+30"),
            (instance(eligible_actions=["a", -1e308]), r"eligible_actions\[1\] is -1e\+308"),
            (instance(eligible_actions=[2**64]), r"eligible_actions\[0\] is 1\.8446744073709552e\+19"),
            (instance(eligible_actions=[True]), r"eligible_actions\[0\] is true"),
            ({**instance(), "parameters": []}, r"parameters is \[\]; send an object"),
            ({**instance(), "parameters": {"source": "generator"}}, 'source is "generator"; it is one of client'),
            ({**instance(), "parameters": {"sauce": "client"}}, 'parameters has "sauce", which is unknown'),
            ({**instance(), "instance": 1}, 'the body has "instance", which is unknown'),
        ],
    )  # fmt: skip
    def test_refuses_in_one_line_what_breaks_a_rule(self, content: Any, message: str) -> None:
        with pytest.raises(SchemaError, match=message) as refused:
            predict(content)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300

    @given(ANY_JSON)
    def test_any_json_is_read_or_refused(self, content: Any) -> None:
        with contextlib.suppress(SchemaError):
            predict(content)
        with contextlib.suppress(SchemaError):
            parse_rewards(json.dumps(content).encode(), PROBLEM, 4, NOW)

    @given(st.binary())
    def test_any_bytes_are_read_or_refused(self, body: bytes) -> None:
        with pytest.raises(SchemaError):
            predict(body)


class TestRewards:
    def test_one_or_many(self) -> None:
        one = parse_rewards(b'{"event_id": "a", "reward": 5}', PROBLEM, 4, NOW)
        many = parse_rewards(b'{"rewards": [{"event_id": "a", "reward": 5}]}', PROBLEM, 4, NOW)
        assert one == many
        assert (one[0].event_id, one[0].reward, one[0].observed_at) == ("a", 5.0, NOW)

    def test_observed_at_is_read_in_any_offset(self) -> None:
        body = b'{"event_id": "a", "reward": 1, "observed_at": "2026-01-31T14:00:00.5+02:00"}'
        assert parse_rewards(body, PROBLEM, 4, NOW)[0].observed_at == datetime(
            2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC
        )

    @pytest.mark.parametrize(
        ("reward", "message"),
        [
            ({"reward": 1}, "has no event_id"),
            ({"event_id": "a"}, "has no reward"),
            ({"event_id": "a", "reward": 5.1}, "reward is 5.1; a reward is a number within -1..5"),
            ({"event_id": "a", "reward": "1"}, 'reward is "1"; a reward is a number'),
            ({"event_id": "a", "reward": True}, "reward is true"),
            ({"event_id": "a", "reward": None}, "reward is null"),
            ({"event_id": "a", "reward": 1, "observed_at": "yesterday"}, "write ISO 8601 with an offset"),
            ({"event_id": "a", "reward": 1, "observed_at": "2026-01-31T12:00:00"}, "write ISO 8601 with an offset"),
            ({"event_id": "a", "reward": 1, "observed_at": "0001-01-01T00:00:00+10:00"}, "write ISO 8601"),
            ({"event_id": "a", "reward": 1, "observed_at": 3}, "observed_at is 3; write ISO 8601"),
            ({"event_id": "", "reward": 1}, "event_id is"),
            ({"event_id": "a", "reward": 1, "user": 3}, 'has "user", which is unknown'),
        ],
    )
    def test_refuses_in_one_line_what_breaks_a_rule(self, reward: dict[str, Any], message: str) -> None:
        for content in (reward, {"rewards": [{"event_id": "z", "reward": 0}, reward]}):
            with pytest.raises(SchemaError, match=message if content is reward else f"rewards.1.*{message}"):
                parse_rewards(json.dumps(content).encode(), PROBLEM, 4, NOW)

    def test_refuses_none_and_too_many(self) -> None:
        for count, message in ((0, "send a list of 1 to 4"), (5, "rewards has 5 entries")):
            body = json.dumps({"rewards": [{"event_id": "a", "reward": 1}] * count}).encode()
            with pytest.raises(SchemaError, match=message):
                parse_rewards(body, PROBLEM, 4, NOW)


class TestOpenApi:
    def test_the_documented_instance_has_the_bandits_dimension_and_actions(self, movielens: Bandit) -> None:
        fields = api.predict_body(movielens).model_json_schema()["$defs"]["Instance"]["properties"]
        assert fields["observation"]["minItems"] == fields["observation"]["maxItems"] == 20
        by_id, left_out = fields["eligible_actions"]["anyOf"]
        assert (by_id["items"]["enum"], left_out) == (list(movielens.problem.actions), {"type": "null"})

    def test_documented_event_ids_are_the_accepted_ones(self, movielens: Bandit) -> None:
        pattern = api.predict_body(movielens).model_json_schema()["$defs"]["Instance"]["properties"]["event_id"][
            "pattern"
        ]
        assert re.search(pattern, "x" * 128)
        assert not re.search(pattern, "x" * 129)


class TestEventIds:
    def test_given_by_the_server_are_uuids_of_version_7_in_order_of_time(self) -> None:
        ids = [uuid7() for _ in range(1000)]
        assert len(set(ids)) == 1000
        for text in ids:
            parsed = uuid.UUID(text)
            assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)
        stamps = [uuid.UUID(text).int >> 80 for text in ids]
        assert stamps == sorted(stamps)
