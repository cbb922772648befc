"""`banditloop init`: a stranger's file becomes a YAML that is a bandit; what can't be one is refused in one line."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rl_core.__main__ import main, run
from rl_core.config import Bandit
from rl_core.errors import BanditError, ConfigError, DataError

N = 300
ARTICLES = ("Zelt, groß", "007", "NA")
Rows = dict[str, list[Any]]


def strangers() -> Rows:
    """What a shop's export looks like."""
    return {
        "visit": [f"v{n}" for n in range(N)],
        "seen at": [f"2026-01-{1 + n % 28:02d}T10:00:00Z" for n in range(N)],
        "Artikel": [ARTICLES[n % 3] for n in range(N)],
        "p": [0.25 + n % 2 / 4 for n in range(N)],
        "Größe (cm)": [150.5 + n % 40 for n in range(N)],
        "klicks zuvor": [n % 7 for n in range(N)],
        "Stadt": [f"Ort {n}" for n in range(N)],
        "clicked": [n % 2 for n in range(N)],
    }


def write_csv(path: Path, rows: Rows, encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as out:
        writer = csv.writer(out)
        writer.writerow(rows)
        writer.writerows(zip(*rows.values(), strict=True))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def begun(folder: Path) -> Callable[..., Bandit]:
    def begin(rows: Rows, *words: str, encoding: str = "utf-8") -> Bandit:
        write_csv(folder / "visits.csv", rows, encoding)
        assert run(["init", "shop", "--from", "visits.csv", "--out", ".", *words]) == 0
        return Bandit.from_yaml(folder / "shop.yaml")

    return begin


@pytest.fixture
def refusal(folder: Path) -> Callable[..., str]:
    def refuse(rows: Rows | str, *words: str) -> str:
        path = folder / "visits.csv"
        _ = path.write_text(rows) if isinstance(rows, str) else write_csv(path, rows)
        with pytest.raises(BanditError) as error:
            run(["init", "shop", "--from", "visits.csv", "--out", ".", *words])
        said = str(error.value)
        assert said.startswith("visits.csv: ")
        assert "\n" not in said
        assert not (folder / "shop.yaml").exists()
        return said.removeprefix("visits.csv: ")

    return refuse


def test_a_strangers_csv_becomes_a_bandit(begun: Callable[..., Bandit], capsys: pytest.CaptureFixture[str]) -> None:
    bandit = begun(strangers(), encoding="utf-8-sig")  # with a byte order mark, as Excel writes it
    problem = bandit.problem
    assert sorted(problem.actions) == sorted(ARTICLES)
    assert list(problem.features) == ["seen_at", "Grosse_cm", "klicks_zuvor"], "names that YAML and requests can say"
    assert (problem.has_intercept, bandit.environment) == (True, None)
    assert (problem.reward_min, problem.reward_max, problem.reward_default) == (0, 1, 0)
    assert (bandit.startup.source, bandit.validation.other_policies) == ("log", ("imported",))
    said = capsys.readouterr().out
    assert "visits.csv, 300 rows" in said
    assert re.search(r"left out +'Stadt': another one in every row, like an id", said)
    assert "# left out: 'Stadt': another one in every row" in Path("shop.yaml").read_text(encoding="utf-8")


def test_the_commands_it_prints_work_as_they_are(
    begun: Callable[..., Bandit], capsys: pytest.CaptureFixture[str]
) -> None:
    begun(strangers())
    commands = re.findall(r"^  banditloop (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["check", "import"]
    for command in commands:
        assert run(shlex.split(command)) == 0
    said = capsys.readouterr().out
    assert "shop.yaml: ok" in said
    assert "300 can be imported, 0 set aside" in said


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_other_formats_give_the_same_bandit(folder: Path, begun: Callable[..., Bandit], ending: str) -> None:
    bandit, rows = begun(strangers()), strangers()
    path = folder / f"visits.{ending}"
    if ending == "parquet":
        parquet.write_table(pa.table(rows), path)
    else:
        lines = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "shop.yaml").unlink()
    assert run(["init", "shop", "--from", str(path), "--out", "."]) == 0
    assert Bandit.from_yaml(folder / "shop.yaml") == bandit


def test_objects_within_rows_and_lists_of_what_could_be_chosen_are_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {
            "user": {"age": 20 + n % 50, "likes": ["sport"] if n % 3 else ["news", "sport"]},
            "action": "ab"[n % 2],
            "eligible_actions": ["a", "b"] if n % 5 else ["ab"[n % 2], "c"],
            "propensity": 0.5,
            "reward": n % 7,
        }
        for n in range(N)
    ]
    (folder / "visits.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run(["init", "shop", "--from", "visits.jsonl", "--out", "."]) == 0
    problem = Bandit.from_yaml(folder / "shop.yaml").problem
    assert list(problem.features) == ["user_age", "user_likes"]
    assert problem.actions == ("a", "b", "c"), "what could be chosen and never was, too"
    command = re.findall(r"^  banditloop (import .*)$", capsys.readouterr().out, re.MULTILINE)[0]
    assert run([*shlex.split(command), "--dry-run"]) == 0
    assert f"{N} can be imported, 0 set aside" in capsys.readouterr().out


def test_cells_may_be_empty(begun: Callable[..., Bandit], capsys: pytest.CaptureFixture[str]) -> None:
    rows = strangers()
    rows["clicked"] = ["1" if one else "" for one in rows["clicked"]]
    rows["klicks zuvor"] = ["" if n < 200 else n % 7 for n in range(N)]
    problem = begun(rows).problem
    assert (problem.reward_min, problem.reward_max, problem.reward_default) == (0, 1, 0)
    assert problem.features["klicks_zuvor"].model_dump()["missing"] == 3, "the middle one"
    said = capsys.readouterr().out
    assert "150 rows have none and get 0" in said
    assert "0 to 6 seen; 200 rows have none and get 3, the middle one" in said


def test_columns_can_be_named(begun: Callable[..., Bandit]) -> None:
    rows = strangers()
    rows["Umsatz"] = [n % 5 - 6.125 for n in range(N)]
    rows["Regal"] = [f"0{n % 4}" for n in range(N)]
    problem = begun(rows, "--action", "Regal", "--reward", "Umsatz").problem
    assert sorted(problem.actions) == ["00", "01", "02", "03"], "text, not numbers"
    assert (problem.reward_min, problem.reward_max, problem.reward_default) == (-6.125, -2.125, -6.125)


def test_what_was_earned_too_and_what_counts_rows_is_not_observed(begun: Callable[..., Bandit]) -> None:
    rows = strangers() | {"revenue": [n % 3 for n in range(N)], "customer_id": list(range(N)), "same": [1] * N}
    assert list(begun(rows).problem.features) == ["seen_at", "Grosse_cm", "klicks_zuvor"]


def test_without_propensities_it_says_what_the_import_needs(
    begun: Callable[..., Bandit], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = strangers()
    del rows["p"]
    begun(rows)
    assert re.search(r"add a column with the probability .*\n.* propensity=COLUMN", capsys.readouterr().out)


def without(*columns: str, **more: list[Any]) -> Rows:
    return {name: cells for name, cells in strangers().items() if name not in columns} | more


REFUSED: dict[str, tuple[Rows | str, tuple[str, ...], str]] = {
    "decimal commas": (
        without(preis=["1.234,50"] * N),
        (),
        "'preis' holds '1.234,50' (row 1); a number is written with a",
    ),
    "decimal commas without quotes": ("age,klick\n3,5,1\n", (), "line 2 has 3 columns, the header 2, and 1 of 1 rows"),
    "semicolons": ("age;klick\n3,5;1\n", (), "parted by ';'"),
    "an empty file": ("", (), "can't be read as csv: Empty CSV file"),
    "a header alone": ("age,klick\n", (), "holds no row"),
    "a name twice": ("age,age\n1,2\n", (), "two columns 'age'"),
    "one action": (without("Artikel", article=["a"] * N), (), "the action 'article' holds nothing but 'a'"),
    "no action": (without("Artikel"), (), "no column is plainly the action: say which with --action COLUMN"),
    "two that could be": (
        without(Land=["de", "fr", "it"] * 100),
        (),
        "more than one column could be the action: say which with --action COLUMN. There are 'Artikel' (3 values as",
    ),
    "no reward": (without("clicked"), (), "no column is plainly the reward: say which with --reward COLUMN"),
    "a constant reward": (without("clicked", clicked=[1] * N), (), "the reward 'clicked' is 1 in every row"),
    "a reward in words": (without("clicked", clicked=["true", "false"] * 150), (), "'true' (row 1) is no number"),
    "no feature": (
        without("Größe (cm)", "klicks zuvor", "seen at"),
        (),
        "no column is left that could be a feature",
    ),
    "a misspelt column": (strangers(), ("--action", "Artikle"), "no such column; did you mean 'Artikel'?"),
    "a certain event": (
        strangers(),
        ("--propensity", "klicks zuvor"),
        "--propensity 'klicks zuvor': it is not in (0, 1] in every row",
    ),
    "a column for two roles": (strangers(), ("--action", "p", "--propensity", "p"), "the same column is named twice"),
    "blanks around an id": (
        without("Artikel", Artikel=["a ", "b"] * 150),
        (),
        "'a '; an action id is not empty and has",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_no_bandit_can_be_made_of_is_one_clear_error(refusal: Callable[..., str], case: str) -> None:
    rows, words, said = REFUSED[case]
    assert said in refusal(rows, *words)


def test_a_file_in_another_encoding_is_refused(folder: Path) -> None:
    write_csv(folder / "visits.csv", strangers(), "latin-1")
    with pytest.raises(DataError, match=r"visits.csv: can't be read as csv: .*utf-8"):
        run(["init", "shop", "--from", "visits.csv", "--out", "."])


@pytest.mark.parametrize(
    ("file", "said"), [("gone.csv", "no such file"), ("visits.xlsx", "ends with none of .csv, .parquet")]
)
def test_what_is_no_such_file_is_said(folder: Path, file: str, said: str) -> None:
    (folder / "visits.xlsx").write_bytes(b"PK")
    with pytest.raises(BanditError, match=said):
        run(["init", "shop", "--from", file, "--out", "."])


def test_without_a_file_the_yaml_is_an_example_to_be_filled_in(folder: Path) -> None:
    assert run(["init", "my_shop", "--out", "."]) == 0
    bandit = Bandit.from_yaml(folder / "my_shop.yaml")
    assert (bandit.id, bandit.problem.actions) == ("my-shop-v1", ("a", "b"))


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    (folder / "shop.yaml").write_text("mine")
    monkeypatch.setattr("sys.argv", ["banditloop", "init", "shop", "--out", "."])
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: shop.yaml is there already")
    assert (folder / "shop.yaml").read_text() == "mine"


def test_bandits_of_a_folder_have_ports_of_their_own(folder: Path) -> None:
    for name in ("one", "two", "three"):
        run(["init", name, "--out", "."])
    assert len({Bandit.from_yaml(path).serving.port for path in folder.glob("*.yaml")}) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["My Shop"], "up to 40 of a-z"),
        (["shop", "--out", "nowhere"], "nowhere: there is no such folder; make it"),
        (["shop", "--action", "a"], "give it with --from"),
    ],
)
def test_words_that_make_no_sense_are_refused(folder: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        run(["init", *words])


def test_by_itself_it_writes_where_bandits_are_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bandits").mkdir()
    monkeypatch.setattr("rl_core.starting.init.BANDITS", folder / "bandits")
    run(["init", "shop"])
    assert (folder / "bandits" / "shop.yaml").exists()
    monkeypatch.setattr("rl_core.starting.init.BANDITS", folder / "gone")
    run(["init", "shop"])
    assert (folder / "shop.yaml").exists(), "in the current folder where there is no other"
