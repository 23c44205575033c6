"""The views: what each page does, for one request of an administrator."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from ..backends import Store
from ..counts import counts
from ..credentials import parse_basic
from ..errors import InvalidKey, KeyExists, KeyNotFound, ReadOnlyBackend, UnreadableRecord
from ..minting import generate_id
from ..rules import duration_s
from . import problems
from .calls import CallForm, call_view
from .display import recency_of, view_of
from .forms import TYPED, Mistyped, new_key
from .listing import Place, listed
from .openapi import endpoints_of
from .problems import OldToken, PageProblem
from .responses import page, see_other
from .templates import render
from .tokens import PageTokens
from .wording import ACTS, OVERLAPS, REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.responses import Response

    from ..backend import Backend, Issued
    from .calls import CallView
    from .display import KeyView
    from .openapi import Endpoint
    from .requests import DashboardRequest
    from .wording import Act

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
            found += [
                Route("/new", self.new),
                Route("/new", self.create, methods=["POST"]),
                Route("/key/rotate", self.rotate_form),
                Route("/key/rotate", self.rotate, methods=["POST"]),
            ]
            for act in ACTS.values():
                path = f"/key/{act.name}"
                found.append(Route(path, partial(self.confirm, act)))
                found.append(Route(path, partial(self.carry_out, act), methods=["POST"]))
        return found

    def page(
        self,
        request: DashboardRequest,
        template: str,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **context: Any,
    ) -> Response:
        """A page with the dashboard's own frame round it."""
        markup = render(template, request=request, writable=self.writable, **context)
        return page(markup, status, headers)

    # --- page tokens

    def _tokens(self, request: DashboardRequest) -> PageTokens:
        # Stretches a secret that a person chose, which takes a while: not for a page without a form.
        return PageTokens(parse_basic(request.authorization), self._peppers)

    def _token(self, request: DashboardRequest, subject: str = "", carried: str = "", path: str = "") -> str:
        now = request.now.timestamp()
        return self._tokens(request).make(path or request.path, subject, carried, now)

    def _check_token(self, request: DashboardRequest, subject: str = "") -> str:
        token = request.field("page_token")
        return self._tokens(request).check(token, request.path, subject, request.now.timestamp())

    # --- looking

    def keys(self, request: DashboardRequest) -> Response:
        query = request.query_params
        place = Place.of(query)
        try:
            keys, following = listed(self._backend, place, request.now)
        except ReadOnlyBackend:
            return self.page(request, "unlisted.html")
        named, done = query.get("id", ""), query.get("done", "")
        is_gone = done == "deleted" and named != "" and self._backend.get(named) is None
        return self.page(
            request,
            "keys.html",
            keys=keys,
            place=place,
            following=following,
            done=done if is_gone else "",
            named=named,
        )

    def activity(self, request: DashboardRequest) -> Response:
        place = Place.of(request.query_params)
        can_list = True
        try:
            keys, following = listed(self._backend, place, request.now)
        except ReadOnlyBackend:
            keys, following, can_list = [], None, False
        return self.page(
            request,
            "activity.html",
            keys=keys,
            place=place,
            following=following,
            listed=can_list,
            recency=recency_of(keys, request.now),
            seen=(seen := counts.seen()),
            groups=reason_groups(seen.totals),
        )

    def key(self, request: DashboardRequest) -> Response:
        query = request.query_params
        key, _ = self._found(request, query.get("id", ""))
        done = query.get("done", "")
        holds = {"disabled": "disabled", "revoked": "revoked"}.get(done, "active") == key.state
        return self._key_page(request, key, done=done if holds else "")

    def _key_page(
        self,
        request: DashboardRequest,
        key: KeyView,
        status: int = 200,
        *,
        done: str = "",
        problem: PageProblem | None = None,
    ) -> Response:
        status = problem.status if problem else status
        return self.page(request, "one_key.html", status, key=key, done=done, problem=problem)

    def _found(self, request: DashboardRequest, client_id: str) -> tuple[KeyView, str]:
        """A key as it is now, and what tells that from what it is after any change."""
        request.subject = client_id
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
        status: int = 200,
        values: Mapping[str, str] | None = None,
        errors: Mapping[str, str] | None = None,
        problem: PageProblem | None = None,
    ) -> Response:
        # The id is made here, so that the store itself refuses the form that is sent a second time, whatever
        # process it comes to.
        token = self._token(request, carried=generate_id(), path="/new")
        values = values or {**dict.fromkeys(TYPED, ""), "expires": "90d"}
        return self.page(
            request, "new.html", status, token=token, values=values, errors=errors or {}, problem=problem
        )

    def create(self, request: DashboardRequest) -> Response:
        values = {name: request.field(name) for name in TYPED}
        try:
            minted = self._check_token(request)
        except OldToken as exc:
            return self.new(request, exc.status, values, problem=exc)
        try:
            fields = new_key(values, minted, request.now)
        except Mistyped as exc:
            return self.new(request, 422, values, exc.errors)
        request.subject = fields.client_id
        try:
            issued = self._backend.create(**asdict(fields), actor=request.principal.client_id)
        except KeyExists:
            if fields.client_id == minted:
                key, _ = self._found(request, minted)
                return self._key_page(request, key, problem=problems.SentTwice())
            taken = "there is a key with this id already: choose another, or look at that one"
            return self.new(request, 409, values, {"client_id": taken})
        return self._issued(request, issued, rotated=False)

    def _issued(self, request: DashboardRequest, issued: Issued, *, rotated: bool) -> Response:
        """The one page that shows a secret: a response to the form itself, which no link leads to."""
        return self.page(
            request,
            "issued.html",
            issued=issued,
            key=view_of(issued.key, request.now),
            rotated=rotated,
            token=self._token(request, path="/call"),
            view=self._call_view(request, CallForm(), issued),
        )

    # --- another secret

    def rotate_form(
        self,
        request: DashboardRequest,
        status: int = 200,
        overlap: str = "24h",
        error: str = "",
        problem: PageProblem | None = None,
    ) -> Response:
        client_id = request.field("id")
        key, version = self._found(request, client_id)
        if key.state in ("revoked", "unreadable"):
            return self._key_page(request, key, status)
        token = self._token(request, client_id, version)
        return self.page(
            request,
            "rotate.html",
            status,
            key=key,
            token=token,
            overlap=overlap,
            errors={"overlap": error} if error else {},
            problem=problem,
        )

    def rotate(self, request: DashboardRequest) -> Response:
        client_id, choice = request.field("id"), request.field("overlap")
        try:
            version = self._check_token(request, client_id)
        except OldToken as exc:
            return self.rotate_form(request, exc.status, choice, problem=exc)
        if choice == "other":
            overlap_s = duration_s(request.field("other").strip())
        else:
            overlap_s = OVERLAPS.get(choice, ("", None))[1]
        if overlap_s is None:
            return self.rotate_form(request, 422, choice, "give a length such as 45s, 30m, 36h, 3d or 2w")
        request.subject = client_id
        actor = request.principal.client_id
        try:
            # Of a form that is sent twice, the store itself refuses the second, whatever process it comes to.
            issued = self._backend.rotate(client_id, overlap_s=overlap_s, version=int(version), actor=actor)
        except InvalidKey as exc:
            key, now_version = self._found(request, client_id)
            if now_version != version:
                return self._key_page(request, key, problem=problems.Stale())
            return self.rotate_form(request, 422, choice, str(exc))
        return self._issued(request, issued, rotated=True)

    # --- disable, enable, revoke, delete

    def confirm(self, act: Act, request: DashboardRequest, problem: PageProblem | None = None) -> Response:
        status = problem.status if problem else 200
        client_id = request.field("id")
        key, version = self._found(request, client_id)
        if key.state not in act.states:
            return self._key_page(request, key, status)
        token = self._token(request, client_id, version)
        return self.page(request, "confirm.html", status, act=act, key=key, token=token, problem=problem)

    def carry_out(self, act: Act, request: DashboardRequest) -> Response:
        client_id = request.field("id")
        try:
            version = self._check_token(request, client_id)
        except OldToken as exc:
            return self.confirm(act, request, exc)
        key, now_version = self._found(request, client_id)
        if now_version != version:
            return self._key_page(request, key, problem=problems.Stale())
        getattr(self._backend, act.name)(client_id, actor=request.principal.client_id)
        to = "/" if act.name == "delete" else "/key"
        return see_other(request.link(to, id=client_id, done=act.done))

    # --- trying requests

    def call(self, request: DashboardRequest) -> Response:
        form = CallForm(endpoint=request.field("endpoint"), client_id=request.field("id"))
        return self._call_page(request, form)

    def update_call(self, request: DashboardRequest) -> Response:
        form = CallForm(
            endpoint=request.field("endpoint"),
            client_id=request.field("id"),
            method=request.field("method").upper().strip(),
            path=request.field("path").strip(),
            body=request.field("body"),
            content_type=request.field("content_type").strip(),
        )
        try:
            self._check_token(request)
            form.check()
        except PageProblem as exc:
            return self._call_page(request, form, exc)
        return self._call_page(request, form)

    def _call_page(
        self, request: DashboardRequest, form: CallForm, problem: PageProblem | None = None
    ) -> Response:
        status = problem.status if problem else 200
        token, view = self._token(request, path="/call"), self._call_view(request, form)
        return self.page(request, "call.html", status, token=token, view=view, problem=problem)

    def _call_view(self, request: DashboardRequest, form: CallForm, issued: Issued | None = None) -> CallView:
        endpoints = self._endpoints(request)
        return call_view(form, endpoints, origin=request.origin, base=request.base, issued=issued)

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
