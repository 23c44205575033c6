"""The verdict, without I/O: what has to be asked is yielded, and the answer sent back in.

``drive.py`` runs the steps for the synchronous and the asynchronous world; nothing here knows of either.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .credentials import Credentials, is_usual_spelling, parse_basic
from .errors import BackendError, InvalidCredentials, MalformedCredentials, UnreadableRecord
from .hashing import is_slow
from .minting import Shape, recognise
from .model import Allow, Decision, Deny, Key, Principal, Secret, utcnow
from .rules import MAX_ID_OCTETS, MAX_SECRET_OCTETS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from .cache import Cache
    from .hashing import Hasher


@dataclass(frozen=True, slots=True)
class Lookup:
    """Ask the store for a key; the answer is the key or None.

    Attributes:
        client_id: Whose.
        flight: Look-ups that are equal in this, too, may share one answer: those for one credential, as far
            as nothing has changed between them. None: it is not shared.
    """

    client_id: str
    flight: tuple[int, bytes] | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Generator[Effect, object, Key | None]:
        answer = yield self
        if answer is None or isinstance(answer, Key):
            return answer
        raise TypeError("a look-up answers with a Key or None")


@dataclass(frozen=True, slots=True)
class HoldsSlow:
    """Ask whether the store holds any slow hash; the answer is exactly True or False."""

    def __iter__(self) -> Generator[Effect, object, bool]:
        return (yield self) is not False  # doubt runs the hash


@dataclass(frozen=True, slots=True)
class SlowCheck:
    """Compare a secret with slow hashes, or with a decoy if there are none, off the event loop.

    The answer is the index of the hash that matches, or None. Equal checks that are asked for at once may
    be answered by one. The client id is part of them although no hash depends on it: else unknown ids could
    share the one decoy while known ones cannot, and many requests at once would tell them apart.
    """

    client_id: str
    secret: str
    hashes: tuple[str, ...]

    def __iter__(self) -> Generator[Effect, object, int | None]:
        answer = yield self
        return answer if type(answer) is int else None

    def __repr__(self) -> str:
        return "SlowCheck(...)"


Effect = Lookup | HoldsSlow | SlowCheck
Steps = Generator[Effect, object, Decision]


class Verifier:
    """Turns the value of an Authorization field into a verdict.

    Args:
        hasher: Checks fast hashes.
        cache: Remembers good verdicts.
        saw: Told of every secret that was proved here: client id, what is stored of it, and itself.
        now: The time, timezone-aware.
    """

    def __init__(
        self,
        hasher: Hasher,
        cache: Cache,
        *,
        saw: Callable[[str, Secret, str], None] | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self.cache = cache
        self._hasher = hasher
        self._saw = saw
        self._now = now

    def steps(self, value: bytes) -> Steps:
        """Decide on a field value that is not in the cache.

        Every well-formed credential goes the whole way, whatever is found: one look-up, the fast hashes,
        and, if its secret was chosen by a person and the store holds slow hashes at all, one slow hash.
        Only then is it asked whether the key is revoked, disabled or expired.
        """
        client_id = None
        try:
            credentials = parse_basic(value)
            client_id = credentials.client_id
            return (yield from self._verdict(value, credentials))
        except MalformedCredentials:
            return Deny(MalformedCredentials(), "malformed")
        except BackendError as exc:
            # Without its frames, which hold the secret.
            return Deny(exc.with_traceback(None), "backend_unavailable", client_id)
        except (AttributeError, TypeError, ValueError) as exc:
            # A Key of somebody's own making that is not what its types say: it never authenticates.
            error = UnreadableRecord(f"its key is not made as it should be ({type(exc).__name__})")
            return Deny(error, "backend_unavailable", client_id)

    def _verdict(self, value: bytes, credentials: Credentials) -> Steps:
        client_id, secret = credentials.client_id, credentials.secret
        if len(client_id.encode()) > MAX_ID_OCTETS or len(secret.encode()) > MAX_SECRET_OCTETS:
            raise MalformedCredentials("longer than any key")
        shape = recognise(secret)
        if shape is Shape.MISTYPED:
            return Deny(InvalidCredentials(), "malformed", client_id)
        asked = self.cache.ask()
        # Who wants nothing remembered is not given what was asked for an earlier request either.
        key = yield from Lookup(client_id, flight=(asked.epoch, value) if self.cache.keeps else None)
        match = yield from self._match(client_id, secret, shape, key.secrets if key else ())
        if key is None or match is None:
            return Deny(InvalidCredentials(), "unknown" if key is None else "wrong_secret", client_id)
        ends = [moment for moment in (key.expires_at, match.expires_at) if moment is not None]
        expires_at = min(ends, default=None)
        if key.revoked_at is not None:
            return Deny(InvalidCredentials(), "revoked", client_id)
        if key.disabled:
            return Deny(InvalidCredentials(), "disabled", client_id)
        if expires_at is not None and expires_at <= self._now():
            return Deny(InvalidCredentials(), "expired", client_id)
        allow = Allow(Principal(key.client_id, key.name, key.scopes, key.metadata))
        if is_usual_spelling(value):
            self.cache.put(
                value, allow, secret_created_at=match.created_at, expires_at=expires_at, asked=asked
            )
        if self._saw is not None:
            self._saw(client_id, match, secret)
        return allow

    def _match(
        self, client_id: str, secret: str, shape: Shape, stored: tuple[Secret, ...]
    ) -> Generator[Effect, object, Secret | None]:
        match = self._hasher.match_fast(secret, stored)
        if match is not None or shape is not Shape.OTHER:
            return match
        slow = [candidate for candidate in stored if is_slow(candidate.hash)]
        if len(slow) > 1:
            raise UnreadableRecord("it holds more than one slow hash, and each would cost its own")
        holds_slow = yield from HoldsSlow()
        if not (slow or holds_slow):
            return None
        index = yield from SlowCheck(client_id, secret, tuple(candidate.hash for candidate in slow))
        return None if index is None else slow[index]
