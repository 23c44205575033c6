"""A Django project with sessions, users and Channels, in one module; for a server, which imports it."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "basicauth_mw.integrations.django",
    ],
    MIDDLEWARE=[
        "basicauth_mw.integrations.django.BasicAuthMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",  # without a database
    USE_TZ=True,
    BASICAUTH_EXCLUDE=["/open"],
)
django.setup()

# ruff: noqa: E402 - these imports need Django to be set up
from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import JsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from basicauth_mw.integrations.django import wrap_asgi


def me(request: HttpRequest) -> HttpResponse:
    principal = request.principal  # type: ignore[attr-defined]
    return JsonResponse({"id": principal.client_id, "user": str(request.user)})


class WhoAmI(JsonWebsocketConsumer):
    def connect(self) -> None:
        self.accept()
        principal: Any = self.scope["basicauth_mw.principal"]
        self.send_json({"id": principal.client_id, "user": str(self.scope["user"])})


urlpatterns = [path("me", me), path("open", me)]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(URLRouter([path("ws", WhoAmI.as_asgi())])),
    }
)
application = wrap_asgi(application)
