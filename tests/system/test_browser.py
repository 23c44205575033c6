"""How a real browser handles the responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

    from tests.servers.conftest import Served

KEYS = {"BASICAUTH_KEYS": "demo:p@55w0rd", "BASICAUTH_EXCLUDE": "/docs,/openapi.json"}
CREDENTIALS = {"username": "demo", "password": "p@55w0rd"}


@pytest.mark.parametrize("path", ["/hello"])
def test_a_browser_sends_credentials_after_the_challenge(
    browser: Browser, serve: Callable[..., Served], path: str
) -> None:
    """It sends credentials after the challenge, as UTF-8, and shows the app's own response."""
    served = serve("fastapi-wrapped-h11", **KEYS)
    page = browser.new_page(http_credentials=CREDENTIALS)
    response = page.goto(f"http://127.0.0.1:{served.port}{path}")
    assert response is not None
    assert (response.status, response.json()) == (200, {"client_id": "demo"})
    page.close()


@pytest.mark.parametrize(("challenge", "scheme"), [("always", "Basic"), ("navigations", "xBasic")])
def test_a_fetch_opens_no_dialog_with_navigations(
    browser: Browser, serve: Callable[..., Served], challenge: str, scheme: str
) -> None:
    """``challenge="navigations"``: a script gets the 401 with an unknown scheme."""
    served = serve("fastapi-wrapped-h11", **KEYS, BASICAUTH_CHALLENGE=challenge)
    page = browser.new_page()
    page.route("**/docs", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
    page.goto(f"http://127.0.0.1:{served.port}/docs")
    seen = page.evaluate(
        """async () => {
            const response = await fetch("/hello", {credentials: "omit"});
            return [response.status, response.headers.get("www-authenticate").split(" ")[0]];
        }"""
    )
    assert seen == [401, scheme]
    page.close()
