"""Creating, rotating, revoking and deleting keys, and the page of a key."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from basicauth_mw import Backend, parse_basic
from basicauth_mw.dashboard.listing import view_of
from basicauth_mw.keys.model import utcnow
from tests.dashboard.conftest import SECRET, Visitor, hidden, render_page


def test_a_new_key_is_shown_once(admin: Visitor, backend: Backend) -> None:
    form = {
        **admin.form("/new"),
        "name": " CI ",
        "scopes": "read, write\tread",
        "expires": "30d",
        "until": "",
        "client_id": "",
    }
    created = admin.post("/new", form)

    assert created.status_code == 200
    (secret,) = {*SECRET.findall(created.text)}
    (key,) = [key for key in backend.iter_keys() if key.name == "CI"]
    assert key.scopes == {"read", "write"}
    assert key.expires_at is not None
    assert timedelta(days=29.9) < key.expires_at - utcnow() < timedelta(days=30.1)
    header = re.search(r"Authorization: (Basic \S+)</code>", created.text)
    assert header is not None
    assert (parse_basic(header[1]).client_id, parse_basic(header[1]).secret) == (key.client_id, secret)
    token = header[1].removeprefix("Basic ")
    assert f'<code id="token" data-shown>{token}</code>' in created.text
    assert created.text.count('class="copy"') >= 4 + 7
    assert "YOUR_TOKEN" not in created.text

    again = admin.post("/new", form)
    assert again.status_code == 409
    assert "No second key was created" in again.text
    for page in (again, admin.get("/"), admin.get("/new"), admin.get("/key", id=key.client_id)):
        assert secret not in page.text
        assert token not in page.text
    assert len(list(backend.iter_keys())) == 2


@pytest.mark.parametrize(
    ("fields", "name", "says"),
    [
        ({"name": "x" * 201}, "name", "200 characters"),
        ({"name": "a\nb"}, "name", "control"),
        ({"scopes": 'a"b'}, "scopes", "visible ASCII"),
        ({"scopes": "é"}, "scopes", "visible ASCII"),
        ({"scopes": " ".join(map(str, range(101)))}, "scopes", "at most 100"),
        ({"expires": "soon"}, "expires", "choose one"),
        ({"expires": ""}, "expires", "choose one"),
        ({"expires": "until"}, "expires", "in UTC"),
        ({"expires": "until", "until": "2030-02-30T12:00"}, "expires", "calendar"),
        ({"expires": "until", "until": "2030-01-31"}, "expires", "in UTC"),
        ({"expires": "999999999w"}, "expires", "choose one"),
        ({"expires": "until", "until": "2001-01-31T12:00"}, "expires", "past"),
        ({"client_id": "a:b"}, "client_id", "colon"),
        ({"client_id": "a" * 256}, "client_id", "255"),
    ],
    ids=str,
)
def test_invalid_fields_are_highlighted_and_values_kept(
    admin: Visitor, backend: Backend, fields: dict[str, str], name: str, says: str
) -> None:
    response = admin.create(**{"name": "typed name", "scopes": "typed", **fields})

    assert response.status_code == 422
    assert "The key was not created" in response.text
    error = re.search(rf'<p class="error" id="{name}-error">(.*?)</p>', response.text)
    assert error is not None
    assert says in error[1]
    assert f'aria-describedby="{name}-error' in response.text
    assert 'aria-invalid="true"' in response.text
    assert "typed" in response.text
    assert len(list(backend.iter_keys())) == 1
    assert admin.post("/new", {**hidden(response.text), "name": "y", "expires": "never"}).status_code == 200


def test_a_client_id_can_be_chosen_once(admin: Visitor, backend: Backend) -> None:
    assert admin.create(client_id="ci", expires="until", until="2999-01-31T12:00").status_code == 200
    created = backend.get("ci")
    assert created is not None
    assert created.expires_at == datetime(2999, 1, 31, 12, tzinfo=UTC)

    again = admin.create(client_id="ci")
    assert again.status_code == 409
    assert "a key with this ID already exists" in again.text
    assert backend.get("ci") == created


def test_rotation_shows_the_new_secret_and_when_the_old_one_expires(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci", name="CI")
    form = admin.form("/key/rotate", id="ci")
    created = admin.post("/key/rotate", {**form, "overlap": "1h"})

    assert created.status_code == 200
    assert len({*SECRET.findall(created.text)}) == 1
    assert "The old secret works until" in created.text
    key = backend.get("ci")
    assert key is not None
    old, new = key.secrets
    assert new.expires_at is None
    assert old.expires_at is not None
    assert timedelta(minutes=59) < old.expires_at - utcnow() <= timedelta(hours=1)

    again = admin.post("/key/rotate", {**form, "overlap": "1h"})
    assert again.status_code == 409
    assert "has changed since" in again.text
    assert not SECRET.search(again.text)
    assert backend.get("ci") == key


@pytest.mark.parametrize(
    ("overlap", "other", "seconds"),
    [
        ("0", "", None),
        ("other", "45s", 45),
        ("other", "2w", 14 * 86400),
        ("other", "0", None),
        ("24h", "x", 86400),
    ],
)
def test_overlaps(admin: Visitor, backend: Backend, overlap: str, other: str, seconds: int | None) -> None:
    backend.create(client_id="ci")
    created = admin.post(
        "/key/rotate", {**admin.form("/key/rotate", id="ci"), "overlap": overlap, "other": other}
    )

    assert created.status_code == 200
    key = backend.get("ci")
    assert key is not None
    ends = [secret.expires_at for secret in key.secrets[:-1]]
    if seconds is None:
        assert ends == []
        assert "no longer work" in created.text
    else:
        assert ends[0] is not None
        assert abs((ends[0] - utcnow()).total_seconds() - seconds) < 30


@pytest.mark.parametrize(
    ("overlap", "other"), [("other", ""), ("other", "soon"), ("other", "-5s"), ("nonsense", ""), ("", "")]
)
def test_invalid_overlaps(admin: Visitor, backend: Backend, overlap: str, other: str) -> None:
    backend.create(client_id="ci")
    before = backend.get("ci")
    form = {**admin.form("/key/rotate", id="ci"), "overlap": overlap, "other": other}
    response = admin.post("/key/rotate", form)

    assert response.status_code == 422
    assert "45s, 30m" in response.text
    assert f'name="other" value="{other}"' in response.text
    assert backend.get("ci") == before


def test_a_link_cannot_choose_the_overlap(admin: Visitor, backend: Backend) -> None:
    """Or a form that was hardly read would stop the old secrets."""
    backend.create(client_id="ci")

    assert 'value="24h" selected' in admin.get("/key/rotate", id="ci", overlap="0").text


@pytest.mark.parametrize("overlap", ["9" * 9 + "w", "24h"])
def test_a_rotation_that_the_backend_refuses(admin: Visitor, backend: Backend, overlap: str) -> None:
    backend.create(client_id="ci")
    for _ in range(7):
        backend.rotate("ci")
    before = backend.get("ci")
    form = {**admin.form("/key/rotate", id="ci"), "overlap": "other", "other": overlap}
    response = admin.post("/key/rotate", form)

    assert response.status_code == 422
    assert 'class="error" id="overlap-error"' in response.text
    assert backend.get("ci") == before


def test_disable_enable_revoke_delete(admin: Visitor, backend: Backend) -> None:
    """Each asks for confirmation with the key's name, and reports the change after a redirect."""
    backend.create(client_id="ci", name="Nightly")
    for act, word, state in (
        ("disable", "disabled", "disabled"),
        ("enable", "enabled", "active"),
        ("revoke", "revoked", "revoked"),
    ):
        confirmation = admin.get(f"/key/{act}", id="ci")
        assert f"<h1>{act.capitalize()} <bdi>Nightly</bdi>?</h1>" in confirmation.text
        assert '<code class="id"><bdi>ci</bdi></code>' in confirmation.text
        done = admin.post(f"/key/{act}", hidden(confirmation.text))
        assert done.status_code == 303
        page = admin.get(done.headers["location"])
        assert word in page.text
        assert f'class="state {state}"' in page.text
    last = admin.form("/key/delete", id="ci")
    deleted = admin.post("/key/delete", last)
    assert deleted.status_code == 303
    assert "was deleted" in admin.get(deleted.headers["location"]).text
    assert admin.post("/key/delete", last).status_code == 404
    assert admin.get("/key", id="ci").status_code == 404
    assert backend.get("ci") is None


