"""A server with read access only: it never blocks users with write access.

If the tests run as root, owner and reader are different users. Otherwise the reader's check for write access
is overridden.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends.sqlite import checks, connections, wal
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.backends.sqlite.wal import (
    UnchangedFile,
    index_of,
    log_of,
    open_watched,
    share_logs,
    unwritable_logs,
)
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
OWNER, READER, GROUP = 61_001, 61_002, 61_003
IS_ROOT = os.geteuid() == 0

# Evaluates each line of stdin and prints the result.
USER = """
import json, os, sqlite3, sys, time
from contextlib import closing
from dataclasses import replace
from basicauth_mw.backends.sqlite import checks, wal
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key

path, user, group, may_write = sys.argv[1], *map(int, sys.argv[2:])
if os.geteuid() == 0:
    os.setgroups([group])
    os.setgid(user)
    os.setuid(user)
elif not may_write:
    wal.may_write = checks.may_write = lambda _path: False
store = SqliteStore(f"sqlite:///{path}", deadline_s=2)

def version():
    return store.get("id").version

def change():
    key = store.get("id")
    return store.put(replace(key, version=key.version + 1), key.version)

def follow(seconds):
    '''All versions that were read.'''
    seen, end = [version()], time.monotonic() + seconds
    while time.monotonic() < end:
        if (now := version()) != seen[-1]:
            seen.append(now)
    return seen

def write(sql, *values):
    '''Write to the write-ahead log only.'''
    version()
    return store._connections._connections.get().raw.execute(sql, values).rowcount

def hold():
    '''Keep a connection open, as an earlier release did.'''
    global held
    held = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)
    return held.execute("SELECT version FROM keys").fetchone()[0]

for line in sys.stdin:
    try:
        result = eval(line)
    except BackendUnavailable as exc:
        result = str(exc)
    print(json.dumps(result), flush=True)
store.close()
"""


class User:
    """A process of one user."""

    def __init__(self, path: Path, user: int, *, may_write: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", USER, str(path), *map(str, (user, GROUP, int(may_write)))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def begin(self, expression: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{expression}\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def __call__(self, expression: str) -> Any:
        self.begin(expression)
        return self.end()

    def leave(self) -> None:
        self._process.communicate(timeout=30)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=30)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def path() -> Iterator[Path]:
    """A file that its owner can write and its group can read, in a directory where both can create files."""
    directory = Path(tempfile.mkdtemp(prefix="basicauth-readers-"))
    made = directory / "keys.db"
    with closing(SqliteStore(f"sqlite:///{made}", create=True)) as store:
        assert store.put(Key("id", version=1), None)
    for each, mode in ((made, 0o640), (directory, 0o2770)):
        if IS_ROOT:
            os.chown(each, OWNER, GROUP)
        each.chmod(mode)
    time.sleep(0.05)  # a file that was just changed is not read immediately
    yield made
    shutil.rmtree(directory)


@pytest.fixture
def owner(path: Path, stack: ExitStack) -> User:
    user = User(path, OWNER, may_write=True)
    stack.callback(user.kill)
    return user


@pytest.fixture
def reader(path: Path, stack: ExitStack) -> User:
    user = User(path, READER, may_write=False)
    stack.callback(user.kill)
    return user


def files_next_to(path: Path) -> list[str]:
    """The files that were created next to the file."""
    return sorted(each.name.removeprefix(path.name) for each in path.parent.iterdir() if each != path)


@pytest.mark.proves("F19")
def test_a_reader_creates_no_log(path: Path, owner: User, reader: User) -> None:
    """So the owner can change keys during and after its reads, which see the changes at once."""
    assert reader(
        "[version(), len(store.scan('', '', 9)), store.changes(None).incomplete, store.upgrade()]"
    ) == [*(1, 1, False, None)]
    assert files_next_to(path) == []
    assert owner("change()") is True
    owner.leave()
    assert files_next_to(path) == []
    assert reader("version()") == 2
    reader.leave()
    assert files_next_to(path) == []


def test_a_reader_that_opens_first_last_or_in_between(path: Path, owner: User, reader: User) -> None:
    """It never reads anything older than the last reported change."""
    assert reader("version()") == 1
    for number in range(2, 8):
        assert owner("change()") is True
        assert reader("version()") == number
        if number % 2:
            owner("store.close()")
    assert reader("store.changes(None).cursor == store.changes(store.changes(None).cursor).cursor") is True


def test_a_reader_notices_changes(owner: User, reader: User) -> None:
    cursor = reader("store.changes(None).cursor")
    assert owner("change()") is True
    assert reader(f"store.changes({cursor!r}).client_ids") == ["id"]
    assert reader(f"store.changes({cursor!r}).incomplete") is False


# Like Litestream: it keeps a read transaction open so that no other process truncates the log, checkpoints
# the log itself, and writes to its own tables.
REPLICATOR = """
import os, sqlite3, sys, time
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[2]))
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
connection.execute("CREATE TABLE _litestream_lock (id INTEGER)")
print("ready", flush=True)
while True:
    connection.execute("BEGIN")
    connection.execute("SELECT COUNT(1) FROM _litestream_seq").fetchall()
    time.sleep(0.05)
    connection.execute("ROLLBACK")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    connection.execute(
        "INSERT INTO _litestream_seq VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET seq = seq + 1"
    )
