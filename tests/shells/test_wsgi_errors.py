"""What becomes of exceptions in the WSGI shell: an answer while there is time, and never a clean lie."""

from __future__ import annotations

import gc
import logging
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from basicauth_mw import Backend, InsufficientScope, Issued, Settings, require_scopes
from basicauth_mw.errors import BackendUnavailable, InvalidCredentials, KeyNotFound
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.shells.wsgi_helpers import Body, Server, call, call_validated, make_environ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.shells.wsgi_helpers import Environ, Response, WsgiApp

PLAIN = [("Content-Type", "text/plain")]


class Boom(Exception):
    """What the apps here raise."""


class NotMine(BaseException):
    """What no middleware may map."""


def protect(app: WsgiApp, backend: Backend, **overrides: Any) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(app, backend, settings=Settings(), **overrides)


def at_once(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, _start_response: Any) -> Iterable[bytes]:
        raise exc

    return app


def after_start(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        raise exc

    return app


def before_its_start(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        if exc is not None:
            raise exc
        start_response("200 OK", list(PLAIN))
        yield b""

    return app


def before_first_chunk(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        if exc is not None:
            raise exc
        yield b""

    return app


def before_first_chunk_of_an_iterable(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return Body([exc])

    return app


def in_iter(exc: BaseException) -> WsgiApp:
    class Unready:
        def __iter__(self) -> Any:
            raise exc

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return Unready()

    return app


def after_an_empty_chunk(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b""
        raise exc

    return app


def after_an_empty_write(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))(b"")
        raise exc

    return app


EARLY = [
    at_once,
    after_start,
    before_its_start,
    before_first_chunk,
    before_first_chunk_of_an_iterable,
    in_iter,
    after_an_empty_chunk,
    after_an_empty_write,
]

early = pytest.mark.parametrize("raising", EARLY, ids=lambda make: make.__name__)


@pytest.mark.proves("P4", "P5", "W3", "W4", "W7", "X56")
@early
@pytest.mark.parametrize(
    ("exc", "line", "code"),
    [
        pytest.param(Boom("inside"), "500 Internal Server Error", "internal_error", id="any"),
        pytest.param(TimeoutError("inside"), "504 Gateway Timeout", "timeout", id="time-out"),
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
def test_an_early_exception_becomes_an_answer(
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
    raising: Callable[[BaseException], WsgiApp],
    exc: Exception,
    line: str,
    code: str,
) -> None:
    """Whatever was started, while no octet is out. The exception goes to the server, and to the log."""
    answer = call_validated(protect(raising(exc), backend), issued.authorization)

    assert answer.code == code
    assert answer.status_line == line
    assert answer.problem["request_id"] == "r-1"
    assert b"inside" not in answer.body
    exc_info = answer.starts[-1][2]
    if len(answer.starts) > 1 or not isinstance(exc, InsufficientScope):
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
def test_a_head_request_gets_the_fields_alone(
    backend: Backend, issued: Issued, raising: Callable[[BaseException], WsgiApp]
) -> None:
    authenticator = protect(raising(Boom()), backend)

    head = call_validated(authenticator, issued.authorization, REQUEST_METHOD="HEAD")
    get = call_validated(authenticator, issued.authorization)

    assert head.raised is None
    assert (head.status_line, head.headers, head.body) == (get.status_line, get.headers, b"")


@early
@pytest.mark.parametrize("exc", [NotMine(), KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_is_no_exception_of_the_app_is_never_mapped(
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
    raising: Callable[[BaseException], WsgiApp],
    exc: BaseException,
) -> None:
    answer = call(protect(raising(exc), backend), issued.authorization)

    assert answer.raised is exc
    assert answer.chunks in ([], [b""])
    assert all(start[2] is None for start in answer.starts)
    assert caplog.records == []


@early
def test_map_errors_off_leaves_everything_to_the_server(
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
    raising: Callable[[BaseException], WsgiApp],
) -> None:
    exc = Boom()

    answer = call(protect(raising(exc), backend, map_errors=False), issued.authorization)

    assert answer.raised is exc
    assert answer.chunks in ([], [b""])
    assert caplog.records == []


@early
def test_an_open_path_is_guarded_as_well(
    backend: Backend, raising: Callable[[BaseException], WsgiApp]
) -> None:
    answer = call(protect(raising(Boom()), backend, exclude=("/open",)), path="/open")

    assert answer.code == "internal_error"


@pytest.mark.proves("H11")
def test_a_scope_that_is_missing(backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture) -> None:
    """403 without a challenge, and one audit record that names the client."""
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        require_scopes(environ["basicauth_mw.principal"], "read")
        require_scopes(environ["basicauth_mw.principal"], "read", "write")
        raise AssertionError("not reached")

    answer = call_validated(protect(validator(app), backend), issued.authorization)

    assert answer.code == "insufficient_scope"
    assert answer.problem["scopes"] == ["write"]
    (record,) = caplog.records
    assert record.name == "basicauth_mw.audit"
    assert record.basicauth == {  # type: ignore[attr-defined]
        "event": "auth.refused",
        "client_id": "ci",
        "reason": "insufficient_scope",
        "detail": None,
        "address": "192.0.2.1",
        "request_id": "r-1",
        "actor": None,
    }


def test_an_app_cannot_change_whom_the_log_names(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """What our own responses need is captured before the app is called."""
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    def app(environ: Environ, _start_response: Any) -> Iterable[bytes]:
        environ.clear()
        raise InsufficientScope

    answer = call(protect(app, backend), issued.authorization)

    assert answer.code == "insufficient_scope"
    assert answer.problem["request_id"] == "r-1"
    (record,) = caplog.records
    fields = record.basicauth  # type: ignore[attr-defined]
    assert (fields["client_id"], fields["address"], fields["request_id"]) == ("ci", "192.0.2.1", "r-1")


def test_an_app_cannot_change_how_we_respond(backend: Backend, issued: Issued) -> None:
    """Neither to which method, nor with which challenge."""

    def app(environ: Environ, _start_response: Any) -> Iterable[bytes]:
        environ.update(REQUEST_METHOD="GET", HTTP_SEC_FETCH_MODE="navigate")
        raise InvalidCredentials

    answer = call(
        protect(app, backend, challenge="navigations"),
        issued.authorization,
        REQUEST_METHOD="HEAD",
        HTTP_SEC_FETCH_MODE="cors",
    )

    assert answer.body == b""
    assert answer.named["WWW-Authenticate"].startswith("xBasic ")


@pytest.mark.proves("W14")
@pytest.mark.parametrize("lazy", [True, False], ids=["generator", "list"])
def test_an_app_may_take_its_time(backend: Backend, issued: Issued, lazy: bool) -> None:
    """A thread cannot be stopped, so ``timeout_s`` is for ASGI alone."""

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        time.sleep(0.05)
        return [b"late"]

    def generator(environ: Environ, start_response: Any) -> Iterable[bytes]:
        yield from app(environ, start_response)

    answer = call(protect(generator if lazy else app, backend, timeout_s=0.01), issued.authorization)

    assert (answer.status, answer.body) == (200, b"late")


# --- an app that breaks PEP 3333


@pytest.mark.proves("W12")
@pytest.mark.parametrize(
    "result", [[b"x"], (), Body([b"x"]), Body([])], ids=["list", "none", "iter", "empty"]
)
def test_no_start_response_at_all_is_a_500(backend: Backend, issued: Issued, result: Any) -> None:
    answer = call_validated(protect(lambda _environ, _start: result, backend), issued.authorization)

    assert answer.code == "internal_error"
    assert answer.status == 500


@pytest.mark.proves("W12")
@pytest.mark.parametrize("result", [None, 7], ids=["none", "number"])
def test_a_result_that_is_no_iterable_is_a_500(backend: Backend, issued: Issued, result: Any) -> None:
    def app(_environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))
        return result

    assert call_validated(protect(app, backend), issued.authorization).code == "internal_error"


# --- an app that takes the socket over

HANDSHAKE = {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade"}
SOCKET = object()
TAKEN = object()  # what an ending of gunicorn's looks like: it is no iterable


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
    answer = call(protect(lambda _environ, _start: result, backend), issued.authorization, **more)

    assert answer.result is result
    assert answer.starts == []
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
    """The socket may be a websocket by then: a response of ours would end up among its frames."""
    exc = ConnectionError("taken over")
    raising = before_its_start if lazy else at_once

    answer = call(protect(raising(exc), backend), issued.authorization, **more)

    assert answer.raised is exc
    assert answer.starts == []
    assert caplog.records == []


def test_a_generator_that_served_a_websocket_ends_without_a_start(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    more = HANDSHAKE | {"wsgi.websocket": SOCKET}
    answer = call(protect(lambda _environ, _start: iter([]), backend), issued.authorization, **more)

    assert (answer.raised, answer.starts, answer.chunks) == (None, [], [])
    assert caplog.records == []


@pytest.mark.parametrize("more", [{}, {"HTTP_UPGRADE": "websocket"}], ids=["plain", "handshake"])
def test_gunicorn_s_stop_iteration_reaches_it(backend: Backend, issued: Issued, more: Environ) -> None:
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
def test_a_handshake_that_takes_nothing_over_gets_its_response(
    backend: Backend, issued: Issued, exc: Exception, more: Environ, code: str
) -> None:
    assert call(protect(at_once(exc), backend), issued.authorization, **more).code == code


def test_starting_twice_without_exc_info_is_a_500(backend: Backend, issued: Issued) -> None:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        start_response("201 Created", list(PLAIN))
        return [b"x"]

    assert call_validated(protect(app, backend), issued.authorization).code == "internal_error"


def test_starting_again_behind_data_fails(backend: Backend, issued: Issued) -> None:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"x"
        start_response("201 Created", list(PLAIN))
        yield b"y"

    answer = call(protect(app, backend), issued.authorization)

    assert isinstance(answer.raised, AssertionError)
    assert answer.chunks == [b"x"]


def test_header_fields_that_the_server_refuses_are_a_500(backend: Backend, issued: Issued) -> None:
    """It complains when the start is released, behind the app's back."""
    for result in ([b"x"], iter([b"x"])):

        def app(_environ: Environ, start_response: Any, result: Any = result) -> Iterable[bytes]:
            start_response("200 OK", [("X-Number", 7)])
            return result

        assert call_validated(protect(app, backend), issued.authorization).code == "internal_error"


# --- too late


def data_then(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b""
        yield b"data"
        raise exc

    return app


def data_then_empty_then(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"data"
        yield b""
        raise exc

    return app


def written_then(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))(b"data")
        raise exc

    return app


def written_then_in_the_body(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))(b"data")
        return Body([exc])

    return app


def written_after_a_correction_then(exc: BaseException) -> WsgiApp:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))(b"")
        try:
            raise ValueError
        except ValueError:
            write = start_response("200 OK", list(PLAIN), sys.exc_info())
        write(b"data")
        raise exc

    return app


@pytest.mark.proves("W9")
@pytest.mark.parametrize(
    "raising",
    [
        data_then,
        data_then_empty_then,
        written_then,
        written_then_in_the_body,
        written_after_a_correction_then,
    ],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("exc", [Boom(), InsufficientScope(), TimeoutError(), NotMine()], ids=repr)
def test_a_late_exception_is_raised_on(
    backend: Backend, issued: Issued, raising: Callable[[BaseException], WsgiApp], exc: BaseException
) -> None:
    """Neither a second start nor a clean end: the server breaks the connection."""
    answer = call(protect(raising(exc), backend), issued.authorization)

    assert answer.raised is exc
    assert answer.status_line == "200 OK"
    assert answer.body == b"data"


def test_an_exception_behind_the_end_is_not_swallowed(backend: Backend, issued: Issued) -> None:
    """An iterable that goes on after its replacement was sent is not asked again."""
    body = Body([Boom(), b"more"])

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return body

    answer = call(protect(app, backend), issued.authorization)

    assert answer.code == "internal_error"
    assert len(answer.chunks) == 1
    assert body.taken == 1


@pytest.mark.proves("W4")
def test_too_late_for_the_server_is_too_late(backend: Backend, issued: Issued) -> None:
    """A server that sends the start for an empty chunk raises what is passed as exc_info; that flies."""
    exc = Boom()
    server = Server()
    authenticator = protect(after_an_empty_chunk(exc), backend)
    chunks: Any = authenticator(make_environ(issued.authorization), server.start_response)
    assert next(iter(chunks)) == b""
    server.answer.headers_are_out = True

    with pytest.raises(Boom) as raised:
        next(chunks)

    assert raised.value is exc
    chunks.close()
    assert len(server.answer.starts) == 1


# --- close()


@pytest.mark.proves("W6")
@pytest.mark.parametrize(
    ("chunks", "raised"),
    [([Boom()], None), ([b"", Boom()], None), ([b"data", Boom()], Boom), ([NotMine()], NotMine)],
    ids=["first", "empty", "late", "base"],
)
@pytest.mark.parametrize("in_close", [None, ValueError("in close")], ids=["closes", "fails"])
def test_close_is_called_once_behind_an_error(
    backend: Backend,
    issued: Issued,
    chunks: list[Any],
    raised: type[BaseException] | None,
    in_close: BaseException | None,
) -> None:
    body = Body(chunks, in_close=in_close)

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return body

    answer = call(protect(app, backend), issued.authorization)

    assert body.closed == 1
    if raised is None:
        assert answer.code == "internal_error"
    else:
        assert isinstance(answer.raised, raised)


@pytest.mark.proves("W6")
@pytest.mark.parametrize("software", ["", "Granian"])
def test_close_is_called_once_without_a_start(backend: Backend, issued: Issued, software: str) -> None:
    body = Body([b"x"])

    answer = call(
        protect(lambda _environ, _start: body, backend), issued.authorization, SERVER_SOFTWARE=software
    )

    assert answer.code == "internal_error"
    assert body.closed == 1


@pytest.mark.proves("W6", "W13")
def test_the_validator_sees_the_body_closed(
    backend: Backend, issued: Issued, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It complains on stderr about an iterable that nobody closed, as soon as that is gone."""
    caplog.set_level(logging.CRITICAL, "basicauth_mw")  # a record keeps its exception, and that the iterable
    for raising in EARLY:
        if raising is in_iter:
            continue  # the validator's own wrapper stumbles over that
        authenticator = protect(validator(raising(Boom())), backend)
        assert call_validated(authenticator, issued.authorization).status == 500
    gc.collect()

    assert capsys.readouterr().err == ""


@pytest.mark.proves("W4")
def test_nothing_is_kept_behind_a_request(backend: Backend, issued: Issued) -> None:
    """The exception, whose frames hold the request, is gone without help of the garbage collector."""

    class Precious:
        pass

    kept: list[weakref.ref[Precious]] = []

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        precious = Precious()
        kept.append(weakref.ref(precious))
        start_response("200 OK", list(PLAIN))
        raise Boom

    authenticator = protect(app, backend)
    gc.collect()
    gc.disable()
    logging.disable(logging.CRITICAL)  # pytest keeps log records, and they the exception
    try:
        body = authenticator(make_environ(issued.authorization), lambda *_: None)
        assert len(list(body)) == 1
        del body
        assert kept[0]() is None
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


# --- Granian fixes the status as soon as the callable has returned


def status_at_return(authenticator: WsgiApp, authorization: str) -> tuple[str, Response]:
    """What Granian would send as status line, and the answer in the end."""
    server = Server()
    result: Any = authenticator(
        make_environ(authorization, SERVER_SOFTWARE="Granian/2.8"), server.start_response
    )
    line = server.answer.status_line
    server.answer.chunks.extend(result)
    getattr(result, "close", lambda: None)()
    return line, server.answer


@pytest.mark.proves("W7", "X56")
@pytest.mark.parametrize("raising", EARLY[:-1], ids=lambda make: make.__name__)
def test_the_status_is_right_when_granian_asks(
    backend: Backend, issued: Issued, raising: Callable[[BaseException], WsgiApp]
) -> None:
    line, answer = status_at_return(protect(raising(Boom()), backend), issued.authorization)

    assert line == "500 Internal Server Error"
    assert answer.code == "internal_error"
    assert len(answer.starts) == 1


@pytest.mark.proves("W7")
@pytest.mark.parametrize("chunks", [[], [b""], [b"1"], [b"", b"1"], [b"1", b"", b"2"]], ids=repr)
def test_peeking_for_granian_loses_nothing(backend: Backend, issued: Issued, chunks: list[bytes]) -> None:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("202 Accepted", list(PLAIN))
        yield from chunks

    line, answer = status_at_return(protect(app, backend), issued.authorization)

    assert line == "202 Accepted"
    assert answer.chunks == chunks


def test_peeking_for_granian_closes_once(backend: Backend, issued: Issued) -> None:
    for chunks in ([b"1", b"2"], [Boom()], [], [b"1", Boom()]):
        body = Body(chunks)

        def app(_environ: Environ, start_response: Any, body: Body = body) -> Iterable[bytes]:
            start_response("200 OK", list(PLAIN))
            return body

        call(protect(app, backend), issued.authorization, SERVER_SOFTWARE="Granian")
        assert body.closed == 1


@pytest.mark.proves("W8")
def test_granian_has_no_write(backend: Backend, issued: Issued) -> None:
    """Its ``start_response`` gives None: an app that wants to write gets an exception, and so a JSON 500."""
    started: list[str] = []

    def start_response(status: str, _headers: object, _exc_info: object = None) -> None:
        started.append(status)

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))(b"data")
        return []

    environ = make_environ(issued.authorization, SERVER_SOFTWARE="Granian")
    body: Any = protect(app, backend)(environ, start_response)

    assert started == ["200 OK", "500 Internal Server Error"]
    assert b'"internal_error"' in b"".join(body)


@pytest.mark.proves("W5")
def test_other_servers_are_not_peeked_for(backend: Backend, issued: Issued) -> None:
    body = Body([b"1"])

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return body

    result: Any = protect(app, backend)(make_environ(issued.authorization), lambda *_: None)

    assert body.taken == 0
    result.close()
