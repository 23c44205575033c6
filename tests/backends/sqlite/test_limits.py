"""A full disk, and files and directories that may not be written.

Each test runs its lines in a separate process, which drops privileges: it limits the size of files, or
stops being root if the tests run as root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends import LastUse
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key, Secret, utcnow

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
NOBODY = 65534  # the ID of the unprivileged user "nobody"

# Each line of a test is evaluated separately; its result or its error is printed.
HEAD = f"""
import json, os, resource, sys
from dataclasses import replace
from basicauth_mw.backends import LastUse
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key, Secret, utcnow

url, outcomes = sys.argv[1], []
store = SqliteStore(url, deadline_s=0.3)

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def drop_rights():
    if os.geteuid() == 0:
        os.setgid({NOBODY})
        os.setuid({NOBODY})

def attempt(do):
    try:
        outcomes.append(do())
    except BackendUnavailable as exc:
        outcomes.append(str(exc))

def name():
    return store.get("id").name

def created_at():
    return store.get("id").secrets[0].created_at

def many(count):
    return sum(store.add([Key(f"k{{n}}", name="x" * 200, version=1) for n in range(count)]))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that other users can access, unlike those of pytest."""
    made = Path(tempfile.mkdtemp(prefix="basicauth-limits-"))
    made.chmod(0o777)
    yield made
    made.chmod(0o777)
    shutil.rmtree(made)


@pytest.fixture
def path(directory: Path) -> Path:
    made = directory / "keys.db"
    with closing(SqliteStore(f"sqlite:///{made}", create=True)) as store:
        assert store.put(Key("id", name="old", version=1, secrets=(Secret("$bamw1$x"),)), None)
    made.chmod(0o666)
    return made


def outcomes(path: Path, *lines: str) -> list[Any]:
    """The outcome of each ``attempt`` in a process."""
    code = "\n".join([HEAD, *lines, "print(json.dumps(outcomes))"])
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.proves("F15")
def test_a_full_disk(path: Path) -> None:
    """Stored keys stay, a change that does not fit is refused, and changes work again when there is room."""
    before, full, kept, taken, late = outcomes(
        path,
        "attempt(name)",
        "limit(100_000)",
        "attempt(lambda: many(1000))",
        "attempt(name)",
        "attempt(lambda: len(store.scan('k', '', 10)))",
        "limit(resource.RLIM_INFINITY)",
        "attempt(lambda: many(1000))",
    )
    assert (before, kept, taken, late) == ("old", "old", 0, 1000)
    assert "SQLite cannot use the file: " in full
    assert "disk is full" in full
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        assert len(store.scan("k", "", 2000)) == 1000


@pytest.mark.proves("F15")
def test_no_room_for_a_single_change(path: Path) -> None:
    put, kept, deleted, late = outcomes(
        path,
        "name(); limit(100)",
        "attempt(lambda: store.put(replace(store.get('id'), name='new', version=2), 1))",
        "attempt(name)",
        "attempt(lambda: store.delete('id'))",
        "limit(resource.RLIM_INFINITY)",
        "attempt(lambda: store.put(replace(store.get('id'), name='new', version=2), 1))",
    )
    assert "disk is full" in put
    assert kept == "old"
    assert "disk is full" in deleted
    assert late is True


@pytest.mark.proves("F15")
def test_room_for_the_log_but_not_for_the_file(path: Path) -> None:
    """The change is safe in the log until there is room."""
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        store.add([Key(f"a{number}", name="x" * 200) for number in range(500)])
    size = path.stat().st_size
    added, found = outcomes(
        path,
        f"name(); limit({size} + 100)",
        "attempt(lambda: many(20))",
        "attempt(lambda: len(store.scan('k', '', 100)))",
    )
    assert (added, found) == (20, 20)
    assert path.with_name("keys.db-wal").stat().st_size > 0
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        assert len(store.scan("k", "", 100)) == 20
    assert path.stat().st_size > size


def test_no_room_for_last_uses(path: Path) -> None:
    recorded, kept, put = outcomes(
        path,
        "name(); limit(5000)",
        "attempt(lambda: store.record_uses([LastUse('id', created_at(), utcnow())]))",
        "attempt(lambda: len(store.last_uses(['id'])))",
        "limit(resource.RLIM_INFINITY)",
        "attempt(lambda: store.put(replace(store.get('id'), version=2), 1))",
    )
    assert "last" in recorded
    assert (kept, put) == (0, True)


@pytest.mark.proves("F15")
def test_the_error_code_for_a_full_disk(path: Path) -> None:
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        assert store.get("id")
        connection = store._connections._connections.get().raw
        assert connection is not None
        connection.execute("PRAGMA max_page_count = 8").fetchall()
        with pytest.raises(BackendUnavailable, match="make room on the disk"):
            store.add([Key(f"k{number}", name="x" * 200) for number in range(1000)])
        assert store.get("id")
        assert store.scan("k", "", 1) == []
        assert store.add([Key("k")]) == [True]


def test_an_upgrade_on_a_full_disk(path: Path) -> None:
    shutil.copyfile(ROOT / "tests" / "data" / "sqlite-v1.db", path)
    failed, done = outcomes(
        path,
        "limit(10_000)",
        "attempt(store.upgrade)",
        "limit(resource.RLIM_INFINITY)",
        "attempt(store.upgrade)",
    )
    assert "disk is full" in failed
    assert done.startswith("upgraded")
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        assert len(store.scan("", "", 100)) == 6


@pytest.mark.proves("F19")
def test_a_file_without_write_access(path: Path) -> None:
    path.chmod(0o444)
    found, put, added, deleted, warned = outcomes(
        path,
        "drop_rights()",
        "attempt(name)",
        "attempt(lambda: store.put(replace(store.get('id'), version=2), 1))",
        "attempt(lambda: many(1))",
        "attempt(lambda: store.delete('id'))",
        "attempt(lambda: [code for code, _, _ in store.warnings()])",
    )
    assert found == "old"
    for refused in (put, added, deleted):
        assert "give this user write access" in refused
    assert warned == ["sqlite_file_mode", "sqlite_file_not_writable"]


@pytest.mark.proves("F19")
def test_a_directory_without_write_access(path: Path, directory: Path) -> None:
    """SQLite creates its write-ahead log there."""
    directory.chmod(0o555)
    *refused, warned = outcomes(
        path,
        "drop_rights()",
        "attempt(name)",
        "attempt(lambda: store.put(Key('new', version=2), None))",
        "attempt(lambda: many(1))",
        "attempt(store.upgrade)",
        "attempt(lambda: store.record_uses([LastUse('id', utcnow(), utcnow())]))",
        "attempt(lambda: [code for code, _, _ in store.warnings()])",
    )
    for each in refused[:-1]:
        assert "write access to it and to its directory" in each
    assert "keys.db.last-used cannot be created" in refused[-1]
    assert warned == ["sqlite_file_mode", "sqlite_directory_not_writable"]
    assert sorted(each.name for each in directory.iterdir()) == ["keys.db"]


def test_warnings_depend_on_the_user(path: Path, directory: Path) -> None:
    """In this process, which becomes another user if it runs as root."""
    path.chmod(0o400)
    directory.chmod(0o555)
    store = SqliteStore(f"sqlite:///{path}")
    before = os.getresuid()
    try:
        if os.geteuid() == 0:
            os.setresuid(-1, NOBODY, -1)
        codes = [code for code, _, _ in store.warnings()]
    finally:
        os.setresuid(*before)
    assert codes == ["sqlite_file_not_writable"]


@pytest.mark.proves("F19")
def test_a_file_cannot_be_created(path: Path, directory: Path) -> None:
    directory.chmod(0o555)
    (refused,) = outcomes(
        path,
        "from basicauth_mw.errors import ConfigurationError as BackendUnavailable",
        "drop_rights()",
        f"attempt(lambda: SqliteStore('sqlite:///{directory}/new.db', create=True))",
    )
    assert "new.db cannot be created: Permission denied" in refused


@pytest.mark.proves("F19")
def test_a_file_without_read_access(path: Path) -> None:
    path.chmod(0o600)
    os.chown(path, os.geteuid(), os.getegid())
    if os.geteuid() != 0:
        path.chmod(0)
    (refused,) = outcomes(path, "drop_rights()", "attempt(name)")
    assert "give this user write access" in refused


def test_uses_in_a_file_without_write_access(path: Path) -> None:
    with closing(SqliteStore(f"sqlite:///{path}")) as store:
        key = store.get("id")
        assert key is not None
        store.record_uses([LastUse("id", key.secrets[0].created_at, utcnow())])
    uses = path.with_name("keys.db.last-used")
    uses.chmod(0o444)
    read, recorded, put = outcomes(
        path,
        "drop_rights()",
        "attempt(lambda: len(store.last_uses(['id'])))",
        "attempt(lambda: store.record_uses([LastUse('id', utcnow(), utcnow())]))",
        "attempt(lambda: store.put(replace(store.get('id'), version=2), 1))",
    )
    assert (read, put) == (1, True)
    assert "write access" in recorded


def test_a_file_that_cannot_be_opened_is_not_filled(path: Path) -> None:
    """As when the wrong user runs the command line."""
    path.chmod(0o600 if os.geteuid() == 0 else 0)
    (text,) = outcomes(
        path,
        "drop_rights()",
        "from basicauth_mw.errors import ConfigurationError",
        "def make():",
        "    try:",
        "        SqliteStore(url, create=True)",
        "    except ConfigurationError as exc:",
        "        return str(exc)",
        "attempt(make)",
    )
    assert text.startswith(f"{path} cannot be used: ")
    path.chmod(0o600)
