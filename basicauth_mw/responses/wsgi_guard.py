"""Hold the start of a WSGI response back, so that an exception can still become an error response.

``start_response`` of ``WSGIResponseGuard`` keeps the app's status and headers until the first chunk of the
body that is not empty. Lists, tuples and file wrappers reach the server as they are, since nothing in them
can raise; any other result is wrapped in a ``GuardedBody``.

An app may also take the socket over from the server, for a websocket, and start no response at all. Such
endings reach the server unchanged.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from ..auth.frameworks import is_werkzeug_500
from ..auth.problems import is_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from ..auth.authenticator import Authenticator
    from ..auth.problems import Response
    from ..auth.request_adapters import Environ

    StartResponse = Callable[..., Callable[[bytes], object]]

logger = logging.getLogger("basicauth_mw")


_CAPTURED_KEYS: Final = ("REQUEST_METHOD", "REMOTE_ADDR", "HTTP_X_REQUEST_ID", "HTTP_SEC_FETCH_MODE")


def captured_request(captured: tuple[Any, ...]) -> Environ:
    """The part of an environ that error responses need, as it was before the app was called."""
    return dict(zip(_CAPTURED_KEYS, captured, strict=True))


def send_response(
    request: Environ, start_response: StartResponse, response: Response, exc_info: Any = None
) -> Iterable[bytes]:
    """Start a response of the middleware, and return its body."""
    start: tuple[Any, ...] = (f"{response.status} {response.phrase}", response.headers)
    start_response(*start) if exc_info is None else start_response(*start, exc_info)
    return [] if request.get("REQUEST_METHOD") == "HEAD" else [response.body]


class FileWrapper:
    """Stands in for a ``wsgi.file_wrapper`` that is a function, as those of uWSGI and mod_wsgi are.

    The result of a class is recognized by its type, that of a function only by its identity.
    """

    __slots__ = ("_wrap", "result")

    def __init__(self, wrap: Callable[..., Iterable[bytes]]) -> None:
        self._wrap = wrap
        self.result: Iterable[bytes] | None = None

    def __call__(self, *arguments: Any) -> Iterable[bytes]:
        self.result = self._wrap(*arguments)
        return self.result


class WSGIResponseGuard:
    """Wraps the server's ``start_response`` for one request.

    Args:
        start_response: The server's.
        origin: What an error response needs: the authenticator, the captured request, and the client ID.
        flask_exceptions: Where Flask's signal puts the exceptions that Flask responds to itself.
        takes_socket: Whether the app may take the socket over, as long as it has started no response.

    Attributes:
        app_started: Whether the app has called ``start_response``.
        committed: Whether a byte of the body may have been sent, so that nothing can be taken back.
    """

    __slots__ = (
        *("_flask_exceptions", "_held", "_origin", "_released", "_start_response", "_write"),
        *("committed", "app_started", "takes_socket"),
    )

    def __init__(
        self,
        start_response: StartResponse,
        origin: tuple[Authenticator[Environ], tuple[Any, ...], str],
        flask_exceptions: Sequence[Exception],
        takes_socket: bool,
    ) -> None:
        self._start_response = start_response
        self._origin = origin
        self._flask_exceptions = flask_exceptions
        self.takes_socket = takes_socket
        self.app_started = self.committed = self._released = False
        self._held: tuple[Any, ...] | None = None
        self._write: Callable[[bytes], object] | None = None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The ``start_response`` that the app gets."""
        self.app_started = True
        start: tuple[Any, ...] = (status, headers)
        if exc_info is not None:
            start = (status, headers, exc_info)
            if self._released:
                self._write = self._start_response(*start)
                return self.write
        elif self._released or self._held is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self._held = start
        return self.write

    def write(self, data: bytes) -> object:
        """Send a part of the body (PEP 3333, "The write() Callable")."""
        self.release()
        if self._write is None:
            raise RuntimeError("this server has no write()")
        self.committed = self.committed or bool(data)
        return self._write(data)

    def release(self) -> None:
        """Start the app's response, if that was not done before.

        Raises:
            RuntimeError: The app has started none.
            Exception: Whatever the server's ``start_response`` raises.
        """
        if self._released:
            return
        if self._held is None:
            if self.takes_socket:
                return
            raise RuntimeError("the app returned a body and never called start_response")
        held, self._held = self._held, None
        self._released = True
        self._write = self._start_response(*held)

    def guard(self, result: Iterable[bytes], file_wrapper: Any, server: str) -> Iterable[bytes]:
        """The body for the server, made of what the app has returned."""
        if not self.app_started and self._is_socket_ending(result):
            return result
        if _is_passed_through(result, file_wrapper):
            try:
                self.release()
            except Exception as exc:
                close_body(result)
                return self.replace(exc)
            return result
        body = GuardedBody(result, self)
        if self._flask_exceptions:
            body.peek()
            reported = self._flask_exceptions[-1]
            if self._holds_werkzeug_500(body.first) and (is_refusal(reported) or not self.takes_socket):
                body.close()
                return self.replace(reported)
        if server.startswith("Granian"):
            body.start()
        return body

    def is_too_late(self, exc: Exception) -> bool:
        """Whether no response can replace the app's: it is committed, or the app has the socket."""
        return self.committed or (self.takes_socket and not self.app_started and not is_refusal(exc))

    def was_reported(self, exc: Exception) -> bool:
        """Whether Flask has reported an exception, which it re-raises in debug mode and in tests."""
        return exc in self._flask_exceptions and not is_refusal(exc)

    def replace(self, exc: Exception) -> Iterable[bytes]:
        """Respond in place of the app, which has raised ``exc`` when it was not too late."""
        authenticator, captured, client_id = self._origin
        request, send = captured_request(captured), self._start_response
        try:
            response = authenticator.exception_response(request, exc, client_id=client_id, log_traceback=True)
            if not self._released and (exc in self._flask_exceptions or is_refusal(exc)):
                # It is handled now. To Werkzeug's test client, exc_info means that it is not.
                body = send_response(request, send, response)
            else:
                body = send_response(request, send, response, (type(exc), exc, exc.__traceback__))
            self._held = None
            self._released = self.committed = True
            return body
        finally:
            del exc  # no cycle of the frame and its exception, as PEP 3333 requires

    def _is_socket_ending(self, result: object) -> bool:
        """Whether a result without a start signals to the server that the app has taken the socket over."""
        if isinstance(result, list) and not result:
            return True
        return self.takes_socket and (not result or not hasattr(result, "__iter__"))

    def _holds_werkzeug_500(self, first: bytes | None) -> bool:
        return self._held is not None and is_werkzeug_500(self._held[0], self._held[1], first)


