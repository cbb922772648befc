"""Turns named features, as they were sent, into numbers: one pure function of the definition, the same everywhere."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_core.errors import SchemaError
from rl_core.feature_config import Boolean, Category, Feature, Features, Hashed, Number, SetOf, Time, Vector

Put = Callable[[Any, "list[float]", int], None]
"""Writes what a value is made into at a place of a row. Raises ValueError with the rule it breaks."""

_LARGEST = float(np.finfo(np.float32).max)
_DAY_S, _WEEK_S = 86_400.0, 604_800.0
_MONDAY_S = 345_600.0  # 1970-01-05 was the first Monday
_ABSENT = object()


class Vectoriser:
    """Makes rows of numbers of named features; server, importer and ingester use it.

    Args:
        passed_over: names that may be sent, too, and make no difference.

    Attributes:
        clipped: values so far that lay outside the range which their definition declares.
    """

    def __init__(self, features: Features, passed_over: Collection[str] = ()) -> None:
        self._parts: list[tuple[str, Put, int, bool]] = []
        self.width = 0
        self.clipped = 0
        for name, feature in features.items():
            self._parts.append((name, self._put(feature), self.width, feature.optional))
            self.width += len(feature.names(name))
        self._known = features.keys()
        self._taken = self._known | set(passed_over)

    @property
    def names(self) -> list[str]:
        """The features, in order."""
        return list(self._known)

    def rows(self, given: Sequence[Mapping[str, Any]], where: str = "instances[{}].features") -> NDArray[np.float32]:
        """Return [n, width] float32. Raises SchemaError naming row, feature and rule."""
        return np.asarray([self.row(one, where.format(i)) for i, one in enumerate(given)], np.float32).reshape(
            len(given), self.width
        )

    def logged(self, texts: Sequence[str | None]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return what is made of n rows of the log, [n, width], and which of them [n] it can't read.

        The log keeps what was sent, by whatever definition then held: features that are no more are passed over.
        """
        import orjson

        made = np.zeros((len(texts), self.width), np.float32)
        wrong = np.zeros(len(texts), np.bool_)
        for i, text in enumerate(texts):
            try:
                said = orjson.loads(text or b"")
                if type(said) is not dict:
                    raise TypeError("no JSON object")
                made[i] = self.row({name: said[name] for name in said if name in self._known}, "features")
            except (SchemaError, ValueError, TypeError):
                wrong[i] = True
        return made, wrong

    def row(self, given: Mapping[str, Any], where: str) -> list[float]:
        """Return the numbers of one row. Raises SchemaError."""
        if not given.keys() <= self._taken:
            unknown = next(name for name in given if name not in self._taken)
            alike = get_close_matches(str(unknown), self._known, 1)
            meant = f"did you mean {alike[0]}?" if alike else f"the features are {', '.join(self._known)}"
            raise SchemaError(f"{where} has {str(unknown)[:60]!r}, which is no feature; {meant}")
        made = [0.0] * self.width
        for name, put, at, optional in self._parts:
            value = given.get(name, _ABSENT)
            if value is _ABSENT or value is None:
                if not optional:
                    raise SchemaError(f"{where}.{name} is missing; send it, or declare what stands for it: `missing`")
                value = None
            try:
                put(value, made, at)
            except (ValueError, TypeError, OverflowError) as error:
                raise SchemaError(f"{where}.{name} is {str(value)[:60]!r}; {error}") from None
        return made

    def _put(self, feature: Feature) -> Put:
        match feature:
            case Number():
                return self._number(feature)
            case Category():
                return _category(feature)
            case Hashed():
                return _hashed(feature)
            case SetOf():
                return _set(feature)
            case Boolean():
                return _boolean(feature)
            case Time():
                return _time(feature)
            case Vector():
                return _vector(feature)

    def _number(self, feature: Number) -> Put:
        low, high, missing = feature.min, feature.max, feature.missing

        def put(value: Any, made: list[float], at: int) -> None:
            number = _float(missing if value is None else value)
            if low is not None and high is not None:
                if not low <= number <= high:
                    self.clipped += 1
                    number = min(max(number, low), high)
                number = 2.0 * (number - low) / (high - low) - 1.0
            made[at] = number

        return put


def canonical(features: Mapping[str, Any]) -> str:
    """Write named features as the log keeps them: compact JSON, ascending by name."""
    import orjson  # not there in Composer, which imports this module and logs nothing

    return orjson.dumps(features, option=orjson.OPT_SORT_KEYS).decode()


def hash_bucket(value: str, buckets: int) -> int:
    """Hash a word into 0..buckets-1 (BLAKE2b, RFC 7693), the same in every process and release."""
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, person=b"feature").digest()
    return int.from_bytes(digest, "little") % buckets


def _category(feature: Category) -> Put:
    place, missing, other = {v: i for i, v in enumerate(feature.values)}, feature.missing, len(feature.values)

    def put(value: Any, made: list[float], at: int) -> None:
        made[at + place.get(_word(missing if value is None else value), other)] = 1.0

    return put


def _hashed(feature: Hashed) -> Put:
    buckets, missing = feature.buckets, feature.missing

    def put(value: Any, made: list[float], at: int) -> None:
        made[at + hash_bucket(_word(missing if value is None else value), buckets)] = 1.0

    return put


def _set(feature: SetOf) -> Put:
    place, other = {v: i for i, v in enumerate(feature.values)}, len(feature.values)

    def put(value: Any, made: list[float], at: int) -> None:
        if not isinstance(value, list | tuple | None):
            raise ValueError("send a list of words")
        for word in value or ():
            made[at + place.get(_word(word), other)] = 1.0

    return put


def _boolean(feature: Boolean) -> Put:
    def put(value: Any, made: list[float], at: int) -> None:
        value = feature.missing if value is None else value
        if type(value) is not bool:
            raise ValueError("send true or false")
        made[at] = float(value)

    return put


def _time(feature: Time) -> Put:
    def put(value: Any, made: list[float], at: int) -> None:
        value = feature.missing if value is None else value
        time = value if isinstance(value, datetime) else _parsed(value)
        if time is None or time.tzinfo is None:
            raise ValueError("write ISO 8601 with an offset, like 2026-01-31T12:00:00Z")
        seconds = time.astimezone(UTC).timestamp() - _MONDAY_S
        for n, period in enumerate((_DAY_S, _WEEK_S)):
            angle = 2.0 * math.pi * (seconds % period) / period
            made[at + 2 * n], made[at + 2 * n + 1] = math.sin(angle), math.cos(angle)

    return put


def _parsed(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def _vector(feature: Vector) -> Put:
    dim = feature.dim

    def put(value: Any, made: list[float], at: int) -> None:
        if value is None:
            return
        if not isinstance(value, list | tuple) or len(value) != dim:
            raise ValueError(f"send a list of {dim} numbers")
        made[at : at + dim] = [_float(number) for number in value]

    return put


def _float(value: Any) -> float:
    if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:
        raise ValueError("send a number that fits float32")
    return float(value)


def _word(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("send a word, in quotes")
    return value
