"""API keys in Django's admin, over SQLite and Redis."""

from __future__ import annotations

import io
import logging
import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations import django_site
from tests.integrations.django_admin_site import SETTINGS, FormReader
from tests.redis_server import execute
from tests.waiting import wait_until

# isort: split
from django.apps import apps
from django.core.checks.registry import registry
from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings

from basicauth_mw import Backend, Settings, open_backend
from basicauth_mw.keys.model import Key, utcnow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from django.contrib.auth.models import User

    from tests.redis_server import RedisServer

assert django_site

URL = "/admin/basicauth_mw/apikey/"
ACTIONS = ("rotate", "disable", "enable", "revoke")
CHANGING = ("change", *ACTIONS)
GENERATED = re.compile(r"\bsk_[0-9A-Za-z_-]{40,}")


@pytest.fixture(scope="module", autouse=True)
def _admin() -> Iterator[None]:
    known = registry.registered_checks.copy(), registry.deployment_checks.copy()
    with override_settings(**SETTINGS):
        call_command("migrate", verbosity=0)
        yield
        connection.close()
    # The installed apps have registered checks, which fail without these apps.
    registry.registered_checks, registry.deployment_checks = known


@contextmanager
def configured(url: str, **ours: Any) -> Iterator[Backend]:
    """The project with a backend."""
    with (
        open_backend(url, settings=Settings(**ours), create=True) as backend,
        override_settings(BASICAUTH_BACKEND=backend),
    ):
        yield backend


