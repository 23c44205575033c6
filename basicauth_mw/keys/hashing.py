"""How secrets are stored and compared.

Two kinds of hash. A minted secret has 256 bits of entropy, so one fast hash is enough: BLAKE2b (RFC 7693),
salted, and keyed with a pepper if there is one::

    $bamw1$<pepper id>$<salt>$<digest>

A secret that a person chose needs a slow one: Argon2id (RFC 9106), as a PHC string; bcrypt is understood
too, so that keys can be moved here from elsewhere.

What a refusal costs must not depend on the record, or it would tell whether an id exists. So a refusal
runs the same number of fast hashes and of comparisons whatever was found, and at most one slow hash,
of the record or of a decoy.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from datetime import UTC, datetime
from hashlib import blake2b
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ..errors import InvalidKey, UnreadableRecord
from ..runtime.extras import require
from .generated_secrets import SecretShape, classify
from .model import Secret
from .validation import check_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .model import Key


class Hashed(Protocol):
    """A secret as it is stored: a ``Secret``, or one that is decoded in part."""

    @property
    def hash(self) -> str: ...


H = TypeVar("H", bound=Hashed)

MAX_LIVE_SECRETS: Final = 8
MAX_SECRETS: Final = 16  # with those that have ended

_FAST: Final = "$bamw1$"
_PERSON: Final = b"basicauth_mw/1"
_NO_PEPPER: Final = "0"
_SALT_OCTETS: Final = 12
_SALT_LETTERS: Final = 16  # in the stored text, which are what BLAKE2b is salted with
_DIGEST_OCTETS: Final = 32
_DIGEST_LETTERS: Final = 43
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")

# A salt that no hash has, and something as long as a hash.
_NOBODY: Final = "A" * 16
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_NOTHING: Final = f"{_FAST}{_NO_PEPPER}${_NOBODY}${'-' * _DIGEST_LETTERS}"

# OWASP's minimum for Argon2id (Password Storage Cheat Sheet): it is paid per uncached request, and
# slow_hash_workers times this memory is what all logins together may take.
ARGON2_TIME_COST: Final = 2
ARGON2_MEMORY_KIB: Final = 19 * 1024
ARGON2_LANES: Final = 1

BCRYPT_MAX_OCTETS: Final = 72

# Nobody may make one check cost more than this, not even who imports a hash.
_MAX_ARGON2_MEMORY_KIB: Final = 128 * 1024
_MAX_ARGON2_TIME_COST: Final = 8
_MAX_ARGON2_LANES: Final = 16
_MAX_BCRYPT_COST: Final = 14

# Key the digests of stores that live only as long as the process: no hash of theirs means anything outside.
# Two, so that a chosen secret can be told from a minted one there, too.
_PROCESS_MINTED: Final = secrets.token_bytes(32)
_PROCESS_CHOSEN: Final = secrets.token_bytes(32)

# A fast hash up to its digest, which is told by its length, and the whole of it.
_FAST_HEAD = re.compile(r"\$bamw1\$(0|[0-9a-f]{8})\$([A-Za-z0-9_-]{16})\$")
_FAST_FORM = re.compile(rf"{_FAST_HEAD.pattern}[A-Za-z0-9_-]{{43}}")
_ARGON2_FORM = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,6}),t=([1-9][0-9]?),p=([1-9][0-9]?)"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{16,86})"
)
_BCRYPT_FORM = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_SLOW: Final[tuple[str, ...]] = ("$argon2id$", "$2a$", "$2b$", "$2y$")
_WEAK = {
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
    "{SHA}": "unsalted SHA-1",
    "{SSHA}": "salted SHA-1",
    "{SHA": "SHA-2 without a cost",
    "{SSHA": "SHA-2 without a cost",
}


# How all of them begin.
_ANY = (_FAST, *_SLOW, *_WEAK)


def is_slow(stored: str) -> bool:
    """Tell whether a stored hash is of a kind for human-chosen secrets."""
    return stored.startswith(_SLOW)


def has_slow_hash(key: Key) -> bool:
    """Whether a secret of a key is stored as a slow hash."""
    return any([is_slow(secret.hash) for secret in key.secrets])  # noqa: C419 - few, and it is quicker


def looks_hashed(text: str) -> bool:
    """Tell whether ``text`` begins like a hash, accepted or weak, and so is not a plain secret."""
    return text.startswith(_ANY)


def unsupported_scheme(name: str) -> InvalidKey:
    """The error for a hash of a scheme that is not taken, which says what is."""
    return InvalidKey(
        f"hashes of this kind are not accepted, only Argon2id and bcrypt (as of htpasswd -B): {name}"
    )


def check_hash(stored: str) -> None:
    """Make sure that a hash from elsewhere can be used.

    Args:
        stored: ``$bamw1$``, ``$argon2id$``, ``$2a$``, ``$2b$`` or ``$2y$``.

    Raises:
        InvalidKey: Another scheme, which is named, a damaged hash, or one too costly to check per request.
    """
    if _FAST_FORM.fullmatch(stored):
        return
    for prefix, name in _WEAK.items():
        if stored.startswith(prefix):
            raise unsupported_scheme(name)
    if form := _ARGON2_FORM.fullmatch(stored):
        memory, time, lanes = (int(number) for number in form.groups()[:3])
        if not (
            8 * lanes <= memory <= _MAX_ARGON2_MEMORY_KIB
            and time <= _MAX_ARGON2_TIME_COST
            and lanes <= _MAX_ARGON2_LANES
        ):
            raise InvalidKey("this Argon2id hash is out of bounds (at most m=131072, t=8, p=16)")
        if not all(_is_canonical(part) for part in form.groups()[3:]):
            raise InvalidKey("this Argon2id hash is damaged")
        return
    if form := _BCRYPT_FORM.fullmatch(stored):
        if not 4 <= int(form[1]) <= _MAX_BCRYPT_COST:
            raise InvalidKey("this bcrypt hash is out of bounds (cost 4 to 14)")
        return
    raise InvalidKey("not a hash that is understood here: use $argon2id$, $2a$, $2b$ or $2y$")


class Hasher:
    """Makes and checks stored hashes; pure CPU work, safe to share between threads.

    Args:
        peppers: Keys for the fast hash, newest first. New hashes use the first; all are tried. A hash made
            without a pepper stays valid when one is added later.
        volatile: The hashes live only as long as this process. Then all of them, those of chosen secrets too,
            are fast ones under random keys that are kept nowhere.

    Attributes:
        nobodys: The secrets of an unknown id: one that no secret is, so that it is checked as a known one's.
    """

    def __init__(self, peppers: Sequence[bytes] = (), *, volatile: bool = False) -> None:
        if volatile:
            peppers = [_PROCESS_MINTED, _PROCESS_CHOSEN, *peppers]
        # BLAKE2b takes a key of at most 64 octets, so a pepper of any length is first brought to 32.
        self._peppers = {pepper_id(pepper): blake2b(pepper, digest_size=32).digest() for pepper in peppers}
        self._peppers[_NO_PEPPER] = b""
        self._decoys = {pepper: f"{_FAST}{pepper}${_NOBODY}$" for pepper in self._peppers}
        self._newest = next(iter(self._peppers))
        self._chosen = pepper_id(_PROCESS_CHOSEN) if volatile else None
        # How the hashes of chosen secrets begin.
        self._chosen_heads: tuple[str, ...] = (*_SLOW, f"{_FAST}{self._chosen}$") if volatile else _SLOW
        self.decoy_secrets = (Secret(f"{self._decoys[self._newest]}{'-' * _DIGEST_LETTERS}", _EPOCH),)
        self._current = tuple(f"{_FAST}{pepper}$" for pepper in (self._newest, self._chosen) if pepper)

    def __repr__(self) -> str:
        return f"<Hasher, peppers: {len(self._peppers) - 1}>"

    def hash(self, secret: str, *, salt: str | None = None) -> str:
        """Hash a secret the way its shape asks for: minted ones fast, any other with Argon2id.

        Args:
            secret: Checked before.
            salt: For the fast hash; see ``digest_secret``.

        Raises:
            MissingExtra: A chosen secret, and argon2-cffi is not installed.
        """
        if classify(secret) is SecretShape.GENERATED:
            return self.digest_secret(secret, salt=salt)
        if self._chosen is not None:
            return self._hash_fast(secret, self._chosen, salt)
        return hash_password(secret)

    def digest_secret(self, secret: str, *, salt: str | None = None) -> str:
        """Hash a secret of high entropy.

        Args:
            secret: A minted secret, or any secret where the pepper is a random key that is kept nowhere.
            salt: 16 characters of URL-safe base64, to share one salt between the secrets of a key, so that
                checking costs one hash however many there are; None: a new one.
        """
        return self._hash_fast(secret, self._newest, salt)

    def verify_digest(self, secret: str, stored: Sequence[H], *, is_generated: bool = False) -> H | None:
        """Find the stored secret that ``secret`` is, among those with a fast hash.

        It always costs one hash for each pepper in force and ``MAX_LIVE_SECRETS`` comparisons for each; only
        a record that mixes salts, which this package never writes, costs more.

        Args:
            secret: What was sent.
            stored: What a key has, or ``decoy_secrets``.
            is_minted: It looks minted, so it is no chosen one, and none of those need be looked at.

        Raises:
            UnreadableRecord: A stored hash is damaged, its pepper is not among those in force, or
                there are more secrets than a key may have.
        """
        if len(stored) > MAX_SECRETS:
            raise UnreadableRecord(f"it holds more than {MAX_SECRETS} secrets, and each would cost its own")
        octets = secret.encode()
        hashed: dict[str, str] = {}  # by what comes before the digest: kind, pepper and salt
        decoys = self._decoys.copy()
        passed_over = self._chosen_heads if is_generated else _SLOW
        if is_generated and self._chosen is not None:
            del decoys[self._chosen]
        found: H | None = None
        compared = 0
        for candidate in stored:
            text = candidate.hash
            head = text[:-_DIGEST_LETTERS]
            if head not in hashed:
                if text.startswith(passed_over):
                    continue
                pepper, salt = self._parts(head)
                hashed[head] = head + self._digest(octets, pepper, salt)
                decoys.pop(pepper, None)
            try:
                if compare_digest(hashed[head], text):
                    found = candidate
            except TypeError:  # not ASCII
                raise UnreadableRecord("a stored hash is damaged") from None
            compared += 1
        # Found or not: the right secret of a key that has ended is refused as well.
        for head in decoys.values():
            pepper, salt = self._parts(head)
            hashed[head] = head + self._digest(octets, pepper, salt)
        for _ in range(MAX_LIVE_SECRETS * len(hashed) - compared):
            compare_digest(_NOTHING, _NOTHING)
        return found

    def is_current(self, stored: str) -> bool:
        """Tell whether a stored hash is what would be made today; if not, a good login may replace it."""
        if stored.startswith(self._current):
            return True
        form = _ARGON2_FORM.fullmatch(stored)
        return form is not None and tuple(map(int, form.groups()[:3])) == (
            ARGON2_MEMORY_KIB,
            ARGON2_TIME_COST,
            ARGON2_LANES,
        )

    def is_password(self, stored: str) -> bool:
        """Tell whether a stored hash is that of a secret that somebody chose."""
        return is_slow(stored) or (self._chosen is not None and self._pepper_of(stored) == self._chosen)

    def is_known(self, stored: str) -> bool:
        """Tell whether a hash can be checked: it is a slow one, or its pepper is among those in force."""
        return self._pepper_of(stored) in self._peppers or is_slow(stored)

    def _pepper_of(self, stored: str) -> str:
        return stored.removeprefix(_FAST).partition("$")[0]

    def _hash_fast(self, secret: str, pepper: str, salt: str | None) -> str:
        if salt is None:
            salt = next(salts(1))
        return f"{_FAST}{pepper}${salt}${self._digest(secret.encode(), pepper, salt)}"

    def _parts(self, head: str) -> tuple[str, str]:
        """Pepper and salt, of a hash up to its digest."""
        form = _FAST_HEAD.fullmatch(head)
        if form is None or form[1] not in self._peppers:
            raise UnreadableRecord("a stored hash is damaged, or its pepper is not configured")
        return form[1], form[2]

    def _digest(self, secret: bytes, pepper: str, salt: str) -> str:
        digest = blake2b(
            secret, digest_size=_DIGEST_OCTETS, key=self._peppers[pepper], salt=salt.encode(), person=_PERSON
        ).digest()
        return b2a_base64(digest).translate(_URL_SAFE)[:_DIGEST_LETTERS].decode()


def _is_canonical(base64: str) -> bool:
    """Whether unpadded base64 is what its octets are encoded to."""
    padded = f"{base64}{'=' * (-len(base64) % 4)}".encode()
    try:
        return b2a_base64(a2b_base64(padded), newline=False) == padded
    except Base64Error:
        return False


def salts(count: int) -> Iterator[str]:
    """New salts for fast hashes; for many of them the operating system is asked but once."""
    letters = urlsafe_b64encode(secrets.token_bytes(count * _SALT_OCTETS)).decode()
    for start in range(0, len(letters), _SALT_LETTERS):
        yield letters[start : start + _SALT_LETTERS]


def salt_of(stored: Iterable[Secret]) -> str | None:
    """The salt of the first fast hash, which a key's next one is to share; None: there is none."""
    for candidate in stored:
        if form := _FAST_HEAD.match(candidate.hash):
            return form[2]
    return None


