"""The WSGI shell on bare environs: who gets in, what the app sees, and that its answer arrives as it was."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicauth_mw import Backend, Issued, Principal, Settings, encode_basic
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import hash_password
from basicauth_mw.keys.model import Key, Secret, utcnow
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.shells.wsgi_helpers import (
    LIMIT_S,
    Body,
    FileWrapper,
    Untouchable,
    call,
    call_validated,
    make_environ,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.shells.wsgi_helpers import Environ, WsgiApp

CHALLENGE = 'Basic realm="api", charset="UTF-8"'
PRINCIPAL = "basicauth_mw.principal"


class App:
    """An app that remembers the environ of each call and answers with ``result``."""

    def __init__(self, result: Any = (b"hello",), status: str = "200 OK") -> None:
        self.seen: list[Environ] = []
        self.result = result
        self.status = status
        self.headers = [("Content-Type", "text/plain")]

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        self.seen.append(environ)
        start_response(self.status, list(self.headers))
        result: Iterable[bytes] = self.result
        return result


class FakeStore:
    """Somebody else's store: only a ``get``, which does what the test says."""

    def __init__(self, get: Any) -> None:
        self.get = get


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def authenticator(app: App, backend: Backend) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(validator(app), backend, settings=Settings())


def wait_until(condition: Any, what: str) -> None:
    """Wait for something that must happen."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


# --- the app's own answer, byte for byte


@pytest.mark.proves("H16", "W13")
@pytest.mark.parametrize("status", ["200 OK", "404 Nothing Here", "500 My Own Words", "401 Unauthorized"])
def test_the_app_s_answer_is_untouched(backend: Backend, issued: Issued, status: str) -> None:
    """Status line, header fields in order, duplicates and latin-1 values arrive as the app gave them."""
    app = App([b"one", b"", b"\xfftwo"], status)
    app.headers = [
        ("Content-Type", "text/plain"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("X-Latin", "caf\u00e9 \u00ff"),
        ("x-lower", ""),
        ("WWW-Authenticate", 'Bearer realm="mine"'),
    ]

    answer = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert answer.raised is None
    assert answer.starts == [(status, app.headers, None)]
    assert answer.chunks == [b"one", b"", b"\xfftwo"]


@pytest.mark.proves("W11")
@pytest.mark.parametrize("result", [[b"a", b"b"], (b"a",), [], ()], ids=["list", "tuple", "no-list", "none"])
def test_a_finished_result_is_the_same_object(backend: Backend, issued: Issued, result: Any) -> None:
    authenticator = BasicAuthMiddleware(App(result), backend, settings=Settings())

    answer = call(authenticator, issued.authorization)

    assert answer.result is result
    assert answer.status_line == "200 OK"


@pytest.mark.proves("W11")
def test_a_file_wrapper_is_the_same_object(backend: Backend, issued: Issued) -> None:
    """The server recognises its own wrapper and may send the file by the operating system's means."""
    wrapper = FileWrapper(BytesIO(b"x" * 20_000))
    authenticator = BasicAuthMiddleware(App(wrapper), backend, settings=Settings())

    answer = call(authenticator, issued.authorization, **{"wsgi.file_wrapper": FileWrapper})

    assert answer.result is wrapper
    assert answer.body == b"x" * 20_000
    assert wrapper.closed == 1


def test_the_result_of_a_file_wrapper_function_is_the_same_object(backend: Backend, issued: Issued) -> None:
    """uWSGI's wrapper returns the file that it was given, and the server compares what comes back with it."""
    file = BytesIO(b"x\n" * 1_000)
    wrapped: list[tuple[Any, ...]] = []

    def wrap(*arguments: Any) -> Any:
        wrapped.append(arguments)
        return arguments[0]

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](file, 8192)

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    answer = call(authenticator, issued.authorization, **{"wsgi.file_wrapper": wrap})

    assert answer.result is file
    assert wrapped == [(file, 8192)]


def test_what_a_file_wrapper_function_did_not_return_is_guarded(backend: Backend, issued: Issued) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ["wsgi.file_wrapper"](BytesIO(b"x"))
        return Body([ValueError("first")])

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())

    assert call(authenticator, issued.authorization, **{"wsgi.file_wrapper": lambda file: file}).status == 500


@pytest.mark.proves("W5")
def test_a_generator_stays_lazy(backend: Backend, issued: Issued) -> None:
    """One chunk of the app's is one chunk of ours, taken when the server asks for it and not before."""
    body = Body([b"1", b"", b"2", b"3"])
    answered: list[int] = []

    def start_response(*_arguments: Any) -> Any:
        answered.append(body.taken)

    authenticator = BasicAuthMiddleware(App(body), backend, settings=Settings())
    chunks = iter(authenticator(make_environ(issued.authorization), start_response))

    assert body.taken == 0
    seen = [(next(chunks), body.taken) for _ in range(4)]
    assert seen == [(b"1", 1), (b"", 2), (b"2", 3), (b"3", 4)]
    assert next(chunks, None) is None
    assert answered == [1]


