"""What can be done to keys from a browser, and what its pages say of them."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from basicauth_mw import Backend, parse_basic
from basicauth_mw.auth.stats import MINUTES, Snapshot
from basicauth_mw.dashboard.listing import MAX_TRAIL_OCTETS, ROWS, Place, recency_of, span, view_of
from basicauth_mw.dashboard.requests import encode_query
from basicauth_mw.dashboard.templates import render
from basicauth_mw.dashboard.views import reason_groups
from basicauth_mw.keys.model import Key, Secret, utcnow
from tests.dashboard.conftest import SECRET, Visitor, a_request, hidden

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
    """The client ids that a list links to, in its order."""
    links = re.findall(r'<th scope="row(?:group)?"[^>]*>\s*<a href="([^"]*)"', markup)
    return [parse_qs(urlsplit(link.replace("&amp;", "&")).query)["id"][0] for link in links]


# --- creating


def test_create_shows_everything_once(admin: Visitor, backend: Backend) -> None:
    form = {
        **admin.form("/new"),
        "name": " CI ",
        "scopes": "read, write\tread",
        "expires": "30d",
        "until": "",
        "client_id": "",
    }
    made = admin.post("/new", form)

    assert made.status_code == 200
    (secret,) = {*SECRET.findall(made.text)}
    (key,) = [key for key in backend.iter_keys() if key.name == "CI"]
    assert key.scopes == {"read", "write"}
    assert key.expires_at is not None
    assert timedelta(days=29.9) < key.expires_at - utcnow() < timedelta(days=30.1)
    header = re.search(r"Authorization: (Basic \S+)</code>", made.text)
    assert header is not None
    assert (parse_basic(header[1]).client_id, parse_basic(header[1]).secret) == (key.client_id, secret)
    token = header[1].removeprefix("Basic ")
    assert f'<code id="token" data-shown>{token}</code>' in made.text
    assert made.text.count('class="copy"') >= 4 + 7
    assert "YOUR_TOKEN" not in made.text

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
        ({"expires": "until", "until": "2001-01-31T12:00"}, "expires", "past"),
        ({"client_id": "a:b"}, "client_id", "colon"),
        ({"client_id": "a" * 256}, "client_id", "255"),
    ],
    ids=str,
)
def test_a_wrong_field_is_marked_and_what_was_typed_stays(
    admin: Visitor, backend: Backend, fields: dict[str, str], name: str, says: str
) -> None:
    answer = admin.create(**{"name": "typed name", "scopes": "typed", **fields})

    assert answer.status_code == 422
    assert "Nothing was created" in answer.text
    error = re.search(rf'<p class="error" id="{name}-error">(.*?)</p>', answer.text)
    assert error is not None
    assert says in error[1]
    assert f'aria-describedby="{name}-error' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert "typed" in answer.text
    assert len(list(backend.iter_keys())) == 1
    assert admin.post("/new", {**hidden(answer.text), "name": "y", "expires": "never"}).status_code == 200


def test_an_id_may_be_chosen_and_is_taken_once(admin: Visitor, backend: Backend) -> None:
    assert admin.create(client_id="ci", expires="until", until="2999-01-31T12:00").status_code == 200
    made = backend.get("ci")
    assert made is not None
    assert made.expires_at == datetime(2999, 1, 31, 12, tzinfo=UTC)

    again = admin.create(client_id="ci")
    assert again.status_code == 409
    assert "a key with this id already" in again.text
    assert backend.get("ci") == made


# --- rotating and ending


def test_rotate_shows_another_secret_and_the_fate_of_the_old(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci", name="CI")
    form = admin.form("/key/rotate", id="ci")
    made = admin.post("/key/rotate", {**form, "overlap": "1h"})

    assert made.status_code == 200
    assert len({*SECRET.findall(made.text)}) == 1
    assert "The old secret works until" in made.text
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
    made = admin.post(
        "/key/rotate", {**admin.form("/key/rotate", id="ci"), "overlap": overlap, "other": other}
    )

    assert made.status_code == 200
    key = backend.get("ci")
    assert key is not None
    ends = [secret.expires_at for secret in key.secrets[:-1]]
    if seconds is None:
        assert ends == []
        assert "work no longer" in made.text
    else:
        assert ends[0] is not None
        assert abs((ends[0] - utcnow()).total_seconds() - seconds) < 30


@pytest.mark.parametrize(
    ("overlap", "other"), [("other", ""), ("other", "soon"), ("other", "-5s"), ("nonsense", ""), ("", "")]
)
def test_a_wrong_overlap(admin: Visitor, backend: Backend, overlap: str, other: str) -> None:
    backend.create(client_id="ci")
    before = backend.get("ci")
    form = {**admin.form("/key/rotate", id="ci"), "overlap": overlap, "other": other}
    answer = admin.post("/key/rotate", form)

    assert answer.status_code == 422
    assert "45s, 30m" in answer.text
    assert backend.get("ci") == before


@pytest.mark.parametrize("overlap", ["9" * 9 + "w", "24h"])
def test_a_rotation_that_is_not_allowed(admin: Visitor, backend: Backend, overlap: str) -> None:
    backend.create(client_id="ci")
    for _ in range(7):
        backend.rotate("ci")
    before = backend.get("ci")
    form = {**admin.form("/key/rotate", id="ci"), "overlap": "other", "other": overlap}
    answer = admin.post("/key/rotate", form)

    assert answer.status_code == 422
    assert 'class="error" id="overlap-error"' in answer.text
    assert backend.get("ci") == before


def test_disable_enable_revoke_delete(admin: Visitor, backend: Backend) -> None:
    """Each asks first, by name; each is told when it is done, and can be repeated by nobody's reload."""
    backend.create(client_id="ci", name="Nightly")
    for act, word, state in (
        ("disable", "disabled", "disabled"),
        ("enable", "enabled", "active"),
        ("revoke", "revoked", "revoked"),
    ):
        asked = admin.get(f"/key/{act}", id="ci")
        assert f"<h1>{act.capitalize()} <bdi>Nightly</bdi>?</h1>" in asked.text
        assert '<code class="id"><bdi>ci</bdi></code>' in asked.text
        done = admin.post(f"/key/{act}", hidden(asked.text))
        assert done.status_code == 303
        page = admin.get(done.headers["location"])
        assert word in page.text
        assert f'class="state {state}"' in page.text
    last = admin.form("/key/delete", id="ci")
    gone = admin.post("/key/delete", last)
    assert gone.status_code == 303
    assert "is deleted" in admin.get(gone.headers["location"]).text
    assert admin.post("/key/delete", last).status_code == 404
    assert admin.get("/key", id="ci").status_code == 404
    assert backend.get("ci") is None


