"""Processes that are killed in the middle of a change, and processes that change one key at once."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Key, Settings, open_backend
from basicauth_mw.backends import dump_key, load_key
from basicauth_mw.keys.hashing import Hasher
from tests.backends.kill_writer import IDS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KILLS = 50
LONGEST_S = 0.05  # from the last change that is waited for to the kill; a change takes about a millisecond
SETTINGS = Settings(backend_deadline_s=5.0)


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'keys.db'}"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def backend(url: str) -> Iterator[Backend]:
    with open_backend(url, settings=SETTINGS, create=True) as opened:
        yield opened


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )


class Writer:
    """The process of ``kill_writer.py`` and its reports.

    Attributes:
        keys: By client ID, the record as the last acknowledged change left it.
        secrets: By client ID, its secret; empty if it was never reported.
        changed: The IDs of the acknowledged changes of this iteration, in order.
        pending: The change that was announced but not acknowledged.
    """

    def __init__(self, url: str) -> None:
        self.process = start("-m", "tests.backends.kill_writer", url)
        self.keys: dict[str, str] = {}
        self.secrets: dict[str, str] = {}

    def kill_at_random(self, seed: int) -> None:
        """Start a child that changes keys, and kill it after one to four changes and a random time."""
        assert self.process.stdin is not None
        self.changed: list[str] = []
        self.pending: dict[str, Any] | None = None
        self.process.stdin.write(b"%d\n" % seed)
        self.process.stdin.flush()
        pid = None
        while pid is None or not self.pending or len(self.changed) <= seed % 4:
            pid = self.hear().get("pid", pid)
        time.sleep(random.Random(seed).uniform(0, LONGEST_S))
        os.kill(pid, signal.SIGKILL)
        while "ended" not in self.hear():
            pass

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "begins" in said:
            self.pending = said
        if "done" in said:
            self.pending = None
            self.changed.append(said["id"])
            self.remember(said["id"], said["key"], said["secret"])
        return said

    def remember(self, client_id: str, key: str | None, secret: str | None) -> None:
        """Store the result of a change; a secret of None means that it did not change."""
        if key is None:
            del self.keys[client_id], self.secrets[client_id]
        else:
            self.keys[client_id] = key
            if secret is not None:
                self.secrets[client_id] = secret

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


@pytest.fixture
def writer(url: str) -> Iterator[Writer]:
    started = Writer(url)
    yield started
    started.close()


def is_result(change: str, value: str, before: Key | None, after: Key | None) -> bool:
    """Whether ``after`` is the complete result of an unacknowledged change."""
    if change == "create":
        return before is None and after is not None and is_fresh(after, value)
    assert before is not None
    if change == "delete":
        return after is None
    if after is None or after.version != before.version + 1:
        return False
    match change:
        case "rotate":
            (old,), (new,) = before.secrets, after.secrets
            return old.hash != new.hash and same_but(before, after, "secrets")
        case "update":
            expected = replace(before, name=value, metadata={"value": value}, version=after.version)
            return dump_key(expected) == dump_key(after)
        case "revoke":
            return after.revoked_at is not None and same_but(before, after, "revoked_at")
        case _:
            return after.disabled is (change == "disable") and same_but(before, after, "disabled")


def is_fresh(key: Key, value: str) -> bool:
    return (key.name, key.metadata, len(key.secrets)) == (value, {"value": value}, 1)


def same_but(before: Key, after: Key, field: str) -> bool:
    return replace(before, **{field: getattr(after, field)}) == after


def check_sqlite(url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.proves("F33")
def test_a_kill_leaves_no_half_made_change(url: str, backend: Backend, writer: Writer) -> None:
    """Acknowledged changes are stored, the last one completely or not; records, index and feed agree."""
    store: Any = backend.store
    made = 0
    for seed in range(KILLS):
        cursor = store.changes(None).cursor
        writer.kill_at_random(seed)
        with open_backend(url, settings=SETTINGS) as opened:
            found = {client_id: opened.get(client_id) for client_id in IDS}
        if url.startswith("sqlite"):
            check_sqlite(url)

        pending, changed = writer.pending, set(writer.changed)
        if pending is not None:
            client_id = pending["id"]
            stored, after = writer.keys.get(client_id), found[client_id]
            if stored != (None if after is None else dump_key(after)):
                before = None if stored is None else load_key(stored, client_id)
                assert is_result(pending["begins"], pending["value"], before, after)
                changed.add(client_id)
                # Its new secret was never reported.
                secret = "" if pending["begins"] in ("create", "rotate") else None
                writer.remember(client_id, None if after is None else dump_key(after), secret)
        assert set(store.changes(cursor).client_ids) == changed

        present = {client_id: dump_key(key) for client_id, key in found.items() if key is not None}
        assert present == writer.keys
        assert [key.client_id for key in backend.iter_keys()] == sorted(present, key=str.encode)
        for client_id, secret in writer.secrets.items():
            if secret:
                assert Hasher().verify_digest(secret, load_key(present[client_id], client_id).secrets)
        made += len(writer.changed)
    assert made > 2 * KILLS  # otherwise they were killed too early


# --- concurrent changes

FIELDS = """
import sys
from datetime import UTC, datetime, timedelta
from basicauth_mw import Settings, open_backend

url, which, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open_backend(url, settings=Settings(backend_deadline_s=5.0)) as backend:
    backend.get("shared")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(1, times + 1):
        match which:
            case "name":
                backend.update("shared", name=f"name {number}")
            case "scopes":
                backend.update("shared", scopes=[f"scope:{number}"])
            case "expires_at":
                backend.update("shared", expires_at=datetime(2100, 1, 1, tzinfo=UTC) + timedelta(days=number))
            case "secret":
                print(backend.rotate("shared", overlap_s=0).secret, flush=True)
print("end", flush=True)
"""
TIMES = 25


def test_processes_that_change_one_key_lose_nothing(url: str, backend: Backend) -> None:
    """Each changes another field at the same time; in the end each field has its last value."""
    store: Any = backend.store
    before = backend.create(client_id="shared", metadata={"kept": True}).key
    cursor = store.changes(None).cursor
    processes = {
        which: start("-c", FIELDS, url, which, str(TIMES))
        for which in ("name", "scopes", "expires_at", "secret")
    }
    for process in processes.values():
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes.values():
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    said = {
        which: process.communicate(timeout=60)[0].decode().split() for which, process in processes.items()
    }

    assert [words[-1] for words in said.values()] == ["end"] * 4
    after = backend.get("shared")
    assert after is not None
    assert after.name == f"name {TIMES}"
    assert after.scopes == {f"scope:{TIMES}"}
    assert after.expires_at == datetime(2100, 1, 1, tzinfo=UTC) + timedelta(days=TIMES)
    assert after.metadata == {"kept": True}
    assert len(said["secret"]) == TIMES + 1
    assert Hasher().verify_digest(said["secret"][-2], after.secrets)
    assert after.version == before.version + 4 * TIMES
    seen = store.changes(cursor)
    assert set(seen.client_ids) == {"shared"}
    assert not seen.incomplete
