"""The whole life of a key over every store that can be written, and what each step means for requests.

A change is made through ``Backend`` and looked at through real middleware with full caches: that of the
process that made the change, which must know at once, and that of another, which is to know within 250 ms.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt
import pytest

from basicauth_mw import Backend, Issued, Key, Principal, Secret, Settings, encode_basic, open_backend
from basicauth_mw import asgi as asgi_shell
from basicauth_mw import wsgi as wsgi_shell
from basicauth_mw.backends import Use
from basicauth_mw.backends import usage as usage_module
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import InvalidKey, KeyExists, KeyNotFound, KeyRevoked, ReadOnlyBackend
from basicauth_mw.keys.generated_secrets import SecretShape, classify, generate
from basicauth_mw.keys.hashing import MAX_LIVE_SECRETS, Hasher, hash_password
from basicauth_mw.keys.model import utcnow
from tests.asgi import helpers as asgi_helpers
from tests.contract.conftest import STORES
from tests.waiting import wait_until
from tests.wsgi import helpers as wsgi_helpers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0
NEWS_S = 0.25  # until a change is known elsewhere
SLACK_S = 2.0  # a busy machine's
OVERLAP_S = 1.5  # the shortest that outlasts a few requests on a busy machine
LATIN = {"client_id": "käse \U0001f511", "secret": "pä$$ wörd \U0001f511"}


class Snapshot(NamedTuple):
    """What a request came to.

    Attributes:
        status: Of the answer.
        caller: Whom the app saw; None: the app was not called.
    """

    status: int
    caller: Principal | None


class AsgiShell:
    """An ASGI app behind the middleware, on one event loop from the first request to ``close``."""

    def __init__(self, backend: Any, settings: Settings) -> None:
        self._app = asgi_helpers.App()
        self._authenticator = asgi_shell.BasicAuthMiddleware(self._app, backend, settings=settings)
        self._backend = backend
        self._loop = asyncio.Runner()

    def ask(self, authorization: str) -> Snapshot:
        self._app.scopes.clear()
        scope = asgi_helpers.http_scope(authorization)
        answer = self._loop.run(asgi_helpers.exchange(self._authenticator, scope))
        callers = [scope["user"] for scope in self._app.scopes]
        return Snapshot(answer.status, callers[0] if callers else None)

    def close(self) -> None:
        with self._loop:
            if aclose := getattr(self._backend, "aclose", None):
                self._loop.run(aclose())


class WsgiShell:
    """A WSGI app behind the middleware."""

    def __init__(self, backend: Any, settings: Settings) -> None:
        self._callers: list[Principal] = []
        self._authenticator = wsgi_shell.BasicAuthMiddleware(self._app, backend, settings=settings)

    def _app(self, environ: Any, start_response: Any) -> list[bytes]:
        self._callers.append(environ["basicauth_mw.principal"])
        start_response("200 OK", [])
        return [b"hello"]

    def ask(self, authorization: str) -> Snapshot:
        self._callers.clear()
        answer = wsgi_helpers.call(self._authenticator, authorization)
        return Snapshot(answer.status, self._callers[0] if self._callers else None)

    def close(self) -> None:
        """Nothing of it is left open."""


# A store in memory is seen by no other process, and keeps neither peppers nor slow hashes of its own making.
beyond_memory = pytest.mark.parametrize("url", [name for name in STORES if name != "memory"], indirect=True)

SHELLS = {"asgi": AsgiShell, "wsgi": WsgiShell}
AnyShell = AsgiShell | WsgiShell


class Place:
    """Where the keys are. Every ``open`` stands for another process."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self._stack = stack
        self._shared = MemoryStore() if url == "memory:" else None

    def open(self, **settings: Any) -> Backend:
        configured = Settings(backend_deadline_s=5.0, **settings)
        if self._shared is not None:
            backend = Backend(self._shared, settings=configured)
        else:
            backend = open_backend(self.url, settings=configured, create=True)
        self._stack.callback(backend.close)
        return backend

    def serve(self, kind: str, backend: Any, **settings: Any) -> AnyShell:
        configured = {"throttle": "", "backend_deadline_s": 5.0, **settings}
        shell = SHELLS[kind](backend, Settings(**configured))
        self._stack.callback(shell.close)
        return shell