"""


@pytest.fixture
def replicator(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", REPLICATOR, str(path), str(OWNER), str(GROUP)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_file_that_is_replicated(
    path: Path, owner: User, reader: User, replicator: subprocess.Popen[str]
) -> None:
    """Every change is made and noticed while another program holds and checkpoints the log."""
    cursor = reader("store.changes(None).cursor")
    for number in range(2, 32):
        assert owner("change()") is True
        assert owner("version()") == number
        assert reader("version()") == number
    changes = reader(f"[store.changes({cursor!r}).client_ids, store.changes({cursor!r}).incomplete]")
    assert changes == [["id"] * 30, False]
    assert replicator.poll() is None
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("closes", ["", "store.close() or "], ids=["open", "closed"])
def test_a_reader_of_a_file_that_changes_all_the_time(owner: User, reader: User, closes: str) -> None:
    """Every result is one state of the file, and none is older than the one before."""
    assert owner("change()") is True
    reader.begin("follow(3)")
    owner.begin(f"[time.sleep(0.03) or {closes}change() for _ in range(60)].count(True)")
    seen = reader.end()
    assert isinstance(seen, list), seen
    assert owner.end() == 60
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert reader("version()") == 62


def test_changes_that_are_only_in_the_log(path: Path, owner: User, reader: User) -> None:
    """They were left by a process that was killed before the checkpoint."""
    assert reader("version()") == 1
    assert owner("write('UPDATE keys SET record = replace(record, ?, ?)', '\"n\":1', '\"n\":7')") == 1
    owner.kill()
    assert files_next_to(path) == ["-shm", "-wal"]
    assert reader("version()") == 7
    reader("store.close()")
    assert reader("version()") == 7
    path.with_name("keys.db-shm").rename(path.with_name("kept"))
    reader("store.close()")
    assert "with write access can:  basicauth-mw keys list" in reader("version()")
    assert files_next_to(path) == ["-wal", "kept"]
    with closing(SqliteStore(f"sqlite:///{path}")) as store:  # as that command does
        assert len(store.scan("", "", 1)) == 1
    assert reader("time.sleep(0.05) or version()") == 7


@pytest.mark.proves("F19")
def test_a_log_without_read_access(path: Path, owner: User, reader: User) -> None:
    """The error names it and says what to do."""
    assert owner("write('DELETE FROM keys')") == 1
    log = path.with_name("keys.db-wal")
    assert log.stat().st_size
    log.chmod(0)
    said = reader("version()")
    assert f"may not read {log}" in said
    assert said.rpartition(":  ")[2] == f"chown --reference={path} {log} && chmod g+s {path.parent}"


def test_the_owner_is_warned_of_another_users_logs(path: Path, owner: User, reader: User) -> None:
    """A reader of an earlier release created them. The remedy works while they are in use."""
    assert reader("hold()") == 1
    logs = [path.with_name("keys.db-wal"), path.with_name("keys.db-shm")]
    if not IS_ROOT:
        for log in logs:
            log.chmod(0o440)
    said = owner("change()")
    assert "keys cannot be changed" in said
    warned = [(code, remedy) for code, _, remedy in owner("store.warnings()")]
    command = said.rpartition(":  ")[2]
    assert warned[-1] == ("sqlite_log_not_writable", f"as root, run  {command}")
    subprocess.run(command, shell=True, check=True)
    assert owner("change()") is True
    assert reader("held.execute('SELECT version FROM keys').fetchall()") == [[2]]
    assert "sqlite_log_not_writable" not in str(owner("store.warnings()"))


@pytest.mark.parametrize("group", [GROUP, None])
def test_logs_have_the_group_of_the_file(path: Path, stack: ExitStack, group: int | None) -> None:
    """Even if the directory does not ensure it, so that every user who can write the file can write them."""
    path.chmod(0o660)
    path.parent.chmod(0o777)
    if IS_ROOT and group is None:
        os.chown(path, OWNER, 0)  # not a group of the user: the store cannot set it, and does not fail
        path.chmod(0o666)
    user = User(path, READER, may_write=True)
    stack.callback(user.kill)
    assert user("change()") is True
    for name in ("keys.db-wal", "keys.db-shm"):
        found = path.with_name(name).stat()
        assert found.st_gid == (path.stat().st_gid if group or not IS_ROOT else READER)
        assert stat.S_IMODE(found.st_mode) == stat.S_IMODE(path.stat().st_mode)


# --- in this process, with the check for write access overridden


@pytest.fixture
def reading(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
    monkeypatch.setattr(wal, "may_write", lambda _path: False)
    with closing(SqliteStore(f"sqlite:///{path}", deadline_s=0.5)) as store:
        yield store


def rewrite(path: Path, *values: object) -> None:
    """A change by another connection, checkpointed at once."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE keys SET record = replace(record, ?, ?)", values)


