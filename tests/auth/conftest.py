"""Fixtures for the tests of both middlewares: a backend with one key, and an environment without settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Backend, Issued, Settings
from basicauth_mw.backends.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BASICAUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def backend() -> Iterator[Backend]:
    """An in-memory backend; it never blocks, so it starts no thread."""
    with Backend(MemoryStore(), settings=Settings()) as backend:
        yield backend


@pytest.fixture
def issued(backend: Backend) -> Issued:
    """The one key in ``backend``."""
    return backend.create(client_id="ci", name="CI", scopes=["read"], metadata={"team": "a"})
