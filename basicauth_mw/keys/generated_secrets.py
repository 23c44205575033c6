"""Generate secrets (``<prefix>_`` + 256 random bits + checksum) and IDs (``id_`` + 12 digits) in base62.

The alphabet needs no escaping in URLs and shells, and a double click selects the whole value. The checksum is
the CRC-32 (ISO 3309, as in zlib) of everything before it. With it a secret scanner recognizes a generated
value offline, and a mistyped secret is refused before any lookup. Every generated value matches ``PATTERN``.
"""

from __future__ import annotations

import secrets
from enum import Enum
from zlib import crc32

from ..settings.parsers import ID_PREFIX as ID_PREFIX
from ..settings.parsers import is_prefix

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_BITS = 256
RANDOM_DIGITS = 43  # the fewest base62 digits that hold 256 bits
CHECKSUM_DIGITS = 6  # the fewest that hold 32 bits
TAIL_DIGITS = RANDOM_DIGITS + CHECKSUM_DIGITS
PATTERN = r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*_[0-9A-Za-z]{49}"

ID_DIGITS = 12  # 71 bits: short enough for a command line, and checked for collisions before use


class SecretShape(Enum):
    """The shape of a secret, derived from its text alone."""

    GENERATED = "generated"
    BAD_CHECKSUM = "bad checksum"
    OTHER = "other"


def generate(prefix: str) -> str:
    """Generate a value with ``RANDOM_BITS`` bits from the system's random generator.

    Args:
        prefix: A prefix that ``is_prefix`` accepts.
    """
    body = f"{prefix}_{_base62(secrets.randbits(RANDOM_BITS), RANDOM_DIGITS)}"
    return body + _checksum(body.encode("ascii"))


def generate_id() -> str:
    """Generate a client ID such as ``id_4fK2pQ9sXw0a``. The caller checks that it is not taken."""
    return f"{ID_PREFIX}_{_base62(secrets.randbelow(62**ID_DIGITS), ID_DIGITS)}"


def is_secret(value: str) -> bool:
    """Whether a value is a generated secret, perhaps with a wrong checksum.

    With the exact prefix ``id`` it is a client ID of an earlier release; ``id_live_...`` is a secret.
    """
    return classify(value) is not SecretShape.OTHER and value.rpartition("_")[0] != ID_PREFIX


def classify(value: str) -> SecretShape:
    """Recognize a generated value, with any prefix."""
    prefix, _, tail = value.rpartition("_")
    # On bytes, isalnum is several times faster than on str.
    if len(tail) != TAIL_DIGITS or not (value.isascii() and tail.encode().isalnum() and is_prefix(prefix)):
        return SecretShape.OTHER
    body, checksum = value[:-CHECKSUM_DIGITS], value[-CHECKSUM_DIGITS:]
    return SecretShape.GENERATED if checksum == _checksum(body.encode()) else SecretShape.BAD_CHECKSUM


# Two digits at a time, since every request with a generated secret computes a checksum.
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]


def _checksum(body: bytes) -> str:
    number = crc32(body)
    return _PAIRS[number // 62**4] + _PAIRS[number // 62**2 % 62**2] + _PAIRS[number % 62**2]


def _base62(number: int, digits: int) -> str:
    pairs = []
    for _ in range((digits + 1) // 2):
        number, pair = divmod(number, 62**2)
        pairs.append(_PAIRS[pair])
    return "".join(reversed(pairs))[-digits:]
