"""Django's admin over a backend, and visitors who are signed in to it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from html import unescape
from typing import TYPE_CHECKING, Any

from tests.integrations import django_site
from tests.integrations.django_admin_site import FormReader

# isort: split
from django.test import Client, override_settings

from basicauth_mw import Backend, Settings, open_backend
from basicauth_mw.keys.model import Key, utcnow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.contrib.admin import ModelAdmin
    from django.contrib.auth.models import User

assert django_site

URL = "/admin/basicauth_mw/apikey/"
ACTIONS = ("rotate", "end-secret", "disable", "enable", "revoke")
GENERATED = re.compile(r"\bsk_[0-9A-Za-z_-]{40,}")


@contextmanager
def configured(url: str, **ours: Any) -> Iterator[Backend]:
    """The project with a backend."""
    with (
        open_backend(url, settings=Settings(**ours), create=True) as backend,
        override_settings(BASICAUTH_BACKEND=backend),
    ):
        yield backend


@contextmanager
def registered(section: type[ModelAdmin[Any]]) -> Iterator[None]:
    """The project with a subclass of the section."""
    from django.contrib.admin import AdminSite
    from django.urls import path

    from basicauth_mw.integrations.django.models import ApiKey

    site = AdminSite(name="custom")
    site.register(ApiKey, section)

    class Urls:
        urlpatterns = (path("admin/", site.urls),)

    with override_settings(ROOT_URLCONF=Urls):
        yield


class Visitor:
    """A signed-in member of the staff."""

    def __init__(self, name: str = "ada", *permissions: str) -> None:
        from django.contrib.auth.models import Permission, User

        rights = {"is_staff": True, "is_superuser": not permissions}
        self.user: User = User.objects.update_or_create(username=name, defaults=rights)[0]
        codenames = [f"{each}_apikey" for each in permissions if each != "none"]
        self.user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        self.client = Client()
        self.client.force_login(self.user)
        self.pages: list[str] = []

    def get(self, path: str = "", **query: str) -> Any:
        """Open a page of the section."""
        return self._keep(self.client.get(URL + path, query))

    def post(self, path: str, **fields: str) -> Any:
        """Submit a form as it was opened, with changed fields."""
        return self._keep(self.client.post(URL + path, fields))

    def submit(self, path: str, **changes: str) -> Any:
        """Open a form and submit it, with changed fields."""
        return self.post(path, **{**self.form(path), **changes})

    def form(self, path: str) -> dict[str, str]:
        """The values of a form."""
        response = self.get(path)
        assert response.status_code == 200, response.content
        return FormReader(response.content.decode()).values

    def follow(self, response: Any) -> str:
        """The text of the page that a response redirects to."""
        assert response.status_code == 302
        return text_of(self._keep(self.client.get(response["Location"])))

    def _keep(self, response: Any) -> Any:
        self.pages.append(response.content.decode())
        return response


def text_of(response: Any) -> str:
    """The visible text of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())


def secret_of(response: Any) -> str:
    """The secret that a page shows."""
    (secret,) = GENERATED.findall(response.content.decode())
    return str(secret)


def key_of(backend: Backend, client_id: str) -> Key:
    key = backend.get(client_id)
    assert key is not None
    return key


def works(backend: Backend, client_id: str, secret: str) -> bool:
    """Whether the store accepts a secret."""
    key = key_of(backend, client_id)
    active = [each for each in key.secrets if each.expires_at is None or each.expires_at > utcnow()]
    return backend.hasher.verify_digest(secret, active) is not None


def listed(response: Any) -> list[str]:
    """The client IDs of a list."""
    found = re.findall(r'<td class="field-client_id">([^<]*)</td>', response.content.decode())
    return [unescape(each) for each in found]
