"""BLAKE2b digests of generated secrets, and ``Hasher``, which chooses between digest and password hash.

A digest is BLAKE2b (RFC 7693) with a salt, and a key if there is a pepper::

    $bamw1$<pepper id>$<salt>$<digest>

Without a pepper the pepper ID is 0. All secrets of a key share one salt, so verification computes one digest
however many there are.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from binascii import b2a_base64
from datetime import UTC, datetime
from hashlib import blake2b
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from ...errors import InvalidKey, UnreadableRecord
from ..generated_secrets import SecretShape, classify
from ..model import Secret
from ..validation import check_secret
from .formats import (
    DIGEST_PREFIX_RE,
    DIGEST_SCHEME,
    MAX_ACTIVE_SECRETS,
    MAX_SECRETS,
    PASSWORD_SCHEMES,
    is_password_hash,
)
from .password import has_current_cost, hash_password

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_PERSON: Final = b"basicauth_mw/1"
_NO_PEPPER: Final = "0"
_SALT_BYTES: Final = 12
_SALT_CHARS: Final = 16  # in base64; BLAKE2b is salted with these
_DIGEST_BYTES: Final = 32
_DIGEST_CHARS: Final = 43
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")

# Placeholder salt and digest for dummy comparisons.
_DECOY_SALT: Final = "A" * _SALT_CHARS
_DUMMY: Final = f"{DIGEST_SCHEME}{_NO_PEPPER}${_DECOY_SALT}${'-' * _DIGEST_CHARS}"
_EPOCH: Final = datetime.fromtimestamp(0, UTC)

# Keys for the digests of stores that exist only as long as the process: the digests are useless outside it.
# Passwords have a separate key, so that their digests can be recognized.
_PROCESS_DIGEST_KEY: Final = secrets.token_bytes(32)
_PROCESS_PASSWORD_KEY: Final = secrets.token_bytes(32)


class Hashed(Protocol):
    """A stored secret: a ``Secret``, or a ``StoredSecret`` that is decoded in part."""

    @property
    def hash(self) -> str: ...


H = TypeVar("H", bound=Hashed)


class Hasher:
    """Creates and verifies stored hashes; pure CPU work, safe to share between threads.

    Args:
        peppers: Keys for the digests, newest first. New digests use the first; all are tried. A digest made
            without a pepper stays valid when one is added later.
        volatile: The hashes exist only as long as this process. Then all of them, those of passwords too, are
            digests under random keys that are stored nowhere.

    Attributes:
        decoy_secrets: Verified for unknown IDs, so that they cost the same as known ones. No secret matches.
    """

    def __init__(self, peppers: Sequence[bytes] = (), *, volatile: bool = False) -> None:
        if volatile:
            peppers = [_PROCESS_DIGEST_KEY, _PROCESS_PASSWORD_KEY, *peppers]
        self._peppers = {**_keys_by_id(peppers), _NO_PEPPER: b""}
        self._decoys = {pepper: f"{DIGEST_SCHEME}{pepper}${_DECOY_SALT}$" for pepper in self._peppers}
        self._newest = next(iter(self._peppers))
        self._password_pepper = pepper_id(_PROCESS_PASSWORD_KEY) if volatile else None
        # Prefixes of the hashes of passwords.
        self._password_prefixes: tuple[str, ...] = (
            (*PASSWORD_SCHEMES, f"{DIGEST_SCHEME}{self._password_pepper}$") if volatile else PASSWORD_SCHEMES
        )
        self.decoy_secrets = (Secret(f"{self._decoys[self._newest]}{'-' * _DIGEST_CHARS}", _EPOCH),)
        self._current = tuple(
            f"{DIGEST_SCHEME}{pepper}$" for pepper in (self._newest, self._password_pepper) if pepper
        )

    def __repr__(self) -> str:
        return f"<Hasher, peppers: {len(self._peppers) - 1}>"

    def hash(self, secret: str, *, salt: str | None = None) -> str:
        """Hash a secret: a generated one as a digest, any other with Argon2id.

        Args:
            secret: A secret that ``check_secret`` accepts.
            salt: For a digest; see ``digest_secret``.

        Raises:
            MissingExtra: The secret is a password, and argon2-cffi is not installed.
        """
        if classify(secret) is SecretShape.GENERATED:
            return self.digest_secret(secret, salt=salt)
        if self._password_pepper is not None:
            return self._digest_with(secret, self._password_pepper, salt)
        return hash_password(secret)

    def digest_secret(self, secret: str, *, salt: str | None = None) -> str:
        """Hash a secret of high entropy.

        Args:
            secret: A generated secret, or any secret if the pepper is a random key that is stored nowhere.
            salt: 16 characters of URL-safe base64. The secrets of a key share one salt, so that verification
                computes one digest however many there are. None creates a new salt.
        """
        return self._digest_with(secret, self._newest, salt)

    def verify_digest(self, secret: str, candidates: Sequence[H], *, is_generated: bool = False) -> H | None:
        """Find the stored secret that matches, among those stored as digests.

        Computes one digest for each configured pepper and makes ``MAX_ACTIVE_SECRETS`` comparisons for each.
        Only a record with several salts, which this package never writes, costs more.

        Args:
            secret: The secret that was sent.
            candidates: The secrets of a key, or ``decoy_secrets``.
            is_generated: Whether it has the shape of a generated secret. Then passwords are not compared.

        Returns:
            The element of ``candidates`` that matches; None if none does.

        Raises:
            UnreadableRecord: A stored hash is damaged, its pepper is not configured, or there are more
                secrets than a key may have.
        """
        if len(candidates) > MAX_SECRETS:
            raise UnreadableRecord(f"the key has more than {MAX_SECRETS} secrets")
        encoded = secret.encode()
        computed: dict[str, str] = {}  # by prefix: scheme, pepper and salt
        decoys = self._decoys.copy()
        skipped = self._password_prefixes if is_generated else PASSWORD_SCHEMES
        if is_generated and self._password_pepper is not None:
            del decoys[self._password_pepper]
        found: H | None = None
        compared = 0
        for candidate in candidates:
            text = candidate.hash
            prefix = text[:-_DIGEST_CHARS]
            if prefix not in computed:
                if text.startswith(skipped):
                    continue
                pepper, salt = self._parse_prefix(prefix)
                computed[prefix] = prefix + self._blake2b(encoded, pepper, salt)
                decoys.pop(pepper, None)
            try:
                if compare_digest(computed[prefix], text):
                    found = candidate
            except TypeError:  # not ASCII
                raise UnreadableRecord("a stored hash is damaged") from None
            compared += 1
        # Always run the decoys: a matching secret may still be refused (expired key).
        for prefix in decoys.values():
            pepper, salt = self._parse_prefix(prefix)
            computed[prefix] = prefix + self._blake2b(encoded, pepper, salt)
        for _ in range(MAX_ACTIVE_SECRETS * len(computed) - compared):
            compare_digest(_DUMMY, _DUMMY)
        return found

    def needs_rehash(self, hashed: str) -> bool:
        """Whether a stored hash differs in pepper, scheme or cost from what ``hash`` would create now."""
        return not (hashed.startswith(self._current) or has_current_cost(hashed))

    def is_password(self, hashed: str) -> bool:
        """Whether a stored hash is that of a password."""
        return is_password_hash(hashed) or (
            self._password_pepper is not None and self._pepper_of(hashed) == self._password_pepper
        )

    def has_pepper(self, hashed: str) -> bool:
        """Whether a hash can be verified: its pepper is configured, or it is a password hash."""
        return self._pepper_of(hashed) in self._peppers or is_password_hash(hashed)

    def _pepper_of(self, hashed: str) -> str:
        return hashed.removeprefix(DIGEST_SCHEME).partition("$")[0]

    def _digest_with(self, secret: str, pepper: str, salt: str | None) -> str:
        if salt is None:
            salt = next(salts(1))
        return f"{DIGEST_SCHEME}{pepper}${salt}${self._blake2b(secret.encode(), pepper, salt)}"

    def _parse_prefix(self, prefix: str) -> tuple[str, str]:
        match = DIGEST_PREFIX_RE.fullmatch(prefix)
        if match is None or not (match[1] in self._peppers or self._adopt(match[1])):
            raise UnreadableRecord("a stored hash is damaged, or its pepper is not configured")
        return match[1], match[2]

    def _adopt(self, pepper: str) -> bool:
        """Use a random key of this process, if ``pepper`` is one; returns whether it is.

        A custom store may return keys of ``memory:``. From its first such key on, decoys use that pepper too.
        """
        key = _PROCESS_KEYS.get(pepper)
        if key is not None:
            self._peppers[pepper] = key
            self._decoys[pepper] = f"{DIGEST_SCHEME}{pepper}${_DECOY_SALT}$"
        return key is not None

    def _blake2b(self, secret: bytes, pepper: str, salt: str) -> str:
        digest = blake2b(
            secret, digest_size=_DIGEST_BYTES, key=self._peppers[pepper], salt=salt.encode(), person=_PERSON
        ).digest()
        return b2a_base64(digest).translate(_URL_SAFE)[:_DIGEST_CHARS].decode()


def salts(count: int) -> Iterator[str]:
    """Create salts for digests, with one read of the system's random generator."""
    text = urlsafe_b64encode(secrets.token_bytes(count * _SALT_BYTES)).decode()
    for start in range(0, len(text), _SALT_CHARS):
        yield text[start : start + _SALT_CHARS]


