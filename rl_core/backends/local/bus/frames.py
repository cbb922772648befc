"""What the frames of the bus's journal hold: the messages of one transaction, and all that a new start needs.

A frame's body is a line of JSON, the bytes that it tells the lengths of, and padding. The line: the state before the
messages, how many there are of each topic, and the records. A record holds what one request published to a topic: the
length of what its payloads have in common, which is written once, the keys, and the lengths of the payloads' own parts.
A message that is gone has 0 for its key and keeps its offset.
"""

from __future__ import annotations

import json  # not orjson: Airflow's tasks read the bus too, and Composer brings none
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from rl_core.backends.contracts.bus import Message, Topic
from rl_core.backends.local.bus.framing import FRAME_BYTES, bodies_in, body_at, framed
from rl_core.clock import Reading

TOPICS: tuple[Topic, ...] = ("decisions", "rewards")
Offsets = tuple[int, int]
"""Of decisions and of rewards."""
Records = tuple[list[Any], bytes]
"""As in the line of JSON, and the bytes behind it."""

NO_RECORDS: Records = ([], b"")
OPENING_BYTES = 512
_as_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_run_of = attrgetter("topic", "shared")


class State(NamedTuple):
    """What the bus is beside its messages: `heads` are the last offsets given, `floors` the last ones pruned."""

    producer: str
    heads: Offsets
    floors: Offsets
    reading: Reading


class Frame(NamedTuple):
    """One transaction, found at [start, end) of a segment. `before` is the state without its messages."""

    start: int
    end: int
    before: State
    counts: Offsets
    records: Records

    @property
    def after(self) -> State:
        return self.before._replace(heads=advanced(self.before.heads, self.counts))


def advanced(heads: Offsets, counts: Offsets) -> Offsets:
    return heads[0] + counts[0], heads[1] + counts[1]


def encode_frame(before: State, counts: Offsets = (0, 0), records: Records = NO_RECORDS, least: int = 0) -> bytes:
    """A frame of at least so many bytes: what is missing is padded."""
    producer, heads, floors, at = before
    head = [producer, *heads, *floors, at.stamp_ns, at.elapsed_ns, at.boot, *counts, records[0]]
    line, content = (_as_json(head) + "\n").encode(), records[1]
    return framed(line, content, bytes(max(0, least - FRAME_BYTES - len(line) - len(content))))


def encode_opening(state: State) -> bytes:
    """The frame that begins a segment: of one length, so that another fits into its place."""
    return encode_frame(state, least=OPENING_BYTES)


def records_of(messages: Sequence[Message]) -> Records:
    """One record for each run of messages of a topic that share the same beginning."""
    records, parts = [], []
    for (topic, shared), run in groupby(messages, _run_of):
        some = list(run)
        payloads = [message.payload for message in some]
        records.append([TOPICS.index(topic), len(shared), [message.key for message in some], [*map(len, payloads)]])
        parts += [shared, *payloads]
    return records, b"".join(parts)


def records_of_gone(counts: Offsets) -> Records:
    """Of so many messages of which nothing is left."""
    return [[topic, 0, [0] * counts[topic], [0] * counts[topic]] for topic in (0, 1) if counts[topic]], b""


def frame_at(content: bytes, position: int) -> Frame | None:
    """The frame that begins there; None where there is none that is whole."""
    body = body_at(content, position)
    return None if body is None else _frame(position, body)


def frames_in(content: bytes, offset: int = 0) -> Iterator[Frame]:
    """Every whole frame, whatever lies between them, of content that begins at `offset` of its segment."""
    return (_frame(offset + position, body) for position, body in bodies_in(content))


def messages_of(frame: Frame, topic: Topic) -> Iterator[tuple[int, str, bytes]]:
    """Offset, key and whole payload of each message of the topic; of one that is gone both are empty."""
    offset, position = frame.before.heads[TOPICS.index(topic)], 0
    records, content = frame.records
    for number, shared_length, keys, lengths in records:
        shared = content[position : (position := position + shared_length)]
        if TOPICS[number] != topic:
            position += sum(lengths)
            continue
        for key, length in zip(keys, lengths, strict=True):
            offset += 1
            payload = content[position : (position := position + length)]
            yield (offset, key, shared + payload) if key != 0 else (offset, "", b"")


def without(frame: Frame, keys: frozenset[str]) -> tuple[bytes, int]:
    """The frame, as long as it is, without the messages under these keys; and how many there were."""
    content, position, records, parts, gone = frame.records[1], 0, [], [], 0
    for number, shared_length, its, lengths in frame.records[0]:
        parts.append(content[position : (position := position + shared_length)])
        for length in lengths:
            parts.append(content[position : (position := position + length)])
        hits = [n for n, key in enumerate(its) if key in keys]
        for n in hits:
            its[n], lengths[n], parts[n - len(its)] = 0, 0, b""
        records.append([number, shared_length, its, lengths])
        gone += len(hits)
    return encode_frame(frame.before, frame.counts, (records, b"".join(parts)), frame.end - frame.start), gone


def _frame(position: int, body: bytes) -> Frame:
    line, _, content = body.partition(b"\n")
    producer, d, r, d_floor, r_floor, stamp, elapsed, boot, decisions, rewards, records = json.loads(line)
    before = State(producer, (d, r), (d_floor, r_floor), Reading(stamp, elapsed, boot))
    return Frame(position, position + FRAME_BYTES + len(body), before, (decisions, rewards), (records, content))
