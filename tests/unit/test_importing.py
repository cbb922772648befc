"""`banditloop import`: a file becomes interactions once, whatever its format, and whatever is wrong with some rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from rl_core.__main__ import run as command
from rl_core.backends import open_backend
from rl_core.backends.contracts.store import EventStore
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join, Settings, Startup, Validation
from rl_core.errors import BanditError, ConfigError, DataError
from rl_core.importing import importer, readers
from rl_core.problem_config import Problem
from rl_core.stages import ingester

MAP = ["event_id=visit", "action=article", "propensity=p", "reward=click", "observation=x1,x2"]
IDS = ("a", "007", "NA")
N = 300


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    problem = Problem(
        observation_dim=2,
        observation_version="o1",
        actions=IDS,
        action_set_version="a1",
        reward_min=0,
        reward_max=1,
        reward_default=0,
    )
    return movielens.model_copy(
        update={
            "problem": problem,
            "environment": None,
            "startup": Startup(source="log"),
            "validation": Validation(other_policies=("imported",), max_quarantined_share=0.05),
            "join": Join(reward_wait_s=3600),
        }
    )


@pytest.fixture
def store(bandit: Bandit, settings: Settings) -> EventStore:
    return open_backend(bandit, settings).store()


def columns(n: int = N) -> dict[str, list[Any]]:
    rng = np.random.default_rng(1)
    article = [IDS[k] for k in rng.integers(0, 3, n)]
    click = [1.0 if one else None for one in rng.random(n) < 0.2]
    x1, x2 = rng.standard_normal((2, n)).round(3).tolist()
    return {
        "visit": [f"v{k}" for k in range(n)],
        "article": article,
        "p": [1 / 3] * n,
        "click": click,
        "x1": x1,
        "x2": x2,
    }


def write_csv(path: Path, table: dict[str, list[Any]]) -> None:
    csv.write_csv(pa.table(table), path)


def write_json(path: Path, table: dict[str, list[Any]]) -> None:
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))


WRITERS: dict[str, Callable[[Path, dict[str, list[Any]]], None]] = {
    "csv": write_csv,
    "parquet": lambda path, table: parquet.write_table(pa.table(table), path),
    "jsonl": write_json,
}


def told(store: EventStore) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.interactions((0, store.head())).to_pylist()
    return rows


class TestAFile:
    @pytest.mark.parametrize("kind", WRITERS)
    def test_becomes_interactions_that_train(
        self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path, kind: str
    ) -> None:
        table = columns()
        WRITERS[kind](tmp_path / f"log.{kind}", table)
        assert importer.run(bandit, settings, tmp_path / f"log.{kind}", MAP) == 0
        rows = told(store)
        assert [row["event_id"] for row in rows] == table["visit"]
        assert [row["action_id"] for row in rows] == table["article"]
        assert [row["eligible_action_ids"] for row in rows] == [[*IDS]] * N
        assert [row["reward"] for row in rows] == [value or 0.0 for value in table["click"]]
        assert {row["closed_by"] for row in rows} == {"reward", "timeout"}
        assert {(row["policy_version"], row["source"], row["propensity"]) for row in rows} == {
            ("imported", "import", 1 / 3)
        }
        x = np.array([row["observation"] for row in rows])
        assert np.array_equal(x, np.array([table["x1"], table["x2"]], np.float32).T)
        assert store.open_decisions() == ()
        assert ingester.run(bandit, settings, [(0, N)], tmp_path / "data") == N

    def test_may_hold_lists_and_no_event_id(
        self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path
    ) -> None:
        lists = [[0.5, 1.5], [2.5, 3.5]]
        table = {"action": ["a", "NA"], "propensity": [0.5, 0.5], "reward": [1, 0], "observation": lists}
        table["eligible"] = [["NA", "a"], ["NA", "a"]]
        parquet.write_table(pa.table(table), tmp_path / "log.parquet")
        importer.run(bandit, settings, tmp_path / "log.parquet", ["eligible_actions=eligible"])
        rows = told(store)
        assert [row["observation"] for row in rows] == lists
        assert [row["eligible_action_ids"] for row in rows] == [["a", "NA"]] * 2
        assert len({row["event_id"] for row in rows}) == 2

    def test_of_vowpal_wabbit_says_cost_ranking_and_context(
        self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path
    ) -> None:
        def line(event: str, shown: int, cost: float, **more: Any) -> dict[str, Any]:
            context = {"User": {"age": 0.25, "new": 1}, "_multi": [{"id": "NA"}, {"id": "a"}]}
            label = {"_label_cost": cost, "_label_probability": 0.9 if shown == 2 else 0.1, "_label_Action": shown}
            return {"EventId": event, "a": [shown, 3 - shown], "c": context, **label, **more}

        lines = [line("e1", 2, -1.0), line("e2", 1, 0.0), line("e3", 2, -1.0, _skipLearn=True)]
        lines += [{"RewardValue": 1.0, "EventId": "e9"}]
        (tmp_path / "log.dsjson").write_bytes(b"\n".join(map(orjson.dumps, lines)))
        lenient = bandit.model_copy(
            update={"validation": Validation(other_policies=("imported",), max_quarantined_share=0.5)}
        )
        words = ["observation=User.age,User.new", "action=id"]
        importer.run(lenient, settings, tmp_path / "log.dsjson", words)
        rows = told(store)
        assert [(row["event_id"], row["action_id"], row["reward"], row["propensity"]) for row in rows] == [
            ("e1", "a", 1.0, 0.9),
            ("e2", "NA", 0.0, 0.1),
        ]
        assert [row["observation"] for row in rows] == [[0.25, 1.0]] * 2
        assert [row["eligible_action_ids"] for row in rows] == [["a", "NA"]] * 2

    def test_of_lists_may_hold_some_that_are_none(
        self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path
    ) -> None:
        one: dict[str, Any] = {"action": "a", "propensity": 0.5, "reward": True}
        lines = [one | {"observation": [k, 0.5]} for k in range(60)]
        lines[7]["observation"], lines[9]["observation"] = ["x", 1], 3
        (tmp_path / "log.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
        importer.run(bandit, settings, tmp_path / "log.jsonl")
        rows = told(store)
        assert [row["observation"][0] for row in rows] == [k for k in range(60) if k not in (7, 9)]
        assert {row["reward"] for row in rows} == {1.0}


class TestBadRows:
    BAD: ClassVar = {
        3: ("article", "b", "action is none of the bandit's actions"),
        5: ("p", 0.0, "propensity is not in (0, 1]"),
        8: ("click", 1.5, "reward is not in 0..1"),
        11: ("x2", float("inf"), "observation is not 2 finite numbers"),
        13: ("visit", "v12", "event_id was there before"),
        14: ("visit", "", "event_id is missing"),
    }

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_are_set_aside_with_their_line_and_the_reason(
        self,
        bandit: Bandit,
        settings: Settings,
        store: EventStore,
        tmp_path: Path,
        kind: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        table = columns()
        for row, (column, value, _) in self.BAD.items():
            table[column][row] = value
        WRITERS[kind](tmp_path / f"log.{kind}", table)
        importer.run(bandit, settings, tmp_path / f"log.{kind}", MAP)
        assert [row["event_id"] for row in told(store)] == [
            event for row, event in enumerate(table["visit"]) if row not in self.BAD
        ]
        (aside,) = (settings.state_dir(bandit) / "imports").glob("import-*.csv")
        first = 2 if kind == "csv" else 1  # a CSV has a header
        expected = [f'{row + first},"{reason}"' for row, (_, _, reason) in self.BAD.items()]
        assert aside.read_text().splitlines() == ["line,reason", *expected]
        assert f"{N - 6} can be imported, 6 set aside" in capsys.readouterr().out

    def test_of_text_and_of_too_many_values_keep_the_lines_of_the_others(
        self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path
    ) -> None:
        write_csv(tmp_path / "log.csv", columns())
        lines = (tmp_path / "log.csv").read_text().splitlines()
        lines[4] += ",more"
        lines[6] = '"v5","a",a third,,0,0'
        lines[7] = '"v6","a",0.3,yes,0,0'
        (tmp_path / "log.csv").write_text("\n".join(lines))
        importer.run(bandit, settings, tmp_path / "log.csv", MAP)
        (aside,) = (settings.state_dir(bandit) / "imports").glob("import-*.csv")
        assert aside.read_text().splitlines()[1:] == [
            '5,"it has 7 columns, the header 6"',
            '7,"propensity is not in (0, 1]"',
            '8,"reward is not in 0..1"',
        ]
        assert store.head() == N - 3

    def test_of_json_are_told_as_well(
        self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path
    ) -> None:
        write_json(tmp_path / "log.jsonl", columns())
        lines = (tmp_path / "log.jsonl").read_bytes().splitlines()
        lines[1], lines[2] = b"{", b'{"visit": "w", "article": "a", "p": "half", "click": {}, "x1": [1], "x2": 0}'
        (tmp_path / "log.jsonl").write_bytes(b"\n\n".join(lines))
        importer.run(bandit, settings, tmp_path / "log.jsonl", MAP)
        (aside,) = (settings.state_dir(bandit) / "imports").glob("import-*.csv")
        assert [line.split(",")[0] for line in aside.read_text().splitlines()] == ["line", "3", "5"]
        assert store.head() == N - 2

    def test_that_are_too_many_stop_before_anything_is_appended(
        self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path
    ) -> None:
        table = columns()
        table["p"][:16] = [7.0] * 16
        write_csv(tmp_path / "log.csv", table)
        with pytest.raises(
            DataError, match=r"16 of 300 rows .*max_quarantined_share=0.05 .*first in line 2; all are"
        ) as told:
            importer.run(bandit, settings, tmp_path / "log.csv", MAP)
        assert "\n" not in str(told.value)
        assert (store.head(), store.open_decisions()) == (0, ())


class TestRunAgain:
    def test_adds_nothing(self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path) -> None:
        write_csv(tmp_path / "log.csv", columns())
        for _ in range(2):
            importer.run(bandit, settings, tmp_path / "log.csv", MAP)
        assert store.query("SELECT count(*) AS n FROM decisions")["n"].to_pylist() == [N]
        assert store.head() == N
        assert store.query("SELECT * FROM rewards_apart").num_rows == 0

    @pytest.mark.parametrize("writes", range(9))
    def test_goes_on_where_it_was_cut_short(
        self,
        bandit: Bandit,
        settings: Settings,
        store: EventStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        writes: int,
    ) -> None:
        """Three parts: rewards, decisions and the completion of each."""
        monkeypatch.setattr(readers, "PART_ROWS", 120)
        parquet.write_table(pa.table(columns()), tmp_path / "log.parquet")
        done = 0

        def dying(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any) -> Any:
                nonlocal done
                if done == writes:
                    raise KeyboardInterrupt
                done += 1
                return original(*given)

            return call

        with monkeypatch.context() as patch:
            for method in ("append", "complete"):
                patch.setattr(DeltaEventStore, method, dying(getattr(DeltaEventStore, method)))
            with pytest.raises(KeyboardInterrupt):
                importer.run(bandit, settings, tmp_path / "log.parquet", MAP)
        importer.run(bandit, settings, tmp_path / "log.parquet", MAP)
        rows = told(store)
        assert [row["event_id"] for row in rows] == columns()["visit"]
        assert [row["reward"] for row in rows] == [value or 0.0 for value in columns()["click"]]
        assert store.query("SELECT * FROM rewards_apart").num_rows == 0


class TestTheSummary:
    def test_says_what_a_person_has_to_judge(
        self, bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        table = columns()
        write_csv(tmp_path / "log.csv", table)
        importer.run(bandit, settings, tmp_path / "log.csv", MAP, dry_run=True)
        said = capsys.readouterr().out
        clicks = sum(value or 0 for value in table["click"])
        assert f"rewards   0 to 1, mean {clicks / N:.4f}; {N - round(clicks)} rows have none and get 0" in said
        assert "the smallest propensity is 0.333: a row weighs up to 3" in said
        assert "1.000 ± 0.000, must be 1" in said
        for action in IDS:
            own = [value or 0 for value, one in zip(table["click"], table["article"], strict=True) if one == action]
            assert f"{action}: {len(own)} rows, mean reward {np.mean(own):.4f}" in said
        assert "warning" not in said
        assert "nothing was appended" in said
        assert (store.head(), (settings.state_dir(bandit) / "imports").exists()) == (0, False)

    def test_warns_of_propensities_that_contradict_the_log(
        self, bandit: Bandit, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_csv(tmp_path / "log.csv", columns() | {"p": [1.0] * N})
        importer.run(bandit, settings, tmp_path / "log.csv", MAP, dry_run=True)
        assert "warning: the propensities contradict the log (mean weight 0.33 ± 0.00" in capsys.readouterr().out


class TestARefusal:
    @pytest.mark.parametrize(
        ("words", "error", "said"),
        [
            (
                ["acton=article"],
                ConfigError,
                "--map 'acton=article': give FIELD=COLUMN, each once, with a field out of",
            ),
            (["action"], ConfigError, "--map 'action': give FIELD=COLUMN"),
            (MAP[:4], ConfigError, "names 1 columns, observation_dim is 2: name 2"),
            ([*MAP[:3], "reward=clicks", MAP[4]], DataError, "has no column 'clicks'; it has visit, article"),
        ],
    )
    def test_names_what_is_wrong_with_the_mapping(
        self,
        bandit: Bandit,
        settings: Settings,
        tmp_path: Path,
        words: Sequence[str],
        error: type[BanditError],
        said: str,
    ) -> None:
        write_csv(tmp_path / "log.csv", columns(3))
        with pytest.raises(error, match=re.escape(said)) as told:
            importer.run(bandit, settings, tmp_path / "log.csv", words)
        assert "\n" not in str(told.value)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("none.csv", None),
            ("log.txt", b"x"),
            ("log.csv", b""),
            ("log.parquet", b"PAR1"),
            ("log.csv", b"visit,\xff\n"),
        ],
    )
    def test_of_a_file_that_is_none_is_one_line(
        self, bandit: Bandit, settings: Settings, tmp_path: Path, name: str, content: bytes | None
    ) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises((ConfigError, DataError), match=name) as told:
            importer.run(bandit, settings, tmp_path / name, MAP)
        assert "\n" not in str(told.value)

    def test_of_a_policy_whose_rows_would_not_train_says_where_to_list_it(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        write_csv(tmp_path / "log.csv", columns(3))
        with pytest.raises(
            ConfigError, match=r"'old' is none of validation\.other_policies \(imported\).*movielens\.yaml"
        ):
            importer.run(bandit, settings, tmp_path / "log.csv", MAP, policy="old")


def test_the_command_imports_a_file(
    bandit: Bandit, settings: Settings, store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "log.csv", columns())
    monkeypatch.setenv("BANDIT_HOME", str(settings.home))
    monkeypatch.setenv("BANDIT_DEFINITION", bandit.model_dump_json())
    assert command(["import", str(tmp_path / "log.csv"), "--map", *MAP, "--dry-run"]) == 0
    assert store.head() == 0
    assert command(["import", str(tmp_path / "log.csv"), "--map", *MAP[:2], "--map", *MAP[2:]]) == 0
    assert store.head() == N
