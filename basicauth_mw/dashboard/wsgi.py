"""The dashboard as a WSGI app, behind a gate."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..wsgi import PRINCIPAL, BasicAuthMiddleware
from .requests import MAX_BODY_OCTETS, wants_html
from .site import PROBLEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..backends.backend import Backend
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
        self._authenticator = BasicAuthMiddleware(self._app, backend, settings=settings)
        self.authenticator = self._authenticator.authenticator

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not wants_html(environ.get("HTTP_ACCEPT"), str(environ.get("REQUEST_METHOD", ""))):
            return self._authenticator(environ, start_response)
        held: list[Any] = []

        def hold(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            if dict(headers).get("Content-Type") != PROBLEM:
                return start_response(status, headers, *exc_info)
            held[:] = [status, headers, exc_info]
            return None

        result = self._authenticator(environ, hold)
        if not held:
            return result
        status, headers, exc_info = held
        page = self._site.gate_page(b"".join(result), headers)
        start_response(status, page.headers.items(), *exc_info)
        return [bytes(page.body)]

    def _app(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = self._site.request(_scope(environ), _read(environ))
        del environ  # error monitors record the variables of each frame that an exception passes
        response = self._site.response(request)
        phrase = HTTPStatus(response.status_code).phrase
        start_response(f"{response.status_code} {phrase}", response.headers.items())
        return [bytes(response.body)]


def _scope(environ: Environ) -> dict[str, Any]:
    """What the dashboard reads of a request, as in ASGI."""

    def text(name: str) -> str:
        return str(environ.get(name) or "")

    def decoded(name: str) -> str:
        return text(name).encode("latin-1", "replace").decode("utf-8", "replace")

    root = decoded("SCRIPT_NAME")
    fields = {
        "authorization": environ.get("HTTP_AUTHORIZATION"),
        "content-type": environ.get("CONTENT_TYPE"),
        "host": text("HTTP_HOST") or f"{text('SERVER_NAME')}:{text('SERVER_PORT')}",
        "origin": environ.get("HTTP_ORIGIN"),
        "sec-fetch-site": environ.get("HTTP_SEC_FETCH_SITE"),
    }
    return {
        "type": "http",
        "method": text("REQUEST_METHOD"),
        "scheme": text("wsgi.url_scheme") or "http",
        "root_path": root,
        "path": root + decoded("PATH_INFO"),
        "query_string": text("QUERY_STRING").encode("latin-1", "replace"),
        "headers": [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in fields.items()
            if value is not None
        ],
        PRINCIPAL: environ[PRINCIPAL],
    }


def _read(environ: Environ) -> bytes | None:
    """The body; None: it is longer than ``MAX_BODY_OCTETS``. One that ends too early is none."""
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
