"""The list of keys, and untrusted text on every page."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from basicauth_mw.auth.refusal_stats import MINUTES, Snapshot
from basicauth_mw.dashboard import request
from basicauth_mw.dashboard.forms import shown_fields
from basicauth_mw.dashboard.listing import MAX_HISTORY_BYTES, ROWS, Cursor, KeyPage, view_of
from basicauth_mw.dashboard.request import encode_query
from basicauth_mw.dashboard.strings import ACTIONS
from basicauth_mw.dashboard.templates import humanize
from basicauth_mw.keys.model import Key, Secret, utcnow
from tests.dashboard.conftest import Visitor, render_page

if TYPE_CHECKING:
    from basicauth_mw import Backend

HOSTILE = [
    '<script>alert("x")</script>',
    "\"><img src=x onerror=alert('x')>",
    "{{ 7 * 7 }}{% for x in y %}",
    "' or 1=1 --",
    "a/b?c=d&e=f#g%00",
    "\u202egnp.exe",
    "../../etc/passwd",
    "javascript\uff1aalert(1)",
    "&lt;b&gt;",
    "\u0085\u2028\u2029",
    "\U0001f511" * 20,
]


def key_links(markup: str) -> list[str]:
    """The client IDs that a list links to, in its order."""
    links = re.findall(r'<th scope="row(?:group)?"[^>]*>\s*<a href="([^"]*)"', markup)
    return [parse_qs(urlsplit(link.replace("&amp;", "&")).query)["id"][0] for link in links]


def test_paging_forwards_and_back(admin: Visitor, backend: Backend) -> None:
    """In byte order in both directions, with the same filters."""
    ids = sorted((f"k{number:03}" for number in range(ROWS * 3 + 1)), key=str.encode)
    for client_id in [*ids, "K", "l"]:
        backend.create(client_id=client_id)
    seen: list[list[str]] = []
    page = admin.get("/", text="k0", state="active").text
    while True:
        seen.append(key_links(page))
        following = re.search(r'rel="next" href="([^"]*)"', page)
        if following is None:
            break
        page = admin.request("GET", following[1].replace("&amp;", "&")).text
    assert [len(each) for each in seen] == [ROWS, ROWS, ROWS, 1]
    assert [client_id for each in seen for client_id in each] == ids
    back: list[list[str]] = []
    while True:
        back.append(key_links(page))
        previous = re.search(r'rel="prev" href="([^"]*)"', page)
        if previous is None:
            break
        page = admin.request("GET", previous[1].replace("&amp;", "&")).text
    assert back == seen[::-1]
    assert 'value="k0"' in page
    assert '<option value="active" selected>' in page


@pytest.mark.parametrize("width", [49, 3], ids=["generated", "short"])
def test_the_history_in_links_is_bounded(admin: Visitor, width: int) -> None:
    """In bytes and in query parameters: every link can be followed."""
    cursor = Cursor()
    for number in range(200):
        cursor = cursor.next(f"id_{number:0{width}}")
        assert sum(map(len, cursor.history)) <= MAX_HISTORY_BYTES
    assert len(cursor.history) > 20
    assert admin.request("GET", f"/?{encode_query(cursor.query())}").status_code == 200
    steps = 0
    while (before := cursor.previous()) is not None:
        assert before.after < cursor.after
        cursor = before
        steps += 1
    assert cursor == Cursor()
    assert steps < 200  # the last step goes to the first page
    huge = Cursor().next("\U0001f511" * 63).next("\U0001f511" * 62)
    assert huge.previous() is not None


def test_an_empty_list_suggests_what_to_do(admin: Visitor, backend: Backend) -> None:
    assert "No key matches these filters" in admin.get("/", text="zzz").text
    assert "no more keys" in admin.get("/", after="zzz").text
    assert "Create the first key" in render_page("keys.html", **KeyPage(Cursor(), [])._asdict())


def test_exactly_one_page_has_no_next(admin: Visitor, backend: Backend) -> None:
    for number in range(ROWS):
        backend.create(client_id=f"k{number:03}")

    assert 'rel="next"' not in admin.get("/", text="k0").text


def test_the_list_truncates_scopes(admin: Visitor, backend: Backend) -> None:
    """The page of the key shows all of them."""
    backend.create(client_id="ci", scopes=[f"scope{number}" for number in range(9)])

    listed, own = admin.get("/", text="ci").text, admin.get("/key", id="ci").text
    assert (listed.count('class="scope"'), "and 3 more" in listed) == (6, True)
    assert own.count('class="scope"') == 9


def test_each_state_has_its_own_word_and_icon(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for client_id in ("a-active", "b-disabled", "c-revoked"):
        backend.create(client_id=client_id)
    backend.create(client_id="d-expired", expires_at=utcnow() + timedelta(hours=1))
    backend.disable("b-disabled")
    backend.revoke("c-revoked")
    later = utcnow() + timedelta(hours=2)
    monkeypatch.setattr(request, "utcnow", lambda: later)
    page = admin.get("/").text

    shapes = dict(re.findall(r'<span class="state (\w+)"><svg[^>]*aria-hidden="true">(.*?)</svg>', page))
    assert set(shapes) == {"active", "disabled", "revoked", "expired"}
    assert len(set(shapes.values())) == 4
    for state in shapes:
        assert re.search(rf"</svg>\s*{state}</span>", page)


@pytest.mark.parametrize("text", HOSTILE)
def test_untrusted_text_is_escaped(admin: Visitor, backend: Backend, text: str) -> None:
    client_id = text.replace(":", "").replace("\u0085", "")[:60]
    backend.create(client_id=client_id, name=text.replace("\u0085", ""), metadata={text: text})
    made = [
        admin.get("/"),
        admin.get("/", text=text),
        admin.get("/", scope=text),
        admin.get("/activity"),
        admin.get("/key", id=client_id),
        *(admin.get(f"/key/{act}", id=client_id) for act in ACTIONS),
        admin.get("/call", id=client_id, endpoint=text),
        admin.create(name=text, scopes=text, expires=text, client_id=client_id),
        admin.get("/key", id=text + "unknown"),
        admin.get(f"/{text}"),
    ]
    form = admin.form("/key/rotate", id=client_id)
    made.append(admin.post("/key/rotate", {**form, "overlap": text, "other": text}))
    made.append(admin.post("/key/rotate", {**form, "overlap": "1h"}))
    made.append(
        admin.post("/call", {**admin.form("/call"), "method": "POST", "path": "/" + text, "body": text})
    )

    for page in made:
        assert page.status_code in (200, 404, 409, 422), page.text
        for raw in ("<script>alert", "<img src=x", "onerror=alert('x')>"):
            assert raw not in page.text
        # Form fields may contain it unchanged.
        shown = re.sub(r'value="[^"]*"|<textarea.*?</textarea>', "", page.text, flags=re.DOTALL)
        if page is not made[-1]:
            assert "\u202e" not in shown
            assert "\u2028" not in shown
    assert admin.get("/key", id=client_id).status_code == 200
    assert len(list(backend.iter_keys())) == 2


def test_foreign_records_can_be_shown() -> None:
    """Other stores may hold values that this package would refuse."""
    key = Key("x\x00\ud800y", name="a\x1b[31m\ud800", secrets=(Secret("$x"),), metadata={"a": {1, 2}})
    view = view_of(key, utcnow())
    seen = Snapshot(utcnow(), {}, (0,) * MINUTES)

    page = KeyPage(Cursor(), [view], Cursor().next(view.client_id), searched_to=view.client_id)
    listed = page._asdict()
    for markup in (
        render_page("show_key.html", key=view),
        render_page("keys.html", **listed),
        render_page("activity.html", refusals=seen, **listed),
    ):
        assert "\\x1b[31m\\ud800" in markup
        assert "x\\x00\\ud800y" in markup
        assert "\x00" not in markup
    shown = shown_fields(view)
    form = {"token": "", "shown": shown, "values": {**shown, "until": ""}, "changed": shown, "errors": {}}
    assert "<h1>Edit <bdi>a\\x1b[31m\\ud800</bdi></h1>" in render_page("edit.html", key=view, **form)


def test_humanize() -> None:
    lengths = [0, 59, 60, 3599, 7200, 86_400, 400 * 86_400, 800 * 86_400, -5]

    assert [humanize(timedelta(seconds=each)) for each in lengths] == [
        "under a minute",
        "under a minute",
        "1 minute",
        "59 minutes",
        "2 hours",
        "1 day",
        "1 year",
        "2 years",
        "under a minute",
    ]
