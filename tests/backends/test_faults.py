"""Faults that are not outages: some prevent only changes, some affect a single key or response."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import redis

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends.sqlite import store as sqlite
from basicauth_mw.cli.app import run
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.generated_secrets import generate
from tests.asgi.helpers import http_scope
from tests.backends.servers_in_process import AsgiClient, WsgiClient
from tests.forwarder import Forwarder
from tests.redis_server import RedisServer, WatchedPair, execute
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.forwarder import NetworkFault

DEADLINE_S = 0.5
LIMIT_S = 10.0


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BASICAUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def both(url: str, stack: ExitStack, **settings: float) -> tuple[AsgiClient, WsgiClient]:
    return stack.enter_context(AsgiClient(url, **settings)), stack.enter_context(WsgiClient(url, **settings))


# --- faults that prevent changes but not verification


@dataclass
class WriteFault:
    """A fault that prevents changes and can be caused and repaired.

    Attributes:
        says: Parts of the error message of a change, separated by bars.
    """

    url: str
    inject: Callable[[], object]
    repair: Callable[[], object]
    says: str


def configured(says: str, inject: tuple[Any, ...], repair: tuple[Any, ...]) -> Callable[[Path], Any]:
    """A fault that a command causes on a Redis server."""

    @contextmanager
    def made(_path: Path) -> Iterator[WriteFault]:
        with RedisServer() as server:
            yield WriteFault(
                server.url(), lambda: execute(server, *inject), lambda: execute(server, *repair), says
            )

    return made


@contextmanager
def redis_cannot_save(_path: Path) -> Iterator[WriteFault]:
    """MISCONF: the server cannot save, since a directory has the name of its file."""
    with RedisServer() as server:
        in_the_way = Path(server._directory.name) / "dump.rdb"

        def last_save(outcome: bytes) -> None:
            execute(server, "BGSAVE")
            wait_until(lambda: b"rdb_bgsave_in_progress:0" in execute(server, "INFO", "persistence"))
            assert b"rdb_last_bgsave_status:" + outcome in execute(server, "INFO", "persistence")

        def inject() -> None:
            in_the_way.mkdir()
            execute(server, "CONFIG", "SET", "save", "3600 1")
            last_save(b"err")

        def repair() -> None:
            in_the_way.rmdir()
            last_save(b"ok")

        yield WriteFault(server.url(), inject, repair, "MISCONF")


@contextmanager
def sqlite_written_by_another(path: Path) -> Iterator[WriteFault]:
    with closing(sqlite3.connect(path / "keys.db", isolation_level=None)) as other:
        yield WriteFault(
            f"sqlite:///{path / 'keys.db'}",
            lambda: other.execute("BEGIN IMMEDIATE"),
            lambda: other.execute("ROLLBACK"),
            "locked",
        )


@contextmanager
def sqlite_file_limit(path: Path) -> Iterator[WriteFault]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(limit_bytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))

    try:
        yield WriteFault(
            f"sqlite:///{path / 'keys.db'}",
            lambda: limit(100),
            lambda: limit(soft),
            "check whether the disk is full|make room on the disk",
        )
    finally:
        limit(soft)


@contextmanager
def sqlite_full_disk(path: Path) -> Iterator[WriteFault]:
    """A small file system if this user can mount one, else a limit on the file size."""
    small = path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        with sqlite_file_limit(path) as made:
            yield made
        return
    filler = small / "filler"

    def inject() -> None:
        with suppress(OSError), filler.open("wb", buffering=0) as opened:
            while True:
                opened.write(bytes(4096))

    try:
        yield WriteFault(
            f"sqlite:///{small / 'keys.db'}",
            inject,
            filler.unlink,
            "check whether the disk is full|make room on the disk",
        )
    finally:
        subprocess.run(["umount", str(small)], check=True)


HINDRANCES = [
    pytest.param(
        configured("READONLY|ReadOnly", ("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        id="readonly-replica",
        marks=pytest.mark.proves("F4"),
    ),
    pytest.param(
        configured("OOM|OutOfMemory", ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)),
        id="out-of-memory",
        marks=pytest.mark.proves("F7"),
    ),
    pytest.param(redis_cannot_save, id="misconf", marks=pytest.mark.proves("F10")),
    pytest.param(
        configured(
            "NOREPLICAS",
            ("CONFIG", "SET", "min-replicas-to-write", 1),
            ("CONFIG", "SET", "min-replicas-to-write", 0),
        ),
        id="too-few-replicas",
        marks=pytest.mark.proves("F10"),
    ),
    pytest.param(sqlite_written_by_another, id="sqlite-busy", marks=pytest.mark.proves("F14")),
    pytest.param(sqlite_file_limit, id="sqlite-file-limit", marks=pytest.mark.proves("F15")),
    pytest.param(sqlite_full_disk, id="sqlite-full-disk", marks=pytest.mark.proves("F15")),
]


@pytest.mark.parametrize("hindrance", HINDRANCES)
def test_only_changes_are_refused(
    hindrance: Callable[[Path], Any],
    tmp_path: Path,
    stack: ExitStack,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Uncached keys are verified as usual; commands name the problem and change nothing."""
    monkeypatch.setattr(sqlite, "WRITE_WAIT_S", DEADLINE_S)  # instead of five seconds
    made = stack.enter_context(hindrance(tmp_path))
    monkeypatch.setenv("BASICAUTH_BACKEND", made.url)
    with open_backend(made.url, settings=Settings(), create=True) as keys:
        first, *fresh = [keys.create().authorization for _ in range(9)]
        keys.create(client_id="kept")
        before = keys.get("kept")
    clients = both(made.url, stack, deadline_s=DEADLINE_S)
    assert [client.request(first).status for client in clients] == [200, 200]
    caplog.clear()

    made.inject()
    for client in clients:
        for authorization in fresh[:4]:
            seen = client.request(authorization)
            assert seen.status == 200
            assert seen.took_s < DEADLINE_S
        assert client.request(encode_basic("kept", generate("sk"))).status == 401
    statuses = [
        run(words)
        for words in (["keys", "create", "--client-id", "new"], ["keys", "revoke", "kept", "--yes"])
    ]
    said = capsys.readouterr()
    made.repair()

    assert statuses == [1, 1]
    assert said.out == ""
    first_line, second_line = said.err.splitlines()
    for line in (first_line, second_line):
        assert line.startswith("error: ")
        assert any(word in line for word in made.says.split("|")), line
    assert caplog.messages == [], "no outage was logged"
    with open_backend(made.url, settings=Settings()) as keys:
        assert keys.get("new") is None
        assert keys.get("kept") == before
        keys.revoke("kept")
        assert keys.create(client_id="new").secret
    for client in clients:
        assert [client.request(each).status for each in fresh[4:]] == [200] * 4


