"""What the app gets and sends: its response unchanged, and the identity in the environ."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from basicauth_mw import Backend, Issued, Principal, Settings, encode_basic
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.wsgi.helpers import (
    Body,
    FileWrapper,
    call,
    call_validated,
    make_environ,
)
from tests.wsgi.recording_app import (
    PRINCIPAL,
    App,
    FakeStore,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.wsgi.helpers import Environ, WsgiApp


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def middleware(app: App, backend: Backend) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(validator(app), backend, settings=Settings())


# --- the app's own response, byte for byte


@pytest.mark.proves("H16", "W13")
@pytest.mark.parametrize("status", ["200 OK", "404 Nothing Here", "500 My Own Words", "401 Unauthorized"])
def test_the_response_of_the_app_passes_unchanged(backend: Backend, issued: Issued, status: str) -> None:
    """Status line, order of headers, duplicates and latin-1 values are unchanged."""
    app = App([b"one", b"", b"\xfftwo"], status)
    app.headers = [
        ("Content-Type", "text/plain"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("X-Latin", "caf\u00e9 \u00ff"),
        ("x-lower", ""),
        ("WWW-Authenticate", 'Bearer realm="mine"'),
    ]

    response = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert response.raised is None
    assert response.starts == [(status, app.headers, None)]
    assert response.chunks == [b"one", b"", b"\xfftwo"]


@pytest.mark.proves("W11")
@pytest.mark.parametrize("result", [[b"a", b"b"], (b"a",), [], ()], ids=["list", "tuple", "no-list", "none"])
def test_a_finished_result_is_the_same_object(backend: Backend, issued: Issued, result: Any) -> None:
    middleware = BasicAuthMiddleware(App(result), backend, settings=Settings())

    response = call(middleware, issued.authorization)

    assert response.result is result
    assert response.status_line == "200 OK"


@pytest.mark.proves("W11")
def test_a_file_wrapper_is_the_same_object(backend: Backend, issued: Issued) -> None:
    """The server recognizes its own wrapper and may send the file with sendfile."""
    wrapper = FileWrapper(BytesIO(b"x" * 20_000))
    middleware = BasicAuthMiddleware(App(wrapper), backend, settings=Settings())

    response = call(middleware, issued.authorization, **{"wsgi.file_wrapper": FileWrapper})

    assert response.result is wrapper
    assert response.body == b"x" * 20_000
    assert wrapper.closed == 1


def test_the_result_of_a_file_wrapper_function_is_the_same_object(backend: Backend, issued: Issued) -> None:
    """uWSGI's wrapper returns the file that it was given, and the server compares the result with it."""
    file = BytesIO(b"x\n" * 1_000)
    wrapped: list[tuple[Any, ...]] = []

    def wrap(*arguments: Any) -> Any:
        wrapped.append(arguments)
        return arguments[0]

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](file, 8192)

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    response = call(middleware, issued.authorization, **{"wsgi.file_wrapper": wrap})

    assert response.result is file
    assert wrapped == [(file, 8192)]


def test_what_a_file_wrapper_function_did_not_return_is_guarded(backend: Backend, issued: Issued) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ["wsgi.file_wrapper"](BytesIO(b"x"))
        return Body([ValueError("first")])

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())

    assert call(middleware, issued.authorization, **{"wsgi.file_wrapper": lambda file: file}).status == 500


@pytest.mark.proves("W5")
def test_a_generator_stays_lazy(backend: Backend, issued: Issued) -> None:
    """One chunk of the app is one chunk of the middleware, taken when the server requests it."""
    body = Body([b"1", b"", b"2", b"3"])
    taken: list[int] = []

    def start_response(*_arguments: Any) -> Any:
        taken.append(body.taken)

    middleware = BasicAuthMiddleware(App(body), backend, settings=Settings())
    chunks = iter(middleware(make_environ(issued.authorization), start_response))

    assert body.taken == 0
    seen = [(next(chunks), body.taken) for _ in range(4)]
    assert seen == [(b"1", 1), (b"", 2), (b"2", 3), (b"3", 4)]
    assert next(chunks, None) is None
    assert taken == [1]


