"""A real browser for pages of a real Airflow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.harness.patience import patient

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def page() -> Iterator[Page]:
    """Skips the test where there is no browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine's PATH")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * patient(30))  # two busy cores
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # root has no sandbox
        opened = browser.new_page(viewport={"width": 1400, "height": 1600})
        opened.set_default_timeout(60_000)  # the first page compiles
        yield opened
        browser.close()
