"""Keys are found by text, state and scope, page by page; one secret of a key is ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Page
from basicauth_mw.backends import LastUse, search
from basicauth_mw.errors import InvalidKey, KeyNotFound, KeyRevoked
from basicauth_mw.keys.model import Key, Secret, utcnow
from tests.backends.life.helpers import AnyClient, Outcome, changed, ends_of, soon

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = timedelta(days=1)


def ids(page: Page) -> list[str]:
    return [key.client_id for key in page.keys]


def put(backend: Backend, client_id: str, **fields: Any) -> None:
    now = utcnow()
    secrets = fields.pop("secrets", (Secret("$bamw1$0$x$y", created_at=now),))
    key = Key(client_id, created_at=fields.pop("created_at", now), secrets=secrets, version=1, **fields)
    assert backend.store.put(key, None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["acme-1", "b", "c"]),
        ("acme", ["acme-1", "b"]),
        ("ACME", ["acme-1", "b"]),
        ("stra\u00dfe", ["c"]),
        ("STRASSE", ["c"]),
        ("cme-", ["acme-1"]),
        ("nothing", []),
    ],
)
def test_by_part_of_the_name_or_id(backend: Backend, text: str, found: list[str]) -> None:
    put(backend, "acme-1")
    put(backend, "b", name="The Acme Company")
    put(backend, "c", name="Stra\u00dfe")

    page = backend.search(text)

    assert (ids(page), page.next, page.complete) == (found, None, True)


def test_by_state_and_scope(backend: Backend) -> None:
    now = utcnow()
    old = now - 200 * DAY
    put(backend, "active", scopes=frozenset({"read"}))
    put(backend, "disabled", disabled=True, scopes=frozenset({"read", "write"}))
    put(backend, "expired", expires_at=now - DAY)
    put(backend, "expiring", expires_at=now + 29 * DAY)
    put(backend, "later", expires_at=now + 31 * DAY)
    put(backend, "revoked", revoked_at=now)
    put(backend, "rotated", secrets=(Secret("a", now - DAY, now + DAY), Secret("b", now)))
    put(backend, "running-out", secrets=(Secret("a", now - DAY, now + DAY),))
    put(backend, "unused", created_at=old, secrets=(Secret("a", old),))
    put(backend, "used", created_at=old, secrets=(Secret("a", old),))
    backend.store.record_uses([LastUse("used", old, now - 2 * DAY)])  # type: ignore[attr-defined]

    def found(state: str | None = None, scope: str | None = None) -> list[str]:
        return ids(backend.search(state=state, scope=scope))

    assert found("active") == [
        *("active", "expiring", "later", "rotated", "running-out", "unused", "used"),
    ]
    assert found("disabled") == ["disabled"]
    assert found("expired") == ["expired"]
    assert found("revoked") == ["revoked"]
    assert found("expiring") == ["expiring", "running-out"]
    assert found("never-used") == ["active", "expiring", "later", "rotated", "running-out", "unused"]
    assert found("unused") == ["unused"]
    assert found(scope="read") == ["active", "disabled"]
    assert found("disabled", "write") == ["disabled"]
    assert found("active", "write") == []


def test_page_by_page(backend: Backend) -> None:
    for number in range(10):
        put(backend, f"k{number}", name="odd" if number % 2 else "even")

    first = backend.search("even", limit=2)
    second = backend.search("even", limit=2, after=first.next or "")
    third = backend.search("even", limit=2, after=second.next or "")

    assert [ids(page) for page in (first, second, third)] == [["k0", "k2"], ["k4", "k6"], ["k8"]]
    assert [page.complete for page in (first, second, third)] == [False, False, True]
    assert third.next is None
    assert backend.search("odd", after="k9") == Page((), None, True)


def test_a_search_looks_at_a_bounded_number_of_keys(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_SCANNED", 4)
    for number in range(10):
        put(backend, f"k{number}", name="ra" if number == 9 else "")

    pages = [backend.search("ra")]  # too short for an index
    while pages[-1].next is not None:
        pages.append(backend.search("ra", after=pages[-1].next))

    assert [ids(page) for page in pages] == [[], [], ["k9"]]
    assert [page.complete for page in pages] == [False, False, True]


@pytest.mark.parametrize(
    "bad", [{"state": "gone"}, {"limit": 0}, {"limit": True}, {"text": 1}, {"after": "\ud800"}]
)
def test_bad_arguments(backend: Backend, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidKey):
        backend.search(**bad)


def test_one_secret_ends(
    backend: Backend, here: AnyClient, elsewhere: AnyClient, events: Callable[..., Any]
) -> None:
    """Immediately in this process, and soon in others; the other secret goes on."""
    old = backend.create(client_id="ci")
    new = backend.rotate("ci")
    for client in (here, elsewhere):
        assert client.request(old.authorization).status == 200
    events()
    created_at = old.key.secrets[0].created_at

    key = backend.end_secret("ci", created_at)
    again = backend.end_secret("ci", created_at)
    assert (again.version, ends_of(again)) == (key.version, ends_of(key)), "idempotent"

    assert events() == [changed("key.updated", "ci")]
    assert here.request(old.authorization) == Outcome(401, None)
    soon(lambda: elsewhere.request(old.authorization).status == 401)
    for client in (here, elsewhere):
        assert client.request(new.authorization).status == 200
    ends = {each.created_at: each.expires_at for each in key.secrets}
    assert ends[created_at] is not None
    assert ends[created_at] <= utcnow()


def test_a_secret_that_cannot_be_ended(backend: Backend) -> None:
    issued = backend.create(client_id="ci")
    created_at = issued.key.secrets[0].created_at

    with pytest.raises(InvalidKey, match="no secret"):
        backend.end_secret("ci", datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(InvalidKey, match="no secret"):
        backend.end_secret("ci", created_at.replace(tzinfo=None))
    with pytest.raises(KeyNotFound):
        backend.end_secret("unknown", created_at)
    backend.revoke("ci")
    with pytest.raises(KeyRevoked):
        backend.end_secret("ci", created_at)


def test_an_ended_secret_keeps_its_time(backend: Backend) -> None:
    now = utcnow()
    ended = Secret("a", now - 2 * DAY, now - DAY)
    put(backend, "ci", secrets=(ended, replace(ended, created_at=now, expires_at=None)))

    assert backend.end_secret("ci", ended.created_at).secrets[0].expires_at == ended.expires_at
