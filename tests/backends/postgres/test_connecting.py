"""Connecting to Postgres: several hosts, failover, TLS, and error messages."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trustme

from basicauth_mw.backends.postgres.store import PostgresStore
from basicauth_mw.errors import BackendUnavailable
from tests.backends.postgres.helpers import BOTH, key, on_thread
from tests.forwarder import Forwarder
from tests.postgres_server import TRUST, PostgresServer
from tests.redis_server import TlsFront, find_port, make_certificates
from tests.tracebacks import chain_of, variables_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from basicauth_mw.keys.model import Key

DEADLINE_S = 0.8
SLACK_S = 0.5


def hosts_url(*ports: int) -> str:
    return f"postgresql://keys@{','.join(f'127.0.0.1:{port}' for port in ports)}/postgres"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as made:
        made.url_with_tables()
        yield made


def assert_in_time(store: PostgresStore) -> None:
    for look in BOTH:
        started = time.monotonic()
        with pytest.raises(BackendUnavailable):
            look(store)
        assert time.monotonic() - started < DEADLINE_S + SLACK_S


@pytest.mark.parametrize("fault", ["refused", "silent"])
def test_a_dead_first_address(server: PostgresServer, fault: str) -> None:
    """It costs a share of the deadline once; the address that worked is tried first afterwards."""
    with Forwarder(server.port) as dead:
        dead.network_fault = "half-open"
        port = find_port() if fault == "refused" else dead.port
        for look in BOTH:
            with closing(PostgresStore(hosts_url(port, server.port), deadline_s=2.0)) as store:
                assert look(store) is None
                store.close()
                accepted, started = dead.accepted, time.monotonic()
                assert look(store) is None
                assert time.monotonic() - started < 0.9
                assert dead.accepted == accepted


@pytest.mark.proves("F4")
def test_a_standby_is_refused_and_a_promoted_one_is_found() -> None:
    """No client gets a 401 because of it: every lookup fails, or finds the key."""
    with PostgresServer() as primary, PostgresServer(follows=primary) as standby:
        primary.url_with_tables()
        both = hosts_url(standby.port, primary.port)
        with (
            closing(PostgresStore(both, deadline_s=2.0)) as store,
            closing(PostgresStore(hosts_url(standby.port), deadline_s=2.0)) as alone,
        ):
            assert store.put(key("id"), None)
            cursor = store.changes(None).cursor
            for look in BOTH:
                with pytest.raises(BackendUnavailable, match="is a standby"):
                    look(alone)
                assert look(store) == key("id")
            standby.catch_up()

            primary.stop()
            assert_in_time(store)
            standby.promote()
            wait_until(lambda: standby.execute("SELECT pg_is_in_recovery()") == [(False,)])
            started = time.monotonic()
            wait_until(lambda: is_found(store), 5.0)
            assert time.monotonic() - started < 5
            assert store.put(key("new"), None)
            assert store.changes(cursor).client_ids == ("new",)


@pytest.mark.proves("F4")
def test_an_answer_of_a_standby_is_refused() -> None:
    """A pooler that was moved to a standby keeps our connection; libpq does not check it again."""
    with PostgresServer() as primary, PostgresServer(follows=primary) as standby:
        primary.url_with_tables()
        standby.catch_up()
        with closing(PostgresStore(hosts_url(standby.port), deadline_s=2.0)) as store:
            store._connector._target.options["target_session_attrs"] = "any"
            for look in BOTH:
                with pytest.raises(BackendUnavailable, match="is a standby"):
                    look(store)
            with pytest.raises(BackendUnavailable, match="is a standby"):
                asyncio.run(look_up_two(store))
            reads: list[Callable[[], object]] = [
                lambda: store.changes(None),
                lambda: store.scan("", "", 9),
                lambda: store.history(["id"]),
            ]
            for read in reads:
                with pytest.raises(BackendUnavailable, match="is a standby"):
                    read()
            standby.promote()
            wait_until(lambda: is_writable(store, "id"))
            assert asyncio.run(look_up_two(store)) == [key("id"), None]


async def look_up_two(store: PostgresStore) -> list[Key | None]:
    """In one statement."""
    try:
        return await asyncio.gather(store.aget("id"), store.aget("unknown"))
    finally:
        await store.aclose()


def is_found(store: PostgresStore) -> bool:
    try:
        return on_thread(store) is not None
    except BackendUnavailable:
        return False


@pytest.mark.proves("F4")
def test_changes_that_a_failover_lost_clear_caches() -> None:
    """The new primary counts on from an earlier change."""
    with PostgresServer() as primary, PostgresServer(follows=primary) as standby:
        primary.url_with_tables()
        with closing(PostgresStore(hosts_url(primary.port, standby.port), deadline_s=2.0)) as store:
            store.put(key("kept"), None)
            standby.catch_up()
            standby.stop()
            store.put(key("lost"), None)
            cursor = store.changes(None).cursor
            primary.stop()
            standby.start()
            standby.promote()
            wait_until(lambda: is_writable(store, "other"))
            assert store.get("lost") is None
            assert store.changes(cursor).incomplete


def is_writable(store: PostgresStore, client_id: str) -> bool:
    try:
        return store.put(key(client_id), None)
    except BackendUnavailable:
        return False


# --- error messages


@pytest.mark.parametrize(
    ("host", "says"),
    [
        (
            "127.0.0.1:{free}/postgres",
            "127.0.0.1:{free} cannot be reached: the connection was refused",
        ),
        ("no-such-host.invalid/postgres", "no-such-host.invalid:5432 cannot be reached: its host name"),
        ("%2Fno%2Fsuch%2Fdirectory/postgres", "Unix socket:5432 cannot be reached: there is no such socket"),
        ("127.0.0.1:{port}/canary", "has no such database"),
        ("canary@127.0.0.1:{port}/postgres", "refused the user or the password"),
        ("127.0.0.1:{port}/postgres?sslmode=require", "does not speak TLS"),
        ("127.0.0.1:{free},127.0.0.1:{free}/postgres", "refused"),
    ],
)
def test_messages(server: PostgresServer, host: str, says: str) -> None:
    names = {"free": find_port(), "port": server.port}
    user = "" if "@" in host else "keys:canary@"
    with closing(PostgresStore(f"postgresql://{user}{host}".format(**names), deadline_s=2.0)) as store:
        for look in BOTH:
            with pytest.raises(BackendUnavailable, match=says.format(**names)) as caught:
                look(store)
            assert "canary" not in " ".join(map(str, chain_of(caught.value)))


@pytest.mark.proves("F8")
def test_the_password_is_never_shown(
    own_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in an error nor in the variables of its frames; it may come from the environment."""
    server = own_postgres_server
    server.url_with_tables()
    server.execute("CREATE ROLE web LOGIN PASSWORD 'good'")
    server.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO web")
    server.allow("host all web 127.0.0.1/32 scram-sha-256\n" + TRUST)
    server.reload()
    with closing(PostgresStore(server.url(user="web:canary"), deadline_s=2.0)) as store:
        for look in BOTH:
            with pytest.raises(BackendUnavailable, match="refused the user or the password") as caught:
                look(store)
            assert "canary" not in " ".join(f"{each!r} {each}" for each in chain_of(caught.value))
            assert "canary" not in variables_of(caught.value, but=__file__)

    with closing(PostgresStore(server.url(user="web"), deadline_s=2.0)) as store:
        with pytest.raises(BackendUnavailable, match="refused the user or the password"):
            store.get("id")
        monkeypatch.setenv("PGPASSWORD", "good")
        for look in BOTH:
            assert look(store) is None