@pytest.fixture(autouse=True)
def uses_are_written_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of these tests wait for a batch of them."""
    monkeypatch.setattr("basicauth_mw.backends.usage._GATHER_S", 0.1)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BASICAUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def place(url: str) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(url, stack)


@pytest.fixture
def backend(place: Place) -> Backend:
    """The process that changes keys."""
    return place.open()


@pytest.fixture(params=SHELLS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def here(place: Place, backend: Backend, kind: str) -> AnyShell:
    """Middleware in the process that changes keys, with the default cache."""
    return place.serve(kind, backend)


@pytest.fixture
def elsewhere(place: Place, kind: str) -> AnyShell:
    """Middleware of another process."""
    return place.serve(kind, place.open())


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """The audit events since the last call."""
    caplog.set_level(logging.DEBUG)
    taken = 0

    def take() -> list[dict[str, Any]]:
        nonlocal taken
        found = [record for record in caplog.records if record.name == "basicauth_mw.audit"]
        new, taken = found[taken:], len(found)
        return [record.basicauth for record in new]  # type: ignore[attr-defined]

    return take


def changed(event: str, client_id: str) -> dict[str, Any]:
    """What the audit log has of a change, and all that it has."""
    return {
        "event": event,
        "client_id": client_id,
        "reason": None,
        "detail": None,
        "address": None,
        "request_id": None,
        "actor": None,
    }


def stored(backend: Backend, client_id: str) -> Key:
    key = backend.get(client_id)
    assert key is not None
    return key


def cursor(backend: Backend) -> str:
    return str(backend.store.changes(None).cursor)


def soon(condition: Callable[[], bool]) -> None:
    """Wait until news has reached the other process."""
    wait_until(condition, NEWS_S + SLACK_S)


# --- create


def test_a_minted_key_works(backend: Backend, here: AnyShell, elsewhere: AnyShell) -> None:
    expires_at = utcnow() + timedelta(days=90)
    issued = backend.create(
        name="CI für alle",
        scopes=["read", "write"],
        expires_at=expires_at,
        metadata={"team": {"n": [1, "ä"]}},
    )

    assert stored(backend, issued.client_id) == issued.key
    assert (issued.key.expires_at, issued.key.disabled, issued.key.revoked_at) == (expires_at, False, None)
    caller = Principal(
        issued.client_id, "CI für alle", frozenset({"read", "write"}), {"team": {"n": [1, "ä"]}}
    )
    for shell in (here, here, elsewhere):  # the second is a hit
        assert shell.ask(issued.authorization) == Snapshot(200, caller)
    assert here.ask(encode_basic(issued.client_id, generate("sk"))) == Snapshot(401, None)


def test_a_chosen_secret_works(backend: Backend, here: AnyShell, elsewhere: AnyShell) -> None:
    issued = backend.create(**LATIN)

    assert (issued.client_id, issued.secret) == tuple(LATIN.values())
    for shell in (here, here, elsewhere):
        assert shell.ask(issued.authorization).status == 200
    assert here.ask(encode_basic(issued.client_id, "pa$$ word")).status == 401


def test_an_id_is_given_once(backend: Backend, here: AnyShell, events: Callable[..., Any]) -> None:
    issued = backend.create(client_id="ci", name="first")
    events()
    with pytest.raises(KeyExists):
        backend.create(client_id="ci", name="second")

    assert (stored(backend, "ci").name, events()) == ("first", [])
    assert here.ask(issued.authorization).status == 200


PAST = datetime(2000, 1, 1, tzinfo=UTC)
BAD_CHECKSUM = generate("sk")[:-1]
BAD_CHECKSUM += "1" if classify(BAD_CHECKSUM + "0") is SecretShape.GENERATED else "0"
DEEP: object = reduce(lambda inner, _: [inner], range(100_000), [])  # deeper than any parser goes

BAD_IDS = {
    "empty": "",
    "colon": "a:b",
    "newline": "a\nb",
    "nul": "a\0b",
    "delete": "a\x7f",
    "256-octets": "a" * 256,
    "256-octets-of-128-characters": "ä" * 128,
    "lone-surrogate": "\ud800",
    "octets": b"ci",
    "number": 7,
}
BAD_SECRETS = {
    "empty": "",
    "1025-octets": "a" * 1025,
    "1026-octets-of-513-characters": "ä" * 513,
    "newline": "a\nb",
    "nul": "\0",
    "lone-surrogate": "\udfff",
    "mistyped": BAD_CHECKSUM,
    "octets": b"secret",
}
BAD_FIELDS: list[tuple[str, str, Any]] = [
    ("name", "201-characters", "n" * 201),
    ("name", "control", "a\x1b[2J"),
    ("name", "lone-surrogate", "\ud800"),
    ("name", "none", None),
    ("scopes", "text", "read"),
    ("scopes", "space", ["read write"]),
    ("scopes", "empty", [""]),
    ("scopes", "quote", ['"']),
    ("scopes", "backslash", ["\\"]),
    ("scopes", "not-ascii", ["löschen"]),
    ("scopes", "number", [1]),
    ("scopes", "none", None),
    ("scopes", "101", [f"s{number}" for number in range(101)]),
    ("expires_at", "past", PAST),
    ("expires_at", "naive", datetime(2999, 1, 1)),  # noqa: DTZ001
    ("expires_at", "text", "2999-01-01T00:00:00Z"),
    ("expires_at", "out-of-range", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
    ("metadata", "4097-octets", {"a": "x" * 4088}),
    ("metadata", "no-json", {"a": object()}),
    ("metadata", "nan", {"a": float("nan")}),
    ("metadata", "list", [1]),
    ("metadata", "number-as-name", {1: 2}),
    ("metadata", "lone-surrogate", {"a": "\ud800"}),
    ("metadata", "too-deep", {"a": DEEP}),
]
bad_fields = pytest.mark.parametrize(
    ("field", "value"),
    [pytest.param(field, value, id=f"{field}-{case}") for field, case, value in BAD_FIELDS],
)
bad_secrets = pytest.mark.parametrize("secret", BAD_SECRETS.values(), ids=BAD_SECRETS)


def refuses_to_create(backend: Backend, events: Callable[..., Any], **fields: Any) -> None:
    before = cursor(backend)
    with pytest.raises(InvalidKey) as refused:
        backend.create(**fields)

    assert str(refused.value)
    assert list(backend.iter_keys()) == []
    assert (cursor(backend), events()) == (before, [])


@pytest.mark.proves("B4", "B10")
@pytest.mark.parametrize("client_id", BAD_IDS.values(), ids=BAD_IDS)
def test_no_key_with_a_bad_id(backend: Backend, events: Callable[..., Any], client_id: Any) -> None:
    refuses_to_create(backend, events, client_id=client_id)


@pytest.mark.proves("B10")
@bad_secrets
def test_no_key_with_a_bad_secret(backend: Backend, events: Callable[..., Any], secret: Any) -> None:
    refuses_to_create(backend, events, secret=secret)


@bad_fields
def test_no_key_with_a_bad_field(
    backend: Backend, events: Callable[..., Any], field: str, value: Any
) -> None:
    refuses_to_create(backend, events, **{field: value})


def test_the_longest_key_works(backend: Backend, here: AnyShell) -> None:
    """Every field at its limit."""
    issued = backend.create(
        client_id="ä" * 127 + "a",
        secret="ö" * 512,
        name="\U0001f511" * 200,
        scopes=[f"s{number:03}" + "x" * 251 for number in range(100)],
        metadata={"a": "x" * 4087},
    )
    caller = here.ask(issued.authorization).caller

    assert caller is not None
    assert (len(caller.name), len(caller.scopes), len(caller.metadata["a"])) == (200, 100, 4087)


# --- rotate


@pytest.mark.proves("O2", "F33")
def test_no_request_fails_in_a_rotation(backend: Backend, here: AnyShell, elsewhere: AnyShell) -> None:
    """The old secret and the new one work until the overlap ends, then only the new one; cached or not."""
    old = backend.create(client_id="ci", name="CI", scopes=["read"], metadata={"team": "a"})
    for shell in (here, elsewhere):
        assert shell.ask(old.authorization).status == 200

    new = backend.rotate("ci", overlap_s=OVERLAP_S)
    for shell in (here, elsewhere):
        for issued in (old, new, old, new):
            seen = shell.ask(issued.authorization)
            assert seen == Snapshot(200, Principal("ci", "CI", frozenset({"read"}), {"team": "a"}))
    assert utcnow() < ends_of(new.key)[0], "the machine was too slow for this test"

    for shell in (here, elsewhere):
        wait_until(
            lambda shell=shell: shell.ask(old.authorization).status == 401, OVERLAP_S + NEWS_S + SLACK_S
        )
        assert shell.ask(new.authorization).status == 200
    assert utcnow() >= ends_of(new.key)[0]


def ends_of(key: Key) -> list[Any]:
    return [secret.expires_at for secret in key.secrets]


def test_without_an_overlap_the_old_secret_ends_now(
    backend: Backend, here: AnyShell, elsewhere: AnyShell
) -> None:
    old = backend.create(client_id="ci")
    for shell in (here, elsewhere):
        assert shell.ask(old.authorization).status == 200
    new = backend.rotate("ci", overlap_s=0)

    assert [here.ask(issued.authorization).status for issued in (old, new)] == [401, 200]
    assert elsewhere.ask(new.authorization).status == 200
    soon(lambda: elsewhere.ask(old.authorization).status == 401)
    assert ends_of(stored(backend, "ci")) == [None]


def test_a_rotation_changes_secrets_and_nothing_else(backend: Backend) -> None:
    expires_at = utcnow() + timedelta(days=90)
    old = backend.create(client_id="ci", name="n", scopes=["s"], expires_at=expires_at, metadata={"a": 1})
    before = utcnow()
    new = backend.rotate("ci")
    after = utcnow()

    found = stored(backend, "ci")
    assert found == new.key
    assert replace(found, secrets=()) == replace(old.key, secrets=())
    assert found.version > old.key.version
    first, second = found.secrets
    assert (first.hash, first.created_at) == (old.key.secrets[0].hash, old.key.secrets[0].created_at)
    assert before <= first.expires_at - timedelta(days=1) <= after, "the default overlap is a day"
    assert (second.expires_at, second.last_used_at) == (None, None)
    assert before <= second.created_at <= after
    assert new.authorization == encode_basic("ci", new.secret)
    assert classify(new.secret) is SecretShape.GENERATED
    assert new.secret != old.secret


def test_earlier_secrets_keep_the_sooner_of_their_ends(backend: Backend) -> None:
    backend.create(client_id="ci")
    backend.rotate("ci", overlap_s=100)
    hundred = ends_of(stored(backend, "ci"))[0]
    backend.rotate("ci", overlap_s=10_000)
    kept, long, _ = ends_of(stored(backend, "ci"))
    backend.rotate("ci", overlap_s=50)
    first, second, third, newest = ends_of(stored(backend, "ci"))

    assert kept == hundred < long
    assert first == second == third < hundred
    assert newest is None


def test_at_most_eight_secrets_live_at_a_time(
    backend: Backend, here: AnyShell, events: Callable[..., Any]
) -> None:
    issued = [backend.create(client_id="ci")]
    issued += [backend.rotate("ci", overlap_s=3600) for _ in range(MAX_LIVE_SECRETS - 1)]
    assert [here.ask(each.authorization).status for each in issued] == [200] * 8
    assert len({secret.created_at for secret in stored(backend, "ci").secrets}) == 8

    events()
    before = (stored(backend, "ci"), cursor(backend))
    with pytest.raises(InvalidKey, match="8 live"):
        backend.rotate("ci", overlap_s=3600)
    assert ((stored(backend, "ci"), cursor(backend)), events()) == (before, [])
    assert [here.ask(each.authorization).status for each in issued] == [200] * 8

    last = backend.rotate("ci", overlap_s=0)
    assert [here.ask(each.authorization).status for each in (*issued, last)] == [401] * 8 + [200]


def test_ended_secrets_make_room(backend: Backend) -> None:
    """They are dropped by the next rotation."""
    backend.create(client_id="ci")
    for _ in range(MAX_LIVE_SECRETS - 2):
        backend.rotate("ci", overlap_s=3600)
    newest = backend.rotate("ci", overlap_s=0.05)
    assert len(newest.key.secrets) == MAX_LIVE_SECRETS
    wait_until(lambda: utcnow() >= max(end for end in ends_of(newest.key) if end))

    assert len(backend.rotate("ci").key.secrets) == 2


def test_a_chosen_secret_is_rotated_to_a_minted_one_and_back(backend: Backend, here: AnyShell) -> None:
    chosen = backend.create(client_id="ci", secret="first wörd")
    minted = backend.rotate("ci")
    assert [here.ask(each.authorization).status for each in (chosen, minted)] == [200, 200]

    with pytest.raises(InvalidKey, match="at most one password"):
        backend.rotate("ci", secret="second wörd")
    assert [here.ask(each.authorization).status for each in (chosen, minted)] == [200, 200]

    other = backend.rotate("ci", secret="second wörd", overlap_s=0)
    assert other.secret == "second wörd"
    assert [here.ask(each.authorization).status for each in (chosen, minted, other)] == [401, 401, 200]


def test_a_minted_secret_is_rotated_to_a_chosen_one(backend: Backend, here: AnyShell) -> None:
    old = backend.create(client_id="ci")
    new = backend.rotate("ci", secret="pä$$ wörd")

    assert [here.ask(each.authorization).status for each in (old, new)] == [200, 200]


def test_a_minted_secret_may_be_given(backend: Backend, here: AnyShell) -> None:
    """Minted elsewhere, with another prefix."""
    given = generate("acme_live")
    backend.create(client_id="ci")
    new = backend.rotate("ci", secret=given)

    assert (new.secret, here.ask(new.authorization).status) == (given, 200)
    assert not stored(backend, "ci").secrets[1].hash.startswith("$argon2id$")


@pytest.mark.parametrize("secret", [generate("sk"), "a chosen one"], ids=["minted", "chosen"])
@pytest.mark.parametrize("overlap_s", [0, 60])
def test_no_rotation_to_a_secret_that_the_key_has(
    backend: Backend, events: Callable[..., Any], secret: str, overlap_s: int
) -> None:
    before = backend.create(client_id="ci", secret=secret).key
    events()
    with pytest.raises(InvalidKey):
        backend.rotate("ci", secret=secret, overlap_s=overlap_s)

    assert (stored(backend, "ci"), events()) == (before, [])


BAD_OVERLAPS = {
    "negative": -1,
    "nan": float("nan"),
    "infinite": float("inf"),
    "beyond-the-year-9999": 1e12,
    "huge": 10**400,
    "true": True,
    "text": "60",
    "none": None,
}


@pytest.mark.parametrize("overlap_s", BAD_OVERLAPS.values(), ids=BAD_OVERLAPS)
def test_no_rotation_with_a_bad_overlap(backend: Backend, events: Callable[..., Any], overlap_s: Any) -> None:
    before = backend.create(client_id="ci").key
    events()
    with pytest.raises(InvalidKey):
        backend.rotate("ci", overlap_s=overlap_s)

    assert (stored(backend, "ci"), events()) == (before, [])


@bad_secrets
def test_no_rotation_to_a_bad_secret(backend: Backend, events: Callable[..., Any], secret: Any) -> None:
    before = backend.create(client_id="ci").key
    events()
    with pytest.raises(InvalidKey):
        backend.rotate("ci", secret=secret)

    assert (stored(backend, "ci"), events()) == (before, [])


def test_a_rotation_may_be_for_one_version_of_the_key(backend: Backend, events: Callable[..., Any]) -> None:
    """So that of two who saw the same key, one rotates it."""
    seen = backend.create(client_id="ci").key

    rotated = backend.rotate("ci", version=seen.version).key
    with pytest.raises(InvalidKey, match="has changed"):
        backend.rotate("ci", version=seen.version)

    assert backend.get("ci") == rotated
    assert [each["event"] for each in events()] == ["key.created", "key.rotated"]


def test_of_many_who_saw_the_same_key_one_rotates_it(backend: Backend, events: Callable[..., Any]) -> None:
    """All at once: whoever finds the key changed when it comes to writing does not begin again."""
    seen = backend.create(client_id="ci").key
    issued: list[Issued] = []

    def rotate() -> None:
        with suppress(InvalidKey):
            issued.append(backend.rotate("ci", overlap_s=0, version=seen.version))

    at_once([rotate] * 8)

    assert [each.key for each in issued] == [backend.get("ci")]
    assert [each["event"] for each in events()] == ["key.created", "key.rotated"]


def test_a_rotation_opens_no_closed_door(backend: Backend, here: AnyShell) -> None:
    """A disabled key stays disabled, and one whose end has come stays ended."""
    backend.create(client_id="off")
    backend.disable("off")
    backend.create(client_id="ended", expires_at=utcnow() + timedelta(seconds=0.3))
    wait_until(lambda: utcnow() > stored(backend, "ended").expires_at)

    for client_id in ("off", "ended"):
        assert here.ask(backend.rotate(client_id).authorization).status == 401


# --- disable, enable, revoke, delete


def test_disabled_until_enabled(
    backend: Backend, here: AnyShell, elsewhere: AnyShell, events: Callable[..., Any]
) -> None:
    """At once in this process, also when cached; elsewhere soon. Both may be repeated."""
    issued = backend.create(client_id="ci")
    for shell in (here, elsewhere):
        assert shell.ask(issued.authorization).status == 200
    events()

    assert backend.disable("ci").disabled
    assert backend.disable("ci").disabled
    assert events() == [changed("key.disabled", "ci")]
    assert here.ask(issued.authorization) == Snapshot(401, None)
    soon(lambda: elsewhere.ask(issued.authorization).status == 401)
    events()

    assert not backend.enable("ci").disabled
    assert not backend.enable("ci").disabled
    assert events() == [changed("key.enabled", "ci")]
    for shell in (here, elsewhere):
        assert shell.ask(issued.authorization).status == 200


@pytest.mark.proves("O2")
def test_revoked_is_final(
    backend: Backend,
    here: AnyShell,
    elsewhere: AnyShell,
    events: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be repeated, and keeps the moment at which it first was."""
    monkeypatch.setattr(
        "basicauth_mw.backends.usage._GATHER_S", 60
    )  # a use that is written changes what is compared
    old = backend.create(client_id="ci")
    new = backend.rotate("ci")
    for shell in (here, elsewhere):
        assert [shell.ask(each.authorization).status for each in (old, new)] == [200, 200]
    events()

    before = utcnow()
    revoked_at = backend.revoke("ci").revoked_at
    assert revoked_at is not None
    assert before <= revoked_at <= utcnow()
    key = stored(backend, "ci")
    assert backend.revoke("ci") == key
    assert key.revoked_at == revoked_at
    assert events() == [changed("key.revoked", "ci")]
    assert [here.ask(each.authorization).status for each in (old, new)] == [401, 401]
    soon(lambda: [elsewhere.ask(each.authorization).status for each in (old, new)] == [401, 401])
    events()

    for change in (
        lambda: backend.enable("ci"),
        lambda: backend.rotate("ci"),
        lambda: backend.rotate("ci", overlap_s=0),
        lambda: backend.update("ci", name="back"),
        lambda: backend.update("ci", expires_at=None),
    ):
        with pytest.raises(KeyRevoked, match="final"):
            change()
    assert (stored(backend, "ci"), events()) == (key, [])
    backend.disable("ci")
    assert stored(backend, "ci") == replace(key, disabled=True)
    assert here.ask(new.authorization).status == 401


