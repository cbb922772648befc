"""A definition that is too long for a process's argument is packed; the others stay as they are, with their caches."""

from __future__ import annotations

import pytest

from rl_core.config import Bandit
from rl_core.errors import ConfigError
from rl_core.packing import packed, unpacked
from rl_core.problem_config import Problem

LONGEST = 131_072  # bytes of one argument or variable, to Linux


def with_actions(bandit: Bandit, actions: list[str]) -> Bandit:
    problem = Problem.model_validate(bandit.problem.model_dump() | {"actions": actions})
    return bandit.model_copy(update={"problem": problem})


def test_an_ordinary_bandit_stays_readable(movielens: Bandit) -> None:
    assert movielens.job_json().startswith('{"name":"movielens"')


@pytest.mark.parametrize("form", ["sku-{:09d}", "Größe {}", "货号 {}"])
def test_ten_thousand_actions_fit_into_one_argument_and_come_back(movielens: Bandit, form: str) -> None:
    many = with_actions(movielens, [form.format(n) for n in range(10_000)])
    assert len(many.job_json().encode()) < LONGEST / 2
    assert many.job_json() == many.job_json()
    assert Bandit.from_json(many.job_json()).problem == many.problem


@pytest.mark.parametrize("text", ["", "short", "ä" * 9000, '"' * 40_000])
def test_whatever_is_packed_comes_back(text: str) -> None:
    assert unpacked(packed(text)) == text


@pytest.mark.parametrize("text", ["zlib:", "zlib:????", "zlib:QUJD", packed("x" * 99_999)[:-4]])
def test_damaged_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="bandit: not JSON") as error:
        Bandit.from_json(text)
    assert "\n" not in str(error.value)