@pytest.mark.proves("F9")
def test_a_full_server(own_postgres_server: PostgresServer) -> None:
    server = own_postgres_server
    server.url_with_tables()
    server.execute("CREATE ROLE web LOGIN CONNECTION LIMIT 1")
    server.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO web")
    with closing(PostgresStore(server.url(user="web"), deadline_s=2.0)) as store:
        assert store.get("id") is None
        with closing(PostgresStore(server.url(user="web"), deadline_s=2.0)) as other:
            for look in BOTH:
                with pytest.raises(BackendUnavailable, match="no free connection"):
                    look(other)


# --- TLS


def tls_url(port: int, host: str = "localhost", **options: str) -> str:
    more = "".join(f"&{name}={value}" for name, value in options.items())
    return f"postgresql://keys@{host}:{port}/postgres?sslmode=verify-full{more}"


def test_tls(server: PostgresServer, tmp_path: Path) -> None:
    context, authority = make_certificates(tmp_path)
    with TlsFront(server.port, context) as front:
        url = tls_url(front.port, sslrootcert=str(authority))
        with closing(PostgresStore(url, deadline_s=5.0)) as store:
            for look in BOTH:
                assert look(store) is None
        assert front.handshakes >= 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("unknown-ca", "the CA of its TLS certificate is unknown"),
        ("other-name", "its TLS certificate is for another host name"),
        ("expired", "has expired"),
        ("no-tls", "does not speak TLS"),
        ("no-file", "a file that sslrootcert, sslcert or sslkey names cannot be used"),
    ],
)
def test_tls_faults(server: PostgresServer, tmp_path: Path, fault: str, says: str) -> None:
    context, authority = make_certificates(tmp_path)
    host = "localhost"
    if fault == "unknown-ca":
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        authority = other
    elif fault == "other-name":
        context, authority = certificate_for(tmp_path, "elsewhere.example")
    elif fault == "expired":
        context, authority = certificate_for(tmp_path, "localhost", expired=True)
    elif fault == "no-file":
        authority = tmp_path / "missing.pem"
    with TlsFront(server.port, context) as front:
        port = server.port if fault == "no-tls" else front.port
        with closing(PostgresStore(tls_url(port, host, sslrootcert=str(authority)), deadline_s=5.0)) as store:
            for look in BOTH:
                with pytest.raises(BackendUnavailable, match=says):
                    look(store)


def certificate_for(directory: Path, name: str, *, expired: bool = False) -> tuple[ssl.SSLContext, Path]:
    from datetime import UTC, datetime

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ends = {"not_after": datetime(2001, 1, 1, tzinfo=UTC), "not_before": datetime(2000, 1, 1, tzinfo=UTC)}
    authority.issue_cert(name, **(ends if expired else {})).configure_cert(context)
    path = directory / "own-ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return context, path