class GuardedBody:
    """The app's body, chunk by chunk. Its response is started just before the first chunk.

    Attributes:
        first: The first chunk, once ``peek`` has taken it; None if there is none.
    """

    __slots__ = ("_chunks", "_closed", "_guard", "_result", "_source", "first")

    def __init__(self, result: Iterable[bytes], guard: WSGIResponseGuard) -> None:
        self._result = result
        self._guard = guard
        self._source: Iterable[bytes] | None = None  # what is left of the result after a peek
        self._chunks = self._run()
        self._closed = False
        self.first: bytes | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks  # the generator itself, without a call of this class around it

    def __next__(self) -> bytes:
        return next(self._chunks)  # for a server that does not call iter()

    def _run(self) -> Generator[bytes, None, None]:
        guard = self._guard
        try:
            for chunk in self._result if self._source is None else self._source:
                if not guard.committed:
                    guard.release()
                    guard.committed = bool(chunk)
                yield chunk
            guard.release()  # an empty body has a start as well
            return
        except Exception as exc:
            if guard.is_too_late(exc):
                raise  # never a clean end: the server breaks the connection
            substitute = self._substitute(exc)
        yield from substitute

    def peek(self) -> None:
        """Take all chunks up to the first that is not empty, before the server iterates."""
        if self._source is not None:
            return
        taken: list[bytes] = []
        try:
            rest = iter(self._result)
            taken.append(next(rest))
            while not taken[-1]:
                taken.append(next(rest))
            self._source = chain(taken, rest)
        except StopIteration:
            self._source = taken
        except BaseException as exc:
            if not isinstance(exc, Exception) or self._guard.is_too_late(exc):
                self.close()  # the server never gets it
                raise
            self._source = self._substitute(exc)
        else:
            self.first = taken[-1]

    def start(self) -> None:
        """Start the response that the body will end with, for Granian, which sends its status immediately."""
        self.peek()
        try:
            self._guard.release()
        except Exception as exc:
            self._source = self._substitute(exc)

    def close(self) -> None:
        """Close the app's body, once."""
        self._chunks.close()  # it refers to this object, and this object to it
        self._close_result()

    def _close_result(self) -> None:
        if not self._closed:
            self._closed = True
            close_body(self._result)

    def _substitute(self, exc: Exception) -> Iterable[bytes]:
        self._close_result()
        self.first = None
        return self._guard.replace(exc)


def _is_passed_through(result: Iterable[bytes], file_wrapper: Any) -> bool:
    """Whether nothing in a result can raise, or the server has to recognize it."""
    if isinstance(result, (list, tuple)):
        return True
    if isinstance(file_wrapper, FileWrapper):
        return result is file_wrapper.result
    return isinstance(file_wrapper, type) and isinstance(result, file_wrapper)


def close_body(result: object) -> None:
    """Close the app's body; a failure is logged."""
    close = getattr(result, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception:
        logger.exception("close() of the app's body failed")