def salt_of(candidates: Iterable[Secret]) -> str | None:
    """The salt of the first digest, which the next secret of the key shares; None if there is no digest."""
    for candidate in candidates:
        if match := DIGEST_PREFIX_RE.match(candidate.hash):
            return match[2]
    return None


def pepper_id(pepper: bytes) -> str:
    """Name a pepper in stored hashes without revealing it: 8 hexadecimal digits."""
    return blake2b(pepper, digest_size=4, person=b"basicauth_mw/id").hexdigest()


def _keys_by_id(peppers: Iterable[bytes]) -> dict[str, bytes]:
    # A BLAKE2b key has at most 64 bytes, so a pepper of any length is first hashed to 32.
    return {pepper_id(pepper): blake2b(pepper, digest_size=32).digest() for pepper in peppers}


_PROCESS_KEYS: Final = _keys_by_id((_PROCESS_DIGEST_KEY, _PROCESS_PASSWORD_KEY))


def hash_secret(secret: str, *, pepper: Sequence[str] = ()) -> str:
    """Hash a secret as a key backend stores it, for custom stores.

    Args:
        secret: 1 to 1024 bytes of UTF-8. A generated secret becomes a BLAKE2b digest; any other secret is
            hashed with Argon2id, which takes tens of milliseconds.
        pepper: The peppers, newest first, as in ``settings.pepper``. Only digests use them.

    Returns:
        ``$bamw1$...`` or ``$argon2id$...``, for ``Secret.hash``.

    Raises:
        InvalidKey: The secret is invalid, or ``pepper`` is not a list.
        MissingExtra: The secret is a password, and argon2-cffi is not installed.

    Example::

        Key("ci", secrets=(Secret(hash_secret(secret, pepper=settings.pepper)),))
    """
    check_secret(secret)
    if isinstance(pepper, str):
        raise InvalidKey("pepper is a list of texts, as in settings.pepper")
    return Hasher([each.encode() for each in pepper]).hash(secret)
