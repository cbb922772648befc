"""The frames of the bus's journal: the messages of one transaction each, and all that a new start needs.

    mark (8 bytes) | length of the body (u32) | CRC-32 of length and body (u32) | body

The mark can't occur in UTF-8, so not in JSON either: behind a damaged stretch it shows where the next frame begins.
The body is a line of JSON, the bytes that it tells the lengths of, and padding. The line: the state before the
messages, how many there are of each topic, and the records. A record holds what one request published to a topic: the
length of what its payloads have in common, which is written once, the keys, and the lengths of the payloads' own parts.
A message that is gone has 0 for its key and keeps its offset.
"""

from __future__ import annotations

import json  # not orjson: Airflow's tasks read the bus too, and Composer brings none
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from rl_core.backends.contracts.bus import Message, Topic
from rl_core.clock import Reading

TOPICS: tuple[Topic, ...] = ("decisions", "rewards")
Offsets = tuple[int, int]
"""Of decisions and of rewards."""
Records = tuple[list[Any], bytes]
"""As in the line of JSON, and the bytes behind it."""

NO_RECORDS: Records = ([], b"")
OPENING_BYTES = 512
MARK = b"\xff\xfebus\xfe\xff\x02"
_HEAD = struct.Struct("<8sII")
_LENGTH = struct.Struct("<I")
_as_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_run_of = attrgetter("topic", "shared")


class State(NamedTuple):
    """What the bus is beside its messages: `heads` are the last offsets given, `floors` the last ones pruned."""

    producer: str
    heads: Offsets
    floors: Offsets
    reading: Reading

    def at(self, reading: Reading) -> State:
        return State(self.producer, self.heads, self.floors, reading)

    def behind(self, counts: Offsets) -> State:
        """With so many messages more."""
        (decisions, rewards), (more_decisions, more_rewards) = self.heads, counts
        return State(self.producer, (decisions + more_decisions, rewards + more_rewards), self.floors, self.reading)

    def line(self) -> str:
        """The inside of a JSON list."""
        producer, (d, r), (d_floor, r_floor), (stamp, elapsed, boot) = self
        return f'"{producer}",{d},{r},{d_floor},{r_floor},{stamp},{elapsed},"{boot}"'


class Frame(NamedTuple):
    """One transaction, found at [start, end) of a segment. `before` is the state without its messages."""

    start: int
    end: int
    before: State
    counts: Offsets
    records: Records

    @property
    def after(self) -> State:
        return self.before.behind(self.counts)


def framed(*parts: bytes) -> bytes:
    """Encode a frame whose body are the parts, one behind the other."""
    body = b"".join(parts)
    return _HEAD.pack(MARK, len(body), zlib.crc32(body, zlib.crc32(_LENGTH.pack(len(body))))) + body


def body_at(content: bytes, position: int) -> bytes | None:
    """The body of the frame that begins there; None where there is none that is whole."""
    start = position + _HEAD.size
    if not content.startswith(MARK, position) or start > len(content):
        return None
    _, length, checksum = _HEAD.unpack_from(content, position)
    body = content[start : start + length]
    whole = len(body) == length and zlib.crc32(body, zlib.crc32(_LENGTH.pack(length))) == checksum
    return body if whole else None


def encode_frame(before: State, counts: Offsets = (0, 0), records: Records = NO_RECORDS, least: int = 0) -> bytes:
    """A frame of at least so many bytes: what is missing is padded."""
    line = f"[{before.line()},{counts[0]},{counts[1]},{_as_json(records[0])}]\n".encode()
    return framed(line, records[1], bytes(max(0, least - _HEAD.size - len(line) - len(records[1]))))


def encode_opening(state: State) -> bytes:
    """The frame that begins a segment: of one length, so that another fits into its place."""
    return encode_frame(state, least=OPENING_BYTES)


def records_of(messages: Sequence[Message]) -> Records:
    """One record for each run of messages of a topic that share the same beginning."""
    records, parts = [], []
    for (topic, shared), run in groupby(messages, _run_of):
        _, keys, payloads, _ = zip(*run, strict=True)
        records.append([TOPICS.index(topic), len(shared), keys, [*map(len, payloads)]])
        parts += [shared, *payloads]
    return records, b"".join(parts)


def records_of_gone(counts: Offsets) -> Records:
    """Of so many messages of which nothing is left."""
    return [[topic, 0, [0] * counts[topic], [0] * counts[topic]] for topic in (0, 1) if counts[topic]], b""


def frame_at(content: bytes, position: int, offset: int = 0) -> Frame | None:
    """The frame that begins there, in content that begins at `offset` of its segment; None where none is whole."""
    if (body := body_at(content, position)) is None:
        return None
    line, _, behind = body.partition(b"\n")
    *state, decisions, rewards, records = json.loads(line)
    start = offset + position
    return Frame(start, start + _HEAD.size + len(body), state_of(*state), (decisions, rewards), (records, behind))


def frames_in(content: bytes, offset: int = 0) -> Iterator[Frame]:
    """Every whole frame, whatever lies between them, of content that begins at `offset` of its segment."""
    position = 0
    while (position := content.find(MARK, position)) >= 0:
        if (frame := frame_at(content, position, offset)) is None:
            position += 1
        else:
            yield frame
            position = frame.end - offset


def state_of(producer: str, d: int, r: int, d_floor: int, r_floor: int, stamp: int, elapsed: int, boot: str) -> State:
    """As `State.line` writes it."""
    return State(producer, (d, r), (d_floor, r_floor), Reading(stamp, elapsed, boot))


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


def decided_in(frame: Frame) -> Iterator[str]:
    """The keys of the frame's decisions."""
    return (key for number, _, keys, _ in frame.records[0] if number == 0 for key in keys if key != 0)


def without(frame: Frame, gone: frozenset[str]) -> tuple[bytes, int]:
    """The frame, as long as it is, without the messages under these keys; and how many there were."""
    content, position, records, parts, count = frame.records[1], 0, [], [], 0
    for number, shared_length, keys, lengths in frame.records[0]:
        parts.append(content[position : (position := position + shared_length)])
        for n, key in enumerate(keys):
            payload = content[position : (position := position + lengths[n])]
            if key in gone:
                keys[n], lengths[n], count = 0, 0, count + 1
            else:
                parts.append(payload)
        records.append([number, shared_length, keys, lengths])
    return encode_frame(frame.before, frame.counts, (records, b"".join(parts)), frame.end - frame.start), count