def test_delete_frees_the_id(
    backend: Backend, here: AnyShell, elsewhere: AnyShell, events: Callable[..., Any]
) -> None:
    """Whoever has the id now has nothing of whoever had it before."""
    old = backend.create(client_id="ci", name="old", scopes=["admin"])
    for shell in (here, elsewhere):
        assert shell.ask(old.authorization).status == 200
    backend.revoke("ci")
    events()

    assert backend.delete("ci").name == "old"
    assert events() == [changed("key.deleted", "ci")]
    assert (backend.get("ci"), list(backend.iter_keys())) == (None, [])
    assert here.ask(old.authorization).status == 401
    new = backend.create(client_id="ci")
    assert here.ask(new.authorization) == Snapshot(200, Principal("ci"))
    assert here.ask(old.authorization).status == 401
    soon(lambda: elsewhere.ask(old.authorization).status == 401)
    assert elsewhere.ask(new.authorization) == Snapshot(200, Principal("ci"))


CHANGES: dict[str, Callable[[Backend], object]] = {
    "rotate": lambda backend: backend.rotate("ci"),
    "update": lambda backend: backend.update("ci", name="n"),
    "update-nothing": lambda backend: backend.update("ci"),
    "disable": lambda backend: backend.disable("ci"),
    "enable": lambda backend: backend.enable("ci"),
    "revoke": lambda backend: backend.revoke("ci"),
    "delete": lambda backend: backend.delete("ci"),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@every_change
def test_no_change_of_an_unknown_key(
    backend: Backend, events: Callable[..., Any], change: Callable[[Backend], object]
) -> None:
    with pytest.raises(KeyNotFound, match="'ci'"):
        change(backend)

    assert (list(backend.iter_keys()), events()) == ([], [])


# --- update


def test_updates_reach_the_next_request(
    backend: Backend, here: AnyShell, elsewhere: AnyShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the process that makes them, also when cached; elsewhere soon."""
    monkeypatch.setattr("basicauth_mw.backends.usage._GATHER_S", 60)  # no use is written between two reads
    issued = backend.create(client_id="ci", name="old", scopes=["read"], metadata={"a": 1})
    for shell in (here, elsewhere):
        assert shell.ask(issued.authorization).status == 200
    caller = Principal("ci", "old", frozenset({"read"}), {"a": 1})

    for fields in (
        {"scopes": ["read", "write"]},
        {"scopes": []},
        {"name": "néw"},
        {"metadata": {"b": [None, "ö"]}},
        {"name": "", "scopes": ["admin"], "metadata": None},
    ):
        key = backend.update("ci", **fields)
        caller = replace(
            caller,
            **{**fields, "scopes": key.scopes, "metadata": fields.get("metadata", caller.metadata) or {}},
        )
        assert (key.name, key.scopes, key.metadata) == (caller.name, caller.scopes, caller.metadata)
        assert stored(backend, "ci") == key
        assert here.ask(issued.authorization) == Snapshot(200, caller)
    assert caller == Principal("ci", "", frozenset({"admin"}), {})
    soon(lambda: elsewhere.ask(issued.authorization) == Snapshot(200, caller))


def test_an_update_changes_what_is_given_and_nothing_else(
    backend: Backend, events: Callable[..., Any]
) -> None:
    expires_at = utcnow() + timedelta(days=1)
    key = backend.create(client_id="ci", name="n", scopes=["s"], expires_at=expires_at, metadata={"a": 1}).key
    events()

    for fields in (
        {"name": "m"},
        {"scopes": frozenset({"t"})},
        {"expires_at": None},
        {"expires_at": utcnow() + timedelta(days=2)},
        {"metadata": {"b": 2}},
    ):
        before = stored(backend, "ci")
        key = replace(key, **fields)
        updated = backend.update("ci", **fields)
        assert updated == stored(backend, "ci") == key
        assert updated.version > before.version
        assert events() == [changed("key.updated", "ci")]


def test_an_update_of_nothing_is_no_change(backend: Backend, events: Callable[..., Any]) -> None:
    """No new version, no audit record, and no news for caches, unless those of before may have been lost."""
    expires_at = utcnow() + timedelta(days=1)
    backend.create(client_id="ci", name="n", scopes=["s"], expires_at=expires_at, metadata={"a": 1})
    before, news = stored(backend, "ci").version, cursor(backend)
    events()

    backend.update("ci")
    backend.update("ci", name="n", scopes=["s", "s"], expires_at=expires_at, metadata={"a": 1})

    assert stored(backend, "ci").version == before
    assert (cursor(backend) == news) is not hasattr(backend.store, "announce")
    assert events() == []


@pytest.mark.parametrize("value", [True, 1.0], ids=["true", "1.0"])
def test_json_values_that_only_python_takes_for_equal(backend: Backend, value: Any) -> None:
    """1, 1.0 and true are three values in JSON."""
    backend.create(client_id="ci", metadata={"limits": [1]})
    backend.update("ci", metadata={"limits": [value]})

    assert json.dumps(stored(backend, "ci").metadata) == json.dumps({"limits": [value]})


def test_metadata_is_a_copy(backend: Backend) -> None:
    given = {"a": [1]}
    backend.create(client_id="ci", metadata=given)
    given["a"].append(2)
    assert stored(backend, "ci").metadata == {"a": [1]}
    given = {"b": [1]}
    backend.update("ci", metadata=given)
    given["b"].append(2)
    assert stored(backend, "ci").metadata == {"b": [1]}


@bad_fields
def test_no_update_with_a_bad_field(
    backend: Backend, events: Callable[..., Any], field: str, value: Any
) -> None:
    """Not even of the fields that are right."""
    before = backend.create(client_id="ci", name="n", scopes=["s"], metadata={"a": 1}).key
    events()
    with pytest.raises(InvalidKey):
        backend.update("ci", **{"name": "m", "scopes": ["t"], field: value})

    assert (stored(backend, "ci"), events()) == (before, [])


# --- expiry


@pytest.mark.proves("O2", "F23")
def test_an_expiry_ends_cached_entries_too(backend: Backend, here: AnyShell, elsewhere: AnyShell) -> None:
    """To the moment, although the caches would keep them for longer."""
    issued = backend.create(client_id="ci", expires_at=utcnow() + timedelta(seconds=OVERLAP_S))
    assert issued.key.expires_at is not None
    served_at = utcnow()
    for shell in (here, elsewhere):
        assert shell.ask(issued.authorization).status == 200
    assert served_at < issued.key.expires_at

    wait_until(lambda: utcnow() >= issued.key.expires_at)
    for shell in (here, elsewhere):
        assert shell.ask(issued.authorization).status == 401
    backend.update("ci", expires_at=None)
    for shell in (here, elsewhere):
        assert shell.ask(issued.authorization).status == 200


def test_an_expiry_may_be_brought_forward(backend: Backend, here: AnyShell) -> None:
    issued = backend.create(client_id="ci")
    assert here.ask(issued.authorization).status == 200
    end = utcnow() + timedelta(seconds=OVERLAP_S)
    backend.update("ci", expires_at=end)
    while utcnow() < end:
        status = here.ask(issued.authorization).status
        assert status == 200 or utcnow() >= end

    assert here.ask(issued.authorization).status == 401


# --- iter_keys


def test_keys_are_listed_page_by_page(backend: Backend) -> None:
    """By the octets of their ids, by prefix, from a cursor, up to a limit; more than one page of them."""
    ids = sorted(
        [f"job-{number}" for number in range(1100)] + ["a", "Z", "ä", "job", "\U0001f511"], key=str.encode
    )
    made = [Key(client_id, secrets=(Secret(backend.hash(generate("sk"))),)) for client_id in reversed(ids)]
    assert backend.add(made) == [None] * len(ids)

    def listed(**options: Any) -> list[str]:
        return [key.client_id for key in backend.iter_keys(**options)]

    jobs = [client_id for client_id in ids if client_id.startswith("job-")]
    assert listed() == ids
    assert listed(prefix="job-") == jobs
    assert listed(prefix="job-", after=jobs[600]) == jobs[601:]
    assert listed(prefix="job-", after=jobs[2], limit=501) == jobs[3:504]
    assert listed(prefix="job-", after="zzz") == []
    assert listed(prefix="nobody") == []
    assert listed(limit=0) == []
    assert listed(after=ids[-1]) == []
    paged: list[str] = []
    while page := listed(after=paged[-1] if paged else "", limit=300):
        paged += page
    assert paged == ids
    assert next(backend.iter_keys(prefix="job-7", limit=1)) == stored(backend, "job-7")


# --- many at once


def interrupt(backend: Backend, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let others act once, between the moment at which a key is read and that at which it is written."""
    read = backend.store.get
    acts = iter([act])

    def get(client_id: str, /) -> Key | None:
        key: Key | None = read(client_id)
        for each in acts:
            each()
        return key

    monkeypatch.setattr(backend.store, "get", get)


WRITES: dict[str, tuple[Callable[[Backend], object], Callable[[Key], bool]]] = {
    "rotate": (lambda backend: backend.rotate("ci"), lambda key: len(key.secrets) == 2),
    "rotate-to-chosen": (
        lambda backend: backend.rotate("ci", secret="a chosen one"),
        lambda key: len(key.secrets) == 2,
    ),
    "update": (lambda backend: backend.update("ci", scopes=["new"]), lambda key: key.scopes == {"new"}),
    "disable": (lambda backend: backend.disable("ci"), lambda key: key.disabled),
    "revoke": (lambda backend: backend.revoke("ci"), lambda key: key.revoked_at is not None),
}
every_write = pytest.mark.parametrize(("write", "is_done"), WRITES.values(), ids=WRITES)


@every_write
def test_a_change_in_between_is_not_lost(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Backend], object],
    is_done: Callable[[Key], bool],
) -> None:
    """Of whoever comes second, too."""
    first, second = place.open(), place.open()
    first.create(client_id="ci", metadata={"n": 1})
    interrupt(first, monkeypatch, lambda: second.update("ci", name="between", metadata={"n": 2}))

    write(first)

    key = stored(second, "ci")
    assert is_done(key)
    assert (key.name, key.metadata) == ("between", {"n": 2})


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda backend: backend.revoke("ci"), KeyRevoked),
        (lambda backend: backend.delete("ci"), KeyNotFound),
        (lambda backend: [backend.rotate("ci") for _ in range(MAX_LIVE_SECRETS - 1)], InvalidKey),
    ],
    ids=["revoked", "deleted", "eight-secrets"],
)
def test_a_change_obeys_what_came_in_between(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Backend], object],
    error: type[Exception],
) -> None:
    first, second = place.open(), place.open()
    first.create(client_id="ci")
    interrupt(first, monkeypatch, lambda: act(second))
    with pytest.raises(error):
        first.rotate("ci")

    key = second.get("ci")
    assert key is None or (key.revoked_at is not None) == (len(key.secrets) == 1)


