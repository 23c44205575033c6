"""The ASGI shell on bare scopes: what reaches the app, and what reaches the server, event by event."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import traceback
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from basicauth_mw import (
    Backend,
    ConfigurationError,
    InsufficientScope,
    Issued,
    Principal,
    Settings,
    encode_basic,
    require_scopes,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow
from tests.shells.asgi_helpers import (
    OK_BODY,
    OK_START,
    App,
    call,
    connect,
    exchange,
    http_scope,
    websocket_scope,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.requests import Request

    from tests.shells.asgi_helpers import Exchange, Message, Receive, Scope, Send

CHALLENGE = 'Basic realm="api", charset="UTF-8"'
REQUEST_ID = (b"x-request-id", b"req-1")


def basic(pair: bytes | str) -> bytes:
    octets = pair.encode() if isinstance(pair, str) else pair
    return b"Basic " + b64encode(octets)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def authenticator(app: App, backend: Backend) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(app, backend, settings=Settings())


# --- the app's own answer

ANSWERS: dict[str, list[Message]] = {
    "one body": [OK_START, OK_BODY],
    "no body key": [OK_START, {"type": "http.response.body"}],
    "many chunks": [
        OK_START,
        *({"type": "http.response.body", "body": b"%d" % n, "more_body": True} for n in range(50)),
        {"type": "http.response.body", "body": b"", "more_body": False},
    ],
    "trailers": [
        {**OK_START, "trailers": True},
        OK_BODY,
        {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False},
    ],
    "pathsend": [OK_START, {"type": "http.response.pathsend", "path": "/tmp/x"}],
    "zero copy": [OK_START, {"type": "http.response.zerocopysend", "file": 3, "more_body": False}],
    "early hint": [{"type": "http.response.early_hint", "links": [b"</a>"]}, OK_START, OK_BODY],
    "push": [{"type": "http.response.push", "path": "/a.css", "headers": []}, OK_START, OK_BODY],
    "debug": [{"type": "http.response.debug", "info": {"template": 1}}, OK_START, OK_BODY],
    "its own 401": [
        {**OK_START, "status": 401, "headers": [(b"www-authenticate", b"Bearer"), (b"X-Odd", b"\xff")]},
        OK_BODY,
    ],
    "no headers": [{"type": "http.response.start", "status": 204}, {"type": "http.response.body"}],
    "plain 500 with another body": [
        {**OK_START, "status": 500, "headers": [(b"content-type", b"text/plain; charset=utf-8")]},
        {"type": "http.response.body", "body": b"Internal Server Error", "more_body": True},
        {"type": "http.response.body", "body": b"!"},
    ],
    "starlette's 500, returned": [
        {
            "type": "http.response.start",
            "status": 500,
            "headers": [(b"content-length", b"21"), (b"content-type", b"text/plain; charset=utf-8")],
        },
        {"type": "http.response.body", "body": b"Internal Server Error"},
    ],
    "start alone": [OK_START],
    "nothing": [{"type": "http.response.debug", "info": {}}],
}


@pytest.mark.proves("H16", "A18")
@pytest.mark.parametrize("timeout_s", [None, 5])
@pytest.mark.parametrize("map_errors", [True, False])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_the_apps_answer_passes_unchanged(
    backend: Backend, issued: Issued, answer: list[Message], map_errors: bool, timeout_s: float | None
) -> None:
    """Whatever events the app sends reach the server as they are, in order, and nothing else does."""
    authenticator = BasicAuthMiddleware(
        App(*answer), backend, settings=Settings(map_errors=map_errors, timeout_s=timeout_s)
    )

    seen = call(authenticator, http_scope(issued.authorization))

    assert seen.messages == answer
    assert seen.raised is None


def test_the_request_body_reaches_the_app(backend: Backend, issued: Issued) -> None:
    """``receive`` is the server's own."""
    bodies = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            bodies.append(message["body"])
            if not message["more_body"]:
                break
        await App()(scope, receive, send)

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    incoming = [{"type": "http.request", "body": b"%d" % n, "more_body": n < 2} for n in range(3)]

    assert call(authenticator, http_scope(issued.authorization, method="POST"), *incoming).status == 200
    assert bodies == [b"0", b"1", b"2"]


@pytest.mark.proves("A16")
def test_a_refused_request_body_is_not_read(authenticator: BasicAuthMiddleware) -> None:
    """A refusal does not wait for the body, however long."""

    async def receive() -> Message:
        pytest.fail("the body was asked for")

    sent = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(authenticator(http_scope(method="POST"), receive, send))

    assert sent[0]["status"] == 401


def test_a_websocket_is_the_apps(backend: Backend, issued: Issued) -> None:
    """Accept, echo and close pass through; the scope tells who it is."""
    users = []

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        users.append(scope["user"])
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": None, "headers": [(b"x-a", b"1")]})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close", "code": 1000})

    authenticator = BasicAuthMiddleware(echo, backend, settings=Settings(timeout_s=5))
    seen = connect(
        authenticator,
        websocket_scope(issued.authorization),
        {"type": "websocket.receive", "text": "hi", "bytes": None},
    )

    assert [message["type"] for message in seen.messages] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert seen.messages[1]["text"] == "hi"
    assert users[0].client_id == "ci"


# --- who it is


