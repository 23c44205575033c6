"""What docs/backends.md grants, and its compose file."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from basicauth_mw import Settings, open_backend
from basicauth_mw.backends import LastUse
from basicauth_mw.backends.postgres.store import PostgresStore
from basicauth_mw.backends.postgres.url import parse_url
from basicauth_mw.errors import ReadOnlyBackend
from basicauth_mw.settings import FIELDS
from tests.backends.postgres.helpers import BOTH, key
from tests.postgres_server import TRUST, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[3] / "docs" / "backends.md"
USE = LastUse("id", datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC))


def block(language: str) -> str:
    """The code block in the chapter about Postgres."""
    chapter = DOCS.read_text(encoding="utf-8").partition("## PostgreSQL")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", chapter, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server with the roles of the documentation, which log in with their password."""
    with PostgresServer() as made:
        made.url_with_tables()
        made.execute(block("sql"))
        roles = "keys_manager,keys_reader"
        made.allow(f"host all {roles} 127.0.0.1/32 scram-sha-256\n{TRUST}")
        made.reload()
        yield made


def store_of(server: PostgresServer, role: str) -> PostgresStore:
    return PostgresStore(server.url(user=f"{role}:PASSWORD"), deadline_s=5.0)


def test_a_manager_can_do_everything(server: PostgresServer) -> None:
    with closing(store_of(server, "keys_manager")) as store:
        cursor = store.changes(None).cursor
        assert store.upgrade() is None
        assert store.put(key("id"), None)
        assert store.add([key("other")]) == [True]
        assert store.put(replace(key("id", 2), name="changed"), 1)
        store.record_uses([USE])
        assert store.last_uses(["id"]) == [USE]
        for look in BOTH:
            assert look(store) == store.scan("", "", 9)[0]
        assert store.delete("id")
        assert store.delete("other")
        assert set(store.changes(cursor).client_ids) == {"id", "other"}


def test_a_reader_can_verify_and_record_uses(server: PostgresServer) -> None:
    """Changes are refused, with the reason."""
    with (
        closing(store_of(server, "keys_manager")) as manager,
        closing(store_of(server, "keys_reader")) as store,
    ):
        assert manager.put(key("id"), None)
        for look in BOTH:
            assert look(store) == key("id")
        assert store.scan("", "", 9) == [key("id")]
        assert not store.changes(None).has_password_hashes
        store.record_uses([USE])
        assert store.last_uses(["id"]) == [USE]
        for change in (
            lambda: store.put(key("new"), None),
            lambda: store.put(key("id", 2), 1),
            lambda: store.delete("id"),
            lambda: store.add([key("new")]),
        ):
            with pytest.raises(ReadOnlyBackend, match="check the grants"):
                change()
        assert manager.delete("id")


@pytest.mark.proves("F8")
def test_a_reader_without_the_last_grant(server: PostgresServer) -> None:
    """Everything but last-used times works, with no error for a request."""
    server.execute("REVOKE INSERT, UPDATE ON basicauth_last_used FROM keys_reader")
    try:
        with (
            closing(store_of(server, "keys_manager")) as manager,
            closing(store_of(server, "keys_reader")) as store,
        ):
            assert manager.put(key("id"), None)
            with pytest.raises(ReadOnlyBackend):
                store.record_uses([USE])
            assert store.last_uses(["id"]) == []
            for look in BOTH:
                assert look(store) == key("id")
            assert manager.delete("id")
    finally:
        server.execute("GRANT INSERT, UPDATE ON basicauth_last_used TO keys_reader")


def test_a_read_only_session(server: PostgresServer) -> None:
    """``default_transaction_read_only`` has the same effect as missing grants."""
    server.execute("ALTER ROLE keys_manager SET default_transaction_read_only = on")
    try:
        with closing(store_of(server, "keys_manager")) as store:
            assert store.get("id") is None
            with pytest.raises(ReadOnlyBackend, match="check the grants"):
                store.put(key("id"), None)
    finally:
        server.execute("ALTER ROLE keys_manager RESET default_transaction_read_only")


def test_the_life_of_a_key_by_a_manager(server: PostgresServer) -> None:
    url = server.url(user="keys_manager:PASSWORD")
    with open_backend(url, settings=Settings(backend_deadline_s=5.0)) as backend:
        issued = backend.create(name="ci", scopes=["read"])
        backend.rotate(issued.client_id)
        backend.revoke(issued.client_id)
        assert asyncio.run(backend.aget(issued.client_id)) == backend.get(issued.client_id)
        backend.delete(issued.client_id)


def test_the_compose_file(tmp_path: Path) -> None:
    """It is valid, and every name in it exists."""
    (tmp_path / "compose.yaml").write_text(block("yaml"))
    schema = ("check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = subprocess.run(
        [sys.executable, "-m", *schema, tmp_path / "compose.yaml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    compose = yaml.safe_load(block("yaml"))
    app, postgres = compose["services"]["app"], compose["services"]["postgres"]
    assert set(app["environment"]) <= {f"BASICAUTH_{field.name.upper()}" for field in FIELDS}
    target = parse_url(app["environment"]["BASICAUTH_BACKEND"])
    assert target.hosts == (("postgres", ""),)
    assert target.options["user"] == target.options["dbname"] == postgres["environment"]["POSTGRES_USER"]
    assert target.options["passfile"] == f"/run/secrets/{app['secrets'][0]}"
    assert {*app["secrets"], *postgres["secrets"]} == compose["secrets"].keys()