def pepper_id(pepper: bytes) -> str:
    """Name a pepper in stored hashes without telling it: 8 hexadecimal digits."""
    return blake2b(pepper, digest_size=4, person=b"basicauth_mw/id").hexdigest()


def hash_password(secret: str) -> str:
    """Hash a secret that a person chose, with Argon2id.

    Takes tens of milliseconds and ``ARGON2_MEMORY_KIB`` KiB: never call it on an event loop.

    Raises:
        MissingExtra: argon2-cffi is not installed.
    """
    hashed: str = _argon2().hash(secret)
    return hashed


def verify_password(secret: str, stored: str) -> bool:
    """Check a secret against an Argon2id or bcrypt hash. As costly as ``hash_password``.

    Raises:
        UnreadableRecord: The hash is damaged or of another kind.
        MissingExtra: The library for it is not installed.
    """
    try:
        check_hash(stored)
    except InvalidKey as exc:
        raise UnreadableRecord(str(exc)) from None
    octets = secret.encode()
    if stored.startswith("$2"):
        bcrypt = require("bcrypt", extra="passwords")
        # bcrypt looks at 72 octets and no further: a longer secret would match by its beginning.
        # It is refused, and costs what every other refusal costs.
        try:
            matches: bool = bcrypt.checkpw(octets[:BCRYPT_MAX_OCTETS], stored.encode())
        except ValueError:
            raise UnreadableRecord("a stored bcrypt hash cannot be checked") from None
        return matches and len(octets) <= BCRYPT_MAX_OCTETS
    argon2 = require("argon2", extra="passwords")
    try:
        return bool(argon2.low_level.verify_secret(stored.encode(), octets, argon2.low_level.Type.ID))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except argon2.exceptions.VerificationError as exc:
        raise UnreadableRecord("a stored Argon2id hash cannot be checked") from exc