def test_start_response_may_come_late(backend: Backend, issued: Issued) -> None:
    """A generator function calls it at its first step."""

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("201 Created", [("Content-Type", "text/plain")])
        yield b"late"

    answer = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert (answer.status_line, answer.body) == ("201 Created", b"late")


def test_an_empty_body_has_a_start(backend: Backend, issued: Issued) -> None:
    answer = call(
        BasicAuthMiddleware(App(Body([]), "204 No Content"), backend, settings=Settings()),
        issued.authorization,
    )

    assert answer.raised is None
    assert answer.status_line == "204 No Content"
    assert answer.chunks == []


@pytest.mark.proves("W8", "W13")
def test_write_works(backend: Backend, issued: Issued) -> None:
    """The old way to send a body, with and without an iterable behind it."""

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"")
        write(b"written ")
        return [b"returned"]

    answer = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert answer.raised is None
    assert answer.written == [b"", b"written "]
    assert answer.body == b"written returned"
    assert len(answer.starts) == 1


def test_an_app_may_correct_its_own_answer(backend: Backend, issued: Issued) -> None:
    """A second start_response with exc_info replaces the first while nothing is out."""

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise ValueError
        except ValueError:
            start_response("503 Mine", [("Content-Type", "text/html")], sys.exc_info())
        return [b"mine"]

    answer = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert answer.raised is None
    assert (answer.status_line, answer.body) == ("503 Mine", b"mine")


def test_an_app_may_correct_its_own_answer_after_an_empty_chunk(backend: Backend, issued: Issued) -> None:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b""
        try:
            raise ValueError
        except ValueError:
            start_response("503 Mine", [("Content-Type", "text/html")], sys.exc_info())
        yield b"mine"

    answer = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert answer.raised is None
    assert (answer.status_line, answer.body) == ("503 Mine", b"mine")


@pytest.mark.proves("W6")
@pytest.mark.parametrize("chunks", [0, 1, 2, None], ids=["before", "first", "second", "all"])
def test_close_is_called_once(backend: Backend, issued: Issued, chunks: int | None) -> None:
    """Also when the client goes away before the body has begun, or in the middle of it."""
    from tests.shells.wsgi_helpers import Server

    body = Body([b"1", b"2", b"3"])
    authenticator = BasicAuthMiddleware(App(body), backend, settings=Settings())

    answer = Server().run(authenticator, make_environ(issued.authorization), chunks=chunks)

    assert answer.raised is None
    assert len(answer.chunks) == (3 if chunks is None else chunks)
    assert body.closed == 1


@pytest.mark.proves("W6")
def test_close_twice_closes_once(backend: Backend, issued: Issued) -> None:
    body = Body([b"1"])
    authenticator = BasicAuthMiddleware(App(body), backend, settings=Settings())
    result: Any = authenticator(make_environ(issued.authorization), lambda *_: None)

    result.close()
    result.close()

    assert body.closed == 1


