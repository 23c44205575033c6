"""TLS and least-privilege ACL users, for a single server, Sentinel and Cluster."""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends import LastUse
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendError, BackendUnavailable, ReadOnlyBackend
from basicauth_mw.keys.model import Key, Secret
from tests.redis_server import (
    RedisCluster,
    RedisServer,
    Sentinel,
    TlsFront,
    execute,
    make_certificates,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

DOCS = Path(__file__).parents[3] / "docs" / "backends.md"
PASSWORD = "p@ss,/:#%?&canary"
IN_URL = "p%40ss%2C%2F%3A%23%25%3F%26canary"
SLOW = "$2b$12$" + "A" * 53


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def encrypted_cluster(certificates: tuple[ssl.SSLContext, Path]) -> Iterator[RedisCluster]:
    with RedisCluster(tls=certificates[0]) as cluster:
        yield cluster


def use(store: RedisStore) -> None:
    """Every operation of a store."""
    old, new = (Secret(SLOW, datetime(year, 1, 1, tzinfo=UTC)) for year in (2024, 2025))
    key = Key("id", secrets=(old, new), version=1)
    uses = [LastUse("id", each.created_at, each.created_at.replace(hour=12)) for each in (old, new)]
    names = [f"k{number}" for number in range(20)]

    async def main() -> list[Key | None]:
        try:
            return list(await asyncio.gather(*map(store.aget, ["id", "unknown", *names])))
        finally:
            await store.aclose()

    cursor = store.changes(None).cursor
    assert store.put(key, None)
    assert store.add([Key(name) for name in names]) == [True] * 20
    store.record_uses(uses)
    assert store.last_uses(["id"]) == uses
    assert store.changes(None).has_password_hashes is not None or store.warnings()  # raises without +hexists
    assert store.put(replace(key, version=2, secrets=(new,)), 1)
    assert store.last_uses(["id"]) == uses[1:]
    assert store.add_failures("pair", 60.0, {b"counter": 1})[0][1] > 0
    found = asyncio.run(main())
    assert [key and key.client_id for key in found] == ["id", None, *names]
    assert len(store.scan("", "", 100)) == 21
    for name in ("id", *names):
        assert store.delete(name)
    assert set(store.changes(cursor).client_ids) == {"id", *names}
    assert store.scan("", "", 100) == []


def refused(store: RedisStore) -> list[str]:
    """The error of each kind of lookup."""
    said = []

    async def main() -> None:
        try:
            await store.aget("id")
        finally:
            await store.aclose()

    for look_up in (lambda: store.get("id"), lambda: asyncio.run(main())):
        with pytest.raises(BackendUnavailable) as caught:
            look_up()
        assert "canary" not in f"{caught.value!r} {store!r}"
        assert caught.value.__cause__ is None
        said.append(str(caught.value))
    return said


# --- TLS


def test_tls_to_one_server(
    own_redis_server: RedisServer, certificates: tuple[ssl.SSLContext, Path], tmp_path: Path
) -> None:
    context, authority = certificates
    _, stranger = make_certificates(tmp_path)
    with TlsFront(own_redis_server.port, context) as front:
        url = f"rediss://127.0.0.1:{front.port}/0"
        with closing(RedisStore(f"{url}?ssl_ca_certs={authority}", deadline_s=5)) as store:
            use(store)
        with closing(RedisStore(f"{url}?ssl_cert_reqs=none&ssl_check_hostname=false", deadline_s=5)) as store:
            use(store)
        assert front.handshakes >= 4
        for options in ("", f"?ssl_ca_certs={stranger}"):  # an unknown authority
            with closing(RedisStore(f"{url}{options}", deadline_s=5)) as store:
                refused(store)
        assert front.in_clear == 0


def test_tls_to_a_cluster(encrypted_cluster: RedisCluster, certificates: tuple[ssl.SSLContext, Path]) -> None:
    """To every node, and after a redirection."""
    url = encrypted_cluster.url("tls").replace("redis+", "rediss+")
    with closing(RedisStore(f"{url}&ssl_ca_certs={certificates[1]}", deadline_s=5)) as store:
        use(store)
    assert [front.handshakes >= 2 for front in encrypted_cluster.fronts] == [True] * 3
    assert [front.in_clear for front in encrypted_cluster.fronts] == [0] * 3
    with closing(RedisStore(url, deadline_s=5)) as store:
        refused(store)


def test_tls_through_a_sentinel(
    own_redis_server: RedisServer, certificates: tuple[ssl.SSLContext, Path]
) -> None:
    """To the Sentinel and to the master. The Sentinel itself monitors the master without TLS."""
    context, authority = certificates
    with ExitStack() as stack:
        to_master = stack.enter_context(TlsFront(own_redis_server.port, context))
        sentinel = stack.enter_context(Sentinel("keys", to_master.port))
        to_sentinel = stack.enter_context(TlsFront(sentinel.port, context))
        url = f"rediss+sentinel://127.0.0.1:{to_sentinel.port}/keys"
        with closing(RedisStore(f"{url}?ssl_ca_certs={authority}", deadline_s=5)) as store:
            use(store)
        assert min(to_sentinel.handshakes, to_master.handshakes) >= 3
        assert to_sentinel.in_clear == 0
        with closing(RedisStore(url, deadline_s=5)) as store:
            refused(store)
        assert to_sentinel.in_clear == 0


# --- users


def rules() -> list[list[str]]:
    """The ``ACL SETUSER`` lines of the documentation: for managing keys, and for verifying them."""
    found = re.findall(r"^ACL SETUSER (.*)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 2
    return [line.replace(">PASSWORD", f">{PASSWORD}").split() for line in found]


def more(feature: str) -> list[str]:
    """The commands that the documentation lists for a feature."""
    (line,) = re.findall(rf"^- {feature}: (.*)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return re.findall(r"`([+~&][^`]*)`", line)


def test_what_the_documentation_grants_is_enough(own_redis_server: RedisServer) -> None:
    manager, checker = rules()
    execute(own_redis_server, "ACL", "SETUSER", *manager)
    execute(own_redis_server, "ACL", "SETUSER", *checker)
    where = f"127.0.0.1:{own_redis_server.port}"
    with closing(RedisStore(f"redis://{manager[0]}:{IN_URL}@{where}", deadline_s=5)) as store:
        use(store)
        assert store.warnings() == []
        execute(own_redis_server, "ACL", "SETUSER", manager[0], *more("`basicauth-mw check`"))
        assert store.warnings()
        assert store.put(Key("id"), None)
        cursor = store.changes(None).cursor
        with closing(RedisStore(f"redis://{checker[0]}:{IN_URL}@{where}", deadline_s=5)) as reader:
            assert reader.get("id") == store.get("id")
            assert reader.changes(cursor) == store.changes(cursor)
            assert reader.changes(None).has_password_hashes is True
            for change in (
                lambda: reader.put(Key("x"), None),
                lambda: reader.delete("id"),
                lambda: reader.add([Key("x")]),
                lambda: reader.record_uses([LastUse("id", datetime.now(UTC), datetime.now(UTC))]),
            ):
                with pytest.raises(BackendUnavailable, match="ACL"):
                    change()
            with pytest.raises(ReadOnlyBackend, match="ACL"):
                reader.add_failures("pair", 60.0, {b"counter": 1})
    with closing(RedisStore(f"redis://{manager[0]}:{IN_URL}@{where}/1", deadline_s=5)) as store:
        execute(own_redis_server, "ACL", "SETUSER", manager[0], *more("a database other than 0"))
        use(store)


def test_what_the_documentation_grants_is_needed(own_redis_server: RedisServer) -> None:
    """Without any one of the commands, an operation fails; without HDEL, a last-used time is not deleted."""
    manager, _ = rules()
    name, *grants = manager
    url = f"redis://{name}:{IN_URL}@127.0.0.1:{own_redis_server.port}"
    commands = [grant for grant in grants if grant.startswith("+")]
    for left_out in commands:
        execute(own_redis_server, "FLUSHALL")
        execute(own_redis_server, "ACL", "SETUSER", name, "reset", *(set(grants) - {left_out}))
        fails: type[Exception]
        fails, says = (AssertionError, "Use") if left_out == "+hdel" else (BackendError, "ACL")
        with closing(RedisStore(url, deadline_s=5)) as store, pytest.raises(fails, match=says):
            use(store)


def test_other_keys_are_out_of_reach(own_redis_server: RedisServer) -> None:
    manager, _ = rules()
    execute(own_redis_server, "ACL", "SETUSER", *manager)
    url = f"redis://{manager[0]}:{IN_URL}@127.0.0.1:{own_redis_server.port}?prefix=other"
    with closing(RedisStore(url, deadline_s=5)) as store:
        assert all("ACL" in said for said in refused(store))


def test_a_user_of_a_sentinel_and_its_master(own_redis_server: RedisServer) -> None:
    manager, _ = rules()
    execute(own_redis_server, "ACL", "SETUSER", *manager, *more("Sentinel"))
    with Sentinel("keys", own_redis_server.port) as sentinel:
        execute(
            sentinel, "ACL", "SETUSER", "reader", "on", f">{PASSWORD}", *more("the user of the Sentinels")
        )
        execute(sentinel, "ACL", "SETUSER", "default", "off")
        url = f"redis+sentinel://{manager[0]}:{IN_URL}@127.0.0.1:{sentinel.port}/keys"
        login = f"?sentinel_username=reader&sentinel_password={IN_URL}"
        with closing(RedisStore(url + login, deadline_s=5)) as store:
            use(store)
        with closing(RedisStore(url, deadline_s=5)) as store:
            refused(store)


def test_a_user_of_a_cluster(redis_cluster: RedisCluster) -> None:
    name, *grants = rules()[0]
    for node in redis_cluster.nodes:
        execute(node, "ACL", "SETUSER", name, *grants, *more("Cluster"))
    url = redis_cluster.url().replace("//", f"//{name}:{IN_URL}@")
    with closing(RedisStore(url, deadline_s=5)) as store:
        use(store)
    with closing(RedisStore(url.replace("canary", "wrong-canary"), deadline_s=5)) as store:
        assert all("ACL" in said for said in refused(store))


def test_a_user_without_the_right_to_read_the_slots(redis_cluster: RedisCluster) -> None:
    for node in redis_cluster.nodes:
        execute(node, "ACL", "SETUSER", "lost", "on", f">{PASSWORD}", "~*", "+get")
    url = redis_cluster.url().replace("//", f"//lost:{IN_URL}@")
    with closing(RedisStore(url, deadline_s=5)) as store:
        assert all("ACL" in said for said in refused(store))
