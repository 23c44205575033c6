"""The right secret and similar ones, on every server, with keys of every kind in a real store."""

from __future__ import annotations

import shutil
from base64 import b64encode
from typing import TYPE_CHECKING

import bcrypt
import pytest

from basicauth_mw import Key, Secret, Settings, open_backend
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from tests.matrix.client import head, send
from tests.matrix.kinds import SERVERS, Server

if TYPE_CHECKING:
    from pathlib import Path

GENERATED = generate("sk")
PASSWORD = "correct horse: battery staple"
LONGEST = "x" * 72  # bcrypt uses only the first 72 bytes
HASHES = {
    "generated": Hasher().digest_secret(GENERATED),
    "password": hash_password(PASSWORD),
    "bcrypt": bcrypt.hashpw(LONGEST.encode(), bcrypt.gensalt(4)).decode(),
    # Hashes that no command stores.
    "empty": Hasher().digest_secret(""),
    "empty-slow": hash_password(""),
}
RIGHT = {"generated": GENERATED, "password": PASSWORD, "bcrypt": LONGEST}

# None is malformed, so each takes a password hash, except for the generated secret. So there are few, and one
# server of each kind gets the whole list: the others differ only in what they do to a field.
ALL_FOR = ("uvicorn-h11", "waitress")
NEAR = {
    **{f"all but the last of {client_id}": (client_id, secret[:-1]) for client_id, secret in RIGHT.items()},
    **{f"more than {client_id}": (client_id, secret + "x") for client_id, secret in RIGHT.items()},
    "another's": ("password", GENERATED),
}
CHANGEABLE = {
    "a NUL after it": ("generated", GENERATED + "\0"),
    "nothing for generated": ("generated", ""),
    "bcrypt cut in a letter": ("bcrypt", "x" * 71 + "é"),
    "too long for a field": ("password", "x" * 5800),  # but within the servers' limits
}
WRONG = {
    **NEAR,
    **CHANGEABLE,
    **{f"the hash of {client_id}": (client_id, HASHES[client_id]) for client_id in RIGHT},
    **{f"nothing for {client_id}": (client_id, "") for client_id in (*HASHES, "none", "unknown")},
    "moved from the id": ("generate", f"d:{GENERATED}"),
    "without secrets": ("none", GENERATED),
    "bcrypt of 200 bytes": ("bcrypt", "x" * 200),
    "the longest": ("password", "x" * 1024),
    "too long": ("password", "x" * 1025),
}


def field(client_id: str, secret: str) -> bytes:
    return b"Authorization: Basic " + b64encode(f"{client_id}:{secret}".encode())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key for each of ``HASHES``, and one without a secret."""
    path = tmp_path_factory.mktemp("filled") / "keys.db"
    with open_backend(f"sqlite:///{path}", settings=Settings(), create=True) as backend:
        for client_id, hashed in HASHES.items():
            assert backend.store.put(Key(client_id, secrets=(Secret(hashed),)), None)
        assert backend.store.put(Key("none"), None)
    return path


@pytest.mark.proves("X5", "X9", "X10", "X11", "X13", "X14", "X16")
@pytest.mark.parametrize("name", SERVERS)
def test_only_the_right_secret_is_accepted(name: str, filled: Path, tmp_path: Path) -> None:
    """Before it is cached and after; any other is a 401, and never an error."""
    shutil.copy(filled, tmp_path / "keys.db")
    settings = {"BASICAUTH_BACKEND": f"sqlite:///{tmp_path}/keys.db", "BASICAUTH_THROTTLE": ""}

    with Server(name, tmp_path / "log", settings) as server:

        def outcomes(pairs: dict[str, tuple[str, str]]) -> dict[str, str]:
            return {what: send(server, head(field(*pair))).outcome for what, pair in pairs.items()}

        right = {client_id: (client_id, secret) for client_id, secret in RIGHT.items()}
        allowed = {client_id: f"app for {client_id!r}" for client_id in RIGHT}
        for wrong in (WRONG if name in ALL_FOR else CHANGEABLE, NEAR):
            assert outcomes(wrong) == dict.fromkeys(wrong, "invalid_credentials")
            assert outcomes(right) == allowed
        log = server.log.read_text()
    assert "Traceback" not in log