def test_the_app_learns_who_it_is(authenticator: BasicAuthMiddleware, app: App, issued: Issued) -> None:
    """``scope["user"]`` is the principal, with what Starlette expects of a user; ``auth`` has the scopes."""
    call(authenticator, http_scope(issued.authorization))
    (scope,) = app.scopes

    assert scope["user"] == Principal("ci", "CI", frozenset({"read"}), {"team": "a"})
    assert scope["user"].is_authenticated
    assert (scope["user"].display_name, scope["user"].identity) == ("CI", "ci")
    assert scope["auth"].scopes == {"read"}


@pytest.mark.proves("X39")
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("open_path", [True, False])
def test_an_identity_that_came_in_is_replaced(
    app: App, backend: Backend, issued: Issued, kind: str, open_path: bool
) -> None:
    """What an outer layer or a forger put there never survives, on an open path neither."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(exclude=("/open",)))
    forged = Principal("root", scopes=frozenset({"admin"}))
    make = http_scope if kind == "http" else websocket_scope
    scope = make(
        None if open_path else issued.authorization,
        path="/open" if open_path else "/",
        user=forged,
        auth=forged,
    )

    scope["basicauth_mw.principal"] = forged
    call(authenticator, scope, {"type": "websocket.connect"})

    seen = app.scopes[0]
    assert seen["basicauth_mw.principal"] is seen["user"]
    assert seen["user"].client_id == ("" if open_path else "ci")
    assert seen["auth"].scopes == (frozenset() if open_path else {"read"})
    assert seen["user"].is_authenticated is not open_path


@pytest.mark.proves("A17")
@pytest.mark.parametrize("authorization", ["good", "bad", None])
def test_the_servers_scope_is_not_changed(
    app: App, backend: Backend, issued: Issued, authorization: str | None
) -> None:
    """The scope is updated in place; the values in it, ``state`` above all, are the same objects."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(strip_authorization=True))
    value = {"good": issued.authorization, "bad": "Basic !", None: None}[authorization]
    scope = http_scope(value, extensions={"http.response.push": {}})
    before = dict(scope)
    headers = list(scope["headers"])

    call(authenticator, scope)

    identity = {"user", "auth", "basicauth_mw.principal"} if app.scopes else set()
    assert scope.keys() == before.keys() | identity
    assert before["headers"] == headers
    assert all(scope[name] is before[name] for name in before if name != "headers")
    assert all(seen is scope for seen in app.scopes)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("path", ["/", "/open"])
def test_the_user_can_be_left_to_others(
    app: App, backend: Backend, issued: Issued, kind: str, path: str
) -> None:
    """``set_user=False`` neither writes nor removes ``user`` and ``auth``; the principal has its own key."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(set_user=False, exclude=("/open",)))
    make = http_scope if kind == "http" else websocket_scope
    theirs = object()
    forged = Principal("root")
    authorization = None if path == "/open" else issued.authorization

    scope = make(authorization, path=path, user=theirs, **{"basicauth_mw.principal": forged})
    call(authenticator, scope, {"type": "websocket.connect"})
    refused = make(user=theirs, auth=theirs, **{"basicauth_mw.principal": forged})
    call(authenticator, refused, {"type": "websocket.connect"})

    (seen,) = app.scopes
    assert seen["user"] is theirs
    assert "auth" not in seen
    principal = seen["basicauth_mw.principal"]
    assert (principal.client_id, principal.is_authenticated) == (
        ("", False) if path == "/open" else ("ci", True)
    )
    assert refused["user"] is refused["auth"] is theirs
    assert "basicauth_mw.principal" not in refused


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_layers_outside_see_no_forged_identity_of_a_refused_request(
    authenticator: BasicAuthMiddleware, kind: str
) -> None:
    """What came in under the names of the identity is removed, since those layers share the scope."""
    make = http_scope if kind == "http" else websocket_scope
    forged = Principal("root")
    scope = make(user=forged, auth=forged, **{"basicauth_mw.principal": forged})

    call(authenticator, scope, {"type": "websocket.connect"})

    assert not scope.keys() & {"user", "auth", "basicauth_mw.principal"}


@pytest.mark.proves("A2")
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("path", ["/", "/open"])
def test_headers_that_can_be_read_once_are_left_for_the_app(
    app: App, backend: Backend, issued: Issued, strip: bool, path: str
) -> None:
    """ASGI allows any iterable of pairs, a generator too."""
    authenticator = BasicAuthMiddleware(
        app, backend, settings=Settings(strip_authorization=strip, exclude=("/open",), allow_preflight=True)
    )
    pairs = [(b"accept", b"*/*"), (b"authorization", issued.authorization.encode()), (b"x", b"1")]
    scope = http_scope(path=path)
    scope["headers"] = (pair for pair in pairs)

    assert call(authenticator, scope).status == 200
    assert list(app.scopes[0]["headers"]) == [p for p in pairs if not (strip and p[0] == b"authorization")]


@pytest.mark.proves("B9")
def test_the_authorization_field_can_be_hidden_from_the_app(
    app: App, backend: Backend, issued: Issued
) -> None:
    """Under any spelling of its name, and also where nothing is verified; everything else stays."""
    authenticator = BasicAuthMiddleware(
        app, backend, settings=Settings(strip_authorization=True, exclude=("/open",))
    )
    others = [(b"Proxy-Authorization", b"x"), (b"x-authorization", b"y"), (b"accept", b"*/*")]
    value = issued.authorization.encode()

    call(authenticator, http_scope(headers=[*others, (b"AUTHORIZATION", value)]))
    call(authenticator, http_scope(path="/open", headers=[(b"Authorization", value), *others]))

    assert [scope["headers"] for scope in app.scopes] == [others, others]


def test_the_authorization_field_is_the_apps_to_read_by_default(
    authenticator: BasicAuthMiddleware, app: App, issued: Issued
) -> None:
    """Header fields are left alone unless asked otherwise."""
    scope = http_scope(issued.authorization)
    call(authenticator, scope)

    assert app.scopes[0]["headers"] == scope["headers"]


def test_starlettes_requires_gives_starlettes_403(backend: Backend, issued: Issued) -> None:
    """``requires`` reads ``scope["auth"]``; its refusal is an answer and passes."""

    @requires("read")
    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.user.display_name)

    @requires(["read", "write"])
    async def write(request: Request) -> PlainTextResponse:
        pytest.fail("must not be reached")

    app = Starlette(routes=[Route("/read", read), Route("/write", write)])
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())

    allowed = call(authenticator, http_scope(issued.authorization, path="/read"))
    refused = call(authenticator, http_scope(issued.authorization, path="/write"))

    assert (allowed.status, allowed.body) == (200, b"CI")
    assert (refused.status, refused.body) == (403, b"Forbidden")
    assert refused.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.proves("H11")
def test_a_missing_scope_is_a_403_without_a_challenge(backend: Backend, issued: Issued) -> None:
    """``require_scopes`` names what is missing, a raised ``InsufficientScope`` nothing; nobody's error."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/raised":
            raise InsufficientScope("internal words")
        require_scopes(scope["user"], "read")
        require_scopes(scope["user"], "read", "admin")

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    for path in ("/", "/raised"):
        seen = call(authenticator, http_scope(issued.authorization, path=path, headers=[REQUEST_ID]))

        assert seen.status == 403
        assert "www-authenticate" not in seen.headers
        assert seen.problem == {
            "type": "about:blank",
            "title": "Forbidden",
            "status": 403,
            "detail": seen.problem["detail"],
            "code": "insufficient_scope",
            "request_id": "req-1",
        } | ({"scopes": ["admin"]} if path == "/" else {})
        assert "internal words" not in seen.body.decode()
        assert seen.raised is None


