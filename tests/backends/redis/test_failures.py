"""Failed requests are counted in Redis, on one server and in a cluster."""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends import FailureStore
from basicauth_mw.backends.redis import scripts
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable, ReadOnlyBackend, UnreadableRecord
from tests.forwarder import Forwarder
from tests.redis_server import RedisCluster, RedisServer, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

PERIOD_S = 3600.0
A, B, C = (bytes([number]) * 16 for number in range(3))


@pytest.fixture(params=["server", "cluster"])
def deployment(request: pytest.FixtureRequest) -> RedisServer | RedisCluster:
    found: RedisServer | RedisCluster = request.getfixturevalue(f"redis_{request.param}")
    return found


@pytest.fixture
def url(deployment: RedisServer | RedisCluster) -> str:
    return deployment.url(f"100%s-{secrets.token_hex(8)}")


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    with closing(RedisStore(url, deadline_s=5)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _period(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still, so that no test crosses a period."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


def later(monkeypatch: pytest.MonkeyPatch, periods: int) -> None:
    now = time.time() + periods * PERIOD_S
    monkeypatch.setattr(time, "time", lambda: now)


def names_of(store: RedisStore) -> tuple[bytes, ...]:
    keys = store._names.add_failures("pair", PERIOD_S, int(time.time() // PERIOD_S), {})[3:5]
    return tuple(key for key in keys if isinstance(key, bytes))


def run(deployment: RedisServer | RedisCluster, name: bytes, command: str, *more: Any) -> Any:
    server = deployment.node_of(name) if isinstance(deployment, RedisCluster) else deployment
    return execute(server, command, name, *more)


def test_totals_of_several_stores(store: RedisStore, url: str) -> None:
    assert isinstance(store, FailureStore)
    with closing(RedisStore(url, deadline_s=5)) as other:
        assert store.add_failures("pair", PERIOD_S, {A: 1, B: 5}) == [(0, 1), (0, 5)]
        assert other.add_failures("pair", PERIOD_S, {C: 1, A: 2}) == [(0, 1), (0, 3)]

    assert store.add_failures("address", PERIOD_S, {A: 1}) == [(0, 1)], "each limit counts alone"
    assert store.add_failures("pair", 60.0, {A: 1}) == [(0, 1)], "and each period"


def test_the_period_before(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_failures("pair", PERIOD_S, {A: 4})
    later(monkeypatch, 1)
    assert store.add_failures("pair", PERIOD_S, {A: 1, B: 1}) == [(4, 1), (0, 1)]
    later(monkeypatch, 2)
    assert store.add_failures("pair", PERIOD_S, {A: 1}) == [(0, 1)]


def test_counts_expire(store: RedisStore, deployment: RedisServer | RedisCluster) -> None:
    store.add_failures("pair", PERIOD_S, {A: 1})
    current, before = names_of(store)

    assert 0 < run(deployment, current, "TTL") <= 2 * PERIOD_S
    assert run(deployment, before, "EXISTS") == 0


def test_the_number_of_counters_is_bounded(
    store: RedisStore, deployment: RedisServer | RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "MAX_COUNTERS", 2)

    assert store.add_failures("pair", PERIOD_S, {A: 1, B: 1, C: 3}) == [(0, 1), (0, 1), (0, 3)]
    assert store.add_failures("pair", PERIOD_S, {C: 3, A: 1}) == [(0, 3), (0, 2)]
    assert run(deployment, names_of(store)[0], "HLEN") == 2


def test_a_value_of_another_type(store: RedisStore, deployment: RedisServer | RedisCluster) -> None:
    run(deployment, names_of(store)[0], "SET", "foreign")
    with pytest.raises(UnreadableRecord):
        store.add_failures("pair", PERIOD_S, {A: 1})
    run(deployment, names_of(store)[0], "DEL")
    assert store.add_failures("pair", PERIOD_S, {A: 1}) == [(0, 1)]


@pytest.mark.parametrize("missing", ["eval", "hlen", "hexists", "hincrby", "hget", "expire", "names"])
def test_a_right_is_missing(deployment: RedisServer | RedisCluster, url: str, missing: str) -> None:
    needed = ["eval", "hlen", "hexists", "hincrby", "hget", "expire"]
    servers = deployment.nodes if isinstance(deployment, RedisCluster) else [deployment]
    names = "~other*" if missing == "names" else "~*"
    with ExitStack() as stack:
        for server in servers:
            execute(
                server, "ACL", "SETUSER", "counts", "reset", "on", ">pw", names, "+cluster|slots", "+select"
            )
            execute(server, "ACL", "SETUSER", "counts", *(f"+{one}" for one in needed if one != missing))
            stack.callback(execute, server, "ACL", "DELUSER", "counts")
        opened = stack.enter_context(closing(RedisStore(url.replace("//", "//counts:pw@", 1), deadline_s=5)))
        with pytest.raises(ReadOnlyBackend, match="does not allow this user"):
            opened.add_failures("pair", PERIOD_S, {A: 1})


def test_another_master_is_found_after_a_failover(own_redis_server: RedisServer) -> None:
    """An address may lead to another server, while the old one keeps its connections as a replica."""
    with (
        RedisServer() as new,
        Forwarder(own_redis_server.port) as address,
        closing(RedisStore(f"redis://127.0.0.1:{address.port}")) as opened,
    ):
        opened.add_failures("pair", PERIOD_S, {A: 1})
        execute(own_redis_server, "REPLICAOF", "127.0.0.1", "1")
        address.to = new.port
        with pytest.raises(BackendUnavailable):
            opened.add_failures("pair", PERIOD_S, {A: 1})

        assert opened.add_failures("pair", PERIOD_S, {A: 1}) == [(0, 1)]


def test_an_outage(own_redis_server: RedisServer) -> None:
    with closing(RedisStore(own_redis_server.url("test"), deadline_s=1)) as opened:
        own_redis_server.stop()
        with pytest.raises(BackendUnavailable):
            opened.add_failures("pair", PERIOD_S, {A: 1})
