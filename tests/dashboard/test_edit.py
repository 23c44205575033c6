"""Editing a key, extending it, and ending one of its secrets."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Key
from basicauth_mw.dashboard import request
from basicauth_mw.dashboard.forms import shown_fields
from basicauth_mw.keys.model import utcnow
from tests.dashboard.conftest import Visitor, hidden

if TYPE_CHECKING:
    from basicauth_mw import Backend

METADATA = '{\n  "team": "search"\n}'


def opened(admin: Visitor, markup: str | None = None, **query: str) -> dict[str, str]:
    """The fields of the form as a browser submits them, without a change."""
    markup = admin.get("/key/edit", **query).text if markup is None else markup
    area = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", markup, re.DOTALL)
    chosen = re.search(r'<option value="(\w+)" selected>', markup)
    values = {
        name: unescape(value)
        for name, value in re.findall(r'<input id="(\w+)" name="\w+"[^>]* value="([^"]*)"', markup)
    }
    assert area is not None
    expires = chosen[1] if chosen else "unchanged"  # the first one
    sent = {**hidden(markup), **values, "metadata": unescape(area[1]), "expires": expires}
    return {name: value.replace("\n", "\r\n") for name, value in sent.items()}


@pytest.fixture
def key(backend: Backend) -> Key:
    return backend.create(
        client_id="ci",
        name="Acme",
        scopes=["read", "write"],
        expires_at=utcnow() + timedelta(days=5),
        metadata={"team": "search"},
    ).key


def stored(backend: Backend) -> Key:
    found = backend.get("ci")
    assert found is not None
    return found


def test_only_edited_fields_change(admin: Visitor, backend: Backend, key: Key) -> None:
    form = opened(admin, id="ci")
    assert (form["name"], form["scopes"], form["expires"]) == ("Acme", "read write", "unchanged")
    assert form["metadata"] == METADATA.replace("\n", "\r\n")

    assert admin.post("/key/edit", form).status_code == 303
    assert stored(backend) == key
    assert stored(backend).version == key.version
    saved = admin.post("/key/edit", {**form, "scopes": "read, delete"})
    assert saved.status_code == 303
    changed = stored(backend)
    assert changed.scopes == {"read", "delete"}
    assert (changed.name, changed.expires_at, changed.metadata) == (key.name, key.expires_at, key.metadata)
    assert "The changes were saved" in admin.get(saved.headers["location"]).text


def test_every_field_can_be_edited(admin: Visitor, backend: Backend, key: Key) -> None:
    form = {
        **opened(admin, id="ci"),
        "name": " New ",
        "scopes": "",
        "expires": "until",
        "until": "2999-01-31T12:00",
        "metadata": '{"n": 1.0}',
    }
    assert admin.post("/key/edit", form).status_code == 303

    changed = stored(backend)
    assert (changed.name, changed.scopes, changed.metadata) == ("New", frozenset(), {"n": 1.0})
    assert changed.expires_at == datetime(2999, 1, 31, 12, tzinfo=UTC)
    form = opened(admin, id="ci")
    assert admin.post("/key/edit", {**form, "expires": "never", "metadata": " "}).status_code == 303
    assert (stored(backend).expires_at, stored(backend).metadata) == (None, {})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("name", "x" * 201, "200 characters"),
        ("scopes", 'a"b', "visible ASCII"),
        ("expires", "soon", "choose one"),
        ("expires", "until", "in UTC"),
        ("metadata", "[1]", "a JSON object"),
        ("metadata", "{", "a JSON object"),
        ("metadata", '{"a": NaN}', "a JSON object"),
        ("metadata", '{"a": 1, "a": 2}', "the same name"),
        ("metadata", '{"a":' * 40 + "1" + "}" * 40, "nested too deep"),
        ("metadata", '{"a": "%s"}' % ("x" * 4096), "4096 bytes"),
    ],
)
def test_invalid_fields_are_highlighted_and_values_kept(
    admin: Visitor, backend: Backend, key: Key, name: str, value: str, says: str
) -> None:
    form = {**opened(admin, id="ci"), "name": "typed", name: value}
    response = admin.post("/key/edit", form)

    assert response.status_code == 422
    error = re.search(rf'<p class="error" id="{name}-error">(.*?)</p>', response.text)
    assert error is not None
    assert says in unescape(error[1])
    assert stored(backend) == key
    again = opened(admin, response.text)
    assert again["name"] == form["name"]
    assert again[name] == ("unchanged" if value == "soon" else value)


def test_a_conflict_shows_what_changed_and_keeps_the_input(
    admin: Visitor, backend: Backend, key: Key
) -> None:
    """Fields that were not edited show the current values, so that saving does not undo the change."""
    form = {**opened(admin, id="ci"), "name": "Typed <name>"}
    backend.update("ci", scopes=["read", "reports"])
    response = admin.post("/key/edit", form)

    assert response.status_code == 409
    assert "The key has changed since the form was opened" in response.text
    changed = response.text.partition('id="changed"')[2].partition("</table>")[0]
    assert re.findall(r'<th scope="row">(\w+)</th>', changed) == ["Scopes"]
    assert re.findall(r"<bdi>(.*?)</bdi>", changed) == ["read write", "read reports"]
    assert stored(backend).name == "Acme"

    again = opened(admin, response.text)
    assert (again["name"], again["scopes"]) == ("Typed <name>", "read reports")
    assert admin.post("/key/edit", again).status_code == 303
    assert (stored(backend).name, stored(backend).scopes) == ("Typed <name>", {"read", "reports"})


def test_a_conflict_in_every_field(admin: Visitor, backend: Backend, key: Key) -> None:
    form = {**opened(admin, id="ci"), "metadata": "{}", "expires": "7d"}
    backend.update("ci", name="<Other>", scopes=[], expires_at=None, metadata={"a": 1})
    response = admin.post("/key/edit", form)

    assert response.status_code == 409
    changed = response.text.partition('id="changed"')[2].partition("</table>")[0]
    assert re.findall(r'<th scope="row">(\w+)</th>', changed) == ["Name", "Scopes", "Expires", "Metadata"]
    assert "&lt;Other&gt;" in changed
    assert "never" in changed
    again = opened(admin, response.text)
    assert (again["name"], again["metadata"], again["expires"]) == ("<Other>", "{}", "7d")


def test_other_changes_do_not_conflict(admin: Visitor, backend: Backend, key: Key) -> None:
    """Such as a rotation: what the form shows is still current."""
    form = {**opened(admin, id="ci"), "name": "New"}
    backend.rotate("ci")

    assert admin.post("/key/edit", form).status_code == 303
    assert (stored(backend).name, len(stored(backend).secrets)) == ("New", 2)


def test_an_edit_that_races_with_another_change_is_refused(
    admin: Visitor, backend: Backend, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key changes between the check and the write: the store refuses the version."""
    form = {**opened(admin, id="ci"), "name": "New"}
    real = backend.update

    def late(client_id: str, **more: Any) -> Key:
        real(client_id, scopes=["reports"])
        return real(client_id, **more)

    monkeypatch.setattr(backend, "update", late)
    response = admin.post("/key/edit", form)

    assert response.status_code == 409
    assert "<bdi>reports</bdi>" in response.text
    assert opened(admin, response.text)["name"] == "New"
    assert stored(backend).name == "Acme"


