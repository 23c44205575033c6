"""Pytest fixtures: keys in memory.

Import them in a ``conftest.py``, or name this module in its ``pytest_plugins``.
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
    """A key backend in memory, for this test alone. Give it to the app; ``create`` makes keys."""
    with open_backend("memory:", settings=Settings()) as backend:
        yield backend


@pytest.fixture
def api_key(api_keys: Backend) -> Issued:
    """A key in ``api_keys``: ``client_id`` (``test``), ``secret`` and ``authorization``. It has no scopes."""
    return api_keys.create(client_id="test", name="Test")
