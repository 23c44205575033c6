"""What the tests of both middlewares share: a backend with one key, and an environment without settings."""

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
    """A backend in memory; it never blocks, so no thread is started for it."""
    with Backend(MemoryStore(), settings=Settings()) as backend:
        yield backend


@pytest.fixture
def issued(backend: Backend) -> Issued:
    """The one key in ``backend``."""
    return backend.create(client_id="ci", name="CI", scopes=["read"], metadata={"team": "a"})
