"""Which requests are refused, and the responses to them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from basicauth_mw import (
    Backend,
    Issued,
    Settings,
    encode_basic,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow
from tests.asgi.helpers import (
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

    from tests.asgi.helpers import Exchange, Message, Receive, Scope, Send


CHALLENGE = 'Basic realm="api", charset="UTF-8"'
REQUEST_ID = (b"x-request-id", b"req-1")


def basic(pair: bytes | str) -> bytes:
    encoded = pair.encode() if isinstance(pair, str) else pair
    return b"Basic " + b64encode(encoded)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def middleware(app: App, backend: Backend) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(app, backend, settings=Settings())


# --- refusals


@pytest.fixture
def keys(backend: Backend, issued: Issued) -> dict[str, Issued]:
    """One key for each reason to refuse a valid secret."""
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
    """Headers that are refused as invalid for different reasons."""
    good = keys["live"].authorization.encode()
    token = good[6:]
    secret = keys["live"].secret
    mistyped = secret[:-1] + ("a" if secret[-1] != "a" else "b")

    def one(value: bytes) -> list[tuple[bytes, bytes]]:
        return [(b"authorization", value)]

    yield "unknown", one(encode_basic("unknown", generate("sk")).encode())
    yield "unknown, another shape", one(basic("unknown:pass"))
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
def test_every_refusal_looks_the_same(
    app: App, backend: Backend, keys: dict[str, Issued], method: str
) -> None:
    """Status, headers and body reveal no reason, not even whether the header was malformed."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(throttle=""))
    exchanges = {
        name: call(middleware, http_scope(method=method, headers=[*fields, REQUEST_ID]))
        for name, fields in bad_fields(keys)
    }
    first = exchanges["unknown"]

    assert {name: seen.messages for name, seen in exchanges.items()} == dict.fromkeys(
        exchanges, first.messages
    )
    assert all(seen.raised is None for seen in exchanges.values())
    assert first.status == 401
    assert first.headers["www-authenticate"] == CHALLENGE
    assert app.scopes == []


@pytest.mark.proves("P1", "P6", "A4", "X48")
def test_a_refusal_is_a_problem_document(middleware: BasicAuthMiddleware, issued: Issued) -> None:
    """RFC 9457, not to be stored or sniffed."""
    for value, code in ((None, "missing_credentials"), ("Basic x", "invalid_credentials")):
        seen = call(middleware, http_scope(value, headers=[REQUEST_ID]))

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
def test_an_empty_or_absent_header_is_missing_credentials(
    middleware: BasicAuthMiddleware, app: App, issued: Issued, headers: list[tuple[bytes, bytes]]
) -> None:
    """An empty header equals an absent one, and only one header counts."""
    fields = [(name, value.replace(b"<good>", issued.authorization.encode())) for name, value in headers]
    seen = call(middleware, http_scope(headers=fields))

    assert seen.status == 401
    assert seen.problem["code"] == "missing_credentials"
    assert seen.headers["www-authenticate"] == CHALLENGE
    assert app.scopes == []


@pytest.mark.proves("H3", "H9", "A2")
@pytest.mark.parametrize("name", [b"authorization", b"Authorization", b"AUTHORIZATION", b"aUTHORIZATIOn"])
@pytest.mark.parametrize("spelling", ["Basic {}", "basic {}", "BASIC    {}", "  bAsIc {}\t"])
def test_good_credentials_in_any_legal_spelling(
    middleware: BasicAuthMiddleware, app: App, issued: Issued, name: bytes, spelling: str
) -> None:
    """Header name and scheme are case-insensitive; whitespace around value and token is ignored."""
    value = spelling.format(issued.authorization[6:]).encode()

    assert call(middleware, http_scope(headers=[(name, value)])).status == 200
    assert app.scopes[0]["user"].client_id == "ci"


@pytest.mark.proves("B5", "B6", "X27")
def test_ids_and_secrets_of_any_script(app: App, backend: Backend) -> None:
    """Compared as bytes without normalization, so another normal form is another secret."""
    backend.create(client_id="Zoë-東京", secret="pässword: пароль")
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())

    assert call(middleware, http_scope(basic("Zoë-東京:pässword: пароль"))).status == 200
    assert call(middleware, http_scope(basic("Zoe\u0308-東京:pässword: пароль"))).status == 401