@pytest.mark.proves("W6")
def test_an_error_in_close_is_logged(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is complete by then."""
    body = Body([b"1", b"2"], in_close=ValueError("in close"))

    answer = call(BasicAuthMiddleware(App(body), backend, settings=Settings()), issued.authorization)

    assert answer.raised is None
    assert answer.chunks == [b"1", b"2"]
    assert body.closed == 1
    (record,) = caplog.records
    assert record.name == "basicauth_mw"
    assert record.exc_info is not None
    assert "in close" in caplog.text


def test_head_of_a_good_request_is_the_app_s(backend: Backend, issued: Issued, app: App) -> None:
    app.result = []
    app.headers = [("Content-Type", "text/plain"), ("Content-Length", "5")]

    answer = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()),
        issued.authorization,
        REQUEST_METHOD="HEAD",
    )

    assert answer.headers == app.headers
    assert answer.body == b""


# --- the identity


@pytest.mark.proves("W13", "W16")
def test_the_identity(authenticator: BasicAuthMiddleware, app: App, issued: Issued) -> None:
    call_validated(authenticator, issued.authorization)

    (environ,) = app.seen
    assert environ["REMOTE_USER"] == "ci"
    assert environ["AUTH_TYPE"] == "Basic"
    principal = environ[PRINCIPAL]
    assert isinstance(principal, Principal)
    assert (principal.client_id, principal.name, principal.scopes) == ("ci", "CI", frozenset({"read"}))
    assert principal.metadata == {"team": "a"}


@pytest.mark.proves("B5", "W1")
def test_remote_user_is_utf8_as_latin1(
    backend: Backend, authenticator: BasicAuthMiddleware, app: App
) -> None:
    """PEP 3333: octets as code points; the id is UTF-8."""
    issued = backend.create(client_id="z\u00fcrich-\u6771\u4eac")

    answer = call_validated(authenticator, issued.authorization)

    assert answer.status == 200
    remote_user = app.seen[0]["REMOTE_USER"]
    assert remote_user.encode("latin-1").decode() == "z\u00fcrich-\u6771\u4eac"


@pytest.mark.proves("W16", "X39")
@pytest.mark.parametrize("good", [True, False], ids=["authenticated", "open"])
def test_a_forged_identity_is_removed(backend: Backend, issued: Issued, app: App, good: bool) -> None:
    authenticator = BasicAuthMiddleware(validator(app), backend, settings=Settings(), exclude=("/open",))
    forged = {"REMOTE_USER": "root", "AUTH_TYPE": "Forged", PRINCIPAL: "root"}
    environ = make_environ(issued.authorization if good else None, "/" if good else "/open", **forged)

    call_result = authenticator(environ, lambda *_: lambda _data: None)
    list(call_result)
    call_result.close()  # type: ignore[attr-defined]

    (seen,) = app.seen
    assert {name: environ.get(name) for name in forged} == {name: seen.get(name) for name in forged}
    if good:
        assert (seen["REMOTE_USER"], seen["AUTH_TYPE"], seen[PRINCIPAL].client_id) == ("ci", "Basic", "ci")
    else:
        assert "REMOTE_USER" not in seen
        assert "AUTH_TYPE" not in seen
        assert seen[PRINCIPAL] is None


def test_a_refusal_removes_a_forged_identity(authenticator: BasicAuthMiddleware) -> None:
    """What the server logs about a refused request names no user either."""
    environ = make_environ("Basic !", REMOTE_USER="root", AUTH_TYPE="Forged", **{PRINCIPAL: "root"})

    authenticator(environ, lambda *_: lambda _data: None)

    assert not {"REMOTE_USER", "AUTH_TYPE", PRINCIPAL} & environ.keys()


@pytest.mark.parametrize("path", ["/", "/open", "/refused"])
def test_the_user_can_be_left_to_others(backend: Backend, issued: Issued, app: App, path: str) -> None:
    """``set_user=False`` neither writes nor removes ``REMOTE_USER`` and ``AUTH_TYPE``."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(set_user=False, exclude=("/open",)))
    theirs = {"REMOTE_USER": "root", "AUTH_TYPE": "Negotiate"}
    for planted in ({}, theirs):
        environ = make_environ(None if path == "/refused" else issued.authorization, path, **planted)
        environ[PRINCIPAL] = "planted"
        authenticator(environ, lambda *_: lambda _data: None)

        assert {name: environ[name] for name in theirs if name in environ} == planted
        found = environ.get(PRINCIPAL)
        assert found.client_id == "ci" if path == "/" else found is None


def test_the_environ_is_updated_in_place(backend: Backend, issued: Issued) -> None:
    """The app gets the server's own dict, so layers outside see the caller, and what the app adds."""
    received = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        received.append(environ)
        environ["app.route"] = "/items"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    environ = make_environ(issued.authorization)
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), strip_authorization=True)

    authenticator(environ, lambda *_: lambda _data: None)

    assert received[0] is environ
    assert (environ["REMOTE_USER"], environ["AUTH_TYPE"], environ["app.route"]) == ("ci", "Basic", "/items")
    assert environ[PRINCIPAL].client_id == "ci"
    assert "HTTP_AUTHORIZATION" not in environ


@pytest.mark.proves("W16")
def test_an_open_path_verifies_nothing(backend: Backend, issued: Issued, app: App) -> None:
    """Not even good credentials give an identity there."""
    authenticator = BasicAuthMiddleware(validator(app), backend, settings=Settings(), exclude=("/open",))

    assert call_validated(authenticator, issued.authorization, path="/open").status == 200
    assert call_validated(authenticator, "Basic !", path="/open").status == 200
    assert [PRINCIPAL in seen and seen[PRINCIPAL] is None for seen in app.seen] == [True, True]
    assert not any("REMOTE_USER" in seen or "AUTH_TYPE" in seen for seen in app.seen)


def test_header_fields_are_left_alone(authenticator: BasicAuthMiddleware, app: App, issued: Issued) -> None:
    call_validated(authenticator, issued.authorization, HTTP_REMOTE_USER="x", HTTP_X_CLIENT_ID="y")

    (seen,) = app.seen
    assert (seen["HTTP_REMOTE_USER"], seen["HTTP_X_CLIENT_ID"]) == ("x", "y")
    assert seen["HTTP_AUTHORIZATION"] == issued.authorization


