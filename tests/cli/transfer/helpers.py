"""Helpers for the tests of import and export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basicauth_mw.backends.backend import open_backend
from basicauth_mw.keys.generated_secrets import generate

if TYPE_CHECKING:
    from basicauth_mw.keys.model import Key

BCRYPT = b"$2y$04$xN1CIAfc38yrARRjvNqyd.mpvVIU7s2YG3ZyAcpGRSJXe7xr8O8F2"  # of "secret"
CANARY = "hunter2_canary"

# The memory limit of an import; a table of 100,000 keys would be several times as large.
FLAT_WITHIN_KIB = 8 * 1024


def keys_of(url: str) -> list[Key]:
    with open_backend(url) as backend:
        return list(backend.iter_keys())


def works(url: str, client_id: str, secret: str) -> bool:
    with open_backend(url) as backend:
        key = backend.get(client_id)
        assert key is not None
        return backend.hasher.verify_digest(secret, key.secrets) is not None


def generated_lines(count: int) -> bytes:
    return b"".join(f"{generate('id')},{generate('sk')}\n".encode() for _ in range(count))
