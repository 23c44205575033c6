"""The pages that show keys and change none, and what all pages have in common."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from ..auth.refusal_stats import refusal_stats
from ..backends import Store
from ..errors import KeyNotFound, UnreadableRecord
from ..keys.authorization_header import challenge, parse_basic
from .calls import call_context, check_fields
from .csrf import CsrfTokens
from .listing import Cursor, KeyView, count_expiring, list_page, view_of
from .openapi import endpoints_of
from .problems import PageProblem
from .responses import STYLE_SOURCE, security_headers, see_other
from .templates import render_template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.responses import Response

    from ..backends.backend import Backend, Issued
    from ..settings import Settings
    from .listing import KeyPage
    from .openapi import Endpoint
    from .request import DashboardRequest

    Routes = dict[str, dict[str, Callable[[DashboardRequest], Response]]]
    Document = Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None

logger = logging.getLogger("basicauth_mw")


class Handlers:
    """The handlers of these pages; ``openapi`` is that of ``dashboard``, ``scheme`` that of the app."""

    def __init__(self, backend: Backend, settings: Settings, openapi: Document, scheme: str) -> None:
        self.backend = backend
        self._settings = settings
        self._openapi = openapi
        self._scheme = scheme
        self.writable = isinstance(backend.store, Store)

    def routes(self) -> Routes:
        """Return the handlers of these pages, by path and method."""
        return {
            "/": {"GET": self.list_keys},
            "/key": {"GET": self.show_key},
            "/call": {"GET": self.call, "POST": self.update_call},
            "/activity": {"GET": self.activity},
            "/sign-out": {"GET": self.sign_out},
        }

    def page(
        self, request: DashboardRequest, template: str, problem: PageProblem | None = None, **context: Any
    ) -> Response:
        """Render a page; ``problem``, if any, gives the status and more headers."""
        may_change = self.writable and request.may_change
        shown = problem or PageProblem(200, "")
        context.update(request=request, problem=problem, errors=shown.errors)
        markup = render_template(template, writable=may_change, may_create=self.writable, **context)
        body = markup.encode("utf-8", "backslashreplace")  # foreign records may hold lone surrogates
        return HTMLResponse(body, shown.status, {**security_headers(), **shown.headers})

    # --- CSRF tokens

    def _tokens(self, request: DashboardRequest) -> CsrfTokens:
        # Slow for a password, which is stretched: only for pages with a form.
        return CsrfTokens(parse_basic(request.authorization), self._settings.pepper)

    def make_token(self, request: DashboardRequest, path: str, subject: str = "", payload: str = "") -> str:
        """Make the token of a form; see ``CsrfTokens.make``."""
        return self._tokens(request).make(path, subject, payload, request.now.timestamp())

    def check_token(self, request: DashboardRequest, subject: str = "") -> str:
        """Check the token of a submitted form; see ``CsrfTokens.check``."""
        token = request.field("csrf_token")
        return self._tokens(request).check(token, request.path, subject, request.now.timestamp())

    # --- pages about keys

    def list_keys(self, request: DashboardRequest) -> Response:
        page = self._list_page(request)
        client_id = request.field("id") if request.field("done") == "delete" else ""
        is_deleted = client_id != "" and self.backend.get(client_id) is None
        is_first = page.listable and page.cursor == Cursor()
        return self.page(
            request,
            "keys.html",
            deleted=client_id if is_deleted else "",
            expiring=count_expiring(self.backend, request.now) if is_first else (0, False),
            **page._asdict(),
        )

    def activity(self, request: DashboardRequest) -> Response:
        page, refusals = self._list_page(request), refusal_stats.snapshot()
        return self.page(request, "activity.html", refusals=refusals, **page._asdict())

    def _list_page(self, request: DashboardRequest) -> KeyPage:
        return list_page(self.backend, Cursor.from_query(request.query_params), request.now)

    def show_key(
        self, request: DashboardRequest, client_id: str = "", problem: PageProblem | None = None
    ) -> Response:
        """Show a key; ``client_id``: as in the query."""
        key = self.find(request, client_id or request.field("id"))
        # A link cannot claim a change that was not made: it would need the version that resulted.
        done = request.field("done") if request.field("version") == str(key.version) else ""
        history = [] if key.problem else self.backend.history(key.client_id)
        return self.page(request, "show_key.html", problem, key=key, done=done, history=history)

    def find(self, request: DashboardRequest, client_id: str) -> KeyView:
        """Return a key, even if its record cannot be read."""
        request.subject = client_id
        try:
            key = self.backend.get(client_id)
        except UnreadableRecord as exc:
            return KeyView(client_id, problem=str(exc))
        if key is None:
            raise KeyNotFound(f"there is no key with the client ID {client_id!r}")
        return view_of(key, request.now)

    def sign_out(self, request: DashboardRequest) -> Response:
        """Explain how to sign out. With the ID of the caller, refuse it, so that the browser forgets it."""
        client_id = request.field("key")
        if client_id == "":
            return self.page(request, "sign_out.html")
        if client_id != request.principal.client_id:  # another key was entered
            return see_other(request.link("/"))
        markup = render_template("signed_out.html", home=request.link("/"))
        headers = security_headers(style=STYLE_SOURCE)
        headers["WWW-Authenticate"] = challenge(self._settings.realm).encode().decode("latin-1")
        return HTMLResponse(markup, 401, headers)

    # --- Call API

    def call(self, request: DashboardRequest) -> Response:
        fields = {"endpoint": request.field("endpoint"), "id": request.field("id")}
        return self.page(request, "call.html", **self.call_context(request, fields))

    def update_call(self, request: DashboardRequest) -> Response:
        fields = {name: request.field(name) for name in ("endpoint", "id", "body")}
        for name in ("method", "path", "content_type"):
            fields[name] = request.field(name).strip()
        fields["method"] = fields["method"].upper()
        problem = None
        try:
            self.check_token(request)
            check_fields(fields)
        except PageProblem as exc:
            problem = exc
        return self.page(request, "call.html", problem, **self.call_context(request, fields))

    def call_context(
        self, request: DashboardRequest, fields: Mapping[str, str], issued: Issued | None = None
    ) -> dict[str, Any]:
        """Return the variables of ``_call.html``."""
        context = call_context(request, fields, self._endpoints(request), self._scheme, issued)
        return {**context, "token": self.make_token(request, "/call")}

    def _endpoints(self, request: DashboardRequest) -> list[Endpoint]:
        source = self._openapi
        if source is None:  # only FastAPI apps have this method
            source = getattr(request.scope.get("app"), "openapi", None)
        try:
            return endpoints_of(source() if callable(source) else source, request.base)
        except Exception:  # of the app. A key may have been created already: its secret must be shown.
            logger.exception("cannot read the OpenAPI document; the dashboard continues without it")
            return []
