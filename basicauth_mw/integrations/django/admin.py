"""An admin section for the keys in the store of ``BASICAUTH_BACKEND``.

Django's admin imports this module. Its own pages, forms, permissions and log are used; only reading and
writing goes to the ``Backend`` instead of the database.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html_join
from django.utils.text import capfirst

from ...backends import Store
from ...errors import BackendError, InvalidKey, KeyExists, KeyNotFound, KeyRevoked, UnreadableRecord
from ...keys import lifecycle
from ...keys.escaping import escape_control
from ...keys.filters import STATES
from ...keys.generated_secrets import generate_id
from ...keys.model import Key, utcnow
from .middleware import build_authenticator
from .models import ApiKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest

    from ...backends.backend import Backend, Issued
    from ...keys.model import Secret

OVERLAPS: Final = {0: "none", 3600: "1 hour", 86_400: "24 hours", 604_800: "7 days", 2_592_000: "30 days"}
NOT_FINAL: Final = ("active", "disabled", "expired")
# Methods of ``Backend`` that have a button: the states of a key in which it is shown, what was done to the
# key, and the effect.
ACTIONS: Final = {
    "rotate": (NOT_FINAL, "rotated", "Creates a new secret. The old ones keep working during the overlap."),
    "end-secret": (
        NOT_FINAL,
        "changed: a secret was ended",
        "Refuses this secret. Other secrets keep working.",
    ),
    "disable": (("active", "expired"), "disabled", "Refuses the key until it is enabled again."),
    "enable": (("disabled",), "enabled", "Accepts the key again."),
    "revoke": (NOT_FINAL, "revoked", "Refuses the key permanently. It stays in the list."),
}
UNAVAILABLE: Final = (
    "API keys cannot be read or changed at the moment. If you were changing a key, check whether the change "
    "was made before you try again."
)


@cache
def _own_backend() -> Backend:
    return build_authenticator().backend


def _backend(request: HttpRequest) -> Backend:
    """The backend of the middleware, whose cache then learns of changes immediately; else a separate one."""
    authenticator = getattr(request, "basicauth_authenticator", None)
    return authenticator.backend if authenticator else _own_backend()


def _is_writable(request: HttpRequest) -> bool:
    return isinstance(_backend(request).store, Store)


def _actor(request: HttpRequest) -> str:
    return str(request.user.get_username())


def _time(time: datetime | None) -> str:
    return localize(timezone.localtime(time)) if time else "never"


@admin.display(description="client ID")
def client_id(obj: ApiKey) -> str:
    """The client ID, escaped for a page; the field itself is not."""
    return escape_control(obj.pk)


def _label(action: str) -> str:
    return action.replace("-", " ").capitalize()


def _describe_secrets(key: Key) -> dict[str, str]:
    """The active secrets of a key, by the time of their creation."""

    def describe(secret: Secret) -> str:
        # With seconds: a key that was rotated twice in a minute has secrets that differ in nothing else.
        created = timezone.localtime(secret.created_at).replace(tzinfo=None).isoformat(" ", "seconds")
        return (
            f"Created {created}, last used: {_time(secret.last_used_at)}, expires: {_time(secret.expires_at)}"
        )

    active = [each for each in key.secrets if lifecycle.is_active(each, utcnow())]
    return {each.created_at.isoformat(): describe(each) for each in active}


def _explain_errors(view: Callable[..., Any]) -> Callable[..., Any]:
    """Show the errors of a ``Backend`` as a page, or as a message on another page."""

    @wraps(view)
    def wrapper(self: ApiKeyAdmin, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return view(self, request, *args, **kwargs)
        except BackendError as exc:
            reason = UNAVAILABLE if exc.status else capfirst(str(exc))  # without a status: read-only
            return self.render(request, "page.html", "Not possible", exc.status or 409, reason=reason)
        except (InvalidKey, KeyNotFound, KeyRevoked) as exc:
            self.message_user(request, capfirst(str(exc)), messages.ERROR)
            match: Any = request.resolver_match
            object_id = match.kwargs.get("object_id")  # the view may have got it by position
            is_gone = object_id is None or isinstance(exc, KeyNotFound)
            return self.redirect("changelist") if is_gone else self.redirect("change", object_id)

    return wrapper


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    """Writes the key when it is validated, so that it can show why a key is refused."""

    version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    backend: Backend
    actor: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["version"] = self.instance.key.version
        if name := self.fields.get("name"):  # a subclass may omit it
            name.strip = False  # type: ignore[attr-defined] # or a name with outer spaces counts as edited

    def clean(self) -> dict[str, Any]:
        if self.errors:
            return self.cleaned_data
        is_new = not self.instance.pk
        names = list(self.cleaned_data) if is_new else self.changed_data
        fields = {name: self.cleaned_data[name] for name in names if name != "version"}
        if "name" in fields:
            fields["name"] = fields["name"].strip()
            for character in set(self.instance.key.name):  # the form shows some of them escaped
                fields["name"] = fields["name"].replace(escape_control(character), character)
        if "scopes" in fields:
            fields["scopes"] = fields["scopes"].replace(",", " ").split()
        if fields.get("expires_at") and not settings.USE_TZ:
            fields["expires_at"] = timezone.make_aware(fields["expires_at"])
        try:
            if is_new:
                self.instance.issued = self.backend.create(**fields, actor=self.actor)
            else:
                version = self.cleaned_data["version"] or 0
                self.backend.update(self.instance.pk, **fields, version=version, actor=self.actor)
        except (InvalidKey, KeyExists, KeyRevoked) as exc:
            raise ValidationError(capfirst(str(exc))) from None
        return self.cleaned_data


class ActionForm(forms.Form):
    """Confirms an action on a key as the page showed it."""

    version = forms.IntegerField(widget=forms.HiddenInput)
    overlap = forms.TypedChoiceField(choices=list(OVERLAPS.items()), coerce=int, initial=86_400)
    secret = forms.ChoiceField(widget=forms.RadioSelect)

    def __init__(self, action: str, key: Key, data: Any) -> None:
        super().__init__(data, initial={"version": key.version})
        if action != "rotate":
            del self.fields["overlap"]
        if action != "end-secret":
            del self.fields["secret"]
        else:
            self.fields["secret"].choices = list(_describe_secrets(key).items())  # type: ignore[attr-defined]


class StateFilter(admin.SimpleListFilter):
    """Filters by the states of ``Backend.search``."""

    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state.replace("-", " ").capitalize()) for state in STATES]


class ScopeFilter(StateFilter):
    """Filters by scope. The choices are the scopes of the keys on the page."""

    title = parameter_name = "scope"

    def choices(self, changelist: Any) -> Iterator[Any]:
        scopes = {scope for each in changelist.result_list for scope in each.key.scopes}
        if selected := self.value():
            scopes.add(selected)
        self.lookup_choices = [(scope, escape_control(scope)) for scope in sorted(scopes)]
        return super().choices(changelist)


class KeyList(ChangeList):
    """One page of ``Backend.search``. Its parameter is not a number, but the client ID to continue after."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        self.filter_specs, self.has_filters, _, _, self.has_active_filters = self.get_filters(request)
        self.clear_all_filters_qs = self.get_query_string(remove=list(self.get_filters_params()))
        return self.root_queryset

    def get_results(self, request: HttpRequest) -> None:
        specs: Any = self.filter_specs
        filters = {spec.parameter_name: spec.value() for spec in specs}
        after = request.GET.get(PAGE_VAR, "")
        try:
            page = _backend(request).search(self.query, after=after, limit=self.list_per_page, **filters)
        except InvalidKey as exc:
            raise IncorrectLookupParameters(exc) from None
        self.result_list = [ApiKey.of(key) for key in page.keys]
        self.result_count = self.full_result_count = len(page.keys)
        self.show_full_result_count = self.show_admin_actions = self.can_show_all = self.multi_page = False
        self.first_page = self.get_query_string() if after else ""
        self.next_page = self.get_query_string({PAGE_VAR: page.next}) if page.next else ""


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Finds, creates, changes and deletes keys. The actions need the permission to change keys.

    For a custom ``AdminSite``, call ``site.register(ApiKey, ApiKeyAdmin)``.
    """

    form = ApiKeyForm
    list_display = ("__str__", client_id, "state", "scopes", "expires_at", "last_used")
    list_filter = (StateFilter, ScopeFilter)
    list_per_page = 50
    search_fields = ("name", "client_id")  # without any, there is no search box
    sortable_by = ()
    actions = None
    show_facets = admin.ShowFacets.NEVER

    changelist_view = _explain_errors(admin.ModelAdmin.changelist_view)
    changeform_view = _explain_errors(admin.ModelAdmin.changeform_view)
    delete_view = _explain_errors(admin.ModelAdmin.delete_view)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return KeyList

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> ApiKey | None:
        try:
            key = _backend(request).get(object_id)
        except InvalidKey:
            return None
        except UnreadableRecord as exc:
            return ApiKey.of(Key(object_id), escape_control(f"unreadable: {exc}"))
        return None if key is None else ApiKey.of(key)

    # --- fields

    def last_used(self, obj: ApiKey) -> str:
        return _time(obj.key.last_used_at)

    def metadata(self, obj: ApiKey) -> str:
        metadata = dict(obj.key.metadata)
        return escape_control(json.dumps(metadata, ensure_ascii=False, default=str)) if metadata else "none"

    @admin.display(description="active secrets")
    def secrets(self, obj: ApiKey) -> str:
        described = _describe_secrets(obj.key).values()
        return format_html_join("", "<p>{}</p>", ((each,) for each in described)) or "none"

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        fields = ["name", "scopes", "expires_at"]
        if obj is None:
            return ["client_id", *fields]
        hidden = ["version"] if self.has_change_permission(request, obj) else []
        return ["state", client_id, *fields, "metadata", "last_used", "secrets", *hidden]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        return ("state", client_id, "metadata", "last_used", "secrets") if obj else ()

    # --- permissions

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _is_writable(request) and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        is_final = obj is not None and obj.state not in NOT_FINAL
        return _is_writable(request) and not is_final and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return _is_writable(request) and super().has_delete_permission(request, obj)

    # --- create, change, delete

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        # The form has the new ID: if it is submitted twice, the store refuses the second key.
        initial = {"client_id": generate_id(), "expires_at": timezone.now() + timedelta(days=90)}
        return {**initial, **super().get_changeform_initial_data(request)}

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.backend, form.actor = _backend(request), _actor(request)
        return form

    def save_model(self, request: Any, obj: Any, form: Any, change: Any) -> None:
        """Do nothing: the form has written the key."""

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> Any:
        return self.show_secret(request, obj.issued)

    def show_secret(self, request: HttpRequest, issued: Issued) -> Any:
        """Show a secret, only in the response to the form."""
        key = ApiKey.of(issued.key)
        shown_id, title = client_id(key), "Copy the secret now"
        return self.render(request, "issued.html", title, original=key, client_id=shown_id, issued=issued)

    def delete_model(self, request: HttpRequest, obj: ApiKey) -> None:
        _backend(request).delete(obj.pk, actor=_actor(request))

    # --- history and actions

    @_explain_errors
    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Show Django's log, and the history in the store, which also has the changes made elsewhere."""
        found = []
        if self.has_view_or_change_permission(request):
            (found,) = _backend(request).histories([unquote(object_id)])
        changes = [(each.time, *map(escape_control, (each.actor or "unknown", each.event))) for each in found]
        return super().history_view(request, object_id, {"changes": changes})

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.action_view)
        name = "basicauth_mw_apikey_"
        ours = [path(f"<path:object_id>/{each}/", view, {"action": each}, name + each) for each in ACTIONS]
        return [*ours, *super().get_urls()]

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        obj = context["original"]
        context.update(show_save_and_add_another=False, show_save_and_continue=obj is not None)
        if obj and self.has_change_permission(request, obj):
            possible = [name for name, (states, *_) in ACTIONS.items() if obj.state in states]
            context["key_actions"] = [(name, _label(name)) for name in possible]
        return super().render_change_form(request, context, *args, **kwargs)

    @_explain_errors
    def action_view(self, request: HttpRequest, object_id: str, action: str) -> Any:
        """Confirm an action, and apply it."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        key_id = unquote(object_id)
        obj = self.get_object(request, key_id)
        if obj is None:
            raise KeyNotFound(f"there is no key with the client ID {key_id!r}")
        if obj.state in NOT_FINAL and not self.has_change_permission(request, obj):
            raise PermissionDenied  # a subclass may decide by key
        states, done, effect = ACTIONS[action]
        if obj.state not in states:
            raise InvalidKey("the key has changed since this page was opened: check it, and try again")
        form = ActionForm(action, obj.key, request.POST or None)
        if not form.is_valid():
            title = f"{_label(action)}{' of' if action == 'end-secret' else ''} {obj}"
            return self.render(request, "confirm.html", title, original=obj, form=form, effect=effect)
        given = form.cleaned_data
        arguments: dict[str, Any] = {"actor": _actor(request)}
        if action not in ("disable", "revoke"):  # these only take access away
            arguments["version"] = given["version"]
        if action == "rotate":
            arguments["overlap_s"] = given["overlap"]
            done = f"rotated. Overlap: {OVERLAPS[given['overlap']]}"
        if action == "end-secret":
            arguments["created_at"] = datetime.fromisoformat(given["secret"])
        result = getattr(_backend(request), action.replace("-", "_"))(key_id, **arguments)
        self.log_change(request, obj, f"{capfirst(done)}.")
        if action == "rotate":
            return self.show_secret(request, result)
        self.message_user(request, f"The API key “{obj}” was {done}.", messages.SUCCESS)
        return self.redirect("change", object_id)

    def render(self, request: Any, template: str, title: str, status: int = 200, **context: Any) -> Any:
        request.current_app = self.admin_site.name
        context.update(self.admin_site.each_context(request), title=title, opts=self.opts)
        name = f"admin/basicauth_mw/apikey/{template}"
        return TemplateResponse(request, name, context, status=status)

    def redirect(self, page: str, *args: str) -> HttpResponseRedirect:
        name = f"admin:basicauth_mw_apikey_{page}"
        return HttpResponseRedirect(reverse(name, args=args, current_app=self.admin_site.name))
