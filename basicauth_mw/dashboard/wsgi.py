"""The dashboard as a WSGI app: a thin shell round ``Site``, behind a gate."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..wsgi import PRINCIPAL, BasicAuthMiddleware
from .facts import MAX_BODY_OCTETS, PROBLEM, Request, wants_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..backend import Backend
    from ..settings import Settings
    from .site import Site

    Environ = dict[str, Any]
    StartResponse = Callable[..., Any]


class WSGIDashboard:
    """What ``wsgi_dashboard`` gives.

    Attributes:
        gate: Shows others that the dashboard is protected.
    """

    def __init__(self, site: Site, backend: Backend, settings: Settings) -> None:
        self._site = site
        self._gate = BasicAuthMiddleware(self._inside, backend, settings=settings)
        self.gate = self._gate.gate

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not wants_page(environ.get("HTTP_ACCEPT"), str(environ.get("REQUEST_METHOD", ""))):
            return self._gate(environ, start_response)
        held: list[Any] = []

        def hold(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if dict(headers).get("Content-Type") != PROBLEM:
                return start_response(status, headers, *([exc_info] if exc_info else []))
            held[:] = [status, headers, exc_info]
            return None

        result = self._gate(environ, hold)
        if not held:
            return result
        status, headers, exc_info = held
        body, headers = self._site.in_place_of(b"".join(result), headers)
        start_response(status, headers, *([exc_info] if exc_info else []))
        return [body]

    def _inside(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._site.answer(_environ_request(environ))
        phrase = HTTPStatus(answer.status).phrase
        start_response(f"{answer.status} {phrase}", list(answer.sized()))
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]


def _environ_request(environ: Environ) -> Request:
    def text(name: str) -> str:
        return str(environ.get(name) or "")

    def unicode(name: str) -> str:
        return text(name).encode("latin-1", "replace").decode("utf-8", "replace")

    return Request(
        method=text("REQUEST_METHOD"),
        path=unicode("PATH_INFO"),
        root=unicode("SCRIPT_NAME").rstrip("/"),
        principal=environ[PRINCIPAL],
        authorization=text("HTTP_AUTHORIZATION").encode("latin-1"),
        query=text("QUERY_STRING"),
        body=_read_input(environ),
        content_type=text("CONTENT_TYPE"),
        host=text("HTTP_HOST") or f"{text('SERVER_NAME')}:{text('SERVER_PORT')}",
        scheme=text("wsgi.url_scheme") or "http",
        site=environ.get("HTTP_SEC_FETCH_SITE"),
        origin=environ.get("HTTP_ORIGIN"),
    )


def _read_input(environ: Environ) -> bytes | None:
    """The body; None: it is too long. One that ends too early is none."""
    said = str(environ.get("CONTENT_LENGTH") or "")
    if said.isascii() and said.isdecimal():
        length = int(said[:12])
        if length > MAX_BODY_OCTETS:
            return None
        body: bytes = environ["wsgi.input"].read(length)
        return body if len(body) >= length else b""
    if not environ.get("wsgi.input_terminated"):
        return b""
    rest: bytes = environ["wsgi.input"].read(MAX_BODY_OCTETS + 1)
    return rest if len(rest) <= MAX_BODY_OCTETS else None