def test_a_link_cannot_claim_what_is_not_so(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci")

    for done in ("disabled", "revoked", "nonsense"):
        assert 'role="status">The key' not in admin.get("/key", id="ci", done=done).text
    assert "is deleted" not in admin.get("/", id="ci", done="deleted").text
    assert "is deleted" not in admin.get("/", done="deleted").text


def test_what_cannot_be_done_is_not_asked(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci")
    backend.revoke("ci")

    for act in ("rotate", "enable", "disable", "revoke"):
        page = admin.get(f"/key/{act}", id="ci")
        assert page.status_code == 200
        assert "<form" not in page.text
        assert f"/key/{act}?" not in page.text
    assert "/key/delete?id=ci" in page.text


def test_a_key_that_was_changed_meanwhile_is_looked_at_again(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci")
    form = admin.form("/key/revoke", id="ci")
    backend.update("ci", name="another")

    answer = admin.post("/key/revoke", form)

    assert answer.status_code == 409
    assert "another" in answer.text
    assert backend.get("ci").revoked_at is None  # type: ignore[union-attr]


@pytest.mark.parametrize("meanwhile", ["rotate", "revoke"])
def test_a_key_that_was_changed_by_another_process_at_once(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """Between the look and the rotation: it is for the key as the form showed it."""
    backend.create(client_id="ci")
    form = admin.form("/key/rotate", id="ci")
    real, change = backend.rotate, getattr(backend, meanwhile)
    changed: list[object] = []

    def late(*given: Any, **more: Any) -> object:
        change("ci")
        changed.append(backend.get("ci"))
        return real(*given, **more)

    monkeypatch.setattr(backend, "rotate", late)
    answer = admin.post("/key/rotate", {**form, "overlap": "24h"})

    assert answer.status_code == 409
    assert "The key has changed" in answer.text
    assert [backend.get("ci")] == changed


def test_a_key_that_was_revoked_by_another_process_at_once(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.create(client_id="ci")
    backend.disable("ci")
    form = admin.form("/key/enable", id="ci")
    real = backend.enable
    monkeypatch.setattr(
        backend,
        "enable",
        lambda client_id, actor: (backend.revoke(client_id), real(client_id, actor=actor))[1],
    )

    answer = admin.post("/key/enable", form)

    assert answer.status_code == 409
    assert "which is final" in answer.text


def test_ones_own_key_is_warned_about(admin: Visitor, backend: Backend) -> None:
    (me,) = backend.iter_keys()
    for path in ("/key", "/key/rotate", "/key/disable", "/key/revoke", "/key/delete"):
        assert "signed in with this key" in admin.get(path, id=me.client_id).text


def test_live_secrets_with_age_and_last_use(admin: Visitor, backend: Backend) -> None:
    now = utcnow()
    issued = backend.create(client_id="ci")
    (secret,) = issued.key.secrets
    used = replace(secret, created_at=now - timedelta(days=3, hours=1), expires_at=now + timedelta(hours=5))
    young = replace(secret, created_at=now - timedelta(hours=2), last_used_at=now - timedelta(minutes=7))
    ended = replace(used, created_at=now - timedelta(days=9), expires_at=now - timedelta(days=1))
    view = view_of(replace(issued.key, secrets=(ended, used, young)), now)

    assert [(each.age, each.left) for each in view.secrets] == [("2 hours", ""), ("3 days", "5 hours")]
    markup = shown("one_key.html", key=view)
    assert markup.index(">new<") < markup.index("2 hours") < markup.index(">old<") < markup.index("3 days")
    assert f"{now - timedelta(minutes=7):%Y-%m-%d %H:%M} UTC" in markup


def shown(template: str, **context: Any) -> str:
    """A page of somebody who may change keys."""
    return render(
        template,
        request=a_request(),
        writable=True,
        **{"done": "", "deleted": "", "problem": None, **context},
    )


def test_no_hash_reaches_a_page(admin: Visitor, backend: Backend) -> None:
    issued = backend.create(client_id="ci")
    digest = issued.key.secrets[0].hash.rpartition("$")[2]

    for path in ("/", "/activity", "/key?id=ci", "/key/rotate?id=ci", "/key/delete?id=ci"):
        page = admin.request("GET", path).text
        assert digest not in page
        assert "$bamw1$" not in page


# --- states, by word and shape


def test_each_state_has_a_word_and_a_shape_of_its_own(admin: Visitor, backend: Backend) -> None:
    for client_id in ("a-active", "b-disabled", "c-revoked"):
        backend.create(client_id=client_id)
    backend.create(client_id="d-expired", expires_at=utcnow() + timedelta(hours=1))
    backend.disable("b-disabled")
    backend.revoke("c-revoked")
    later = utcnow().timestamp() + 7200
    admin.app._site._clock = lambda: later
    page = admin.get("/").text

    shapes = dict(re.findall(r'<span class="state (\w+)"><svg[^>]*aria-hidden="true">(.*?)</svg>', page))
    assert set(shapes) == {"active", "disabled", "revoked", "expired"}
    assert len(set(shapes.values())) == 4
    for state in shapes:
        assert re.search(rf"</svg>\s*{state}</span>", page)


# --- hostile text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_ids_and_metadata_are_text(admin: Visitor, backend: Backend, text: str) -> None:
    client_id = text.replace(":", "").replace("\u0085", "")[:60]
    backend.create(client_id=client_id, name=text.replace("\u0085", ""), metadata={text: text})
    made = [
        admin.get("/"),
        admin.get("/", prefix=text),
        admin.get("/activity"),
        *(admin.get(f"/key{act}", id=client_id) for act in ("", "/rotate", "/disable", "/revoke", "/delete")),
        admin.get("/call", id=client_id, endpoint=text),
        admin.create(name=text, scopes=text, expires=text, client_id=client_id),
        admin.get("/key", id=text + "nobody"),
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
        # But for the fields, which hold what was typed.
        shown = re.sub(r'value="[^"]*"|<textarea.*?</textarea>', "", page.text, flags=re.DOTALL)
        if page is not made[-1]:
            assert "\u202e" not in shown
            assert "\u2028" not in shown
    assert admin.get("/key", id=client_id).status_code == 200
    assert len(list(backend.iter_keys())) == 2


@pytest.mark.proves("X49")
def test_a_hostile_host_is_not_repeated(admin: Visitor) -> None:
    page = admin.request("GET", "/call", headers={"Host": "evil.example/<script>"})

    assert page.status_code == 200
    assert "evil" not in page.text


# --- the list


def test_pages_forwards_and_back(admin: Visitor, backend: Backend) -> None:
    """In the order of octets, whatever the direction; the prefix stays."""
    ids = sorted((f"k{number:03}" for number in range(ROWS * 3 + 1)), key=str.encode)
    for client_id in [*ids, "K", "l"]:
        backend.create(client_id=client_id)
    seen: list[list[str]] = []
    page = admin.get("/", prefix="k").text
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
    assert 'value="k"' in page


@pytest.mark.parametrize("width", [49, 3], ids=["minted", "short"])
def test_the_way_back_is_bounded(admin: Visitor, width: int) -> None:
    """In octets, and in fields: every link that is made can be followed."""
    place = Place()
    for number in range(200):
        place = place.next(f"id_{number:0{width}}")
        assert sum(map(len, place.trail)) <= MAX_TRAIL_OCTETS
    assert len(place.trail) > 20
    assert admin.request("GET", f"/?{encode_query(place.query())}").status_code == 200
    steps = 0
    while (before := place.previous()) is not None:
        assert before.after < place.after
        place = before
        steps += 1
    assert place == Place()
    assert steps < 200  # the rest of the way is one step, to the start
    huge = Place().next("\U0001f511" * 63).next("\U0001f511" * 62)
    assert huge.previous() is not None


def test_an_empty_list_says_what_to_do(admin: Visitor, backend: Backend) -> None:
    assert "No client id begins with" in admin.get("/", prefix="zzz").text
    assert "no keys behind" in admin.get("/", after="zzz").text
    assert "Create the first one" in shown("keys.html", place=Place(), keys=[], following=None)


def test_a_key_with_many_scopes_leaves_room_for_others(admin: Visitor, backend: Backend) -> None:
    """In the list; its own page shows all."""
    backend.create(client_id="ci", scopes=[f"scope{number}" for number in range(9)])

    listed, own = admin.get("/", prefix="ci").text, admin.get("/key", id="ci").text
    assert (listed.count('class="scope"'), "and 3 more" in listed) == (6, True)
    assert own.count('class="scope"') == 9


def test_a_key_without_a_name_goes_by_its_id(admin: Visitor, backend: Backend) -> None:
    backend.create(client_id="ci")

    assert "<h1><bdi>ci</bdi></h1>" in admin.get("/key", id="ci").text


def test_exactly_one_page_has_no_next(admin: Visitor, backend: Backend) -> None:
    for number in range(ROWS):
        backend.create(client_id=f"k{number:03}")

    assert 'rel="next"' not in admin.get("/", prefix="k").text


def test_records_from_elsewhere_can_be_shown() -> None:
    """A store of somebody else's may hold what this package would not have taken."""
    key = Key("x\x00\ud800y", name="a\x1b[31m\ud800", secrets=(Secret("$x"),), metadata={"a": {1, 2}})
    view = view_of(key, utcnow())
    seen = Snapshot(utcnow(), {}, (0,) * MINUTES)

    listed = {"place": Place(), "keys": [view], "following": Place().next(view.client_id)}
    counted = {"seen": seen, "groups": reason_groups({}), "recency": recency_of([view], utcnow())}
    for markup in (
        shown("one_key.html", key=view),
        shown("keys.html", **listed),
        shown("activity.html", **listed, **counted, listed=True),
    ):
        assert "\\x1b[31m\\ud800" in markup
        assert "x\\x00\\ud800y" in markup
        assert "\x00" not in markup


def test_spans() -> None:
    lengths = [0, 59, 60, 3599, 7200, 86_400, 400 * 86_400, 800 * 86_400, -5]

    assert [span(timedelta(seconds=each)) for each in lengths] == [
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
