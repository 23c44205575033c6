"""From a request to a response, over a ``Backend``: what ASGI and WSGI share. Blocks as the store does."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import HTMLResponse, Response
from starlette.routing import Match

from ..errors import BasicAuthError
from ..keys.credentials import challenge
from .problems import PageProblem, to_problem
from .requests import DashboardRequest
from .responses import STYLE_SOURCE, safe_headers, see_other, static_file
from .templates import render
from .views import Views
from .wording import ADMIN_SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..backends.backend import Backend
    from ..settings import Settings
    from .views import Document

PROBLEM: Final = "application/problem+json"


class Site:
    """Answers requests that the gate has let through.

    Routes are matched here and not by Starlette's ``Router``, which needs an event loop: under WSGI there may
    be none, such as under gevent and in a process that was forked.

    Args:
        backend: Where the keys are.
        settings: Of the gate.
        openapi: As for ``Views``.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        openapi: Document = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._views = Views(backend, settings.pepper, openapi)
        self._challenge = challenge(settings.realm).encode().decode("latin-1")
        self._clock = clock
        self.routes = self._views.routes()

    def request(self, scope: Mapping[str, Any], body: bytes | None) -> DashboardRequest:
        """A request, of now."""
        return DashboardRequest(scope, body, datetime.fromtimestamp(self._clock(), UTC))

    def response(self, request: DashboardRequest) -> Response:
        """Answer a request."""
        if request.path == "":
            response: Response = see_other(request.link("/"))
        elif request.path.startswith("/static/"):
            response = static_file(request)
        elif ADMIN_SCOPE not in request.principal.scopes:
            is_switch = request.path == "/switch"  # a browser asks anew for what was refused
            status, headers = (401, {"WWW-Authenticate": self._challenge}) if is_switch else (403, {})
            response = self._views.page(request, "forbidden.html", status, headers=headers)
        else:
            response = self._page(request)
        if request.method == "HEAD":
            response.body = b""  # its length is told
        return response

    def _page(self, request: DashboardRequest) -> Response:
        subject = ""
        try:
            return self._view(request)(request)
        except PageProblem as exc:
            problem = exc
        except BasicAuthError as exc:
            problem = to_problem(exc, changing=request.method == "POST")
            subject = request.subject if request.path != "/key" else ""
        return self._views.page(
            request, "problem.html", headers=problem.headers, problem=problem, subject=subject
        )

    def _view(self, request: DashboardRequest) -> Callable[[DashboardRequest], Response]:
        """The view for a request; that of a form checks where it comes from before anything else.

        Raises:
            PageProblem: There is none, or the form is none of ours.
        """
        allowed: set[str] = set()
        for route in self.routes:
            match, _ = route.matches(request.scope)
            if match is Match.FULL:
                if request.method == "POST":
                    request.check_form()
                return route.endpoint
            if match is Match.PARTIAL:
                allowed.update(route.methods or ())
        if allowed:
            raise PageProblem(405, "method", headers={"Allow": ", ".join(sorted(allowed))})
        raise PageProblem(404, "no-page")

    def gate_page(self, problem: bytes, headers: Iterable[tuple[str, str]]) -> Response:
        """A page that says what a problem of the gate says, with the header fields of that."""
        told = json.loads(problem)
        markup = render("gate.html", writable=self._views.writable, **told)
        page = HTMLResponse(markup, told["status"], safe_headers(style=STYLE_SOURCE))
        own = set(page.headers)
        for name, value in headers:
            if name.lower() not in own:
                page.headers.append(name, value)
        return page