def test_threads_lose_no_change(backend: Backend, place: Place) -> None:
    """Three each change a field that is theirs, one disables, three rotate: nothing is ever taken back."""
    backend.create(client_id="ci")
    issued: list[Issued] = []

    def write(field: str, values: list[Any]) -> None:
        own = place.open()
        for value in values:
            own.update("ci", **{field: value})
            assert getattr(stored(own, "ci"), field) == value

    def switch() -> None:
        own = place.open()
        for disabled in [False, True] * 10:
            own.disable("ci") if disabled else own.enable("ci")
            assert stored(own, "ci").disabled is disabled

    def rotate() -> None:
        own = place.open()
        issued.extend(own.rotate("ci", overlap_s=3600) for _ in range(2))

    at_once(
        [
            lambda: write("name", [f"name-{number}" for number in range(20)]),
            lambda: write("scopes", [frozenset({f"scope-{number}"}) for number in range(20)]),
            lambda: write("metadata", [{"n": number} for number in range(20)]),
            switch,
            *[rotate] * 3,
        ]
    )

    key = stored(backend, "ci")
    assert (key.name, key.scopes, key.metadata) == ("name-19", {"scope-19"}, {"n": 19})
    assert key.disabled
    backend.enable("ci")
    authenticator = place.serve("wsgi", backend)
    assert [authenticator.ask(each.authorization).status for each in issued] == [200] * 6