@pytest.mark.proves("B9")
def test_the_field_can_be_hidden_from_the_app(backend: Backend, issued: Issued, app: App) -> None:
    """On open paths as well."""
    authenticator = BasicAuthMiddleware(
        validator(app), backend, settings=Settings(), strip_authorization=True, exclude=("/open",)
    )

    assert call_validated(authenticator, issued.authorization).status == 200
    assert call_validated(authenticator, issued.authorization, path="/open").status == 200
    assert ["HTTP_AUTHORIZATION" in seen for seen in app.seen] == [False, False]


# --- refusals


@pytest.mark.proves("W2", "W3", "W13", "W15")
@pytest.mark.parametrize("field", [None, "", " ", "\t \t"], ids=["absent", "empty", "blank", "blanks"])
def test_no_credentials(authenticator: BasicAuthMiddleware, app: App, field: str | None) -> None:
    """Some servers hand over an empty field for one that they could not read."""
    answer = call_validated(authenticator, field)

    assert answer.status_line == "401 Unauthorized"
    assert answer.named["WWW-Authenticate"] == CHALLENGE
    assert answer.code == "missing_credentials"
    assert app.seen == []


@pytest.mark.proves("H11", "P8", "W1", "O4", "X19", "X23", "X26")
def test_every_refusal_looks_the_same(authenticator: BasicAuthMiddleware, backend: Backend, app: App) -> None:
    """Malformed, unknown, wrong, expired, disabled and revoked cannot be told apart from outside."""
    expired, disabled, revoked = (backend.create(client_id=name) for name in ("old", "off", "gone"))
    store = backend.store
    stored = store.get("old")
    past = utcnow() - timedelta(seconds=1)
    assert store.put(replace(stored, expires_at=past, version=stored.version + 1), stored.version)
    backend.disable("off")
    backend.revoke("gone")
    fields = {
        "malformed": "Basic !",
        "scheme": "Bearer abc",
        "unknown": encode_basic("nobody", generate("sk")),
        "wrong": encode_basic("old", generate("sk")),
        "human": encode_basic("old", "password"),
        "expired": expired.authorization,
        "disabled": disabled.authorization,
        "revoked": revoked.authorization,
        "two": f"{expired.authorization}, {expired.authorization}",
        "high": "Basic \xff\xfe",
        "beyond-latin-1": "Basic \u20ac\u6771",
        "surrogate": "Basic \ud800",
        "control": "Basic \x00\r\n",
        "long": "Basic " + "A" * 100_000,
        "latin-1": "Basic " + b64encode("j\u00fcrgen:x".encode("latin-1")).decode(),
    }

    answers = {name: call(authenticator, field) for name, field in fields.items()}

    (one,) = {(answer.status_line, tuple(answer.headers), answer.body) for answer in answers.values()}
    assert one[0] == "401 Unauthorized"
    assert answers["unknown"].code == "invalid_credentials"
    assert app.seen == []


@pytest.mark.proves("H15", "X36", "X37")
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "get", "FOO", "TRACE", "CONNECT", ""])
def test_every_method_is_checked(backend: Backend, app: App, method: str) -> None:
    answer = call(BasicAuthMiddleware(app, backend, settings=Settings()), REQUEST_METHOD=method)

    assert answer.code == "missing_credentials"
    assert app.seen == []


@pytest.mark.proves("H12")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_head_has_the_fields_of_get_and_no_body(authenticator: BasicAuthMiddleware, method: str) -> None:
    answer = call_validated(authenticator, REQUEST_METHOD=method)

    assert answer.headers == call_validated(authenticator).headers
    assert (answer.body == b"") == (method == "HEAD")


@pytest.mark.proves("W10")
@pytest.mark.parametrize("field", [None, "Basic !", encode_basic("nobody", "x")])
def test_a_refusal_does_not_touch_the_request_body(
    authenticator: BasicAuthMiddleware, backend: Backend, app: App, field: str | None
) -> None:
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())

    answer = call(authenticator, field, **{"wsgi.input": Untouchable(), "CONTENT_LENGTH": "100000000"})

    assert answer.status == 401


@pytest.mark.proves("H2")
def test_proxy_authorization_is_not_read(authenticator: BasicAuthMiddleware, issued: Issued) -> None:
    assert call(authenticator, HTTP_PROXY_AUTHORIZATION=issued.authorization).status == 401


