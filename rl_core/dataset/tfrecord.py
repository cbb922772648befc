"""Interactions as TFRecords, laid out as TF-Agents' `example_encoding` reads the trajectory of a LinUCB agent.

A record is a `tf.train.Example` with one feature per leaf of the `Trajectory`: float32 leaves as float lists, int32
leaves as raw little-endian bytes; seq, propensity and eligible are ours, and the stock parser passes over them. Every
leaf has a fixed size, so every record of a problem has the same bytes but for its values: a NumPy structured dtype
writes and reads them without TensorFlow. Source: tensorflow/core/example/example.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_core.framing import checksums, framed

FIRST, LAST = 0, 2  # step types: a bandit's episode has one step
_PIECE = 4096


@dataclass(frozen=True, eq=False)
class Rows:
    """n interactions: observation [n, d] float32, eligible [n, K] bool, all others [n].

    A row of which no action is eligible only trains: what could have been chosen is not known of all.
    """

    seq: NDArray[np.int64]
    observation: NDArray[np.float32]
    action: NDArray[np.int32]
    reward: NDArray[np.float32]
    propensity: NDArray[np.float64]
    eligible: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.seq)

    def take(self, index: NDArray[Any]) -> Rows:
        """Return the rows at these positions, in this order."""
        return Rows(*(np.take(getattr(self, field.name), index, axis=0) for field in fields(self)))

    @classmethod
    def empty(cls, observation_dim: int, num_actions: int) -> Rows:
        """Return no rows of the given shapes."""
        return Layout(observation_dim, num_actions).decode(b"")

    @classmethod
    def concatenated(cls, parts: Iterable[Rows]) -> Rows:
        """Join parts into one, in order."""
        columns = zip(*([getattr(part, field.name) for field in fields(cls)] for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


class Layout:
    """The bytes of a record for d observed numbers and K actions; ingester and trainer write and read by it."""

    def __init__(self, observation_dim: int, num_actions: int) -> None:
        self.num_actions = num_actions
        leaves = {  # by name, as deterministic protobuf serialisation orders a map
            "action": np.dtype("<i4"),
            "discount": np.dtype("<f4"),
            "eligible": np.dtype(("u1", (-(-num_actions // 8),))),
            "next_step_type": np.dtype("<i4"),
            "observation": np.dtype(("<f4", (observation_dim,))),
            "propensity": np.dtype("<f8"),
            "reward": np.dtype("<f4"),
            "seq": np.dtype("<i8"),
            "step_type": np.dtype("<i4"),
        }
        entries, ends = b"", {}
        for name, leaf in leaves.items():
            entries += _feature(name, leaf)
            ends[name] = len(entries)  # the value is the last thing in its entry
        data = _field(1, entries)
        before = 12 + len(data) - len(entries)
        offsets = [before + ends[name] - leaf.itemsize for name, leaf in leaves.items()]
        self.dtype = np.dtype(
            {
                "names": [*leaves, "data", "crc"],
                "formats": [*leaves.values(), f"V{len(data)}", "<u4"],
                "offsets": [*offsets, 12, 12 + len(data)],
                "itemsize": 16 + len(data),
            }
        )
        record = bytearray(framed(data))
        values = np.frombuffer(record, self.dtype)
        values["step_type"], values["next_step_type"], values["crc"] = FIRST, LAST, 0
        self.template = bytes(record)

    def encode(self, rows: Rows, index: NDArray[np.int64] | None = None) -> Iterator[bytes]:
        """Write the rows at these positions (None: all) as the bytes of a TFRecord file, in this order.

        In pieces that fit the processor's cache.
        """
        index = np.arange(len(rows)) if index is None else index
        buffer = bytearray(self.template * min(len(index), _PIECE))
        records = np.frombuffer(buffer, self.dtype)
        for low in range(0, len(index), _PIECE):
            own = rows.take(index[low : low + _PIECE])
            piece = records[: len(own)]
            for name in ("seq", "observation", "action", "reward", "propensity"):
                piece[name] = getattr(own, name)
            piece["eligible"] = np.packbits(own.eligible, axis=1, bitorder="little")
            piece["crc"] = checksums(piece["data"].tolist())
            yield bytes(memoryview(buffer)[: len(piece) * self.dtype.itemsize])

    def decode(self, content: bytes) -> Rows:
        """Read the rows that `encode` wrote, as views of `content`. Raises ValueError where the layout is another."""
        records = np.frombuffer(content, self.dtype)
        if len(records):
            first = bytearray(content[: self.dtype.itemsize])
            values = np.frombuffer(first, self.dtype)
            for name in (*(field.name for field in fields(Rows)), "crc"):
                values[name] = 0
            if first != self.template:
                raise ValueError("its records have another layout")
        eligible = np.unpackbits(records["eligible"], axis=1, count=self.num_actions, bitorder="little").view(np.bool_)
        return Rows(
            records["seq"],
            records["observation"],
            records["action"],
            records["reward"],
            records["propensity"],
            eligible,
        )


def _feature(name: str, leaf: np.dtype[Any]) -> bytes:
    """The map entry of a feature: a packed FloatList for float32, else a BytesList with one value of raw bytes."""
    values = _field(1, bytes(leaf.itemsize))
    kind = _field(2 if leaf.base == np.dtype("<f4") else 1, values)
    return _field(1, _field(1, name.encode()) + _field(2, kind))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])
