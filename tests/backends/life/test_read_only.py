"""Stores that cannot be written."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Key, Secret, Settings, encode_basic, open_backend
from basicauth_mw.errors import ReadOnlyBackend
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

from tests.backends.life.helpers import (
    CHANGES,
    CLIENTS,
)


class Lookups:
    """A third-party store that can only look up keys."""

    def __init__(self, *keys: Key) -> None:
        self._keys = {key.client_id: key for key in keys}

    def get(self, client_id: str) -> Key | None:
        return self._keys.get(client_id)


@pytest.fixture(params=["env", "env-file", "file", "third-party"])
def read_only(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Backend]:
    """A store with a single key, ``ci:a password``."""
    settings = Settings()
    if request.param == "third-party":
        hashed = Hasher().hash("a password")
        opened = Backend(Lookups(Key("ci", secrets=(Secret(hashed),))), settings=settings)
    else:
        if request.param == "env":
            monkeypatch.setenv("BASICAUTH_KEYS", "ci:a password")
        else:
            (tmp_path / "keys").write_text("ci:a password\n")
            monkeypatch.setenv("BASICAUTH_KEYS_FILE", str(tmp_path / "keys"))
        url = f"file:{tmp_path / 'keys'}" if request.param == "file" else "env:"
        opened = open_backend(url, settings=settings)
    with opened:
        yield opened


@pytest.mark.parametrize(
    "change",
    [
        *CHANGES.values(),
        lambda backend: backend.create(client_id="new"),
        lambda backend: backend.add([Key("new", secrets=(Secret(Hasher().hash(generate("sk"))),))]),
    ],
    ids=[*CHANGES, "create", "add"],
)
def test_a_read_only_store_is_not_written(
    read_only: Backend,
    kind: str,
    events: Callable[..., Any],
    tmp_path: Path,
    change: Callable[[Backend], object],
) -> None:
    before = (read_only.get("ci"), dict(os.environ), [path.read_bytes() for path in tmp_path.iterdir()])
    with pytest.raises(ReadOnlyBackend):
        change(read_only)

    after = (read_only.get("ci"), dict(os.environ), [path.read_bytes() for path in tmp_path.iterdir()])
    assert (after, read_only.get("new"), events()) == (before, None, [])
    with ExitStack() as stack:
        authenticator = CLIENTS[kind](read_only, Settings())
        stack.callback(authenticator.close)
        assert authenticator.request(encode_basic("ci", "a password")).status == 200
