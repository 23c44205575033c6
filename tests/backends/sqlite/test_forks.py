"""A SQLite file across forks: the locks of a child work, whatever its parent had open and does next."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Settings, open_backend
from basicauth_mw.backends import LastUse
from basicauth_mw.backends.sqlite import connections
from basicauth_mw.backends.sqlite import forks as sqlite_forks
from basicauth_mw.backends.sqlite.forks import forks, short_connection
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key, Secret
from basicauth_mw.runtime.fork import before_fork
from basicauth_mw.wsgi import BasicAuthMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

LIMIT_S = 30.0
SEEN_WITHIN_S = 2.0  # 0.25 s on an idle machine; 30 s if the change feed misses it
MADE = datetime(2031, 1, 1, tzinfo=UTC)

IN_ANOTHER_PROCESS = """
import sys
from basicauth_mw import Settings, open_backend
backend = open_backend(settings=Settings(backend=sys.argv[1]))
backend.revoke("revoked")
for number in range(20):
    backend.create(client_id=f"other-{number}")
backend.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(f"sqlite:///{path}", deadline_s=5, create=True)) as opened:
        assert opened.put(Key("id", version=1, secrets=(Secret("$bamw1$x", MADE),)), None)
        yield opened


def start(work: Callable[[], object]) -> Any:
    """Run in a forked child; its exit code is 0 if nothing was raised."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def ended_well(*children: Any) -> bool:
    for child in children:
        child.join(LIMIT_S)
        child.kill()
    return all(child.exitcode == 0 for child in children)


def open_files(path: Path) -> set[str]:
    """The descriptors that this process has open on a file and its write-ahead log."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            target = str(each.readlink())
        except OSError:
            continue
        if target.startswith(str(path)):
            found.add(target)
    return found


def assert_whole(path: Path, keys: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM keys").fetchone() == (keys,)


@contextmanager
def inside(within: Callable[[Callable[..., object]], object]) -> Iterator[None]:
    """Keep a thread inside the callback that ``within`` calls, until the block ends."""
    arrived, go_on = threading.Event(), threading.Event()

    def stay(*_: object) -> None:
        arrived.set()
        go_on.wait(LIMIT_S)

    thread = threading.Thread(target=within, args=(stay,))
    thread.start()
    assert arrived.wait(LIMIT_S)
    try:
        yield
    finally:
        go_on.set()
        thread.join(LIMIT_S)


@pytest.mark.proves("X55", "F31")
@pytest.mark.parametrize("parent", ["closes", "goes on"])
def test_a_worker_notices_revocations(path: Path, parent: str) -> None:
    """The master has used its middleware before it forks, as with ``gunicorn --preload``."""
    settings = Settings(backend=f"sqlite:///{path}")
    backend = open_backend(settings=settings, create=True)
    revoked, good = backend.create(client_id="revoked"), backend.create(client_id="good")
    authenticator = BasicAuthMiddleware(
        lambda _, start_response: (start_response("200 OK", []), [b""])[1], backend, settings=settings
    )

    def status(field: str) -> str:
        statuses: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_AUTHORIZATION": field}
        list(authenticator(environ, lambda line, *_: statuses.append(line[:3])))  # type: ignore[arg-type, return-value]
        return statuses[0]

    assert status(revoked.authorization) == "200"
    context = multiprocessing.get_context("fork")
    ready, changed = context.Event(), context.Event()

    def child() -> None:
        assert status(revoked.authorization) == status(good.authorization) == "200"
        ready.set()
        assert changed.wait(LIMIT_S)
        ends = time.monotonic() + SEEN_WITHIN_S
        while status(revoked.authorization) == "200":
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert status(revoked.authorization) == "401"
        assert status(good.authorization) == "200"
        backend.create(client_id="of the child")

    process = start(child)
    assert ready.wait(LIMIT_S)
    if parent == "closes":
        backend.close()
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, f"sqlite:///{path}"]
    subprocess.run(command, check=True, timeout=LIMIT_S, cwd=Path(__file__).parents[3])
    changed.set()

    assert ended_well(process)
    found = backend.get("revoked")
    assert found is not None
    assert found.revoked_at is not None
    assert backend.get("of the child") is not None
    backend.create(client_id="of the parent")
    backend.close()
    assert_whole(path, 2 + 20 + 2)


