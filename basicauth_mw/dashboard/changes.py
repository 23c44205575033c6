"""The forms that change keys. Each submits to the path that shows it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from starlette.routing import Route

from ..errors import InvalidKey, KeyExists
from ..keys.generated_secrets import generate_id
from ..keys.validation import parse_datetime, parse_duration
from .forms import (
    EDIT_FIELDS,
    FORM_FIELDS,
    UNCHANGED,
    is_edited,
    parse_edited_key,
    parse_new_key,
    shown_fields,
)
from .listing import view_of
from .problems import ExpiredToken, PageProblem
from .responses import see_other
from .strings import ACTIONS, LIFETIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.responses import Response

    from ..backends.backend import Issued
    from ..keys.model import Key
    from .handlers import Handlers
    from .request import DashboardRequest


class Changes:
    """The handlers of these forms, for a backend that can be written."""

    def __init__(self, pages: Handlers) -> None:
        self._pages = pages
        self._backend = pages.backend

    def routes(self) -> list[Route]:
        """Return the routes of the forms and of their submissions."""
        routes = [Route("/new", self.new), Route("/new", self.create, methods=["POST"])]
        handlers: dict[str, tuple[Callable[..., Response], Callable[..., Response]]] = {
            action: (partial(self.confirm, action), partial(self.apply, action)) for action in ACTIONS
        }
        handlers |= {"edit": (self.edit, self.update), "rotate": (self.ask_overlap, self.rotate)}
        for action, (show, submit) in handlers.items():
            routes.append(Route(f"/key/{action}", show))
            routes.append(Route(f"/key/{action}", submit, methods=["POST"]))
        return routes

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
        token = self._pages.make_token(request, "/new", payload=generate_id())
        values = values or {**dict.fromkeys(FORM_FIELDS, ""), "expires": "90d"}
        return self._pages.page(
            request, "new.html", status, problem, token=token, values=values, errors=errors or {}
        )

    def create(self, request: DashboardRequest) -> Response:
        values = {name: request.field(name) for name in FORM_FIELDS}
        try:
            generated_id = self._pages.check_token(request)
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
                return self._pages.show_key(request, generated_id, PageProblem(409, "duplicate"))
            errors = {"client_id": "a key with this ID already exists; choose another ID"}
            return self.new(request, 409, values=values, errors=errors)
        return self._show_secret(request, issued, rotated=False)

    def _show_secret(self, request: DashboardRequest, issued: Issued, *, rotated: bool) -> Response:
        """Show a secret, only in the response to the form: no link leads to this page."""
        context = self._pages.call_context(request, {}, issued)
        key = view_of(issued.key, request.now)
        return self._pages.page(request, "issued.html", key=key, rotated=rotated, **context)

    # --- edit

    def edit(
        self,
        request: DashboardRequest,
        status: int = 200,
        problem: PageProblem | None = None,
        errors: Mapping[str, str] | None = None,
    ) -> Response:
        """Show the form. A submitted one keeps what was typed, and shows what others have changed since."""
        key, _ = self._pages.find(request, request.field("id"))
        if key.state not in ACTIONS["edit"]:
            return self._pages.show_key(request, key.client_id, problem)
        current = shown_fields(key)
        expires = request.field("expires")
        values = {**current, "expires": expires if expires in LIFETIMES else UNCHANGED, "until": ""}
        changed = {}
        if request.method == "POST":
            typed, shown = _submitted(request)
            values["until"] = typed["until"]
            values |= {name: typed[name] for name in shown if is_edited(name, typed, shown)}
            changed = {name: shown[name] for name in shown if shown[name] != current[name]}
        return self._pages.page(
            request,
            "edit.html",
            status,
            problem,
            key=key,
            token=self._pages.make_token(request, "/key/edit", key.client_id),
            shown=current,
            values=values,
            changed=changed,
            errors=errors or {},
        )

    def update(self, request: DashboardRequest) -> Response:
        client_id = request.field("id")
        try:
            self._pages.check_token(request, client_id)
        except ExpiredToken as exc:
            return self.edit(request, problem=exc)
        typed, shown = _submitted(request)
        key, version = self._pages.find(request, client_id)
        if key.state not in ACTIONS["edit"]:
            return self._pages.show_key(request, client_id, PageProblem(409, "conflict"))
        conflict = PageProblem(409, "edit-conflict")
        if shown_fields(key) != shown:
            return self.edit(request, problem=conflict)
        fields, errors = parse_edited_key(typed, shown, request.now)
        if errors:
            return self.edit(request, 422, errors=errors)
        actor = request.principal.client_id
        try:
            updated = self._backend.update(client_id, **fields, version=int(version), actor=actor)
        except InvalidKey:  # it was changed after it was read
            return self.edit(request, problem=conflict)
        return _changed(request, "edit" if fields else "", updated)

    # --- rotate

    def ask_overlap(
        self,
        request: DashboardRequest,
        problem: PageProblem | None = None,
        overlap: str = "24h",
        error: str = "",
    ) -> Response:
        key, version = self._pages.find(request, request.field("id"))
        if key.state not in ACTIONS["rotate"]:
            return self._pages.show_key(request, key.client_id, problem)
        return self._pages.page(
            request,
            "rotate.html",
            422 if error else 200,
            problem,
            key=key,
            token=self._pages.make_token(request, "/key/rotate", key.client_id, version),
            overlap=overlap,
            errors={"overlap": error} if error else {},
        )

    def rotate(self, request: DashboardRequest) -> Response:
        client_id, choice = request.field("id"), request.field("overlap")
        try:
            version = self._pages.check_token(request, client_id)
        except ExpiredToken as exc:
            return self.ask_overlap(request, exc, choice)
        overlap_s = parse_duration(request.field("other").strip() if choice == "other" else choice)
        if overlap_s is None:
            error = "enter a duration such as 45s, 30m, 36h, 3d or 2w"
            return self.ask_overlap(request, overlap=choice, error=error)
        request.subject = client_id
        actor = request.principal.client_id
        try:
            # The version makes the store refuse a form that is submitted twice, even in another process.
            issued = self._backend.rotate(client_id, overlap_s=overlap_s, version=int(version), actor=actor)
        except InvalidKey as exc:
            if self._pages.find(request, client_id)[1] != version:
                return self._pages.show_key(request, client_id, PageProblem(409, "conflict"))
            return self.ask_overlap(request, overlap=choice, error=str(exc))
        return self._show_secret(request, issued, rotated=True)

    # --- disable, enable, end a secret, revoke, delete

    def confirm(self, action: str, request: DashboardRequest, problem: PageProblem | None = None) -> Response:
        key, version = self._pages.find(request, request.field("id"))
        created = request.field("created")
        secrets = [each for each in key.secrets if each.created_at.isoformat() == created]
        if key.state not in ACTIONS[action] or (action == "end-secret" and not secrets):
            return self._pages.show_key(request, key.client_id, problem)
        token = self._pages.make_token(request, f"/key/{action}", key.client_id, version)
        return self._pages.page(
            request, "confirm.html", 200, problem, action=action, key=key, token=token, secrets=secrets
        )

    def apply(self, action: str, request: DashboardRequest) -> Response:
        client_id = request.field("id")
        try:
            version = self._pages.check_token(request, client_id)
        except ExpiredToken as exc:
            return self.confirm(action, request, exc)
        view, current = self._pages.find(request, client_id)
        # Whatever the key has become, it can be refused. Other changes are made to the key that was shown.
        is_outdated = current != version and action not in ("disable", "revoke")
        if is_outdated or view.state not in ACTIONS[action]:
            return self._pages.show_key(request, client_id, PageProblem(409, "conflict"))
        backend, actor = self._backend, request.principal.client_id
        try:
            if action == "end-secret":
                created_at = parse_datetime(request.field("created"), "when the secret was created")
                key = backend.end_secret(client_id, created_at, version=int(version), actor=actor)
            elif action == "enable":
                key = backend.enable(client_id, version=int(version), actor=actor)
            else:
                key = getattr(backend, action)(client_id, actor=actor)
        except InvalidKey:
            if self._pages.find(request, client_id)[1] == version:
                raise
            return self._pages.show_key(request, client_id, PageProblem(409, "conflict"))
        return _changed(request, action, key)


def _submitted(request: DashboardRequest) -> tuple[dict[str, str], dict[str, str]]:
    """What was typed into the form, and what it had shown. Browsers send line breaks as CR LF."""

    def read(name: str) -> str:
        return request.field(name).replace("\r\n", "\n")

    shown = {name: read(f"was_{name}") for name in EDIT_FIELDS if name != "until"}
    return {name: read(name) for name in EDIT_FIELDS}, shown


def _changed(request: DashboardRequest, action: str, key: Key) -> Response:
    path = "/" if action == "delete" else "/key"
    return see_other(request.link(path, id=key.client_id, done=action, version=str(key.version)))