@pytest.mark.proves("F7")
def test_an_evicting_server_loses_keys_and_check_warns(
    stack: ExitStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evicted key is refused and never accepted; ``check`` warns of it beforehand."""
    server = stack.enter_context(RedisServer("--maxmemory-policy", "allkeys-random"))
    monkeypatch.setenv("BASICAUTH_BACKEND", server.url())
    with open_backend(server.url(), settings=Settings()) as keys:
        issued = keys.create()
    run(["check", "--json"])
    assert "redis_evicts" in capsys.readouterr().out
    clients = both(server.url(), stack, cache_ttl_s=0)
    assert [client.request(issued.authorization).status for client in clients] == [200, 200]
    execute(server, "CONFIG", "SET", "maxmemory", 1)
    wait_until(lambda: execute(server, "DBSIZE") == 0)
    assert [client.request(issued.authorization).status for client in clients] == [401, 401]


@pytest.mark.proves("F4")
def test_a_failover_under_load(stack: ExitStack) -> None:
    """The master is killed under load: 200 or 503, never 401, and soon only 200 again."""
    pair = stack.enter_context(WatchedPair())
    with open_backend(pair.url(), settings=Settings(backend_deadline_s=5)) as keys:
        issued = keys.create()
    wait_until(lambda: execute(pair.replica, "DBSIZE") == execute(pair.master, "DBSIZE"))
    clients = both(pair.url(), stack, deadline_s=DEADLINE_S, cache_ttl_s=0)
    assert [client.request(issued.authorization).status for client in clients] == [200, 200]

    def send_many(client: Any) -> list[int]:
        statuses = []
        end = time.monotonic() + LIMIT_S
        while statuses[-3:] != [200] * 3 or 503 not in statuses:
            assert time.monotonic() < end
            statuses.append(client.request(issued.authorization).status)
            time.sleep(0.01)
        return statuses

    pair.notice_failures()
    pair.master.stop()
    with ThreadPoolExecutor(2) as pool:
        for statuses in pool.map(send_many, clients):
            assert set(statuses) == {200, 503}


# --- many at once


@pytest.mark.proves("F9")
def test_a_hundred_at_once_wait_no_longer_than_one(stack: ExitStack) -> None:
    """With more requests than threads and connections, no request waits longer than the deadline."""
    server = stack.enter_context(RedisServer())
    forwarder = stack.enter_context(Forwarder(server.port))
    url = f"redis://127.0.0.1:{forwarder.port}"
    with open_backend(url, settings=Settings()) as keys:
        issued = keys.create()
    unknown = [encode_basic(f"unknown-{number}", generate("sk")) for number in range(100)]
    asgi, wsgi = both(url, stack, deadline_s=DEADLINE_S)
    assert [client.request(issued.authorization).status for client in (asgi, wsgi)] == [200, 200]
    before = len(execute(server, "CLIENT", "LIST").splitlines())
    forwarder.delay_s = 3 * DEADLINE_S

    async def all_at_once() -> list[int]:
        return [seen[0] for seen in await asyncio.gather(*map(asgi.asend, unknown))]

    # Eight at a time would take a dozen deadlines.
    begin = time.monotonic()
    assert asgi.runner.run(all_at_once()) == [503] * 100
    assert time.monotonic() - begin < 2 * DEADLINE_S
    begin = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        assert [seen.status for seen in pool.map(wsgi.request, unknown)] == [503] * 100
    assert time.monotonic() - begin < 2 * DEADLINE_S
    assert len(execute(server, "CLIENT", "LIST").splitlines()) < before + 30
    forwarder.delay_s = 0


@pytest.mark.proves("F27")
@pytest.mark.parametrize("client", ["asgi", "wsgi"])
def test_a_thousand_requests_at_the_expiry_look_up_once(stack: ExitStack, client: str) -> None:
    server = stack.enter_context(RedisServer())
    ttl_s = 0.5
    with open_backend(server.url(), settings=Settings()) as keys:
        authorization = keys.create().authorization
    asgi, wsgi = both(server.url(), stack, cache_ttl_s=ttl_s)
    first = asgi if client == "asgi" else wsgi
    assert first.request(authorization).status == 200
    time.sleep(ttl_s)
    execute(server, "CONFIG", "RESETSTAT")

    async def all_at_once() -> list[int]:
        return [seen[0] for seen in await asyncio.gather(*map(asgi.asend, [authorization] * 1000))]

    begin = time.monotonic()
    if client == "asgi":
        statuses = asgi.runner.run(all_at_once())
    else:
        barrier = threading.Barrier(64)

        def send_many(_number: int) -> list[int]:
            barrier.wait(LIMIT_S)
            return [wsgi.request(authorization).status for _ in range(16)]

        with ThreadPoolExecutor(64) as pool:
            statuses = list(chain.from_iterable(pool.map(send_many, range(64))))
    took_s = time.monotonic() - begin
    assert len(statuses) >= 1000
    assert set(statuses) == {200}
    ((calls, *_rest),) = (
        line.partition(b"calls=")[2].split(b",")
        for line in execute(server, "INFO", "commandstats").splitlines()
        if line.startswith(b"cmdstat_get:")
    )
    assert int(calls) <= 2 + took_s // ttl_s  # on a slow machine it may have expired again


@pytest.mark.proves("F29")
def test_random_ids_leave_nothing_in_memory() -> None:
    """When every table is full, five thousand more IDs use no more memory."""
    settings = Settings()
    with open_backend("memory:", settings=settings) as keys:
        authenticator = BasicAuthMiddleware(refuse_to_be_called, keys, settings=settings)
        secret = generate("sk")

        async def send_many(numbers: range) -> None:
            statuses: set[int] = set()

            async def send(message: dict[str, Any]) -> None:
                if "status" in message:
                    statuses.add(message["status"])

            for number in numbers:
                field = encode_basic(f"invented-{number}", secret if number % 2 else "guess")
                await authenticator(http_scope(field), refuse_to_be_called, send)
            assert statuses <= {401, 429}  # IDs that do not fit in the table share one counter per address

        async def main() -> int:
            await send_many(range(11_000))  # the throttle's table holds ten thousand
            before = sys.getallocatedblocks()
            await send_many(range(11_000, 16_000))
            after = sys.getallocatedblocks()
            await keys.aclose()
            return after - before

        assert asyncio.run(main()) < 2_000


async def refuse_to_be_called(*_arguments: object) -> Any:
    raise AssertionError


# --- mixed-up replies


@pytest.mark.proves("F11")
def test_ten_thousand_cancelled_requests_swap_no_replies(stack: ExitStack) -> None:
    """Two clients over a slow connection, cancelled at random times: neither gets the other's identity."""
    server = stack.enter_context(RedisServer())
    forwarder = stack.enter_context(Forwarder(server.port))
    settings = Settings(backend=f"redis://127.0.0.1:{forwarder.port}", cache_ttl_s=0, throttle="")
    keys = stack.enter_context(open_backend(settings=settings))
    issued = {name: keys.create(client_id=name).authorization for name in ("one", "two")}
    chance = random.Random(20260101)

    async def app(scope: dict[str, Any], _receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["user"].client_id.encode()})

    authenticator = BasicAuthMiddleware(app, keys, settings=settings)
    served = {"one": 0, "two": 0}

    async def request(name: str) -> None:
        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        await authenticator(http_scope(issued[name]), refuse_to_be_called, send)
        start, body = messages
        assert (start["status"], body["body"]) == (200, name.encode())
        served[name] += 1

    async def cancelled(name: str) -> None:
        task = asyncio.ensure_future(request(name))
        for _ in range(chance.randrange(8)):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def timed_out(name: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.random() * 0.002):
                await request(name)

    async def moved_on(name: str) -> None:
        with anyio.move_on_after(chance.random() * 0.002):
            await request(name)

    async def main() -> None:
        for number in range(1250):
            if number % 100 == 0:
                forwarder.delay_s = 0.001 if forwarder.delay_s == 0 else 0
            ways = chance.choices((cancelled, timed_out, moved_on, request), (3, 3, 3, 1), k=8)
            await asyncio.gather(*(each("one" if place % 2 else "two") for place, each in enumerate(ways)))
        await keys.aclose()

    asyncio.run(main())
    # One in ten is not cancelled, which makes 500 of each client; how many others complete is random.
    assert all(400 < each < 4500 for each in served.values()), served


