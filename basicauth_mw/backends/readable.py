"""``ReadableBackend``: the part of ``Backend`` that works with a read-only store."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from ..errors import InvalidKey, ReadOnlyBackend
from ..keys.filters import KeyFilter
from ..keys.generated_secrets import ID_PREFIX, generate
from ..keys.hashing import Hasher
from ..keys.model import utcnow
from ..keys.validation import check_text
from ..settings import Settings
from . import HistoryStore, UsageStore
from .change_feed import ChangeFeed
from .codec import as_key
from .reader import StoreReader
from .search import Page, search
from .usage import UsageRecorder, attach_last_used
from .writes import not_found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..keys.model import Change, Key
    from .codec import StoredSecret

PAGE_SIZE: Final = 500
_FIRST_PAGE_SIZE: Final = 64  # pages double: many callers need only the first keys


class ReadableBackend:
    """Looks keys up and follows their changes.

    Args:
        store: A ``Store``, a ``ReadableStore``, or any object with ``get`` or ``aget`` that returns a ``Key``
            or None.
        settings: Pepper, secret prefix and deadline; None reads ``Settings.from_env()``.
    """

    def __init__(self, store: Any, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = Settings.from_env()
        self.store = store
        if hasattr(store, "keeps_s"):
            store.keeps_s = settings.cache_ttl_s
        self.hasher = Hasher(
            [pepper.encode() for pepper in settings.pepper],
            volatile=getattr(store, "volatile", False) is True,
        )
        self.usage = UsageRecorder(store, self.hasher)
        self.feed = ChangeFeed(store)
        weakref.finalize(self, self.usage.stop).atexit = False  # at exit it is closed, which may wait
        weakref.finalize(self, self.feed.close)
        self._prefix = settings.secret_prefix
        self._reader = StoreReader(
            store, deadline_s=settings.backend_deadline_s, slow_hash_workers=settings.slow_hash_workers
        )
        weakref.finalize(self, self._reader.close)

    def __repr__(self) -> str:
        return f"<Backend over {type(self.store).__name__}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def get(self, client_id: str) -> Key | None:
        """Look up one key.

        Returns:
            The key, or None for an unknown ID.

        Raises:
            InvalidKey: The ID cannot be encoded as UTF-8.
            BackendUnavailable: The store does not respond within ``backend_deadline_s`` seconds.
            UnreadableRecord: The record is damaged.
        """
        ends_at = self._reader.deadline()
        key = as_key(self._reader.lookup(check_text(client_id, "a client ID"), ends_at))
        if key is None or not isinstance(self.store, UsageStore):
            return key
        return self._reader.call(partial(attach_last_used, self.store, [key]), ends_at)[0]

    async def aget(self, client_id: str) -> Key | None:
        """``get`` for an event loop."""
        ends_at = self._reader.deadline()
        key = as_key(await self._reader.alookup(check_text(client_id, "a client ID"), ends_at))
        if key is None or not isinstance(self.store, UsageStore):
            return key
        call = partial(attach_last_used, self.store, [key])
        return (await self._reader.acall(call, ends_at))[0]

    def ready(self) -> bool:
        """Whether keys can be looked up, for a readiness probe.

        Looks up an unknown ID. Takes at most ``backend_deadline_s`` seconds and never raises.
        """
        try:
            self._reader.lookup(generate(ID_PREFIX), self._reader.deadline())
        except Exception:  # logged by the reader
            return False
        return True

    async def aready(self) -> bool:
        """``ready`` for an event loop."""
        try:
            await self._reader.alookup(generate(ID_PREFIX), self._reader.deadline())
        except Exception:
            return False
        return True

    def iter_keys(self, prefix: str = "", after: str = "", limit: int | None = None) -> Iterator[Key]:
        """Iterate over keys in the order of their IDs' UTF-8 bytes, in constant memory.

        Args:
            prefix: Only IDs that start with it.
            after: Only IDs after this one, such as the last ID of the previous page.
            limit: Maximum number of keys; None for all.

        Raises:
            InvalidKey: An argument is invalid.
            ReadOnlyBackend: The store cannot list its keys.
            UnreadableRecord: A record is damaged.
        """
        check_text(prefix, "a prefix")
        check_text(after, "the ID to continue after")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidKey("a limit must be a whole number of at least 0")
        return self._scan(prefix, after, limit)

    def search(
        self,
        text: str = "",
        *,
        state: str | None = None,
        scope: str | None = None,
        after: str = "",
        limit: int = 50,
    ) -> Page:
        """Find keys, in the order of their IDs' UTF-8 bytes.

        One call looks at 10,000 keys at most, so it always returns soon. Continue with ``after=page.next``. A
        SQLite file has an index for texts and scopes of three characters or more, and for all states but
        ``active``, ``never-used`` and ``unused``; for texts, it is used if it leads to 4000 keys at most.

        Args:
            text: Part of the name or of the client ID, in any case.
            state: ``active``, ``expired``, ``disabled``, ``revoked``, ``expiring`` (active, and ends within
                30 days), ``never-used``, or ``unused`` (active, and not used for 90 days); None for any.
            scope: A scope that the key has; None for any.
            after: Only IDs after this one.
            limit: Maximum number of keys; at least 1.

        Returns:
            The keys, where to continue, and whether all keys after ``after`` were looked at.

        Raises:
            InvalidKey: An argument is invalid.
            ReadOnlyBackend: The store cannot list its keys.
        """
        check_text(text, "a text to search for")
        check_text(after, "the ID to continue after")
        if type(limit) is not int or limit < 1:
            raise InvalidKey("a limit must be a whole number of at least 1")
        wanted = KeyFilter(text, state, scope)
        return search(self, wanted, after=after, limit=limit, now=utcnow())

    def history(self, client_id: str) -> list[Change]:
        """Return the last changes of a key, 50 at most, from the newest to the oldest.

        Upgraded hashes and last-used times are not changes. Deleting a key deletes its history.

        Returns:
            The changes; empty if the store keeps none.

        Raises:
            KeyNotFound: There is no such key.
        """
        (found,) = self.histories([check_text(client_id, "a client ID")])
        if not found and self.get(client_id) is None:
            raise not_found(client_id)
        return found

    def histories(self, client_ids: Sequence[str]) -> list[list[Change]]:
        """``history`` for many IDs, in order; empty for an unknown one."""
        if not isinstance(self.store, HistoryStore):
            return [[] for _ in client_ids]
        return [list(each) for each in self.store.history(client_ids)] if client_ids else []

    def _scan(self, prefix: str, after: str, limit: int | None) -> Iterator[Key]:
        scan = getattr(self.store, "scan", None)
        if scan is None:
            raise ReadOnlyBackend("this backend can look up keys by ID but cannot list them")
        left = limit
        size = _FIRST_PAGE_SIZE // 2
        while left is None or left > 0:
            size = min(2 * size, PAGE_SIZE, PAGE_SIZE if left is None else left)
            page = scan(prefix, after, size)
            yield from attach_last_used(self.store, page)
            if len(page) < size:
                return
            after = page[-1].client_id
            left = None if left is None else left - size

    def on_verified(self, client_id: str, matched: StoredSecret, secret: str) -> None:
        """Record a verified secret. Called on the request path: touches memory only.

        Args:
            client_id: ID of the key.
            matched: The stored secret that matched.
            secret: The secret in plain text.
        """
        self.feed.mark_active()
        self.usage.record_use(client_id, matched, secret)

    def close(self) -> None:
        """Close connections and stop threads. A later call opens them again."""
        self.feed.close()
        self.usage.close()
        self._reader.close()
        if close := getattr(self.store, "close", None):
            close()

    async def aclose(self) -> None:
        """``close``, including the connections of the running event loop."""
        from asyncio import to_thread  # not needed without an event loop

        try:
            await to_thread(self.usage.close)  # it may wait for the store
            if aclose := getattr(self.store, "aclose", None):
                await aclose()
        finally:
            self.close()
