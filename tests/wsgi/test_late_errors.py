"""Exceptions of a WSGI app after its body has started, and the closing of its body."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from basicauth_mw import Backend, InsufficientScope, Issued
from tests.wsgi.helpers import Body, Server, call, call_validated, make_environ
from tests.wsgi.raising import (
    EARLY,
    PLAIN,
    Boom,
    NotMine,
    after_an_empty_chunk,
    in_iter,
    protect,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.wsgi.helpers import Environ, Response, WsgiApp


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
def test_a_late_exception_is_reraised(
    backend: Backend, issued: Issued, raising: Callable[[BaseException], WsgiApp], exc: BaseException
) -> None:
    """Neither a second start nor a clean end: the server breaks the connection."""
    response = call(protect(raising(exc), backend), issued.authorization)

    assert response.raised is exc
    assert response.status_line == "200 OK"
    assert response.body == b"data"


def test_an_exception_after_the_end_is_not_swallowed(backend: Backend, issued: Issued) -> None:
    """An iterable that continues after its replacement was sent is not read again."""
    body = Body([Boom(), b"more"])

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return body

    response = call(protect(app, backend), issued.authorization)

    assert response.code == "internal_error"
    assert len(response.chunks) == 1
    assert body.taken == 1


@pytest.mark.proves("W4")
def test_too_late_for_the_server_is_too_late(backend: Backend, issued: Issued) -> None:
    """A server that sends the start for an empty chunk raises the exc_info; that exception is not caught."""
    exc = Boom()
    server = Server()
    middleware = protect(after_an_empty_chunk(exc), backend)
    chunks: Any = middleware(make_environ(issued.authorization), server.start_response)
    assert next(iter(chunks)) == b""
    server.response.headers_are_out = True

    with pytest.raises(Boom) as raised:
        next(chunks)

    assert raised.value is exc
    chunks.close()
    assert len(server.response.starts) == 1


# --- close()


@pytest.mark.proves("W6")
@pytest.mark.parametrize(
    ("chunks", "raised"),
    [([Boom()], None), ([b"", Boom()], None), ([b"data", Boom()], Boom), ([NotMine()], NotMine)],
    ids=["first", "empty", "late", "base"],
)
@pytest.mark.parametrize("in_close", [None, ValueError("in close")], ids=["closes", "fails"])
def test_close_is_called_once_after_an_error(
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

    response = call(protect(app, backend), issued.authorization)

    assert body.closed == 1
    if raised is None:
        assert response.code == "internal_error"
    else:
        assert isinstance(response.raised, raised)


@pytest.mark.proves("W6")
@pytest.mark.parametrize("software", ["", "Granian"])
def test_close_is_called_once_without_a_start(backend: Backend, issued: Issued, software: str) -> None:
    body = Body([b"x"])

    response = call(
        protect(lambda _environ, _start: body, backend), issued.authorization, SERVER_SOFTWARE=software
    )

    assert response.code == "internal_error"
    assert body.closed == 1


@pytest.mark.proves("W6", "W13")
def test_the_validator_sees_the_body_closed(
    backend: Backend, issued: Issued, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It complains on stderr about an iterable that was not closed, when that is garbage-collected."""
    caplog.set_level(logging.CRITICAL, "basicauth_mw")  # a record keeps its exception, and that the iterable
    for raising in EARLY:
        if raising is in_iter:
            continue  # the validator's own wrapper fails there
        middleware = protect(validator(raising(Boom())), backend)
        assert call_validated(middleware, issued.authorization).status == 500
    gc.collect()

    assert capsys.readouterr().err == ""


@pytest.mark.proves("W4")
def test_nothing_is_kept_after_a_request(backend: Backend, issued: Issued) -> None:
    """The exception, whose frames hold the request, is freed without the garbage collector."""

    class Precious:
        pass

    kept: list[weakref.ref[Precious]] = []

    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        precious = Precious()
        kept.append(weakref.ref(precious))
        start_response("200 OK", list(PLAIN))
        raise Boom

    middleware = protect(app, backend)
    gc.collect()
    gc.disable()
    logging.disable(logging.CRITICAL)  # pytest keeps log records, and they the exception
    try:
        body = middleware(make_environ(issued.authorization), lambda *_: None)
        assert len(list(body)) == 1
        del body
        assert kept[0]() is None
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


# --- Granian fixes the status as soon as the callable has returned


def status_at_return(middleware: WsgiApp, authorization: str) -> tuple[str, Response]:
    """The status line that Granian would send, and the final response."""
    server = Server()
    result: Any = middleware(
        make_environ(authorization, SERVER_SOFTWARE="Granian/2.8"), server.start_response
    )
    line = server.response.status_line
    server.response.chunks.extend(result)
    getattr(result, "close", lambda: None)()
    return line, server.response


@pytest.mark.proves("W7", "X56")
@pytest.mark.parametrize("raising", EARLY[:-1], ids=lambda make: make.__name__)
def test_the_status_is_right_when_granian_reads_it(
    backend: Backend, issued: Issued, raising: Callable[[BaseException], WsgiApp]
) -> None:
    line, response = status_at_return(protect(raising(Boom()), backend), issued.authorization)

    assert line == "500 Internal Server Error"
    assert response.code == "internal_error"
    assert len(response.starts) == 1


@pytest.mark.proves("W7")
@pytest.mark.parametrize("chunks", [[], [b""], [b"1"], [b"", b"1"], [b"1", b"", b"2"]], ids=repr)
def test_peeking_for_granian_loses_nothing(backend: Backend, issued: Issued, chunks: list[bytes]) -> None:
    def app(_environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("202 Accepted", list(PLAIN))
        yield from chunks

    line, response = status_at_return(protect(app, backend), issued.authorization)

    assert line == "202 Accepted"
    assert response.chunks == chunks


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
    """Its ``start_response`` returns None: an app that writes gets an exception, and so a JSON 500."""
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