# --- open paths and preflight


@pytest.mark.proves("A15", "O8", "X28", "X29", "X30", "X31", "X33")
@pytest.mark.parametrize(
    ("path", "root_path", "raw_path", "is_open"),
    [
        ("/health", "", b"/health", True),
        ("/health", "", b"/health?x=%2f", True),
        ("/health", "", None, True),
        ("/docs/a/b", "", b"/docs/a/b", True),
        ("/docs", "", b"/docs", False),
        ("/docs/", "", b"/docs/", False),
        ("/health/", "", b"/health/", False),
        ("/HEALTH", "", b"/HEALTH", False),
        ("/healthx", "", b"/healthx", False),
        ("/api/health", "/api", b"/api/health", True),
        ("/health", "/api", b"/health", True),
        ("/apihealth", "/api", b"/apihealth", False),
        ("/docs/../admin", "", b"/docs/../admin", False),
        ("/docs//x", "", b"/docs//x", False),
        ("//health", "", b"//health", False),
        ("/docs/./x", "", b"/docs/./x", False),
        ("/docs/x;y", "", b"/docs/x;y", False),
        ("/docs/x\\y", "", b"/docs/x\\y", False),
        ("/docs/x\x00", "", b"/docs/x%00", False),
        ("/docs/x\n", "", b"/docs/x%0a", False),
        ("/docs/\ufffd", "", b"/docs/%ff", False),
        ("/docs/" + chr(0xDCFF), "", b"/docs/%ff", False),
        ("/docs/a/b", "", b"/docs/a%2fb", False),
        ("/docs/a", "", b"/%64ocs/a%2E", False),
        ("/health", "", b"/health%23", False),
        ("http://evil/health", "", b"http://evil/health", False),
        ("health", "", b"health", False),
        ("", "", b"", False),
        ("*", "", b"*", False),
    ],
)
def test_only_what_is_excluded_is_open(
    app: App,
    backend: Backend,
    path: str,
    root_path: str,
    raw_path: bytes | None,
    is_open: bool,
) -> None:
    """Exact, or below a folder; a path that two readers may understand differently is protected."""
    settings = Settings(exclude=("/health", "/docs/*"), root_path=root_path or None)
    authenticator = BasicAuthMiddleware(app, backend, settings=settings)
    scope = http_scope(path="/", headers=[(b"host", b"x/health?")])
    scope.update(path=path, root_path=root_path, raw_path=raw_path)

    assert call(authenticator, scope).status == (200 if is_open else 401)
    assert len(app.scopes) == is_open
    if is_open:
        assert app.scopes[0]["user"] == Principal.anonymous()


