"""The forms that change keys. Each submits to the path that shows it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import InvalidKey, KeyExists
from ..keys.generated_secrets import generate_id
from ..keys.validation import parse_datetime, parse_duration
from . import forms
from .handlers import Handlers
from .listing import view_of
from .problems import FormProblem, PageProblem
from .responses import see_other
from .strings import ACTIONS, LIFETIMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response

    from ..backends.backend import Issued
    from ..keys.model import Key
    from .handlers import Routes
    from .listing import KeyView
    from .request import DashboardRequest


class Changes(Handlers):
    """The handlers of these forms, for a backend that can be written."""

    def changing_routes(self) -> Routes:
        """Return the handlers of the forms, by path and method."""
        routes: Routes = {"/new": {"GET": self.new, "POST": self.create}}
        special = {"edit": (self.edit, self.update), "rotate": (self.ask_overlap, self.rotate)}
        for action in ACTIONS:
            form, process = special.get(action, (partial(self.confirm, action), partial(self.apply, action)))
            show = partial(self._show, action, form)
            routes[f"/key/{action}"] = {"GET": show, "POST": partial(self._submit, action, show, process)}
        return routes

    def _show(
        self,
        action: str,
        form: Callable[..., Response],
        request: DashboardRequest,
        problem: PageProblem | None = None,
    ) -> Response:
        """Show the form of an action, or the key if the action is not possible."""
        key = self.find(request, request.field("id"))
        if key.state not in ACTIONS[action]:
            return self.show_key(request, problem=problem)
        return form(request, key, problem)

    def _submit(
        self,
        action: str,
        show: Callable[..., Response],
        process: Callable[..., Response],
        request: DashboardRequest,
    ) -> Response:
        """Process the form of an action. Its CSRF token has the version of the key, except for "edit"."""
        client_id, version = request.field("id"), ""
        try:
            version = self.check_token(request, client_id)
            key = self.find(request, client_id)
            # Disable and revoke only take access away, so they do not depend on the version.
            is_outdated = version not in ("", str(key.version)) and action not in ("disable", "revoke")
            if is_outdated or key.state not in ACTIONS[action]:
                return self.show_key(request, problem=PageProblem(409, "conflict"))
            return process(request, key)
        except FormProblem as exc:
            problem = exc
        except InvalidKey as exc:
            problem = FormProblem(422, "refused", str(exc))
        if version not in ("", str(self.find(request, client_id).version)):
            return self.show_key(request, problem=PageProblem(409, "conflict"))
        return show(request, problem)

    # --- a new key

    def new(self, request: DashboardRequest, problem: PageProblem | None = None) -> Response:
        # The form carries the new ID: if it is submitted twice, the store refuses the second key, even in
        # another process.
        token = self.make_token(request, "/new", payload=generate_id())
        values = {**dict.fromkeys(forms.NEW_FIELDS, ""), "expires": "90d"}
        if request.method == "POST":
            values = {name: request.field(name) for name in forms.NEW_FIELDS}
        return self.page(request, "new.html", problem, token=token, values=values)

    def create(self, request: DashboardRequest) -> Response:
        try:
            generated_id = self.check_token(request)
            fields = forms.parse_new_key(request.field, generated_id, request.now)
        except FormProblem as exc:
            return self.new(request, exc)
        request.subject = fields["client_id"]
        try:
            issued = self.backend.create(**fields, actor=request.principal.client_id)
        except KeyExists:
            if request.subject == generated_id:
                return self.show_key(request, generated_id, PageProblem(409, "duplicate"))
            errors = {"client_id": "a key with this ID already exists; choose another ID"}
            return self.new(request, FormProblem(409, "not-created", errors=errors))
        return self._show_secret(request, issued, rotated=False)

    def _show_secret(self, request: DashboardRequest, issued: Issued, *, rotated: bool) -> Response:
        """Show a secret, only in the response to the form: no link leads to this page."""
        context = self.call_context(request, {}, issued)
        key = view_of(issued.key, request.now)
        return self.page(request, "issued.html", key=key, rotated=rotated, **context)

    # --- edit

    def edit(self, request: DashboardRequest, key: KeyView, problem: PageProblem | None) -> Response:
        """Show the form. A submitted one keeps what was typed, and shows what others have changed since."""
        current = forms.shown_fields(key)
        expires = request.field("expires")
        values = {**current, "expires": expires if expires in LIFETIMES else forms.UNCHANGED, "until": ""}
        changed = {}
        if request.method == "POST":
            typed, shown = _submitted(request)
            values["until"] = typed["until"]
            values |= {name: typed[name] for name in shown if forms.is_edited(name, typed, shown)}
            changed = {name: shown[name] for name in shown if shown[name] != current[name]}
        token = self.make_token(request, "/key/edit", key.client_id)
        context: dict[str, Any] = {"shown": current, "values": values, "changed": changed}
        return self.page(request, "edit.html", problem, key=key, token=token, **context)

    def update(self, request: DashboardRequest, key: KeyView) -> Response:
        typed, shown = _submitted(request)
        conflict = FormProblem(409, "edit-conflict")
        if forms.shown_fields(key) != shown:
            raise conflict
        fields = forms.parse_edited_key(typed, shown, request.now)
        actor = request.principal.client_id
        try:
            updated = self.backend.update(key.client_id, **fields, version=key.version, actor=actor)
        except InvalidKey:  # it was changed after it was read
            raise conflict from None
        return _changed(request, "edit" if fields else "", updated)

    # --- rotate

    def ask_overlap(self, request: DashboardRequest, key: KeyView, problem: PageProblem | None) -> Response:
        token = self.make_token(request, "/key/rotate", key.client_id, str(key.version))
        overlap = request.field("overlap") or "24h"
        return self.page(request, "rotate.html", problem, key=key, token=token, overlap=overlap)

    def rotate(self, request: DashboardRequest, key: KeyView) -> Response:
        choice, actor = request.field("overlap"), request.principal.client_id
        overlap_s = parse_duration(request.field("other").strip() if choice == "other" else choice)
        try:
            if overlap_s is None:
                raise InvalidKey("enter a duration such as 45s, 30m, 36h, 3d or 2w")
            # The version makes the store refuse a form that is submitted twice, even in another process.
            issued = self.backend.rotate(key.client_id, overlap_s=overlap_s, version=key.version, actor=actor)
        except InvalidKey as exc:
            raise FormProblem(422, "not-rotated", errors={"overlap": str(exc)}) from None
        return self._show_secret(request, issued, rotated=True)

    # --- disable, enable, end a secret, revoke, delete

    def confirm(
        self, action: str, request: DashboardRequest, key: KeyView, problem: PageProblem | None
    ) -> Response:
        created = request.field("created")
        secrets = [each for each in key.secrets if each.created_at.isoformat() == created]
        if action == "end-secret" and not secrets:
            return self.show_key(request, problem=problem)
        token = self.make_token(request, f"/key/{action}", key.client_id, str(key.version))
        context: dict[str, Any] = {"action": action, "token": token, "secrets": secrets}
        return self.page(request, "confirm.html", problem, key=key, **context)

    def apply(self, action: str, request: DashboardRequest, key: KeyView) -> Response:
        arguments: dict[str, Any] = {"actor": request.principal.client_id}
        if action in ("enable", "end-secret"):
            arguments["version"] = key.version
        if action == "end-secret":
            arguments["created_at"] = parse_datetime(request.field("created"), "when the secret was created")
        change = getattr(self.backend, action.replace("-", "_"))
        return _changed(request, action, change(key.client_id, **arguments))


def _submitted(request: DashboardRequest) -> tuple[dict[str, str], dict[str, str]]:
    """What was typed into the form, and what it had shown. Browsers send line breaks as CR LF."""

    def read(name: str) -> str:
        return request.field(name).replace("\r\n", "\n")

    shown = {name: read(f"was_{name}") for name in forms.EDIT_FIELDS if name != "until"}
    return {name: read(name) for name in forms.EDIT_FIELDS}, shown


def _changed(request: DashboardRequest, action: str, key: Key) -> Response:
    path = "/" if action == "delete" else "/key"
    return see_other(request.link(path, id=key.client_id, done=action, version=str(key.version)))
