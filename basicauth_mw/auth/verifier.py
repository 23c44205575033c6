"""The verdict, without I/O: what has to be asked is yielded, and the answer sent back in.

``runner.py`` runs the steps for the synchronous and the asynchronous world; nothing here knows of either.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final, NamedTuple

from ..backends.codec import StoredRecord, as_key
from ..errors import BackendError, InvalidCredentials, MalformedCredentials, UnreadableRecord
from ..keys.credentials import is_usual_spelling, split_basic
from ..keys.generated_secrets import SecretShape, classify
from ..keys.hashing import is_password_hash
from ..keys.model import Allow, Decision, Deny, Key, Principal, Secret, utcnow
from ..keys.validation import MAX_ID_OCTETS, MAX_SECRET_OCTETS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from datetime import datetime

    from ..keys.hashing import Hashed, Hasher
    from .cache import LookupStamp, VerdictCache

_MALFORMED: Final = MalformedCredentials()
_FOUND: Final = (Key, StoredRecord)  # a union would be built anew for each lookup


class Lookup(NamedTuple):
    """Effect: look up a key. The result is the key, or None.

    Attributes:
        client_id: ID of the key.
        for_password: Whether ``has_password_hashes`` must be up to date afterwards.
    """

    client_id: str
    for_password: bool


class VerifyPassword(NamedTuple):
    """Compare a secret with slow hashes, or with a decoy if there are none, off the event loop.

    The answer is the index of the hash that matches, or None.
    """

    secret: str
    hashes: tuple[str, ...]

    def __repr__(self) -> str:
        return "SlowCheck(...)"


Effect = Lookup | VerifyPassword
Steps = Generator[Effect, object, Decision]


class PendingVerification:
    """A well-formed credential that nothing is known of yet. Each iteration runs the steps anew.

    Attributes:
        client_id: Whose it is said to be.
        is_minted: Whether its secret looks like a minted one: then it needs a look-up and no slow hash.
        flight: Checks that are equal in this, and are under way at once, may share one verdict: those of one
            field value, as far as nothing has changed between them. None: it is not shared.
    """

    __slots__ = ("_asked", "_field", "_secret", "_verifier", "client_id", "flight", "is_generated")

    def __init__(
        self, verifier: Verifier, field: bytes, client_id: str, secret: str, *, is_generated: bool
    ) -> None:
        cache = verifier.cache
        self._verifier = verifier
        self._field = field
        self._secret = secret
        self._asked = asked = cache.stamp()
        self.client_id = client_id
        self.is_generated = is_generated
        # Who wants nothing remembered is not given what was asked for an earlier request either.
        self.flight: Hashable = (asked.epoch, field) if cache.enabled else None

    def __repr__(self) -> str:
        return f"<Check of {self.client_id!r}>"

    def __iter__(self) -> Steps:
        return self._verifier.steps(self._field, self.client_id, self._secret, self.is_generated, self._asked)

    def known(self) -> Allow | None:
        """What was proved meanwhile."""
        return self._verifier.cache.get(self._field)

    def failed(self, error: BackendError) -> Deny:
        """The verdict if the store cannot be asked."""
        # Without its frames, which hold the secret.
        return Deny(error.with_traceback(None), "backend_unavailable", self.client_id)


class Verifier:
    """Turns the value of an Authorization field into a verdict.

    Args:
        hasher: Checks fast hashes.
        cache: Remembers good verdicts.
        has_password_hashes: Whether the store may hold a password hash.
        on_verified: Called with every verified secret: client id, stored secret, secret in clear.
        now: The time, timezone-aware.
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

    def begin(self, field: bytes) -> Deny | PendingVerification:
        """Look at a field value that is not in the cache: refuse it if no key can have it."""
        try:
            client_id, secret = split_basic(field)
        except MalformedCredentials as exc:
            return Deny(_MALFORMED, "malformed", detail=str(exc))
        if len(client_id.encode()) > MAX_ID_OCTETS or len(secret.encode()) > MAX_SECRET_OCTETS:
            return Deny(_MALFORMED, "malformed", client_id, detail="too long")
        shape = classify(secret)
        if shape is SecretShape.BAD_CHECKSUM:
            return Deny(InvalidCredentials(), "malformed", client_id, detail="mistyped secret")
        return PendingVerification(
            self, field, client_id, secret, is_generated=shape is SecretShape.GENERATED
        )

    def steps(
        self, field: bytes, client_id: str, secret: str, is_generated: bool, asked: LookupStamp
    ) -> Steps:
        """Decide on a well-formed credential.

        Each goes the whole way, whatever is found: one look-up, the fast hashes, and, if its secret was
        chosen by a person and the store holds slow hashes at all, one slow hash. Only then is it asked
        whether the key is revoked, disabled or expired.

        Args:
            field: The field value.
            client_id: Of it.
            secret: Of it.
            is_minted: Whether the secret looks like a minted one.
            asked: When the check began.
        """
        try:
            found = yield Lookup(client_id, not is_generated)
            if not (found is None or isinstance(found, _FOUND)):
                raise TypeError("the result of a lookup is a key or None")
            stored: Sequence[Hashed] = self._hasher.decoy_secrets if found is None else found.secrets
            match = self._hasher.verify_digest(secret, stored, is_generated=is_generated)
            if match is None and not is_generated:
                match = yield from self._verify_password(secret, stored)
            key = None if match is None else as_key(found)
            if key is None or match is None:
                return Deny(InvalidCredentials(), "unknown" if found is None else "wrong_secret", client_id)
            return self._verdict(field, key, key.secrets[stored.index(match)], secret, asked)
        except BackendError as exc:
            # Without its frames, which hold the secret.
            return Deny(exc.with_traceback(None), "backend_unavailable", client_id)
        except (AttributeError, TypeError, ValueError) as exc:
            # A Key of somebody's own making that is not what its types say: it never authenticates.
            error = UnreadableRecord(f"its key is not made as it should be ({type(exc).__name__})")
            return Deny(error, "backend_unavailable", client_id)

    def _verdict(self, field: bytes, key: Key, match: Secret, secret: str, asked: LookupStamp) -> Decision:
        """On a secret that is the key's."""
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
        if is_usual_spelling(field):
            self.cache.put(
                field, allow, secret_created_at=match.created_at, expires_at=expires_at, stamp=asked
            )
        if self._on_verified is not None:
            self._on_verified(client_id, match, secret)
        return allow

    def _verify_password(
        self, secret: str, stored: Sequence[Hashed]
    ) -> Generator[Effect, object, Hashed | None]:
        slow = [candidate for candidate in stored if is_password_hash(candidate.hash)]
        if len(slow) > 1:
            raise UnreadableRecord("it holds more than one slow hash, and each would cost its own")
        if not slow and not self._has_password_hashes():
            return None
        index = yield VerifyPassword(secret, tuple(candidate.hash for candidate in slow))
        return slow[index] if type(index) is int else None
