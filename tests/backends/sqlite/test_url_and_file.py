"""The URL of a SQLite store, its file, and the findings of ``check``."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends.sqlite.schema import SCHEMA_VERSION
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable, ConfigurationError
from basicauth_mw.keys.filters import KeyFilter
from basicauth_mw.keys.model import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

from tests.backends.sqlite.helpers import (
    in_threads,
    name_of,
)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite:x.db",
        "sqlite:/x.db",
        "sqlite://x.db",
        "sqlite://host/x.db",
        "sqlite:///",
        "sqlite:////",
        "sqlite:///x.db?mode=rwc",
        "sqlite:///x\0.db",
        "sqlite:///:memory:",
    ],
)
def test_urls_that_are_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError):
        SqliteStore(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b.db", "a%20b.db", "a#b.db", "é.db", "a;b&c=d.db", "file:x.db", "'.db"])
def test_the_path_is_taken_literally(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(SqliteStore(f"sqlite:///{name}", create=True)) as relative:
        relative.put(Key("id"), None)
        monkeypatch.chdir("/")
        assert relative.get("id") is not None
    assert [each.name for each in tmp_path.iterdir()] == [name]
    with closing(SqliteStore(f"SQLite:///{tmp_path / name}")) as absolute:
        assert absolute.get("id") is not None


@pytest.mark.proves("F17")
def test_a_missing_file_is_never_created(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="basicauth-mw keys create"):
        SqliteStore(f"sqlite:///{path}")
    with pytest.raises(ConfigurationError, match="not a file"):
        SqliteStore(f"sqlite:///{path.parent}")
    with pytest.raises(ConfigurationError, match="directory"):
        SqliteStore(f"sqlite:///{path.parent}/none/keys.db", create=True)
    assert list(path.parent.iterdir()) == []


def test_the_constructor_opens_nothing(path: Path) -> None:
    """The file is checked but not opened, so a damaged one does not stop the start."""
    path.write_bytes(b"not a database")
    store = SqliteStore(f"sqlite:///{path}")
    with pytest.raises(BackendUnavailable):
        store.get("id")


def test_only_the_owner_may_read_it(store: SqliteStore, path: Path) -> None:
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {"keys.db": 0o600, "keys.db-wal": 0o600, "keys.db-shm": 0o600}
    assert store.warnings() == []


def test_warnings(store: SqliteStore, path: Path) -> None:
    path.chmod(0o644)
    ((code, message, remedy),) = store.warnings()
    assert code == "sqlite_file_mode"
    assert "0644" in message
    assert remedy == f"chmod 600 {path}"


def test_a_group_file_with_the_documented_modes(store: SqliteStore, path: Path) -> None:
    """The documented modes for several users who change keys, 660 and 2770, give no warning."""
    path.parent.chmod(0o2770)
    path.chmod(0o660)
    assert store.warnings() == []
    path.chmod(0o664)
    ((code, _, remedy),) = store.warnings()
    assert (code, remedy) == ("sqlite_file_mode", f"chmod 660 {path}")


def test_a_copy_lacks_the_changes_in_the_log(store: SqliteStore, path: Path) -> None:
    """While a reader delays the checkpoint, ``cp`` copies the old key and ``.backup`` the new one."""
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM keys").fetchall()
        assert store.put(Key("id", name="new", version=2), 1)
        ((code, message, remedy),) = store.warnings()
        shutil.copy(path, path.with_name("copy.db"))
        with (
            closing(sqlite3.connect(path.with_name("backup.db"))) as backup,
            closing(sqlite3.connect(path)) as now,
        ):
            now.backup(backup)
    assert code == "sqlite_log_not_empty"
    assert f"{path}-wal" in message
    assert ".backup" in remedy
    for name, expected in (("copy.db", "old"), ("backup.db", "new")):
        with closing(SqliteStore(f"sqlite:///{path.with_name(name)}")) as copied:
            assert name_of(copied) == expected


def dump(source: sqlite3.Connection) -> Iterator[str]:
    """As ``.dump`` writes it; ``iterdump`` supports virtual tables only since Python 3.11.9."""
    for statement in source.iterdump():
        if statement.startswith("CREATE VIRTUAL TABLE"):
            sql = statement.removesuffix(";").replace("'", "''")
            yield "PRAGMA writable_schema = ON;"
            yield f"INSERT INTO sqlite_master VALUES ('table', 'key_texts', 'key_texts', 0, '{sql}');"
        elif not statement.startswith('INSERT INTO "key_texts" '):
            yield statement


def test_a_restored_dump(store: SqliteStore, path: Path) -> None:
    """``.dump`` omits the version: a server's error says what to do, and the command line does it."""
    assert store.put(Key("id", name="new", version=2), 1)
    restored = path.with_name("restored.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(restored)) as target:
        target.executescript("\n".join(dump(source)))
    with closing(SqliteStore(f"sqlite:///{restored}")) as opened:
        with pytest.raises(BackendUnavailable, match=r"restored from a dump.*check --upgrade"):
            opened.get("id")
        assert opened.upgrade() == f"{restored} was restored from a dump; its version has been set"
        assert opened.upgrade() is None
        assert name_of(opened) == "new"
        assert opened.search(KeyFilter("new"), "", 9) == [opened.get("id")]
        assert opened.put(Key("id", name="newer", version=3), 2)
        cursor = opened.changes(None).cursor
        assert opened.delete("id")
        assert opened.changes(cursor).client_ids == ("id",)
    with closing(sqlite3.connect(restored)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_tables_of_another_program_are_not_a_restored_dump(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE keys (client_id, version, record); CREATE TABLE changes (seq)")
    with closing(SqliteStore(f"sqlite:///{path}")) as opened:
        for attempt in (lambda: opened.get("id"), opened.upgrade):
            with pytest.raises(BackendUnavailable, match="something else"):
                attempt()


@pytest.mark.parametrize("create", [True, False])
def test_the_name_memory_is_not_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, create: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="use memory:"):
        SqliteStore("sqlite:///:memory:", create=create)
    assert list(tmp_path.iterdir()) == []


IN_A_BIND_MOUNT = """
import sys
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BasicAuthError
from basicauth_mw.keys.model import Key

file, empty = (SqliteStore(f"sqlite:///{path}") for path in sys.argv[1:])
print(file.get("id").name)
for change in (
    lambda: file.put(Key("id", name="new", version=2), 1),
    lambda: file.add([Key("other", version=1)]),
    lambda: file.delete("id"),
    lambda: SqliteStore(f"sqlite:///{sys.argv[2]}", create=True),
):
    try:
        change()
    except BasicAuthError as exc:
        print(exc)
print([code for code, _, _ in file.warnings()])
"""


def test_a_file_that_is_mounted_alone_is_not_changed(store: SqliteStore, path: Path) -> None:
    """Two writers with logs in different directories would lose changes or the file. Reading works."""
    container = path.parent / "con tainer"
    container.mkdir()
    mounted, empty = container / "keys.db", container / "empty.db"
    for target in (path.parent / "empty.db", mounted, empty):
        target.touch()
    store.close()
    mount = f"mount --bind {path} '{mounted}' && mount --bind {path.parent}/empty.db '{empty}' && exec \"$@\""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
    done = subprocess.run(
        [
            "unshare",
            *as_root,
            "--mount",
            "sh",
            "-c",
            mount,
            "sh",
            sys.executable,
            "-c",
            IN_A_BIND_MOUNT,
            mounted,
            empty,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    first, *refused, warned = done.stdout.splitlines()
    assert first == "old"
    assert len(refused) == 4
    for said in refused:
        assert "mounted as a single file" in said
        assert "mount its directory instead" in said
    assert "sqlite_file_mounted_alone" in warned
    assert name_of(store) == "old"
    assert (path.parent / "empty.db").stat().st_size == 0


@pytest.mark.proves("F19")
def test_a_path_that_cannot_be_read(store: SqliteStore, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        SqliteStore(f"sqlite:///{path}/keys.db")
    path.unlink()
    with pytest.raises(BackendUnavailable):
        store.warnings()


def test_two_processes_create_at_once(path: Path) -> None:
    script = (
        "import sys;"
        "from basicauth_mw.backends.sqlite.store import SqliteStore;"
        "from basicauth_mw.keys.model import Key;"
        "sys.stdin.readline();"
        "print(SqliteStore(sys.argv[1], create=True).put(Key(sys.argv[2]), None))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"sqlite:///{path}", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for number in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=30)[0] for process in started] == ["True\n"] * 4
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        assert len(store.scan("", "", 10)) == 4


def test_threads_create_at_once(path: Path) -> None:
    made: list[SqliteStore] = []
    in_threads(8, lambda: made.append(SqliteStore(f"sqlite:///{path}", create=True)))
    assert len(made) == 8
    assert made[0].get("id") is None
    made[0].close()


def test_create_fills_an_empty_file(path: Path) -> None:
    path.touch()
    with closing(SqliteStore(f"sqlite:///{path}")) as before:
        with pytest.raises(BackendUnavailable, match="empty"):
            before.get("id")
        with closing(SqliteStore(f"sqlite:///{path}", create=True)) as store:
            assert store.get("id") is None
        assert before.get("id") is None


def test_create_leaves_an_existing_file_unchanged(store: SqliteStore, path: Path) -> None:
    store.close()
    before = path.read_bytes()
    SqliteStore(f"sqlite:///{path}", create=True).close()
    assert path.read_bytes() == before


def alien(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE keys (client_id, version, record)")


def foreign_id(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 42")


def of_version(version: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        SqliteStore(f"sqlite:///{path}", create=True)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")

    return make


@pytest.mark.proves("F18")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (alien, "something else"),
        (foreign_id, "something else"),
        (of_version(0), "no release wrote"),
        (of_version(SCHEMA_VERSION + 1), "newer release"),
        (lambda path: path.write_bytes(b"x" * 5000), "not a database"),
    ],
    ids=["tables", "application-id", "unknown", "newer", "junk"],
)
def test_a_file_that_is_not_ours(make: Callable[[Path], None], message: str, path: Path) -> None:
    make(path)
    before = path.read_bytes()
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        for call in (
            lambda: store.get("id"),
            lambda: store.put(Key("id"), None),
            lambda: store.changes(None),
        ):
            with pytest.raises(BackendUnavailable, match=message):
                call()
    with pytest.raises(ConfigurationError, match=message):
        SqliteStore(f"sqlite:///{path}", create=True)
    assert path.read_bytes() == before
