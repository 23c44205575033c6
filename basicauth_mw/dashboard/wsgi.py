"""The dashboard as a WSGI app, inside the middleware.

It translates requests to ASGI scopes by itself: a2wsgi needs threads and an event loop, which break under
gevent and after a fork.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..auth.request_adapters import PRINCIPAL
from ..wsgi import BasicAuthMiddleware
from .app import FIXED_SETTINGS, PROBLEM, DashboardApp, api_scheme
from .request import MAX_BODY_BYTES, DashboardRequest, wants_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Unpack

    from ..settings import Overrides, Settings
    from .handlers import Document

    Environ = dict[str, Any]
    StartResponse = Callable[..., Any]


class WSGIDashboard:
    """What ``wsgi_dashboard`` returns; ``authenticator`` marks it as protected for ``auth.discovery``."""

    def __init__(
        self, backend: Any, settings: Settings | None, openapi: Document, overrides: Overrides
    ) -> None:
        fixed: Overrides = {**overrides, **FIXED_SETTINGS}
        self._middleware = BasicAuthMiddleware(self._serve, backend, settings=settings, **fixed)
        self.authenticator = self._middleware.authenticator
        self._app = DashboardApp(self.authenticator, openapi, api_scheme(settings, overrides))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not wants_html(environ.get("HTTP_ACCEPT"), str(environ.get("REQUEST_METHOD", ""))):
            return self._middleware(environ, start_response)
        held: list[Any] = []

        def hold_problem(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            if dict(headers).get("Content-Type") != PROBLEM:
                return start_response(status, headers, *exc_info)
            held[:] = [status, headers, exc_info]
            return None

        result = self._middleware(environ, hold_problem)
        if not held:
            return result
        status, headers, exc_info = held
        page = self._app.auth_error_page(b"".join(result), headers)
        start_response(status, page.headers.items(), *exc_info)
        return [bytes(page.body)]

    def _serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = DashboardRequest(_to_scope(environ), _read(environ))
        del environ  # error monitors record the variables of each frame that an exception passes
        response = self._app.respond(request)
        phrase = HTTPStatus(response.status_code).phrase
        start_response(f"{response.status_code} {phrase}", response.headers.items())
        return [bytes(response.body)]


def wsgi_dashboard(
    backend: Any = None,
    *,
    settings: Settings | None = None,
    openapi: Document = None,
    **overrides: Unpack[Overrides],
) -> WSGIDashboard:
    """Make the dashboard as a WSGI app, for Werkzeug's ``DispatcherMiddleware`` or any other.

    The arguments are those of ``dashboard``; without ``openapi`` there is no document.

    Raises:
        ConfigurationError: Names every problem, and no secret.

    .. versionadded:: 0.1
    """
    return WSGIDashboard(backend, settings, openapi, overrides)


def _to_scope(environ: Environ) -> dict[str, Any]:
    """Return what the dashboard reads of a request, as an ASGI scope."""

    def text(name: str) -> str:
        return str(environ.get(name) or "")

    def decoded(name: str) -> str:
        return text(name).encode("latin-1", "replace").decode("utf-8", "replace")

    root = decoded("SCRIPT_NAME")
    headers = {
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
            for name, value in headers.items()
            if value is not None
        ],
        PRINCIPAL: environ[PRINCIPAL],
    }


def _read(environ: Environ) -> bytes | None:
    """Read the body; None if it is longer than ``MAX_BODY_BYTES``, and nothing of an incomplete one."""
    content_length = str(environ.get("CONTENT_LENGTH") or "")
    if content_length.isascii() and content_length.isdecimal():
        length = int(content_length[:12])
        if length > MAX_BODY_BYTES:
            return None
        body: bytes = environ["wsgi.input"].read(length)
        return body if len(body) >= length else b""
    if not environ.get("wsgi.input_terminated"):
        return b""
    body = environ["wsgi.input"].read(MAX_BODY_BYTES + 1)
    return body if len(body) <= MAX_BODY_BYTES else None