def test_the_request_id_comes_back_if_it_is_harmless(authenticator: BasicAuthMiddleware) -> None:
    assert call(authenticator, HTTP_X_REQUEST_ID="a.B-9_").problem["request_id"] == "a.B-9_"
    for odd in ("", "a b", "x" * 129, "caf\u00e9", "\u20ac", 'a"b'):
        answer = call(authenticator, HTTP_X_REQUEST_ID=odd)
        assert answer.problem["request_id"] not in ("", odd)


@pytest.mark.proves("H6")
def test_a_realm_goes_out_as_utf8(backend: Backend, app: App) -> None:
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), realm='M\u00fcnchen "\u6771" \\')

    sent = call_validated(authenticator).named["WWW-Authenticate"]

    assert sent.encode("latin-1").decode() == 'Basic realm="M\u00fcnchen \\"\u6771\\" \\\\", charset="UTF-8"'


def test_a_fetch_opens_no_password_dialog(backend: Backend, app: App) -> None:
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), challenge="navigations")

    fetched = call(authenticator, HTTP_SEC_FETCH_MODE="cors").named["WWW-Authenticate"]

    assert fetched == "x" + CHALLENGE
    assert call(authenticator, HTTP_SEC_FETCH_MODE="navigate").named["WWW-Authenticate"] == CHALLENGE
    assert call(authenticator).named["WWW-Authenticate"] == CHALLENGE


