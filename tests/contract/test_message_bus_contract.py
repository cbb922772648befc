"""What a message bus promises that is read by offset, beyond test_publisher_contract.py: the local one."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from rl_core.backends.contracts.bus import Message, MessageBus

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

NOTHING = timedelta(0)


def decision(key: str, payload: str = "") -> Message:
    return Message("decisions", key, (payload or key).encode())


def reward(key: str, payload: str = "") -> Message:
    return Message("rewards", key, (payload or key).encode())


class TestADecisionsKeyIsTakenOnce:
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
        assert bus.lookup("a") == b"first"
        assert bus.lookup("b") is None

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
    def test_removes_what_is_stored_and_old_and_nothing_else(self, bus: MessageBus) -> None:
        bus.publish([decision(key) for key in "abc"])
        assert bus.prune({"decisions": 2}, NOTHING) == 0, "of a segment all has to be stored"
        assert bus.prune({"decisions": 3}, NOTHING) == 3
        bus.publish([decision("d")])
        assert [d.key for d in bus.read("decisions", 0)] == ["d"]
        assert bus.lookup("a") is None

    def test_keeps_keys_and_payloads_for_the_retention(self, bus: MessageBus) -> None:
        bus.publish([decision("a")])
        assert bus.prune({"decisions": 1}, timedelta(hours=1)) == 0
        assert bus.publish([decision("a", "again")])[0].payload == b"a"

    def test_offsets_and_times_go_on_where_they_were(self, backend: Backend) -> None:
        first = backend.open_bus()
        (receipt,) = first.publish([reward("a")])
        assert first.prune({"rewards": 1}, NOTHING) == 1
        again = backend.open_bus()
        (later,) = again.publish([reward("b")])
        assert later.offset == 2
        assert later.received_at >= receipt.received_at


class TestForget:
    def test_takes_a_users_messages_away_and_leaves_the_others(self, bus: MessageBus) -> None:
        bus.publish([decision("a"), decision("b"), reward("a"), reward("b"), reward("a", "again")])
        assert bus.forget(["a", "unknown"]) == 3
        assert bus.lookup("a") is None
        assert bus.lookup("b") == b"b"
        assert [(d.offset, d.key, d.payload) for d in bus.read("rewards", 0) if d.key] == [(2, "b", b"b")]

    def test_leaves_offsets_and_times_where_they_were(self, bus: MessageBus) -> None:
        before = bus.publish([decision("a"), decision("b")])[1]
        bus.forget(["a", "b"])
        assert bus.head("decisions") == 2
        (after,) = bus.publish([decision("a", "anew")])
        assert (after.offset, after.repeated, after.payload) == (3, False, b"anew")
        assert after.received_at >= before.received_at
        assert [(d.offset, d.payload) for d in bus.read("decisions", 0)] == [(1, b""), (2, b""), (3, b"anew")]

    def test_may_be_said_twice_and_before_anything_was_published(self, bus: MessageBus) -> None:
        assert bus.forget(["a"]) == bus.forget([]) == 0
        bus.publish([decision("a")])
        assert bus.forget(["a"]) == 1
        assert bus.forget(["a"]) == 0
