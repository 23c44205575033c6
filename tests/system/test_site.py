"""The documentation site in a browser, from files, without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.test_site import site as site  # a fixture here as well

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.test_site import Site


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_the_screen(site: Site, browser: Browser, width: int) -> None:
    """No page scrolls sideways: wide tables and code scroll by themselves."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    wide = []
    for path, text in site.pages.items():
        if 'http-equiv="refresh"' in text:  # it leads to another page
            continue
        page.goto(path.as_uri())
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(path.name)
    page.close()
    assert wide == []


def test_search_finds_a_setting(site: Site, browser: Browser) -> None:
    page = browser.new_page()
    page.goto((site.folder / "docs" / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("BASICAUTH_REALM")
    page.keyboard.press("Enter")
    page.locator("#search-results a", has_text="Settings").first.click()
    page.wait_for_url("**/docs/settings.html*")
    page.close()


def test_dark_mode_follows_the_system(site: Site, browser: Browser) -> None:
    def background(scheme: str) -> str:
        context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto((site.folder / "docs" / "index.html").as_uri())
        color = str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
        return color

    assert background("light") == "rgb(255, 255, 255)"
    assert background("dark") != background("light")