@pytest.mark.proves("O5", "X54")
def test_too_many_failures_are_throttled(backend: Backend, issued: Issued, app: App) -> None:
    """That client id from that address, right or wrong; another address is not affected."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), throttle="3/hour")
    assert call(authenticator, issued.authorization).status == 200
    wrong = encode_basic("ci", generate("sk"))

    statuses = [call(authenticator, wrong).status for _ in range(5)]

    assert statuses == [401, 401, 401, 429, 429]
    blocked = call(authenticator, issued.authorization)
    assert blocked.code == "throttled"
    assert int(blocked.named["Retry-After"]) >= 1
    assert call(authenticator, issued.authorization, REMOTE_ADDR="192.0.2.2").status == 200


def test_without_an_address_nobody_is_throttled(
    backend: Backend, issued: Issued, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), throttle="1/hour")
    wrong = encode_basic("ci", generate("sk"))

    statuses = {call(authenticator, wrong, REMOTE_ADDR=address).status for address in ("", None) * 5}

    assert statuses == {401}
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


# --- rules: open paths, preflights, https


@pytest.mark.proves("X29", "X30", "X31", "X33")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/docs/a", 200),
        ("/caf\xc3\xa9", 200),
        ("/health/", 401),
        ("/Health", 401),
        ("/docs", 401),
        ("/docs/../x", 401),
        ("//health", 401),
        ("/health\x00", 401),
        ("/health\u20ac", 401),
        ("/caf\xe9", 401),
        ("/\ud800", 401),
        ("health", 401),
        ("http://evil/health", 401),
        ("", 401),
    ],
)
def test_open_paths(backend: Backend, app: App, path: str, status: int) -> None:
    """PATH_INFO is octets as latin-1; whatever is odd about it, it is protected and never an error."""
    authenticator = BasicAuthMiddleware(
        app, backend, settings=Settings(), exclude=("/health", "/docs/*", "/caf\u00e9")
    )

    assert call(authenticator, path=path).status == status


@pytest.mark.proves("X30")
def test_open_paths_are_below_the_mount_point(backend: Backend, app: App) -> None:
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), exclude=("/health",))

    assert call(authenticator, path="/health", SCRIPT_NAME="/app").status == 200
    assert call(authenticator, path="/app/health", SCRIPT_NAME="/app").status == 401
    assert call(authenticator, path="/x", SCRIPT_NAME="/health").status == 401
    assert call(authenticator, path="", SCRIPT_NAME="/health").status == 401


@pytest.mark.proves("X29")
@pytest.mark.parametrize("name", ["RAW_URI", "REQUEST_URI"])
def test_the_path_as_sent_gets_a_second_look(backend: Backend, app: App, name: str) -> None:
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), exclude=("/docs/*",))

    assert call(authenticator, path="/docs/a", **{name: "/docs/a?x=%2f"}).status == 200
    assert call(authenticator, path="/docs/a/b", **{name: "/docs/a%2Fb"}).status == 401
    assert call(authenticator, path="/docs/a", **{name: "/docs/\u20ac\ud800"}).status in (200, 401)


@pytest.mark.parametrize(
    "missing",
    ["PATH_INFO", "SCRIPT_NAME", "REMOTE_ADDR", "REQUEST_METHOD", "wsgi.url_scheme", "SERVER_SOFTWARE"],
)
def test_a_missing_variable_is_no_error(backend: Backend, issued: Issued, app: App, missing: str) -> None:
    authenticator = BasicAuthMiddleware(
        app, backend, settings=Settings(), exclude=("/health",), allow_preflight=True, require_https=False
    )

    assert call(authenticator, **{missing: None}).status == 401
    assert call(authenticator, issued.authorization, **{missing: None}).status == 200


@pytest.mark.proves("X36")
def test_a_preflight_reaches_the_app_if_allowed(backend: Backend, app: App) -> None:
    preflight = {
        "REQUEST_METHOD": "OPTIONS",
        "HTTP_ORIGIN": "https://a.example",
        "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "GET",
    }
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(), allow_preflight=True)

    assert call(authenticator, **preflight).status == 200
    assert app.seen[0][PRINCIPAL] is None
    assert "REMOTE_USER" not in app.seen[0]
    for changed in ("HTTP_ORIGIN", "HTTP_ACCESS_CONTROL_REQUEST_METHOD", "REQUEST_METHOD"):
        assert call(authenticator, **{**preflight, changed: None}).status == 401
    assert call(authenticator, **{**preflight, "REQUEST_METHOD": "GET"}).status == 401
    assert call(BasicAuthMiddleware(app, backend, settings=Settings()), **preflight).status == 401


@pytest.mark.proves("B7")
def test_plain_http_can_be_refused(backend: Backend, issued: Issued, app: App) -> None:
    """Before the credentials are read, and never by a redirect."""
    authenticator = BasicAuthMiddleware(
        app, backend, settings=Settings(), require_https=True, exclude=("/open",)
    )

    for field in (None, "Basic !", issued.authorization):
        answer = call_validated(authenticator, field)
        assert answer.status_line == "403 Forbidden"
        assert answer.code == "https_required"
    assert app.seen == []
    assert call_validated(authenticator, issued.authorization, **{"wsgi.url_scheme": "https"}).status == 200
    assert call_validated(authenticator, path="/open").status == 200


@pytest.mark.proves("X19", "X20", "X42")
@given(
    field=st.none() | st.text(max_size=60),
    path=st.text(max_size=30),
    method=st.text(max_size=8),
    request_id=st.text(max_size=20),
    raw=st.text(max_size=30),
)
def test_garbage_is_refused_and_nothing_worse(
    field: str | None, path: str, method: str, request_id: str, raw: str
) -> None:
    """Whatever a server makes of octets from outside, code points over 255 included."""
    app = App()
    authenticator = BasicAuthMiddleware(
        app,
        FakeStore(lambda _client_id: None),
        settings=Settings(throttle=""),
        exclude=("/health", "/docs/*"),
        allow_preflight=True,
    )
    given = {"REQUEST_METHOD": method, "HTTP_X_REQUEST_ID": request_id, "RAW_URI": raw}

    answer = call(authenticator, field, path=path, **given)

    assert answer.raised is None
    assert answer.status == (200 if app.seen else 401)


# --- backends that break


def basic_key(client_id: str, secret: str) -> Key:
    return Key(client_id=client_id, created_at=utcnow(), secrets=(Secret(hash_password(secret)),))


def raising(exc: BaseException) -> Any:
    def get(_client_id: str) -> Any:
        raise exc

    return get


@pytest.mark.proves("H13", "W3")
@pytest.mark.parametrize(
    "get",
    [
        pytest.param(raising(BackendUnavailable("down")), id="unavailable"),
        pytest.param(raising(OSError("refused")), id="os-error"),
        pytest.param(raising(TimeoutError("slow")), id="time-out"),
        pytest.param(raising(KeyError("x")), id="key-error"),
        pytest.param(raising(StopIteration(Key(client_id="ci"))), id="stop-iteration"),
        pytest.param(raising(RuntimeError("hunter2")), id="anything"),
        pytest.param(raising(ExceptionGroup("several", [OSError()])), id="group"),
        pytest.param(lambda _: True, id="true"),
        pytest.param(lambda _: False, id="false"),
        pytest.param(lambda _: {}, id="dict"),
        pytest.param(lambda _: MappingProxyType({"client_id": "ci"}), id="mapping"),
        pytest.param(lambda _: "ci", id="text"),
        pytest.param(lambda _: Key(client_id="somebody-else"), id="another-key"),
    ],
)
def test_a_broken_backend_is_a_503(app: App, get: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Never 401, never 500, never a way in; said once in the log, without the store's own words."""
    authenticator = BasicAuthMiddleware(app, FakeStore(get), settings=Settings())

    answers = [call_validated(authenticator, encode_basic("ci", "hunter2")) for _ in range(3)]

    assert {answer.status_line for answer in answers} == {"503 Service Unavailable"}
    assert {answer.code for answer in answers} == {"backend_unavailable"}
    assert int(answers[0].named["Retry-After"]) >= 1
    assert app.seen == []
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("field", [None, "Basic !"])
def test_during_an_outage_what_needs_no_look_up_is_still_a_401(app: App, field: str | None) -> None:
    authenticator = BasicAuthMiddleware(app, FakeStore(raising(OSError())), settings=Settings())

    assert call(authenticator, field).status == 401