@pytest.mark.proves("H15", "X36", "X37")
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "FOO", "get", "TRACE", "CONNECT", "HEAD", "", "PRI"])
def test_every_method_is_checked(
    middleware: BasicAuthMiddleware, app: App, issued: Issued, method: str
) -> None:
    """The middleware has no list of methods."""
    assert call(middleware, http_scope(method=method)).status == 401
    assert app.scopes == []
    assert call(middleware, http_scope(issued.authorization, method=method)).status == 200


@pytest.mark.proves("H12")
def test_head_has_the_same_headers_and_no_body(middleware: BasicAuthMiddleware) -> None:
    """Content-Length included (RFC 9110 section 9.3.2)."""
    get, head = (
        call(middleware, http_scope(method=method, headers=[REQUEST_ID])) for method in ("GET", "HEAD")
    )

    assert head.starts == get.starts
    assert head.body == b""
    assert get.body != b""


# --- the request ID


@pytest.mark.parametrize("sent", ["a", "A-Z.a_z-09", "x" * 128, "."])
def test_a_harmless_request_id_is_repeated(middleware: BasicAuthMiddleware, sent: str) -> None:
    """In the header and in the body."""
    seen = call(middleware, http_scope(headers=[(b"X-Request-Id", sent.encode())]))

    assert seen.headers["x-request-id"] == seen.problem["request_id"] == sent


@pytest.mark.parametrize(
    "sent", [b"", b"x" * 129, b"a b", b"a\n", b"\xff", b"a\r\nx: y", b'"', b"<b>", "é".encode(), b"a/b"]
)
def test_any_other_request_id_is_replaced(middleware: BasicAuthMiddleware, sent: bytes) -> None:
    """By a new one each time."""
    ids = [
        call(middleware, http_scope(headers=[(b"x-request-id", sent)])).headers["x-request-id"]
        for _ in range(2)
    ]

    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", made) for made in ids)
    assert ids[0] != ids[1]


def test_repeated_request_ids_are_replaced(middleware: BasicAuthMiddleware) -> None:
    """It is unclear which of them is meant."""
    seen = call(middleware, http_scope(headers=[(b"x-request-id", b"a"), (b"x-request-id", b"b")]))

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
    """RFC 9110 section 11.5; UTF-8 bytes for non-ASCII characters."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(realm=realm))

    assert (
        call(middleware, http_scope()).headers["www-authenticate"]
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
    """With ``navigations`` it gets a scheme unknown to browsers; other requests get the usual one."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(challenge=setting))
    headers = [] if mode is None else [(b"Sec-Fetch-Mode", mode.encode())]
    seen = call(middleware, http_scope(headers=headers))

    assert seen.headers["www-authenticate"] == f'{scheme} realm="api", charset="UTF-8"'


# --- websockets


@pytest.mark.proves("H1", "A5", "A6", "X35")
@pytest.mark.parametrize("value", [None, "Basic x"])
def test_a_refused_websocket_gets_the_same_response(
    middleware: BasicAuthMiddleware, app: App, value: str | None
) -> None:
    """As a denial response if the server supports it; nothing else is sent."""
    seen = connect(middleware, websocket_scope(value, headers=[REQUEST_ID]))
    over_http = call(middleware, http_scope(value, headers=[REQUEST_ID]))

    assert [message["type"] for message in seen.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (seen.status, seen.headers, seen.body) == (401, over_http.headers, over_http.body)
    assert app.scopes == []


@pytest.mark.proves("A5", "A6", "X35")
@pytest.mark.parametrize("extensions", [{}, None, {"http.response.push": {}}, "absent"])
def test_a_refused_websocket_is_closed_before_it_is_accepted(
    middleware: BasicAuthMiddleware, app: App, extensions: Any
) -> None:
    """If the server does not support denial responses, it makes a 403 of it."""
    scope = websocket_scope()
    if extensions == "absent":
        del scope["extensions"]
    else:
        scope["extensions"] = extensions
    seen = connect(middleware, scope)

    assert [message["type"] for message in seen.messages] == ["websocket.close"]
    assert app.scopes == []


@pytest.mark.proves("A5")
@pytest.mark.parametrize("denial", [True, False])
def test_the_handshake_is_consumed_before_the_refusal(middleware: BasicAuthMiddleware, denial: bool) -> None:
    """ASGI requires that ``websocket.connect`` is received first; a disconnected client gets no response."""
    order: list[str] = []

    def drive(first: str) -> list[str]:
        order.clear()

        async def receive() -> Message:
            order.append(f"received {first}")
            return {"type": first}

        async def send(message: Message) -> None:
            order.append(message["type"])

        asyncio.run(middleware(websocket_scope(denial=denial), receive, send))
        return list(order)

    assert drive("websocket.connect")[0] == "received websocket.connect"
    assert len(drive("websocket.connect")) == (3 if denial else 2)
    assert drive("websocket.disconnect") == ["received websocket.disconnect"]


LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}


STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


def live(middleware: BasicAuthMiddleware, scope: Any = LIFESPAN) -> Exchange:
    return call(middleware, scope, STARTUP, SHUTDOWN)


# --- speed and robustness


@pytest.mark.parametrize("overrides", [{}, {"map_errors": False}, {"require_https": True, "exclude": "/x"}])
def test_a_known_key_reaches_the_app_without_one_suspension(
    app: App, backend: Backend, issued: Issued, overrides: dict[str, Any]
) -> None:
    """Neither for the first lookup in a memory store nor for a cached key: no loop is running here."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), **overrides)
    sent = []

    async def send(message: Message) -> None:
        sent.append(message)

    for _ in range(2):
        running = middleware(http_scope(issued.authorization, scheme="https"), None, send)
        with pytest.raises(StopIteration):
            running.send(None)

    assert sent == [OK_START, OK_BODY] * 2


def test_a_cached_key_does_not_wait_for_a_store_that_blocks(
    app: App, issued: Issued, backend: Backend
) -> None:
    """The first request may wait for a thread; the second does not, although the store would block."""

    class Blocking:
        def get(self, client_id: str) -> Any:
            return backend.store.get(client_id)

    middleware = BasicAuthMiddleware(app, Blocking(), settings=Settings())
    assert call(middleware, http_scope(issued.authorization)).status == 200

    async def send(message: Message) -> None:
        pass

    with pytest.raises(StopIteration):
        middleware(http_scope(issued.authorization), None, send).send(None)


def test_many_requests_at_once_do_not_mix(backend: Backend) -> None:
    """Each request gets its own identity, for a first lookup and for a cached one."""
    keys = [backend.create(client_id=f"client-{number}") for number in range(20)]

    async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await send(OK_START)
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": scope["user"].client_id.encode()})

    middleware = BasicAuthMiddleware(whoami, backend, settings=Settings())

    async def send_all() -> list[Exchange]:
        return await asyncio.gather(
            *(exchange(middleware, http_scope(key.authorization)) for key in keys * 3)
        )

    assert [seen.body.decode() for seen in asyncio.run(send_all())] == [key.client_id for key in keys * 3]


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
@examples(deadline=None)  # each example creates a loop
@given(
    headers=st.lists(st.tuples(_names, _values), max_size=4),
    path=_paths,
    raw_path=st.none() | st.binary(max_size=30),
    root_path=st.sampled_from(["", "/", "/docs", "x"]) | st.text(max_size=5),
    method=st.text(max_size=10) | st.sampled_from(["GET", "OPTIONS", "HEAD"]),
    client=st.none() | st.tuples(st.text(max_size=10), st.none() | st.integers()),
)
def test_any_request_gets_a_response(
    headers: list[tuple[bytes, bytes]],
    path: str,
    raw_path: bytes | None,
    root_path: str,
    method: str,
    client: Any,
) -> None:
    """The app's own or a complete 401, never an exception; and only the valid credential is accepted."""
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


def test_trio_is_refused_at_startup(middleware: BasicAuthMiddleware, app: App, issued: Issued) -> None:
    """With one clear sentence; if the server has no lifespan, the response to a request says the same."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    trio.run(middleware, {"type": "lifespan"}, receive, send)
    with pytest.raises(RuntimeError, match="does not run on trio"):
        trio.run(middleware, http_scope(issued.authorization), receive, send)

    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "does not run on trio" in sent[0]["message"]
    assert app.scopes == []


def test_hypercorn_with_trio_does_not_start() -> None:
    """The server exits, with status 0 as always, and prints the reason."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hypercorn",
            "-k",
            "trio",
            "-b",
            "127.0.0.1:0",
            "tests.servers.apps:wrapped_app",
        ],
        env={**os.environ, "BASICAUTH_KEYS": "a:b", "BASICAUTH_BACKEND": "env:"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert "does not run on trio" in done.stdout + done.stderr
