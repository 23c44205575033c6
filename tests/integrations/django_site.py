"""A Django project in one module: its settings, its views, its URLs. Importing it sets Django up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import django
from django.conf import settings
from django.core.exceptions import PermissionDenied, SuspiciousOperation

MIDDLEWARE_PATH = "basicauth_mw.integrations.django.BasicAuthMiddleware"

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["rest_framework", "drf_spectacular", "basicauth_mw.integrations.django"],
        MIDDLEWARE=[MIDDLEWARE_PATH],
        ROOT_URLCONF="tests.integrations.django_site",
        SECRET_KEY="only for tests",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        USE_TZ=True,
        BASICAUTH_EXCLUDE=["/open", "/files/*"],
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": [
                "basicauth_mw.integrations.django.rest_framework.PrincipalAuthentication"
            ],
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
            "UNAUTHENTICATED_USER": None,
        },
    )
    django.setup()

# ruff: noqa: E402 - these imports need Django to be set up
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from rest_framework.decorators import api_view, throttle_classes
from rest_framework.response import Response
from rest_framework.throttling import UserRateThrottle

from basicauth_mw import require_scopes

if TYPE_CHECKING:
    from rest_framework.request import Request


class Boom(Exception):
    """Raised by a view."""


def me(request: HttpRequest) -> HttpResponse:
    principal = request.principal  # type: ignore[attr-defined]
    fields = getattr(request, "scope", {"headers": ()})["headers"]
    seen = {
        "META": "HTTP_AUTHORIZATION" in request.META,
        "headers": "Authorization" in request.headers,
        "scope": any(name == b"authorization" for name, _ in fields),
    }
    return JsonResponse(
        {
            "id": principal.client_id,
            "known": principal.is_authenticated,
            "user": hasattr(request, "user"),
            "authorization": [place for place, found in seen.items() if found],
        }
    )


async def async_me(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.principal.client_id)  # type: ignore[attr-defined]


def scoped(request: HttpRequest) -> HttpResponse:
    require_scopes(request.principal, "write")  # type: ignore[attr-defined]
    return HttpResponse("not reached")


async def async_scoped(request: HttpRequest) -> HttpResponse:
    require_scopes(request.principal, "write")  # type: ignore[attr-defined]
    return HttpResponse("not reached")


RAISED: dict[str, Exception] = {
    "boom": Boom("inside"),
    "timeout": TimeoutError(),
    "missing": Http404(),
    "denied": PermissionDenied(),
    "suspicious": SuspiciousOperation(),
}


def raises(request: HttpRequest, what: str) -> HttpResponse:
    raise RAISED[what]


async def async_raises(request: HttpRequest, what: str) -> HttpResponse:
    raise RAISED[what]


def broken(request: HttpRequest) -> HttpResponse:
    return HttpResponse("mine", status=500)


class Often(UserRateThrottle):
    rate = "1000/second"


@api_view(["GET", "POST"])
@throttle_classes([Often])
def api(request: Request) -> Response:
    user: Any = request.user
    return Response({"user": str(user), "pk": user.pk, "scopes": sorted(request.auth.scopes)})


@api_view(["GET"])
def api_scoped(request: Request) -> Response:
    require_scopes(request.auth, "write")
    return Response("not reached")


urlpatterns = [
    path("me", me),
    path("open", me),
    path("files/<path:name>", lambda request, name: HttpResponse(name)),
    path("async-me", async_me),
    path("scoped", scoped),
    path("async-scoped", async_scoped),
    path("raises/<what>", raises),
    path("async-raises/<what>", async_raises),
    path("broken", broken),
    path("api", api),
    path("api-scoped", api_scoped),
]
