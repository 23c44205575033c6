"""What ``manage.py check`` says of ``settings.BASICAUTH_*`` and of the place in ``MIDDLEWARE``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.handlers.asgi import ASGIHandler
from django.middleware.cache import FetchFromCacheMiddleware
from django.utils.module_loading import import_string

from ...asgi import BasicAuthMiddleware as ASGIMiddleware
from ...auth.authenticator import Authenticator
from ...auth.discovery import find_authenticator
from ...auth.frameworks import iter_wrapped
from ...errors import ConfigurationError
from .middleware import BasicAuthMiddleware, DjangoRequest, configured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.core.checks import CheckMessage

    from ...settings import Settings

MIDDLEWARE: Final = "basicauth_mw.integrations.django.BasicAuthMiddleware"


def check_settings(**_more: Any) -> list[CheckMessage]:
    """The configuration, and where the middleware stands."""
    try:
        backend, ours = configured()
        Authenticator(DjangoRequest(), backend, ours, {})  # connects to nothing
    except ConfigurationError as exc:
        wrong = [checks.Error(problem, id="basicauth_mw.E001") for problem in exc.problems]
        return [*wrong, *_place(None), *_channels()]
    strips = ours.strip_authorization
    return [
        *_effects(ours),
        *_place(ours),
        *_channels(),
        *([] if strips else _rest_framework()),
    ]


def check_deployment(**_more: Any) -> list[CheckMessage]:
    """What only matters in production."""
    try:
        _, ours = configured()
    except ConfigurationError:
        return []  # said by the other check
    return [*_preflights(ours), *_plain_http(ours)]


def _preflights(ours: Settings) -> Iterator[CheckMessage]:
    if ours.allow_preflight:
        yield checks.Warning(
            "An OPTIONS request that looks like a CORS preflight runs views without a key.",
            hint="Put CorsMiddleware before the middleware and drop BASICAUTH_ALLOW_PREFLIGHT. If it stays, "
            "restrict the methods of every view, for example by require_http_methods.",
            id="basicauth_mw.W007",
        )


def _plain_http(ours: Settings) -> Iterator[CheckMessage]:
    if not ours.require_https and not settings.SECURE_SSL_REDIRECT:
        yield checks.Warning(
            "API keys are taken over plain http as well.",
            hint="Set BASICAUTH_REQUIRE_HTTPS = True, and SECURE_PROXY_SSL_HEADER behind a proxy.",
            id="basicauth_mw.W003",
        )


def _effects(ours: Settings) -> Iterator[CheckMessage]:
    if ours.timeout_s is not None:
        yield checks.Warning(
            "BASICAUTH_TIMEOUT_S has no effect under Django.",
            hint="Set the server's own time limit.",
            id="basicauth_mw.W002",
        )


def _place(ours: Settings | None) -> Iterator[CheckMessage]:
    """Check the position of the middleware; settings of None: they cannot be read."""
    stack = [_resolved(entry) for entry in settings.MIDDLEWARE]
    places = _places_of(stack, BasicAuthMiddleware)
    if not places:
        yield checks.Warning(
            "The app is installed, but its middleware is not: nothing is protected by it.",
            hint=f"Put {MIDDLEWARE} first in MIDDLEWARE.",
            id="basicauth_mw.W001",
        )
        return
    if len(places) > 1:
        yield checks.Error("The middleware stands twice in MIDDLEWARE.", id="basicauth_mw.E002")
    caches = _places_of(stack, FetchFromCacheMiddleware)
    if caches and caches[0] < places[0]:
        yield checks.Error(
            "The cache stands before the middleware: it gives its answers to anybody.",
            hint=f"Put {MIDDLEWARE} before {settings.MIDDLEWARE[caches[0]]}.",
            id="basicauth_mw.E003",
        )
    elif caches and ours and ours.strip_authorization:
        yield checks.Warning(
            "The cache gives one caller's answers to another: it cannot see the Authorization field.",
            hint="Set BASICAUTH_STRIP_AUTHORIZATION = False.",
            id="basicauth_mw.W004",
        )
    cors = _places_of(stack, _cors_middleware())
    if cors and cors[0] > places[0] and not (ours and ours.allow_preflight):
        yield checks.Warning(
            "CorsMiddleware comes after the middleware: preflights get a 401, and scripts of other origins "
            "cannot read a refusal.",
            hint=f"Put {settings.MIDDLEWARE[cors[0]]} before {MIDDLEWARE}.",
            id="basicauth_mw.W006",
        )
    if ours and ours.set_user and apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.middleware import RemoteUserMiddleware

        remote = _places_of(stack, RemoteUserMiddleware)
        if remote and remote[0] < places[0]:
            yield checks.Warning(
                f"{settings.MIDDLEWARE[remote[0]]} comes before the middleware: it believes a REMOTE_USER "
                "that the middleware would remove.",
                hint=f"Put {MIDDLEWARE} before it, or set BASICAUTH_SET_USER = False if the server "
                "authenticates users.",
                id="basicauth_mw.W010",
            )


def _channels() -> Iterator[CheckMessage]:
    """Find what Channels serves outside Django without a key, where this can be detected."""
    if not getattr(settings, "ASGI_APPLICATION", None):
        return
    try:
        application = import_string(settings.ASGI_APPLICATION)
    except Exception:  # the project's code may fail in any way; serving it will say so
        return
    for layer in iter_wrapped(application):
        if isinstance(layer, ASGIMiddleware):
            return
        routes = getattr(layer, "application_mapping", None)  # of a ProtocolTypeRouter
        if not isinstance(routes, dict):
            continue
        for kind, code in (("websocket", "W008"), ("http", "W009")):
            if kind in routes and _is_open(routes[kind], kind):
                yield checks.Warning(
                    f"ASGI_APPLICATION serves {kind} requests beside Django without a key: the middleware of "
                    "Django does not see them.",
                    hint="Wrap the application: from basicauth_mw.integrations.django import wrap_asgi; "
                    "application = wrap_asgi(application).",
                    id=f"basicauth_mw.{code}",
                )
        return


def _is_open(application: object, kind: str) -> bool:
    """Whether requests reach a part of an application that is not Django past every middleware of ours."""
    consumer = False
    for layer in iter_wrapped(application):
        if isinstance(layer, ASGIMiddleware | ASGIHandler):
            return False
        if getattr(layer, "_path_routing", False):  # a URLRouter
            return any(_is_open(route.callback, kind) for route in getattr(layer, "routes", ()))
        consumer = consumer or hasattr(layer, "consumer_class")
    # A function that serves http may call Django; a consumer of Channels does not.
    return find_authenticator(application) is None and (consumer or kind == "websocket")


def _rest_framework() -> Iterator[CheckMessage]:
    if not apps.is_installed("rest_framework"):
        return
    from rest_framework.authentication import BasicAuthentication
    from rest_framework.settings import api_settings

    used: Sequence[object] = api_settings.DEFAULT_AUTHENTICATION_CLASSES
    if _places_of(used, BasicAuthentication):
        yield checks.Warning(
            "REST framework's BasicAuthentication takes a key for the password of a user, and refuses it.",
            hint='In REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"], put in its place '
            "basicauth_mw.integrations.django.rest_framework.PrincipalAuthentication.",
            id="basicauth_mw.W005",
        )


def _resolved(entry: str) -> object:
    """The object that an entry of MIDDLEWARE names; None: it cannot be imported, which Django reports."""
    try:
        return import_string(entry)
    except ImportError:
        return None


def _places_of(stack: Sequence[object], kind: type | None) -> list[int]:
    """The positions of a middleware class or its subclasses."""
    return [
        place
        for place, found in enumerate(stack)
        if kind is not None and isinstance(found, type) and issubclass(found, kind)
    ]


def _cors_middleware() -> type | None:
    """The class of django-cors-headers; None: it is not installed."""
    found = _resolved("corsheaders.middleware.CorsMiddleware")
    return found if isinstance(found, type) else None
