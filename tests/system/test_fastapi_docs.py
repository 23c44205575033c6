"""FastAPI's own documentation page in a real browser: its *Authorize* button accepts a key, and uses it."""

from __future__ import annotations

import json
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page, Response, Route

    from tests.servers.conftest import Served

CDN: Final = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"
SECRET: Final = "p@55: w0rd"
NOT_ASCII: Final = "w\u00f6rd"
KEYS: Final = json.dumps({"demo": SECRET, "umlaut": NOT_ASCII})


def swagger_ui() -> Path:
    """The folder with the files of Swagger UI 5; found, not imported, because it belongs to a Django app."""
    package = find_spec("drf_spectacular_sidecar")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "static" / "drf_spectacular_sidecar" / "swagger-ui-dist"


@pytest.fixture
def schemes() -> str:
    """The setting; tests may parametrize it."""
    return "basic"


@pytest.fixture
def docs(browser: Browser, serve: Callable[..., Served], schemes: str) -> Iterator[Page]:
    """``/docs`` as FastAPI generates it; external files come from the disk, or not at all."""
    # With the usual challenge Chromium would ask for a password before the page sees a 401.
    served = serve(
        "fastapi-documented",
        BASICAUTH_KEYS=KEYS,
        BASICAUTH_CHALLENGE="navigations",
        BASICAUTH_SCHEMES=schemes,
    )
    folder = swagger_ui()
    unknown: list[str] = []

    def serve_external(route: Route) -> None:
        url = route.request.url
        if url.startswith(CDN):
            route.fulfill(path=folder / Path(urlsplit(url).path).name)
            return
        if not url.endswith("/favicon.png"):
            unknown.append(url)
        route.abort()

    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.route(lambda url: urlsplit(url).hostname != "127.0.0.1", serve_external)
    page.goto(f"http://127.0.0.1:{served.port}/docs")
    yield page
    page.close()
    assert unknown == []


def authorize(page: Page, client_id: str, secret: str) -> None:
    """Enter a key as a user does."""
    page.locator(".auth-wrapper .btn.authorize").first.click()
    dialog = page.locator(".modal-ux")
    expect(dialog).to_contain_text("its client ID as the user name, its secret as the password")
    dialog.get_by_label("Username").fill(client_id)
    dialog.get_by_label("Password").fill(secret)
    dialog.get_by_role("button", name="Apply credentials").first.click()
    dialog.get_by_role("button", name="Close").first.click()
    expect(dialog).to_be_hidden()


def try_out(page: Page, *, again: bool = False) -> Response:
    """Press *Try it out* and *Execute*; return the response that the browser got."""
    operation = page.locator(".opblock", has_text="/hello").first
    if not again:
        operation.locator(".opblock-summary").click()
        operation.get_by_role("button", name="Try it out").click()
    with page.expect_response("**/hello") as response:
        operation.get_by_role("button", name="Execute").click()
    return response.value


def shown(page: Page) -> tuple[str, str]:
    """Status and body of the response, as the page shows them."""
    response = page.locator(".live-responses-table .response")
    body = response.locator(".highlight-code").first
    expect(body).to_be_visible()
    return response.locator(".response-col_status").inner_text().split()[0], body.inner_text()


def test_a_key_that_is_entered_gets_the_apps_response(docs: Page) -> None:
    authorize(docs, "demo", SECRET)

    response = try_out(docs)

    assert (response.status, response.json()) == (200, {"hello": "demo"})
    status, body = shown(docs)
    assert status == "200"
    assert '"hello": "demo"' in body


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param(("demo", "wrong"), id="secret"),
        pytest.param(("unknown", SECRET), id="client-id"),
        pytest.param(("umlaut", NOT_ASCII), id="not-ascii"),  # Swagger UI sends it as latin-1
    ],
)
def test_a_wrong_one_gets_a_401(docs: Page, typed: tuple[str, str]) -> None:
    """The page shows it as a problem document."""
    authorize(docs, *typed)

    response = try_out(docs)

    assert response.status == 401
    assert response.headers["content-type"] == "application/problem+json"
    status, body = shown(docs)
    assert status == "401"
    assert '"code": "invalid_credentials"' in body


def test_without_one_it_is_requested(docs: Page) -> None:
    """Also after *Logout*. The document says so too: the operation has a lock."""
    lock = docs.locator(".opblock").get_by_label("authorization button")
    expect(lock).to_have_accessible_name("authorization button unlocked")
    assert try_out(docs).status == 401
    assert "missing_credentials" in shown(docs)[1]

    authorize(docs, "demo", SECRET)
    expect(lock).to_have_accessible_name("authorization button locked")
    assert try_out(docs, again=True).status == 200

    docs.locator(".auth-wrapper .btn.authorize").first.click()
    docs.locator(".modal-ux").get_by_role("button", name="Remove authorization").click()
    docs.locator(".modal-ux").get_by_role("button", name="Close").first.click()
    assert try_out(docs, again=True).status == 401


def test_the_page_lists_the_responses_of_the_middleware(docs: Page) -> None:
    docs.locator(".opblock-summary").first.click()
    listed = docs.locator(".responses-table:not(.live-responses-table) .response > .response-col_status")
    expect(listed.first).to_be_visible()
    assert set(listed.all_inner_texts()) >= {"200", "401", "403", "429", "500", "503"}


# --- the other schemes

ALL: Final = "basic,bearer,header:x-api-key"
TOKEN: Final = b64encode(f"demo:{SECRET}".encode()).decode()


def authorize_with_token(page: Page, name: str, token: str) -> None:
    """Enter a token as a user does, in the form of one scheme."""
    page.locator(".auth-wrapper .btn.authorize").first.click()
    form = page.locator(".modal-ux .auth-container", has=page.get_by_role("heading", name=name))
    expect(form).to_contain_text("the base64 text of its client ID, a colon and its secret")
    form.get_by_role("textbox").fill(token)
    form.get_by_role("button", name="Apply credentials").click()
    form.get_by_role("button", name="Close").click()
    expect(page.locator(".modal-ux")).to_be_hidden()


@pytest.mark.parametrize(
    ("schemes", "name", "header"),
    [
        pytest.param("bearer", "HTTPBearer", ("authorization", "Bearer "), id="bearer"),
        pytest.param("header:x-api-key", "x-api-key", ("x-api-key", ""), id="header"),
        pytest.param(ALL, "HTTPBearer", ("authorization", "Bearer "), id="bearer-of-all"),
        pytest.param(ALL, "x-api-key", ("x-api-key", ""), id="header-of-all"),
    ],
)
def test_a_token_that_is_entered_gets_the_apps_response(
    docs: Page, name: str, header: tuple[str, str]
) -> None:
    """A wrong one gets a 401."""
    address = docs.url
    authorize_with_token(docs, name, TOKEN)

    response = try_out(docs)

    assert (response.status, response.json()) == (200, {"hello": "demo"})
    assert response.request.headers[header[0]] == header[1] + TOKEN

    docs.goto("about:blank")  # the page forgets the token
    docs.goto(address)
    authorize_with_token(docs, name, TOKEN[:-4])
    assert try_out(docs).status == 401
    assert '"code": "invalid_credentials"' in shown(docs)[1]


@pytest.mark.parametrize("schemes", [ALL], ids=["all"])
def test_basic_works_beside_the_other_schemes(docs: Page) -> None:
    authorize(docs, "demo", SECRET)

    response = try_out(docs)

    assert (response.status, response.json()) == (200, {"hello": "demo"})