@pytest.mark.proves("F2", "W14")
def test_a_hanging_backend_is_a_503_within_the_deadline(app: App) -> None:
    """Its threads are free again as soon as it answers, and then it is asked again."""
    hangs = threading.Event()

    def get(_client_id: str) -> Key | None:
        assert hangs.wait(LIMIT_S)
        return None

    authenticator = BasicAuthMiddleware(
        app, FakeStore(get), settings=Settings(throttle=""), backend_deadline_s=0.2
    )
    field = encode_basic("nobody", generate("sk"))

    def timed(_number: int) -> tuple[int, float]:
        began = time.monotonic()
        return call(authenticator, field).status, time.monotonic() - began

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(timed, range(30)))
    hangs.set()

    assert {status for status, _ in answers} == {503}
    assert max(duration_s for _, duration_s in answers) < 1.5
    wait_until(lambda: call(authenticator, field).status == 401, "the store is asked again")


def test_a_store_that_can_be_interrupted_is(app: App) -> None:
    """``interrupt`` frees the threads of a store that would hang for ever."""
    hung: dict[int, threading.Event] = {}
    hangs = True

    class Interruptible:
        def get(self, _client_id: str) -> Key | None:
            if hangs:
                event = hung[threading.get_ident()] = threading.Event()
                if event.wait(LIMIT_S):
                    raise OSError("interrupted")
            return None

        def interrupt(self, thread_id: int) -> None:
            hung[thread_id].set()

    authenticator = BasicAuthMiddleware(
        app, Interruptible(), settings=Settings(throttle=""), backend_deadline_s=0.05
    )
    field = encode_basic("nobody", generate("sk"))
    with ThreadPoolExecutor(12) as pool:
        statuses = set(pool.map(lambda _: call(authenticator, field).status, range(24)))

    assert statuses == {503}
    hangs = False
    wait_until(lambda: call(authenticator, field).status == 401, "threads are free again")


def test_an_asynchronous_backend(app: App) -> None:
    """An object with only ``aget`` serves a synchronous app as well."""
    stored = {"ci": basic_key("ci", "password")}

    class Asynchronous:
        async def aget(self, client_id: str) -> Key | None:
            import asyncio

            await asyncio.sleep(0)
            return stored.get(client_id)

    authenticator = BasicAuthMiddleware(validator(app), Asynchronous(), settings=Settings())

    assert call_validated(authenticator, encode_basic("ci", "password")).status == 200
    assert call_validated(authenticator, encode_basic("ci", "passwore")).status == 401
    assert call_validated(authenticator, encode_basic("di", "password")).status == 401


def test_an_asynchronous_backend_that_hangs_frees_its_threads(app: App) -> None:
    """A coroutine can be cancelled: more hanging look-ups than there are threads do no lasting harm."""
    hangs = True

    class Asynchronous:
        async def aget(self, _client_id: str) -> Key | None:
            import asyncio

            if hangs:
                await asyncio.sleep(3600)
            return None

    authenticator = BasicAuthMiddleware(
        app, Asynchronous(), settings=Settings(throttle=""), backend_deadline_s=0.1
    )
    field = encode_basic("nobody", generate("sk"))
    with ThreadPoolExecutor(12) as pool:
        statuses = set(pool.map(lambda _: call(authenticator, field).status, range(24)))

    assert statuses == {503}
    hangs = False
    deadline = time.monotonic() + 3.0
    while (status := call(authenticator, field).status) != 401:
        assert time.monotonic() < deadline, f"still {status}: the threads hang for ever"


def test_a_cancelled_asynchronous_look_up_is_a_503(app: App) -> None:
    """A driver may let CancelledError out; in a thread there is nobody who was cancelled."""

    class Asynchronous:
        async def aget(self, _client_id: str) -> Key | None:
            import asyncio

            raise asyncio.CancelledError

    authenticator = BasicAuthMiddleware(app, Asynchronous(), settings=Settings())

    answer = call(authenticator, encode_basic("nobody", generate("sk")))

    assert answer.raised is None
    assert answer.status == 503


