"""Fixtures for the tests of import and export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import hash_secret
from basicauth_mw.keys.model import Key, Secret
from tests.cli.helpers import Done, put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that only its owner can read."""
    path = tmp_path / "keys.txt"
    path.touch(0o600)
    return path


@pytest.fixture
def other(tmp_path: Path) -> str:
    """The URL of a second backend."""
    return f"sqlite:///{tmp_path}/other.db"


@pytest.fixture
def export(cli: Callable[..., Done], url: str, file: Path) -> bytes:
    """Export three keys."""
    put(url, *(Key(name, secrets=(Secret(hash_secret(generate("sk"))),)) for name in ("a", "b", "c")))
    cli("keys", "export", str(file))
    return file.read_bytes()