@pytest.mark.proves("X41")
def test_credentials_on_an_open_path_are_not_looked_at(app: App, backend: Backend, issued: Issued) -> None:
    """Bad ones do not shut it, good ones do not make it somebody."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(exclude=("/open",)))
    for value in ("Basic !", encode_basic("ci", "wrong"), issued.authorization):
        assert call(authenticator, http_scope(value, path="/open")).status == 200

    assert [scope["user"] for scope in app.scopes] == [Principal.anonymous()] * 3


PREFLIGHT = [(b"Origin", b"https://a.example"), (b"Access-Control-Request-Method", b"PUT")]


@pytest.mark.proves("X36")
@pytest.mark.parametrize(
    ("method", "headers", "allow", "passes"),
    [
        ("OPTIONS", PREFLIGHT, True, True),
        ("OPTIONS", PREFLIGHT, False, False),
        ("OPTIONS", PREFLIGHT[:1], True, False),
        ("OPTIONS", PREFLIGHT[1:], True, False),
        ("OPTIONS", [], True, False),
        ("options", PREFLIGHT, True, False),
        ("GET", PREFLIGHT, True, False),
        ("OPTIONS", [PREFLIGHT[0], *PREFLIGHT], True, False),
    ],
)
def test_only_a_real_preflight_may_pass(
    app: App,
    backend: Backend,
    method: str,
    headers: list[tuple[bytes, bytes]],
    allow: bool,
    passes: bool,
) -> None:
    """OPTIONS with both fields of the Fetch standard, and only where it is allowed."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(allow_preflight=allow))

    assert call(authenticator, http_scope(method=method, headers=headers)).status == (200 if passes else 401)
    assert [scope["user"].is_authenticated for scope in app.scopes] == [False] * passes


# --- refusals


@pytest.fixture
def keys(backend: Backend, issued: Issued) -> dict[str, Issued]:
    """One key for each way in which a good secret is refused."""
    made = {"live": issued}
    for client_id in ("disabled", "revoked", "expired"):
        made[client_id] = backend.create(client_id=client_id)
    backend.disable("disabled")
    backend.revoke("revoked")
    store = backend.store
    key = store.get("expired")
    ended = replace(key, expires_at=utcnow() - timedelta(seconds=1), version=key.version + 1)
    assert store.put(ended, key.version)
    return made


def bad_fields(keys: dict[str, Issued]) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
    """What is refused as invalid, whatever is wrong with it."""
    good = keys["live"].authorization.encode()
    token = good[6:]
    secret = keys["live"].secret
    mistyped = secret[:-1] + ("a" if secret[-1] != "a" else "b")

    def one(value: bytes) -> list[tuple[bytes, bytes]]:
        return [(b"authorization", value)]

    yield "unknown", one(encode_basic("nobody", generate("sk")).encode())
    yield "unknown, another shape", one(basic("nobody:pass"))
    yield "wrong", one(encode_basic("ci", generate("sk")).encode())
    yield "wrong, another shape", one(basic("ci:pass"))
    yield "mistyped", one(basic(f"ci:{mistyped}"))
    yield "other case", one(basic(f"CI:{secret}"))
    yield "id and secret moved", one(basic(f"c:i{secret}"))
    for client_id in ("disabled", "revoked", "expired"):
        yield client_id, one(keys[client_id].authorization.encode())
    yield "hash as secret", one(basic(f"ci:{keys['live'].key.secrets[0].hash}"))
    yield "duplicate", one(good) * 2
    yield "duplicate, bad last", one(good) + one(b"Basic x")
    yield "duplicate, bad first", one(b"Basic x") + one(good)
    yield "duplicate, empty last", one(good) + one(b"")
    yield "duplicate, in two cases", [(b"authorization", good), (b"Authorization", good)]
    yield "joined", one(good + b", " + good)
    yield "joined, tight", one(good + b"," + good)
    yield "scheme alone", one(b"Basic")
    yield "scheme and a space", one(b"Basic ")
    yield "other scheme", one(b"Bearer " + token)
    yield "no space", one(b"Basic" + token)
    yield "tab", one(b"Basic\t" + token)
    yield "no-break space", one(b"Basic\xa0" + token)
    yield "parameter", one(good + b" x=1")
    yield "no padding", one(basic("ci:" + "x" * 5).rstrip(b"="))
    yield "junk in base64", one(b"Basic " + token[:4] + b"!" + token[4:])
    yield "line break", one(good + b"\n")
    yield "nul", one(good + b"\x00")
    yield "not utf-8", one(basic(b"\xff\xfe:x"))
    yield "no colon", one(basic("ci"))
    yield "empty id", one(basic(":" + secret))
    yield "empty secret", one(basic("ci:"))
    yield "empty both", one(basic(":"))
    yield "control character", one(basic(f"ci:{secret}\x7f"))
    yield "id too long", one(basic("x" * 256 + ":" + generate("sk")))
    yield "secret too long", one(basic("ci:" + "x" * 1025))
    yield "field too long", one(basic("ci:" + "x" * 9000))


