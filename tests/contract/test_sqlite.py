"""What can happen to a SQLite file, done to a real one."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.auth.cache import VerdictCache
from basicauth_mw.auth.runner import arun, run
from basicauth_mw.auth.verifier import Verifier
from basicauth_mw.backends.reader import StoreReader
from basicauth_mw.backends.sqlite import wal
from basicauth_mw.backends.sqlite.store import CHANGES_KEPT, SqliteStore
from basicauth_mw.errors import BackendUnavailable, ConfigurationError, UnreadableRecord
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import Deny, Key, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOTICED_WITHIN_S = 2.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(f"sqlite:///{path}", deadline_s=0.2, create=True)
    assert opened.put(Key("id", name="old", version=1, secrets=(Secret("$bamw1$canary"),)), None)
    yield opened
    opened.close()


def other_file(directory: Path, name: str, *, keys: int = 1) -> Path:
    """A complete file of ours, closed, with other keys."""
    made = directory / f"{name}.db"
    with closing(SqliteStore(f"sqlite:///{made}", create=True)) as store:
        for number in range(keys):
            store.put(Key(f"id{number or ''}", name=name, version=1), None)
    return made


def eventually(condition: Callable[[], bool]) -> float:
    """Wait until something holds; how many seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + NOTICED_WITHIN_S + 3
        time.sleep(0.02)
    return time.monotonic() - start


def name_of(store: SqliteStore) -> str:
    """The name of the key, or what went wrong."""
    try:
        found = store.get("id")
    except BackendUnavailable:
        return "unavailable"
    return "" if found is None else found.name