@pytest.fixture(params=["sqlite", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Each kind of store."""
    sqlite = request.param == "sqlite"
    with configured(
        f"sqlite:///{tmp_path}/keys.db" if sqlite else request.getfixturevalue("redis_url")
    ) as backend:
        yield backend


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Backend]:
    """SQLite, for what does not depend on the store."""
    with configured(f"sqlite:///{tmp_path}/keys.db") as backend:
        yield backend


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


# --- the model


def test_migrate_creates_the_permissions_and_no_table() -> None:
    from django.contrib.auth.models import Permission

    found = Permission.objects.filter(content_type__app_label="basicauth_mw")
    assert sorted(found.values_list("codename", flat=True)) == [
        f"{each}_apikey" for each in ("add", "change", "delete", "view")
    ]
    assert not [name for name in connection.introspection.table_names() if "apikey" in name]


@pytest.mark.usefixtures("sqlite")
def test_commands_of_django_do_not_notice_the_model(tmp_path: Path) -> None:
    """No migration to make, no table to create, dump or flush, and no finding of its checks."""
    output = io.StringIO()

    call_command("makemigrations", check=True, dry_run=True, stdout=output)
    call_command("makemigrations", interactive=False, dry_run=True, stdout=output)
    assert set(output.getvalue().splitlines()) == {"No changes detected"}
    call_command("migrate", run_syncdb=True, verbosity=0)
    call_command("dumpdata", "basicauth_mw", stdout=output)
    call_command("dumpdata", use_base_manager=True, output=str(tmp_path / "dump.json"))
    call_command("remove_stale_contenttypes", interactive=False, stdout=output)
    call_command("check", stdout=output)
    assert "no issues" in output.getvalue()
    assert list(apps.get_model("basicauth_mw", "ApiKey").objects.all()) == []
    assert not [name for name in connection.introspection.table_names() if "apikey" in name]


# --- permissions


def status_of_each(visitor: Visitor) -> dict[str, int]:
    """The status of each page, and of each form that is submitted without opening it."""
    found = {"list": visitor.get().status_code, "add": visitor.get("add/").status_code}
    for page in ("change", "history", "delete", *ACTIONS):
        found[page] = visitor.get(f"ci/{page}/").status_code
    for page in ("add/", "ci/change/", "ci/delete/", *(f"ci/{each}/" for each in ACTIONS)):
        found[f"POST {page}"] = visitor.post(page, post="yes", version="0", overlap="0").status_code
    return found


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ("none", ""),
        ("view", "list change history"),
        ("add", "add POST:add/"),
        ("change", " ".join(["list change history", *ACTIONS, *(f"POST:ci/{each}/" for each in CHANGING)])),
        ("delete", "delete POST:ci/delete/"),
    ],
)
def test_permissions(permissions: str, allowed: str, sqlite: Backend) -> None:
    """Each permission of Django allows its own pages and forms, and all others are a 403."""
    sqlite.create(client_id="ci")
    before = sqlite.get("ci")

    found = status_of_each(Visitor(f"user-{permissions}", permissions))

    assert {name.replace(" ", ":") for name, status in found.items() if status != 403} == set(allowed.split())
    assert (sqlite.get("ci") == before) is (permissions != "delete")


@pytest.mark.parametrize("is_staff", [False, None])
def test_others_are_sent_to_the_sign_in(is_staff: bool | None, sqlite: Backend) -> None:
    """Users who are not staff, and visitors who are not signed in."""
    sqlite.create(client_id="ci")
    visitor = Visitor("outsider")
    visitor.user.is_staff = False
    visitor.user.save()
    if is_staff is None:
        visitor.client.logout()

    assert set(status_of_each(visitor).values()) == {302}
    assert "/admin/login/" in visitor.get("add/")["Location"]
    assert key_of(sqlite, "ci").disabled is False


def test_forms_need_a_csrf_token(sqlite: Backend) -> None:
    sqlite.create(client_id="ci")
    visitor = Visitor()
    visitor.client.handler.enforce_csrf_checks = True

    for page in ("add/", "ci/change/", "ci/delete/", *(f"ci/{each}/" for each in ACTIONS)):
        assert visitor.post(page, post="yes").status_code == 403, page
    assert len(list(sqlite.iter_keys())) == 1


def test_buttons_are_only_shown_to_those_who_may_use_them(sqlite: Backend) -> None:
    sqlite.create(client_id="ci")

    reader = Visitor("reader", "view").get("ci/change/").content.decode()
    writer = Visitor("writer", "view", "change").get("ci/change/").content.decode()
    deleter = Visitor("deleter", "view", "delete").get("ci/change/").content.decode()

    def offered(page: str) -> list[str]:
        names = [*ACTIONS, "delete"]
        return [each for each in names if f'href="../{each}/"' in page or f"/{each}/" in page]

    assert offered(reader) == []
    assert offered(writer) == ["rotate", "disable", "revoke"]
    assert offered(deleter) == ["delete"]
    assert ("_save" in reader, "_save" in writer) == (False, True)
    assert f"{URL}add/" not in Visitor("reader", "view").get().content.decode()


# --- the life of a key


def test_the_life_of_a_key(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Create, edit, rotate, disable, enable, revoke, delete: in the store, in both logs, and on the pages."""
    from django.contrib.admin.models import LogEntry

    caplog.set_level(logging.INFO, "basicauth_mw.audit")
    visitor = Visitor("grace")
    client_id = visitor.form("add/")["client_id"]
    created = visitor.submit(
        "add/", client_id=client_id, name="Partner: ACME <b>", scopes="orders:read, orders:write"
    )
    assert created.status_code == 200
    first = secret_of(created)
    key = key_of(backend, client_id)
    assert (key.name, sorted(key.scopes)) == ("Partner: ACME <b>", ["orders:read", "orders:write"])
    assert key.expires_at is not None
    assert timedelta(days=89) < key.expires_at - utcnow() < timedelta(days=90)
    assert works(backend, client_id, first)

    page = f"{client_id.replace('_', '_5F')}/"
    changed = visitor.submit(f"{page}change/", name="ACME", scopes="orders:read")
    assert "was changed successfully" in visitor.follow(changed)
    assert (key_of(backend, client_id).name, set(key_of(backend, client_id).scopes)) == (
        "ACME",
        {"orders:read"},
    )
    assert key_of(backend, client_id).expires_at == key.expires_at  # to the microsecond, as it was not edited

    rotated = visitor.submit(f"{page}rotate/", overlap="0")
    second = secret_of(rotated)
    assert (works(backend, client_id, first), works(backend, client_id, second)) == (False, True)
    third = secret_of(visitor.submit(f"{page}rotate/", overlap="3600"))
    assert (works(backend, client_id, second), works(backend, client_id, third)) == (True, True)

    assert "The API key “ACME” was disabled." in visitor.follow(visitor.submit(f"{page}disable/"))
    assert key_of(backend, client_id).disabled
    assert "was enabled" in visitor.follow(visitor.submit(f"{page}enable/"))
    assert not key_of(backend, client_id).disabled
    assert "was revoked" in visitor.follow(visitor.submit(f"{page}revoke/"))
    assert key_of(backend, client_id).revoked_at
    history = text_of(visitor.get(f"{page}history/"))
    for entry in ("Added", "Name and Scopes", "Overlap: none", "Overlap: 1 hour", "Disabled", "Revoked"):
        assert entry in history
    assert "grace" in history
    assert "was deleted" in visitor.follow(visitor.submit(f"{page}delete/"))
    assert backend.get(client_id) is None

    events = [record.basicauth for record in caplog.records if record.name == "basicauth_mw.audit"]  # type: ignore[attr-defined]
    assert {each["actor"] for each in events} == {"grace"}
    changes = [each["event"].removeprefix("key.") for each in events]
    assert changes == [
        "created",
        "updated",
        "rotated",
        "rotated",
        "disabled",
        "enabled",
        "revoked",
        "deleted",
    ]
    entries = LogEntry.objects.filter(object_id=client_id, user=visitor.user)
    assert [each.action_flag for each in entries.order_by("pk")] == [1, *[2] * 6, 3]
    index = text_of(visitor.client.get("/admin/"))
    assert "ACME" in index

    for secret in (first, second, third):
        assert sum(secret in page for page in visitor.pages) == 1  # shown once
        assert secret not in database()
        assert secret not in caplog.text


def database() -> str:
    """Everything that Django stored: sessions, messages, log entries."""
    connection.ensure_connection()
    dump = "\n".join(connection.connection.iterdump())
    from django.contrib.sessions.models import Session

    return dump + "".join(str(each.get_decoded()) for each in Session.objects.all())


@pytest.mark.parametrize("form", ["add/", "ci/rotate/"])
def test_a_secret_is_in_one_response_only(form: str, sqlite: Backend) -> None:
    """It is in no cookie and in no cache, and a form that is submitted twice shows no second one."""
    sqlite.create(client_id="ci")
    visitor = Visitor()
    fields = visitor.form(form)

    response = visitor.post(form, **fields)
    again = visitor.post(form, **fields)

    secret = secret_of(response)
    assert "no-store" in response["Cache-Control"]
    assert secret not in str(response.cookies) + str(visitor.client.cookies)
    assert GENERATED.findall(again.content.decode()) == []
    assert len(list(sqlite.iter_keys())) == (2 if form == "add/" else 1)
    assert len(key_of(sqlite, "ci").secrets) == (1 if form == "add/" else 2)
    if form == "add/":
        assert "There is already a key with the client ID" in text_of(again)
    else:
        assert "The key has changed since this page was opened" in visitor.follow(again)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"client_id": "a:b"}, "A client ID must not contain a colon"),
        ({"client_id": "ä" * 200}, "A client ID has 1 to 255 bytes"),
        ({"client_id": ""}, "This field is required"),
        ({"client_id": "ci"}, "There is already a key with the client ID 'ci'"),
        ({"name": "x" * 201}, "at most 200 characters"),
        ({"scopes": 'quo"te'}, "scope"),
        ({"expires_at_0": "2020-01-01"}, "in the past"),
        ({"expires_at_0": "soon"}, "Enter a valid date"),
    ],
)
def test_invalid_fields_are_shown_with_the_form(
    fields: dict[str, str], problem: str, sqlite: Backend
) -> None:
    sqlite.create(client_id="ci", name="first")
    visitor = Visitor()

    response = visitor.submit("add/", **{"name": "typed", **fields})

    assert response.status_code == 200
    assert problem in text_of(response)
    values = FormReader(response.content.decode()).values
    assert values["name"] == fields.get("name", "typed")  # what was typed is still there
    assert [key.client_id for key in sqlite.iter_keys()] == ["ci"]


