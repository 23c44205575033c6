"""A script from one origin, an API on another, and a real browser between them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from tests.servers.conftest import Served

KEYS = {"BASICAUTH_KEYS": "demo:p@55w0rd", "BASICAUTH_CHALLENGE": "navigations"}
RIGHT = "Basic " + base64.b64encode(b"demo:p@55w0rd").decode()
WRONG = "Basic " + base64.b64encode(b"demo:wrong").decode()

FETCH = """async ([url, authorization]) => {
    try {
        const headers = authorization ? {Authorization: authorization} : {};
        const response = await fetch(url, {headers});
        return [response.status, await response.json(), response.headers.get("x-request-id")];
    } catch (error) {
        return error.name;
    }
}"""


@pytest.fixture
def fetch(
    browser: Browser, serve: Callable[..., Served], request: pytest.FixtureRequest
) -> Iterator[Callable[[str, str | None], Any]]:
    """Fetches a path of the API from a page of another origin."""
    pages = serve("fastapi-documented", BASICAUTH_KEYS="unknown:here")
    origin = f"http://127.0.0.1:{pages.port}"
    api = serve(request.param, ORIGIN=origin, **KEYS)
    page = browser.new_page()
    page.goto(f"{origin}/openapi.json")
    yield lambda path, authorization: page.evaluate(
        FETCH, [f"http://127.0.0.1:{api.port}{path}", authorization]
    )
    page.close()
    log = api.log.read_text()
    assert ("CORSMiddleware is inside BasicAuthMiddleware" in log) is (request.param == "cors-inside")


@pytest.mark.parametrize("fetch", ["cors-installed", "cors-outside"], indirect=True)
def test_outside_the_middleware_every_response_can_be_read(fetch: Callable[[str, str | None], Any]) -> None:
    """The app's own responses, our 401s, and our 500."""
    status, body, _ = fetch("/hello", RIGHT)
    assert (status, body) == (200, {"hello": "demo"})
    for authorization, code in ((WRONG, "invalid_credentials"), (None, "missing_credentials")):
        status, body, request_id = fetch("/hello", authorization)
        assert (status, body["code"]) == (401, code)
        assert request_id == body["request_id"]
    status, body, _ = fetch("/boom", RIGHT)
    assert (status, body["code"]) == (500, "internal_error")


@pytest.mark.parametrize("fetch", ["cors-inside"], indirect=True)
def test_inside_the_middleware_none_can(fetch: Callable[[str, str | None], Any]) -> None:
    """This is what the warning is about: the preflight is refused, and so is a request without a key."""
    assert fetch("/hello", RIGHT) == "TypeError"
    assert fetch("/hello", None) == "TypeError"
