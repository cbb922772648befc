"""The journal's frames: what was written is found again, byte for byte in its place, whatever lies around it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rl_core.backends.contracts.bus import Message, Topic
from rl_core.backends.local.bus.frames import (
    TOPICS,
    Offsets,
    State,
    encode_frame,
    frames_in,
    messages_of,
    records_of,
    records_of_gone,
    without,
)
from rl_core.clock import Reading

STATE = State("bus-1", (7, 9), (2, 3), Reading(5, 6, "boot"))
messages = st.builds(
    Message,
    topic=st.sampled_from(TOPICS),
    key=st.text(max_size=40),
    payload=st.binary(max_size=200),
    shared=st.sampled_from([b"", b"shared by some"]),
)
groups = st.lists(st.lists(messages, max_size=6), min_size=1, max_size=5)
Read = dict[Topic, list[tuple[int, str, bytes]]]


def counts(some: list[Message]) -> Offsets:
    decisions = sum(message.topic == "decisions" for message in some)
    return decisions, len(some) - decisions


def encoded(some: list[Message]) -> bytes:
    return encode_frame(STATE, counts(some), records_of(some))


def expected(some: list[Message]) -> Read:
    read: Read = {}
    for topic, before in zip(TOPICS, STATE.heads, strict=True):
        its = [message for message in some if message.topic == topic]
        read[topic] = [(before + n, m.key, m.shared + m.payload) for n, m in enumerate(its, 1)]
    return read


def found_in(content: bytes) -> list[Read]:
    frames = list(frames_in(content))
    assert all(frame.before == STATE for frame in frames)
    return [{topic: list(messages_of(frame, topic)) for topic in TOPICS} for frame in frames]


@settings(deadline=None)
@given(groups)
def test_come_back_as_they_were_written(written: list[list[Message]]) -> None:
    content = b"".join(map(encoded, written)) + bytes(100)
    assert found_in(content) == [expected(some) for some in written]


@settings(deadline=None)
@given(groups, st.data())
def test_survive_the_damage_of_another_one(written: list[list[Message]], data: st.DataObject) -> None:
    parts = [encoded(some) for some in written]
    number = data.draw(st.integers(0, len(parts) - 1))
    start = data.draw(st.integers(0, len(parts[number]) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=len(parts[number]) - start))
    damaged = parts[number][:start] + noise + parts[number][start + len(noise) :]
    if damaged == parts[number]:
        return
    content = b"".join([*parts[:number], damaged, *parts[number + 1 :]])
    assert found_in(content) == [expected(some) for some in written[:number] + written[number + 1 :]]


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_are_not_found_in_noise(noise: bytes) -> None:
    assert list(frames_in(noise)) == []


@settings(deadline=None)
@given(groups, st.integers(0, 3000))
def test_that_were_cut_off_are_none(written: list[list[Message]], length: int) -> None:
    whole = [*map(encoded, written)]
    found = found_in(b"".join(whole)[:length])
    assert found == [expected(some) for some in written[: len(found)]]
    assert sum(map(len, whole[: len(found)])) <= length


@settings(deadline=None)
@given(st.lists(messages, min_size=1, max_size=6), st.data())
def test_lose_what_is_forgotten_and_keep_their_length(some: list[Message], data: st.DataObject) -> None:
    keys = data.draw(st.sets(st.sampled_from([message.key for message in some])))
    content = encoded(some)
    (frame,) = frames_in(content)
    shorter, gone = without(frame, frozenset(keys))
    assert len(shorter) == len(content)
    assert gone == sum(message.key in keys for message in some)
    kept = {t: [(o, *(("", b"") if k in keys else (k, p))) for o, k, p in its] for t, its in expected(some).items()}
    assert found_in(shorter) == [kept]
    (again,) = frames_in(shorter)
    assert without(again, frozenset()) == (shorter, 0)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 3000))
def test_of_what_is_lost_are_empty_messages_and_as_long_as_asked_for(decisions: int, rewards: int, least: int) -> None:
    frame = encode_frame(STATE, (decisions, rewards), records_of_gone((decisions, rewards)), least)
    assert len(frame) >= least
    (read,) = found_in(frame)
    assert read["decisions"] == [(7 + n, "", b"") for n in range(1, decisions + 1)]
    assert read["rewards"] == [(9 + n, "", b"") for n in range(1, rewards + 1)]
