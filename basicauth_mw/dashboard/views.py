"""The views: what each page does, for one request of an administrator."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse
from starlette.routing import Route

from ..auth.stats import refusal_stats
from ..backends import Store
from ..errors import InvalidKey, KeyExists, KeyNotFound, ReadOnlyBackend, UnreadableRecord
from ..keys.credentials import parse_basic
from ..keys.generated_secrets import generate_id
from ..keys.validation import duration_s
from .calls import call_context, check_typed
from .forms import TYPED, new_key
from .listing import Place, listed, recency_of, view_of
from .openapi import endpoints_of
from .problems import OldToken, PageProblem
from .responses import safe_headers, see_other
from .templates import render
from .tokens import PageTokens
from .wording import ACTS, OVERLAPS, REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.responses import Response

    from ..backends.backend import Backend, Issued
    from .listing import KeyView
    from .openapi import Endpoint
    from .requests import DashboardRequest

    Document = Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None

logger = logging.getLogger("basicauth_mw")


class Views:
    """Every view, over one backend.

    Args:
        backend: Where the keys are.
        peppers: Of the settings.
        openapi: A document, or what gives it; None: that of the app in which the dashboard is mounted.
    """

    def __init__(self, backend: Backend, peppers: Sequence[str], openapi: Document) -> None:
        self._backend = backend
        self._peppers = peppers
        self._openapi = openapi
        self.writable = isinstance(backend.store, Store)

    def routes(self) -> list[Route]:
        """All pages; those that change keys only where keys can be changed."""
        found = [
            Route("/", self.keys),
            Route("/key", self.key),
            Route("/call", self.call),
            Route("/call", self.update_call, methods=["POST"]),
            Route("/activity", self.activity),
            Route("/switch", self.switch),
        ]
        if self.writable:
            found += [Route("/new", self.new), Route("/new", self.create, methods=["POST"])]
            for act in ACTS:
                do = self.rotate if act == "rotate" else partial(self.carry_out, act)
                found.append(Route(f"/key/{act}", partial(self.act_form, act)))
                found.append(Route(f"/key/{act}", do, methods=["POST"]))
        return found

    def page(
        self,
        request: DashboardRequest,
        template: str,
        status: int = 200,
        problem: PageProblem | None = None,
        headers: Mapping[str, str] | None = None,
        **context: Any,
    ) -> Response:
        """A page with the dashboard's own frame; ``problem`` gives its status, if there is one."""
        markup = render(template, request=request, writable=self.writable, problem=problem, **context)
        body = markup.encode(
            "utf-8", "backslashreplace"
        )  # a record from elsewhere may hold what has no UTF-8
        status = problem.status if problem else status
        return HTMLResponse(body, status, {**safe_headers(), **(headers or {})})

    # --- page tokens

    def _tokens(self, request: DashboardRequest) -> PageTokens:
        # Stretches a secret that a person chose, which takes a while: not for a page without a form.
        return PageTokens(parse_basic(request.authorization), self._peppers)

    def _token(self, request: DashboardRequest, path: str, subject: str = "", carried: str = "") -> str:
        return self._tokens(request).make(path, subject, carried, request.now.timestamp())

    def _check_token(self, request: DashboardRequest, subject: str = "") -> str:
        token = request.field("page_token")
        return self._tokens(request).check(token, request.path, subject, request.now.timestamp())

    # --- looking

    def keys(self, request: DashboardRequest) -> Response:
        context = self._list(request)
        if not context["listed"]:
            return self.page(request, "unlisted.html")
        named = request.field("id")
        is_deleted = request.field("done") == "deleted" and named != "" and self._backend.get(named) is None
        return self.page(request, "keys.html", deleted=named if is_deleted else "", **context)

    def activity(self, request: DashboardRequest) -> Response:
        context, seen = self._list(request), refusal_stats.snapshot()
        recency, groups = recency_of(context["keys"], request.now), reason_groups(seen.totals)
        return self.page(request, "activity.html", seen=seen, groups=groups, recency=recency, **context)

    def _list(self, request: DashboardRequest) -> dict[str, Any]:
        place = Place.of(request.query_params)
        try:
            keys, following = listed(self._backend, place, request.now)
        except ReadOnlyBackend:
            return {"listed": False, "place": place, "keys": [], "following": None}
        return {"listed": True, "place": place, "keys": keys, "following": following}

    def key(self, request: DashboardRequest) -> Response:
        key, _ = self._find(request)
        done = request.field("done")
        holds = {"disabled": "disabled", "revoked": "revoked"}.get(done, "active") == key.state
        return self._key_page(request, key, done=done if holds else "")

    def _key_page(self, request: DashboardRequest, key: KeyView, **shown: Any) -> Response:
        return self.page(request, "one_key.html", key=key, **{"done": "", **shown})

    def _find(self, request: DashboardRequest, client_id: str | None = None) -> tuple[KeyView, str]:
        """A key as it is now, and what tells that from what it is after any change; None: it is a field."""
        request.subject = client_id = request.field("id") if client_id is None else client_id
        try:
            key = self._backend.get(client_id)
        except UnreadableRecord as exc:
            return view_of(UnreadableRecord(str(exc), client_id=client_id), request.now), "damaged"
        if key is None:
            raise KeyNotFound(f"there is no key with the client id {client_id!r}")
        return view_of(key, request.now), str(key.version)

    def switch(self, request: DashboardRequest) -> Response:
        return see_other(request.link("/"))

    # --- a new key

    def new(
        self,
        request: DashboardRequest,
        values: Mapping[str, str] | None = None,
        errors: Mapping[str, str] | None = None,
        **shown: Any,
    ) -> Response:
        # The id is made here, so that the store itself refuses the form that is sent a second time, whatever
        # process it comes to.
        token = self._token(request, "/new", carried=generate_id())
        values = values or {**dict.fromkeys(TYPED, ""), "expires": "90d"}
        return self.page(request, "new.html", token=token, values=values, errors=errors or {}, **shown)

    def create(self, request: DashboardRequest) -> Response:
        values = {name: request.field(name) for name in TYPED}
        try:
            minted = self._check_token(request)
        except OldToken as exc:
            return self.new(request, values, problem=exc)
        fields, errors = new_key(values, minted, request.now)
        if errors:
            return self.new(request, values, errors, status=422)
        request.subject = fields["client_id"]
        try:
            issued = self._backend.create(**fields, actor=request.principal.client_id)
        except KeyExists:
            if request.subject == minted:
                key, _ = self._find(request, minted)
                return self._key_page(request, key, problem=PageProblem(409, "sent-twice"))
            taken = "there is a key with this id already: choose another, or look at that one"
            return self.new(request, values, {"client_id": taken}, status=409)
        return self._issued(request, issued, rotated=False)

    def _issued(self, request: DashboardRequest, issued: Issued, *, rotated: bool) -> Response:
        """The one page that shows a secret: a response to the form itself, which no link leads to."""
        context = self._call_context(request, {}, issued)
        key = view_of(issued.key, request.now)
        return self.page(request, "issued.html", key=key, rotated=rotated, **context)

    # --- rotate, disable, enable, revoke, delete

    def act_form(
        self,
        act: str,
        request: DashboardRequest,
        problem: PageProblem | None = None,
        overlap: str = "24h",
        error: str = "",
    ) -> Response:
        """The form that asks whether a key is meant; for a rotation, with the overlap and what is wrong."""
        status = problem.status if problem else 422 if error else 200
        key, version = self._find(request)
        if key.state not in ACTS[act]:
            return self._key_page(request, key, status=status)
        return self.page(
            request,
            "rotate.html" if act == "rotate" else "confirm.html",
            status,
            problem,
            act=act,
            key=key,
            token=self._token(request, f"/key/{act}", key.client_id, version),
            overlap=overlap,
            errors={"overlap": error} if error else {},
        )

    def rotate(self, request: DashboardRequest) -> Response:
        client_id, choice = request.field("id"), request.field("overlap")
        try:
            version = self._check_token(request, client_id)
        except OldToken as exc:
            return self.act_form("rotate", request, exc, choice)
        if choice == "other":
            overlap_s = duration_s(request.field("other").strip())
        else:
            overlap_s = OVERLAPS.get(choice, ("", None))[1]
        if overlap_s is None:
            error = "give a length such as 45s, 30m, 36h, 3d or 2w"
            return self.act_form("rotate", request, overlap=choice, error=error)
        request.subject = client_id
        actor = request.principal.client_id
        try:
            # Of a form that is sent twice, the store itself refuses the second, whatever process it comes to.
            issued = self._backend.rotate(client_id, overlap_s=overlap_s, version=int(version), actor=actor)
        except InvalidKey as exc:
            key, now_version = self._find(request)
            if now_version != version:
                return self._key_page(request, key, problem=PageProblem(409, "stale"))
            return self.act_form("rotate", request, overlap=choice, error=str(exc))
        return self._issued(request, issued, rotated=True)

    def carry_out(self, act: str, request: DashboardRequest) -> Response:
        client_id = request.field("id")
        try:
            version = self._check_token(request, client_id)
        except OldToken as exc:
            return self.act_form(act, request, exc)
        key, now_version = self._find(request)
        if now_version != version:
            return self._key_page(request, key, problem=PageProblem(409, "stale"))
        getattr(self._backend, act)(client_id, actor=request.principal.client_id)
        to = "/" if act == "delete" else "/key"
        return see_other(request.link(to, id=client_id, done=f"{act}d"))

    # --- trying requests

    def call(self, request: DashboardRequest) -> Response:
        picked = {"endpoint": request.field("endpoint"), "id": request.field("id")}
        return self.page(request, "call.html", **self._call_context(request, picked))

    def update_call(self, request: DashboardRequest) -> Response:
        typed = {name: request.field(name) for name in ("endpoint", "id", "body")}
        for name in ("method", "path", "content_type"):
            typed[name] = request.field(name).strip()
        typed["method"] = typed["method"].upper()
        problem = None
        try:
            self._check_token(request)
            check_typed(typed)
        except PageProblem as exc:
            problem = exc
        return self.page(request, "call.html", problem=problem, **self._call_context(request, typed))

    def _call_context(
        self, request: DashboardRequest, typed: Mapping[str, str], issued: Issued | None = None
    ) -> dict[str, Any]:
        endpoints = self._endpoints(request)
        context = call_context(typed, endpoints, request.origin, request.base, issued)
        return {**context, "token": self._token(request, "/call")}

    def _endpoints(self, request: DashboardRequest) -> list[Endpoint]:
        source = self._openapi
        if source is None:  # a FastAPI app is told by what it can do
            source = getattr(request.scope.get("app"), "openapi", None)
        try:
            return endpoints_of(source() if callable(source) else source, request.base)
        except Exception:  # the app's own; a key may have been made by now, and its secret has to be seen
            logger.exception("the OpenAPI document cannot be read, and the dashboard goes on without it")
            return []


def reason_groups(totals: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """What each reason means, in the order in which they are shown; last those that nothing is known of."""
    known = {reason for group in REASONS.values() for reason in group}
    return {**REASONS, "Other": {reason: "" for reason in sorted(totals) if reason not in known}}