@pytest.mark.proves("H1", "H8", "H11", "B2", "P8", "O4", "X2", "X5", "X14", "X22", "X23", "X25", "X26")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_all_that_is_wrong_looks_the_same(
    app: App, backend: Backend, keys: dict[str, Issued], method: str
) -> None:
    """Status, headers and body of a refusal tell nothing, not even whether it was malformed."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(throttle=""))
    answers = {
        name: call(authenticator, http_scope(method=method, headers=[*fields, REQUEST_ID]))
        for name, fields in bad_fields(keys)
    }
    first = answers["unknown"]

    assert {name: seen.messages for name, seen in answers.items()} == dict.fromkeys(answers, first.messages)
    assert all(seen.raised is None for seen in answers.values())
    assert first.status == 401
    assert first.headers["www-authenticate"] == CHALLENGE
    assert app.scopes == []


@pytest.mark.proves("P1", "P6", "A4", "X48")
def test_a_refusal_is_a_problem_document(authenticator: BasicAuthMiddleware, issued: Issued) -> None:
    """RFC 9457, not to be stored, sniffed or taken for anything else."""
    for value, code in ((None, "missing_credentials"), ("Basic x", "invalid_credentials")):
        seen = call(authenticator, http_scope(value, headers=[REQUEST_ID]))

        assert seen.problem == {
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": seen.problem["detail"],
            "code": code,
            "request_id": "req-1",
        }
        assert seen.headers == {
            "content-type": "application/problem+json",
            "content-length": str(len(seen.body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "x-request-id": "req-1",
            "www-authenticate": CHALLENGE,
        }
        for name, field in seen.starts[0]["headers"]:
            assert type(name) is bytes
            assert type(field) is bytes
            assert name == name.lower()


@pytest.mark.proves("H1", "H2", "O7", "X38")
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b" \t ")],
        [(b"proxy-authorization", b"<good>")],
        [(b"x-authorization", b"<good>")],
        [(b"authorizatio\xc7\xb8", b"<good>")],
        [(b"authorization ", b"<good>")],
        [(b"cookie", b"authorization=<good>")],
    ],
    ids=repr,
)
def test_no_credentials_are_missing_ones(
    authenticator: BasicAuthMiddleware, app: App, issued: Issued, headers: list[tuple[bytes, bytes]]
) -> None:
    """Empty is the same as absent, and only one field counts."""
    fields = [(name, value.replace(b"<good>", issued.authorization.encode())) for name, value in headers]
    seen = call(authenticator, http_scope(headers=fields))

    assert seen.status == 401
    assert seen.problem["code"] == "missing_credentials"
    assert seen.headers["www-authenticate"] == CHALLENGE
    assert app.scopes == []


@pytest.mark.proves("H3", "H9", "A2")
@pytest.mark.parametrize("name", [b"authorization", b"Authorization", b"AUTHORIZATION", b"aUTHORIZATIOn"])
@pytest.mark.parametrize("spelling", ["Basic {}", "basic {}", "BASIC    {}", "  bAsIc {}\t"])
def test_good_credentials_in_any_legal_spelling(
    authenticator: BasicAuthMiddleware, app: App, issued: Issued, name: bytes, spelling: str
) -> None:
    """Header name and scheme have no case; white space round the field and before the token is free."""
    value = spelling.format(issued.authorization[6:]).encode()

    assert call(authenticator, http_scope(headers=[(name, value)])).status == 200
    assert app.scopes[0]["user"].client_id == "ci"


@pytest.mark.proves("B5", "B6", "X27")
def test_ids_and_secrets_of_any_script(app: App, backend: Backend) -> None:
    """Compared as octets: no normalisation, and the other normal form is another secret."""
    backend.create(client_id="Zoë-東京", secret="pässword: пароль")
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())

    assert call(authenticator, http_scope(basic("Zoë-東京:pässword: пароль"))).status == 200
    assert call(authenticator, http_scope(basic("Zoe\u0308-東京:pässword: пароль"))).status == 401


@pytest.mark.proves("H15", "X36", "X37")
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "FOO", "get", "TRACE", "CONNECT", "HEAD", "", "PRI"])
def test_every_method_is_checked(
    authenticator: BasicAuthMiddleware, app: App, issued: Issued, method: str
) -> None:
    """There is no list of methods anywhere."""
    assert call(authenticator, http_scope(method=method)).status == 401
    assert app.scopes == []
    assert call(authenticator, http_scope(issued.authorization, method=method)).status == 200


@pytest.mark.proves("H12")
def test_head_has_the_same_headers_and_no_body(authenticator: BasicAuthMiddleware) -> None:
    """Content-Length included (RFC 9110 section 9.3.2)."""
    get, head = (
        call(authenticator, http_scope(method=method, headers=[REQUEST_ID])) for method in ("GET", "HEAD")
    )

    assert head.starts == get.starts
    assert head.body == b""
    assert get.body != b""


# --- the request id


@pytest.mark.parametrize("sent", ["a", "A-Z.a_z-09", "x" * 128, "."])
def test_a_fit_request_id_is_repeated(authenticator: BasicAuthMiddleware, sent: str) -> None:
    """In the header and in the body."""
    seen = call(authenticator, http_scope(headers=[(b"X-Request-Id", sent.encode())]))

    assert seen.headers["x-request-id"] == seen.problem["request_id"] == sent


@pytest.mark.parametrize(
    "sent", [b"", b"x" * 129, b"a b", b"a\n", b"\xff", b"a\r\nx: y", b'"', b"<b>", "é".encode(), b"a/b"]
)
def test_an_unfit_request_id_is_replaced(authenticator: BasicAuthMiddleware, sent: bytes) -> None:
    """By a new one each time."""
    ids = [
        call(authenticator, http_scope(headers=[(b"x-request-id", sent)])).headers["x-request-id"]
        for _ in range(2)
    ]

    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", made) for made in ids)
    assert ids[0] != ids[1]


def test_two_request_ids_are_none(authenticator: BasicAuthMiddleware) -> None:
    """Nobody can tell which of them is meant."""
    seen = call(authenticator, http_scope(headers=[(b"x-request-id", b"a"), (b"x-request-id", b"b")]))

    assert seen.headers["x-request-id"] not in {"a", "b", "a, b"}


# --- the challenge


@pytest.mark.proves("H6", "B1")
@pytest.mark.parametrize(
    ("realm", "written"),
    [
        ("api", '"api"'),
        ("", '""'),
        ('a "b"', '"a \\"b\\""'),
        ("a\\b", '"a\\\\b"'),
        ("Zoë", '"Zo\xc3\xab"'),
        ("東", '"\xe6\x9d\xb1"'),
    ],
)
def test_the_realm_is_a_quoted_string(app: App, backend: Backend, realm: str, written: str) -> None:
    """RFC 9110 section 11.5; octets of UTF-8 where it is not ASCII."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(realm=realm))

    assert (
        call(authenticator, http_scope()).headers["www-authenticate"]
        == f'Basic realm={written}, charset="UTF-8"'
    )


