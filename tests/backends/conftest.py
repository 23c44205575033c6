"""Every writable store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

STORES = ["memory", "sqlite", "redis", "redis-cluster", "postgres"]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path / 'keys.db'}"
        case "redis":
            return str(request.getfixturevalue("redis_url"))
        case "redis-cluster":
            return str(request.getfixturevalue("redis_cluster_url"))
        case "postgres":
            return str(request.getfixturevalue("postgres_url"))
        case _:
            return "memory:"
