"""The contract of stores on Postgres behind pgbouncer, and on the Postgres of the operating system."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends.postgres.store import PostgresStore
from tests.backends.test_stores import *  # noqa: F403 - the contract
from tests.postgres_server import PgBouncer, PostgresServer

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


@pytest.fixture
def url(base_url: str) -> str:
    """The URL of an empty store."""
    made = f"{base_url}test_{secrets.token_hex(8)}"
    PostgresStore(made, create=True).upgrade()
    return made