def at_once(work: list[Callable[[], object]]) -> None:
    """Run each on a thread of its own; fail if one of them does."""
    barrier = threading.Barrier(len(work))
    failures: list[BaseException] = []

    def run(each: Callable[[], object]) -> None:
        try:
            barrier.wait(LIMIT_S)
            each()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


def test_one_of_many_creates(place: Place) -> None:
    made: list[Issued] = []
    refused: list[KeyExists] = []

    def create(own: Backend) -> None:
        try:
            made.append(own.create(client_id="same"))
        except KeyExists as exc:
            refused.append(exc)

    backends = [place.open() for _ in range(8)]
    at_once([lambda own=own: create(own) for own in backends])

    assert (len(made), len(refused)) == (1, 7)
    assert stored(backends[0], "same") == made[0].key


# A process of its own that, when it is told to, rotates the key and changes one field of it again and again.
WRITER = """
import sys
from basicauth_mw import Settings, open_backend
url, number = sys.argv[1:]
fields = {
    "0": lambda n: {"name": str(n)},
    "1": lambda n: {"scopes": [str(n)]},
    "2": lambda n: {"metadata": {"n": n}},
}
with open_backend(url, settings=Settings(backend_deadline_s=10.0)) as backend:
    backend.get("ci")
    print("ready", flush=True)
    sys.stdin.readline()
    print(backend.rotate("ci", overlap_s=3600).authorization)
    backend.create(client_id=f"own-{number}")
    for n in range(25 if number in fields else 0):
        backend.update("ci", **fields[number](n))
"""


