"""What each page does, for one request of an administrator."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ..counts import counts
from ..credentials import parse_basic
from ..errors import InvalidKey, KeyExists, KeyNotFound, ReadOnlyBackend, UnreadableRecord
from ..minting import generate_id
from ..rules import duration_s
from . import pages, problems
from .calls import Asked, call_view
from .facts import Answer, one, page, redirect
from .forms import TYPED, Mistyped, new_key
from .listing import listed
from .openapi import endpoints_of
from .problems import OldToken, PageProblem
from .tokens import PageTokens
from .views import Place, view_of
from .wording import ACTS, OVERLAPS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..backend import Backend, Issued
    from ..model import Key
    from .facts import Request
    from .openapi import Endpoint
    from .views import CallView, Frame, KeyView
    from .wording import Act

    Handlers = Mapping[str, Callable[[], Answer]]

logger = logging.getLogger("basicauth_mw")


@dataclass(frozen=True)
class Desk:
    """What all visits share.

    Attributes:
        backend: Where the keys are.
        peppers: Of the settings. Hidden in ``repr``.
        openapi: A document, or what gives it; None: that of the app round the dashboard.
    """

    backend: Backend
    peppers: Sequence[str] = field(repr=False)
    openapi: Mapping[str, Any] | Callable[[], Mapping[str, Any] | None] | None


class Visit:
    """One request.

    Args:
        desk: What it works on.
        request: What is asked.
        frame: What its pages have round them.

    Attributes:
        subject: The client id that it is about, as soon as that is known; empty: none.
    """

    def __init__(self, desk: Desk, request: Request, frame: Frame) -> None:
        self._backend = desk.backend
        self._desk = desk
        self._request = request
        self._frame = frame
        self._now = frame.now
        self._form: dict[str, list[str]] = {}
        self.subject = ""

    def answer(self) -> Answer:
        """Answer it.

        Raises:
            PageProblem: It is not carried out.
            BasicAuthError: The backend could not, or would not.
        """
        handlers = self._routes().get(self._request.path)
        if handlers is None:
            raise problems.NotFound
        method = "GET" if self._request.method == "HEAD" else self._request.method
        if method not in handlers:
            raise problems.NotAllowed(", ".join(["GET", "HEAD", *(["POST"] if "POST" in handlers else [])]))
        if method == "POST":
            self._check_write()
            self._form = self._request.form()
        return handlers[method]()

    def _routes(self) -> Mapping[str, Handlers]:
        routes: dict[str, Handlers] = {
            "/": {"GET": self._keys},
            "/key": {"GET": self._key},
            "/call": {"GET": self._call, "POST": self._call_again},
            "/activity": {"GET": self._activity},
            "/switch": {"GET": lambda: redirect(self._frame.url("/"))},
        }
        if self._frame.writable:
            routes["/new"] = {"GET": self._new, "POST": self._create}
            routes["/key/rotate"] = {"GET": self._ask_rotate, "POST": self._rotate}
            for act in ACTS.values():
                routes[f"/key/{act.name}"] = {
                    "GET": partial(self._ask, act),
                    "POST": partial(self._do, act),
                }
        return routes

    def _check_write(self) -> None:
        """Refuse what no page of ours can have sent.

        Raises:
            PageProblem: It did not.
        """
        request = self._request
        if not request.is_from_here:
            raise problems.CrossSite
        if request.body is None:
            raise problems.TooLarge
        if request.content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise problems.NotAForm

    @cached_property
    def _tokens(self) -> PageTokens:
        # Stretches a secret that a person chose, which takes a while: not for a page without a form.
        return PageTokens(parse_basic(self._request.authorization), self._desk.peppers)

    def _token(self, subject: str = "", carried: str = "", act: str = "") -> str:
        return self._tokens.make(act or self._request.path, subject, carried, self._now.timestamp())

    def _checked(self, subject: str = "") -> str:
        token = one(self._form, "page_token")
        return self._tokens.check(token, self._request.path, subject, self._now.timestamp())

    # --- looking

    def _place(self) -> Place:
        asked = self._request.asked()
        # Each has a hyphen before it, so that the start of the list can be told from nothing.
        trail = tuple(each[1:] for each in asked.get("back", []) if each.startswith("-"))
        return Place(one(asked, "prefix"), one(asked, "after"), trail)

    def _keys(self) -> Answer:
        asked = self._request.asked()
        place = self._place()
        try:
            keys, more = listed(self._backend, place, self._now)
        except ReadOnlyBackend:
            return page(pages.unlisted_page(self._frame))
        named = one(asked, "id")
        done = one(asked, "done")
        gone = done == "deleted" and named != "" and self._backend.get(named) is None
        return page(
            pages.keys_page(self._frame, place, keys, more=more, done=done if gone else "", named=named)
        )

    def _found(self, client_id: str) -> Key:
        key = self._backend.get(client_id)
        if key is None:
            raise KeyNotFound(f"there is no key with the client id {client_id!r}")
        return key

    def _view(self, client_id: str) -> tuple[KeyView, str]:
        """A key as it is now, and what tells that from what it is after any change."""
        self.subject = client_id
        try:
            key = self._found(client_id)
        except UnreadableRecord as exc:
            return view_of(UnreadableRecord(str(exc), client_id=client_id), self._now), "damaged"
        return view_of(key, self._now), str(key.version)

    def _key(self) -> Answer:
        asked = self._request.asked()
        key, _ = self._view(one(asked, "id"))
        done = one(asked, "done")
        holds = {"disabled": "disabled", "revoked": "revoked"}.get(done, "active") == key.state
        return page(pages.key_page(self._frame, key, done=done if holds else ""))

    def _activity(self) -> Answer:
        place = self._place()
        keys: list[KeyView] = []
        more = False
        can_list = True
        try:
            keys, more = listed(self._backend, place, self._now)
        except ReadOnlyBackend:
            can_list = False
        return page(pages.activity_page(self._frame, counts.seen(), place, keys, more=more, listed=can_list))

    # --- a new key

    def _new(self, status: int = 200, **shown: Any) -> Answer:
        # The id is made here, so that the store itself refuses the form that is sent a second time, whatever
        # process it comes to.
        token = self._token(carried=generate_id(), act="/new")
        return page(pages.create_page(self._frame, token, **shown), status)

    def _create(self) -> Answer:
        values = {name: one(self._form, name) for name in TYPED}
        try:
            minted = self._checked()
        except OldToken as exc:
            return self._new(exc.status, values=values, problem=(exc.title, exc.advice))
        try:
            fields = new_key(values, minted, self._now)
        except Mistyped as exc:
            return self._new(422, values=values, errors=exc.errors)
        self.subject = fields.client_id
        try:
            issued = self._backend.create(**asdict(fields), actor=self._actor)
        except KeyExists:
            if fields.client_id == minted:
                return self._sent_twice(minted)
            taken = "there is a key with this id already: choose another, or look at that one"
            return self._new(409, values=values, errors={"client_id": taken})
        return self._issued(issued, rotated=False)

    def _sent_twice(self, client_id: str) -> Answer:
        problem = (
            "That form was sent already, and the key was created then",
            (
                "No second key was created. The secret was shown once and cannot be shown again: if you have "
                "not kept it, rotate the key, or delete it."
            ),
        )
        key, _ = self._view(client_id)
        return page(pages.key_page(self._frame, key, problem=problem), 409)

    def _issued(self, issued: Issued, *, rotated: bool) -> Answer:
        """The one page that shows a secret: an answer to the form itself, which no link leads to."""
        view = self._call_view(Asked(), issued)
        return page(pages.issued_page(self._frame, issued, view, rotated=rotated))

    # --- another secret

    def _ask_rotate(self) -> Answer:
        return self._rotate_form(one(self._request.asked(), "id"))

    def _rotate_form(self, client_id: str, status: int = 200, **shown: Any) -> Answer:
        key, version = self._view(client_id)
        if key.state in ("revoked", "unreadable"):
            return page(pages.key_page(self._frame, key), status)
        token = self._token(client_id, version)
        return page(pages.rotate_page(self._frame, key, token, **shown), status)

    def _rotate(self) -> Answer:
        client_id = one(self._form, "id")
        choice, other = one(self._form, "overlap"), one(self._form, "other").strip()
        try:
            version = self._checked(client_id)
        except OldToken as exc:
            return self._rotate_form(client_id, exc.status, overlap=choice, problem=(exc.title, exc.advice))
        overlap_s = duration_s(other) if choice == "other" else OVERLAPS.get(choice, ("", None))[1]
        if overlap_s is None:
            error = "give a length such as 45s, 30m, 36h, 3d or 2w"
            return self._rotate_form(client_id, 422, overlap=choice, error=error)
        self.subject = client_id
        try:
            # Of a form that is sent twice, the store itself refuses the second, whatever process it comes to.
            issued = self._backend.rotate(
                client_id, overlap_s=overlap_s, version=int(version), actor=self._actor
            )
        except InvalidKey as exc:
            key, now_version = self._view(client_id)
            if now_version != version:
                return self._stale(key)
            return self._rotate_form(client_id, 422, overlap=choice, error=str(exc))
        return self._issued(issued, rotated=True)

    def _stale(self, key: KeyView) -> Answer:
        problem = problems.Stale
        return page(pages.key_page(self._frame, key, problem=(problem.title, problem.advice)), problem.status)

    # --- disable, enable, revoke, delete

    @property
    def _actor(self) -> str:
        """Who is signed in, for the audit log."""
        return self._frame.principal.client_id

    def _ask(self, act: Act) -> Answer:
        return self._confirmation(act, one(self._request.asked(), "id"))

    def _confirmation(
        self, act: Act, client_id: str, status: int = 200, problem: tuple[str, str] | None = None
    ) -> Answer:
        key, version = self._view(client_id)
        if key.state not in act.states:
            return page(pages.key_page(self._frame, key), status)
        token = self._token(client_id, version)
        return page(pages.confirm_page(self._frame, act, key, token, problem), status)

    def _do(self, act: Act) -> Answer:
        client_id = one(self._form, "id")
        try:
            version = self._checked(client_id)
        except OldToken as exc:
            return self._confirmation(act, client_id, exc.status, (exc.title, exc.advice))
        key, now_version = self._view(client_id)
        if now_version != version:
            return self._stale(key)
        getattr(self._backend, act.name)(client_id, actor=self._actor)
        to = "/" if act.name == "delete" else "/key"
        return redirect(self._frame.url(to, id=client_id, done=act.done))

    # --- trying requests

    def _call(self) -> Answer:
        asked = self._request.asked()
        view = self._call_view(Asked(endpoint=one(asked, "endpoint"), client_id=one(asked, "id")))
        return page(pages.call_page(self._frame, view))

    def _call_again(self) -> Answer:
        form = self._form
        asked = Asked(
            endpoint=one(form, "endpoint"),
            client_id=one(form, "id"),
            method=one(form, "method").upper().strip(),
            path=one(form, "path").strip(),
            body=one(form, "body"),
            content_type=one(form, "content_type").strip(),
        )
        view = self._call_view(asked)
        try:
            self._checked()
            asked.check()
        except PageProblem as exc:
            return page(pages.call_page(self._frame, view, (exc.title, exc.advice)), exc.status)
        return page(pages.call_page(self._frame, view))

    def _call_view(self, asked: Asked, issued: Issued | None = None) -> CallView:
        return call_view(
            asked,
            self._endpoints(),
            origin=self._request.here,
            base=self._request.base,
            token=self._token(act="/call"),
            issued=issued,
        )

    def _endpoints(self) -> list[Endpoint]:
        source = self._desk.openapi
        try:
            document = self._request.openapi() if source is None else source() if callable(source) else source
            return endpoints_of(document, self._request.base)
        except Exception:  # the app's own; a key may have been made by now, and its secret has to be seen
            logger.exception("the OpenAPI document cannot be read, and the dashboard goes on without it")
            return []
