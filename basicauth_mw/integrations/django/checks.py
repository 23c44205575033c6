"""What ``manage.py check`` says of ``settings.BASICAUTH_*`` and of the place in ``MIDDLEWARE``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.utils.module_loading import import_string

from ...errors import ConfigurationError
from ...gate import Gate
from .middleware import BasicAuthMiddleware, RequestFacts, configured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.core.checks import CheckMessage

    from ...settings import Settings

MIDDLEWARE: Final = "basicauth_mw.integrations.django.BasicAuthMiddleware"
_CACHE: Final = "django.middleware.cache.FetchFromCacheMiddleware"


def check_settings(**_more: Any) -> list[CheckMessage]:
    """The configuration, and where the middleware stands."""
    try:
        backend, ours = configured()
        Gate(RequestFacts(), backend, ours, {})  # connects to nothing
    except ConfigurationError as exc:
        wrong = [checks.Error(problem, id="basicauth_mw.E001") for problem in exc.problems]
        return [*wrong, *_place(strips=False)]
    strips = ours.strip_authorization
    return [*_effects(ours), *_place(strips=strips), *([] if strips else _rest_framework())]


def check_deployment(**_more: Any) -> list[CheckMessage]:
    """What only matters in production."""
    try:
        _, ours = configured()
    except ConfigurationError:
        return []  # said by the other check
    if ours.require_https or settings.SECURE_SSL_REDIRECT:
        return []
    return [
        checks.Warning(
            "API keys are taken over plain http as well.",
            hint="Set BASICAUTH_REQUIRE_HTTPS = True, and SECURE_PROXY_SSL_HEADER behind a proxy.",
            id="basicauth_mw.W003",
        )
    ]


def _effects(ours: Settings) -> Iterator[CheckMessage]:
    if ours.timeout_s is not None:
        yield checks.Warning(
            "BASICAUTH_TIMEOUT_S has no effect under Django.",
            hint="Set the server's own time limit.",
            id="basicauth_mw.W002",
        )


def _place(*, strips: bool) -> Iterator[CheckMessage]:
    entries = list(settings.MIDDLEWARE)
    places = [place for place, entry in enumerate(entries) if _is_ours(entry)]
    if not places:
        yield checks.Warning(
            "The app is installed, but its middleware is not: nothing is protected by it.",
            hint=f"Put {MIDDLEWARE} first in MIDDLEWARE.",
            id="basicauth_mw.W001",
        )
        return
    if len(places) > 1:
        yield checks.Error("The middleware stands twice in MIDDLEWARE.", id="basicauth_mw.E002")
    if _CACHE in entries[: places[0]]:
        yield checks.Error(
            "The cache stands before the middleware: it gives its answers to anybody.",
            hint=f"Put {MIDDLEWARE} before {_CACHE}.",
            id="basicauth_mw.E003",
        )
    elif _CACHE in entries and strips:
        yield checks.Warning(
            "The cache gives one caller's answers to another: it cannot see the Authorization field.",
            hint="Set BASICAUTH_STRIP_AUTHORIZATION = False.",
            id="basicauth_mw.W004",
        )


def _rest_framework() -> Iterator[CheckMessage]:
    if not apps.is_installed("rest_framework"):
        return
    from rest_framework.authentication import BasicAuthentication
    from rest_framework.settings import api_settings

    used: Sequence[object] = api_settings.DEFAULT_AUTHENTICATION_CLASSES
    if BasicAuthentication in used:
        yield checks.Warning(
            "REST framework's BasicAuthentication takes a key for the password of a user, and refuses it.",
            hint='In REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"], put in its place '
            "basicauth_mw.integrations.django.rest_framework.PrincipalAuthentication.",
            id="basicauth_mw.W005",
        )


def _is_ours(entry: str) -> bool:
    """Whether an entry of MIDDLEWARE is the gate, or a class that is derived from it."""
    try:
        found = import_string(entry)
    except ImportError:
        return False  # Django will say so
    return isinstance(found, type) and issubclass(found, BasicAuthMiddleware)
