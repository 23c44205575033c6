"""The contract of stores on Postgres behind pgbouncer, and on the Postgres of the operating system."""

from __future__ import annotations

import secrets
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends.postgres.store import PostgresStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key
from tests.backends.test_stores import *  # noqa: F403 - the contract
from tests.postgres_server import PgBouncer, PostgresServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_system_binaries() -> Path:
    """The folder with ``initdb``, which Debian does not put on PATH."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")  # a client alone has a folder too
    return max(found, key=lambda path: float(path.parts[-3])).parent


@pytest.fixture(scope="module", params=["pgbouncer", "system"])
def base_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "system":
        with PostgresServer(binaries=find_system_binaries()) as server:
            yield server.url("")
    else:
        with PostgresServer() as server, PgBouncer(server) as pgbouncer:
            yield server.url("", port=pgbouncer.port)


def test_a_pgbouncer_that_moves_to_a_standby() -> None:
    """No key is unknown because of it, and the lookup after it moves back finds the key."""
    with PostgresServer() as primary, PostgresServer(follows=primary) as standby, PgBouncer(primary) as pool:
        primary.url_with_tables()
        standby.catch_up()
        with closing(PostgresStore(primary.url(port=pool.port), deadline_s=2.0)) as store:
            stored = Key("id")
            assert store.put(stored, None)
            assert look_up(store) == stored
            pool.move(standby)
            wait_until(lambda: "is a standby" in str(look_up(store)))
            for _ in range(20):
                assert "is a standby" in str(look_up(store))
            pool.move(primary)
            wait_until(lambda: look_up(store) == stored)


def look_up(store: PostgresStore) -> Key | BackendUnavailable | None:
    try:
        return store.get("id")
    except BackendUnavailable as exc:
        return exc


@pytest.fixture
def url(base_url: str) -> str:
    """The URL of an empty store."""
    made = f"{base_url}test_{secrets.token_hex(8)}"
    PostgresStore(made, create=True).upgrade()
    return made
