"""The protocols of a store: the little that a key backend needs from a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ..keys.model import Key


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of a store since a cursor.

    Attributes:
        cursor: The end of these changes; pass it as ``since`` next time.
        client_ids: IDs of keys that were changed or deleted, in order; an id may occur more than once.
        incomplete: Whether older changes were asked for than are kept. Then any key may have changed.
        has_password_hashes: Whether the store may hold a password hash; None if it does not know.
    """

    cursor: str
    client_ids: tuple[str, ...] = ()
    incomplete: bool = False
    has_password_hashes: bool | None = None


@dataclass(frozen=True, slots=True)
class LastUse:
    """The last use of a secret.

    Attributes:
        client_id: ID of the key.
        secret_created_at: When the secret was created, which identifies it within its key.
        at: When it was last used, to the minute; UTC.
    """

    client_id: str
    secret_created_at: datetime
    at: datetime


@runtime_checkable
class ReadableStore(Protocol):
    """A store that looks up keys; one instance serves many threads. A read-only store needs nothing else.

    Optional members:

    - ``get_nowait(client_id)``: ``get`` without waiting, called on the event loop. It raises
      ``BlockingIOError`` if it would have to wait; then ``aget`` or ``get`` is called.
    - ``async aget(client_id)`` and ``async aclose()``: for an asynchronous driver. The store keeps its
      connections for each event loop. Without ``aget``, ``get`` is called on a worker thread.
    - ``deadline_s``: seconds after which ``aget`` always returns or raises, which saves a timer for each
    call.
    - ``has_password_hashes() -> bool``: whether any key has a password hash, for a read-only store; a
      ``Store`` says it in ``Changes``. Without either it is assumed if argon2-cffi is installed.
    - ``single_server = False``: parts of the store can fail alone, like the nodes of a cluster, so failures
    for
      some ids do not block lookups of others.
    """

    def get(self, client_id: str, /) -> Key | None:
        """Look up one key; None for an unknown id.

        Raises:
            BackendUnavailable: The store cannot be reached. Any other exception counts as this one.
            UnreadableRecord: The record is damaged.
        """
        ...


@runtime_checkable
class Store(ReadableStore, Protocol):
    """A store of keys. Every change is atomic and durable: a crash leaves the old key or the new one."""

    def put(self, record: Key, /, expect_version: int | None) -> bool:
        """Write a key by compare and swap.

        Args:
            record: The key to store, including its ``version``.
            expect_version: The ``version`` that must be stored now; None: there must be no such key.

        Returns:
            Whether it was written.

        Raises:
            BackendUnavailable: It was not written, or that is not known.
            ReadOnlyBackend: The store is read-only.
        """
        ...

    def delete(self, client_id: str, /) -> bool:
        """Delete a key; returns whether there was one. Raises as ``put`` does."""
        ...

    def scan(self, prefix: str, after: str, limit: int) -> Sequence[Key]:
        """Read up to ``limit`` keys whose id starts with ``prefix`` and comes after ``after``.

        Ids are in the order of their UTF-8 bytes. Fewer than ``limit`` keys mean that there are no more.
        """
        ...

    def changes(self, since: str | None) -> Changes:
        """Return what ``put`` and ``delete`` have changed since a cursor; None returns the current cursor."""
        ...

    def close(self) -> None:
        """Close every connection. A later call opens new ones."""
        ...


@runtime_checkable
class BulkStore(Store, Protocol):
    """A store that writes many new keys at once."""

    def add(self, records: Sequence[Key], /) -> list[bool]:
        """Write new keys with as few round trips and syncs as possible.

        ``changes`` may omit them, since no cache can hold a key that did not exist. Each record is written
        whole or not at all. After a failure the call can be repeated: what was written before is reported as
        taken.

        Returns:
            For each record, in order, whether it was written; False if its client ID is taken.

        Raises:
            BackendUnavailable: Not all were written, or that is not known.
        """
        ...


@runtime_checkable
class UsageStore(Store, Protocol):
    """A store that records when secrets were last used, beside the keys.

    Recording a use changes no key: ``changes`` and ``version`` stay the same.
    """

    def record_uses(self, uses: Sequence[LastUse], /) -> None:
        """Record uses. A use that is older than the recorded one, or of an unknown key, is ignored."""
        ...

    def last_uses(self, client_ids: Sequence[str], /) -> Sequence[LastUse]:
        """Return the last use of every secret of these clients, in any order.

        Secrets that a key no longer has may be omitted, except the client's most recent use.
        """
        ...
