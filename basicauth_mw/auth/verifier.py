"""Decide on an Authorization header without I/O.

The verifier is sans-I/O, and one implementation serves threads and event loops. ``Verifier.parse`` refuses a
header that no key can have, or returns a ``PendingVerification``. Its ``decide`` takes the result of the
lookup and returns the decision, or the ``VerifyPassword`` to perform first. ``runner.py`` performs both.

Every refusal takes all steps, whatever the lookup found: one lookup, the digests, and for a password one
password hash if the store has any. Only then is the state of the key considered. So neither the time nor the
response reveals whether an ID exists.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..backends.codec import (
    StoredRecord,
    StoredSecret,
    load_decoy_details,
    stored_secret,
    to_microseconds,
)
from ..errors import BackendError, InvalidCredentials, MalformedCredentials, UnreadableRecord
from ..keys.authorization_header import decode_basic, is_canonical
from ..keys.generated_secrets import SecretShape, classify
from ..keys.hashing import is_password_hash
from ..keys.model import Decision, Deny, Key, Principal, utcnow
from ..keys.validation import MAX_ID_BYTES, MAX_SECRET_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from datetime import datetime

    from ..keys.hashing import Hasher
    from ..keys.model import Secret
    from .cache import VerificationCache

MALFORMED: Final = MalformedCredentials()
INVALID: Final = InvalidCredentials()
# What a Key from a third-party store with fields of wrong types raises.
_DAMAGE: Final = (BackendError, AttributeError, TypeError, ValueError)


class VerifyPassword(NamedTuple):
    """Verify a secret against password hashes, or against a decoy if there are none.

    It must not run on an event loop.

    Attributes:
        secret: The secret.
        hashes: The stored hashes, at most one.
        conclude: Returns the decision; takes the index of the hash that matches, or None.
    """

    secret: str
    hashes: tuple[str, ...]
    conclude: Callable[[object], Decision]

    def __repr__(self) -> str:
        return "VerifyPassword(...)"


class PendingVerification:
    """Well-formed credentials that are not in the cache.

    Attributes:
        client_id: The client ID that was sent.
        is_generated: Whether the secret has the shape of a generated one, which needs no password hash.
    """

    __slots__ = ("_header", "_secret", "_stamp", "_verifier", "client_id", "is_generated")

    def __init__(
        self, verifier: Verifier, header: bytes, client_id: str, secret: str, *, is_generated: bool
    ) -> None:
        self._verifier = verifier
        self._header = header
        self._secret = secret
        self._stamp = verifier.cache.stamp()
        self.client_id = client_id
        self.is_generated = is_generated

    def __repr__(self) -> str:
        return f"<PendingVerification of {self.client_id!r}>"

    @property
    def share_key(self) -> Hashable:
        """Verifications with the same key that run at the same time may share one decision.

        It is the header, with no change of keys in between. None: it is not shared.
        """
        # With the cache off, decisions are not shared between concurrent requests either.
        return (self._stamp[0], self._header) if self._verifier.cache.enabled else None

    def cached(self) -> Principal | None:
        """The decision, if it was cached in the meantime."""
        return self._verifier.cache.get(self._header)

    def decide(self, found: object) -> Decision | VerifyPassword:
        """Decide by the result of the lookup, or return the password to verify first."""
        verifier, secret = self._verifier, self._secret
        try:
            if found is None:
                stored: Sequence[Secret | StoredSecret] = verifier.hasher.decoy_secrets
            elif isinstance(found, StoredRecord) or isinstance(found, Key):  # noqa: SIM101 - a tuple is slower
                stored = found.secrets
            else:
                raise TypeError("the result of a lookup is a key or None")
            match = verifier.hasher.verify_digest(secret, stored, is_generated=self.is_generated)
            if match is None and not self.is_generated:
                candidates = [each for each in stored if is_password_hash(each.hash)]
                if len(candidates) > 1:
                    raise UnreadableRecord(
                        "the key has more than one password hash, and each makes a refusal slower"
                    )
                if candidates or verifier.has_password_hashes():
                    hashes = tuple([each.hash for each in candidates])
                    return VerifyPassword(secret, hashes, partial(self._conclude, found, candidates))
            return self._decide(found, match)
        except _DAMAGE as exc:
            return self.deny(exc)

    def deny(self, error: Exception) -> Deny:
        """The decision if the store is unavailable, or the key is damaged and never authenticates."""
        if not isinstance(error, BackendError):
            error = UnreadableRecord(f"the store returned an invalid key ({type(error).__name__})")
        # Without its traceback, whose frames hold the secret.
        return Deny(error.with_traceback(None), "backend_unavailable", self.client_id)

    def _conclude(
        self,
        found: Key | StoredRecord | None,
        candidates: Sequence[Secret | StoredSecret],
        index: object,
    ) -> Decision:
        try:
            return self._decide(found, candidates[index] if type(index) is int else None)
        except _DAMAGE as exc:
            return self.deny(exc)

    def _decide(self, found: Key | StoredRecord | None, match: Secret | StoredSecret | None) -> Decision:
        """Decide by the state of the key, once the secret is verified."""
        client_id = self.client_id
        if found is None:
            return Deny(INVALID, "unknown", client_id)
        if match is None:
            if type(found) is StoredRecord:
                load_decoy_details()  # the right secret of a revoked key decodes its details
            return Deny(INVALID, "wrong_secret", client_id)
        state: tuple[Any, Any, Any]
        if isinstance(found, Key):  # its times are not converted: to refuse it must not take longer
            identity = found.name, found.scopes, found.metadata
            state = found.revoked_at, found.disabled, found.expires_at
        else:
            key = found.load_fields()
            identity = key["name"], key["scopes"], key.get("meta", {})
            state = key.get("revoked"), key.get("disabled"), key.get("expires")
        revoked, disabled, end = state
        if revoked is not None:
            return Deny(INVALID, "revoked", client_id)
        if disabled:
            return Deny(INVALID, "disabled", client_id)
        verifier = self._verifier
        expires_at: Any = match.expires_at
        if end is not None and (expires_at is None or end < expires_at):
            expires_at = end
        if expires_at is not None:
            now = verifier.now()
            if expires_at <= (now if isinstance(found, Key) else to_microseconds(now)):
                return Deny(INVALID, "expired", client_id)
            expires_at = expires_at.timestamp() if isinstance(found, Key) else expires_at / 1_000_000
        principal = Principal(client_id, *identity)
        secret = match if isinstance(match, StoredSecret) else stored_secret(match)
        if is_canonical(self._header):
            verifier.cache.put(
                self._header,
                principal,
                secret_created_at=secret.created_at,
                expires_at=expires_at,
                stamp=self._stamp,
            )
        if verifier.on_verified is not None:
            verifier.on_verified(client_id, secret, self._secret)
        return principal


class Verifier:
    """Turns the value of an Authorization header into a decision.

    Args:
        hasher: Verifies digests.
        cache: Caches the principals of verified credentials.
        has_password_hashes: Whether the store may hold a password hash.
        on_verified: Called with every verified secret: client ID, stored secret, secret in plain text.
        now: Returns the current time, timezone-aware.
    """

    def __init__(
        self,
        hasher: Hasher,
        cache: VerificationCache,
        *,
        has_password_hashes: Callable[[], bool] = lambda: True,
        on_verified: Callable[[str, StoredSecret, str], None] | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self.cache = cache
        self.hasher = hasher
        self.has_password_hashes = has_password_hashes
        self.on_verified = on_verified
        self.now = now

    def parse(self, header: bytes) -> Deny | PendingVerification:
        """Parse a header value that is not in the cache; refuse it if no key can have it."""
        try:
            client_id, secret = decode_basic(header)
        except MalformedCredentials as exc:
            return Deny(MALFORMED, "malformed", detail=str(exc))
        if len(client_id.encode()) > MAX_ID_BYTES or len(secret.encode()) > MAX_SECRET_BYTES:
            return Deny(MALFORMED, "malformed", client_id, detail="too long")
        shape = classify(secret)
        if shape is SecretShape.BAD_CHECKSUM:
            return Deny(INVALID, "malformed", client_id, detail="mistyped secret")
        return PendingVerification(
            self, header, client_id, secret, is_generated=shape is SecretShape.GENERATED
        )
