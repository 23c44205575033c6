"""System checks for ``manage.py check``: ``settings.BASICAUTH_*``, and the order of ``MIDDLEWARE``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.handlers.asgi import ASGIHandler
from django.middleware.cache import FetchFromCacheMiddleware
from django.utils.module_loading import import_string

from ...asgi import BasicAuthMiddleware as ASGIMiddleware
from ...auth.discovery import find_authenticator
from ...auth.frameworks import iter_wrapped
from ...auth.path_rules import open_folders
from ...errors import ConfigurationError
from .middleware import BasicAuthMiddleware, build_authenticator, read_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.core.checks import CheckMessage

    from ...settings import Settings

MIDDLEWARE: Final = "basicauth_mw.integrations.django.BasicAuthMiddleware"


def check_settings(**_kwargs: Any) -> Iterator[CheckMessage]:
    """Check the configuration, the order of the middleware, Channels and REST framework."""
    ours = None
    try:
        ours = build_authenticator().settings  # connects to nothing
    except ConfigurationError as exc:
        yield from (_error("E001", problem) for problem in exc.problems)
    if ours and ours.timeout_s is not None:
        yield _warning(
            "W002", "BASICAUTH_TIMEOUT_S has no effect under Django.", "Set a timeout in the server."
        )
    yield from _check_middleware(ours)
    yield from _check_channels()
    if ours and not ours.strip_authorization:
        yield from _check_rest_framework()


def check_deployment(**_kwargs: Any) -> Iterator[CheckMessage]:
    """Check what matters only in production."""
    try:
        _, ours = read_configuration()
    except ConfigurationError:
        return  # check_settings reports it
    if ours.allow_preflight:
        yield _warning(
            "W007",
            "BASICAUTH_ALLOW_PREFLIGHT lets OPTIONS requests that look like CORS preflights run views "
            "without a key.",
            "Put CorsMiddleware before the middleware, and remove BASICAUTH_ALLOW_PREFLIGHT. Otherwise "
            "restrict the methods of every view, for example with require_http_methods.",
        )
    for entry, folder in open_folders(ours.include):
        yield _warning(
            "W011",
            f"BASICAUTH_INCLUDE has {entry}, which does not cover the paths below it: they are open.",
            f"Also include {folder}.",
        )
    if not ours.require_https and not settings.SECURE_SSL_REDIRECT:
        yield _warning(
            "W003",
            "API keys are also accepted over plain HTTP.",
            "Set BASICAUTH_REQUIRE_HTTPS = True, and SECURE_PROXY_SSL_HEADER behind a proxy.",
        )


def _check_middleware(ours: Settings | None) -> Iterator[CheckMessage]:
    """Check the order of ``MIDDLEWARE``; without settings if they are invalid."""
    stack = [_import(entry) for entry in settings.MIDDLEWARE]
    positions = _positions(stack, BasicAuthMiddleware)
    if not positions:
        yield _warning(
            "W001",
            "The app is installed, but MIDDLEWARE does not contain its middleware, so it protects nothing.",
            f"Put {MIDDLEWARE} first in MIDDLEWARE.",
        )
        return
    position = positions[0]
    if len(positions) > 1:
        yield _error("E002", "MIDDLEWARE contains the middleware twice.")
    caches = _positions(stack, FetchFromCacheMiddleware)
    if caches and caches[0] < position:
        yield _error(
            "E003",
            "The cache comes before the middleware, so it sends cached responses to clients without a key.",
            f"Put {MIDDLEWARE} before {settings.MIDDLEWARE[caches[0]]}.",
        )
    elif caches and ours and ours.strip_authorization:
        yield _warning(
            "W004",
            "The cache cannot see the Authorization header, so it sends one caller's responses to another.",
            "Set BASICAUTH_STRIP_AUTHORIZATION = False.",
        )
    cors = _positions(stack, _import("corsheaders.middleware.CorsMiddleware"))
    if cors and cors[0] > position and not (ours and ours.allow_preflight):
        yield _warning(
            "W006",
            "CorsMiddleware comes after the middleware, so preflights get a 401, and "
            "cross-origin scripts cannot read a refusal.",
            f"Put {settings.MIDDLEWARE[cors[0]]} before {MIDDLEWARE}.",
        )
    if ours and ours.set_user and apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.middleware import RemoteUserMiddleware

        remote = _positions(stack, RemoteUserMiddleware)
        if remote and remote[0] < position:
            yield _warning(
                "W010",
                f"{settings.MIDDLEWARE[remote[0]]} comes before the middleware, so it trusts a REMOTE_USER "
                "that the middleware would remove.",
                f"Put {MIDDLEWARE} before it, or set BASICAUTH_SET_USER = False if the server authenticates "
                "users.",
            )


def _check_channels() -> Iterator[CheckMessage]:
    """Find consumers of Channels that are served without a key, where this can be detected."""
    if not getattr(settings, "ASGI_APPLICATION", None):
        return
    try:
        application = import_string(settings.ASGI_APPLICATION)
    except Exception:  # any error in the project's code; the server will show it
        return
    for layer in iter_wrapped(application):
        if isinstance(layer, ASGIMiddleware):
            return
        routes = getattr(layer, "application_mapping", None)  # a ProtocolTypeRouter
        if not isinstance(routes, dict):
            continue
        for kind, code in (("websocket", "W008"), ("http", "W009")):
            if kind in routes and _is_unprotected(routes[kind], kind):
                yield _warning(
                    code,
                    f"ASGI_APPLICATION serves {kind} requests outside Django, without a key.",
                    "Wrap the application: from basicauth_mw.integrations.django import wrap_asgi; "
                    "application = wrap_asgi(application).",
                )
        return


def _is_unprotected(application: object, kind: str) -> bool:
    """Whether a route of a ProtocolTypeRouter leads to something other than Django, past our middleware."""
    is_consumer = False
    for layer in iter_wrapped(application):
        if isinstance(layer, ASGIMiddleware | ASGIHandler):
            return False
        if getattr(layer, "_path_routing", False):  # a URLRouter
            return any(_is_unprotected(route.callback, kind) for route in getattr(layer, "routes", ()))
        is_consumer = is_consumer or hasattr(layer, "consumer_class")
    # A function that serves http may call Django; a consumer of Channels does not.
    return find_authenticator(application) is None and (is_consumer or kind == "websocket")


def _check_rest_framework() -> Iterator[CheckMessage]:
    if not apps.is_installed("rest_framework"):
        return
    from rest_framework.authentication import BasicAuthentication
    from rest_framework.settings import api_settings

    if _positions(api_settings.DEFAULT_AUTHENTICATION_CLASSES, BasicAuthentication):
        yield _warning(
            "W005",
            "REST framework's BasicAuthentication treats an API key as a user's password, and refuses it.",
            'In REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"], replace it with '
            "basicauth_mw.integrations.django.rest_framework.PrincipalAuthentication.",
        )


def _import(name: str) -> object:
    """The object with a dotted name; None if it cannot be imported, which Django reports."""
    try:
        return import_string(name)
    except ImportError:
        return None


def _positions(stack: Sequence[object], base: object) -> list[int]:
    """The positions of a class and its subclasses."""
    return [
        position
        for position, entry in enumerate(stack)
        if isinstance(base, type) and isinstance(entry, type) and issubclass(entry, base)
    ]


def _error(code: str, message: str, hint: str | None = None) -> CheckMessage:
    return checks.Error(message, hint=hint, id=f"basicauth_mw.{code}")


def _warning(code: str, message: str, hint: str) -> CheckMessage:
    return checks.Warning(message, hint=hint, id=f"basicauth_mw.{code}")
