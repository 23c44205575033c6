"""Finding keys by text, state and scope, and the count of those that expire soon."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends import search
from basicauth_mw.dashboard import READ_SCOPE, listing, strings
from basicauth_mw.keys.filters import EXPIRING_WITHIN, STATES, UNUSED_FOR
from basicauth_mw.keys.model import utcnow
from tests.dashboard.test_listing import key_links

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw import Backend
    from tests.dashboard.conftest import Visitor


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"text": "acme"}, ["a1", "partner-acme"]),
        ({"text": " ACME "}, ["a1", "partner-acme"]),
        ({"text": "rtner-a"}, ["partner-acme"]),
        ({"text": "acme", "scope": "orders:write"}, ["partner-acme"]),
        ({"scope": "orders"}, []),
        ({"state": "disabled"}, ["off"]),
        ({"state": "disabled", "text": "acme"}, []),
        ({"state": "expiring"}, ["soon"]),
        ({"state": "never-used", "text": "SOO"}, ["soon"]),
    ],
    ids=str,
)
def test_filters(admin: Visitor, backend: Backend, query: dict[str, str], found: list[str]) -> None:
    backend.create(client_id="a1", name="Acme, staging")
    backend.create(client_id="partner-acme", scopes=["orders:write"])
    backend.create(client_id="off")
    backend.disable("off")
    backend.create(client_id="soon", expires_at=utcnow() + timedelta(days=29))
    backend.create(client_id="z", expires_at=utcnow() + timedelta(days=31))

    page = admin.get("/", **query)

    assert page.status_code == 200
    assert key_links(page.text) == found
    assert f'name="text" value="{query.get("text", "").strip()}"' in page.text
    assert f'name="scope" value="{query.get("scope", "")}"' in page.text
    assert ("No key matches these filters" in page.text) == (not found)
    assert "Show all" in page.text


def test_the_form_offers_each_state(admin: Visitor) -> None:
    assert set(strings.STATES) == set(STATES)
    assert f"within {EXPIRING_WITHIN.days} days" in strings.STATES["expiring"]
    assert f"for {UNUSED_FOR.days} days" in strings.STATES["unused"]
    markup = admin.get("/", state="nonsense").text  # an unknown state selects all
    assert set(re.findall(r'<option value="([\w-]+)"', markup)) == set(STATES)
    assert len(key_links(markup)) == 1


def test_an_incomplete_search_says_how_far_it_looked(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be continued, and a full client ID can be looked up at once."""
    monkeypatch.setattr(search, "MAX_SCANNED", 10)
    for number in range(20):
        backend.create(client_id=f"k{number:03}", name="last" if number == 18 else "")

    page = admin.get("/", text="last").text
    assert "No keys found yet" in page
    assert "client IDs up to <code><bdi>k00" in page
    assert 'href="/key?id=last"' in page
    found = key_links(page)
    while link := re.search(r'<a href="([^"]*)">Continue the search</a>', page):
        page = admin.request("GET", link[1].replace("&amp;", "&")).text
        found += key_links(page)
    assert found == ["k018"]
    assert "There are no more keys" in page or found == key_links(page)
    assert 'rel="prev"' in page


@pytest.mark.parametrize(
    ("days", "says"), [([], None), ([1], "1 key expires"), ([1, 29, 31], "2 keys expire")]
)
@pytest.mark.parametrize("scope", ["basicauth:admin", READ_SCOPE])
def test_the_first_page_counts_keys_that_expire_soon(
    visitor: Callable[..., Visitor], backend: Backend, scope: str, days: list[int], says: str | None
) -> None:
    for left in days:
        backend.create(expires_at=utcnow() + timedelta(days=left))
    person = visitor(scope)

    page = person.get("/").text
    if says is None:
        assert "within 30 days</a>" not in page
    else:
        assert f'<a href="/?state=expiring">{says} within 30 days</a>' in page
    assert "within 30 days</a>" not in person.get("/", text="a").text


def test_the_count_of_expiring_keys_is_bounded(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_COUNTED", 3)
    for _ in range(9):
        backend.create(expires_at=utcnow() + timedelta(days=1))

    assert re.search(r"At least [23] keys expire within 30 days</a>", admin.get("/").text)
    for key in backend.iter_keys():
        backend.update(key.client_id, expires_at=None)
    assert "Find keys that expire within 30 days</a>" in admin.get("/").text
