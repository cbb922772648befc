"""Of which kind `banditloop init` makes a column, and that what it writes takes every row that it was made from."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rl_core.config import Bandit, Settings
from rl_core.importing import importer
from rl_core.starting.init import init

N = 200
RNG = np.random.default_rng(5)
NUMBERS = RNG.normal(size=N).round(3).tolist()


def every(*values: Any) -> list[Any]:
    return [values[n % len(values)] for n in range(N)]


KINDS: dict[str, tuple[list[Any], dict[str, Any] | str]] = {
    "numbers": (every(3, 81, 12), {"kind": "number", "min": 3, "max": 81}),
    "fractions": (every(Decimal("0.5"), Decimal("1.25")), {"kind": "number", "min": 0.5, "max": 1.25}),
    "0 and 1": (every(0, 1), {"kind": "number", "min": 0, "max": 1}),
    "numbers, some missing": (every(1, None, 5, 3), {"kind": "number", "min": 1, "max": 5, "missing": 3}),
    "one absurd number": ([*NUMBERS[:-1], 1e15], {"kind": "number"}),
    "few words": (every("de", "fr", "de"), {"kind": "category", "values": ["de", "fr"]}),
    "words that YAML knows": (every("no", "~", "null"), {"kind": "category", "values": ["no", "~", "null"]}),
    "few words, some missing": (
        every("de", None, "fr", "de"),
        {"kind": "category", "values": ["de", "fr", "none"], "missing": "none"},
    ),
    "a word or nothing": (every("vip", None), {"kind": "category", "values": ["vip", "none"], "missing": "none"}),
    "numbers that are names: shop_id": (every(17, 4, 17), {"kind": "category", "values": ["17", "4"]}),
    "many words": ([f"c{n % 60}" for n in range(N)], {"kind": "hashed", "buckets": 64}),
    "truths": (every(True, False), {"kind": "boolean"}),
    "truths in words": (every("Yes", "no", None, "no"), {"kind": "boolean", "missing": False}),
    "times": (every("2026-01-31T12:00:00Z", "2026-02-01T10:30:00+01:00"), {"kind": "time"}),
    "times without an offset": (every("2026-01-31 12:00:00", "2026-02-01 10:30"), {"kind": "time"}),
    "times as BigQuery writes them": (every("2026-01-31 12:00:00 UTC", "2026-02-01 10:30:00.5 UTC"), {"kind": "time"}),
    "days, some missing": (
        every("2026-01-31", None, "2026-02-01"),
        {"kind": "time", "missing": "2026-02-01T00:00:00+00:00"},
    ),
    "typed times": (every(datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)), {"kind": "time"}),
    "typed days": (every(date(2026, 1, 31), date(2026, 2, 1)), {"kind": "time"}),
    "sets": (every(["a", "b"], ["a"], []), {"kind": "set", "values": ["a", "b"]}),
    "sets in text": (every("a|b", "a", None), {"kind": "set", "values": ["a", "b"]}),
    "vectors": (every([0.5, 1], [0.25, -3]), {"kind": "vector", "dim": 2}),
    "vectors, some missing": (every([0.5, 1], None), {"kind": "vector", "dim": 2, "missing": "zeros"}),
    "vectors in text": ([f"{x}|{-x}" for x in NUMBERS], {"kind": "vector", "dim": 2}),
    "the same": (every("web"), "nothing but 'web'"),
    "the same or nothing": (every(7, None), "7 wherever it is not empty"),
    "nothing": (every(None), "every cell is empty"),
    "another one in each row": ([f"u{n}" for n in range(N)], "another one in every row, like an id"),
    "free text": ([f"a {n} b" for n in range(N - 1)] + ["a 1 b"], "199 values in 200 rows, like an id or free text"),
    "many numbers that are names: user_id": ([n % 50 for n in range(N)], "an id by its name, 50 values"),
    "a counter": (list(range(1000, 1000 + N)), "it grows from row to row"),
    "ragged": (every([1.0], [1.0, 2.0]), "lists of 1 to 2 numbers"),
    "lists of lists": (every([[1.0]], [[2.0]]), "objects, or lists of lists"),
}


def _column(name: str) -> str:
    """The column of a case, which may name one behind a colon."""
    return name.partition(": ")[2] or "x"


def _writable(name: str, ending: str) -> bool:
    """Whether a format has such cells."""
    cells, _ = KINDS[name]
    nested = any(isinstance(cell, list) for cell in cells)
    return not (ending == "csv" and nested) and not (ending == "jsonl" and isinstance(cells[0], date | Decimal))


CASES = [(name, ending) for name in KINDS for ending in ("csv", "parquet", "jsonl") if _writable(name, ending)]


def _begun(path: Path, name: str, cells: list[Any]) -> tuple[Bandit, str]:
    column = _column(name)
    rows = {"action": every("a", "b"), "reward": every(0, 1, 1), "p": every(0.5), column: cells, "other": NUMBERS}
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(rows), path)
    elif path.suffix == ".jsonl":
        said = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        path.write_text("".join(f"{json.dumps(one)}\n" for one in said))
    else:
        lines = [",".join("" if one is None else str(one) for one in row) for row in zip(*rows.values(), strict=True)]
        path.write_text("\n".join([",".join(rows), *lines]) + "\n")
    (path.parent / "shop.yaml").unlink(missing_ok=True)
    init("shop", str(path), path.parent, {}, Settings())
    return Bandit.from_yaml(path.parent / "shop.yaml"), (path.parent / "shop.yaml").read_text()


@pytest.mark.parametrize(("name", "ending"), CASES)
def test_a_column_becomes_the_kind_that_takes_all_its_rows(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str], name: str, ending: str
) -> None:
    cells, expected = KINDS[name]
    bandit, text = _begun(tmp_path / f"visits.{ending}", name, cells)
    found = {name: one.model_dump(mode="json", exclude_none=True) for name, one in bandit.problem.features.items()}
    assert found.pop("other")["kind"] == "number"
    if isinstance(expected, str):
        assert found == {}
        assert f": {expected}" in text
    else:
        (feature,) = found.values()
        feature |= {"missing": expected["missing"]} if "missing" in feature and expected["kind"] == "time" else {}
        assert feature == expected
    words = ["propensity=p"]
    capsys.readouterr()
    importer.run(bandit, settings, tmp_path / f"visits.{ending}", words, dry_run=True)
    assert f"{N} can be imported, 0 set aside" in capsys.readouterr().out