def test_a_full_pool_of_slow_hashes_is_a_503_at_once(app: App) -> None:
    """One worker, eight that wait; all others are told at once and not after their turn."""
    # A client each: what one client asks for at once is one check.
    stored = {f"ci-{number}": basic_key(f"ci-{number}", "password") for number in range(40)}
    authenticator = BasicAuthMiddleware(
        app, FakeStore(stored.get), settings=Settings(throttle="", cache_ttl_s=0), slow_hash_workers=1
    )
    assert call(authenticator, encode_basic("ci-0", "password")).status == 200
    together = threading.Barrier(40)

    def timed(number: int) -> tuple[Any, float]:
        right = encode_basic(f"ci-{number}", "password")
        together.wait(LIMIT_S)
        began = time.monotonic()
        return call(authenticator, right), time.monotonic() - began

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(timed, range(40)))

    good_s = [duration_s for answer, duration_s in answers if answer.status == 200]
    refused = [(answer, duration_s) for answer, duration_s in answers if answer.status != 200]
    assert len(good_s) >= 9, "those that were queued are served"
    assert {answer.code for answer, _ in refused} == {"overloaded"}
    assert {answer.status_line for answer, _ in refused} == {"503 Service Unavailable"}
    assert min(duration_s for _, duration_s in refused) < max(good_s)


def test_a_proved_credential_lives_through_an_outage(app: App) -> None:
    """Nothing else does."""
    down = False
    stored = {name: basic_key(name, "password") for name in ("ci", "di")}

    def get(client_id: str) -> Key | None:
        if down:
            raise OSError
        return stored.get(client_id)

    authenticator = BasicAuthMiddleware(app, FakeStore(get), settings=Settings())
    assert call(authenticator, encode_basic("ci", "password")).status == 200
    down = True

    assert call(authenticator, encode_basic("ci", "password")).status == 200
    assert call(authenticator, encode_basic("di", "password")).status == 503
    assert call(authenticator, encode_basic("ci", "passwore")).status == 503
    down = False
    assert call(authenticator, encode_basic("di", "password")).status == 200


# --- threads, forks, life


def test_many_threads_see_their_own_identity(backend: Backend) -> None:
    keys = [backend.create(client_id=f"client-{number}") for number in range(8)]

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield environ["REMOTE_USER"].encode()

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())

    def ask(number: int) -> bool:
        issued = keys[number % 8]
        return call(authenticator, issued.authorization).body == issued.client_id.encode()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))


FORK = """
import os, sys, threading
from basicauth_mw import Settings, encode_basic
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.hashing import hash_password
from basicauth_mw.keys.model import Key, Secret, utcnow
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.shells.wsgi_helpers import call

stored = Key(client_id="ci", created_at=utcnow(), secrets=(Secret(hash_password("password")),))

class Store:
    def get(self, client_id):
        return stored if client_id == "ci" else None

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["REMOTE_USER"].encode()]

gate = BasicAuthMiddleware(app, Store(), settings=Settings(cache_ttl_s=0, throttle=""), slow_hash_workers=2)
right, wrong = encode_basic("ci", "password"), encode_basic("ci", "passwore")

def check():
    statuses = [call(gate, field, HTTP_X_REQUEST_ID=None).status for field in (right, wrong, None, right)]
    assert statuses == [200, 401, 401, 200], statuses

def ids():
    return call(gate, HTTP_X_REQUEST_ID=None).problem["request_id"]

check()
assert threading.active_count() > 1, "threads were started, and fork leaves them behind"
for _ in range(3):
    parent_id = ids()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check()
            assert ids()[:16] != parent_id[:16]
            code = 0
        except BaseException as exc:
            print(repr(exc), file=sys.stderr)
        os._exit(code)
    check()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("done")
"""


def test_a_fork_after_the_first_request_works() -> None:
    """Threads are left behind by a fork, and locks may be held by them."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.getcwd()},  # noqa: PTH109
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_building_starts_no_thread(app: App) -> None:
    before = threading.active_count()

    BasicAuthMiddleware(app, FakeStore(lambda _: None), settings=Settings())

    assert threading.active_count() == before


def test_a_given_backend_is_not_closed(app: App) -> None:
    closed: list[bool] = []

    class Store(MemoryStore):
        def close(self) -> None:
            closed.append(True)

    authenticator = BasicAuthMiddleware(app, Store(), settings=Settings())
    call(authenticator, encode_basic("ci", "x"))
    del authenticator

    assert closed == []


def test_any_callable_and_any_url(monkeypatch: pytest.MonkeyPatch, app: WsgiApp) -> None:
    """The plain form: everything from the environment."""
    monkeypatch.setenv("BASICAUTH_KEYS", "demo:p@55w0rd")

    authenticator = BasicAuthMiddleware(app)

    assert call(authenticator, "Basic ZGVtbzpwQDU1dzByZA==").status == 200
    assert call(authenticator, "Basic ZGVtbzpwQDU1dzByZB==").status == 401
    assert call(authenticator, "Basic ZGVtbzpwQDU1dzByZQ==").status == 401
