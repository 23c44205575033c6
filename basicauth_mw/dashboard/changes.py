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
        for action in ACTIONS:
            show, submit = partial(self._show, action), partial(self._submit, action)
            routes[f"/key/{action}"] = {"GET": show, "POST": submit}
        return routes

    def _show(self, action: str, request: DashboardRequest, problem: PageProblem | None = None) -> Response:
        """Show the form of an action, or the key if the action is not possible."""
        key = self.find(request, request.field("id"))
        created = request.field("created")
        secrets = [each for each in key.secrets if each.created_at.isoformat() == created]
        if key.state not in ACTIONS[action] or (action == "end-secret" and not secrets):
            return self.show_key(request, problem=problem)
        # Editing compares the fields instead of the version.
        version = "" if action == "edit" else str(key.version)
        token = self.make_token(request, f"/key/{action}", key.client_id, version)
        context: dict[str, Any] = {"action": action, "key": key, "secrets": secrets, "token": token}
        if action == "edit":
            return self.page(request, "edit.html", problem, **context, **_edited(request, key))
        template = "rotate.html" if action == "rotate" else "confirm.html"
        return self.page(request, template, problem, **context)

    def _submit(self, action: str, request: DashboardRequest) -> Response:
        """Process the form of an action."""
        client_id, version = request.field("id"), ""
        try:
            version = self.check_token(request, client_id)
            key = self.find(request, client_id)
            # Disable and revoke only take access away, so they do not depend on the version.
            is_outdated = version not in ("", str(key.version)) and action not in ("disable", "revoke")
            if is_outdated or key.state not in ACTIONS[action]:
                return self.show_key(request, problem=PageProblem(409, "conflict"))
            if action == "rotate":
                return self._rotate(request, key)
            return self._update(request, key) if action == "edit" else self._apply(action, request, key)
        except FormProblem as exc:
            problem = exc
        except InvalidKey as exc:
            problem = FormProblem(422, "refused", str(exc))
        if version not in ("", str(self.find(request, client_id).version)):
            return self.show_key(request, problem=PageProblem(409, "conflict"))
        return self._show(action, request, problem)

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

    # --- changes of a key

    def _update(self, request: DashboardRequest, key: KeyView) -> Response:
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

    def _rotate(self, request: DashboardRequest, key: KeyView) -> Response:
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

    def _apply(self, action: str, request: DashboardRequest, key: KeyView) -> Response:
        arguments: dict[str, Any] = {"actor": request.principal.client_id}
        if action in ("enable", "end-secret"):
            arguments["version"] = key.version
        if action == "end-secret":
            arguments["created_at"] = parse_datetime(request.field("created"), "when the secret was created")
        change = getattr(self.backend, action.replace("-", "_"))
        return _changed(request, action, change(key.client_id, **arguments))


def _edited(request: DashboardRequest, key: KeyView) -> dict[str, Any]:
    """The fields of the form: what was typed if it was submitted, and what others have changed since."""
    current = forms.shown_fields(key)
    expires = request.field("expires")
    values = {**current, "expires": expires if expires in LIFETIMES else forms.UNCHANGED, "until": ""}
    changed = {}
    if request.method == "POST":
        typed, shown = _submitted(request)
        values["until"] = typed["until"]
        values |= {name: typed[name] for name in shown if forms.is_edited(name, typed, shown)}
        changed = {name: shown[name] for name in shown if shown[name] != current[name]}
    return {"shown": current, "values": values, "changed": changed}


def _submitted(request: DashboardRequest) -> tuple[dict[str, str], dict[str, str]]:
    """What was typed into the form, and what it had shown. Browsers send line breaks as CR LF."""

    def read(name: str) -> str:
        return request.field(name).replace("\r\n", "\n")

    shown = {name: read(f"was_{name}") for name in forms.EDIT_FIELDS if name != "until"}
    return {name: read(name) for name in forms.EDIT_FIELDS}, shown


def _changed(request: DashboardRequest, action: str, key: Key) -> Response:
    path = "/" if action == "delete" else "/key"
    return see_other(request.link(path, id=key.client_id, done=action, version=str(key.version)))