@pytest.mark.proves("F3")
@pytest.mark.parametrize("network_fault", ["byte-by-byte", "none"])
def test_a_slow_connection_still_works(stack: ExitStack, network_fault: NetworkFault) -> None:
    """Replies may arrive late or byte by byte."""
    server = stack.enter_context(RedisServer())
    forwarder = stack.enter_context(Forwarder(server.port))
    forwarder.delay_s, network_fault = 0.02, network_fault
    url = f"redis://127.0.0.1:{forwarder.port}"
    with open_backend(url, settings=Settings(backend_deadline_s=5)) as keys:
        issued = keys.create(metadata={"": "x" * 500})
    for client in both(url, stack, cache_ttl_s=0):
        assert [client.request(issued.authorization).status for _ in range(3)] == [200] * 3
        assert client.request(encode_basic(issued.client_id, generate("sk"))).status == 401


# --- a damaged key

JUNK: dict[str, tuple[Any, ...]] = {
    "hash": ("HSET", "{}", "a", "b"),
    "list": ("RPUSH", "{}", "a"),
    "empty": ("SET", "{}", ""),
    "no JSON": ("SET", "{}", "{"),
    "missing members": ("SET", "{}", '{"v":1}'),
    "a newer version": ("SET", "{}", '{"v":99}'),
    "no UTF-8": ("SET", "{}", b'{"v":1,"\xff'),
    "huge": ("SET", "{}", b"[" * (1 << 22)),
    "null": ("SET", "{}", "null"),
}


