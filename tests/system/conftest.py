"""Tests with a real browser and real proxies. ``make test-system`` runs them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.servers.conftest import serve as serve  # a fixture here as well

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

# Without these, Chromium contacts its vendor's servers.
_QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium from the operating system."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[*_QUIET, "--no-sandbox", "--disable-gpu"],  # root, as in CI, has no sandbox
        )
        yield opened
        opened.close()
