"""A table of real outages, and what holds in all of them, with both middlewares.

An uncached credential gets a 503 within the deadline. A request that can be refused without the store gets a
401 as usual, without a lookup. There is one log message, and when the fault is repaired, everything works
again within seconds, without a restart.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from basicauth_mw import Key, Settings, encode_basic, open_backend
from basicauth_mw.keys.generated_secrets import generate
from tests.backends.servers_in_process import AsgiClient, WsgiClient
from tests.forwarder import Forwarder
from tests.postgres_server import TRUST, PostgresServer
from tests.redis_server import SLOTS, RedisServer, execute
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.backends.servers_in_process import Client, Response
    from tests.forwarder import NetworkFault

DEADLINE_S = 0.6
LATE_S = 0.4  # for a busy machine
BACK_WITHIN_S = 5.0
NOBODY = 65534
TIMED_OUT = r"at \S+:\d+ did not respond (in time|within)"


@dataclass
class Fault:
    """An outage of a store that can be caused and repaired.

    Attributes:
        url: URL of the store.
        inject: Causes the outage.
        repair: Ends it, and returns when it has ended.
        noticed_within_s: Seconds until it is noticed; a file is checked once a second.
        says: A pattern that the log message contains.
        at_rest: Whether it can be caused only while no process has the store open.
        made_by: URL of the store in which keys are created, if it is a different one.
        save: Saves these keys in the store, if it is a read-only one.
        keeps_s: Seconds for which a store uses keys that it read before the outage. Then it ends cached
            verifications, too.
        logs: The beginning of what the store itself logs.
    """

    url: str
    inject: Callable[[], object]
    repair: Callable[[], object]
    says: str
    noticed_within_s: float = 0.0
    at_rest: bool = False
    made_by: str = ""
    save: Callable[[Key], object] | None = None
    keeps_s: float = 0.0
    logs: str = ""


# --- Redis


@contextmanager
def redis_stopped(_path: Path) -> Iterator[Fault]:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        yield Fault(server.url(), server.stop, server.start, "the connection was refused")


@contextmanager
def redis_frozen(_path: Path) -> Iterator[Fault]:
    with RedisServer() as server:
        yield Fault(server.url(), server.freeze, server.thaw, TIMED_OUT)


@contextmanager
def redis_paused(_path: Path) -> Iterator[Fault]:
    with RedisServer() as server:

        def inject() -> None:
            execute(server, "CLIENT", "PAUSE", 3000, "ALL")

        yield Fault(server.url(), inject, server.wait, TIMED_OUT)


def network(network_fault: NetworkFault, says: str, store: str = "redis") -> Callable[[Path], Any]:
    """A network fault in front of a working server."""

    @contextmanager
    def made(_path: Path) -> Iterator[Fault]:
        with (
            RedisServer() if store == "redis" else PostgresServer() as server,
            Forwarder(server.port) as forwarder,
        ):

            def become(network_fault: NetworkFault) -> None:
                forwarder.network_fault = network_fault

            url = f"redis://127.0.0.1:{forwarder.port}/0"
            if isinstance(server, PostgresServer):
                server.url_with_tables()
                url = server.url(port=forwarder.port)
            yield Fault(url, lambda: become(network_fault), lambda: become("none"), says)

    return made


@contextmanager
def redis_slow(_path: Path) -> Iterator[Fault]:
    """Replies that take longer than the deadline."""
    with RedisServer() as server, Forwarder(server.port) as forwarder:

        def take(delay_s: float) -> None:
            forwarder.delay_s = delay_s

        url = f"redis://127.0.0.1:{forwarder.port}/0"
        yield Fault(url, lambda: take(2 * DEADLINE_S), lambda: take(0), TIMED_OUT)


@contextmanager
def redis_masterdown(_path: Path) -> Iterator[Fault]:
    """A replica that lost its master and must not serve stale data."""
    with RedisServer() as server:

        def inject() -> None:
            execute(server, "CONFIG", "SET", "replica-serve-stale-data", "no")
            execute(server, "REPLICAOF", "127.0.0.1", "1")

        yield Fault(
            server.url(), inject, lambda: execute(server, "REPLICAOF", "NO", "ONE"), "MASTERDOWN|MasterDown"
        )


def cluster_lost_slots(scheme: str, says: str) -> Callable[[Path], Any]:
    @contextmanager
    def made(_path: Path) -> Iterator[Fault]:
        with RedisServer("--cluster-enabled", "yes", "--cluster-node-timeout", "500") as server:

            def is_ok(state: bytes) -> Any:
                return b"cluster_state:" + state in execute(server, "CLUSTER", "INFO")

            def change(command: str, state: bytes) -> None:
                execute(server, "CLUSTER", command, *range(SLOTS))
                wait_until(lambda: is_ok(state))

            change("ADDSLOTS", b"ok")
            here = f"127.0.0.1:{server.port}"
            yield Fault(
                f"{scheme}://{here}",
                lambda: change("DELSLOTS", b"fail"),
                lambda: change("ADDSLOTS", b"ok"),
                says,
                made_by=f"redis+cluster://{here}",
            )

    return made


@contextmanager
def redis_password_changed(_path: Path) -> Iterator[Fault]:
    with RedisServer() as server, redis.Redis(port=server.port) as admin:

        def require(password: str) -> None:
            admin.config_set("requirepass", password)
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        require("first")
        url = f"redis://:first@127.0.0.1:{server.port}"
        yield Fault(url, lambda: require("second"), lambda: require("first"), "password")


@contextmanager
def redis_password_required(_path: Path) -> Iterator[Fault]:
    """NOAUTH, from a server that required no password before."""
    with RedisServer() as server, redis.Redis(port=server.port) as admin:

        def require(password: str) -> None:
            admin.config_set("requirepass", password)
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        yield Fault(server.url(), lambda: require("second"), lambda: require(""), "password")


@contextmanager
def redis_rights_lost(_path: Path) -> Iterator[Fault]:
    with RedisServer() as server, redis.Redis(port=server.port) as admin:

        def allow(*rights: str) -> None:
            admin.execute_command("ACL", "SETUSER", "keys", "reset", "on", ">pw", *rights)

        allow("~*", "+@all")
        url = f"redis://keys:pw@127.0.0.1:{server.port}"
        yield Fault(url, lambda: allow("~*", "+ping", "+select"), lambda: allow("~*", "+@all"), "ACL")


@contextmanager
def redis_maxclients(_path: Path) -> Iterator[Fault]:
    with RedisServer() as server, redis.Redis(port=server.port) as admin:

        def allow(clients: int) -> None:
            admin.config_set("maxclients", clients)
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        yield Fault(server.url(), lambda: allow(1), lambda: allow(10_000), "cannot be reached")


@contextmanager
def redis_loading(_path: Path) -> Iterator[Fault]:
    """A server that loads a large file after its start. It replies once for each key that it loads.

    Each key takes 40 ms, a small part of the deadline, so that replies arrive in time even on a busy machine.
    """
    with RedisServer("--rdbcompression", "no", "--key-load-delay", "40000") as server:

        def inject() -> None:
            with redis.Redis(port=server.port) as admin:
                for number in range(60):
                    admin.set(f"other:{number}", bytes(1 << 21))
                admin.save()
            server.stop()
            server.launch()
            wait_until(lambda: is_loading(server))

        yield Fault(server.url(), inject, lambda: wait_until(server._responds), "LOADING|BusyLoadingError")


def is_loading(server: RedisServer) -> bool:
    with suppress(redis.ConnectionError, OSError):
        try:
            execute(server, "PING")
        except redis.BusyLoadingError:
            return True
    return False


@contextmanager
def redis_busy(_path: Path) -> Iterator[Fault]:
    """A script that never ends."""
    with RedisServer("--lua-time-limit", "50") as server, redis.Redis(port=server.port) as client:

        def inject() -> None:
            client.connection_pool.get_connection().send_command("EVAL", "while true do end", 0)
            wait_until(lambda: is_busy(server))

        yield Fault(server.url(), inject, lambda: execute(server, "SCRIPT", "KILL"), "BUSY")


def is_busy(server: RedisServer) -> bool:
    try:
        execute(server, "PING")
    except redis.ResponseError as exc:
        return "BUSY" in str(exc)
    return False


# --- Postgres


def postgres(
    inject: Callable[[PostgresServer], object],
    repair: Callable[[PostgresServer], object],
    says: str,
    *,
    user: str = "keys",
    noticed_within_s: float = 0.0,
) -> Callable[[Path], Any]:
    """A fault of a server, where ``web`` is a user with the password ``first``."""

    @contextmanager
    def made(_path: Path) -> Iterator[Fault]:
        with PostgresServer() as server:
            url = server.url_with_tables()
            server.execute("CREATE ROLE web LOGIN PASSWORD 'first'")
            server.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO web")
            server.allow("host all web 127.0.0.1/32 scram-sha-256\n" + TRUST)
            server.reload()
            yield Fault(
                server.url(user=user),
                lambda: inject(server),
                lambda: repair(server),
                says,
                noticed_within_s=noticed_within_s,
                made_by=url,
            )

    return made


def statement(text: str) -> Callable[[PostgresServer], None]:
    """Run a statement, and end all connections, which would go on."""

    def run(server: PostgresServer) -> None:
        server.execute(text)
        server.disconnect_all()

    return run


@contextmanager
def postgres_locked(_path: Path) -> Iterator[Fault]:
    """A migration of another program locks the table."""
    with PostgresServer() as server, closing(server.connect()) as other:
        other.autocommit = False
        lock = "LOCK TABLE public.basicauth_keys IN ACCESS EXCLUSIVE MODE"
        yield Fault(server.url_with_tables(), lambda: other.execute(lock), other.rollback, TIMED_OUT)


# --- SQLite


def make_file(directory: Path) -> tuple[Path, str]:
    path = directory / "keys.db"
    url = f"sqlite:///{path}"
    with open_backend(url, settings=Settings(), create=True) as keys:
        for number in range(8):  # more than one page
            keys.create(client_id=f"filler-{number}", metadata={"": "x" * 3000})
    return path, url


@contextmanager
def sqlite_locked_rollback(path: Path) -> Iterator[Fault]:
    """Another process writes, and the file has no write-ahead log."""
    file, url = make_file(path)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
        yield Fault(
            url,
            lambda: other.execute("BEGIN EXCLUSIVE"),
            lambda: other.execute("ROLLBACK"),
            "locked|did not respond",
        )


@contextmanager
def sqlite_locked_mode(path: Path) -> Iterator[Fault]:
    """Another process locks the file exclusively, as some tools do."""
    file, url = make_file(path)
    held: list[sqlite3.Connection] = []

    def inject() -> None:
        other = sqlite3.connect(file, isolation_level=None, timeout=5)
        held.append(other)
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")

    try:
        yield Fault(url, inject, lambda: held[0].close(), "locked|did not respond", at_rest=True)
    finally:
        for each in held:
            each.close()


def damaged(damage: Callable[[Path], object], says: str) -> Callable[[Path], Any]:
    """The file is damaged, and restored later."""

    @contextmanager
    def made(path: Path) -> Iterator[Fault]:
        file, url = make_file(path)

        def repair() -> None:
            shutil.copyfile(path / "backup.db", path / "restored.db")
            (path / "restored.db").rename(file)

        def inject() -> None:
            shutil.copyfile(file, path / "backup.db")
            damage(file)

        yield Fault(url, inject, repair, says, noticed_within_s=2.0)

    return made


def overwrite(start: float, data: bytes) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with file.open("r+b") as opened:
            opened.seek(int(start * file.stat().st_size))
            opened.write(data)

    return damage


def replace_by_junk(file: Path) -> None:
    (file.parent / "junk").write_bytes(b"junk" * 5000)
    (file.parent / "junk").rename(file)


@contextmanager
def sqlite_unreadable(_path: Path) -> Iterator[Fault]:
    """A file of another user that only its owner may read.

    Not for root, who can read everything.
    """
    directory = Path(tempfile.mkdtemp(prefix="basicauth-outage-"))
    directory.chmod(0o777)
    file, url = make_file(directory)
    owner = os.geteuid()

    def become(user: int) -> None:
        if owner == 0:
            os.setresuid(-1, user, -1)

    def put(mode: int) -> None:
        become(owner)
        shutil.copyfile(directory / "backup.db", directory / "new.db")
        (directory / "new.db").chmod(mode)
        (directory / "new.db").rename(file)
        become(NOBODY)

    def inject() -> None:
        shutil.copyfile(file, directory / "backup.db")
        put(0o600 if owner == 0 else 0)

    for each in directory.iterdir():
        each.chmod(0o666)
    become(NOBODY)
    try:
        yield Fault(url, inject, lambda: put(0o666), "write access", noticed_within_s=2.0)
    finally:
        become(owner)
        shutil.rmtree(directory)


# --- A file


def broken(damage: Callable[[Path], object], says: str) -> Callable[[Path], Any]:
    """A file of keys that is damaged, and restored later."""

    @contextmanager
    def made(path: Path) -> Iterator[Fault]:
        file = path / "keys"
        lines: list[str] = []

        def save(key: Key) -> None:
            lines.append(f"{key.client_id}:{key.secrets[0].hash}\n")
            repair()

        def repair() -> None:
            (path / "new").write_text("".join(lines))
            (path / "new").rename(file)

        yield Fault(
            f"file:{file}",
            lambda: damage(file),
            repair,
            says,
            noticed_within_s=5.0,
            made_by=make_file(path)[1],
            save=save,
            keeps_s=1.0,
            logs=f"the key file {file} ",
        )

    return made


mark = pytest.mark


def outage(name: str, fault: Callable[[Path], object], *, marks: Any) -> Any:
    return pytest.param(fault, id=name, marks=marks)


OUTAGES = [
    outage("redis-stopped", redis_stopped, marks=mark.proves("F1")),
    outage("redis-frozen", redis_frozen, marks=mark.proves("F2")),
    outage("redis-paused", redis_paused, marks=mark.proves("F2")),
    outage("redis-slow", redis_slow, marks=mark.proves("F2")),
    outage("half-open", network("half-open", TIMED_OUT), marks=mark.proves("F3")),
    outage("cut", network("cut", "cannot be reached"), marks=mark.proves("F3")),
    outage("truncated", network("truncated", "cannot be reached"), marks=mark.proves("F3")),
    outage("garbage", network("garbage", "Redis"), marks=mark.proves("F3")),
    outage("masterdown", redis_masterdown, marks=mark.proves("F4", "F5")),
    outage("cluster-node", cluster_lost_slots("redis", "CLUSTERDOWN"), marks=mark.proves("F6")),
    outage("cluster-slots", cluster_lost_slots("redis+cluster", "CLUSTERDOWN"), marks=mark.proves("F6")),
    outage("noauth", redis_password_required, marks=mark.proves("F8")),
    outage("wrongpass", redis_password_changed, marks=mark.proves("F8")),
    outage("noperm", redis_rights_lost, marks=mark.proves("F8")),
    outage("maxclients", redis_maxclients, marks=mark.proves("F9")),
    outage("loading", redis_loading, marks=mark.proves("F10")),
    outage("busy-script", redis_busy, marks=mark.proves("F10")),
    outage(
        "postgres-stopped",
        postgres(PostgresServer.stop, PostgresServer.start, "the connection was refused"),
        marks=mark.proves("F1"),
    ),
    outage(
        "postgres-killed",
        postgres(
            PostgresServer.kill,  # its processes end soon after it
            PostgresServer.restart,
            "the connection (was refused|broke)",
            noticed_within_s=2.0,
        ),
        marks=mark.proves("F1"),
    ),
    outage(
        "postgres-frozen",
        postgres(PostgresServer.freeze, PostgresServer.thaw, TIMED_OUT),
        marks=mark.proves("F2"),
    ),
    outage("postgres-locked", postgres_locked, marks=mark.proves("F2")),
    outage("postgres-half-open", network("half-open", TIMED_OUT, "postgres"), marks=mark.proves("F3")),
    outage("postgres-cut", network("cut", "cannot be reached", "postgres"), marks=mark.proves("F3")),
    outage("postgres-truncated", network("truncated", "Postgres", "postgres"), marks=mark.proves("F3")),
    outage("postgres-garbage", network("garbage", "Postgres", "postgres"), marks=mark.proves("F3")),
    outage(
        "postgres-wrong-password",
        postgres(
            statement("ALTER ROLE web PASSWORD 'second'"),
            statement("ALTER ROLE web PASSWORD 'first'"),
            "refused the user or the password",
            user="web:first",
        ),
        marks=mark.proves("F8"),
    ),
    outage(
        "postgres-rights-lost",
        postgres(
            statement("REVOKE SELECT ON public.basicauth_keys FROM web"),
            statement("GRANT SELECT ON public.basicauth_keys TO web"),
            "check the grants",
            user="web:first",
        ),
        marks=mark.proves("F8"),
    ),
    outage(
        "postgres-max-connections",
        postgres(
            statement("ALTER ROLE web CONNECTION LIMIT 0"),
            statement("ALTER ROLE web CONNECTION LIMIT 50"),
            "no free connection",
            user="web:first",
        ),
        marks=mark.proves("F9"),
    ),
    outage(
        "postgres-dropped-table",
        postgres(
            lambda server: server.execute("ALTER TABLE basicauth_keys RENAME TO dropped"),
            lambda server: server.execute("ALTER TABLE dropped RENAME TO basicauth_keys"),
            "has no tables of keys",
        ),
        marks=mark.proves("F17"),
    ),
    outage("sqlite-rollback-lock", sqlite_locked_rollback, marks=mark.proves("F13")),
    outage("sqlite-exclusive-mode", sqlite_locked_mode, marks=mark.proves("F13")),
    outage("sqlite-replaced", damaged(replace_by_junk, "not a database"), marks=mark.proves("F16", "F18")),
    outage("sqlite-missing", damaged(Path.unlink, "No such file"), marks=mark.proves("F17")),
    outage(
        "sqlite-emptied",
        damaged(lambda file: os.truncate(file, 0), "contains no keys yet"),
        marks=mark.proves("F17"),
    ),
    outage("sqlite-header", damaged(overwrite(0, b"\xff" * 100), "SQLite"), marks=mark.proves("F18")),
    outage("sqlite-pages", damaged(overwrite(0.05, b"\xff" * 200_000), "SQLite"), marks=mark.proves("F18")),
    outage(
        "sqlite-cut",
        damaged(lambda file: os.truncate(file, file.stat().st_size // 2), "SQLite"),
        marks=mark.proves("F18"),
    ),
    outage("sqlite-unreadable", sqlite_unreadable, marks=mark.proves("F19")),
    outage("file-missing", broken(Path.unlink, "No such file"), marks=mark.proves("F36")),
    outage("file-junk", broken(replace_by_junk, "line 1: is not id:secret"), marks=mark.proves("F36")),
    outage(
        "file-cut",
        broken(lambda file: os.truncate(file, file.stat().st_size - 9), "line 2: not a supported hash"),
        marks=mark.proves("F36"),
    ),
]


@pytest.fixture
def fault(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fault]:
    with request.param(tmp_path) as made:
        yield made


def assert_unavailable(seen: Response, client: Client) -> None:
    assert (seen.status, seen.code) == (503, "backend_unavailable"), type(client)
    assert "www-authenticate" not in seen.fields
    assert int(seen.fields["retry-after"]) >= 1
    assert seen.fields["cache-control"] == "no-store"
    assert seen.took_s < DEADLINE_S + LATE_S, type(client)


@dataclass
class Sent:
    """The credentials of the requests: a cached key, an uncached key, and invalid ones."""

    cached: str
    other: str
    wrong: str
    unknown: str
    refused: dict[str | None, str]


@pytest.fixture
def sent(fault: Fault) -> Sent:
    with open_backend(fault.made_by or fault.url, settings=Settings(backend_deadline_s=5)) as keys:
        cached, other = keys.create(client_id="cached"), keys.create(client_id="other")
    for each in (cached, other):
        if fault.save:
            fault.save(each.key)
    mistyped = other.secret[:-1] + ("a" if other.secret[-1] != "a" else "b")
    malformed = ("Basic !", other.authorization + "=", "Bearer x", encode_basic("other", mistyped))
    return Sent(
        cached.authorization,
        other.authorization,
        encode_basic("other", generate("sk")),
        encode_basic("unknown", generate("sk")),
        {None: "missing_credentials", **dict.fromkeys(malformed, "invalid_credentials")},
    )


def is_well(client: Client, sent: Sent) -> None:
    assert [client.request(each).status for each in (sent.cached, sent.wrong, sent.unknown)] == [
        200,
        401,
        401,
    ]


def meanwhile(client: Client, sent: Sent, fault: Fault) -> None:
    end = time.monotonic() + fault.noticed_within_s
    while client.request(sent.unknown).status != 503:
        assert time.monotonic() < end, type(client)
        time.sleep(0.01)
    for authorization in (sent.other, sent.wrong, sent.unknown, sent.other):
        assert_unavailable(client.request(authorization), client)
    lookups = len(client.lookups)
    for refused, code in sent.refused.items():
        seen = client.request(refused)
        assert (seen.status, seen.code) == (401, code)
        assert seen.fields["www-authenticate"].startswith("Basic ")
    if not fault.keeps_s:
        assert client.request(sent.cached).status == 200
    assert len(client.lookups) == lookups, "these requests need no lookup"
    if fault.keeps_s:
        wait_until(lambda: client.request(sent.cached).status == 503)
    assert set(client.served) == {"cached"}


def afterwards(client: Client, sent: Sent) -> None:
    end = time.monotonic() + BACK_WITHIN_S
    while (seen := client.request(sent.other)).status != 200:
        assert_unavailable(seen, client)
        assert time.monotonic() < end, type(client)
        time.sleep(0.01)
    is_well(client, sent)
    assert set(client.served) == {"cached", "other"}


@pytest.mark.parametrize("fault", OUTAGES, indirect=True)
def test_an_outage(fault: Fault, sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "basicauth_mw")
    with (
        AsgiClient(fault.url, deadline_s=DEADLINE_S, cache_ttl_s=fault.keeps_s or 300.0) as asgi,
        WsgiClient(fault.url, deadline_s=DEADLINE_S, cache_ttl_s=fault.keeps_s or 300.0) as wsgi,
        ThreadPoolExecutor(2) as pool,
    ):
        clients = (asgi, wsgi)
        for client in clients:
            wait_until(lambda: client.request(sent.cached).status == 200)  # noqa: B023
            is_well(client, sent)
            if fault.at_rest:
                client.backend.store.close()
        caplog.clear()

        fault.inject()
        # At the same time, since some faults end by themselves.
        list(pool.map(lambda client: meanwhile(client, sent, fault), clients))
        fault.repair()
        for client in clients:
            afterwards(client, sent)

    said = [message.partition(";")[0] for message in caplog.messages]
    if fault.logs:
        own = [message for message in said if message.startswith(fault.logs)]
        assert len(own) == 2 * 2, "each client logs the damage and the repair"
        said = [message for message in said if message not in own]
    assert sorted(said) == ["the key backend is available again"] * 2 + ["the key backend is unavailable"] * 2
    assert re.search(fault.says, caplog.text)
