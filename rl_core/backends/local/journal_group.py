"""What the message bus's journal is made of: groups, each with its checksum and with all that a new start needs.

    mark (8 bytes) | length of the body (u32) | CRC-32 of length and body (u32) | body
    body: length of the state (u32) | the state as JSON | records
    record: topic and kind (u8) | offset (i64) | stamp in µs (i64) | lengths of key and payload (u32, u32) | both

The mark can't occur in UTF-8, so not in a key or a JSON payload either: behind a damaged stretch it shows where the
next group begins.
"""

from __future__ import annotations

import json  # not orjson: Airflow's tasks read the bus too, and Composer brings none
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rl_core.backends.contracts.bus import Topic
from rl_core.clock import Reading

MARK = b"\xff\xfebus\xfe\xff\x01"
TOPICS: tuple[Topic, ...] = ("decisions", "rewards")
_HEAD = struct.Struct("<8sII")
HEAD_BYTES = _HEAD.size
_LENGTH = struct.Struct("<I")
_RECORD = struct.Struct("<BqqII")
_KINDS = {topic: number for number, topic in enumerate(TOPICS)}
_GONE = 0x80


class Record(NamedTuple):
    """A message as it was accepted; of one that is gone (forgotten, or lost from both copies) only its offset."""

    topic: Topic
    offset: int
    key: str
    payload: bytes
    stamp_us: int
    gone: bool = False


class Place(NamedTuple):
    """Where the next group goes."""

    segment: int
    position: int


class State(NamedTuple):
    """What the bus is beside its messages; written with every transaction, into both copies.

    `heads` are the last offsets given and `floors` the last ones pruned, in the order of TOPICS; `first` is the oldest
    segment of the journal that counts.
    """

    producer: str
    heads: tuple[int, int]
    floors: tuple[int, int]
    reading: Reading
    first: int
    place: Place

    def head(self, topic: Topic) -> int:
        return self.heads[TOPICS.index(topic)]

    def floor(self, topic: Topic) -> int:
        return self.floors[TOPICS.index(topic)]

    def dumped(self) -> bytes:
        at = self.reading
        clock = (at.stamp_ns, at.elapsed_ns, at.boot)
        state = [self.producer, self.heads, self.floors, clock, self.first, self.place]
        return json.dumps(state, separators=(",", ":")).encode()

    @staticmethod
    def loaded(content: bytes) -> State:
        producer, heads, floors, clock, first, place = json.loads(content)
        return State(producer, tuple(heads), tuple(floors), Reading(*clock), first, Place(*place))


class Group(NamedTuple):
    """One transaction: the state after it (with the place it was written at), and its records, not taken apart yet."""

    state: State
    content: bytes

    @property
    def records(self) -> list[Record]:
        return list(_records(self.content))

    @property
    def counts(self) -> tuple[int, int]:
        """How many records of each topic, for less than `records` costs."""
        counts, position = [0, 0], 0
        while position < len(self.content):
            kind, _, _, key_length, payload_length = _RECORD.unpack_from(self.content, position)
            counts[kind & ~_GONE] += 1
            position += _RECORD.size + key_length + payload_length
        return counts[0], counts[1]


def encode_record(record: Record) -> bytes:
    key = record.key.encode()
    kind = _KINDS[record.topic] | (_GONE if record.gone else 0)
    return _RECORD.pack(kind, record.offset, record.stamp_us, len(key), len(record.payload)) + key + record.payload


def encode_group(state: State, records: Iterable[bytes]) -> bytes:
    """`records` as `encode_record` gives them."""
    described = state.dumped()
    body = b"".join((_LENGTH.pack(len(described)), described, *records))
    return _HEAD.pack(MARK, len(body), _checksum(body)) + body


def group_length(head: bytes) -> int:
    """How many bytes a group takes that begins with these HEAD_BYTES; 0 where none begins."""
    if len(head) < HEAD_BYTES or not head.startswith(MARK):
        return 0
    return HEAD_BYTES + int(_HEAD.unpack(head)[1])


def group_at(content: bytes, position: int) -> tuple[Group, int] | None:
    """The group that begins at `position`, and where it ends; None where there is none that is whole."""
    if content[position : position + len(MARK)] != MARK or position + _HEAD.size > len(content):
        return None
    _, length, checksum = _HEAD.unpack_from(content, position)
    start = position + _HEAD.size
    body = content[start : start + length]
    if len(body) < length or _checksum(body) != checksum:
        return None
    (described,) = _LENGTH.unpack_from(body)
    records_at = _LENGTH.size + described
    state = State.loaded(body[_LENGTH.size : records_at])
    return Group(state, body[records_at:]), start + length


def groups_in(content: bytes, position: int = 0) -> Iterator[tuple[int, Group, int]]:
    """Every whole group from `position` on, with where it begins and ends, whatever lies between them."""
    while (position := content.find(MARK, position)) >= 0:
        found = group_at(content, position)
        if found is None:
            position += 1
        else:
            yield position, *found
            position = found[1]


def _records(body: bytes) -> Iterator[Record]:
    position = 0
    while position < len(body):
        kind, offset, stamp_us, key_length, payload_length = _RECORD.unpack_from(body, position)
        key_at = position + _RECORD.size
        payload_at = key_at + key_length
        position = payload_at + payload_length
        key = body[key_at:payload_at].decode()
        topic = TOPICS[kind & ~_GONE]
        yield Record(topic, offset, key, body[payload_at:position], stamp_us, bool(kind & _GONE))


def _checksum(body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_LENGTH.pack(len(body))))