def test_a_link_cannot_claim_a_change_that_did_not_happen(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci")

    for done in ("disabled", "revoked", "nonsense"):
        assert 'role="status">The key' not in admin.get("/key", id="ci", done=done).text
    assert "was deleted" not in admin.get("/", id="ci", done="deleted").text
    assert "was deleted" not in admin.get("/", done="deleted").text


def test_actions_that_are_not_possible_have_no_form(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci")
    backend.revoke("ci")

    for act in ("rotate", "enable", "disable", "revoke"):
        page = admin.get(f"/key/{act}", id="ci")
        assert page.status_code == 200
        assert "<form" not in page.text
        assert f"/key/{act}?" not in page.text
    assert "/key/delete?id=ci" in page.text


@pytest.mark.parametrize("action", ["end-secret", "enable", "delete"])
def test_a_form_for_an_outdated_key_is_refused(admin: Visitor, backend: Backend, action: str) -> None:
    (secret,) = backend.create(client_id="ci").key.secrets
    if action == "enable":
        backend.disable("ci")
    form = admin.form(f"/key/{action}", id="ci", created=secret.created_at.isoformat())
    changed = backend.update("ci", name="another")

    response = admin.post(f"/key/{action}", form)

    assert response.status_code == 409
    assert "another" in response.text
    assert backend.get("ci") == changed


@pytest.mark.parametrize("action", ["disable", "revoke"])
def test_an_outdated_key_can_be_refused(admin: Visitor, backend: Backend, action: str) -> None:
    """Whatever has happened to it, requests with it are refused from then on."""
    backend.create(client_id="ci")
    form = admin.form(f"/key/{action}", id="ci")
    changed = backend.update("ci", name="another")

    assert admin.post(f"/key/{action}", form).status_code == 303

    refused = backend.get("ci")
    assert refused is not None
    assert refused.version > changed.version
    assert (refused.disabled, refused.revoked_at is not None) == (action == "disable", action == "revoke")
    assert admin.post(f"/key/{action}", form).status_code == 409, "it says that this was done already"
    assert backend.get("ci") == refused


@pytest.mark.parametrize("meanwhile", ["rotate", "revoke"])
def test_a_rotation_that_races_with_another_change_is_refused(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """The key changes between the check of its version and the rotation."""
    backend.create(client_id="ci")
    form = admin.form("/key/rotate", id="ci")
    real, change = backend.rotate, getattr(backend, meanwhile)
    changed: list[object] = []

    def late(*given: Any, **more: Any) -> object:
        change("ci")
        changed.append(backend.get("ci"))
        return real(*given, **more)

    monkeypatch.setattr(backend, "rotate", late)
    response = admin.post("/key/rotate", {**form, "overlap": "24h"})

    assert response.status_code == 409
    assert "The key has changed" in response.text
    assert [backend.get("ci")] == changed


@pytest.mark.parametrize("action", ["end-secret", "enable"])
@pytest.mark.parametrize("meanwhile", ["disable", "revoke"])
def test_an_action_that_races_with_another_change_is_refused(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch, action: str, meanwhile: str
) -> None:
    """The key changes between the check of its version and the action, which does not undo the change."""
    (secret,) = backend.create(client_id="ci").key.secrets
    if action == "enable":
        backend.disable("ci")
    form = admin.form(f"/key/{action}", id="ci", created=secret.created_at.isoformat())
    name = action.replace("-", "_")
    real = getattr(backend, name)
    changed: list[object] = []

    def late(*given: Any, **more: Any) -> object:
        backend.update("ci", name="another")
        changed.append(getattr(backend, meanwhile)("ci"))
        return real(*given, **more)

    monkeypatch.setattr(backend, name, late)
    response = admin.post(f"/key/{action}", form)

    assert response.status_code == 409
    assert "The key has changed" in response.text
    assert [backend.get("ci")] == changed


def test_a_warning_before_changing_the_key_in_use(admin: Visitor, backend: Backend) -> None:
    (me,) = backend.iter_keys()
    for path in ("/key", "/key/rotate", "/key/disable", "/key/revoke", "/key/delete"):
        assert "signed in with this key" in admin.get(path, id=me.client_id).text


def test_active_secrets_show_age_expiry_and_last_use(admin: Visitor, backend: Backend) -> None:
    now = utcnow()
    issued = backend.create(client_id="ci")
    (secret,) = issued.key.secrets
    used = replace(
        secret, created_at=now - timedelta(days=3, hours=1), expires_at=now + timedelta(hours=5, minutes=1)
    )
    young = replace(secret, created_at=now - timedelta(hours=2), last_used_at=now - timedelta(minutes=7))
    ended = replace(used, created_at=now - timedelta(days=9), expires_at=now - timedelta(days=1))
    view = view_of(replace(issued.key, secrets=(ended, used, young)), now)

    assert [each.hash for each in view.secrets] == ["", ""]
    markup = render_page("show_key.html", key=view)
    assert markup.index(">new<") < markup.index("2 hours") < markup.index(">old<") < markup.index("3 days")
    assert markup.index("3 days") < markup.index("in 5 hours")
    assert f"{now - timedelta(minutes=7):%Y-%m-%d %H:%M} UTC" in markup


def test_no_page_contains_a_hash(admin: Visitor, backend: Backend) -> None:
    issued = backend.create(client_id="ci")
    digest = issued.key.secrets[0].hash.rpartition("$")[2]

    for path in ("/", "/activity", "/key?id=ci", "/key/rotate?id=ci", "/key/delete?id=ci"):
        page = admin.request("GET", path).text
        assert digest not in page
        assert "$bamw1$" not in page


def test_a_key_without_a_name_is_titled_by_its_id(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci")

    assert "<h1><bdi>ci</bdi></h1>" in admin.get("/key", id="ci").text


def test_the_history_shows_who_changed_the_key(admin: Visitor, backend: Backend) -> None:
    """Newest first; other people's names are untrusted text."""
    (me,) = backend.iter_keys()
    backend.create(client_id="ci", actor="<ada>\u202e")
    admin.post("/key/rotate", {**admin.form("/key/rotate", id="ci"), "overlap": "0"})
    backend.disable("ci")

    history = admin.get("/key", id="ci").text.partition('id="history"')[2]
    rows = re.findall(r'<th scope="row">(\w+)</th><td data-label="By">(.*?)</td>', history)
    assert rows == [
        ("disabled", '<span class="quiet">unknown</span>'),
        ("rotated", f"<bdi>{me.client_id}</bdi>"),
        ("created", rows[-1][1]),
    ]
    assert rows[-1][1].startswith("<bdi>&lt;ada&gt;")
    assert "\u202e" not in history
