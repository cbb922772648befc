"""The page that `make up` names, on a real server and where no other host can be reached."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rl_core.config import Bandit, Settings
from tests.e2e.conftest import Site, however_slow_the_disk

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_a_prediction_can_be_tried_on_it(
    page: Page, repo: Path, movielens: Bandit, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    with ExitStack() as stack:
        site = Site(repo, however_slow_the_disk(movielens, monkeypatch), settings, stack)
        site.promote(1)
        site.serve()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{site.url()}/docs")
        operation = page.locator("[id^=operations-]").filter(has_text="Choose an action for each instance")
        operation.get_by_role("button").first.click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        page.screenshot(path=tmp_path / "docs.png")
    elsewhere = [url for url in asked if not url.startswith((site.url(), "data:", "blob:"))]
    assert elsewhere == []