def test_a_journal_that_was_left_behind_is_an_outage(path: Path, reading: SqliteStore) -> None:
    """The file may contain a partial transaction. A user with write access rolls it back."""
    assert reading.get("id") is not None
    leave_journal = (
        "import os, signal, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA journal_mode = DELETE')\n"
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('BEGIN')\n"
        "connection.execute('UPDATE keys SET version = 7')\n"
        "connection.execute('CREATE TABLE filler AS SELECT zeroblob(100000)')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", leave_journal, str(path)], check=False, timeout=30)
    assert path.with_name("keys.db-journal").stat().st_size > 0
    with pytest.raises(BackendUnavailable, match=r"keys\.db-journal was left by a write that did not finish"):
        reading.get("id")
    with pytest.raises(BackendUnavailable, match=r"keys\.db-journal"):
        reading.changes(None)

    with closing(sqlite3.connect(path)) as writer:
        assert writer.execute("SELECT version FROM keys").fetchone() == (1,)
    found = reading.get("id")
    assert found is not None
    assert found.version == 1


def test_an_outdated_result_is_discarded(path: Path, reading: SqliteStore) -> None:
    """Even one that was read before the change was reported."""
    assert reading.get("id") is not None
    with pytest.raises(BlockingIOError):
        reading._connections.read(lambda _execute: rewrite(path, '"n":1', '"n":2'))
    with pytest.raises(BlockingIOError):  # too soon to detect another change
        reading.get_nowait("id")
    found = reading.get("id")
    assert found is not None
    assert found.version == 2


