"""The publisher on Pub/Sub in trouble: what is refused, what is delivered all the same, and what heartbeats say."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from rl_core.backends.contracts.bus import Message
from rl_core.backends.gcp.bus.first_payloads import FirstPayloads, Standing
from rl_core.backends.gcp.bus.message_bus import JOINER, PubSubPublisher, publish_joiner_heartbeat
from rl_core.backends.gcp.bus.messages import Event
from rl_core.clock import SteadyClock
from rl_core.config import Bandit, Settings
from rl_core.errors import BusError
from rl_core.google_cloud.clients import GoogleClients
from stand_ins.faults import Fault, Faults
from stand_ins.free_port import free_port
from stand_ins.pubsub import PubSubStandIn, Unruly
from tests.delivered_events import DeliveredEvents
from tests.harness.patience import until


class World:
    """One topic on a stand-in whose faults the test chooses."""

    def __init__(self, folder: Path, bandit: Bandit, stack: ExitStack) -> None:
        self._folder = folder
        self._bandit = bandit
        self._stack = stack
        self.faults = Faults()
        self.pubsub = stack.enter_context(PubSubStandIn(folder / "pubsub", self.faults))
        self.delivered = DeliveredEvents(self.clients(), self.pubsub)

    def clients(self) -> GoogleClients:
        clients = GoogleClients(self._bandit, Settings(pubsub_emulator_host=self.pubsub.address))
        self._stack.callback(clients.close)
        return clients

    def publisher(self, deadline_s: float = 5.0, heartbeat_s: float = 60.0, idle_s: float = 600.0) -> PubSubPublisher:
        publisher = PubSubPublisher(self.clients(), deadline_s, heartbeat_s, idle_s)
        self._stack.callback(publisher.close)
        return publisher


@pytest.fixture
def world(tmp_path: Path, cloud_movielens: Bandit) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, cloud_movielens, stack)


@contextmanager
def impatient(publisher: PubSubPublisher, deadline_s: float = 0.3) -> Iterator[None]:
    """Only what must fail has so short a deadline: what must succeed may be slow, most of all over a new channel."""
    patience_s = publisher._topic._deadline_s
    publisher._topic._deadline_s = deadline_s
    try:
        yield
    finally:
        publisher._topic._deadline_s = patience_s


def decisions(*keys: str, payload: bytes = b"first") -> list[Message]:
    return [Message("decisions", key, payload) for key in keys]


def by_producer(events: list[Event]) -> dict[str, list[Event]]:
    found = defaultdict(list)
    for event in events:
        found[event.producer].append(event)
    return found


TROUBLES = {
    "503 for longer than the deadline": Fault("Publish", "UNAVAILABLE", times=100),
    "taken, but the answer is lost": Fault("Publish", "UNAVAILABLE", times=100, after=True),
    "no answer within the deadline": Fault("Publish", delay_s=0.6),
    "refused": Fault("Publish", "PERMISSION_DENIED"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
class TestAnUncertainOutcome:
    def spoilt(self, world: World, trouble: str) -> PubSubPublisher:
        """A publisher that accepted a and b, and failed on c."""
        publisher = world.publisher()
        publisher.publish(decisions("a", "b"))
        fault = TROUBLES[trouble]
        world.faults.add(Fault(fault.method, fault.code, fault.times, fault.after, delay_s=fault.delay_s))
        failure = pytest.raises(BusError, match=r"publish to projects/test-project/topics/movielens-v1-events: ")
        with impatient(publisher), failure:
            publisher.publish(decisions("c"))
        world.faults.clear()
        return publisher

    def test_ends_the_name_and_no_offset_is_given_twice(self, world: World, trouble: str) -> None:
        publisher = self.spoilt(world, trouble)
        [receipt] = publisher.publish(decisions("d"))
        assert receipt.offset == 1, "another name begins"
        publisher.close()
        for events in by_producer(world.delivered.of("decisions")).values():
            contents = defaultdict(set)
            for event in events:
                contents[event.offset].add((event.key, event.payload))
            assert all(len(content) == 1 for content in contents.values())

    def test_leaves_what_was_acknowledged_without_gap(self, world: World, trouble: str) -> None:
        publisher = self.spoilt(world, trouble)
        publisher.publish(decisions("d", "e"))
        publisher.close()
        said = {heartbeat.producer: heartbeat.decisions for heartbeat in world.delivered.heartbeats()}
        keys = set()
        for producer, events in by_producer(world.delivered.of("decisions")).items():
            offsets = [event.offset for event in events]
            assert offsets[: said[producer]] == list(range(1, said[producer] + 1))
            keys |= {event.key for event in events[: said[producer]]}
        assert keys == {"a", "b", "d", "e"}

    def test_keeps_the_first_payload_for_the_next_try(self, world: World, trouble: str) -> None:
        publisher = self.spoilt(world, trouble)
        assert publisher.lookup("c") == b"first"
        [receipt] = publisher.publish(decisions("c", payload=b"second"))
        assert (receipt.payload, receipt.repeated) == (b"first", True)
        copies = {event.payload for event in world.delivered.of("decisions") if event.key == "c"}
        assert copies == {b"first"}


class TestTroubleThatPasses:
    @pytest.mark.parametrize("after", [False, True], ids=["not taken", "the answer is lost"])
    def test_within_the_deadline_is_ridden_out(self, world: World, after: bool) -> None:
        publisher = world.publisher()
        publisher.publish(decisions("a"))
        name = publisher.producer
        world.faults.add(Fault("Publish", "UNAVAILABLE", times=2, after=after))
        assert [receipt.offset for receipt in publisher.publish(decisions("b", "c"))] == [2, 3]
        assert publisher.producer == name
        assert [(event.offset, event.key) for event in world.delivered.of("decisions")] == [
            (1, "a"),
            (2, "b"),
            (3, "c"),
        ]

    def test_what_came_before_it_in_the_same_call_stays_accepted(self, world: World) -> None:
        """Three requests of 1000, of which the second fails."""
        publisher = world.publisher()
        messages = decisions(*(f"{i}" for i in range(2500)))
        publisher.publish(decisions("before"))
        world.faults.add(Fault("Publish", times=1))
        world.faults.add(Fault("Publish", "PERMISSION_DENIED"))
        with pytest.raises(BusError):
            publisher.publish(messages)
        receipts = publisher.publish(messages)
        assert [r.repeated for r in receipts] == [i < 1000 for i in range(2500)]
        assert [r.offset for r in receipts] == [*range(2, 1002), *range(1, 1501)]
        assert len(world.delivered.of("decisions")) == 2501

    def test_an_outage_uses_up_no_names(self, world: World) -> None:
        publisher = world.publisher()
        publisher.publish(decisions("a"))
        world.faults.add(Fault("Publish", "UNAVAILABLE", times=1000))
        for i in range(5):
            with impatient(publisher, 0.05), pytest.raises(BusError):
                publisher.publish(decisions(f"{i}"))
        world.faults.clear()
        publisher.publish(decisions("b"))
        publisher.close()
        assert len({heartbeat.producer for heartbeat in world.delivered.heartbeats()}) == 2


class TestHeartbeats:
    def test_a_name_is_announced_before_anything_is_accepted_under_it(self, world: World) -> None:
        publisher = world.publisher()
        publisher.publish(decisions("a"))
        first, second = world.delivered.all()
        assert (first.kind, first.producer) == ("heartbeat", publisher.producer)
        assert (second.kind, second.producer) == ("decision", publisher.producer)
        assert first.received_at <= second.received_at

    def test_say_what_was_accepted_before_them(self, world: World) -> None:
        publisher = world.publisher(heartbeat_s=0.02)
        for i in range(30):
            publisher.publish([*decisions(f"{i}"), Message("rewards", f"{i}", b"1")])
        until(lambda: world.delivered.heartbeats()[-1].decisions == 30)
        publisher.close()
        for heartbeat in world.delivered.heartbeats():
            for topic, said in (("decisions", heartbeat.decisions), ("rewards", heartbeat.rewards)):
                events = world.delivered.of(topic)  # type: ignore[arg-type]  # one of them
                assert all(event.offset <= said for event in events if event.received_at < heartbeat.at)
                assert all(event.received_at >= heartbeat.at for event in events if event.offset > said)

    def test_the_last_one_says_goodbye(self, world: World) -> None:
        publisher = world.publisher()
        publisher.publish(decisions("a", "b"))
        publisher.close()
        last = world.delivered.heartbeats()[-1]
        assert (last.decisions, last.rewards, last.ended) == (2, 0, True)
        with pytest.raises(BusError, match="was closed"):
            publisher.publish(decisions("c"))

    def test_whoever_accepted_nothing_says_nothing(self, world: World) -> None:
        world.publisher(heartbeat_s=0.01).close()
        assert world.delivered.all() == []

    def test_an_idle_name_ends_and_is_silent(self, world: World) -> None:
        publisher = world.publisher(heartbeat_s=0.02, idle_s=0.1)
        publisher.publish(decisions("a"))
        until(lambda: world.delivered.heartbeats()[-1].ended)
        names = {heartbeat.producer for heartbeat in world.delivered.heartbeats()}
        [receipt] = publisher.publish(decisions("b"))
        assert receipt.offset == 1
        [event] = [event for event in world.delivered.of("decisions") if event.key == "b"]
        assert event.producer not in names

    def test_a_goodbye_that_failed_is_said_later(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        publisher = world.publisher(heartbeat_s=0.02)
        publisher.publish(decisions("a"))
        name = publisher.producer
        world.faults.add(Fault("Publish", "UNAVAILABLE", times=1000))
        with impatient(publisher, 0.1):
            with pytest.raises(BusError):
                publisher.publish(decisions("b"))
            caplog.clear()  # the first from now on may be of a heartbeat that was under way; the second is the goodbye
            until(lambda: caplog.text.count(f"heartbeats of {name} were not sent") >= 2)
        world.faults.clear()
        until(lambda: any(h.producer == name and h.ended for h in world.delivered.heartbeats()))

    def test_the_joiner_has_one_of_its_own(self, world: World) -> None:
        at = publish_joiner_heartbeat(world.clients())
        [heartbeat] = world.delivered.heartbeats()
        assert (heartbeat.producer, heartbeat.decisions, heartbeat.rewards, heartbeat.at) == (JOINER, 0, 0, at)


class TestTheClock:
    def test_is_read_while_a_request_is_under_way_and_is_never_past_the_next_stamp(self, world: World) -> None:
        publisher = world.publisher(deadline_s=15.0)
        publisher.publish(decisions("a"))
        world.faults.add(Fault("Publish", delay_s=5.0))
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(publisher.publish, decisions("b"))
            until(lambda: world.faults.calls["Publish"] == 3)
            seen = publisher.now()
            assert not slow.done()
        assert slow.result()[0].received_at <= seen <= publisher.publish(decisions("c"))[0].received_at

    @pytest.mark.parametrize("jump_s", [-86_400, 86_400])
    def test_of_stamps_and_heartbeats_does_not_follow_a_jump_of_the_wall_clock(self, world: World, jump_s: int) -> None:
        jumped = 0
        clock = SteadyClock(wall=lambda: time.time_ns() + jumped * 10**9)
        publisher = PubSubPublisher(world.clients(), 5.0, 60.0, 600.0, clock)
        [before] = publisher.publish(decisions("a"))
        jumped = jump_s
        [after] = publisher.publish(decisions("b"))
        publisher.close()
        assert timedelta(0) <= after.received_at - before.received_at < timedelta(minutes=1)
        last = world.delivered.heartbeats()[-1]
        assert (last.decisions, last.ended) == (2, True)
        assert timedelta(0) <= last.at - after.received_at < timedelta(minutes=1)


class TestDelivery:
    def test_twice_and_in_any_order_loses_nothing(self, world: World) -> None:
        world.pubsub.unruly = Unruly(again=0.5)
        publisher = world.publisher()
        for i in range(5):
            publisher.publish(decisions(*(f"{i}-{j}" for j in range(40))))
        events = world.delivered.of("decisions")
        assert [event.offset for event in events] == list(range(1, 201))
        arrived = [event.offset for event in world.delivered.all() if event.kind == "decision"]
        assert len(arrived) > 200
        assert arrived != sorted(arrived)

    def test_the_topic_is_named_where_it_is_missing(self, world: World) -> None:
        world.delivered.clients.publisher.delete_topic(topic="projects/test-project/topics/movielens-v1-events")
        with pytest.raises(BusError, match=r"not found .*run the DAG …_provision.*google\.project"):
            world.publisher().publish(decisions("a"))

    def test_the_role_is_named_where_it_is_missing(self, world: World) -> None:
        world.faults.add(Fault("Publish", "PERMISSION_DENIED"))
        with pytest.raises(BusError, match=r"permission denied .*give the acting account roles/pubsub\.publisher"):
            world.publisher().publish(decisions("a"))


class TestARestart:
    def test_of_pubsub_is_survived_by_the_publisher_and_by_what_was_accepted(
        self, tmp_path: Path, cloud_movielens: Bandit
    ) -> None:
        with ExitStack() as stack:
            port = free_port()  # nobody takes it meanwhile
            with PubSubStandIn(tmp_path / "pubsub", port=port) as before:
                clients = GoogleClients(cloud_movielens, Settings(pubsub_emulator_host=before.address))
                stack.callback(clients.close)
                delivered = DeliveredEvents(clients, before)
                publisher = PubSubPublisher(clients, deadline_s=5.0)
                publisher.publish(decisions("a"))
            with impatient(publisher, 0.5), pytest.raises(BusError, match="not answered"):
                publisher.publish(decisions("b"))
            after = stack.enter_context(PubSubStandIn(tmp_path / "pubsub", port=port))
            delivered = DeliveredEvents(clients, after)

            def accepted() -> bool:
                try:
                    return bool(publisher.publish(decisions("b")))
                except BusError:
                    return False

            until(accepted)
            publisher.close()
            assert {event.key for event in delivered.of("decisions")} == {"a", "b"}


class TestStarting:
    def test_waits_for_nobody(self, cloud_movielens: Bandit) -> None:
        settings = Settings(pubsub_emulator_host="127.0.0.1:1")
        clients = GoogleClients(cloud_movielens, settings)
        begun = time.perf_counter()
        publisher = PubSubPublisher(clients, deadline_s=60.0)
        assert time.perf_counter() - begun < 30.0, "who waits takes the deadline, 60 s"
        with impatient(publisher, 0.2), pytest.raises(BusError, match="not answered"):
            publisher.publish(decisions("a"))
        publisher.close()
        clients.close()


class TestFirstPayloads:
    def test_are_forgotten_where_they_are_too_many(self) -> None:
        first = FirstPayloads(most_bytes=10_000)
        for i in range(100):
            first.put(str(i), Standing(b"x" * 700, None))
        assert first.get("0") is None
        assert first.get("99") == Standing(b"x" * 700, None)
        assert sum(first.get(str(i)) is not None for i in range(100)) == 10
