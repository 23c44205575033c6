"""The protocols of a store: what a key backend needs from a database.

A store that only looks up keys implements ``ReadableStore``. One that can change them implements ``Store``,
and may also implement ``BulkStore``, ``HistoryStore``, ``UsageStore`` and ``FailureStore``. The members below
are optional for every store. Whatever uses a member looks it up by name, so a store has only those that it
supports.

Lookups:

- ``get_nowait(client_id) -> Key | None``: ``get`` without waiting, called on the event loop. It raises
  ``BlockingIOError`` if it would have to wait; then ``aget`` or ``get`` is called.
- ``async aget(client_id) -> Key | None`` and ``async aclose()``: for an asynchronous driver. The store keeps
  separate connections for each event loop. Without ``aget``, ``get`` is called on a worker thread.
- ``get_record``, ``get_record_nowait`` and ``aget_record``: as ``get``, ``get_nowait`` and ``aget``, and used
  instead of them. They return a ``codec.StoredRecord``, of which only the secrets are decoded.
- ``deadline_s: float``: seconds after which ``aget`` always returns or raises, which saves a timer for each
  lookup.
- ``display_name: str``: its name in errors, such as ``Redis at 127.0.0.1:6379``; never contains a password.
- ``interrupt(thread_id)``: called when a lookup on a worker thread exceeds its deadline, to make ``get`` in
  that thread raise.
- ``single_server = False``: parts of the store can fail alone, like the nodes of a cluster. Then the circuit
  breaker never opens, since failures for some IDs say nothing about others.

Verification and changes:

- ``has_password_hashes() -> bool``: whether any key has a password hash, for a read-only store; a ``Store``
  reports it in ``Changes``. Without either it is assumed if argon2-cffi is installed.
- ``changes(since)``, as in ``Store``, for a read-only store whose keys change.
- ``keeps_s: float``: how long a store uses the last keys that it read while it cannot read them again. Set to
  ``cache_ttl_s``.
- ``is_stale: bool``: whether it uses such keys; a metric.
- ``volatile = True``: the keys exist only in the memory of this process. Then passwords are stored as digests
  under a random key, calls never wait, and keys cannot be exported.
- ``announce(client_id)``: announce a change again, in a store where a change may have been written without
  its announcement.

Search and command line:

- ``search(filter, after, limit) -> Sequence[Key] | None``: find keys with an index. It takes a
  ``keys.filters.KeyFilter`` and returns, in the order of IDs, up to ``limit`` keys after ``after``: every key
  that matches, and any others that may; fewer than ``limit`` if there are no more. None: the caller scans.
- ``upgrade() -> str | None``: convert stored data to the format of this release. Returns a sentence about
  what was done, or None.
- ``warnings() -> Sequence[StoreWarning]``: what works but should be changed, for ``basicauth-mw check``.

``scan`` and ``close`` are also used if a ``ReadableStore`` has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ..keys.model import Change, Key

HISTORY_KEPT: Final = 50  # changes of each key


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of a store since a cursor.

    Attributes:
        cursor: The end of these changes; pass it as ``since`` next time.
        client_ids: IDs of keys that were changed or deleted, in order; an ID may occur more than once.
        incomplete: Whether some changes since the cursor are no longer known. Then any key may have changed.
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


class StoreWarning(NamedTuple):
    """Something that works but should be changed.

    Attributes:
        code: Stable, for programs.
        message: What is wrong; contains no secret.
        remedy: What to do about it.
    """

    code: str
    message: str
    remedy: str


@runtime_checkable
class ReadableStore(Protocol):
    """A store that looks up keys; one instance serves many threads. A read-only store needs nothing else.

    See ``backends/base.py`` for the optional members.
    """

    def get(self, client_id: str, /) -> Key | None:
        """Look up one key; None for an unknown ID.

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
        """Read up to ``limit`` keys whose ID starts with ``prefix`` and comes after ``after``.

        IDs are in the order of their UTF-8 bytes. Fewer than ``limit`` keys mean that there are no more.
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
    """A store that writes many new keys in one call."""

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
class HistoryStore(BulkStore, Protocol):
    """A store that keeps the last ``HISTORY_KEPT`` changes of each key, and deletes them with the key.

    Changes are listed from the newest to the oldest.
    """

    def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
        """``Store.put``, which also adds changes to the history in the same transaction.

        A new key starts a new history.
        """
        ...

    def add(self, records: Sequence[Key], /, changes: Sequence[Sequence[Change]] = ()) -> list[bool]:
        """``BulkStore.add``, with the history of each record, in order; empty: none has a history."""
        ...

    def history(self, client_ids: Sequence[str], /) -> Sequence[Sequence[Change]]:
        """Return the changes of each of these keys, in order; empty for an unknown ID.

        Raises:
            BackendUnavailable: The store cannot be reached.
        """
        ...


@runtime_checkable
class UsageStore(Store, Protocol):
    """A store that records last-used times separately from the keys.

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


@runtime_checkable
class FailureStore(Protocol):
    """A store in which all processes count failed requests together, for throttling."""

    def add_failures(
        self, limit: str, period_s: float, failures: Mapping[bytes, int], /
    ) -> Sequence[tuple[int, int]]:
        """Count failures in the current period. Periods are multiples of ``period_s`` since the epoch.

        Args:
            limit: Name of the limit that they count against: letters.
            period_s: Seconds.
            failures: How many to add to each counter, which is named by a digest of 16 bytes.

        Returns:
            For each counter, in order: failures in the period before, and in the current one. Counts may be
            lost when the store restarts.

        Raises:
            ReadOnlyBackend: This process may not write to the store.
            BackendUnavailable: They were not counted, or that is not known.
        """
        ...
