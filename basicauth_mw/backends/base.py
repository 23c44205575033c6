"""What a store is: the little that a key backend needs from a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ..keys.model import Key


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since a cursor.

    Attributes:
        cursor: Where this answer ends; give it as ``since`` the next time.
        client_ids: Whose keys were changed or deleted, in order, possibly more than once.
        gap: True when older changes were asked for than are kept: then anything may have changed.
        has_password_hashes: Whether the store may hold a password hash; None if it does not know.
    """

    cursor: str
    client_ids: tuple[str, ...] = ()
    gap: bool = False
    has_password_hashes: bool | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """That a secret was used.

    Attributes:
        client_id: Whose it is.
        secret_created_at: Which of the key's secrets: no two of them were made in the same microsecond.
        at: When it was used last, to the minute; UTC.
    """

    client_id: str
    secret_created_at: datetime
    at: datetime


@runtime_checkable
class ReadableStore(Protocol):
    """Looks keys up; one instance serves many threads. All that a read-only store needs.

    A store that never blocks (it only reads memory) also has ``get_nowait(client_id)``, the same answer at
    once, and is then asked on the event loop itself. One that *may* have to wait raises ``BlockingIOError``
    from it, and is asked again by ``aget`` or ``get``. A store with an asynchronous driver has
    ``async aget(client_id)`` and ``async aclose()``; it is the store's business to keep a connection for
    each event loop. Every other store is asked in a thread.

    A read-only store may say by ``has_password_hashes() -> bool`` whether any key has a password hash; a
    ``Store`` says it in ``Changes``. Otherwise it is assumed if argon2-cffi is installed.

    A store whose parts may be away by themselves, such as the nodes of a cluster, says so by
    ``in_one_place = False``: then failures for some ids do not keep others from being asked for. One whose
    ``aget`` never takes longer than some seconds may say ``deadline_s``, which saves a timer for each call.
    """

    def get(self, client_id: str, /) -> Key | None:
        """Look one key up.

        Returns:
            The key, or None for an unknown id.

        Raises:
            BackendUnavailable: It could not be asked. Any other exception is taken for the same.
            UnreadableRecord: The record is damaged. A field of the key may raise it instead, when it is read
                first, but for the id and the secrets.
        """
        ...


@runtime_checkable
class Store(ReadableStore, Protocol):
    """Keeps keys. Every change is atomic and durable: after a crash there is the old key or the new one."""

    def put(self, record: Key, /, expect_version: int | None) -> bool:
        """Write a key if nobody else has in between (compare and swap).

        Args:
            record: What to store, its ``version`` included.
            expect_version: The ``version`` that must be stored now; None: no such key may exist.

        Returns:
            Whether it was written.

        Raises:
            BackendUnavailable: It could not be written, or that cannot be told.
            ReadOnlyBackend: It never can be.
        """
        ...

    def delete(self, client_id: str, /) -> bool:
        """Remove a key; tells whether there was one. Raises as ``put`` does."""
        ...

    def scan(self, prefix: str, after: str, limit: int) -> Sequence[Key]:
        """Read up to ``limit`` keys whose id starts with ``prefix``, from the first behind ``after``.

        Ids are ordered by their octets in UTF-8. Fewer than ``limit`` keys mean that there are no more.
        """
        ...

    def changes(self, since: str | None) -> Changes:
        """Tell whose keys ``put`` or ``delete`` have changed since a cursor; None: only where it ends now."""
        ...

    def close(self) -> None:
        """Release every connection. A later call opens new ones."""
        ...


@runtime_checkable
class BulkStore(Store, Protocol):
    """A store that takes many new keys at once; any other is given them one by one."""

    def add(self, records: Sequence[Key], /) -> list[bool]:
        """Write keys that are new, with as few round trips and syncs as it can.

        Nothing can be remembered of a key that did not exist, so ``changes`` need not name these. Each record
        is written whole or not at all. What failed half-way may be given again: what was written then is
        reported as taken.

        Returns:
            For each record, in order, whether it was written; False: its client id is taken.

        Raises:
            BackendUnavailable: Not all could be written, or that cannot be told.
        """
        ...


@runtime_checkable
class UsageStore(Store, Protocol):
    """A store that remembers when secrets were last used, apart from the keys.

    Noting a use is no change of the key: it leaves ``changes`` and every ``version`` alone.
    """

    def record_uses(self, uses: Sequence[Use], /) -> None:
        """Note uses. A use before the one that is known, or of a key that is not stored, changes nothing."""
        ...

    def last_uses(self, client_ids: Sequence[str], /) -> Sequence[Use]:
        """The last use of every secret of these clients that was ever used, in any order.

        It may leave out secrets that the key no longer has, but for the client's latest use of all.
        """
        ...
