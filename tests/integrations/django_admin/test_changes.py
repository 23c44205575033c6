"""The life of a key in Django's admin, and what others do to it meanwhile."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations.django_admin.helpers import (
    ACTIONS,
    GENERATED,
    URL,
    Visitor,
    key_of,
    secret_of,
    text_of,
    works,
)
from tests.integrations.django_admin_site import FormReader

# isort: split
from django.db import connection
from django.test import override_settings

from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import Key, Secret, utcnow

if TYPE_CHECKING:
    from basicauth_mw import Backend

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


@pytest.mark.parametrize(
    "name",
    [" padded ", "a\u202eb", "a\\u202eb", "\U000e0001" * 200],
    ids=["padded", "control", "escaped", "longest"],
)
def test_a_name_that_is_not_edited_stays(sqlite: Backend, name: str) -> None:
    """Although the form shows it escaped, and without outer spaces."""
    sqlite.create(client_id="ci", name=name)
    visitor = Visitor()

    assert "was changed successfully" in visitor.follow(visitor.submit("ci/change/", scopes="read"))
    assert (key_of(sqlite, "ci").name, key_of(sqlite, "ci").scopes) == (name, {"read"})
    assert "successfully" in visitor.follow(visitor.submit("ci/change/", name="  new  "))
    assert key_of(sqlite, "ci").name == "new"


def test_a_part_of_a_name_that_is_not_edited_stays(sqlite: Backend) -> None:
    """The joiners of emoji and of some scripts are invisible."""
    name = "\U0001f469\u200d\U0001f4bb m\u200cn"
    sqlite.create(client_id="ci", name=name)
    visitor = Visitor()
    shown = visitor.form("ci/change/")["name"]

    assert shown == "\U0001f469\\u200d\U0001f4bb m\\u200cn"
    visitor.follow(visitor.submit("ci/change/", name=f"{shown} \\u202e"))
    assert key_of(sqlite, "ci").name == f"{name} \\u202e", "typed like this"


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
        assert "The key has changed since it was read" in visitor.follow(again)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"client_id": "a:b"}, "A client ID must not contain a colon"),
        ({"client_id": "ä" * 200}, "A client ID has 1 to 255 bytes"),
        ({"client_id": ""}, "This field is required"),
        ({"client_id": "ci"}, "There is already a key with the client ID 'ci'"),
        ({"name": "x" * 201}, "A name has up to 200 characters; this one has 201"),
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


@pytest.mark.parametrize("action", ["rotate", "end-secret", "enable"])
@pytest.mark.parametrize("meanwhile", ["update", "disable"])
def test_a_key_that_was_changed_meanwhile(action: str, meanwhile: str, backend: Backend) -> None:
    """An action is confirmed for the key that the page showed: enabling does not undo a later "disable"."""
    (secret,) = backend.create(client_id="ci").key.secrets
    if action == "enable":
        backend.disable("ci")
    visitor = Visitor()
    fields = {**visitor.form(f"ci/{action}/"), "secret": secret.created_at.isoformat()}
    backend.update("ci", name="another")
    if meanwhile == "disable":
        backend.enable("ci")
        backend.disable("ci")
    before = backend.get("ci")

    assert "The key has changed" in visitor.follow(visitor.post(f"ci/{action}/", **fields))
    assert backend.get("ci") == before


@pytest.mark.parametrize("action", ["rotate", "end-secret", "enable"])
def test_an_action_that_races_with_another_change(
    action: str, sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key changes between the check and the action: the store refuses the version."""
    (secret,) = sqlite.create(client_id="ci").key.secrets
    if action == "enable":
        sqlite.disable("ci")
    visitor = Visitor()
    fields = {**visitor.form(f"ci/{action}/"), "secret": secret.created_at.isoformat()}
    name = action.replace("-", "_")
    real = getattr(sqlite, name)
    changed: list[Key] = []

    def late(*given: Any, **more: Any) -> Any:
        changed.append(sqlite.update("ci", name="another"))
        return real(*given, **more)

    monkeypatch.setattr(sqlite, name, late)
    assert "The key has changed" in visitor.follow(visitor.post(f"ci/{action}/", **fields))
    assert [sqlite.get("ci")] == changed


@pytest.mark.parametrize("action", ["disable", "revoke"])
def test_a_key_that_was_changed_meanwhile_can_be_refused(action: str, backend: Backend) -> None:
    backend.create(client_id="ci")
    visitor = Visitor()
    fields = visitor.form(f"ci/{action}/")
    backend.update("ci", name="another")

    assert f"was {action}d" in visitor.follow(visitor.post(f"ci/{action}/", **fields))
    key = key_of(backend, "ci")
    assert (key.name, key.disabled, key.revoked_at is not None) == (
        "another",
        action == "disable",
        action == "revoke",
    )


def test_one_secret_can_be_ended(backend: Backend) -> None:
    old = backend.create(client_id="ci", name="CI").secret
    new = backend.rotate("ci").secret
    visitor = Visitor()

    page = visitor.get("ci/end-secret/").content.decode()
    choices = re.findall(
        r'<input type="radio" name="secret" value="([^"]+)"[^>]*>\s*(Created [^<]+)</label>', page
    )
    assert [value for value, _ in choices] == [
        each.created_at.isoformat() for each in key_of(backend, "ci").secrets
    ]
    assert "expires: never" not in choices[0][1]
    assert "This field is required" in text_of(visitor.submit("ci/end-secret/"))
    assert "not one of the available choices" in text_of(visitor.submit("ci/end-secret/", secret="2026"))
    ended = visitor.submit("ci/end-secret/", secret=unescape(choices[0][0]))

    assert "The API key “CI” was changed: a secret was ended." in visitor.follow(ended)
    assert (works(backend, "ci", old), works(backend, "ci", new)) == (False, True)
    assert "Changed: a secret was ended." in text_of(visitor.get("ci/history/"))


def test_secrets_of_one_minute_are_shown_differently(sqlite: Backend) -> None:
    """Or the wrong one would be ended."""
    minute = utcnow().replace(second=0)
    expires_at = minute + timedelta(days=1)
    hashed = sqlite.hash(generate("sk"))
    secrets = [Secret(hashed, minute + timedelta(seconds=each), expires_at=expires_at) for each in (0, 5)]
    assert sqlite.store.put(Key("ci", secrets=secrets), None)  # type: ignore[attr-defined]

    shown = re.findall("Created [^<]+", Visitor().get("ci/end-secret/").content.decode())
    assert len(set(shown)) == 2


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
    assert not re.search(r'href="../(rotate|end-secret|disable|enable|revoke)/"', page)
    assert visitor.post("ci/change/", **fields).status_code == 403
    for action in ACTIONS:
        assert "The key has changed" in visitor.follow(visitor.get(f"ci/{action}/"))
    visitor.submit("ci/delete/")
    assert sqlite.get("ci") is None
