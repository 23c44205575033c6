"""Exceptions of a WSGI app: which response they become before its body has started."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from basicauth_mw import Backend, InsufficientScope, Issued, require_scopes
from basicauth_mw.errors import BackendUnavailable, InvalidCredentials, KeyNotFound
from tests.wsgi.helpers import Body, call, call_validated
from tests.wsgi.raising import (
    EARLY,
    PLAIN,
    Boom,
    NotMine,
    at_once,
    before_its_start,
    protect,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.wsgi.helpers import Environ, WsgiApp


early = pytest.mark.parametrize("raising", EARLY, ids=lambda make: make.__name__)


@pytest.mark.proves("P4", "P5", "W3", "W4", "W7", "X56")
@early
@pytest.mark.parametrize(
    ("exc", "line", "code"),
    [
        pytest.param(Boom("inside"), "500 Internal Server Error", "internal_error", id="any"),
        pytest.param(TimeoutError("inside"), "504 Gateway Timeout", "timeout", id="timeout"),
        pytest.param(InsufficientScope("inside"), "403 Forbidden", "insufficient_scope", id="scope"),
        pytest.param(
            BackendUnavailable("inside"), "503 Service Unavailable", "backend_unavailable", id="503"
        ),
        pytest.param(KeyNotFound("inside"), "500 Internal Server Error", "internal_error", id="no-status"),
        pytest.param(ExceptionGroup("g", [TimeoutError()]), "504 Gateway Timeout", "timeout", id="group"),
        pytest.param(
            ExceptionGroup("g", [TimeoutError(), Boom()]),
            "500 Internal Server Error",
            "internal_error",
            id="two",
        ),
    ],
)
def test_an_early_exception_becomes_a_response(
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
    raising: Callable[[BaseException], WsgiApp],
    exc: Exception,
    line: str,
    code: str,
) -> None:
    """Whatever was started, while no byte is sent. The exception goes to the server, and to the log."""
    response = call_validated(protect(raising(exc), backend), issued.authorization)

    assert response.code == code
    assert response.status_line == line
    assert response.problem["request_id"] == "r-1"
    assert b"inside" not in response.body
    exc_info = response.starts[-1][2]
    if len(response.starts) > 1 or not isinstance(exc, InsufficientScope):
        assert exc_info[:2] == (type(exc), exc)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    if isinstance(exc, InsufficientScope):
        assert errors == []
    else:
        (record,) = errors
        assert record.name == "basicauth_mw"
        assert "r-1" in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[1] is exc
        assert record.exc_info[2] is not None, "with its traceback"


@pytest.mark.proves("H12")
@early
def test_a_head_request_gets_only_the_headers(
    backend: Backend, issued: Issued, raising: Callable[[BaseException], WsgiApp]
) -> None:
    middleware = protect(raising(Boom()), backend)

    head = call_validated(middleware, issued.authorization, REQUEST_METHOD="HEAD")
    get = call_validated(middleware, issued.authorization)

    assert head.raised is None
    assert (head.status_line, head.headers, head.body) == (get.status_line, get.headers, b"")


@early
@pytest.mark.parametrize("exc", [NotMine(), KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_base_exception_is_never_mapped(
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
    raising: Callable[[BaseException], WsgiApp],
    exc: BaseException,
) -> None:
    response = call(protect(raising(exc), backend), issued.authorization)

    assert response.raised is exc
    assert response.chunks in ([], [b""])
    assert all(start[2] is None for start in response.starts)
    assert caplog.records == []


@early
def test_map_errors_off_leaves_everything_to_the_server(
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
    raising: Callable[[BaseException], WsgiApp],
) -> None:
    exc = Boom()

    response = call(protect(raising(exc), backend, map_errors=False), issued.authorization)

    assert response.raised is exc
    assert response.chunks in ([], [b""])
    assert caplog.records == []


@early
def test_an_open_path_is_guarded_as_well(
    backend: Backend, raising: Callable[[BaseException], WsgiApp]
) -> None:
    response = call(protect(raising(Boom()), backend, exclude=("/open",)), path="/open")

    assert response.code == "internal_error"


@pytest.mark.proves("H11")
def test_a_scope_that_is_missing(backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture) -> None:
    """403 without a challenge, and one audit record that names the client."""
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        require_scopes(environ["basicauth_mw.principal"], "read")
        require_scopes(environ["basicauth_mw.principal"], "read", "write")
        raise AssertionError("not reached")

    response = call_validated(protect(validator(app), backend), issued.authorization)

    assert response.code == "insufficient_scope"
    assert response.problem["scopes"] == ["write"]
    (record,) = caplog.records
    assert record.name == "basicauth_mw.audit"
    assert record.basicauth == {  # type: ignore[attr-defined]
        "event": "auth.refused",
        "client_id": "ci",
        "reason": "insufficient_scope",
        "detail": None,
        "scheme": None,
        "address": "192.0.2.1",
        "request_id": "r-1",
        "actor": None,
    }


def test_an_app_cannot_change_the_client_id_in_the_log(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """The data for our own responses is captured before the app is called."""
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    def app(environ: Environ, _start_response: Any) -> Iterable[bytes]:
        environ.clear()
        raise InsufficientScope

    response = call(protect(app, backend), issued.authorization)

    assert response.code == "insufficient_scope"
    assert response.problem["request_id"] == "r-1"
    (record,) = caplog.records
    fields = record.basicauth  # type: ignore[attr-defined]
    assert (fields["client_id"], fields["address"], fields["request_id"]) == ("ci", "192.0.2.1", "r-1")


def test_an_app_cannot_change_how_we_respond(backend: Backend, issued: Issued) -> None:
    """Neither the method nor the challenge of our response."""

    def app(environ: Environ, _start_response: Any) -> Iterable[bytes]:
        environ.update(REQUEST_METHOD="GET", HTTP_SEC_FETCH_MODE="navigate")
        raise InvalidCredentials

    response = call(
        protect(app, backend, challenge="navigations"),
        issued.authorization,
        REQUEST_METHOD="HEAD",
        HTTP_SEC_FETCH_MODE="cors",
    )

    assert response.body == b""
    assert response.named["WWW-Authenticate"].startswith("xBasic ")


@pytest.mark.proves("W14")
@pytest.mark.parametrize("lazy", [True, False], ids=["generator", "list"])
def test_a_slow_app_has_no_time_limit(backend: Backend, issued: Issued, lazy: bool) -> None:
    """A thread cannot be stopped, so ``timeout_s`` applies to ASGI only."""

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        time.sleep(0.05)
        return [b"late"]

    def generator(environ: Environ, start_response: Any) -> Iterable[bytes]:
        yield from app(environ, start_response)

    response = call(protect(generator if lazy else app, backend, timeout_s=0.01), issued.authorization)

    assert (response.status, response.body) == (200, b"late")


# --- an app that breaks PEP 3333


@pytest.mark.proves("W12")
@pytest.mark.parametrize(
    "result", [[b"x"], (), Body([b"x"]), Body([])], ids=["list", "none", "iter", "empty"]
)
def test_no_start_response_at_all_is_a_500(backend: Backend, issued: Issued, result: Any) -> None:
    response = call_validated(protect(lambda _environ, _start: result, backend), issued.authorization)

    assert response.code == "internal_error"
    assert response.status == 500


@pytest.mark.proves("W12")
@pytest.mark.parametrize("result", [None, 7], ids=["none", "number"])
def test_a_result_that_is_no_iterable_is_a_500(backend: Backend, issued: Issued, result: Any) -> None:
    def app(_environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))
        return result

    assert call_validated(protect(app, backend), issued.authorization).code == "internal_error"


# --- an app that takes over the socket


HANDSHAKE = {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade"}
SOCKET = object()
TAKEN = object()  # like the end of a gunicorn websocket: it is not iterable


@pytest.mark.parametrize(
    ("result", "more"),
    [
        ([], {}),
        ([], HANDSHAKE | {"eventlet.input": SOCKET}),
        ("", HANDSHAKE | {"uwsgi.version": b"2.0"}),
        (None, HANDSHAKE | {"wsgi.websocket": SOCKET}),
        (TAKEN, HANDSHAKE | {"gunicorn.socket": SOCKET}),
    ],
    ids=["list", "eventlet", "uwsgi", "gevent-websocket", "gunicorn"],
)
def test_the_ending_of_a_websocket_reaches_the_server(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture, result: Any, more: Environ
) -> None:
    response = call(protect(lambda _environ, _start: result, backend), issued.authorization, **more)

    assert response.result is result
    assert response.starts == []
    assert caplog.records == []


@pytest.mark.parametrize("lazy", [True, False], ids=["generator", "call"])
@pytest.mark.parametrize(
    "more",
    [HANDSHAKE | {"gunicorn.socket": SOCKET}, HANDSHAKE | {"SERVER_SOFTWARE": "gevent/26.9"}],
    ids=["gunicorn", "gevent"],
)
def test_what_a_websocket_handler_raises_reaches_the_server(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture, more: Environ, lazy: bool
) -> None:
    """The socket may be a websocket by then: a response of the middleware would end up among its frames."""
    exc = ConnectionError("taken over")
    raising = before_its_start if lazy else at_once

    response = call(protect(raising(exc), backend), issued.authorization, **more)

    assert response.raised is exc
    assert response.starts == []
    assert caplog.records == []


def test_a_generator_that_served_a_websocket_ends_without_a_start(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    more = HANDSHAKE | {"wsgi.websocket": SOCKET}
    response = call(protect(lambda _environ, _start: iter([]), backend), issued.authorization, **more)

    assert (response.raised, response.starts, response.chunks) == (None, [], [])
    assert caplog.records == []


@pytest.mark.parametrize("more", [{}, {"HTTP_UPGRADE": "websocket"}], ids=["plain", "handshake"])
def test_stop_iteration_reaches_gunicorn(backend: Backend, issued: Issued, more: Environ) -> None:
    exc = StopIteration()
    more = more | {"gunicorn.socket": SOCKET}

    assert call(protect(at_once(exc), backend), issued.authorization, **more).raised is exc
    assert call(protect(at_once(exc), backend), issued.authorization).code == "internal_error"


@pytest.mark.parametrize(
    ("exc", "more", "code"),
    [
        (Boom(), {"HTTP_UPGRADE": "websocket"}, "internal_error"),
        (Boom(), {"HTTP_UPGRADE": "h2c", "gunicorn.socket": SOCKET}, "internal_error"),
        (InsufficientScope(), HANDSHAKE | {"gunicorn.socket": SOCKET}, "insufficient_scope"),
    ],
    ids=["no-socket", "no-websocket", "refused"],
)
def test_a_handshake_without_a_takeover_gets_its_response(
    backend: Backend, issued: Issued, exc: Exception, more: Environ, code: str
) -> None:
    assert call(protect(at_once(exc), backend), issued.authorization, **more).code == code


def test_starting_twice_without_exc_info_is_a_500(backend: Backend, issued: Issued) -> None:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        start_response("201 Created", list(PLAIN))
        return [b"x"]

    assert call_validated(protect(app, backend), issued.authorization).code == "internal_error"


def test_starting_again_after_data_fails(backend: Backend, issued: Issued) -> None:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"x"
        start_response("201 Created", list(PLAIN))
        yield b"y"

    response = call(protect(app, backend), issued.authorization)

    assert isinstance(response.raised, AssertionError)
    assert response.chunks == [b"x"]


def test_headers_that_the_server_refuses_are_a_500(backend: Backend, issued: Issued) -> None:
    """It raises when the start is released, after the app has returned."""
    for result in ([b"x"], iter([b"x"])):

        def app(_environ: Environ, start_response: Any, result: Any = result) -> Iterable[bytes]:
            start_response("200 OK", [("X-Number", 7)])
            return result

        assert call_validated(protect(app, backend), issued.authorization).code == "internal_error"
