"""From an authenticated request to a response, for ASGI and WSGI alike. It blocks while the store does.

Requests are routed here and not by Starlette's ``Router``, which needs an event loop: under WSGI there may be
none, for example under gevent and after a fork.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import HTMLResponse

from ..errors import BasicAuthError
from ..settings import Settings
from .changes import Changes
from .problems import PageProblem, to_page_problem
from .responses import STYLE_SOURCE, security_headers, see_other, static_file
from .templates import render_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.responses import Response

    from ..auth.authenticator import Authenticator
    from ..settings import Overrides
    from .handlers import Document
    from .request import DashboardRequest

PROBLEM: Final = "application/problem+json"

# Settings of the middleware that would let requests bypass it, or remove what CSRF tokens depend on.
FIXED_SETTINGS: Final[Overrides] = {
    "schemes": ("basic",),  # browsers can ask for these credentials
    "include": (),
    "exclude": (),
    "optional": (),
    "allow_preflight": False,
    "strip_authorization": False,
    "challenge": "always",
    "map_errors": True,
    "timeout_s": None,
}


def api_scheme(settings: Settings | None, overrides: Overrides) -> str:
    """The first scheme that the app accepts, for code samples."""
    own: Overrides = {"schemes": overrides["schemes"]} if "schemes" in overrides else {}
    return (Settings.from_env() if settings is None else settings).replace(**own).schemes[0]


class DashboardApp:
    """Responds to requests that the middleware has authenticated."""

    def __init__(self, authenticator: Authenticator[Any], openapi: Document, scheme: str) -> None:
        self._handlers = Changes(authenticator.backend, authenticator.settings, openapi, scheme)
        self._changing = self._handlers.changing_routes() if self._handlers.writable else {}
        self.routes = self._handlers.routes() | self._changing

    def respond(self, request: DashboardRequest) -> Response:
        if request.path == "":
            response: Response = see_other(request.link("/"))
        elif request.path.startswith("/static/"):
            response = static_file(request)
        elif not request.may_read and request.path != "/sign-out":
            response = self._handlers.page(request, "forbidden.html", PageProblem(403, "forbidden"))
        else:
            response = self._dispatch(request)
        if request.method == "HEAD":
            response.body = b""  # Content-Length stays
        return response

    def _dispatch(self, request: DashboardRequest) -> Response:
        try:
            return self._find_handler(request)(request)
        except PageProblem as exc:
            problem = exc
        except BasicAuthError as exc:
            problem = to_page_problem(exc, changing=request.method == "POST")
        return self._handlers.page(request, "problem.html", problem)

    def _find_handler(self, request: DashboardRequest) -> Callable[[DashboardRequest], Response]:
        """Find the handler of a request; for a form, first check where it comes from."""
        methods = self.routes.get(request.path)
        if methods is None:
            raise PageProblem(404, "not-found")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join(sorted({*methods, "HEAD"}))
            raise PageProblem(405, "wrong-method", headers={"Allow": allowed})
        if request.path in self._changing and not request.may_change:
            raise PageProblem(403, "may-only-read")
        if request.method == "POST":
            request.check_form()
        return handler

    def auth_error_page(self, problem: bytes, headers: Iterable[tuple[str, str]]) -> Response:
        """Return a page in place of a JSON problem from the middleware, with its headers."""
        members = json.loads(problem)
        markup = render_template("auth_error.html", writable=self._handlers.writable, **members)
        page = HTMLResponse(markup, members["status"], security_headers(style=STYLE_SOURCE))
        own = set(page.headers)
        for name, value in headers:
            if name.lower() not in own:
                page.headers.append(name, value)
        return page
