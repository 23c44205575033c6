"""Commands that Redis refuses: a change that failed was not made, on one server and in a cluster."""

from __future__ import annotations

import re
import secrets
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from basicauth_mw import Change as Entry
from basicauth_mw import Settings, open_backend
from basicauth_mw.backends import LastUse
from basicauth_mw.backends.redis.scripts import NOT_A_STRING
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.keys.model import Key, Secret
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.redis_server import RedisCluster, RedisServer, execute
from tests.waiting import wait_until
from tests.wsgi.helpers import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OLD, NEW = (Secret("$2b$12$" + "A" * 53, datetime(year, 1, 1, tzinfo=UTC)) for year in (2024, 2025))
BEFORE = Key("id", secrets=(OLD, NEW), version=1)
AFTER = replace(BEFORE, secrets=(NEW,), version=2)
FRESH = Key("fresh", secrets=(NEW,), version=1)
ENTRY = Entry("key.updated", "alice", OLD.created_at)
USES = [LastUse("id", each.created_at, each.created_at.replace(hour=12)) for each in (OLD, NEW)]


@dataclass
class Deployment:
    """The Redis deployment of a test.

    Attributes:
        servers: All its servers.
        url: Its URL, with a prefix for this test.
        whole: The server or the cluster.
    """

    servers: list[RedisServer]
    url: str
    whole: RedisServer | RedisCluster

    def execute(self, name: bytes, command: str, *more: Any) -> Any:
        """Execute a command on the server of a key."""
        server = self.whole.node_of(name) if isinstance(self.whole, RedisCluster) else self.whole
        return execute(server, command, name, *more)