def test_start_response_may_be_called_late(backend: Backend, issued: Issued) -> None:
    """A generator function calls it at its first step."""

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("201 Created", [("Content-Type", "text/plain")])
        yield b"late"

    response = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert (response.status_line, response.body) == ("201 Created", b"late")


def test_an_empty_body_has_a_start(backend: Backend, issued: Issued) -> None:
    response = call(
        BasicAuthMiddleware(App(Body([]), "204 No Content"), backend, settings=Settings()),
        issued.authorization,
    )

    assert response.raised is None
    assert response.status_line == "204 No Content"
    assert response.chunks == []


@pytest.mark.proves("W8", "W13")
def test_write_works(backend: Backend, issued: Issued) -> None:
    """The old way to send a body, with and without an iterable after it."""

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"")
        write(b"written ")
        return [b"returned"]

    response = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert response.raised is None
    assert response.written == [b"", b"written "]
    assert response.body == b"written returned"
    assert len(response.starts) == 1


def test_an_app_may_replace_its_own_response(backend: Backend, issued: Issued) -> None:
    """A second start_response with exc_info replaces the first while nothing has been sent."""

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise ValueError
        except ValueError:
            start_response("503 Mine", [("Content-Type", "text/html")], sys.exc_info())
        return [b"mine"]

    response = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert response.raised is None
    assert (response.status_line, response.body) == ("503 Mine", b"mine")


def test_an_app_may_replace_its_own_response_after_an_empty_chunk(backend: Backend, issued: Issued) -> None:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b""
        try:
            raise ValueError
        except ValueError:
            start_response("503 Mine", [("Content-Type", "text/html")], sys.exc_info())
        yield b"mine"

    response = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()), issued.authorization
    )

    assert response.raised is None
    assert (response.status_line, response.body) == ("503 Mine", b"mine")


@pytest.mark.proves("W6")
@pytest.mark.parametrize("chunks", [0, 1, 2, None], ids=["before", "first", "second", "all"])
def test_close_is_called_once(backend: Backend, issued: Issued, chunks: int | None) -> None:
    """Even if the client disconnects before or during the body."""
    from tests.wsgi.helpers import Server

    body = Body([b"1", b"2", b"3"])
    middleware = BasicAuthMiddleware(App(body), backend, settings=Settings())

    response = Server().run(middleware, make_environ(issued.authorization), chunks=chunks)

    assert response.raised is None
    assert len(response.chunks) == (3 if chunks is None else chunks)
    assert body.closed == 1


@pytest.mark.proves("W6")
def test_close_twice_closes_once(backend: Backend, issued: Issued) -> None:
    body = Body([b"1"])
    middleware = BasicAuthMiddleware(App(body), backend, settings=Settings())
    result: Any = middleware(make_environ(issued.authorization), lambda *_: None)

    result.close()
    result.close()

    assert body.closed == 1


