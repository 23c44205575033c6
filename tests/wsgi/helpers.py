"""A strict WSGI server without sockets, which checks PEP 3333 and records every call."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any
from wsgiref.util import is_hop_by_hop, setup_testing_defaults
from wsgiref.validate import validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Environ = dict[str, Any]
    Headers = list[tuple[str, str]]
    WsgiApp = Callable[[Environ, Any], Iterable[bytes]]

LIMIT_S = 10.0  # a timeout for events that must happen; reached only in a failure


class Untouchable:
    """A request body that must not be read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"wsgi.input.{name} was used")


class FileWrapper:
    """A ``wsgi.file_wrapper`` of a server: a class, as in wsgiref and waitress."""

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.file = file
        self.block_size = block_size
        self.closed = 0

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.file.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def close(self) -> None:
        self.closed += 1
        self.file.close()


class Body:
    """An app's iterable that counts its ``close`` calls.

    Args:
        chunks: The chunks; an exception among them is raised.
        before: Called when iteration begins.
        in_close: Raised by ``close``.
    """

    def __init__(
        self,
        chunks: Iterable[bytes | BaseException],
        *,
        before: Callable[[], object] | None = None,
        in_close: BaseException | None = None,
    ) -> None:
        self.closed = 0
        self.taken = 0
        self._chunks = iter(chunks)
        self._before = before
        self._in_close = in_close

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        if self._before is not None:
            before, self._before = self._before, None
            before()
        chunk = next(self._chunks)
        self.taken += 1
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    def close(self) -> None:
        self.closed += 1
        if self._in_close is not None:
            raise self._in_close


@dataclass
class Response:
    """What reached the server, and so would reach the client."""

    starts: list[tuple[str, Headers, Any]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    result: Any = None
    raised: BaseException | None = None
    headers_are_out: bool = False

    @property
    def status_line(self) -> str:
        return self.starts[-1][0]

    @property
    def status(self) -> int:
        return int(self.status_line[:3])

    @property
    def headers(self) -> Headers:
        return self.starts[-1][1]

    @property
    def named(self) -> dict[str, str]:
        named = dict(self.headers)
        assert len(named) == len(self.headers), "no field twice"
        return named

    @property
    def body(self) -> bytes:
        return b"".join([*self.written, *self.chunks])

    @property
    def problem(self) -> dict[str, Any]:
        """The body as a problem document, after checking the properties that all of them share."""
        named = self.named
        assert self.raised is None
        assert named["Content-Type"] == "application/problem+json"
        assert named["Content-Length"] == str(len(self.body))
        assert named["Cache-Control"] == "no-store"
        assert named["X-Content-Type-Options"] == "nosniff"
        problem: dict[str, Any] = json.loads(self.body)
        members = {"type", "title", "status", "detail", "code", "request_id"}
        named_scopes = (
            {"scopes"} if problem["code"] == "insufficient_scope" and "scopes" in problem else set()
        )
        assert set(problem) == members | named_scopes
        assert problem["type"] == "about:blank"
        assert self.status_line == f"{problem['status']} {problem['title']}"
        assert named["X-Request-ID"] == problem["request_id"]
        assert ("WWW-Authenticate" in named) == (self.status == 401)
        assert ("Retry-After" in named) == (self.status in (429, 503))
        assert "Traceback" not in self.body.decode()
        return problem

    @property
    def code(self) -> str:
        code = self.problem["code"]
        assert isinstance(code, str)
        return code


class Server:
    """Calls an app as PEP 3333 defines, and fails if the app breaks the PEP."""

    def __init__(self) -> None:
        self.response = Response()

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        response = self.response
        assert type(status) is str
        assert type(headers) is list
        assert all(type(pair) is tuple and list(map(type, pair)) == [str, str] for pair in headers)
        for name, value in headers:
            (name + value).encode("latin-1")
            assert not is_hop_by_hop(name)
            assert not re.search(r"[\x00-\x1f\x7f]", status + name + value)
        if exc_info is None:
            assert not response.starts, "start_response was called twice without exc_info"
        elif response.headers_are_out:
            raise exc_info[1].with_traceback(exc_info[2])
        response.starts.append((status, headers, exc_info))
        return self.write

    def write(self, data: bytes) -> None:
        assert self.response.starts, "write() before start_response"
        self.response.headers_are_out = self.response.headers_are_out or bool(data)
        self.response.written.append(data)

    def run(self, app: WsgiApp, environ: Environ, *, chunks: int | None = None) -> Response:
        """Serve one request. The client disconnects after ``chunks`` chunks; None: never."""
        response = self.response
        result = None
        try:
            result = app(environ, self.start_response)
            response.result = result
            if chunks != 0:
                for chunk in result:
                    assert type(chunk) is bytes
                    assert response.starts, "a chunk before start_response"
                    response.chunks.append(chunk)
                    response.headers_are_out = response.headers_are_out or bool(chunk)
                    if len(response.chunks) == chunks:
                        break
        except BaseException as exc:  # a server must handle any exception; the test checks it
            response.raised = exc
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                try:
                    close()
                except BaseException as exc:
                    response.raised = response.raised or exc
        return response


def make_environ(authorization: str | None = None, path: str = "/", **more: Any) -> Environ:
    """A plain GET; a value of None removes the variable."""
    environ: Environ = {
        "REMOTE_ADDR": "192.0.2.1",
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "HTTP_X_REQUEST_ID": "r-1",
    }
    setup_testing_defaults(environ)
    environ["wsgi.input"] = BytesIO()
    if authorization is not None:
        environ["HTTP_AUTHORIZATION"] = authorization
    environ.update(more)
    return {name: value for name, value in environ.items() if value is not None}


def call(app: WsgiApp, authorization: str | None = None, *, path: str = "/", **more: Any) -> Response:
    """Serve one request on the strict server."""
    return Server().run(app, make_environ(authorization, path, **more))


def call_validated(
    app: WsgiApp, authorization: str | None = None, *, path: str = "/", **more: Any
) -> Response:
    """``call``, with ``wsgiref.validate`` between the server and the middleware."""
    return Server().run(validator(app), make_environ(authorization, path, **more))
