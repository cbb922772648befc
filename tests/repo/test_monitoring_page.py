"""docs/monitoring/README.md says every figure, alarm and reason that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rl_core.bandit.sample_ratio import MIN_EXPECTED, THRESHOLD
from rl_core.config import Validation
from rl_core.dataset.row_rules import ABSURD, RULES, TWICE
from rl_core.monitoring.log_figures import SPLIT_ROWS
from rl_core.monitoring.vital_signs import ALARMS, FIGURES


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[2] / "docs" / "monitoring" / "README.md").read_text()


def rows(page: str, section: str) -> dict[str, list[str]]:
    """The cells of the section's table, by the names in its first column."""
    table = page.partition(f"## {section}\n")[2].partition("\n## ")[0]
    cells = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    return {name: [cell.strip() for cell in row[1:]] for row in cells for name in re.findall(r"`(\w+)`", row[0])}


def test_every_figure_stands_in_the_table_with_the_words_that_prometheus_is_given(page: str) -> None:
    said = rows(page, "Figures")
    assert list(said) == list(FIGURES)
    assert {name: cells[0].replace("`", "") for name, cells in said.items()} == FIGURES


def test_every_alarm_has_its_remedy(page: str) -> None:
    said = rows(page, "Alarms")
    assert list(said) == list(ALARMS)
    assert all(cells[-1] for cells in said.values())
    for figure, cells in rows(page, "Figures").items():
        assert set(re.findall(r"alarm `(\w+)`", cells[-1])) <= set(ALARMS), figure


def test_every_reason_for_the_quarantine_stands_in_the_order_of_the_rules(page: str) -> None:
    assert list(rows(page, "Quarantine")) == [rule.name for rule in (*RULES, ABSURD, TWICE)]


def test_the_limits_are_those_of_the_code(page: str) -> None:
    assert f"`split_p` < {THRESHOLD}" in page
    assert f"last {SPLIT_ROWS:,} interactions" in page
    assert f"Below {MIN_EXPECTED} expected" in page
    assert f"({100 * Validation().max_quarantined_share:g} % unless the YAML says otherwise)" in page
