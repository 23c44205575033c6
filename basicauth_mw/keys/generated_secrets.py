"""Minted secrets: ``<prefix>_`` + 256 random bits + checksum, in base62. Generated ids: ``id_`` + 12 digits.

The alphabet survives URLs, shells and a double click. The checksum is the CRC-32 (ISO 3309, as in zlib) of
everything before it, so that a secret scanner can tell a minted value from a look-alike offline and a
mistyped secret is refused before any look-up. Every minted value matches ``PATTERN``.
"""

from __future__ import annotations

import secrets
from enum import Enum
from zlib import crc32

from ..settings.values import ID_PREFIX as ID_PREFIX
from ..settings.values import is_prefix

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_BITS = 256
RANDOM_DIGITS = 43  # the fewest base62 digits that hold 256 bits
CHECKSUM_DIGITS = 6  # the fewest that hold 32 bits
TAIL_DIGITS = RANDOM_DIGITS + CHECKSUM_DIGITS
PATTERN = r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*_[0-9A-Za-z]{49}"

ID_DIGITS = 12  # 71 bits: short enough for a command line, and checked for collisions before use


class SecretShape(Enum):
    """What a secret looks like, told from the secret alone."""

    GENERATED = "minted"
    BAD_CHECKSUM = "mistyped"
    OTHER = "other"


def generate(prefix: str) -> str:
    """Make a new value with ``RANDOM_BITS`` bits from the operating system's generator.

    Args:
        prefix: As ``is_prefix`` allows.
    """
    body = f"{prefix}_{_base62(secrets.randbits(RANDOM_BITS), RANDOM_DIGITS)}"
    return body + _checksum(body.encode("ascii"))


def generate_id() -> str:
    """A new client id, such as ``id_4fK2pQ9sXw0a``. It may be taken; the caller has to check that."""
    return f"{ID_PREFIX}_{_base62(secrets.randbelow(62**ID_DIGITS), ID_DIGITS)}"


def is_secret(value: str) -> bool:
    """Whether a value is a generated secret, perhaps mistyped. Ids of the earlier, long form are not.

    Only the exact prefix ``id`` makes it such an id: ``id_live_...`` is a secret with a prefix of its own.
    """
    return classify(value) is not SecretShape.OTHER and value.rpartition("_")[0] != ID_PREFIX


def classify(value: str) -> SecretShape:
    """Tell whether ``value`` was minted, whatever its prefix."""
    prefix, _, tail = value.rpartition("_")
    # As octets, which answer several times as fast as text.
    if len(tail) != TAIL_DIGITS or not (value.isascii() and tail.encode().isalnum() and is_prefix(prefix)):
        return SecretShape.OTHER
    body, checksum = value[:-CHECKSUM_DIGITS], value[-CHECKSUM_DIGITS:]
    return SecretShape.GENERATED if checksum == _checksum(body.encode()) else SecretShape.BAD_CHECKSUM


# Two digits at a time: every request with a minted secret asks for a checksum.
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