@beyond_memory
def test_processes_lose_no_change(place: Place, backend: Backend) -> None:
    """Seven rotate one key at the same moment: all eight secrets work."""
    first = backend.create(client_id="ci")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, place.url, str(number)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(MAX_LIVE_SECRETS - 1)
        ]
        for writer in writers:
            stack.callback(writer.kill)
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        new = [writer.communicate(timeout=60)[0].strip() for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * len(writers)

    authenticator = place.serve("wsgi", backend)
    assert [authenticator.ask(authorization).status for authorization in (first.authorization, *new)] == [
        200
    ] * 8
    key = stored(backend, "ci")
    assert (key.name, key.scopes, key.metadata) == ("24", {"24"}, {"n": 24})
    assert [key.client_id for key in backend.iter_keys(prefix="own-")] == [f"own-{n}" for n in range(7)]


# --- stores that cannot be written


class Lookups:
    """A third party's: it finds keys, and that is all."""

    def __init__(self, *keys: Key) -> None:
        self._keys = {key.client_id: key for key in keys}

    def get(self, client_id: str) -> Key | None:
        return self._keys.get(client_id)


@pytest.fixture(params=["env", "env-file", "third-party"])
def read_only(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Backend]:
    """A store with the one key ``ci:a chosen one``."""
    settings = Settings()
    if request.param == "third-party":
        hashed = Hasher().hash("a chosen one")
        opened = Backend(Lookups(Key("ci", secrets=(Secret(hashed),))), settings=settings)
    else:
        if request.param == "env":
            monkeypatch.setenv("BASICAUTH_KEYS", "ci:a chosen one")
        else:
            (tmp_path / "keys").write_text("ci:a chosen one\n")
            monkeypatch.setenv("BASICAUTH_KEYS_FILE", str(tmp_path / "keys"))
        opened = open_backend("env:", settings=settings)
    with opened:
        yield opened


@pytest.mark.parametrize(
    "change",
    [
        *CHANGES.values(),
        lambda backend: backend.create(client_id="new"),
        lambda backend: backend.add([Key("new", secrets=(Secret(Hasher().hash(generate("sk"))),))]),
    ],
    ids=[*CHANGES, "create", "add"],
)
def test_a_read_only_store_is_not_written(
    read_only: Backend,
    kind: str,
    events: Callable[..., Any],
    tmp_path: Path,
    change: Callable[[Backend], object],
) -> None:
    before = (read_only.get("ci"), dict(os.environ), [path.read_bytes() for path in tmp_path.iterdir()])
    with pytest.raises(ReadOnlyBackend):
        change(read_only)

    after = (read_only.get("ci"), dict(os.environ), [path.read_bytes() for path in tmp_path.iterdir()])
    assert (after, read_only.get("new"), events()) == (before, None, [])
    with ExitStack() as stack:
        authenticator = SHELLS[kind](read_only, Settings())
        stack.callback(authenticator.close)
        assert authenticator.ask(encode_basic("ci", "a chosen one")).status == 200


# --- audit


def test_one_audit_event_a_change(
    backend: Backend, here: AnyShell, events: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Exactly these facts, and never a secret or a hash."""
    issued = [backend.create(client_id="ci")]
    assert events() == [changed("key.created", "ci")]
    issued.append(backend.rotate("ci", overlap_s=60))
    assert events() == [changed("key.rotated", "ci")]
    hashes = {secret.hash for secret in stored(backend, "ci").secrets}
    for act, event in (
        (lambda: backend.update("ci", name="n", scopes=["s"], metadata={"a": 1}), "key.updated"),
        (lambda: backend.disable("ci"), "key.disabled"),
        (lambda: backend.enable("ci"), "key.enabled"),
        (lambda: backend.revoke("ci"), "key.revoked"),
        (lambda: backend.delete("ci"), "key.deleted"),
    ):
        act()
        assert events() == [changed(event, "ci")]
    imported = Key("moved", secrets=(Secret(backend.hash(generate("sk"))),))
    assert backend.add([imported]) == [None]
    assert events() == [changed("key.imported", "moved")]
    assert isinstance(backend.add([imported])[0], KeyExists)
    assert events() == []
    here.ask(issued[0].authorization)
    (refusal,) = events()
    assert refusal == {
        "event": "auth.refused",
        "client_id": "ci",
        "reason": "unknown",
        "detail": None,
        "address": "192.0.2.1",
        "request_id": refusal["request_id"],
        "actor": None,
    }

    logged = caplog.text + repr([vars(record) for record in caplog.records])
    for each in issued:
        for text in (each.secret, each.authorization, each.authorization.removeprefix("Basic ")):
            assert text not in logged
    for hashed in (*hashes, imported.secrets[0].hash):
        assert hashed not in logged


REASONS: dict[str, Callable[[Backend], object]] = {
    "disabled": lambda backend: backend.disable("ci"),
    "revoked": lambda backend: backend.revoke("ci"),
    "unknown": lambda backend: backend.delete("ci"),
    "wrong_secret": lambda backend: backend.rotate("ci", overlap_s=0),
    "expired": lambda backend: backend.store.put(
        replace(stored(backend, "ci"), expires_at=PAST, version=2**52), stored(backend, "ci").version
    ),
}


@pytest.mark.proves("P8")
@pytest.mark.parametrize("reason", REASONS)
def test_why_a_key_is_refused_is_for_the_log_alone(
    place: Place, kind: str, events: Callable[..., Any], reason: str
) -> None:
    """Five ends of a key, one answer."""
    backend = place.open()
    authenticator = place.serve(kind, backend, cache_ttl_s=0)
    issued = backend.create(client_id="ci")
    REASONS[reason](backend)
    events()

    assert authenticator.ask(issued.authorization) == Snapshot(401, None)
    (refusal,) = events()
    assert (refusal["event"], refusal["reason"], refusal["client_id"]) == ("auth.refused", reason, "ci")


# --- last used


def uses_of(backend: Backend, client_id: str) -> list[datetime | None]:
    return [secret.last_used_at for secret in stored(backend, client_id).secrets]


async def found_by_loop(backend: Backend, client_id: str) -> Key | None:
    try:
        return await backend.aget(client_id)
    finally:
        await backend.aclose()


@pytest.mark.proves("O2")
def test_each_secret_tells_when_it_was_used(
    backend: Backend, here: AnyShell, events: Callable[..., Any]
) -> None:
    """To the minute, and that is no change of the key."""
    old = backend.create(client_id="ci")
    new = backend.rotate("ci")
    backend.create(client_id="idle")
    events()
    before = (stored(backend, "ci"), cursor(backend))
    assert (before[0].last_used_at, uses_of(backend, "ci")) == (None, [None, None])

    began = utcnow()
    assert here.ask(new.authorization).status == 200
    wait_until(lambda: stored(backend, "ci").last_used_at is not None)
    key = stored(backend, "ci")
    assert key.last_used_at is not None
    assert (key.last_used_at.second, key.last_used_at.microsecond) == (0, 0)
    assert began - timedelta(minutes=1) < key.last_used_at <= utcnow()
    assert uses_of(backend, "ci") == [None, key.last_used_at]
    assert here.ask(old.authorization).status == 200
    wait_until(lambda: uses_of(backend, "ci")[0] is not None)

    listed = {key.client_id: key.last_used_at for key in backend.iter_keys()}
    assert listed == {"ci": stored(backend, "ci").last_used_at, "idle": None}
    assert asyncio.run(found_by_loop(backend, "ci")) == stored(backend, "ci")
    bare = replace(stored(backend, "ci"), last_used_at=None, secrets=before[0].secrets)
    assert (bare, cursor(backend)) == before
    assert stored(backend, "ci").version == before[0].version
    assert events() == []


def test_cached_hits_are_uses(backend: Backend, here: AnyShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three minutes after the look-up the entry is hit once more."""
    monkeypatch.setattr(usage_module, "_COLLECT_EVERY_S", 0.1)
    issued = backend.create(client_id="ci")
    assert here.ask(issued.authorization).status == 200
    wait_until(lambda: stored(backend, "ci").last_used_at is not None)
    first = stored(backend, "ci").last_used_at

    monkeypatch.setattr(usage_module, "time", Ahead(180))
    assert here.ask(issued.authorization).status == 200
    wait_until(lambda: stored(backend, "ci").last_used_at != first)
    assert timedelta(minutes=3) <= stored(backend, "ci").last_used_at - first <= timedelta(minutes=4)


class Ahead:
    """A clock that is fast by so many seconds."""

    def __init__(self, by_s: float) -> None:
        self._by_s = by_s

    def time(self) -> float:
        return time.time() + self._by_s

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.mark.parametrize("secret", [None, "a chosen one"], ids=["minted", "chosen"])
def test_a_refusal_is_no_use(backend: Backend, here: AnyShell, secret: str | None) -> None:
    """Not of a disabled, revoked or ended key with its right secret, nor with a wrong one."""
    issued = {
        client_id: backend.create(client_id=client_id, secret=secret)
        for client_id in ("wrong", "disabled", "revoked", "used")
    }
    ended = backend.create(client_id="ended", secret=secret, expires_at=utcnow() + timedelta(seconds=0.3))
    wait_until(lambda: utcnow() > ended.key.expires_at)
    backend.disable("disabled")
    backend.revoke("revoked")
    for client_id in ("disabled", "revoked"):
        assert here.ask(issued[client_id].authorization).status == 401
    assert here.ask(ended.authorization).status == 401
    for wrong in (generate("sk"), "another one"):
        assert here.ask(encode_basic("wrong", wrong)).status == 401
    assert here.ask(issued["used"].authorization).status == 200
    backend.usage.close()

    used = {key.client_id for key in backend.iter_keys() if key.last_used_at is not None}
    assert used == {"used"}


def test_uses_survive(place: Place, kind: str) -> None:
    """A restart, a rotation that drops the secret, and every other change."""
    first = place.open()
    authenticator = place.serve(kind, first)
    issued = first.create(client_id="ci")
    authenticator.ask(issued.authorization)
    first.close()
    used_at = stored(first, "ci").last_used_at
    assert used_at is not None

    second = place.open()
    assert (stored(second, "ci").last_used_at, uses_of(second, "ci")) == (used_at, [used_at])
    assert second.update("ci", name="n").last_used_at == used_at
    second.disable("ci")
    second.enable("ci")
    second.rotate("ci", overlap_s=0)
    assert (stored(second, "ci").last_used_at, uses_of(second, "ci")) == (used_at, [None])
    second.delete("ci")
    assert second.create(client_id="ci").key.last_used_at is None
    assert stored(second, "ci").last_used_at is None


def test_uses_of_many_at_once(place: Place, kind: str) -> None:
    """Whoever comes first or last, the latest use is what is kept."""
    backend = place.open()
    backend.create(client_id="ci")
    made = stored(backend, "ci").secrets[0].created_at
    minutes = [datetime(2031, 1, 1, 0, minute, tzinfo=UTC) for minute in (5, 9, 2)]
    for minute in minutes:
        backend.store.record_uses([Use("ci", made, minute), Use("nobody", made, minute)])  # type: ignore[attr-defined]

    assert stored(backend, "ci").last_used_at == max(minutes)
    assert backend.get("nobody") is None


# --- hashes


def bcrypt_of(secret: str) -> str:
    return bcrypt.hashpw(secret.encode(), bcrypt.gensalt(4)).decode()


def imported(client_id: str, *hashes: str) -> Key:
    made = utcnow()
    return Key(
        client_id,
        secrets=tuple(
            Secret(hashed, created_at=made + timedelta(microseconds=number))
            for number, hashed in enumerate(hashes)
        ),
    )


def hash_of(backend: Backend, client_id: str) -> str:
    return stored(backend, client_id).secrets[0].hash


@pytest.mark.proves("O1", "X4")
def test_an_imported_bcrypt_hash_becomes_a_better_one(
    place: Place, kind: str, events: Callable[..., Any]
) -> None:
    """After the first good login, never after a wrong one; the secret stays."""
    backend = place.open()
    authenticator = place.serve(kind, backend, cache_ttl_s=0)
    old = bcrypt_of("pä$$ wörd")
    assert backend.add([imported("moved", old)]) == [None]
    key = stored(backend, "moved")
    right, wrong = encode_basic("moved", "pä$$ wörd"), encode_basic("moved", "pä$$ word")
    events()

    assert authenticator.ask(wrong).status == 401
    backend.usage.close()
    assert hash_of(backend, "moved") == old

    assert authenticator.ask(right).status == 200
    wait_until(lambda: hash_of(backend, "moved") != old)
    better = hash_of(backend, "moved")
    assert not Hasher().needs_rehash(better) or place.url == "memory:"
    assert better.startswith("$bamw1$" if place.url == "memory:" else "$argon2id$v=19$m=19456,t=2,p=1$")
    found = stored(backend, "moved")
    assert replace(found, last_used_at=None, secrets=()) == replace(key, secrets=())
    assert found.secrets[0].created_at == key.secrets[0].created_at
    assert [event["event"] for event in events()] == ["auth.refused"]
    assert authenticator.ask(right).status == 200
    assert authenticator.ask(wrong).status == 401
    backend.usage.close()
    assert hash_of(backend, "moved") == better, "it is not made again and again"


@pytest.mark.proves("X4")
@beyond_memory
def test_an_argon2id_hash_of_other_parameters_becomes_a_better_one(place: Place, kind: str) -> None:
    from argon2 import PasswordHasher

    backend = place.open()
    authenticator = place.serve(kind, backend)
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("a chosen one")
    assert backend.add([imported("moved", weak)]) == [None]

    assert authenticator.ask(encode_basic("moved", "a chosen one")).status == 200
    wait_until(lambda: hash_of(backend, "moved").startswith("$argon2id$v=19$m=19456,t=2,p=1$"))
    assert authenticator.ask(encode_basic("moved", "a chosen one")).status == 200


@beyond_memory
def test_a_minted_secret_is_hashed_anew_when_the_pepper_changed(place: Place, kind: str) -> None:
    """With both in force nobody is locked out; what has been used since no longer needs the older."""
    before = place.open(pepper=("old",))
    used, unused = before.create(client_id="ci"), before.rotate("ci")
    between = place.open(pepper=("new", "old"))
    authenticator = place.serve(kind, between, cache_ttl_s=0)
    key = stored(between, "ci")

    assert authenticator.ask(encode_basic("ci", generate("sk"))).status == 401
    between.usage.close()
    assert stored(between, "ci") == key
    assert authenticator.ask(used.authorization).status == 200
    wait_until(lambda: hash_of(between, "ci") != key.secrets[0].hash)
    assert stored(between, "ci").secrets[1] == key.secrets[1]
    assert [authenticator.ask(issued.authorization).status for issued in (used, unused)] == [200, 200]
    wait_until(lambda: stored(between, "ci").secrets[1].hash != key.secrets[1].hash)

    authenticator = place.serve(kind, place.open(pepper=("new",)))
    assert [authenticator.ask(issued.authorization).status for issued in (used, unused)] == [200, 200]
    assert ends_of(stored(between, "ci")) == ends_of(key)


@beyond_memory
def test_a_retired_pepper_is_an_outage(
    place: Place, kind: str, caplog: pytest.LogCaptureFixture, events: Callable[..., Any]
) -> None:
    """503 and one error log, for the keys that need it and for no other; never a 401."""
    issued = place.open(pepper=("old",)).create(client_id="ci")
    plain = place.open().create(client_id="plain")
    after = place.open(pepper=("new",))
    authenticator = place.serve(kind, after)
    events()

    for authorization in (issued.authorization, encode_basic("ci", generate("sk")), issued.authorization):
        assert authenticator.ask(authorization) == Snapshot(503, None)
    (said,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert said.name == "basicauth_mw"
    assert "'ci'" in said.getMessage()
    assert "pepper" in said.getMessage()
    assert {event["reason"] for event in events()} == {"backend_unavailable"}
    assert authenticator.ask(plain.authorization).status == 200, "made without any, before there was one"
    assert authenticator.ask(after.create(client_id="new").authorization).status == 200


WEAK = {
    "$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00": "apr1",
    "$1$lZL6V.ci$eIMz/iKDkbtys/uU7LEK00": "MD5",
    "$5$rounds=5000$toolongsaltstrin$Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGsh": "SHA-256-crypt",
    "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJu": "SHA-512-crypt",
    "{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=": "SHA-1",
    "{SSHA}0c0blFTXXNuAMHECS4uxrj3ZieMoWImr": "SHA-1",
    "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7": "yescrypt",
    "$2x$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW": "2x",
    "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$IMit9qkFULCMA/ViizL57cnTLOa5DiVM9eMwpAvPwr4": "Argon2i",
    "pbkdf2_sha256$600000$salt$xUUB7xkkLOsnF3QmYgNSHgoJ3Yp5Vd7qvLWYhKTXC1k=": "PBKDF2",
    "rrvv0uvSvmBb2": "understood",  # DES crypt, and plain text looks no different
    "5f4dcc3b5aa765d61d8327deb882cf99": "understood",
    "": "understood",
}


@pytest.mark.parametrize("hashed", WEAK)
def test_weak_hashes_are_refused_by_name(backend: Backend, events: Callable[..., Any], hashed: str) -> None:
    """What it is, but not the hash itself; and the keys round it are stored."""
    good = [imported(client_id, Hasher().hash(generate("sk"))) for client_id in ("before", "behind")]
    with pytest.raises(InvalidKey, match=WEAK[hashed]):
        backend.check(imported("weak", hashed))
    outcomes = backend.add([good[0], imported("weak", hashed), good[1]])

    assert (outcomes[0], outcomes[2]) == (None, None)
    assert isinstance(outcomes[1], InvalidKey)
    assert WEAK[hashed] in str(outcomes[1])
    assert not hashed or hashed not in str(outcomes[1])
    assert backend.get("weak") is None
    assert [event["client_id"] for event in events()] == ["before", "behind"]


# --- add


def test_whole_keys_are_added(place: Place, backend: Backend, here: AnyShell) -> None:
    """As they are, ended and revoked ones too, and what is known of their last uses."""
    if place.url == "memory:":
        hasher = backend.hasher
    else:
        hasher = Hasher()
    minted, chosen = generate("sk"), "a chosen one"
    made = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    used = datetime(2021, 1, 2, 3, 4, tzinfo=UTC)
    keys = [
        Key("live", "näme", frozenset({"s"}), created_at=made, metadata={"a": [1]}, last_used_at=used),
        Key("ended", expires_at=PAST, created_at=made),
        Key("revoked", revoked_at=PAST, created_at=made),
        Key("disabled", disabled=True, created_at=made),
    ]
    secrets = (
        Secret(hasher.hash(minted), made, last_used_at=used),
        Secret(hash_password(chosen), made + timedelta(seconds=1), utcnow() + timedelta(days=1)),
    )
    keys = [replace(key, secrets=secrets) for key in keys]
    keys[1:] = [replace(key, last_used_at=used) for key in keys[1:]]

    assert backend.add(keys) == [None] * 4
    assert {key.client_id: key for key in backend.iter_keys()} == {key.client_id: key for key in keys}
    for secret in (minted, chosen):
        statuses = [here.ask(encode_basic(key.client_id, secret)).status for key in keys]
        assert statuses == [200, 401, 401, 401]


def test_each_key_has_an_outcome_of_its_own(backend: Backend, here: AnyShell) -> None:
    taken = backend.create(client_id="taken", name="first")

    def key(client_id: str, **fields: Any) -> Key:
        return replace(imported(client_id, Hasher().hash(generate("sk"))), **fields)

    keys = [
        key("a"),
        key("taken"),
        key("b:c"),
        key("twice", name="first"),
        key("twice", name="second"),
        key("naive", created_at=datetime(2020, 1, 1)),  # noqa: DTZ001
        key("pepper", secrets=(Secret(Hasher([b"unknown"]).hash(generate("sk"))),)),
        key("two-chosen", secrets=imported("x", bcrypt_of("a"), bcrypt_of("b")).secrets),
        key("nine", secrets=imported("x", *[Hasher().digest_secret("x", salt="A" * 16)] * 9).secrets),
        key("z"),
    ]
    outcomes = backend.add(keys)

    kinds = [type(outcome) for outcome in outcomes]
    none = type(None)
    assert kinds == [none, KeyExists, InvalidKey, none, KeyExists, *[InvalidKey] * 4, none]
    assert [key.client_id for key in backend.iter_keys()] == ["a", "taken", "twice", "z"]
    assert (stored(backend, "taken"), stored(backend, "twice").name) == (taken.key, "first")
    assert here.ask(taken.authorization).status == 200
    assert backend.add([]) == []
