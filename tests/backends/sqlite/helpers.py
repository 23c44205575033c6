"""Helpers of the tests of the SQLite store."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from basicauth_mw.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw.backends.sqlite.store import SqliteStore


NOTICED_WITHIN_S = 2.0


def eventually(condition: Callable[[], bool]) -> float:
    """Wait until a condition holds; return how many seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + NOTICED_WITHIN_S + 3
        time.sleep(0.02)
    return time.monotonic() - start


def name_of(store: SqliteStore) -> str:
    """The name of the key, or the error."""
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


def damage(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql, values)


def open_files(path: Path, *, gone: bool = False) -> int:
    """How many descriptors this process has open on a file; with ``gone``, on deleted files of that name."""
    targets = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(each.readlink()))
        except OSError:
            continue
    return targets.count(f"{path} (deleted)" if gone else str(path))