def test_without_an_expiry(sqlite: Backend) -> None:
    visitor = Visitor()
    visitor.submit("add/", client_id="ci", expires_at_0="", expires_at_1="")
    assert key_of(sqlite, "ci").expires_at is None

    visitor.submit("ci/change/", expires_at_0="2999-12-31", expires_at_1="12:00:00")
    assert key_of(sqlite, "ci").expires_at == datetime(2999, 12, 31, 12, tzinfo=UTC)


def test_an_expired_key_can_be_renamed_and_extended(sqlite: Backend) -> None:
    now = utcnow()
    sqlite.add([Key("old", created_at=now - timedelta(days=9), expires_at=now - timedelta(days=1))])
    visitor = Visitor()

    visitor.submit("old/change/", name="Older")
    assert key_of(sqlite, "old").name == "Older"
    assert "expires at" not in text_of(visitor.submit("old/change/", expires_at_0="2999-12-31"))
    expires_at = key_of(sqlite, "old").expires_at
    assert expires_at is not None
    assert expires_at.year == 2999


@override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo")
def test_a_project_without_time_zones(sqlite: Backend) -> None:
    """Times are those of ``TIME_ZONE``, as everywhere in such a project."""
    visitor = Visitor()
    visitor.submit("add/", client_id="ci", expires_at_0="2999-12-31", expires_at_1="12:00:00")

    assert key_of(sqlite, "ci").expires_at == datetime(2999, 12, 31, 3, tzinfo=UTC)
    assert visitor.form("ci/change/")["expires_at_1"] == "12:00:00"
    visitor.submit("ci/change/", name="x")
    assert key_of(sqlite, "ci").expires_at == datetime(2999, 12, 31, 3, tzinfo=UTC)


