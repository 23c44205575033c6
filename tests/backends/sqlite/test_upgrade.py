"""SQLite files of older and newer releases."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Settings, open_backend
from basicauth_mw.backends import dump_key, open_store
from basicauth_mw.backends.sqlite.schema import SCHEMA_VERSION, create
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable, ConfigurationError
from basicauth_mw.keys.hashing import Hasher, is_password_hash, verify_password
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
OLDER = "basicauth-mw check --upgrade"

# The schema of the release with version 1.
SCHEMA_1 = """
CREATE TABLE keys (client_id TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT NOT NULL);
CREATE TABLE facts (name TEXT NOT NULL PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE last_used (client_id TEXT, secret INTEGER, minute INTEGER, PRIMARY KEY (client_id, secret))
    WITHOUT ROWID;
PRAGMA application_id = 1650552183;
PRAGMA user_version = 1;
"""


# The schema of the release with version 2.
SCHEMA_2 = """
CREATE TABLE keys (client_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, record TEXT NOT NULL);
CREATE TABLE changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT,
    mark INTEGER NOT NULL DEFAULT (random()));
INSERT INTO changes (client_id) VALUES (NULL);
CREATE TABLE facts (name TEXT NOT NULL PRIMARY KEY, value) WITHOUT ROWID;
PRAGMA application_id = 1650552183;
PRAGMA user_version = 2;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of a file that the release with version 1 created."""
    return Path(shutil.copyfile(DATA / "sqlite-v1.db", tmp_path / "keys.db"))


@pytest.fixture
def secrets() -> dict[str, str]:
    found: dict[str, str] = json.loads((DATA / "sqlite-v1.json").read_text("utf-8"))
    return found


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(f"sqlite:///{path}")) as opened:
        yield opened


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT client_id, version, record FROM keys ORDER BY client_id").fetchall()


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        return int(version)


def larger(path: Path, count: int) -> None:
    """A file of version 1 with many keys."""
    path.unlink(missing_ok=True)
    numbers = random.Random(1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.executescript(SCHEMA_1)
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO keys VALUES (?, ?, ?)",
            (
                (client_id, 1, dump_key(Key(client_id, version=1, secrets=(Secret("$bamw1$x"),))))
                for client_id in (f"{numbers.getrandbits(128):032x}" for _ in range(count))
            ),
        )
        connection.execute("INSERT INTO changes (client_id) VALUES ('x')")
        connection.execute("COMMIT")


def test_every_key_survives(store: SqliteStore, path: Path, secrets: dict[str, str]) -> None:
    before = rows_of(path)
    assert sorted(client_id for client_id, _, _ in before) == sorted(secrets.keys() - {"gone"})

    assert store.upgrade() == f"upgraded {path} from schema version 1 to {SCHEMA_VERSION}"

    assert rows_of(path) == before
    found = {key.client_id: key for key in store.scan("", "", 100)}
    assert list(found) == [client_id for client_id, _, _ in before]
    for client_id, key in found.items():
        assert store.get(client_id) == key
        (stored,) = key.secrets
        if is_password_hash(stored.hash):
            assert verify_password(secrets[client_id], stored.hash)
        else:
            assert Hasher().verify_digest(secrets[client_id], key.secrets) == stored
    assert found["minted"].scopes == {"read", "write"}
    assert found["minted"].metadata == {"team": "search", "n": [1, None]}
    assert found["minted"].name == "ci"
    assert found["expiring"].expires_at == datetime(2100, 1, 1, tzinfo=UTC)
    assert found["revoked"].revoked_at is not None
    assert found["disabled"].disabled
    assert found["日本"].name == "日本"
    assert store.changes(None).has_password_hashes
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_an_upgraded_file_is_like_a_new_one(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    def tables(of: Path) -> list[Any]:
        with closing(sqlite3.connect(of)) as connection:
            return connection.execute(
                "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 2"
            ).fetchall()

    new = tmp_path / "new.db"
    SqliteStore(f"sqlite:///{new}", create=True).close()
    assert tables(path) != tables(new)
    store.upgrade()
    store.close()
    assert tables(path) == tables(new)
    assert version_of(path) == version_of(new) == SCHEMA_VERSION


def test_tables_of_another_process_are_left_unchanged(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        create(connection)
    assert version_of(path) == 1
    assert len(rows_of(path)) == 6


def test_every_change_works_afterwards(path: Path) -> None:
    with open_backend(f"sqlite:///{path}", settings=Settings()) as backend:
        assert backend.store.upgrade()
        backend.rotate("minted")
        backend.update("日本", name="x")
        backend.delete("chosen")
        backend.create(client_id="gone")
        assert [key.client_id for key in backend.iter_keys()] == sorted(
            ["minted", "日本", "gone", "expiring", "revoked", "disabled"], key=str.encode
        )


@pytest.mark.parametrize("has_passwords", [False, True])
def test_version_2(path: Path, *, has_passwords: bool) -> None:
    """Every key stays, with the changes that caches have to see; it can be searched and has a history."""
    path.unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(SCHEMA_2)
        for key in (
            Key("a", name="Acme", version=1),
            Key("b", expires_at=datetime(2020, 1, 1, tzinfo=UTC), version=7),
            Key("c", revoked_at=datetime(2020, 1, 1, tzinfo=UTC)),
        ):
            connection.execute(
                "INSERT INTO keys VALUES (?, ?, ?)", (key.client_id, key.version, dump_key(key))
            )
        connection.execute("INSERT INTO keys VALUES ('damaged', 1, '{'), (CAST(x'ff' AS TEXT), 1, x'ff')")
        connection.execute("INSERT INTO changes (client_id) VALUES ('a')")
        if has_passwords:
            connection.execute("INSERT INTO facts VALUES ('slow', 1)")
        changes = connection.execute("SELECT * FROM changes").fetchall()
    with open_backend(f"sqlite:///{path}", settings=Settings()) as backend:
        with pytest.raises(BackendUnavailable, match=OLDER):
            backend.get("a")
        assert backend.store.upgrade() == f"upgraded {path} from schema version 2 to {SCHEMA_VERSION}"
        assert backend.store.changes(None).has_password_hashes is has_passwords
        assert [key.client_id for key in backend.search("acme").keys] == ["a"]
        assert [key.client_id for key in backend.search(state="expired").keys] == ["b"]
        assert [key.client_id for key in backend.search(state="revoked").keys] == ["c"]
        assert backend.history("a") == []
        backend.disable("a", actor="alice")
        assert [change.actor for change in backend.history("a")] == ["alice"]
        backend.delete("damaged")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT * FROM changes").fetchall()[: len(changes)] == changes


def test_a_restored_dump_of_version_2(path: Path) -> None:
    """``.dump`` omits the version."""
    path.unlink()
    dump = SCHEMA_2.partition("PRAGMA")[0].replace(",\n    mark", ", mark")
    key = Key("a", name="Acme", version=1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(dump)
        connection.execute("INSERT INTO keys VALUES (?, ?, ?)", (key.client_id, key.version, dump_key(key)))
    with open_backend(f"sqlite:///{path}", settings=Settings()) as backend:
        with pytest.raises(BackendUnavailable, match=rf"restored from a dump.*{OLDER}"):
            backend.get("a")
        assert backend.store.upgrade() == f"{path} was restored from a dump; its version has been set"
        assert [found.name for found in backend.search("acme").keys] == ["Acme"]
        assert backend.store.upgrade() is None
    assert version_of(path) == SCHEMA_VERSION


def test_a_second_upgrade_does_nothing(store: SqliteStore, path: Path) -> None:
    assert store.upgrade()
    before = path.read_bytes()
    assert store.upgrade() is None
    assert path.read_bytes() == before


def test_a_server_refuses_an_old_file_and_says_what_to_do(store: SqliteStore, path: Path) -> None:
    before = path.read_bytes()
    for call in (
        lambda: store.get("minted"),
        lambda: store.put(Key("x"), None),
        lambda: store.add([Key("x")]),
        lambda: store.changes(None),
        lambda: store.changes(None),
    ):
        with pytest.raises(BackendUnavailable, match=OLDER):
            call()
    assert path.read_bytes() == before
    store.upgrade()
    assert store.get("minted")


def test_opening_upgrades_nothing(path: Path) -> None:
    """Only the command line upgrades a file; opening it does not, even with ``create``."""
    before = path.read_bytes()
    opened = open_store(f"sqlite:///{path}", create=True)
    assert isinstance(opened, SqliteStore)
    with closing(opened):
        assert path.read_bytes() == before
        with pytest.raises(BackendUnavailable, match=OLDER):
            opened.get("minted")
        opened.upgrade()
        assert opened.get("minted")


@pytest.mark.parametrize(
    ("version", "message"), [(SCHEMA_VERSION + 1, "newer release"), (0, "no release wrote")]
)
def test_a_file_that_cannot_be_upgraded(store: SqliteStore, path: Path, version: int, message: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(BackendUnavailable, match=message):
        store.upgrade()
    with pytest.raises(BackendUnavailable, match=message):
        store.get("minted")
    with pytest.raises(ConfigurationError, match=message):
        SqliteStore(f"sqlite:///{path}", create=True)
    assert path.read_bytes() == before


def test_a_foreign_file_is_not_upgraded(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basicauth_mw.backends.sqlite.setup.WRITE_WAIT_S", 0.2)
    path.write_bytes(b"")
    with pytest.raises(BackendUnavailable, match="keys create"):
        store.upgrade()
    assert path.read_bytes() == b""
    path.write_bytes(b"junk" * 2000)
    with pytest.raises(BackendUnavailable, match="not a database"):
        store.upgrade()
    path.unlink()
    with pytest.raises(BackendUnavailable):
        store.upgrade()
    assert not path.exists()


def test_another_process_is_upgrading(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basicauth_mw.backends.sqlite.setup.WRITE_WAIT_S", 0.2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailable, match="locked"):
            store.upgrade()
        other.execute("ROLLBACK")
    assert store.upgrade()


@pytest.mark.proves("F15")
def test_a_failed_upgrade_leaves_the_old_file(store: SqliteStore, path: Path) -> None:
    before = rows_of(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE last_used RENAME TO elsewhere")  # so that the last step fails
        with pytest.raises(BackendUnavailable):
            store.upgrade()
        assert version_of(path) == 1
        connection.execute("ALTER TABLE elsewhere RENAME TO last_used")
    assert rows_of(path) == before
    assert store.upgrade()


def test_servers_that_waited_for_the_upgrade(store: SqliteStore, path: Path) -> None:
    """A server that was started too early works as soon as another process has upgraded the file."""
    with pytest.raises(BackendUnavailable):
        store.get("minted")
    code = (
        "import sys;"
        "from basicauth_mw.backends.sqlite.store import SqliteStore;"
        "print(SqliteStore(sys.argv[1]).upgrade())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.startswith("upgraded")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            assert store.get("minted")
            break
        except BackendUnavailable:
            time.sleep(0.02)
    else:
        pytest.fail("it is still refused")


def test_cursors_of_the_old_file(store: SqliteStore, path: Path) -> None:
    """They give incomplete changes, so cached entries are looked up again. Later changes are announced."""
    status = path.stat()
    store.upgrade()
    for seq in (0, 1, 9):
        seen = store.changes(f"{status.st_dev}.{status.st_ino}.{seq}")
        assert seen.incomplete
        assert not store.changes(seen.cursor).incomplete
    store.delete("minted")
    assert store.changes(seen.cursor).client_ids == ("minted",)


@pytest.mark.proves("F33")
def test_a_kill_leaves_the_old_version_or_the_new_one(path: Path, tmp_path: Path) -> None:
    larger(path, 5000)
    code = (
        "import sys;"
        "from basicauth_mw.backends.sqlite.store import SqliteStore;"
        "store = SqliteStore(sys.argv[1]);"
        "print('begin', flush=True);"
        "store.upgrade();"
        "print('done', flush=True)"
    )

    def upgrade(copy: Path, kill_after_s: float | None) -> float:
        shutil.copyfile(path, copy)
        with subprocess.Popen(
            [sys.executable, "-c", code, f"sqlite:///{copy}"], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begin\n"
            start = time.monotonic()
            if kill_after_s is None:
                assert process.stdout.readline() == "done\n"
            else:
                time.sleep(kill_after_s)
                process.send_signal(signal.SIGKILL)
            took_s = time.monotonic() - start
            process.communicate(timeout=60)
        return took_s

    before = rows_of(path)
    whole_s = upgrade(tmp_path / "whole.db", None)
    points = 16
    seen = []
    for point in range(points):
        copy = tmp_path / f"{point}.db"
        upgrade(copy, 1.2 * whole_s * point / points)
        seen.append(version_of(copy))
        with closing(SqliteStore(f"sqlite:///{copy}")) as store:
            assert (store.upgrade() is None) is (seen[-1] == SCHEMA_VERSION)
        assert rows_of(copy) == before
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for each in tmp_path.glob(f"{point}.db*"):
            each.unlink()
    assert seen[0] == 1
    assert version_of(tmp_path / "whole.db") == SCHEMA_VERSION


def test_a_large_file_needs_little_memory(path: Path) -> None:
    """Measured in a separate process."""
    larger(path, 100_000)
    size = path.stat().st_size
    code = (
        "import resource, sys;"
        "from basicauth_mw.backends.sqlite.store import SqliteStore;"
        "store = SqliteStore(sys.argv[1]);"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024;"
        "before = peak();"
        "assert store.upgrade();"
        "print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        check=True,
    )
    assert size > 20_000_000
    assert int(done.stdout) < size / 2
    assert len(rows_of(path)) == 100_000