@pytest.mark.parametrize(
    ("setting", "mode", "scheme"),
    [
        ("always", None, "Basic"),
        ("always", "cors", "Basic"),
        ("navigations", None, "Basic"),
        ("navigations", "navigate", "Basic"),
        ("navigations", "cors", "xBasic"),
        ("navigations", "same-origin", "xBasic"),
        ("navigations", "no-cors", "xBasic"),
        ("navigations", "websocket", "xBasic"),
        ("navigations", "", "xBasic"),
    ],
)
def test_fetch_opens_no_password_dialog(
    app: App, backend: Backend, setting: str, mode: str | None, scheme: str
) -> None:
    """Under ``navigations`` a scheme that browsers do not know; everybody else is challenged as always."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(challenge=setting))
    headers = [] if mode is None else [(b"Sec-Fetch-Mode", mode.encode())]
    seen = call(authenticator, http_scope(headers=headers))

    assert seen.headers["www-authenticate"] == f'{scheme} realm="api", charset="UTF-8"'


# --- https


@pytest.mark.proves("B7")
@pytest.mark.parametrize(
    ("kind", "scheme", "allowed"),
    [
        ("http", "https", True),
        ("http", "http", False),
        ("http", None, False),
        ("websocket", "wss", True),
        ("websocket", "ws", False),
        ("websocket", None, False),
    ],
)
def test_plain_http_can_be_refused(
    app: App, backend: Backend, issued: Issued, kind: str, scheme: str | None, allowed: bool
) -> None:
    """Before the credentials are read, good or bad, websockets too; without a challenge or a redirect."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(require_https=True))
    for value in (issued.authorization, "Basic x", None):
        make = http_scope if kind == "http" else websocket_scope
        scope = make(value, headers=[(b"x-forwarded-proto", b"https")])
        if scheme is None:
            del scope["scheme"]
        else:
            scope["scheme"] = scheme
        seen = call(authenticator, scope, {"type": "websocket.connect"})

        if allowed:
            assert seen.status == (200 if value == issued.authorization else 401)
        else:
            assert seen.status == 403
            assert seen.problem["code"] == "https_required"
            assert "www-authenticate" not in seen.headers
            assert "location" not in seen.headers
    assert len(app.scopes) == allowed


# --- websockets


