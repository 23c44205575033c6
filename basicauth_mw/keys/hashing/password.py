"""Hash and verify passwords.

New hashes are Argon2id (RFC 9106) as PHC strings. bcrypt is verified too, for imported keys.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from ...errors import InvalidKey, UnreadableRecord
from ...runtime.extras import require
from .formats import ARGON2_RE, check_hash

# OWASP's minimum for Argon2id (Password Storage Cheat Sheet). Each uncached request pays it; all logins
# together use at most slow_hash_workers times this memory.
ARGON2_TIME_COST: Final = 2
ARGON2_MEMORY_KIB: Final = 19 * 1024
ARGON2_LANES: Final = 1

BCRYPT_MAX_BYTES: Final = 72


def hash_password(secret: str) -> str:
    """Hash a password with Argon2id.

    Takes tens of milliseconds and ``ARGON2_MEMORY_KIB`` KiB: never call it on an event loop.

    Raises:
        MissingExtra: argon2-cffi is not installed.
    """
    hashed: str = _argon2().hash(secret)
    return hashed


def verify_password(secret: str, hashed: str) -> bool:
    """Verify a secret against an Argon2id or bcrypt hash. Costs as much as ``hash_password``.

    Raises:
        UnreadableRecord: The hash is damaged or of another scheme.
        MissingExtra: The library for it is not installed.
    """
    try:
        check_hash(hashed)
    except InvalidKey as exc:
        raise UnreadableRecord(str(exc)) from None
    encoded = secret.encode()
    if hashed.startswith("$2"):
        bcrypt = require("bcrypt", extra="passwords")
        # bcrypt ignores everything after 72 bytes, so a longer secret is refused, at the cost of any refusal.
        try:
            matches: bool = bcrypt.checkpw(encoded[:BCRYPT_MAX_BYTES], hashed.encode())
        except ValueError:
            raise UnreadableRecord("a stored bcrypt hash cannot be checked") from None
        return matches and len(encoded) <= BCRYPT_MAX_BYTES
    argon2 = require("argon2", extra="passwords")
    try:
        return bool(argon2.low_level.verify_secret(hashed.encode(), encoded, argon2.low_level.Type.ID))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except argon2.exceptions.VerificationError as exc:
        raise UnreadableRecord("a stored Argon2id hash cannot be checked") from exc


def has_current_cost(hashed: str) -> bool:
    """Whether a stored hash is Argon2id with the parameters of ``hash_password``."""
    match = ARGON2_RE.fullmatch(hashed)
    current = (ARGON2_MEMORY_KIB, ARGON2_TIME_COST, ARGON2_LANES)
    return match is not None and tuple(map(int, match.groups()[:3])) == current


_dummy_hash: str | None = None


def dummy_password_hash() -> str:
    """A hash of an unknown password, with the parameters of ``hash_password``; one per process."""
    global _dummy_hash  # created on first use, since it costs a password hash itself
    if _dummy_hash is None:
        _dummy_hash = hash_password(secrets.token_urlsafe(32))
    return _dummy_hash


def _argon2() -> Any:
    argon2 = require("argon2", extra="passwords")
    return argon2.PasswordHasher(
        time_cost=ARGON2_TIME_COST, memory_cost=ARGON2_MEMORY_KIB, parallelism=ARGON2_LANES
    )