@pytest.mark.proves("F31")
def test_many_children_write_at_once(store: SqliteStore, path: Path) -> None:
    """From the start, while their parent closes the store and writes, too."""

    def write(name: str) -> None:
        for number in range(20):
            assert store.put(Key(f"{name}-{number}", version=1), None)

    children = [start(lambda name=name: write(f"child {name}")) for name in range(6)]  # type: ignore[misc]
    store.close()
    write("parent")

    assert ended_well(*children)
    store.close()
    assert_whole(path, 1 + 7 * 20)


@pytest.mark.proves("F31")
def test_nothing_is_open_in_a_child_whatever_threads_do(store: SqliteStore, path: Path) -> None:
    """Threads keep looking up, changing and recording uses; none fails and none hangs."""
    stop = threading.Event()
    failures: list[BaseException] = []
    rounds: list[int] = []

    def until_stopped(work: Callable[[int], object]) -> None:
        turn = 0
        try:
            while not stop.is_set():
                turn += 1
                work(turn)
        except BaseException as exc:
            failures.append(exc)
        rounds.append(turn)

    jobs: list[Callable[[int], object]] = [
        lambda _: store.get("id"),
        lambda turn: store.put(Key(f"new {turn}"), None),
        lambda turn: store.record_uses([LastUse("id", MADE, datetime.fromtimestamp(60 * turn, UTC))]),
        lambda _: store.last_uses(["id"]),
    ]
    threads = [threading.Thread(target=until_stopped, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()

    def child() -> None:
        assert open_files(path) == set()
        assert store.get("id") is not None
        store.record_uses([LastUse("id", MADE, MADE)])

    assert all(ended_well(start(child)) for _ in range(20))
    stop.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not failures
    assert len(rounds) == len(jobs)
    assert min(rounds) > 1


def test_a_thread_may_fork_during_a_read(store: SqliteStore, path: Path) -> None:
    """As a signal handler does."""
    children = []

    def child() -> None:
        assert open_files(path) == set()
        assert store.get("id") is not None

    store._connections.read(lambda _execute: children.append(start(child)))

    assert ended_well(*children)
    assert store.get("id") is not None


def test_nothing_is_opened_during_a_fork(store: SqliteStore, path: Path) -> None:
    """A caller that must not block gets an error; one that may block gets its result after the fork."""
    outcomes: list[object] = []
    found: list[Key | None] = []
    waiting = threading.Thread(target=lambda: found.append(store.get("id")))

    def look_up() -> None:
        try:
            outcomes.append(store.get_nowait("id"))
        except BlockingIOError as exc:
            outcomes.append(str(exc))

    class Late:
        """Prepares for a fork after the store has done so."""

        def prepare(self) -> None:
            thread = threading.Thread(target=look_up)
            thread.start()
            thread.join(LIMIT_S)
            waiting.start()

    late = Late()
    before_fork(late.prepare)
    child = start(lambda: store.get("id"))
    del late
    waiting.join(LIMIT_S)

    assert ended_well(child)
    assert outcomes == ["the process is forking"]
    assert [key and key.client_id for key in found] == ["id"]


@pytest.mark.proves("F31")
def test_a_child_that_cannot_lock_the_file_raises(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread hangs on its disk, so the fork did not wait for it. The child cannot trust any lock."""
    monkeypatch.setattr(connections, "LONGEST_WAIT_S", 0.05)

    def refused() -> None:
        for call in (lambda: store.get("id"), lambda: store.put(Key("x"), None)):
            with pytest.raises(BackendUnavailable, match="was forked while"):
                call()

    def child() -> None:
        refused()
        assert ended_well(start(refused))

    with inside(store._connections.read):
        assert ended_well(start(child))
    assert store.put(Key("x"), None)
    assert ended_well(start(lambda: store.get("id")))


def test_a_fork_does_not_wait_forever_for_a_short_connection(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_forks, "LONGEST_WAIT_S", 0.05)

    def hang(stay: Callable[[], object]) -> None:
        with short_connection(path):
            stay()

    def child() -> None:
        with short_connection(path):
            assert store.get("id") is not None

    with inside(hang):
        assert ended_well(start(child))
        assert not forks.in_progress
        assert not forks.short_lock.acquire(blocking=False), "it is still held"
    with short_connection(path):
        assert store.get("id") is not None
