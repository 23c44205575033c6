"""Django's admin with API keys: settings that replace those of ``django_site``, and a reader of forms."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from django.contrib import admin
from django.urls import path

SETTINGS: dict[str, Any] = {
    "INSTALLED_APPS": [
        "basicauth_mw.integrations.django",
        *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages", "sessions")),
        "django.contrib.staticfiles",
    ],
    "MIDDLEWARE": [
        "basicauth_mw.integrations.django.BasicAuthMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
    "ROOT_URLCONF": "tests.integrations.django_admin_site",
    "STATIC_URL": "static/",
    "TIME_ZONE": "UTC",
    "BASICAUTH_EXCLUDE": [],
    "BASICAUTH_INCLUDE": ["/api/*"],
}


def __getattr__(name: str) -> Any:
    if name == "urlpatterns":  # only while the admin is installed
        return [path("admin/", admin.site.urls)]
    raise AttributeError(name)


class FormReader(HTMLParser):
    """The values that a browser would submit with the one form of a page that has a CSRF token."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._in_main = False
        self._select: str | None = None
        self.feed(markup)
        self.values.pop("csrfmiddlewaretoken", None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        if fields.get("id") == "content":
            self._in_main = True
        name = fields.get("name")
        if not self._in_main:
            return
        if fields.get("type") in ("radio", "submit") and "checked" not in fields:
            return
        if tag == "input" and name:
            self.values[name] = fields.get("value") or ""
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and "selected" in fields:
            self.values[self._select] = fields["value"] or ""