def test_an_error_of_a_file_that_has_changed_is_discarded(
    path: Path, reading: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(_execute: object) -> None:
        rewrite(path, '"n":1', '"n":2')
        raise sqlite3.DatabaseError("database disk image is malformed")

    with pytest.raises(BlockingIOError):
        reading._connections.read(torn)

    def other(_connection: object) -> None:
        rewrite(path, '"n":2', '"n":3')
        raise BackendUnavailable("the SQLite file holds something else")

    time.sleep(0.05)
    with monkeypatch.context() as patched:
        patched.setattr(connections, "check_is_current", other)
        with pytest.raises(BlockingIOError):
            reading._connections.read(torn)
    found = reading.get("id")
    assert found is not None
    assert found.version == 3


@pytest.mark.proves("F16")
def test_a_reader_notices_a_replaced_file(path: Path, reading: SqliteStore) -> None:
    cursor = reading.changes(None).cursor
    new = path.with_name("new.db")
    shutil.copyfile(path, new)
    rewrite(new, '"n":1', '"n":5')
    new.rename(path)
    found = reading.get("id")
    assert found is not None
    assert found.version == 5
    assert reading.changes(cursor).incomplete
    path.unlink()
    with pytest.raises(BackendUnavailable):
        reading.get("id")
    with pytest.raises(BlockingIOError):
        UnchangedFile(path)


@pytest.mark.parametrize("is_mine", [True, False])
def test_a_log_that_is_removed_as_it_is_opened(
    path: Path, reading: SqliteStore, monkeypatch: pytest.MonkeyPatch, is_mine: bool
) -> None:
    """SQLite then creates one; the store removes it unless another process created it."""
    os.chown(path, os.geteuid(), os.getegid())  # logs that root creates belong to the file's owner
    log = path.with_name("keys.db-wal")
    log.write_bytes(b"x")
    path.with_name("keys.db-shm").touch()
    connect = wal.connect

    def late(*args: Any, **options: Any) -> sqlite3.Connection:
        log.rename(path.with_name("gone"))
        return connect(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(wal, "connect", late)
        if not is_mine:
            patched.setattr(os, "geteuid", lambda: -1)
        with pytest.raises(BlockingIOError):
            open_watched(path)
    assert files_next_to(path) == ["-shm", *([] if is_mine else ["-wal"]), "gone"]
    path.with_name("keys.db-shm").unlink()
    assert reading.get("id") is not None


def test_a_log_that_cannot_be_opened(path: Path, reading: SqliteStore) -> None:
    for name in ("keys.db-wal", "keys.db-shm"):
        path.with_name(name).mkdir()
    with pytest.raises(BackendUnavailable, match="SQLite cannot use the file"):
        reading.get("id")


def test_the_log_is_read(
    path: Path, reading: SqliteStore, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the error says which user can help."""
    writer = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    writer.execute("UPDATE keys SET record = replace(record, ?, ?)", ('"n":1', '"n":2'))
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_args, **_options: False)
        with pytest.raises(BackendUnavailable, match=r"may not read .*keys\.db-wal.*:  chown"):
            reading.get("id")
    found = reading.get("id")
    assert found is not None
    assert found.version == 2
    reading.close()
    path.with_name("keys.db-shm").rename(path.with_name("kept"))
    with pytest.raises(BackendUnavailable, match="leftover log"):
        reading.get("id")
    path.with_name("kept").rename(path.with_name("keys.db-shm"))


def test_unwritable_files_are_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, to a user who can write only to the file."""
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        assert store.get("id") is not None
        for module in (wal, checks):
            monkeypatch.setattr(module, "may_write", lambda checked: checked == path)
        remedies = {code: remedy for code, _, remedy in store.warnings()}
        assert set(remedies) == {"sqlite_directory_not_writable", "sqlite_log_not_writable"}
        command = remedies["sqlite_log_not_writable"].removeprefix("as root, run  ")
        assert command.startswith(f"chown --reference={path} {path}-wal {path}-shm")
        refused = sqlite3.OperationalError("attempt to write a readonly database")
        assert str(wal.backend_error(refused, path)).endswith(f"root can fix it:  {command}")


def test_a_log_of_this_process_gets_the_group_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(path, os.geteuid(), -1)
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        assert store.get("id") is not None
        given: list[tuple[Path, int, int]] = []
        monkeypatch.setattr(os, "chown", lambda *call, follow_symlinks: given.append(call))
        group = path.stat().st_gid
        share_logs(path)
        assert given == []
        stat_of = Path.lstat

        def of_another_group(checked: Path) -> os.stat_result:
            found = list(stat_of(checked))
            found[stat.ST_GID] += checked != path
            return os.stat_result(found)

        monkeypatch.setattr(Path, "lstat", of_another_group)
        share_logs(path)
        monkeypatch.undo()
    assert given == [(path.with_name(f"keys.db{end}"), -1, group) for end in ("-wal", "-shm")]


def test_links_in_place_of_the_log_are_left_alone(path: Path, tmp_path: Path) -> None:
    """A user with write access to the directory can plant one; its target is not changed, and no advice
    changes it.
    """
    victim = tmp_path / "victim"
    victim.write_bytes(b"x")
    victim.chmod(0o600)
    if IS_ROOT:  # only root can give the file a group that this process is not in
        os.chown(path, -1, 12345)
    before = victim.stat()
    log, index = log_of(path), index_of(path)
    for link in (log, index):
        link.unlink(missing_ok=True)
        link.symlink_to(victim)
    group = log.lstat().st_gid
    share_logs(path)

    assert (victim.stat().st_gid, victim.stat().st_mode) == (before.st_gid, before.st_mode)
    assert log.lstat().st_gid == group
    found = unwritable_logs(path)
    assert found is not None
    assert found[1] == f"rm {log} {index}"
