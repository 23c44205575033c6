"""Finding keys in Django's admin, stores that fail, and other projects."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations.django_admin.helpers import (
    ACTIONS,
    URL,
    Visitor,
    configured,
    listed,
    registered,
    text_of,
)
from tests.integrations.django_admin_site import SETTINGS
from tests.redis_server import execute
from tests.waiting import wait_until

# isort: split
from django.test import override_settings

from basicauth_mw import Backend, Settings, open_backend
from basicauth_mw.errors import InvalidKey
from basicauth_mw.keys.model import Key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.redis_server import RedisServer

# --- finding keys


def test_search_and_filters(backend: Backend) -> None:
    backend.create(client_id="a1", name="Partner: ACME", scopes=["orders:read"])
    backend.create(client_id="b2", name="Other", scopes=["orders:read", "orders:write"])
    backend.create(client_id="acme-test")
    backend.disable("b2")
    visitor = Visitor()

    assert listed(visitor.get()) == ["a1", "acme-test", "b2"]
    assert listed(visitor.get(q="acme")) == ["a1", "acme-test"]
    assert listed(visitor.get(state="disabled")) == ["b2"]
    assert listed(visitor.get(scope="orders:read")) == ["a1", "b2"]
    assert listed(visitor.get(scope="orders:read", state="active", q="PARTNER")) == ["a1"]
    assert listed(visitor.get(scope="unknown")) == []
    page = text_of(visitor.get(scope="orders:read"))
    assert "orders:write" in page
    assert "Never used" in page
    assert "2 API keys" in page


def test_pages(sqlite: Backend) -> None:
    for number in range(120):
        sqlite.create(client_id=f"k{number:03}")
    visitor = Visitor()

    seen: list[str] = []
    response = visitor.get(q="k")
    while True:
        seen += listed(response)
        links = re.findall(r'<a href="([^"]+)">Next page', response.content.decode())
        if not links:
            break
        response = visitor.client.get(URL + unescape(links[0]))
        assert "First page" in text_of(response)
    assert seen == [f"k{number:03}" for number in range(120)]


@pytest.mark.usefixtures("sqlite")
def test_invalid_filters() -> None:
    visitor = Visitor()

    response = visitor.get(state="unheard-of")
    assert (response.status_code, response["Location"]) == (302, f"{URL}?e=1")
    assert visitor.get(e="1").status_code == 200
    assert visitor.get(unknown="x").status_code == 200


# --- what pages show


def test_metadata_is_shown(sqlite: Backend) -> None:
    sqlite.create(client_id="ci", metadata={"team": "<search>"})
    sqlite.create(client_id="plain")
    visitor = Visitor("reader", "view")

    assert 'Metadata: {"team": "<search>"} Last used' in text_of(visitor.get("ci/change/"))
    assert "Metadata: none Last used" in text_of(visitor.get("plain/change/"))


def test_characters_that_change_the_direction_of_text_are_escaped(sqlite: Backend) -> None:
    """In IDs, names, metadata and actors, wherever they are shown."""
    client_id = "a\u202eb"
    sqlite.create(client_id=client_id, name="n\u202em", metadata={"x\u202ey": 1}, actor="c\u202ed")
    visitor = Visitor()
    path = "a%E2%80%AEb/"

    assert listed(visitor.get()) == ["a\\u202eb"]
    for page in ("change", "history", "delete", *(each for each in ACTIONS if each != "enable")):
        assert visitor.get(f"{path}{page}/").status_code == 200, page
    issued = visitor.submit(f"{path}rotate/")
    visitor.follow(visitor.submit(f"{path}disable/"))
    page = text_of(visitor.get(f"{path}change/"))
    for shown in ("a\\u202eb", '{"x\\u202ey": 1}'):
        assert shown in page
    assert "a\\u202eb" in text_of(issued)
    assert "c\\u202ed" in text_of(visitor.get(f"{path}history/"))
    assert not [page for page in visitor.pages if "\u202e" in page]


@pytest.mark.parametrize("page", ["add/", "ci/change/"])
def test_a_subclass_may_refuse_a_form(page: str, sqlite: Backend) -> None:
    """Its reason is shown on the page of the key, or on the list if there is none."""
    from basicauth_mw.integrations.django.admin import ApiKeyAdmin

    class Sundays(ApiKeyAdmin):
        def save_model(self, request: Any, obj: Any, form: Any, change: Any) -> None:
            raise InvalidKey("not on a Sunday")

    sqlite.create(client_id="ci")
    with registered(Sundays):
        visitor = Visitor()
        refused = visitor.submit(page, name="x")
        assert refused["Location"] == URL + (page if "change" in page else "")
        assert "Not on a Sunday" in visitor.follow(refused)


# --- stores that fail


def test_the_store_is_down(own_redis_server: RedisServer) -> None:
    """Every page is a plain 503, nothing is logged in the admin, and all works again when the store does."""
    from django.contrib.admin.models import LogEntry

    with configured(own_redis_server.url(), backend_deadline_s=0.3) as backend:
        backend.create(client_id="ci")
        visitor = Visitor()
        pages = ["add/", "ci/change/", "ci/delete/", "ci/rotate/", "ci/disable/"]
        forms = {page: visitor.form(page) for page in pages}
        logged = LogEntry.objects.count()
        own_redis_server.stop()

        responses = [visitor.get(page) for page in ["", "ci/history/", *pages[1:]]]
        responses += [visitor.post(page, **{**forms[page], "name": "x"}) for page in pages]
        for response in responses:
            assert response.status_code == 503
            assert "API keys cannot be read or changed at the moment." in text_of(response)
            assert "Traceback" not in response.content.decode()
        assert LogEntry.objects.count() == logged
        assert visitor.client.get("/admin/").status_code == 200

        own_redis_server.start()
        wait_until(lambda: visitor.get().status_code == 200)


@pytest.mark.usefixtures("_env_keys")
def test_a_read_only_store() -> None:
    """Keys can be looked at, and nothing else is offered."""
    visitor = Visitor()

    assert listed(visitor.get()) == ["demo"]
    found = {name for name, status in status_of_each_of("demo", visitor).items() if status != 403}
    assert found == {"", "demo/change/", "demo/history/"}
    assert f"{URL}add/" not in visitor.get().content.decode()


def status_of_each_of(client_id: str, visitor: Visitor) -> dict[str, int]:
    pages = ["", "add/", *(f"{client_id}/{each}/" for each in ("change", "history", "delete", *ACTIONS))]
    return {page: visitor.get(page).status_code for page in pages}


@pytest.fixture
def _env_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BASICAUTH_KEYS", "demo:p@55w0rd")
    with override_settings(BASICAUTH_BACKEND="env:"):
        yield


class Unlisted:
    """A third-party store that can only look keys up."""

    def get(self, client_id: str) -> Key | None:
        return Key(client_id, name="known") if client_id == "known" else None


def test_a_store_that_cannot_list_its_keys() -> None:
    with override_settings(BASICAUTH_BACKEND=Backend(Unlisted(), settings=Settings())):
        visitor = Visitor()
        response = visitor.get()
        assert (response.status_code, "cannot list" in text_of(response)) == (409, True)
        assert "known" in text_of(visitor.get("known/change/"))


def test_a_damaged_record(redis_server: RedisServer, redis_url: str) -> None:
    """Its page says so, and it can be deleted."""
    with configured(redis_url) as backend:
        backend.create(client_id="ci")
        execute(redis_server, "SET", f"{redis_url.rpartition('=')[2]}:1:{{ci}}", "{")
        visitor = Visitor()

        page = text_of(visitor.get("ci/change/"))
        assert "unreadable" in page
        assert visitor.post("ci/change/", name="x").status_code == 403
        visitor.submit("ci/delete/")
        assert backend.get("ci") is None


# --- other projects


@override_settings(MIDDLEWARE=SETTINGS["MIDDLEWARE"][1:])
def test_without_the_middleware(tmp_path: Path) -> None:
    """The section opens a backend of its own."""
    from basicauth_mw.integrations.django.admin import _own_backend

    with open_backend(f"sqlite:///{tmp_path}/keys.db", settings=Settings(), create=True) as backend:
        backend.create(client_id="ci")
        with override_settings(BASICAUTH_BACKEND=f"sqlite:///{tmp_path}/keys.db"):
            _own_backend.cache_clear()
            assert listed(Visitor().get()) == ["ci"]
            _own_backend().close()
            _own_backend.cache_clear()


def test_the_cache_of_the_middleware_learns_immediately(sqlite: Backend) -> None:
    """A key that is disabled in the admin is refused by the same process at once."""
    issued = sqlite.create(client_id="ci")
    visitor = Visitor()
    headers = {"authorization": issued.authorization}

    assert visitor.client.get("/api/none", headers=headers).status_code == 404
    visitor.submit("ci/disable/")
    assert visitor.client.get("/api/none", headers=headers).status_code == 401


def test_a_custom_site(sqlite: Backend) -> None:
    """The section can be registered with another ``AdminSite``."""
    from django.contrib.admin import AdminSite
    from django.urls import path

    from basicauth_mw.integrations.django.admin import ApiKeyAdmin
    from basicauth_mw.integrations.django.models import ApiKey

    sqlite.create(client_id="ci")
    site = AdminSite(name="staff")
    site.register(ApiKey, ApiKeyAdmin)

    class Urls:
        urlpatterns = (path("staff/", site.urls),)

    with override_settings(ROOT_URLCONF=Urls):
        visitor = Visitor()
        for page in ("", "add/", "ci/change/", "ci/rotate/", "ci/delete/"):
            response = visitor.client.get(f"/staff/basicauth_mw/apikey/{page}")
            assert response.status_code == 200, page
            assert 'href="/staff/basicauth_mw/apikey/"' in response.content.decode()