def test_an_expired_form_keeps_the_input_and_shows_changes(
    admin: Visitor, backend: Backend, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {**opened(admin, id="ci"), "name": "typed"}
    backend.update("ci", scopes=["reports"])
    now = utcnow()
    monkeypatch.setattr(request, "utcnow", lambda: now + timedelta(seconds=3601))
    response = admin.post("/key/edit", form)

    assert response.status_code == 403
    assert "more than an hour" in response.text
    assert "<bdi>reports</bdi>" in response.text
    assert stored(backend).name == "Acme"
    assert admin.post("/key/edit", opened(admin, response.text)).status_code == 303
    assert (stored(backend).name, stored(backend).scopes) == ("typed", {"reports"})


def test_an_expired_key_can_be_extended(
    admin: Visitor, backend: Backend, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = utcnow() + timedelta(days=6)
    monkeypatch.setattr(request, "utcnow", lambda: later)
    page = admin.get("/key", id="ci").text
    link = re.search(r'<a class="button" href="([^"]*)">Extend</a>', page)
    assert link is not None

    renamed = admin.post("/key/edit", {**opened(admin, id="ci"), "name": "Still expired"})
    assert renamed.status_code == 303
    assert (stored(backend).name, stored(backend).expires_at) == ("Still expired", key.expires_at)
    form = opened(admin, admin.request("GET", unescape(link[1])).text)
    assert form["expires"] == "90d"
    assert admin.post("/key/edit", form).status_code == 303
    expires_at = stored(backend).expires_at
    assert expires_at is not None
    assert abs(expires_at - later - timedelta(days=90)) < timedelta(minutes=1)
    assert 'class="state active"' in admin.get("/key", id="ci").text


def test_a_revoked_key_cannot_be_edited(admin: Visitor, backend: Backend, key: Key) -> None:
    form = {**opened(admin, id="ci"), "name": "New"}
    backend.revoke("ci")

    assert "<form" not in admin.get("/key/edit", id="ci").text
    for fields in (form, {**form, "scopes": '"'}):
        refused = admin.post("/key/edit", fields)
        assert refused.status_code == 409
        assert "<form" not in refused.text
    assert stored(backend).name == "Acme"


def test_the_largest_key_can_be_edited(admin: Visitor, backend: Backend) -> None:
    """The form sends each field twice, as shown and as typed, and many characters as three bytes."""
    scopes = [f"{number:03}{':' * 252}" for number in range(100)]
    backend.create(client_id="ci", name="\U0001f600" * 200, scopes=scopes, metadata={"a": "/" * 4080})
    form = {**opened(admin, id="ci"), "name": "new"}

    refused = admin.post("/key/edit", {**form, "scopes": form["scopes"] + " one-more", "expires": "7d"})
    assert refused.status_code == 422
    assert opened(admin, refused.text)["scopes"].endswith(" one-more")
    assert admin.post("/key/edit", form).status_code == 303
    assert (stored(backend).name, stored(backend).scopes) == ("new", set(scopes))


def test_long_metadata_is_shown_on_one_line() -> None:
    """Indented, it would be longer than a form may be."""
    nested: Any = list(range(500))
    for _ in range(20):
        nested = [nested]

    shown = shown_fields(Key("ci", metadata={"n": nested}))["metadata"]
    assert "\n" not in shown
    assert len(shown) < 4096


def test_one_secret_can_be_ended(admin: Visitor, backend: Backend, key: Key) -> None:
    backend.rotate("ci")
    old, new = stored(backend).secrets
    links = re.findall(r'href="(/key/end-secret\?[^"]*)"', admin.get("/key", id="ci").text)
    assert len(links) == 2  # newest first
    confirmation = admin.request("GET", unescape(links[1]))
    assert "The other active secrets keep working" in confirmation.text
    form = hidden(confirmation.text)
    assert form["created"] == old.created_at.isoformat()

    done = admin.post("/key/end-secret", form)
    assert done.status_code == 303
    page = admin.get(done.headers["location"]).text
    assert "The secret was ended" in page
    assert page.count("/key/end-secret?") == 1
    ended, kept = stored(backend).secrets
    assert ended.expires_at is not None
    assert ended.expires_at <= utcnow()
    assert kept == new
    assert admin.post("/key/end-secret", form).status_code == 409
    assert "it has no other active secret" in admin.request("GET", unescape(links[0])).text


@pytest.mark.parametrize("created", ["", "nonsense", "2026-01-01T00:00:00+00:00"])
def test_a_secret_that_does_not_exist(admin: Visitor, backend: Backend, key: Key, created: str) -> None:
    page = admin.get("/key/end-secret", id="ci", created=created)
    assert page.status_code == 200
    assert "<form" not in page.text
    form = admin.form("/key/end-secret", id="ci", created=key.secrets[0].created_at.isoformat())
    assert admin.post("/key/end-secret", {**form, "created": created}).status_code == 422
    assert stored(backend) == key


def test_a_link_cannot_claim_that_changes_were_saved(admin: Visitor, backend: Backend, key: Key) -> None:
    saved = admin.post("/key/edit", {**opened(admin, id="ci"), "name": "New"}).headers["location"]
    assert "were saved" in admin.get(saved).text
    backend.update("ci", name="Newer")

    assert "were saved" not in admin.get(saved).text
    assert "were saved" not in admin.get("/key", id="ci", done="edit").text
