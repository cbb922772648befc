"""What every message bus promises."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from rl_core.backends.base import Message, MessageBus
from rl_core.errors import BusError

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

EVER = datetime(9999, 1, 1, tzinfo=UTC)


def decision(key: str, payload: str = "") -> Message:
    return Message("decisions", key, (payload or key).encode())


def reward(key: str, payload: str = "") -> Message:
    return Message("rewards", key, (payload or key).encode())


class TestPublish:
    def test_offsets_count_from_one_within_each_topic(self, bus: MessageBus) -> None:
        receipts = bus.publish([decision("a"), reward("a"), decision("b"), reward("x")])
        assert [receipt.offset for receipt in receipts] == [1, 1, 2, 2]
        assert bus.publish([decision("c")])[0].offset == 3

    def test_nothing_published_is_nothing_taken(self, bus: MessageBus) -> None:
        assert bus.publish([]) == []
        assert bus.head("decisions") == bus.head("rewards") == 0

    def test_one_publish_has_one_time_near_now(self, bus: MessageBus) -> None:
        before = datetime.now(UTC)
        times = {receipt.received_at for receipt in bus.publish([decision("a"), reward("a")])}
        assert len(times) == 1
        assert before - timedelta(seconds=1) <= times.pop() <= datetime.now(UTC)

    def test_an_unknown_topic_is_named(self, bus: MessageBus) -> None:
        with pytest.raises(BusError, match="no topic 'clicks'; the topics are decisions, rewards"):
            bus.publish([Message("clicks", "a", b"")])  # type: ignore[arg-type]
        assert bus.head("decisions") == 0


class TestADecisionsKeyIsTakenOnce:
    def test_the_first_payload_stands_and_is_returned(self, bus: MessageBus) -> None:
        (first,) = bus.publish([decision("a", "first")])
        (second,) = bus.publish([decision("a", "second")])
        assert (second.repeated, second.payload) == (True, b"first")
        assert (second.offset, second.received_at) == (first.offset, first.received_at)
        assert [d.payload for d in bus.read("decisions", 0)] == [b"first"]

    def test_within_one_publish_too(self, bus: MessageBus) -> None:
        receipts = bus.publish([decision("a", "first"), decision("b"), decision("a", "second")])
        assert [(r.offset, r.repeated, r.payload) for r in receipts] == [
            (1, False, b"first"),
            (2, False, b"b"),
            (1, True, b"first"),
        ]

    def test_a_repeat_leaves_no_gap(self, bus: MessageBus) -> None:
        bus.publish([decision("a"), decision("a"), decision("b")])
        bus.publish([decision("a"), decision("c")])
        assert [d.offset for d in bus.read("decisions", 0)] == [1, 2, 3]

    def test_in_batches_of_any_size(self, bus: MessageBus) -> None:
        bus.publish([decision(str(i), "first") for i in range(0, 3000, 2)])
        receipts = bus.publish([decision(str(i), "second") for i in range(3000)])
        assert [r.repeated for r in receipts] == [i % 2 == 0 for i in range(3000)]
        assert bus.head("decisions") == 3000

    def test_among_racing_threads_one_wins_and_all_learn_which(self, backend: Backend) -> None:
        payloads: list[bytes] = []

        def race(name: str) -> None:
            bus = backend.open_bus()
            payloads.extend(bus.publish([decision(str(i), name)])[0].payload for i in range(20))

        threads = [threading.Thread(target=race, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        standing = [delivery.payload for delivery in backend.open_bus().read("decisions", 0)]
        assert len(standing) == 20
        assert sorted(payloads) == sorted(standing * 4)

    def test_rewards_repeat_as_they_like(self, bus: MessageBus) -> None:
        receipts = bus.publish([reward("a", "4"), reward("a", "5")])
        assert [(r.offset, r.repeated) for r in receipts] == [(1, False), (2, False)]


class TestRead:
    def test_starts_after_the_offset_and_keeps_the_order(self, bus: MessageBus) -> None:
        receipts = bus.publish([decision(key) for key in "abcde"])
        deliveries = bus.read("decisions", 1, limit=3)
        assert [(d.offset, d.key, d.payload) for d in deliveries] == [(2, "b", b"b"), (3, "c", b"c"), (4, "d", b"d")]
        assert deliveries[0].received_at == receipts[1].received_at

    def test_past_the_end_there_is_nothing(self, bus: MessageBus) -> None:
        bus.publish([decision("a")])
        assert bus.read("decisions", 1) == []
        assert bus.read("rewards", 0) == []

    def test_look_up_finds_what_was_accepted(self, bus: MessageBus) -> None:
        bus.publish([decision("a", "first"), decision("a", "second"), reward("b", "5")])
        assert bus.lookup("decisions", "a") == b"first"
        assert bus.lookup("rewards", "b") == b"5"
        assert bus.lookup("decisions", "b") is None

    def test_another_handle_sees_the_same_bus(self, backend: Backend) -> None:
        one, other = backend.open_bus(), backend.open_bus()
        one.publish([decision("a")])
        assert other.producer == one.producer
        assert other.head("decisions") == 1
        assert other.publish([decision("a", "late")])[0].payload == b"a"


class TestWatermark:
    def test_everything_stamped_before_it_is_there_and_nothing_before_it_comes_later(self, backend: Backend) -> None:
        stop = threading.Event()

        def publish(bus: MessageBus) -> None:
            while not stop.is_set():
                bus.publish([reward("a")])

        bus = backend.open_bus()
        threads = [threading.Thread(target=publish, args=(backend.open_bus(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        taken = []
        try:
            for _ in range(30):
                watermark = bus.watermark()
                taken.append((watermark, bus.head("rewards")))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        received = {d.offset: d.received_at for d in bus.read("rewards", 0, limit=1_000_000)}
        for watermark, seen in taken:
            assert all(at >= watermark for offset, at in received.items() if offset > seen)


class TestPrune:
    def test_forgets_what_was_consumed_and_is_old(self, bus: MessageBus) -> None:
        bus.publish([decision(key) for key in "abc"])
        assert bus.prune("decisions", 2, EVER) == 2
        assert [d.key for d in bus.read("decisions", 0)] == ["c"]
        assert bus.lookup("decisions", "a") is None

    def test_keeps_keys_and_payloads_for_the_retention(self, bus: MessageBus) -> None:
        (receipt,) = bus.publish([decision("a")])
        assert bus.prune("decisions", 1, receipt.received_at) == 0
        assert bus.publish([decision("a", "again")])[0].payload == b"a"

    def test_offsets_and_times_go_on_where_they_were(self, backend: Backend) -> None:
        first = backend.open_bus()
        (receipt,) = first.publish([reward("a")])
        first.prune("rewards", 1, EVER)
        again = backend.open_bus()
        (later,) = again.publish([reward("b")])
        assert later.offset == 2
        assert later.received_at >= receipt.received_at