@pytest.mark.proves("F12")
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_a_damaged_record_affects_one_client(
    stack: ExitStack,
    redis_server: RedisServer,
    redis_url: str,
    junk: tuple[Any, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """That ID gets a 503, however often it is looked up, and one log line; other clients are served."""
    with open_backend(redis_url, settings=Settings()) as keys:
        hurt = keys.create(client_id="hurt")
        others = [keys.create().authorization for _ in range(6)]
    name = redis_url.partition("prefix=")[2].encode() + b":1:{hurt}"
    execute(redis_server, "DEL", name)
    execute(redis_server, *(name if word == "{}" else word for word in junk))
    for client in both(redis_url, stack):
        caplog.clear()
        for number in range(6):
            seen = client.request(hurt.authorization)
            assert (seen.status, seen.code) == (503, "backend_unavailable")
            assert "www-authenticate" not in seen.fields
            assert int(seen.fields["retry-after"]) >= 1
            assert client.request(others[number]).status == 200
        (line,) = [record for record in caplog.records if record.name == "basicauth_mw"]
        assert line.levelname == "ERROR"
        assert "'hurt'" in line.getMessage()
        assert len(line.getMessage()) < 1000


# --- SQLite: another file, many threads


@pytest.mark.proves("F16")
@pytest.mark.parametrize("lasts_s", [300.0, 0.0], ids=["cached", "not-cached"])
def test_a_revocation_in_a_replaced_file_takes_effect(
    stack: ExitStack, tmp_path: Path, lasts_s: float
) -> None:
    """Within two seconds, even if the old key was cached."""
    path, other = tmp_path / "keys.db", tmp_path / "other.db"
    with open_backend(f"sqlite:///{path}", settings=Settings(), create=True) as keys:
        revoked, kept = keys.create(client_id="revoked").authorization, keys.create().authorization
    shutil.copyfile(path, other)
    with open_backend(f"sqlite:///{other}", settings=Settings()) as keys:
        keys.revoke("revoked")
    clients = both(f"sqlite:///{path}", stack, cache_ttl_s=lasts_s)
    for client in clients:
        assert [client.request(each).status for each in (revoked, kept)] == [200, 200]
    other.rename(path)
    for client in clients:
        begin = time.monotonic()
        while client.request(revoked).status != 401:
            assert time.monotonic() < begin + 2
            time.sleep(0.01)
        assert client.request(kept).status == 200


@pytest.mark.proves("F18")
def test_a_damaged_log_hides_nothing(stack: ExitStack, tmp_path: Path) -> None:
    """Every change is in the file itself, and SQLite detects incomplete transactions in the log."""
    path = tmp_path / "keys.db"
    with open_backend(f"sqlite:///{path}", settings=Settings(), create=True) as keys:
        good = keys.create().authorization
        revoked = keys.create(client_id="revoked").authorization
        keys.revoke("revoked")
    for suffix in ("-wal", "-shm"):
        path.with_name(f"keys.db{suffix}").write_bytes(random.Random(1).randbytes(40_000))
    for client in both(f"sqlite:///{path}", stack):
        assert [client.request(each).status for each in (good, revoked)] == [200, 401]


@pytest.mark.proves("F20")
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_thirty_two_threads_each_get_their_own_response(
    stack: ExitStack, request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    url = f"sqlite:///{tmp_path / 'keys.db'}" if store == "sqlite" else request.getfixturevalue("redis_url")
    with open_backend(url, settings=Settings(), create=True) as keys:
        good = [keys.create().authorization for _ in range(8)]
    _asgi, wsgi = both(url, stack, cache_ttl_s=0)
    barrier = threading.Barrier(32)

    def send_many(number: int) -> list[int]:
        barrier.wait(LIMIT_S)
        wrong = encode_basic("unknown", generate("sk"))
        return [wsgi.request(each).status for each in (good[number % 8], wrong) * 5]

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(send_many, range(32))) == [[200, 401] * 5] * 32


# --- time, environment, and stores that are not used


@pytest.mark.proves("F23")
def test_redis_does_not_expire_keys(redis_server: RedisServer, redis_url: str) -> None:
    """Its clock may differ, so only the verifying process decides whether a key has expired."""
    with open_backend(redis_url, settings=Settings()) as keys:
        keys.create(client_id="ends", expires_at=datetime(2999, 1, 1, tzinfo=UTC))
    prefix = redis_url.partition("prefix=")[2]
    with redis.Redis(port=redis_server.port) as client:
        names = list(client.scan_iter(f"{prefix}:*"))
        assert len(names) >= 2
        assert {client.ttl(name) for name in names} == {-1}


@pytest.mark.proves("F22")
def test_the_environment_is_read_once(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand keys; a later change of the variable takes effect at the next start."""
    secrets = {f"client-{number}": f"secret-{number}" for number in range(10_000)}
    monkeypatch.setenv("BASICAUTH_KEYS", "\n".join(f"{each}:{secret}" for each, secret in secrets.items()))
    clients = both("env:", stack)
    monkeypatch.setenv("BASICAUTH_KEYS", "client-1:other\nnew:secret")
    for client in clients:
        for number in (0, 1, 9_999):
            assert client.request(encode_basic(f"client-{number}", f"secret-{number}")).status == 200
        assert client.request(encode_basic("client-1", "other")).status == 401
        assert client.request(encode_basic("new", "secret")).status == 401


@pytest.mark.proves("F35")
def test_nothing_replaces_an_unavailable_store(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, own_redis_server: RedisServer
) -> None:
    """There is one backend: keys in the environment are not accepted, whether Redis is up or not."""
    monkeypatch.setenv("BASICAUTH_KEYS", "spare:secret")
    spare = encode_basic("spare", "secret")
    clients = both(own_redis_server.url(), stack, deadline_s=DEADLINE_S)
    assert [client.request(spare).status for client in clients] == [401, 401]
    own_redis_server.stop()
    assert [client.request(spare).status for client in clients] == [503, 503]
    with pytest.raises(BackendUnavailable):
        clients[0].backend.get("spare")


@pytest.mark.proves("F25")
def test_a_revoked_key_is_refused_during_an_outage(stack: ExitStack, own_redis_server: RedisServer) -> None:
    """Another process revoked it before the outage, and its cache entry was removed at once."""
    url = own_redis_server.url()
    with open_backend(url, settings=Settings()) as keys:
        revoked, kept = keys.create(), keys.create()
        clients = both(url, stack, deadline_s=DEADLINE_S)
        for client in clients:
            assert [client.request(each.authorization).status for each in (revoked, kept)] == [200, 200]
        keys.revoke(revoked.client_id)
        for client in clients:
            wait_until(lambda: client.request(revoked.authorization).status == 401)  # noqa: B023
    own_redis_server.stop()
    for client in clients:
        assert client.request(revoked.authorization).status == 503
        assert client.request(kept.authorization).status == 200