def in_threads(count: int, work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


# --- the URL and the file


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


def test_a_copy_lacks_what_is_in_the_log(store: SqliteStore, path: Path) -> None:
    """While a reader holds back the checkpoint, ``cp`` copies the old key; ``.backup`` copies the new one."""
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


def test_a_restored_dump(store: SqliteStore, path: Path) -> None:
    """``.dump`` omits the version: a server says what to do, and the command line does it."""
    assert store.put(Key("id", name="new", version=2), 1)
    restored = path.with_name("restored.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(restored)) as target:
        target.executescript("\n".join(source.iterdump()))
    with closing(SqliteStore(f"sqlite:///{restored}")) as opened:
        with pytest.raises(BackendUnavailable, match=r"restored from a dump.*keys list --limit 1"):
            opened.get("id")
        assert opened.upgrade() == f"{restored} was restored from a dump; its version has been set"
        assert opened.upgrade() is None
        assert name_of(opened) == "new"
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
def test_the_name_memory_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, create: bool) -> None:
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
    """Two writers whose logs are in different directories lose changes, or the file. Reading works."""
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
            cwd=Path(__file__).parents[2],
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
        (of_version(3), "newer release"),
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


# --- what happens to it while it is open


@pytest.mark.proves("F16")
def test_a_replaced_file_is_noticed(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """Also by a thread that read the old one and has been idle since."""
    cursor = store.changes(None).cursor
    go_on, asked, seen = threading.Event(), threading.Event(), []

    def idle() -> None:
        seen.append(name_of(store))
        asked.set()
        go_on.wait(10)
        seen.append(name_of(store))

    thread = threading.Thread(target=idle)
    thread.start()
    assert asked.wait(10)
    assert name_of(store) == "old"

    other_file(tmp_path, "new").rename(path)
    took_s = eventually(lambda: name_of(store) == "new")
    go_on.set()
    thread.join(10)

    assert took_s < NOTICED_WITHIN_S
    assert seen == ["old", "new"]
    assert store.changes(cursor).gap
    assert store.put(Key("id", name="newer", version=2), 1)
    assert name_of(store) == "newer"


@pytest.mark.proves("F16")
def test_the_change_feed_notices_a_replaced_file_at_once(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    """Lookups read the new file from then on."""
    new = other_file(tmp_path, "new")
    cursor = store.changes(None).cursor
    assert name_of(store) == "old"
    new.rename(path)
    assert store.changes(cursor).gap
    assert name_of(store) == "new"


@pytest.mark.proves("F16")
def test_a_process_closes_a_replaced_file_as_a_whole(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """Every store in it that has the file open, since SQLite's locks on the log belong to the process.

    A store that closed the old file later would drop the locks that the others hold by then, and they would
    read an index that another process truncates: SIGBUS.
    """
    with closing(SqliteStore(f"sqlite:///{path}")) as idle, closing(SqliteStore(f"sqlite:///{path}")) as busy:
        assert name_of(idle) == name_of(busy) == name_of(store) == "old"
        other_file(tmp_path, "new").rename(path)
        assert open_files(path, gone=True) > 0
        begun, go_on = threading.Event(), threading.Event()

        def ask(_execute: object) -> None:
            begun.set()
            go_on.wait(10)

        thread = threading.Thread(target=busy._connections.read, args=(ask,))
        thread.start()
        assert begun.wait(10)
        with pytest.raises(BlockingIOError, match="still reads the old file"):
            store._connections.read(lambda _execute: None, compare=True)
        go_on.set()
        thread.join(10)
        store.changes(None)

        assert open_files(path, gone=True) == 0
        assert name_of(store) == name_of(idle) == name_of(busy) == "new"
        store.changes(None)
        idle.changes(None)
        before = open_files(path)
        store.changes(None)
        assert open_files(path) == before  # who has the new one is left alone


HOLDS = """
import sys
from basicauth_mw.backends.sqlite.store import SqliteStore
store = SqliteStore(sys.argv[1])
print(store.get("id").name, flush=True)
sys.stdin.readline()
"""


def is_refused(store: SqliteStore) -> bool:
    try:
        store.get("id299")
    except BackendUnavailable as exc:
        return "if it was just replaced, wait" in str(exc)
    return False


@pytest.mark.proves("F16")
@pytest.mark.parametrize("first", ["get", "put"])
def test_a_replaced_file_that_is_still_open_elsewhere(
    store: SqliteStore, path: Path, tmp_path: Path, first: str
) -> None:
    """The log of the old one is still there, and describes fewer pages than the new one has."""
    new = other_file(tmp_path, "new", keys=300)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, f"sqlite:///{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "old\n"
    assert store.put(Key("by the log"), None)
    store.close()
    new.rename(path)
    with closing(SqliteStore(f"sqlite:///{path}")) as opened:
        # Newer releases may refuse, with the log of the old file in place, until the other lets go.
        if sqlite3.sqlite_version_info >= (3, 41) and is_refused(opened):
            other.communicate("end\n", timeout=30)
        if first == "put":
            assert opened.put(Key("id", name="newer", version=2), 1)
        else:
            assert opened.get("id299") is not None
        assert len(opened.scan("", "", 1000)) == 300
    if other.poll() is None:
        other.communicate("end\n", timeout=30)


def test_a_file_that_is_replaced_during_a_change_is_noticed(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    new = other_file(tmp_path, "new")
    store._connections.write(lambda _execute: new.rename(path))
    assert eventually(lambda: name_of(store) == "new") < NOTICED_WITHIN_S


@pytest.mark.proves("F16")
def test_an_overwritten_file_is_noticed(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """As ``cp backup.db keys.db`` does, which keeps the inode; the copy is larger."""
    assert name_of(store) == "old"
    shutil.copyfile(other_file(tmp_path, "new", keys=100), path)
    assert eventually(lambda: name_of(store) == "new") < NOTICED_WITHIN_S
    assert len(store.scan("", "", 1000)) == 100


def test_a_cursor_does_not_outlive_an_overwritten_file(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    """Its number may exist in the other file, and the inode is the same."""
    store.put(Key("second"), None)
    cursor = store.changes(None).cursor
    shutil.copyfile(other_file(tmp_path, "new", keys=100), path)
    eventually(lambda: name_of(store) == "new")
    assert store.changes(cursor).gap


@pytest.mark.proves("F16")
@pytest.mark.parametrize("change", ["put", "add"])
def test_a_cursor_does_not_outlive_a_restored_backup(store: SqliteStore, path: Path, change: str) -> None:
    """The inode and all changes up to the backup are the same, but those after it are gone."""
    backup = path.read_bytes()
    if change == "put":
        assert store.put(Key("gone"), None)
    else:
        assert store.add([Key("gone")]) == [True]
    cursor = store.changes(None).cursor
    assert not store.changes(cursor).gap
    path.write_bytes(backup)
    eventually(lambda: store.get("gone") is None)
    assert store.put(Key("other"), None)
    assert store.changes(cursor).gap


def test_a_copy_is_complete_without_its_log(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """Every change is in the file itself."""
    copied = tmp_path / "copy.db"
    shutil.copyfile(path, copied)
    with closing(SqliteStore(f"sqlite:///{copied}")) as copy:
        assert name_of(copy) == "old"


@pytest.fixture
def link(path: Path) -> Path:
    """In a directory of its own."""
    made = path.parent / "links" / "linked.db"
    made.parent.mkdir()
    made.symlink_to(path)
    return made


def test_a_link_that_is_changed_is_noticed(
    store: SqliteStore, path: Path, link: Path, tmp_path: Path
) -> None:
    with closing(SqliteStore(f"sqlite:///{link}")) as linked:
        assert name_of(linked) == "old"
        cursor = linked.changes(None).cursor
        link.unlink()
        link.symlink_to(other_file(tmp_path, "new"))
        assert eventually(lambda: name_of(linked) == "new") < NOTICED_WITHIN_S
        assert linked.changes(cursor).gap
        assert linked.put(Key("id", name="newer", version=2), 1)
        link.unlink()
        link.symlink_to(link)
        assert eventually(lambda: name_of(linked) == "unavailable") < NOTICED_WITHIN_S
        link.unlink()
        link.symlink_to(path)
        assert eventually(lambda: name_of(linked) == "old") < NOTICED_WITHIN_S


def test_the_log_of_a_linked_file(store: SqliteStore, link: Path) -> None:
    """The error names the directory of the file, not that of the link."""
    with closing(SqliteStore(f"sqlite:///{link}")) as linked:
        assert name_of(linked) == "old"
        assert [each.name for each in link.parent.iterdir()] == [link.name]
        assert linked.warnings() == []


ELSEWHERE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("UPDATE keys SET record = replace(record, 'old', 'new')")
print("changed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("through", ["path", "link"])
def test_a_removed_log_is_noticed(
    store: SqliteStore, path: Path, through: str, request: pytest.FixtureRequest
) -> None:
    """Other processes then write to a new one, and the file itself stays as it was."""
    store.close()
    with closing(SqliteStore(f"sqlite:///{request.getfixturevalue(through)}")) as opened:
        log = path.with_name("keys.db-wal")
        eventually(lambda: name_of(opened) == "old" and opened._connections._log == log.stat().st_ino)
        before = path.stat()
        held = log.open("rb")  # so that the new one has another inode
        log.unlink()
        path.with_name("keys.db-shm").unlink()
        other = subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "changed\n"
        after = path.stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
            before.st_ino,
            before.st_size,
            before.st_mtime_ns,
        )
        assert eventually(lambda: name_of(opened) == "new") < NOTICED_WITHIN_S
        other.communicate("end\n", timeout=30)
        held.close()


@pytest.mark.proves("F17")
@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: os.truncate(path, 0)], ids=["missing", "emptied"]
)
def test_a_missing_file_that_comes_back(
    store: SqliteStore, path: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    assert name_of(store) == "old"
    damage(path)
    assert eventually(lambda: name_of(store) == "unavailable") < NOTICED_WITHIN_S
    with pytest.raises(BackendUnavailable):
        store.put(Key("x"), None)
    assert not path.exists() or path.stat().st_size == 0
    other_file(tmp_path, "new").rename(path)
    assert eventually(lambda: name_of(store) == "new") < NOTICED_WITHIN_S


@pytest.mark.proves("F18")
def test_damage_is_an_outage_until_it_is_repaired(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    store.close()
    good = path.read_bytes()
    for damaged in (
        b"\0" * len(good),
        good[:100],
        good[: len(good) // 2],
        good[:200] + b"\xff" * 8000,
        b"junk",
    ):
        path.write_bytes(damaged)
        assert eventually(lambda: name_of(store) == "unavailable") < NOTICED_WITHIN_S
    path.write_bytes(good)
    assert eventually(lambda: name_of(store) == "old") < NOTICED_WITHIN_S


def test_a_damaged_record_is_not_an_unknown_id(store: SqliteStore, path: Path) -> None:
    assert store.put(Key("good"), None)
    assert store.get("id") is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE keys SET record = '{}' WHERE client_id = 'id'")
        with pytest.raises(UnreadableRecord):
            store.get("id")
        connection.execute("UPDATE keys SET record = x'ff00' WHERE client_id = 'id'")
        with pytest.raises(UnreadableRecord):
            store.get("id")
    assert store.get("good") is not None


@pytest.mark.proves("F18")
@pytest.mark.parametrize("name", ["7", "null", '["a"]'])
def test_damage_beside_the_hashes_accepts_nothing(path: Path, name: str) -> None:
    """It is an outage for the right secret and for reading the key; a guess is refused as always."""
    with closing(open_backend(f"sqlite:///{path}", settings=Settings(), create=True)) as backend:
        issued = backend.create(name="damaged", metadata={"long": "x" * 1000})
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE keys SET record = replace(record, '\"damaged\"', ?)", (name,))
        verifier = Verifier(backend.hasher, VerdictCache(30.0, 10))
        reader = StoreReader(backend.store, deadline_s=5.0, slow_hash_workers=1)
        reasons = []
        for secret in (issued.secret, generate("sk")):
            field = encode_basic(issued.client_id, secret).encode()
            for decision in (
                run(verifier.parse(field), reader),
                asyncio.run(arun(verifier.parse(field), reader)),
            ):
                assert isinstance(decision, Deny)
                reasons.append(decision.reason)
        assert reasons == ["backend_unavailable"] * 2 + ["wrong_secret"] * 2
        with pytest.raises(UnreadableRecord):
            backend.get(issued.client_id)
        with pytest.raises(UnreadableRecord):
            asyncio.run(backend.aget(issued.client_id))
        with pytest.raises(UnreadableRecord):
            backend.disable(issued.client_id)
        assert backend.delete(issued.client_id).name == ""
        assert backend.get(issued.client_id) is None


def test_metadata_is_not_shared_between_lookups(store: SqliteStore) -> None:
    assert store.put(Key("meta", metadata={"a": 1}), None)
    found: Any = store.get("meta")
    found.metadata["a"] = 2
    again = store.get("meta")
    assert again is not None
    assert again.metadata == {"a": 1}


def damage(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql, values)


NO_TEXT = "CAST(CAST(replace(record, 'old', 'o') AS BLOB) || x'a4' AS TEXT)"


@pytest.mark.parametrize("record", [NO_TEXT, "x'ff00'", "'{'", "''"], ids=["text", "blob", "cut", "empty"])
def test_a_damaged_record_affects_one_client(store: SqliteStore, path: Path, record: str) -> None:
    """Whatever its bytes are: the other keys work, it can be deleted, and no hash is in the error."""
    assert store.put(Key("later"), None)
    damage(path, f"UPDATE keys SET record = {record} WHERE client_id = 'id'")
    line = store._connections._connections.get().raw
    for call in (store.get, store.get_nowait, lambda _: store.scan("", "", 10)):
        with pytest.raises(UnreadableRecord) as caught:
            call("id")
        assert caught.value.client_id == "id"
        assert "canary" not in f"{caught.value} {caught.value.__cause__}"
    assert [key.client_id for key in store.scan("", "id", 10)] == ["later"]
    assert store.put(Key("later", name="changed", version=1), 0)
    assert store._connections._connections.get().raw is line is not None
    assert store.delete("id")
    assert [key.client_id for key in store.scan("", "", 10)] == ["later"]


def test_a_missing_record_is_not_an_unknown_id(store: SqliteStore, path: Path) -> None:
    """One changed byte of its row can cause it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'record TEXT NOT NULL', 'record TEXT')"
        )
    damage(path, "UPDATE keys SET record = NULL")
    with pytest.raises(UnreadableRecord):
        store.get("id")


def test_a_damaged_client_id_hides_no_other_key(store: SqliteStore, path: Path) -> None:
    """It is skipped, and the administrator is warned."""
    for number in range(3):
        assert store.put(Key(f"k{number}"), None)
    cursor = store.changes(None).cursor
    damage(path, "UPDATE keys SET client_id = CAST(x'6bff' AS TEXT) WHERE client_id = 'k1'")
    assert store.put(Key("ké"), None)
    assert [key.client_id for key in store.scan("k", "", 2)] == ["k0", "k2"]
    assert [key.client_id for key in store.scan("k", "k2", 2)] == ["ké"]
    assert [key.client_id for key in store.scan("", "", 9)] == ["id", "k0", "k2", "ké"]
    ((code, message, _),) = store.warnings()
    assert code == "sqlite_damaged_ids"
    assert "(1)" in message
    damage(path, "UPDATE changes SET client_id = CAST(x'ff' AS TEXT) WHERE client_id = 'ké'")
    assert store.changes(cursor).gap
    assert not store.changes(store.changes(cursor).cursor).gap


def test_the_drivers_message_is_not_passed_on(store: SqliteStore) -> None:
    """Without an error code of SQLite it may contain stored text."""

    def fail(_execute: object) -> None:
        raise sqlite3.OperationalError("Could not decode to UTF-8 column 'record' with text '$bamw1$canary'")

    for call in (store._connections.read, store._connections.write):
        with pytest.raises(BackendUnavailable, match="OperationalError") as caught:
            call(fail)
        assert "canary" not in str(caught.value)


def test_errors_contain_no_hash(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE keys SET record = replace(record, '\"v\":1', '\"v\":9')")
    with pytest.raises(UnreadableRecord) as caught:
        store.get("id")
    assert "canary" not in str(caught.value)


# --- locks


@pytest.mark.proves("F13")
def test_a_locked_file(store: SqliteStore, path: Path) -> None:
    """At once for a caller that must not wait, at the deadline for one that may, and never a wrong result."""
    store.get("id")
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("PRAGMA locking_mode = EXCLUSIVE")
        locker.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        with pytest.raises(BlockingIOError):
            store.get_nowait("id")
        assert time.monotonic() - start < 0.1
        with pytest.raises(BackendUnavailable, match="locked"):
            store.get("id")
        assert 0.15 < time.monotonic() - start < 1
        locker.execute("ROLLBACK")
    assert name_of(store) == "old"


def test_one_thread_compares_the_file_at_a_time(store: SqliteStore) -> None:
    store.close()
    store._connections._compare_at = float("-inf")
    with store._connections._comparing, pytest.raises(BlockingIOError):
        store.get_nowait("id")
    assert store.get_nowait("id") is not None


@pytest.mark.proves("F13")
def test_get_waits_for_a_short_lock(store: SqliteStore, path: Path) -> None:
    store.close()
    patient = SqliteStore(f"sqlite:///{path}", deadline_s=5)
    found: list[Key | None] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("PRAGMA locking_mode = EXCLUSIVE")
        locker.execute("BEGIN EXCLUSIVE")
        reader = threading.Thread(target=lambda: found.append(patient.get("id")))
        reader.start()
        with pytest.raises(BlockingIOError):
            patient.get_nowait("id")
    reader.join(10)
    assert found[0] is not None
    patient.close()


@pytest.mark.proves("F14")
def test_a_writer_does_not_delay_readers(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE keys SET record = 'x'")
        assert store.get_nowait("id") is not None
        writer.execute("ROLLBACK")


@pytest.mark.proves("F15")
def test_a_failed_write_leaves_no_trace(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON changes BEGIN SELECT raise(ABORT, 'disk full'); END"
        )
        with pytest.raises(BackendUnavailable):
            store.put(Key("id", name="new", version=2), 1)
        with pytest.raises(BackendUnavailable):
            store.delete("id")
        connection.execute("DROP TRIGGER full")
    assert name_of(store) == "old"
    assert store.put(Key("id", name="new", version=2), 1)


WRITES: dict[str, Callable[[SqliteStore], object]] = {
    "put": lambda store: store.put(Key("new"), None),
    "add": lambda store: store.add([Key("new")]),
    "delete": lambda store: store.delete("id"),
    "upgrade": lambda store: store.upgrade(),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_change_is_on_disk_before_it_is_reported(
    store: SqliteStore, path: Path, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this build of SQLite defaults to: some write to the disk later in WAL mode."""
    store.close()
    if write == "upgrade":
        shutil.copyfile(Path(__file__).parents[1] / "data" / "sqlite-v1.db", path)
    statements: list[str] = []
    connect = wal.connect

    def lazy(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA synchronous = OFF")
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(wal, "connect", lazy)
    assert WRITES[write](store)
    begin = statements.index("BEGIN IMMEDIATE")
    assert "COMMIT" in statements[begin:]
    assert [each for each in statements[:begin] if "synchronous" in each] == ["PRAGMA synchronous = FULL"]
    assert not any("synchronous" in each for each in statements[begin:])


def test_old_changes_are_pruned(store: SqliteStore, path: Path) -> None:
    start = store.changes(None).cursor
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO changes (client_id) SELECT 'other' FROM n",
            (CHANGES_KEPT + 10,),
        )
        middle = store.changes(None).cursor
        assert store.put(Key("id", version=2), 1)
        assert connection.execute("SELECT count(*) FROM changes").fetchone() == (CHANGES_KEPT,)
    assert store.changes(start).gap
    assert store.changes(middle).client_ids == ("id",)


def test_prefix_and_page_use_the_index(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT client_id, record FROM keys WHERE client_id > CAST(? AS TEXT) "
            "AND client_id >= CAST(? AS TEXT) AND client_id < CAST(? AS TEXT) ORDER BY client_id LIMIT ?",
            (b"", b"a", b"b", 5),
        ).fetchall()
    assert len(plan) == 1
    assert "SEARCH keys USING INDEX" in plan[0][3]


# --- threads and processes


def open_files(path: Path, *, gone: bool = False) -> int:
    """How many descriptors of this process are open on a file; gone: on those that were there before."""
    targets = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(each.readlink()))
        except OSError:
            continue
    return targets.count(f"{path} (deleted)" if gone else str(path))


@pytest.mark.proves("F20")
def test_threads_leave_nothing_open(store: SqliteStore, path: Path) -> None:
    store.get("id")
    for _ in range(10):
        in_threads(4, lambda: store.get("id"))
        # SQLite keeps a closed connection's descriptor for the next one while another holds a lock.
        assert open_files(path) <= 1 + 4
    assert len(store._connections._connections.values()) == 1
    store.close()
    assert open_files(path) == 0


def test_a_collected_store_closes(path: Path) -> None:
    store = SqliteStore(f"sqlite:///{path}", create=True)
    store.get("id")
    del store
    gc.collect()
    assert open_files(path) == 0


def test_close_while_others_read(store: SqliteStore) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                assert store.get("id") is not None
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        store.close()
        time.sleep(0.005)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not failures


@pytest.mark.proves("X55", "F31")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(store: SqliteStore) -> None:
    """It leaves those of every thread of its parent alone."""
    go_on, asked = threading.Event(), threading.Event()
    seen: list[str] = []

    def other() -> None:
        seen.append(name_of(store))
        asked.set()
        go_on.wait(30)
        seen.append(name_of(store))

    thread = threading.Thread(target=other)
    thread.start()
    assert asked.wait(10)
    assert name_of(store) == "old"

    def child() -> None:
        assert name_of(store) == "old"
        in_threads(2, lambda: store.get("id"))
        assert store.put(Key("id", name="child", version=2), 1)
        store.close()
        gc.collect()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    go_on.set()
    thread.join(10)

    assert process.exitcode == 0
    assert name_of(store) == "child"
    assert seen == ["old", "child"]
    assert store.put(Key("id", name="parent", version=3), 2)


def test_a_prefix_is_searched_in_the_index(path: Path) -> None:
    """The time of a page does not grow with the keys before it."""
    with closing(SqliteStore(f"sqlite:///{path}", create=True)) as store:
        asked: list[str] = []
        store.scan("x", "", 1)
        execute = store._connections._connections.get().raw.execute  # type: ignore[union-attr]
        execute("SELECT 1")
        store._connections._connections.get().raw.set_trace_callback(asked.append)  # type: ignore[union-attr]
        for prefix, after in (("x", ""), ("x", "xa"), ("", "xa"), ("", "")):
            store.scan(prefix, after, 10)
        queries = [query for query in asked if query.startswith("SELECT client_id, record")]
        assert len(queries) == 4
        for query in queries:
            assert query.count(">") == 1
            (plan,) = execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert b"SEARCH keys USING INDEX" in plan[3]
