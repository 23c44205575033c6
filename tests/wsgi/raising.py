"""WSGI apps that raise at each point of a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from basicauth_mw import Backend, Settings
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.wsgi.helpers import Body

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.wsgi.helpers import Environ, WsgiApp


PLAIN = [("Content-Type", "text/plain")]


class Boom(Exception):
    """The exception that the apps raise."""


class NotMine(BaseException):
    """An exception that middleware must not handle."""


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