@pytest.mark.proves("W6")
def test_an_error_in_close_is_logged(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is complete by then."""
    body = Body([b"1", b"2"], in_close=ValueError("in close"))

    response = call(BasicAuthMiddleware(App(body), backend, settings=Settings()), issued.authorization)

    assert response.raised is None
    assert response.chunks == [b"1", b"2"]
    assert body.closed == 1
    (record,) = caplog.records
    assert record.name == "basicauth_mw"
    assert record.exc_info is not None
    assert "in close" in caplog.text


def test_head_of_an_accepted_request_is_the_apps_own(backend: Backend, issued: Issued, app: App) -> None:
    app.result = []
    app.headers = [("Content-Type", "text/plain"), ("Content-Length", "5")]

    response = call_validated(
        BasicAuthMiddleware(validator(app), backend, settings=Settings()),
        issued.authorization,
        REQUEST_METHOD="HEAD",
    )

    assert response.headers == app.headers
    assert response.body == b""


# --- identity


@pytest.mark.proves("W13", "W16")
def test_the_identity(middleware: BasicAuthMiddleware, app: App, issued: Issued) -> None:
    call_validated(middleware, issued.authorization)

    (environ,) = app.seen
    assert environ["REMOTE_USER"] == "ci"
    assert environ["AUTH_TYPE"] == "Basic"
    principal = environ[PRINCIPAL]
    assert isinstance(principal, Principal)
    assert (principal.client_id, principal.name, principal.scopes) == ("ci", "CI", frozenset({"read"}))
    assert principal.metadata == {"team": "a"}


@pytest.mark.proves("B5", "W1")
def test_remote_user_is_utf8_as_latin1(backend: Backend, middleware: BasicAuthMiddleware, app: App) -> None:
    """PEP 3333: bytes as code points; the ID is UTF-8."""
    issued = backend.create(client_id="z\u00fcrich-\u6771\u4eac")

    response = call_validated(middleware, issued.authorization)

    assert response.status == 200
    remote_user = app.seen[0]["REMOTE_USER"]
    assert remote_user.encode("latin-1").decode() == "z\u00fcrich-\u6771\u4eac"


@pytest.mark.proves("W16", "X39")
@pytest.mark.parametrize("good", [True, False], ids=["authenticated", "open"])
def test_a_forged_identity_is_removed(backend: Backend, issued: Issued, app: App, good: bool) -> None:
    middleware = BasicAuthMiddleware(validator(app), backend, settings=Settings(), exclude=("/open",))
    forged = {"REMOTE_USER": "root", "AUTH_TYPE": "Forged", PRINCIPAL: "root"}
    environ = make_environ(issued.authorization if good else None, "/" if good else "/open", **forged)

    call_result = middleware(environ, lambda *_: lambda _data: None)
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


def test_a_refusal_removes_a_forged_identity(middleware: BasicAuthMiddleware) -> None:
    """The server's log of a refused request contains no user either."""
    environ = make_environ("Basic !", REMOTE_USER="root", AUTH_TYPE="Forged", **{PRINCIPAL: "root"})

    middleware(environ, lambda *_: lambda _data: None)

    assert not {"REMOTE_USER", "AUTH_TYPE", PRINCIPAL} & environ.keys()


@pytest.mark.parametrize("path", ["/", "/open", "/refused"])
def test_the_user_can_be_left_to_others(backend: Backend, issued: Issued, app: App, path: str) -> None:
    """``set_user=False`` neither writes nor removes ``REMOTE_USER`` and ``AUTH_TYPE``."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(set_user=False, exclude=("/open",)))
    theirs = {"REMOTE_USER": "root", "AUTH_TYPE": "Negotiate"}
    for planted in ({}, theirs):
        environ = make_environ(None if path == "/refused" else issued.authorization, path, **planted)
        environ[PRINCIPAL] = "planted"
        middleware(environ, lambda *_: lambda _data: None)

        assert {name: environ[name] for name in theirs if name in environ} == planted
        found = environ.get(PRINCIPAL)
        assert found.client_id == "ci" if path == "/" else found is None


def test_the_environ_is_updated_in_place(backend: Backend, issued: Issued) -> None:
    """The app gets the server's own dict, so outer layers see the identity and what the app adds."""
    received = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        received.append(environ)
        environ["app.route"] = "/items"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    environ = make_environ(issued.authorization)
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), strip_authorization=True)

    middleware(environ, lambda *_: lambda _data: None)

    assert received[0] is environ
    assert (environ["REMOTE_USER"], environ["AUTH_TYPE"], environ["app.route"]) == ("ci", "Basic", "/items")
    assert environ[PRINCIPAL].client_id == "ci"
    assert "HTTP_AUTHORIZATION" not in environ


@pytest.mark.proves("W16")
def test_an_open_path_verifies_nothing(backend: Backend, issued: Issued, app: App) -> None:
    """Even valid credentials give no identity there."""
    middleware = BasicAuthMiddleware(validator(app), backend, settings=Settings(), exclude=("/open",))

    assert call_validated(middleware, issued.authorization, path="/open").status == 200
    assert call_validated(middleware, "Basic !", path="/open").status == 200
    assert [PRINCIPAL in seen and seen[PRINCIPAL] is None for seen in app.seen] == [True, True]
    assert not any("REMOTE_USER" in seen or "AUTH_TYPE" in seen for seen in app.seen)