@pytest.fixture(params=["server", "cluster"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    prefix = f"test-{secrets.token_hex(8)}"
    if request.param == "server":
        server = request.getfixturevalue("redis_server")
        return Deployment([server], server.url(prefix), server)
    cluster = request.getfixturevalue("redis_cluster")
    return Deployment(cluster.nodes, cluster.url(prefix), cluster)


@pytest.fixture
def store(deployment: Deployment) -> Iterator[RedisStore]:
    """A store whose user has all rights, with a key whose secrets were used."""
    with closing(RedisStore(deployment.url, deadline_s=5)) as opened:
        begin(opened)
        yield opened


def begin(store: RedisStore) -> None:
    for client_id in ("id", "fresh"):
        store.delete(client_id)
    assert store.put(BEFORE, None)
    store.record_uses(USES)


class Change(NamedTuple):
    """One change.

    Attributes:
        make: Makes the change.
        announced: ID of the changed key; empty if nothing has to be announced.
        left: The keys that are stored afterwards.
    """

    make: Callable[[RedisStore], object]
    announced: set[str]
    left: list[Key]


CHANGES = {
    "make": Change(lambda store: store.put(FRESH, None, [ENTRY]), {"fresh"}, [FRESH, BEFORE]),
    "change": Change(lambda store: store.put(AFTER, 1, [ENTRY]), {"id"}, [AFTER]),
    "remove": Change(lambda store: store.delete("id"), {"id"}, []),
    "add": Change(lambda store: store.add([FRESH], [[ENTRY]]) == [True], set(), [FRESH, BEFORE]),
}


def stored(store: RedisStore) -> list[Key]:
    """The keys that lookups find; exactly these are listed."""
    found = [key for key in map(store.get, ("fresh", "id")) if key is not None]
    assert store.scan("", "", 9) == found
    return found


def attempt(change: Change, by: RedisStore) -> BackendUnavailable | None:
    try:
        assert change.make(by)
    except BackendUnavailable as exc:
        return exc
    return None


def error_of(change: Change, by: RedisStore, seen_by: RedisStore) -> BackendUnavailable | None:
    """Try a change; check that it was made, or was refused and not made."""
    begin(seen_by)
    cursor = seen_by.changes(None).cursor
    error = attempt(change, by)
    assert stored(seen_by) == ([BEFORE] if error else change.left)
    changed = [] if error else [key.client_id for key in change.left if key != BEFORE]
    assert seen_by.history(["id", "fresh"]) == [[ENTRY] * (each in changed) for each in ("id", "fresh")]
    if not error:
        assert set(seen_by.changes(cursor).client_ids) == change.announced
    return error


# --- values that are not records


@pytest.mark.proves("F12")
@pytest.mark.parametrize("junk", ["HSET a b", "RPUSH a", "SADD a", "ZADD 0 a", "XADD * a b", "SET "])
def test_a_value_of_another_type_is_named_and_can_be_deleted(
    deployment: Deployment, store: RedisStore, junk: str
) -> None:
    """Whatever its type; no other key is affected."""
    assert store.put(FRESH, None)
    name = store._names.record(b"id")
    cursor = store.changes(None).cursor
    deployment.execute(name, "DEL")
    deployment.execute(name, *junk.split(" "))
    for look in (lambda: store.get("id"), lambda: store.scan("", "", 9)):
        with pytest.raises(UnreadableRecord, match="'id'") as caught:
            look()
        assert caught.value.client_id == "id"
    assert store.get("fresh") == FRESH
    with open_backend(deployment.url, settings=Settings()) as backend:
        assert backend.delete("id").client_id == "id"
        assert backend.delete("fresh") == FRESH
    assert stored(store) == []
    assert set(store.changes(cursor).client_ids) == {"id", "fresh"}
    assert not store.delete("id")


def test_a_record_that_replaced_it_is_not_deleted(deployment: Deployment, store: RedisStore) -> None:
    name = store._names.record(b"id")
    assert not store._swap(b"id", NOT_A_STRING, None)
    record = deployment.execute(name, "GET")
    deployment.execute(name, "DEL")
    deployment.execute(name, "HSET", "a", "b")
    with pytest.raises(UnreadableRecord):
        store.put(AFTER, 1)
    assert not store._swap(b"id", record, None)
    assert deployment.execute(name, "HGET", "a") == b"b"


# --- missing rights

KEYS = ["get", "set", "del", "exists", "eval"]
HASHES = ["hget", "hset", "hdel", "hgetall", "hexists"]
REST = ["zadd", "zrem", "zrangebylex", "xadd", "xrange", "xrevrange"]
EVERYTHING = [*KEYS, *HASHES, *REST]
NEEDED = {
    "make": {"get", "eval", "zadd", "hset", "xadd", "set"},
    "change": {"get", "eval", "zadd", "hset", "xadd", "set"},
    "remove": {"get", "eval", "zrem", "xadd", "del"},
    "add": {"eval", "zadd", "hset", "exists", "xadd", "set"},
}


@pytest.mark.proves("F8")
@pytest.mark.parametrize("change", CHANGES)
def test_a_right_is_missing(deployment: Deployment, store: RedisStore, change: str) -> None:
    """No refused change was made. A change is not refused if it only cannot delete old last-used times."""
    url = deployment.url.replace("//", "//lacking:pw@", 1)
    needed = set()
    for left_out in EVERYTHING:
        for server in deployment.servers:
            execute(
                server, "ACL", "SETUSER", "lacking", "reset", "on", ">pw", "~*", "+cluster|slots", "+select"
            )
            execute(
                server, "ACL", "SETUSER", "lacking", *(f"+{one}" for one in EVERYTHING if one != left_out)
            )
        with closing(RedisStore(url, deadline_s=5)) as lacking:
            if error := error_of(CHANGES[change], lacking, store):
                assert "ACL" in str(error)
                needed.add(left_out)
    if change == "add" and len(deployment.servers) > 1:
        needed.add("eval")  # only the import on one server is a script
    assert needed == NEEDED[change]


# --- foreign values


@pytest.mark.parametrize("suffix", ["index", "changes", "state"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_foreign_value_under_one_of_our_names(
    deployment: Deployment, store: RedisStore, change: str, suffix: str
) -> None:
    name = store._names.prefix + suffix.encode()
    was = deployment.execute(name, "DUMP")
    deployment.execute(name, "SET", "foreign")
    if (suffix, change) == ("state", "remove"):  # it does not read it
        assert CHANGES[change].make(store)
    else:
        with pytest.raises(UnreadableRecord):
            CHANGES[change].make(store)
    if suffix == "changes":
        with pytest.raises(UnreadableRecord):
            store.changes("0-0")
    deployment.execute(name, "DEL")
    deployment.execute(name, "RESTORE", 0, was)
    if (suffix, change) != ("state", "remove"):
        assert stored(store) == [BEFORE]
    assert error_of(CHANGES[change], store, store) is None


@pytest.mark.parametrize("change", ["change", "remove"])
def test_uses_that_cannot_be_read_refuse_nothing(
    deployment: Deployment, store: RedisStore, change: str
) -> None:
    used = store._names.used(b"id")
    deployment.execute(used, "SET", "foreign")
    assert CHANGES[change].make(store)
    assert stored(store) == CHANGES[change].left
    assert deployment.execute(used, "EXISTS") == (change == "change")


def test_a_deleted_key_leaves_no_uses_and_no_history(deployment: Deployment, store: RedisStore) -> None:
    assert store.put(AFTER, 1, [ENTRY])
    assert [use.secret_created_at for use in store.last_uses(["id"])] == [NEW.created_at]
    assert store.history(["id"]) == [[ENTRY]]
    assert store.delete("id")
    for name in (store._names.used(b"id"), store._names.history(b"id")):
        assert not deployment.execute(name, "EXISTS")


def test_a_history_that_cannot_be_read(deployment: Deployment, store: RedisStore) -> None:
    """Lines that are no changes are omitted. A value of another type is reported; the key can be deleted."""
    assert store.put(AFTER, 1, [ENTRY])
    name = store._names.history(b"id")
    line = deployment.execute(name, "GET")
    for junk in (
        b"x",
        b"{}",
        b"\xff",
        b"[1]",
        b'{"event":1,"actor":null,"time":1}',
        line[:-1] + b',"time":"x"}',
    ):
        deployment.execute(name, "SET", junk + b"\n" + line)
        assert store.history(["id", "other"]) == [[ENTRY], []]
    assert store.put(replace(AFTER, version=3), 2, [replace(ENTRY, actor=None)])
    assert [each.actor for each in store.history(["id"])[0]] == [None, "alice"]
    deployment.execute(name, "DEL")
    deployment.execute(name, "HSET", "of another", "type")
    with pytest.raises(UnreadableRecord):
        store.history(["id"])
    with pytest.raises(UnreadableRecord):
        store.put(replace(AFTER, version=4), 3, [ENTRY])
    assert store.delete("id")
    assert not deployment.execute(name, "EXISTS")


def test_the_names_of_an_earlier_release_are_read(deployment: Deployment) -> None:
    """A store with password hashes is still recognized as one."""
    with closing(RedisStore(deployment.url, deadline_s=5)) as store:
        name = store._names.prefix + b"facts"
        assert store.changes(None).has_password_hashes is False
        deployment.execute(name, "HSET", "slow", "1")
        assert store.changes(None).has_password_hashes is True
        assert store.put(FRESH, None)
        deployment.execute(name, "DEL")
        assert store.changes(None).has_password_hashes is True, "each write uses the current names"


# --- no memory


@pytest.mark.proves("F7")
@pytest.mark.parametrize("change", CHANGES)
def test_no_memory(deployment: Deployment, store: RedisStore, change: str) -> None:
    """On all servers, or on any one of them. A full single server can still delete a key."""
    still_made = change == "remove" and len(deployment.servers) == 1
    for full in (deployment.servers, *([server] for server in deployment.servers)):
        begin(store)
        with ExitStack() as stack:
            for server in full:
                stack.callback(execute, server, "CONFIG", "SET", "maxmemory", 0)
                execute(server, "CONFIG", "SET", "maxmemory", 1)
            error = attempt(CHANGES[change], store)
            assert stored(store) == ([BEFORE] if error else CHANGES[change].left)
        if error:
            assert re.search("OOM|OutOfMemory", str(error))
        if full is deployment.servers:
            assert (error is None) is still_made
    assert error_of(CHANGES[change], store, store) is None


# --- changes by other programs


@pytest.mark.parametrize("again", [[], [FRESH]], ids=["empty", "imported-again"])
def test_a_flush_after_an_import_is_noticed(deployment: Deployment, again: list[Key]) -> None:
    """Even if all keys were imported, so that no ID was ever announced."""
    with closing(RedisStore(deployment.url, deadline_s=5)) as store:
        assert store.add([FRESH, BEFORE]) == [True, True]
        cursor = store.changes(None).cursor
        assert (store.changes(cursor).client_ids, store.changes(cursor).incomplete) == ((), False)
        assert store.add([FRESH]) == [False]
        assert store.changes(cursor) == store.changes(None)
        for server in deployment.servers:
            for name in execute(server, "KEYS", store._names.prefix + b"*"):
                execute(server, "DEL", name)
        if again:
            assert store.add(again) == [True]
        assert store.changes(cursor).incomplete
        after = store.changes(store.changes(cursor).cursor)
        assert (after.client_ids, after.incomplete) == ((), False)


FOREIGN = [("id", b"\xff\xfe"), ("other", "id"), ("id", "id", "more", "x")]


@pytest.mark.parametrize("fields", FOREIGN)
def test_a_foreign_announcement_is_a_gap(
    deployment: Deployment, store: RedisStore, fields: tuple[Any, ...]
) -> None:
    """It makes the changes incomplete, but only once."""
    cursor = store.changes(None).cursor
    assert store.put(AFTER, 1)
    deployment.execute(store._names.changes, "XADD", "*", *fields)
    for later in ([], [FRESH]):
        for key in later:
            assert store.put(key, None)
        seen = store.changes(cursor)
        assert seen.incomplete
        assert seen.cursor == store.changes(None).cursor
        after = store.changes(seen.cursor)
        assert (after.incomplete, after.client_ids) == (False, ())
    assert store.delete("fresh")
    after = store.changes(seen.cursor)
    assert (after.incomplete, set(after.client_ids)) == (False, {"fresh"})


@pytest.mark.parametrize("fields", FOREIGN)
def test_a_revocation_after_a_foreign_announcement_is_noticed(
    deployment: Deployment, fields: tuple[Any, ...]
) -> None:
    settings = Settings(backend=deployment.url, cache_ttl_s=3600, throttle="")

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    with open_backend(settings=settings) as keys, open_backend(settings=settings) as mine:
        authenticator = BasicAuthMiddleware(app, mine, settings=settings)
        issued = keys.create()
        assert call(authenticator, issued.authorization).status == 200
        prefix = deployment.url.partition("prefix=")[2].encode()
        deployment.execute(prefix + b":1:changes", "XADD", "*", *fields)
        keys.revoke(issued.client_id)
        wait_until(lambda: call(authenticator, issued.authorization).status == 401)


@pytest.mark.parametrize("reply", [None, 7, [7], [[b"1-0"]], [[None, []]], [[b"\xff", []]]])
def test_an_invalid_stream_is_an_outage(store: RedisStore, reply: object) -> None:
    with pytest.raises(BackendUnavailable):
        store._entries(reply)
