"""The request handlers: what each page shows, and what each form changes."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse
from starlette.routing import Route

from ..auth.refusal_stats import refusal_stats
from ..backends import Store
from ..errors import InvalidKey, KeyExists, KeyNotFound, ReadOnlyBackend, UnreadableRecord
from ..keys.authorization_header import parse_basic
from ..keys.generated_secrets import generate_id
from ..keys.validation import parse_duration
from .calls import call_context, check_fields
from .csrf import CsrfTokens
from .forms import FORM_FIELDS, parse_new_key
from .listing import Cursor, list_page, recency_of, view_of
from .openapi import endpoints_of
from .problems import ExpiredToken, PageProblem
from .responses import security_headers, see_other
from .strings import ACTIONS
from .templates import render_template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.responses import Response

    from ..backends.backend import Backend, Issued
    from .listing import KeyView
    from .openapi import Endpoint
    from .request import DashboardRequest

    Document = Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None

logger = logging.getLogger("basicauth_mw")


class Handlers:
    """The handlers of all pages; ``openapi`` is that of ``dashboard``, ``scheme`` how the app takes a key."""

    def __init__(self, backend: Backend, peppers: Sequence[str], openapi: Document, scheme: str) -> None:
        self._backend = backend
        self._peppers = peppers
        self._openapi = openapi
        self._scheme = scheme
        self.writable = isinstance(backend.store, Store)
        self.changing = self._changing_routes() if self.writable else []

    def routes(self) -> list[Route]:
        """Return all routes; those that change keys only if the backend is writable."""
        reading = [
            Route("/", self.list_keys),
            Route("/key", self.show_key),
            Route("/call", self.call),
            Route("/call", self.update_call, methods=["POST"]),
            Route("/activity", self.activity),
            Route("/switch", self.switch),
        ]
        return reading + self.changing

    def _changing_routes(self) -> list[Route]:
        routes = [Route("/new", self.new), Route("/new", self.create, methods=["POST"])]
        for action in ACTIONS:
            submit = self.rotate if action == "rotate" else partial(self.apply, action)
            routes.append(Route(f"/key/{action}", partial(self.confirm, action)))
            routes.append(Route(f"/key/{action}", submit, methods=["POST"]))
        return routes

    def page(
        self,
        request: DashboardRequest,
        template: str,
        status: int = 200,
        problem: PageProblem | None = None,
        headers: Mapping[str, str] | None = None,
        **context: Any,
    ) -> Response:
        """Render a page; ``problem``, if any, gives the status."""
        markup = render_template(
            template,
            request=request,
            writable=self.writable and request.may_change,
            may_create=self.writable,
            problem=problem,
            **context,
        )
        body = markup.encode("utf-8", "backslashreplace")  # foreign records may hold lone surrogates
        status = problem.status if problem else status
        return HTMLResponse(body, status, {**security_headers(), **(headers or {})})

    # --- CSRF tokens

    def _tokens(self, request: DashboardRequest) -> CsrfTokens:
        # Slow for a password, which is stretched: only for pages with a form.
        return CsrfTokens(parse_basic(request.authorization), self._peppers)

    def _make_token(self, request: DashboardRequest, path: str, subject: str = "", payload: str = "") -> str:
        return self._tokens(request).make(path, subject, payload, request.now.timestamp())

    def _check_token(self, request: DashboardRequest, subject: str = "") -> str:
        token = request.field("csrf_token")
        return self._tokens(request).check(token, request.path, subject, request.now.timestamp())

    # --- pages about keys

    def list_keys(self, request: DashboardRequest) -> Response:
        context = self._list_page(request)
        client_id = request.field("id") if request.field("done") == "deleted" else ""
        is_deleted = client_id != "" and self._backend.get(client_id) is None
        return self.page(request, "keys.html", deleted=client_id if is_deleted else "", **context)

    def activity(self, request: DashboardRequest) -> Response:
        context = self._list_page(request)
        recency = recency_of(context["keys"], request.now)
        return self.page(
            request, "activity.html", refusals=refusal_stats.snapshot(), recency=recency, **context
        )

    def _list_page(self, request: DashboardRequest) -> dict[str, Any]:
        cursor = Cursor.from_query(request.query_params)
        try:
            keys, following = list_page(self._backend, cursor, request.now)
        except ReadOnlyBackend:
            return {"listable": False, "cursor": cursor, "keys": [], "following": None}
        return {"listable": True, "cursor": cursor, "keys": keys, "following": following}

    def show_key(self, request: DashboardRequest) -> Response:
        key, _ = self._find(request, request.field("id"))
        return self.page(request, "show_key.html", key=key)

    def _find(self, request: DashboardRequest, client_id: str) -> tuple[KeyView, str]:
        """Return a key, and its version, which any change alters."""
        request.subject = client_id
        try:
            key = self._backend.get(client_id)
        except UnreadableRecord as exc:
            return view_of(UnreadableRecord(str(exc), client_id=client_id), request.now), "damaged"
        if key is None:
            raise KeyNotFound(f"there is no key with the client ID {client_id!r}")
        return view_of(key, request.now), str(key.version)

    def switch(self, request: DashboardRequest) -> Response:
        return see_other(request.link("/"))

    # --- a new key

    def new(
        self,
        request: DashboardRequest,
        status: int = 200,
        problem: PageProblem | None = None,
        values: Mapping[str, str] | None = None,
        errors: Mapping[str, str] | None = None,
    ) -> Response:
        # The form carries the new ID: if it is submitted twice, the store refuses the second key, even in
        # another process.
        token = self._make_token(request, "/new", payload=generate_id())
        values = values or {**dict.fromkeys(FORM_FIELDS, ""), "expires": "90d"}
        return self.page(
            request, "new.html", status, problem, token=token, values=values, errors=errors or {}
        )

    def create(self, request: DashboardRequest) -> Response:
        values = {name: request.field(name) for name in FORM_FIELDS}
        try:
            generated_id = self._check_token(request)
        except ExpiredToken as exc:
            return self.new(request, problem=exc, values=values)
        fields, errors = parse_new_key(values, generated_id, request.now)
        if errors:
            return self.new(request, 422, values=values, errors=errors)
        request.subject = fields["client_id"]
        try:
            issued = self._backend.create(**fields, actor=request.principal.client_id)
        except KeyExists:
            if request.subject == generated_id:
                key, _ = self._find(request, generated_id)
                return self.page(request, "show_key.html", problem=PageProblem(409, "duplicate"), key=key)
            errors = {"client_id": "a key with this ID already exists; choose another ID"}
            return self.new(request, 409, values=values, errors=errors)
        return self._show_secret(request, issued, rotated=False)

    def _show_secret(self, request: DashboardRequest, issued: Issued, *, rotated: bool) -> Response:
        """Show a secret, only in the response to the form: no link leads to this page."""
        context = self._call_context(request, {}, issued)
        key = view_of(issued.key, request.now)
        return self.page(request, "issued.html", key=key, rotated=rotated, **context)

    # --- rotate, disable, enable, revoke, delete

    def confirm(
        self,
        action: str,
        request: DashboardRequest,
        problem: PageProblem | None = None,
        overlap: str = "24h",
        error: str = "",
    ) -> Response:
        """Show the form of an action; for a rotation with the chosen overlap and its error."""
        key, version = self._find(request, request.field("id"))
        if key.state not in ACTIONS[action]:
            return self.page(request, "show_key.html", key=key)
        return self.page(
            request,
            "rotate.html" if action == "rotate" else "confirm.html",
            422 if error else 200,
            problem,
            action=action,
            key=key,
            token=self._make_token(request, f"/key/{action}", key.client_id, version),
            overlap=overlap,
            errors={"overlap": error} if error else {},
        )

    def rotate(self, request: DashboardRequest) -> Response:
        client_id, choice = request.field("id"), request.field("overlap")
        try:
            version = self._check_token(request, client_id)
        except ExpiredToken as exc:
            return self.confirm("rotate", request, exc, choice)
        overlap_s = parse_duration(request.field("other").strip() if choice == "other" else choice)
        if overlap_s is None:
            error = "enter a duration such as 45s, 30m, 36h, 3d or 2w"
            return self.confirm("rotate", request, overlap=choice, error=error)
        request.subject = client_id
        actor = request.principal.client_id
        try:
            # The version makes the store refuse a form that is submitted twice, even in another process.
            issued = self._backend.rotate(client_id, overlap_s=overlap_s, version=int(version), actor=actor)
        except InvalidKey as exc:
            key, current_version = self._find(request, client_id)
            if current_version != version:
                return self.page(request, "show_key.html", problem=PageProblem(409, "conflict"), key=key)
            return self.confirm("rotate", request, overlap=choice, error=str(exc))
        return self._show_secret(request, issued, rotated=True)

    def apply(self, action: str, request: DashboardRequest) -> Response:
        client_id = request.field("id")
        try:
            version = self._check_token(request, client_id)
        except ExpiredToken as exc:
            return self.confirm(action, request, exc)
        key, current_version = self._find(request, client_id)
        if current_version != version:
            return self.page(request, "show_key.html", problem=PageProblem(409, "conflict"), key=key)
        getattr(self._backend, action)(client_id, actor=request.principal.client_id)
        path = "/" if action == "delete" else "/key"
        return see_other(request.link(path, id=client_id, done=f"{action}d"))

    # --- Call API

    def call(self, request: DashboardRequest) -> Response:
        fields = {"endpoint": request.field("endpoint"), "id": request.field("id")}
        return self.page(request, "call.html", **self._call_context(request, fields))

    def update_call(self, request: DashboardRequest) -> Response:
        fields = {name: request.field(name) for name in ("endpoint", "id", "body")}
        for name in ("method", "path", "content_type"):
            fields[name] = request.field(name).strip()
        fields["method"] = fields["method"].upper()
        problem = None
        try:
            self._check_token(request)
            check_fields(fields)
        except PageProblem as exc:
            problem = exc
        return self.page(request, "call.html", problem=problem, **self._call_context(request, fields))

    def _call_context(
        self, request: DashboardRequest, fields: Mapping[str, str], issued: Issued | None = None
    ) -> dict[str, Any]:
        endpoints = self._endpoints(request)
        context = call_context(fields, endpoints, request.origin, request.base, self._scheme, issued)
        return {**context, "token": self._make_token(request, "/call")}

    def _endpoints(self, request: DashboardRequest) -> list[Endpoint]:
        source = self._openapi
        if source is None:  # only FastAPI apps have this method
            source = getattr(request.scope.get("app"), "openapi", None)
        try:
            return endpoints_of(source() if callable(source) else source, request.base)
        except Exception:  # of the app. A key may have been created already: its secret must be shown.
            logger.exception("cannot read the OpenAPI document; the dashboard continues without it")
            return []
