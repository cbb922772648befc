"""What every publisher promises; read back as a consumer of the backend would."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from rl_core.backends.contracts.bus import BUS_PREFIX, Message, Publisher
from rl_core.errors import BusError

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

BACKENDS = ("gcp", "local")


def decision(key: str, payload: str = "") -> Message:
    return Message("decisions", key, (payload or key).encode())


def reward(key: str, payload: str = "") -> Message:
    return Message("rewards", key, (payload or key).encode())


class TestPublish:
    def test_offsets_count_from_one_within_each_topic(self, publisher: Publisher) -> None:
        receipts = publisher.publish([decision("a"), reward("a"), decision("b"), reward("x")])
        assert [receipt.offset for receipt in receipts] == [1, 1, 2, 2]
        assert publisher.publish([decision("c")])[0].offset == 3

    def test_nothing_published_is_nothing_taken(self, backend: Backend, publisher: Publisher) -> None:
        assert publisher.publish([]) == []
        assert backend.accepted("decisions") == backend.accepted("rewards") == []

    def test_one_publish_has_one_time_near_now(self, publisher: Publisher) -> None:
        before = datetime.now(UTC)
        times = {receipt.received_at for receipt in publisher.publish([decision("a"), reward("a")])}
        assert len(times) == 1
        assert before - timedelta(seconds=1) <= times.pop() <= datetime.now(UTC)

    def test_is_stamped_with_the_clock_that_now_shows(self, publisher: Publisher) -> None:
        for key in "abc":
            before = publisher.now()
            (receipt,) = publisher.publish([reward(key)])
            assert before <= receipt.received_at <= publisher.now()

    def test_an_unknown_topic_is_named(self, backend: Backend, publisher: Publisher) -> None:
        with pytest.raises(BusError, match="no topic 'clicks'; the topics are decisions, rewards"):
            publisher.publish([Message("clicks", "a", b"")])  # type: ignore[arg-type]
        assert backend.accepted("decisions") == []


class TestADecisionsKeyIsTakenOnce:
    def test_the_first_payload_stands_and_is_returned(self, backend: Backend, publisher: Publisher) -> None:
        (first,) = publisher.publish([decision("a", "first")])
        (second,) = publisher.publish([decision("a", "second")])
        assert (second.repeated, second.payload) == (True, b"first")
        assert (second.offset, second.received_at) == (first.offset, first.received_at)
        assert [d.payload for d in backend.accepted("decisions")] == [b"first"]

    def test_within_one_publish_too(self, publisher: Publisher) -> None:
        receipts = publisher.publish([decision("a", "first"), decision("b"), decision("a", "second")])
        assert [(r.offset, r.repeated, r.payload) for r in receipts] == [
            (1, False, b"first"),
            (2, False, b"b"),
            (1, True, b"first"),
        ]

    def test_a_repeat_leaves_no_gap(self, backend: Backend, publisher: Publisher) -> None:
        publisher.publish([decision("a"), decision("a"), decision("b")])
        publisher.publish([decision("a"), decision("c")])
        assert [d.offset for d in backend.accepted("decisions")] == [1, 2, 3]

    def test_in_batches_of_any_size(self, backend: Backend, publisher: Publisher) -> None:
        publisher.publish([decision(str(i), "first") for i in range(0, 3000, 2)])
        receipts = publisher.publish([decision(str(i), "second") for i in range(3000)])
        assert [r.repeated for r in receipts] == [i % 2 == 0 for i in range(3000)]
        assert len(backend.accepted("decisions")) == 3000

    def test_rewards_repeat_as_they_like(self, publisher: Publisher) -> None:
        receipts = publisher.publish([reward("a", "4"), reward("a", "5")])
        assert [(r.offset, r.repeated) for r in receipts] == [(1, False), (2, False)]


class TestWhatWasAccepted:
    def test_is_delivered_as_it_was_published_and_stamped(self, backend: Backend, publisher: Publisher) -> None:
        receipts = publisher.publish([decision(key, f"payload of {key}") for key in ("a", "b é", "c")])
        deliveries = backend.accepted("decisions")
        assert [(d.key, d.payload.decode()) for d in deliveries] == [(k, f"payload of {k}") for k in ("a", "b é", "c")]
        assert [(d.offset, d.received_at) for d in deliveries] == [(r.offset, r.received_at) for r in receipts]

    def test_is_gap_free_and_never_goes_back_in_time(self, backend: Backend, publisher: Publisher) -> None:
        for i in range(20):
            publisher.publish([reward(f"{i}-{j}") for j in range(i % 4)])
        deliveries = backend.accepted("rewards")
        assert [d.offset for d in deliveries] == list(range(1, len(deliveries) + 1))
        assert [d.received_at for d in deliveries] == sorted(d.received_at for d in deliveries)

    def test_a_decision_is_found_again(self, publisher: Publisher) -> None:
        publisher.publish([decision("a", "first"), decision("a", "second")])
        assert publisher.lookup("a") == b"first"
        assert publisher.lookup("b") is None

    def test_its_producer_is_a_bus(self, publisher: Publisher) -> None:
        assert publisher.producer.startswith(BUS_PREFIX)

    def test_publishing_from_several_threads_loses_nothing(self, backend: Backend, publisher: Publisher) -> None:
        def publish(name: str) -> None:
            for i in range(10):
                publisher.publish([decision(f"{name}-{i}"), reward(f"{name}-{i}")])

        threads = [threading.Thread(target=publish, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        keys = sorted(f"{name}-{i}" for name in "abcd" for i in range(10))
        for topic in ("decisions", "rewards"):
            deliveries = backend.accepted(topic)
            assert sorted(d.key for d in deliveries) == keys
            assert [d.offset for d in deliveries] == list(range(1, 41))
