"""Decide on an Authorization header without I/O.

The verifier is sans-I/O, and one implementation serves threads and event loops. ``Verifier.parse`` refuses a
header that no key can have, or returns a ``PendingVerification``. Iterating over that runs a generator: it
yields an effect, ``Lookup`` or ``VerifyPassword``, receives its result with ``send`` (a ``BackendError`` with
``throw``), and returns the decision. ``runner.py`` performs the effects.

Every refusal takes all steps, whatever the lookup found: one lookup, the digests, and for a password one
password hash if the store has any. Only then is the state of the key considered. So neither the time nor the
response reveals whether an id exists.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final, NamedTuple

from ..backends.codec import StoredRecord, load_decoy_details
from ..errors import BackendError, InvalidCredentials, MalformedCredentials, UnreadableRecord
from ..keys.credentials import decode_basic, is_canonical
from ..keys.generated_secrets import SecretShape, classify
from ..keys.hashing import is_password_hash
from ..keys.model import Allow, Decision, Deny, Key, Principal, Secret, utcnow
from ..keys.validation import MAX_ID_BYTES, MAX_SECRET_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from datetime import datetime

    from ..keys.hashing import Hashed, Hasher
    from .cache import LookupStamp, VerdictCache

_MALFORMED: Final = MalformedCredentials()
_FOUND: Final = (Key, StoredRecord)  # isinstance would build a union again for each lookup


class Lookup(NamedTuple):
    """Effect: look up a key. The result is the key, or None.

    Attributes:
        client_id: ID of the key.
        for_password: Whether ``has_password_hashes`` must be up to date afterwards.
    """

    client_id: str
    for_password: bool


class VerifyPassword(NamedTuple):
    """Effect: verify a secret against password hashes, or against a decoy if there are none.

    The result is the index of the hash that matches, or None. It must not run on an event loop.
    """

    secret: str
    hashes: tuple[str, ...]

    def __repr__(self) -> str:
        return "VerifyPassword(...)"


Effect = Lookup | VerifyPassword
Steps = Generator[Effect, object, Decision]


class PendingVerification:
    """Well-formed credentials that are not in the cache. Each iteration runs the verification again.

    Attributes:
        client_id: The client ID that was sent.
        is_generated: Whether the secret has the shape of a generated one, which needs no password hash.
        share_key: Verifications with the same key that run at the same time may share one decision: the same
            header, with no change of keys in between. None: it is not shared.
    """

    __slots__ = ("_field", "_secret", "_stamp", "_verifier", "client_id", "is_generated", "share_key")

    def __init__(
        self, verifier: Verifier, field: bytes, client_id: str, secret: str, *, is_generated: bool
    ) -> None:
        cache = verifier.cache
        self._verifier = verifier
        self._field = field
        self._secret = secret
        self._stamp = stamp = cache.stamp()
        self.client_id = client_id
        self.is_generated = is_generated
        # With the cache off, decisions are not shared between concurrent requests either.
        self.share_key: Hashable = (stamp.epoch, field) if cache.enabled else None

    def __repr__(self) -> str:
        return f"<PendingVerification of {self.client_id!r}>"

    def __iter__(self) -> Steps:
        return self._verifier.steps(self._field, self.client_id, self._secret, self.is_generated, self._stamp)

    def cached(self) -> Allow | None:
        """The decision, if it was cached in the meantime."""
        return self._verifier.cache.get(self._field)

    def failed(self, error: BackendError) -> Deny:
        """The decision if the store is unavailable."""
        # Without its traceback, whose frames hold the secret.
        return Deny(error.with_traceback(None), "backend_unavailable", self.client_id)


class Verifier:
    """Turns the value of an Authorization header into a decision.

    Args:
        hasher: Verifies digests.
        cache: Caches decisions that allow a request.
        has_password_hashes: Whether the store may hold a password hash.
        on_verified: Called with every verified secret: client ID, stored secret, secret in plain text.
        now: Returns the current time, timezone-aware.
    """

    def __init__(
        self,
        hasher: Hasher,
        cache: VerdictCache,
        *,
        has_password_hashes: Callable[[], bool] = lambda: True,
        on_verified: Callable[[str, Secret, str], None] | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self.cache = cache
        self._hasher = hasher
        self._has_password_hashes = has_password_hashes
        self._on_verified = on_verified
        self._now = now

    def parse(self, field: bytes) -> Deny | PendingVerification:
        """Parse a header value that is not in the cache; refuse it if no key can have it."""
        try:
            client_id, secret = decode_basic(field)
        except MalformedCredentials as exc:
            return Deny(_MALFORMED, "malformed", detail=str(exc))
        if len(client_id.encode()) > MAX_ID_BYTES or len(secret.encode()) > MAX_SECRET_BYTES:
            return Deny(_MALFORMED, "malformed", client_id, detail="too long")
        shape = classify(secret)
        if shape is SecretShape.BAD_CHECKSUM:
            return Deny(InvalidCredentials(), "malformed", client_id, detail="mistyped secret")
        return PendingVerification(
            self, field, client_id, secret, is_generated=shape is SecretShape.GENERATED
        )

    def steps(
        self, field: bytes, client_id: str, secret: str, is_generated: bool, stamp: LookupStamp
    ) -> Steps:
        """Verify parsed credentials; see ``PendingVerification``."""
        try:
            found = yield Lookup(client_id, not is_generated)
            if not (found is None or isinstance(found, _FOUND)):
                raise TypeError("the result of a lookup is a key or None")
            stored: Sequence[Hashed] = self._hasher.decoy_secrets if found is None else found.secrets
            match = self._hasher.verify_digest(secret, stored, is_generated=is_generated)
            if match is None and not is_generated:
                match = yield from self._verify_password(secret, stored)
            if match is None and isinstance(found, StoredRecord):
                load_decoy_details()  # the right secret of a revoked key decodes its details
            if found is None or match is None:
                return Deny(InvalidCredentials(), "unknown" if found is None else "wrong_secret", client_id)
            key = found if isinstance(found, Key) else found.load_key()
            return self._decide(field, key, key.secrets[stored.index(match)], secret, stamp)
        except BackendError as exc:
            # Without its traceback, whose frames hold the secret.
            return Deny(exc.with_traceback(None), "backend_unavailable", client_id)
        except (AttributeError, TypeError, ValueError) as exc:
            # A Key from a third-party store with fields of wrong types never authenticates.
            error = UnreadableRecord(f"the store returned an invalid key ({type(exc).__name__})")
            return Deny(error, "backend_unavailable", client_id)

    def _decide(self, field: bytes, key: Key, match: Secret, secret: str, stamp: LookupStamp) -> Decision:
        """Decide by the state of the key, once the secret is verified."""
        client_id = key.client_id
        if key.revoked_at is not None:
            return Deny(InvalidCredentials(), "revoked", client_id)
        if key.disabled:
            return Deny(InvalidCredentials(), "disabled", client_id)
        expires_at = match.expires_at
        if key.expires_at is not None and (expires_at is None or key.expires_at < expires_at):
            expires_at = key.expires_at
        if expires_at is not None and expires_at <= self._now():
            return Deny(InvalidCredentials(), "expired", client_id)
        allow = Allow(Principal(client_id, key.name, key.scopes, key.metadata))
        if is_canonical(field):
            self.cache.put(
                field, allow, secret_created_at=match.created_at, expires_at=expires_at, stamp=stamp
            )
        if self._on_verified is not None:
            self._on_verified(client_id, match, secret)
        return allow

    def _verify_password(
        self, secret: str, stored: Sequence[Hashed]
    ) -> Generator[Effect, object, Hashed | None]:
        candidates = [each for each in stored if is_password_hash(each.hash)]
        if len(candidates) > 1:
            raise UnreadableRecord("the key has more than one password hash, and each makes a refusal slower")
        if not candidates and not self._has_password_hashes():
            return None
        index = yield VerifyPassword(secret, tuple(each.hash for each in candidates))
        return candidates[index] if type(index) is int else None
