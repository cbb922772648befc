"""What the frames of the bus's journal hold: the messages of one transaction, and all that a new start needs.

    head:   producer | start of the machine | stamp and elapsed time in ns (i64, i64)
            | last offsets before it, last offsets pruned (u64, decisions and rewards) | messages of each (u32)
    record: topic (u8) | messages (u32) | bytes of what they share, of all keys, of all payloads (u32 each)
            | length of each key, of each payload (u32; the top bit of a key's says: gone) | the bytes

Behind the records there may be padding. A record holds what one request published: what its payloads have in common is
written once. A message that is gone keeps its offset and its room.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from rl_core.backends.contracts.bus import Message, Topic
from rl_core.clock import Reading
from rl_core.framing import FRAME_BYTES, bodies_in, body_at, framed

TOPICS: tuple[Topic, ...] = ("decisions", "rewards")
Offsets = tuple[int, int]
"""Of decisions and of rewards."""

_HEAD = struct.Struct("<40s36sqqQQQQII")
_RECORD = struct.Struct("<BxxxIIII")
_LENGTH = struct.Struct("<I")
_GONE = 1 << 31
HEAD_BYTES = FRAME_BYTES + _HEAD.size
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
    body: bytes

    @property
    def after(self) -> State:
        return self.before._replace(heads=advanced(self.before.heads, self.counts))


class _Stored(NamedTuple):
    """Where in a frame's body a message stands."""

    topic: int
    shared: bytes
    length_at: int
    key: slice
    payload: slice
    gone: bool


def advanced(heads: Offsets, counts: Offsets) -> Offsets:
    return heads[0] + counts[0], heads[1] + counts[1]


def encode_frame(before: State, counts: Offsets = (0, 0), records: bytes = b"", least: int = 0) -> bytes:
    """A frame of at least so many bytes: what is missing is padded."""
    at, producer = before.reading, before.producer.encode()
    times = at.boot.encode(), at.stamp_ns, at.elapsed_ns
    head = _HEAD.pack(producer, *times, *before.heads, *before.floors, *counts)
    return framed(head, records, bytes(max(0, least - HEAD_BYTES - len(records))))


def encode_records(messages: Sequence[Message]) -> bytes:
    """One record for each run of messages of a topic that share the same beginning."""
    parts: list[bytes] = []
    for (topic, shared), run in groupby(messages, _run_of):
        some = list(run)
        keys = [message.key.encode() for message in some]
        payloads = [message.payload for message in some]
        lengths = [*map(len, keys), *map(len, payloads)]
        all_keys, all_payloads = b"".join(keys), b"".join(payloads)
        head = _RECORD.pack(TOPICS.index(topic), len(some), len(shared), len(all_keys), len(all_payloads))
        parts += (head, struct.pack(f"<{len(lengths)}I", *lengths), shared, all_keys, all_payloads)
    return b"".join(parts)


def encode_gone(counts: Offsets) -> bytes:
    """Records of so many messages of which nothing is left."""
    lengths = [_LENGTH.pack(_GONE) * count + bytes(4 * count) for count in counts]
    return b"".join(_RECORD.pack(n, counts[n], 0, 0, 0) + lengths[n] for n in range(len(TOPICS)) if counts[n])


def frame_at(content: bytes, position: int) -> Frame | None:
    """The frame that begins there; None where there is none that is whole."""
    body = body_at(content, position)
    return None if body is None else _frame(position, body)


def frames_in(content: bytes, offset: int = 0) -> Iterator[Frame]:
    """Every whole frame, whatever lies between them, of content that begins at `offset` of its segment."""
    return (_frame(offset + position, body) for position, body in bodies_in(content))


def messages_of(frame: Frame, topic: Topic) -> Iterator[tuple[int, str, bytes]]:
    """Offset, key and whole payload of each message of the topic; of one that is gone both are empty."""
    number, body = TOPICS.index(topic), frame.body
    offset = frame.before.heads[number]
    for one in _stored(frame):
        if one.topic == number:
            offset += 1
            yield (offset, "", b"") if one.gone else (offset, body[one.key].decode(), one.shared + body[one.payload])


def without(frame: Frame, keys: frozenset[bytes]) -> tuple[bytes, int]:
    """The frame, byte for byte as long, without the messages under these keys; and how many there were."""
    body, gone = bytearray(frame.body), 0
    for one in _stored(frame):
        if not one.gone and frame.body[one.key] in keys:
            gone += 1
            _LENGTH.pack_into(body, one.length_at, one.key.stop - one.key.start | _GONE)
            for stretch in (one.key, one.payload):
                body[stretch] = bytes(stretch.stop - stretch.start)
    return framed(bytes(body)), gone


def _frame(position: int, body: bytes) -> Frame:
    producer, boot, stamp, elapsed, *numbers = _HEAD.unpack_from(body)
    heads, floors, counts = ((numbers[i], numbers[i + 1]) for i in (0, 2, 4))
    reading = Reading(stamp, elapsed, boot.rstrip(b"\0").decode())
    before = State(producer.rstrip(b"\0").decode(), heads, floors, reading)
    return Frame(position, position + FRAME_BYTES + len(body), before, counts, body)


def _stored(frame: Frame) -> Iterator[_Stored]:
    body, position, left = frame.body, _HEAD.size, sum(frame.counts)
    while left > 0:
        topic, count, shared, keys, _ = _RECORD.unpack_from(body, position)
        lengths_at = position + _RECORD.size
        lengths = struct.unpack_from(f"<{2 * count}I", body, lengths_at)
        key_at = lengths_at + 8 * count + shared
        payload_at, common = key_at + keys, body[key_at - shared : key_at]
        for number in range(count):
            length_at = lengths_at + 4 * number
            key = slice(key_at, key_at := key_at + (lengths[number] & ~_GONE))
            payload = slice(payload_at, payload_at := payload_at + lengths[count + number])
            yield _Stored(topic, common, length_at, key, payload, bool(lengths[number] & _GONE))
        position = payload_at
        left -= count