@pytest.mark.proves("H1", "A5", "A6", "X35")
@pytest.mark.parametrize("value", [None, "Basic x"])
def test_a_refused_websocket_gets_the_same_answer(
    authenticator: BasicAuthMiddleware, app: App, value: str | None
) -> None:
    """As a denial response where the server offers one; nothing else is sent."""
    seen = connect(authenticator, websocket_scope(value, headers=[REQUEST_ID]))
    over_http = call(authenticator, http_scope(value, headers=[REQUEST_ID]))

    assert [message["type"] for message in seen.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (seen.status, seen.headers, seen.body) == (401, over_http.headers, over_http.body)
    assert app.scopes == []


@pytest.mark.proves("A5", "A6", "X35")
@pytest.mark.parametrize("extensions", [{}, None, {"http.response.push": {}}, "absent"])
def test_a_refused_websocket_is_closed_before_it_is_accepted(
    authenticator: BasicAuthMiddleware, app: App, extensions: Any
) -> None:
    """Where no denial response is offered: servers make a 403 of it."""
    scope = websocket_scope()
    if extensions == "absent":
        del scope["extensions"]
    else:
        scope["extensions"] = extensions
    seen = connect(authenticator, scope)

    assert [message["type"] for message in seen.messages] == ["websocket.close"]
    assert app.scopes == []


@pytest.mark.proves("A5")
@pytest.mark.parametrize("denial", [True, False])
def test_the_handshake_is_consumed_before_the_refusal(
    authenticator: BasicAuthMiddleware, denial: bool
) -> None:
    """ASGI wants ``websocket.connect`` received first; a client that is gone already gets nothing."""
    order: list[str] = []

    def drive(first: str) -> list[str]:
        order.clear()

        async def receive() -> Message:
            order.append(f"received {first}")
            return {"type": first}

        async def send(message: Message) -> None:
            order.append(message["type"])

        asyncio.run(authenticator(websocket_scope(denial=denial), receive, send))
        return list(order)

    assert drive("websocket.connect")[0] == "received websocket.connect"
    assert len(drive("websocket.connect")) == (3 if denial else 2)
    assert drive("websocket.disconnect") == ["received websocket.disconnect"]


# --- lifespan and other scopes

STRANGE_STORE = """
opened = []

class Store:
    def __init__(self, url):
        if "broken" in url:
            raise ValueError(f"cannot use {url}")
        self.url, self.events = url, []
        opened.append(self)

    def get(self, client_id):
        self.events.append("get")
        if "down" in self.url:
            raise OSError("down")
        return None

    def close(self):
        self.events.append("close")
        if "rude" in self.url:
            raise OSError("cannot close")
"""


@pytest.fixture
def strange_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A third party's installed package with a store that says what happens to it."""
    (tmp_path / "strange_store_for_tests.py").write_text(STRANGE_STORE)
    info = tmp_path / "strange_store-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-store\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[basicauth_mw.backends]\nstrange = strange_store_for_tests:Store\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import strange_store_for_tests  # type: ignore[import-not-found]

    yield strange_store_for_tests
    for store in strange_store_for_tests.opened:
        store.url = "strange://up"  # what goes wrong later, when the garbage is collected, hits other tests
    del sys.modules["strange_store_for_tests"]


class LifespanApp:
    """Answers a lifespan as it is told to, and keeps what it saw."""

    def __init__(self, *, startup: str = "complete", shutdown: str = "complete") -> None:
        self.answers = {"startup": startup, "shutdown": shutdown}
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        for phase in ("startup", "shutdown"):
            message = await receive()
            self.seen.append(message["type"])
            await send({"type": f"lifespan.{phase}.{self.answers[phase]}", "message": "mine"})
            if self.answers[phase] == "failed":
                return


LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


def live(authenticator: BasicAuthMiddleware, scope: Any = LIFESPAN) -> Exchange:
    return call(authenticator, scope, STARTUP, SHUTDOWN)


@pytest.mark.proves("A13")
@pytest.mark.parametrize("url", ["strange://up", "strange://down"])
@pytest.mark.parametrize(
    ("startup", "shutdown", "expected"),
    [
        ("complete", "complete", ["startup.complete", "shutdown.complete"]),
        ("failed", "complete", ["startup.failed"]),
        ("complete", "failed", ["startup.complete", "shutdown.failed"]),
    ],
)
def test_lifespan_is_the_apps(
    strange_store: Any, url: str, startup: str, shutdown: str, expected: list[str]
) -> None:
    """Its messages pass in both directions and are nobody else's, also while the store is down."""
    app = LifespanApp(startup=startup, shutdown=shutdown)
    authenticator = BasicAuthMiddleware(app, url, settings=Settings())
    seen = live(authenticator)

    assert seen.raised is None
    assert seen.messages == [{"type": f"lifespan.{name}", "message": "mine"} for name in expected]
    assert app.seen == ["lifespan.startup", "lifespan.shutdown"][: len(expected)]


@pytest.mark.proves("A13")
def test_a_backend_of_ours_opens_and_closes_with_the_app(strange_store: Any) -> None:
    """Asked once before the app starts, closed once it has stopped; not touched when it was only built."""
    authenticator = BasicAuthMiddleware(LifespanApp(), "strange://up", settings=Settings())
    (store,) = strange_store.opened

    assert store.events == []
    live(authenticator)
    assert store.events == ["get", "close"]


def test_a_backend_of_ours_is_closed_when_the_gate_is_gone(strange_store: Any) -> None:
    """Also without a lifespan."""
    authenticator = BasicAuthMiddleware(App(), "strange://up", settings=Settings())
    (store,) = strange_store.opened
    del authenticator

    assert store.events == ["close"]


@pytest.mark.proves("A13")
def test_a_store_that_fails_to_close_does_not_eat_the_apps_message(strange_store: Any) -> None:
    """The app has stopped properly, and says so."""
    authenticator = BasicAuthMiddleware(LifespanApp(), "strange://rude", settings=Settings())
    seen = live(authenticator)

    assert [message["type"] for message in seen.messages] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert seen.raised is None


@pytest.mark.usefixtures("strange_store")
def test_a_third_partys_error_does_not_show_its_url() -> None:
    """It ends up on the screen of whoever starts the server, chained exceptions included."""
    with pytest.raises(ConfigurationError) as caught:
        BasicAuthMiddleware(App(), "strange://user:canary@broken", settings=Settings())

    text = "".join(traceback.format_exception(caught.value))
    assert "ValueError" in text
    assert [
        line for line in text.splitlines() if "canary" in line and "BasicAuthMiddleware(" not in line
    ] == []


def test_a_given_object_is_never_closed(strange_store: Any) -> None:
    """Neither a store nor a ``Backend`` over one."""
    for wrap in (lambda store: store, lambda store: Backend(store, settings=Settings())):
        store = strange_store.Store("strange://up")
        authenticator = BasicAuthMiddleware(LifespanApp(), wrap(store), settings=Settings())
        live(authenticator)
        del authenticator

        assert "close" not in store.events


@pytest.mark.proves("A13")
def test_an_app_without_lifespan_says_so_itself(backend: Backend) -> None:
    """Servers take the exception for "not supported"."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError("no lifespan here")

    seen = live(BasicAuthMiddleware(app, backend, settings=Settings()))

    assert seen.messages == []
    assert isinstance(seen.raised, NotImplementedError)


@pytest.mark.proves("A1", "A17")
def test_lifespan_scope_is_passed_as_it_is(backend: Backend) -> None:
    """State set there must reach the server's dict."""
    app = App({"type": "lifespan.startup.complete"})
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    live(authenticator, LIFESPAN)

    assert app.scopes[0] is LIFESPAN


@pytest.mark.proves("A1", "O8")
@pytest.mark.parametrize("kind", ["x", "HTTP", "http2", "", "http.request", None, b"http"])
def test_an_unknown_kind_of_scope_never_reaches_the_app(
    authenticator: BasicAuthMiddleware, app: App, issued: Issued, kind: Any
) -> None:
    """What cannot be checked is not let through."""
    seen = call(authenticator, http_scope(issued.authorization, type=kind))

    assert isinstance(seen.raised, RuntimeError)
    assert seen.messages == []
    assert app.scopes == []


# --- speed and robustness


@pytest.mark.parametrize("overrides", [{}, {"map_errors": False}, {"require_https": True, "exclude": "/x"}])
def test_a_known_key_reaches_the_app_without_one_suspension(
    app: App, backend: Backend, issued: Issued, overrides: dict[str, Any]
) -> None:
    """Not even for a memory store's first look-up, and never for a cached key: no loop is running here."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), **overrides)
    sent = []

    async def send(message: Message) -> None:
        sent.append(message)

    for _ in range(2):
        running = authenticator(http_scope(issued.authorization, scheme="https"), None, send)
        with pytest.raises(StopIteration):
            running.send(None)

    assert sent == [OK_START, OK_BODY] * 2


def test_a_cached_key_does_not_wait_for_a_store_that_blocks(
    app: App, issued: Issued, backend: Backend
) -> None:
    """The first request may wait for a thread; the second does not, although the store would."""

    class Blocking:
        volatile = True  # its digests are those of the memory store

        def get(self, client_id: str) -> Any:
            return backend.store.get(client_id)

    authenticator = BasicAuthMiddleware(app, Blocking(), settings=Settings())
    assert call(authenticator, http_scope(issued.authorization)).status == 200

    async def send(message: Message) -> None:
        pass

    with pytest.raises(StopIteration):
        authenticator(http_scope(issued.authorization), None, send).send(None)


def test_many_requests_at_once_do_not_mix(backend: Backend) -> None:
    """Everybody is who they are, on the first request and on cached ones."""
    keys = [backend.create(client_id=f"client-{number}") for number in range(20)]

    async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await send(OK_START)
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": scope["user"].client_id.encode()})

    authenticator = BasicAuthMiddleware(whoami, backend, settings=Settings())

    async def everybody() -> list[Exchange]:
        return await asyncio.gather(
            *(exchange(authenticator, http_scope(key.authorization)) for key in keys * 3)
        )

    assert [seen.body.decode() for seen in asyncio.run(everybody())] == [key.client_id for key in keys * 3]


_backend = Backend(MemoryStore(), settings=Settings())
_issued = _backend.create(client_id="ci")
_authenticator = BasicAuthMiddleware(
    App(),
    _backend,
    settings=Settings(
        exclude=("/open", "/docs/*"), allow_preflight=True, challenge="navigations", throttle=""
    ),
)
_names = st.sampled_from(
    [b"authorization", b"Authorization", b"x-request-id", b"sec-fetch-mode", b"origin"]
) | st.binary(max_size=20)
_values = (
    st.binary(max_size=60)
    | st.builds(basic, st.binary(max_size=40))
    | st.builds(
        basic, st.text(max_size=20).map(lambda text: "ci:" + text.encode("utf-8", "replace").decode())
    )
    | st.just(_issued.authorization.encode())
)
_paths = st.text(max_size=30) | st.sampled_from(["/open", "/docs/x", "/docs/\ud800", "/docs/../x"])


@pytest.mark.proves("A3", "A15", "X19", "X42")
@examples(deadline=None)  # a loop is made for each example
@given(
    headers=st.lists(st.tuples(_names, _values), max_size=4),
    path=_paths,
    raw_path=st.none() | st.binary(max_size=30),
    root_path=st.sampled_from(["", "/", "/docs", "x"]) | st.text(max_size=5),
    method=st.text(max_size=10) | st.sampled_from(["GET", "OPTIONS", "HEAD"]),
    client=st.none() | st.tuples(st.text(max_size=10), st.none() | st.integers()),
)
def test_whatever_comes_in_there_is_an_answer(
    headers: list[tuple[bytes, bytes]],
    path: str,
    raw_path: bytes | None,
    root_path: str,
    method: str,
    client: Any,
) -> None:
    """The app's own or a whole 401, never an exception; and the right credential is the only way in."""
    scope = http_scope(method=method, headers=headers, client=client)
    scope.update(path=path, raw_path=raw_path, root_path=root_path)
    seen = call(_authenticator, scope)

    assert seen.raised is None
    if seen.status == 401:
        assert method == "HEAD" or json.loads(seen.body)["status"] == 401
        return
    assert seen.messages == [OK_START, OK_BODY]
    values = [value for name, value in headers if name.lower() == b"authorization"]
    is_open = any(entry in path for entry in ("/open", "/docs/"))
    assert (
        is_open
        or method == "OPTIONS"
        or [v.strip(b" \t") for v in values] == [_issued.authorization.encode()]
    )


def test_trio_is_refused_at_startup(authenticator: BasicAuthMiddleware, app: App, issued: Issued) -> None:
    """With one clear sentence; where a server has no lifespan, the request says the same."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    trio.run(authenticator, {"type": "lifespan"}, receive, send)
    with pytest.raises(RuntimeError, match="does not run on trio"):
        trio.run(authenticator, http_scope(issued.authorization), receive, send)

    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "does not run on trio" in sent[0]["message"]
    assert app.scopes == []


def test_hypercorn_with_trio_does_not_start() -> None:
    """The server ends, with status 0 as it always does, and says why."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hypercorn",
            "-k",
            "trio",
            "-b",
            "127.0.0.1:0",
            "tests.servers.apps:round_app",
        ],
        env={**os.environ, "BASICAUTH_KEYS": "a:b", "BASICAUTH_BACKEND": "env:"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert "does not run on trio" in done.stdout + done.stderr
