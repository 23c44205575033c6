"""Fixtures of the tests of the SQLite store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(f"sqlite:///{path}", deadline_s=0.2, create=True)
    assert opened.put(Key("id", name="old", version=1, secrets=(Secret("$bamw1$canary"),)), None)
    yield opened
    opened.close()