@pytest.mark.parametrize("client_id", ["a/b", "50%_off", "ä ö?&#", "add", 'quo"te<>', "日本語"])
def test_unusual_ids(client_id: str, backend: Backend) -> None:
    visitor = Visitor()
    backend.create(client_id=client_id)

    page = visitor.get()
    (link,) = re.findall(r'<th class="field-__str__"><a href="([^"]+)"', page.content.decode())
    path = unescape(link).removeprefix(URL).partition("?")[0]

    assert client_id in text_of(visitor.get(path))
    response = visitor.submit(path.replace("change/", "disable/"))
    assert "was disabled" in visitor.follow(response)
    assert key_of(backend, client_id).disabled


def test_the_history_has_changes_made_elsewhere(backend: Backend) -> None:
    backend.create(client_id="ci", actor="ops@shell")
    visitor = Visitor("grace")
    visitor.submit("ci/disable/")

    history = text_of(visitor.get("ci/history/")).partition("All changes, here and elsewhere")[2]
    assert re.search(r"grace key\.disabled .* ops@shell key\.created", history)


# --- finding keys


def listed(response: Any) -> list[str]:
    """The client IDs of a list."""
    found = re.findall(r'<td class="field-client_id">([^<]*)</td>', response.content.decode())
    return [unescape(each) for each in found]


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


# --- what others do meanwhile


def test_two_people_edit_the_same_key(backend: Backend) -> None:
    """The second form is refused, and still has what was typed."""
    backend.create(client_id="ci", name="before", scopes=["read"])
    ada, grace = Visitor("ada"), Visitor("grace")
    forms = ada.form("ci/change/"), grace.form("ci/change/")

    assert ada.post("ci/change/", **{**forms[0], "name": "Ada's"}).status_code == 302
    refused = grace.post("ci/change/", **{**forms[1], "scopes": "write"})

    assert "The key has changed since it was read" in text_of(refused)
    assert FormReader(refused.content.decode()).values["scopes"] == "write"
    key = key_of(backend, "ci")
    assert (key.name, set(key.scopes)) == ("Ada's", {"read"})


@pytest.mark.parametrize("action", ["rotate", "disable", "revoke"])
def test_a_key_that_was_changed_meanwhile(action: str, backend: Backend) -> None:
    """An action is confirmed for the key that the page showed."""
    backend.create(client_id="ci")
    visitor = Visitor()
    fields = visitor.form(f"ci/{action}/")
    backend.update("ci", name="another")
    before = backend.get("ci")

    assert "The key has changed" in visitor.follow(visitor.post(f"ci/{action}/", **fields))
    assert backend.get("ci") == before


@pytest.mark.parametrize("page", ["change", "delete", *ACTIONS])
def test_a_key_that_vanished(page: str, backend: Backend) -> None:
    """Unknown from the start, and deleted while its form was open."""
    backend.create(client_id="ci")
    if page == "enable":
        backend.disable("ci")
    visitor = Visitor()
    fields = visitor.form(f"ci/{page}/")
    backend.delete("ci")

    for visit in (visitor.get, visitor.post):
        text = visitor.follow(visit(f"ci/{page}/", **fields))
        assert re.search("There is no key|Perhaps it was deleted", text)
    assert list(backend.iter_keys()) == []


def test_a_revoked_key(sqlite: Backend) -> None:
    """It can only be looked at and deleted."""
    sqlite.create(client_id="ci")
    visitor = Visitor()
    fields = visitor.form("ci/change/")
    sqlite.revoke("ci")

    page = visitor.get("ci/change/").content.decode()
    assert "revoked" in page
    assert "_save" not in page
    assert not re.search(r'href="../(rotate|disable|enable|revoke)/"', page)
    assert visitor.post("ci/change/", **fields).status_code == 403
    for action in ACTIONS:
        assert "The key has changed" in visitor.follow(visitor.get(f"ci/{action}/"))
    visitor.submit("ci/delete/")
    assert sqlite.get("ci") is None


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
    """A store of somebody else's that can only look keys up."""

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