def test_the_authorization_header_is_unchanged_by_default(
    middleware: BasicAuthMiddleware, app: App, issued: Issued
) -> None:
    call_validated(middleware, issued.authorization, HTTP_REMOTE_USER="x", HTTP_X_CLIENT_ID="y")

    (seen,) = app.seen
    assert (seen["HTTP_REMOTE_USER"], seen["HTTP_X_CLIENT_ID"]) == ("x", "y")
    assert seen["HTTP_AUTHORIZATION"] == issued.authorization


@pytest.mark.proves("B9")
def test_the_header_can_be_hidden_from_the_app(backend: Backend, issued: Issued, app: App) -> None:
    """On open paths as well."""
    middleware = BasicAuthMiddleware(
        validator(app), backend, settings=Settings(), strip_authorization=True, exclude=("/open",)
    )

    assert call_validated(middleware, issued.authorization).status == 200
    assert call_validated(middleware, issued.authorization, path="/open").status == 200
    assert ["HTTP_AUTHORIZATION" in seen for seen in app.seen] == [False, False]


# --- threads, forks, life cycle


def test_many_threads_see_their_own_identity(backend: Backend) -> None:
    keys = [backend.create(client_id=f"client-{number}") for number in range(8)]

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield environ["REMOTE_USER"].encode()

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())

    def check_identity(number: int) -> bool:
        issued = keys[number % 8]
        return call(middleware, issued.authorization).body == issued.client_id.encode()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check_identity, range(400)))


FORK = """
import os, sys, threading
from basicauth_mw import Settings, encode_basic
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.hashing import hash_password
from basicauth_mw.keys.model import Key, Secret, utcnow
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.wsgi.helpers import call

stored = Key(client_id="ci", created_at=utcnow(), secrets=(Secret(hash_password("password")),))

class Store:
    def get(self, client_id):
        return stored if client_id == "ci" else None

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["REMOTE_USER"].encode()]

settings = Settings(cache_ttl_s=0, throttle="")
middleware = BasicAuthMiddleware(app, Store(), settings=settings, slow_hash_workers=2)
right, wrong = encode_basic("ci", "password"), encode_basic("ci", "passwore")

def check():
    fields = (right, wrong, None, right)
    statuses = [call(middleware, field, HTTP_X_REQUEST_ID=None).status for field in fields]
    assert statuses == [200, 401, 401, 200], statuses

def ids():
    return call(middleware, HTTP_X_REQUEST_ID=None).problem["request_id"]

check()
assert threading.active_count() > 1, "threads were started, and a fork does not copy them"
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
    """A fork does not copy threads, and they may hold locks."""
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
    before = set(threading.enumerate())  # threads of other tests may be about to end

    BasicAuthMiddleware(app, FakeStore(lambda _: None), settings=Settings())

    assert set(threading.enumerate()) <= before


def test_a_given_backend_is_not_closed(app: App) -> None:
    closed: list[bool] = []

    class Store(MemoryStore):
        def close(self) -> None:
            closed.append(True)

    middleware = BasicAuthMiddleware(app, Store(), settings=Settings())
    call(middleware, encode_basic("ci", "x"))
    del middleware

    assert closed == []


def test_any_callable_and_any_url(monkeypatch: pytest.MonkeyPatch, app: WsgiApp) -> None:
    """The simplest form: all settings come from the environment."""
    monkeypatch.setenv("BASICAUTH_KEYS", "demo:p@55w0rd")

    middleware = BasicAuthMiddleware(app)

    assert call(middleware, "Basic ZGVtbzpwQDU1dzByZA==").status == 200
    assert call(middleware, "Basic ZGVtbzpwQDU1dzByZB==").status == 401
    assert call(middleware, "Basic ZGVtbzpwQDU1dzByZQ==").status == 401
