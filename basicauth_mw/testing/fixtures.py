"""Pytest fixtures: an in-memory key backend, and a key in it.

Import the fixtures in a ``conftest.py``, or add this module to its ``pytest_plugins``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..backends.backend import Backend, Issued, open_backend
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["api_key", "api_keys"]


@pytest.fixture
def api_keys() -> Iterator[Backend]:
    """An empty in-memory key backend for one test. Pass it to the app, and create keys with ``create``."""
    with open_backend("memory:", settings=Settings()) as backend:
        yield backend


@pytest.fixture
def api_key(api_keys: Backend) -> Issued:
    """A key without scopes in ``api_keys``: its ``client_id`` is ``test``; see ``Issued``."""
    return api_keys.create(client_id="test", name="Test")
