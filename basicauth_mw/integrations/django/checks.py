"""What ``manage.py check`` says of ``settings.BASICAUTH_*`` and of the place in ``MIDDLEWARE``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core import checks

from ...errors import ConfigurationError
from ...gate import Gate
from .middleware import RequestFacts, configured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.core.checks import CheckMessage

MIDDLEWARE: Final = (
    "basicauth_mw.integrations.django.BasicAuthMiddleware",
    "basicauth_mw.integrations.django.middleware.BasicAuthMiddleware",
)
_CACHE: Final = "django.middleware.cache.FetchFromCacheMiddleware"


def check_settings(**_more: Any) -> list[CheckMessage]:
    """The configuration, and where the middleware stands."""
    return [*_configuration(), *_place()]


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


def _configuration() -> Iterator[CheckMessage]:
    try:
        backend, ours = configured()
        Gate(RequestFacts(), backend, ours, {})  # connects to nothing
    except ConfigurationError as exc:
        for problem in exc.problems:
            yield checks.Error(problem, id="basicauth_mw.E001")
        return
    if ours.timeout_s is not None:
        yield checks.Warning(
            "BASICAUTH_TIMEOUT_S has no effect under Django.",
            hint="Set the server's own time limit.",
            id="basicauth_mw.W002",
        )


def _place() -> Iterator[CheckMessage]:
    entries = list(settings.MIDDLEWARE)
    places = [place for place, entry in enumerate(entries) if entry in MIDDLEWARE]
    if not places:
        yield checks.Warning(
            "The app is installed, but its middleware is not: nothing is protected by it.",
            hint=f"Put {MIDDLEWARE[0]} first in MIDDLEWARE.",
            id="basicauth_mw.W001",
        )
        return
    if len(places) > 1:
        yield checks.Error("The middleware stands twice in MIDDLEWARE.", id="basicauth_mw.E002")
    if _CACHE in entries[: places[0]]:
        yield checks.Error(
            "The cache stands before the middleware: it gives its answers to anybody.",
            hint=f"Put {MIDDLEWARE[0]} before {_CACHE}.",
            id="basicauth_mw.E003",
        )
