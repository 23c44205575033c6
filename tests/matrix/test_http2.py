"""Requests over HTTP/2, on the servers that support it."""

from __future__ import annotations

import pytest

from tests.matrix import http2
from tests.matrix.cases import APP, INVALID, MISSING, OPEN
from tests.matrix.client import BAD, GOOD
from tests.matrix.kinds import GRANIAN, Server
from tests.matrix.paths import OWN
from tests.matrix.quirks import CLEAN_END, DROPS_FRAGMENT
from tests.matrix.test_bodies import BODY, MEGABYTE
from tests.matrix.test_requests import check_refusal

pytestmark = pytest.mark.parametrize("server", ["hypercorn", *sorted(GRANIAN)], indirect=True)

KEY = ("authorization", GOOD.decode())
NO_KEY = ("authorization", BAD.decode())
HANGS_UP = "hangs up"

REQUESTS = {
    "right": ((KEY,), APP),
    "wrong": ((NO_KEY,), INVALID),
    "none": ((), MISSING),
    "malformed": ((("authorization", "Basic !"),), INVALID),
    "right-then-wrong": ((KEY, NO_KEY), INVALID),
    "wrong-then-right": ((NO_KEY, KEY), INVALID),
    "right-twice": ((KEY, KEY), INVALID),
    "proxy-authorization": ((("proxy-authorization", KEY[1]),), MISSING),
    "connection-names-it": ((NO_KEY, ("connection", "authorization")), INVALID),
    "8-kib-and-1": ((("authorization", "Basic" + " " * (8193 - 5 - 20) + KEY[1][6:]),), INVALID),
    # RFC 9113 8.2.1: one of these in a value makes the request malformed.
    "nul": ((("authorization", KEY[1] + "\0"),), HANGS_UP),
    "line-break": ((("x-other", f"x\r\nauthorization: {KEY[1]}"),), HANGS_UP),
}


@pytest.mark.proves("X23", "X24", "X25", "X40")
@pytest.mark.parametrize(("fields", "expected"), REQUESTS.values(), ids=REQUESTS.keys())
def test_request(server: Server, fields: tuple[tuple[str, str], ...], expected: str) -> None:
    response = http2.send(server, *fields)

    assert response.outcome == expected
    if expected in (MISSING, INVALID):
        check_refusal(response)


@pytest.mark.proves("X37")
@pytest.mark.parametrize("method", ["HEAD", "DELETE", "OPTIONS", "TRACE", "FOO", "get"])
def test_method(server: Server, method: str) -> None:
    """Every method is verified."""
    refused = http2.send(server, NO_KEY, method=method)
    let_in = http2.send(server, KEY, method=method)

    assert (refused.status, let_in.outcome) == (401, APP)
    check_refusal(refused, method)
    assert bool(refused.body) == (method != "HEAD")


@pytest.mark.proves("X29", "X30")
@pytest.mark.parametrize(
    "target",
    [
        *("//health", "/health/../hello", "/open/../hello", "/open/%2e%2e/hello", "/health%2f", "/health;x"),
        *("*", "?/health", "http://evil/health", "health", "/health hello"),
    ],
)
def test_target(server: Server, target: str) -> None:
    """A target that only resembles an open path is protected."""
    assert http2.send(server, target=target).outcome in (MISSING, HANGS_UP)


def test_open_target(server: Server) -> None:
    assert http2.send(server, target="/health").outcome == OPEN
    fragment = http2.send(server, target="/health#f").outcome
    assert fragment == (OPEN if server.name in DROPS_FRAGMENT.servers else MISSING)


def test_large_post(server: Server) -> None:
    """The 401 to an upload is complete; with a valid key the app gets the upload."""
    length = ("content-length", str(MEGABYTE))
    refused = http2.send(server, NO_KEY, length, method="POST", body=BODY)
    let_in = http2.send(server, KEY, length, method="POST", body=BODY)

    assert refused.outcome == INVALID
    check_refusal(refused)
    assert (let_in.outcome, let_in.json()["read"]) == (APP, MEGABYTE)


@pytest.mark.parametrize("path", OWN)
def test_the_apps_own_response(server: Server, path: str) -> None:
    status, _, body = OWN[path]
    response = http2.send(server, KEY, target=path)

    assert (response.status, response.body, response.whole) == (status, body, True)
    assert response.value("x-own") == "kept"


@pytest.mark.parametrize("path", ["/raise", "/raise/started"])
def test_raised_before_the_body(server: Server, path: str) -> None:
    response = http2.send(server, KEY, target=path)

    assert (response.status, response.outcome) == (500, "internal_error")
    check_refusal(response)


@pytest.mark.parametrize("path", ["/raise/late", "/raise/short"])
def test_raised_after_the_first_chunk(server: Server, path: str) -> None:
    """The client sees a broken response, with and without a length."""
    response = http2.send(server, KEY, target=path)

    assert response.status in (200, 0)
    assert response.whole == (server.name in CLEAN_END.servers and path == "/raise/late")
