"""Recognize stored hashes, and check those from elsewhere."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Final

from ...errors import InvalidKey

if TYPE_CHECKING:
    from ..model import Key

MAX_ACTIVE_SECRETS: Final = 8
MAX_SECRETS: Final = 16  # including expired ones

DIGEST_SCHEME: Final = "$bamw1$"
PASSWORD_SCHEMES: Final[tuple[str, ...]] = ("$argon2id$", "$2a$", "$2b$", "$2y$")

# A digest is $bamw1$<pepper id>$<salt>$<digest>. The prefix ends before the digest, whose length is fixed.
DIGEST_PREFIX_RE: Final = re.compile(r"\$bamw1\$(0|[0-9a-f]{8})\$([A-Za-z0-9_-]{16})\$")
_DIGEST_RE: Final = re.compile(rf"{DIGEST_PREFIX_RE.pattern}[A-Za-z0-9_-]{{43}}")
ARGON2_RE: Final = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,6}),t=([1-9][0-9]?),p=([1-9][0-9]?)"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{16,86})"
)
_BCRYPT_RE: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")

# Upper bounds on the cost of one verification, imported hashes included.
_MAX_ARGON2_MEMORY_KIB: Final = 128 * 1024
_MAX_ARGON2_TIME_COST: Final = 8
_MAX_ARGON2_LANES: Final = 16
_MAX_BCRYPT_COST: Final = 14

_UNSUPPORTED: Final = {
    "$apr1$": "Apache MD5 (apr1)",
    "$1$": "MD5-crypt",
    "$5$": "SHA-256-crypt",
    "$6$": "SHA-512-crypt",
    "$7$": "scrypt",
    "$y$": "yescrypt",
    "$2x$": "bcrypt 2x, which is broken",
    "$argon2i$": "Argon2i: use Argon2id",
    "$argon2d$": "Argon2d: use Argon2id",
    "$pbkdf2": "PBKDF2",
    "pbkdf2:": "PBKDF2",
    "pbkdf2_": "PBKDF2",
    "$scrypt$": "scrypt",
    "scrypt:": "scrypt",
    "scrypt$": "scrypt",
    "argon2$": "Django's form of Argon2: remove the leading argon2",
    "bcrypt$$": "Django's form of bcrypt: remove the leading bcrypt$",
    "bcrypt_sha256$$": "bcrypt of a SHA-256 digest",
    "md5$": "MD5",
    "sha512$$": "unsalted SHA-512",
    "{SHA}": "unsalted SHA-1",
    "{SSHA}": "salted SHA-1",
    "{SHA": "SHA-2 without a cost",
    "{SSHA": "SHA-2 without a cost",
}

_ANY_SCHEME: Final = (DIGEST_SCHEME, *PASSWORD_SCHEMES, *_UNSUPPORTED)


def is_password_hash(hashed: str) -> bool:
    """Whether a stored hash is an Argon2id or bcrypt hash."""
    return hashed.startswith(PASSWORD_SCHEMES)


def has_password_hash(key: Key) -> bool:
    """Whether a secret of a key is stored as a password hash."""
    return any([is_password_hash(secret.hash) for secret in key.secrets])  # noqa: C419 - a list is faster


def looks_hashed(text: str) -> bool:
    """Whether a text begins like a hash, supported or not, and so is not a plain secret."""
    return text.startswith(_ANY_SCHEME)


def unsupported_scheme(name: str) -> InvalidKey:
    return InvalidKey(f"hashes of this kind are not accepted, only Argon2id and bcrypt (htpasswd -B): {name}")


def check_hash(hashed: str) -> None:
    """Check that a hash from elsewhere is supported.

    Args:
        hashed: ``$bamw1$``, ``$argon2id$``, ``$2a$``, ``$2b$`` or ``$2y$``.

    Raises:
        InvalidKey: An unsupported scheme, a damaged hash, or one too costly to verify per request.
    """
    if _DIGEST_RE.fullmatch(hashed):
        return
    for prefix, name in _UNSUPPORTED.items():
        if hashed.startswith(prefix):
            raise unsupported_scheme(name)
    if match := ARGON2_RE.fullmatch(hashed):
        memory, time, lanes = (int(number) for number in match.groups()[:3])
        if not (
            8 * lanes <= memory <= _MAX_ARGON2_MEMORY_KIB
            and time <= _MAX_ARGON2_TIME_COST
            and lanes <= _MAX_ARGON2_LANES
        ):
            raise InvalidKey("this Argon2id hash is out of bounds (at most m=131072, t=8, p=16)")
        if not all(_is_canonical(part) for part in match.groups()[3:]):
            raise InvalidKey("this Argon2id hash is damaged")
        return
    if match := _BCRYPT_RE.fullmatch(hashed):
        if not 4 <= int(match[1]) <= _MAX_BCRYPT_COST:
            raise InvalidKey("this bcrypt hash is out of bounds (cost 4 to 14)")
        return
    raise InvalidKey("not a supported hash: use $argon2id$, $2a$, $2b$ or $2y$")


def _is_canonical(base64: str) -> bool:
    """Whether unpadded base64 is in canonical form."""
    padded = f"{base64}{'=' * (-len(base64) % 4)}".encode()
    try:
        return b2a_base64(a2b_base64(padded), newline=False) == padded
    except Base64Error:
        return False