_decoy: str | None = None


def dummy_password_hash() -> str:
    """A hash of an unknown password, with the parameters of ``hash_password``; one per process."""
    global _decoy  # made once, on first use: it costs a slow hash itself
    if _decoy is None:
        _decoy = hash_password(secrets.token_urlsafe(32))
    return _decoy


def _argon2() -> Any:
    argon2 = require("argon2", extra="passwords")
    return argon2.PasswordHasher(
        time_cost=ARGON2_TIME_COST, memory_cost=ARGON2_MEMORY_KIB, parallelism=ARGON2_LANES
    )


def hash_secret(secret: str, *, pepper: Sequence[str] = ()) -> str:
    """Hash a secret the way a key backend stores it; for those who write a store of their own.

    Args:
        secret: 1 to 1024 octets. Minted ones get the fast hash, any other Argon2id, which takes tens of
            milliseconds.
        pepper: The peppers of the settings, newest first: ``settings.pepper``. Used by the fast hash only.

    Returns:
        ``$bamw1$...`` or ``$argon2id$...``, for ``Secret.hash``.

    Raises:
        InvalidKey: Not a secret that a key may have, or it looks minted and its checksum is wrong; or the
            peppers are not a list.
        MissingExtra: A chosen secret, and argon2-cffi is not installed.
    """
    check_secret(secret)
    if isinstance(pepper, str):
        raise InvalidKey("pepper is a list of texts, as in settings.pepper")
    return Hasher([each.encode() for each in pepper]).hash(secret)
