"""``memory:`` - keys in this process's memory, for tests and examples."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar, Final

from ..errors import ConfigurationError
from ..keys.hashing import has_password_hash
from .base import HISTORY_KEPT, Changes, LastUse
from .listed import page_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ..keys.model import Change, Key

_CHANGES_KEPT: Final = 10_000


class MemoryStore:
    """Keeps keys for as long as the process runs. Safe to share between threads.

    Args:
        url: ``memory:``.
        deadline_s: Unused: a lookup never waits.
        create: Unused.

    Raises:
        ConfigurationError: The URL is not ``memory:``.
    """

    volatile: ClassVar[bool] = True

    def __init__(self, url: str = "memory:", *, deadline_s: float = 1.0, create: bool = False) -> None:
        if url != "memory:":
            raise ConfigurationError("the URL of the memory backend must be exactly memory:")
        self._keys: dict[str, Key] = {}
        self._password_ids: set[str] = set()  # of keys with a password hash
        self._changed: list[str] = []
        self._dropped = 0  # how many changes are no longer kept
        self._used: dict[str, dict[datetime, datetime]] = {}  # by client ID: secret -> last use
        self._history: dict[str, tuple[Change, ...]] = {}  # by client ID
        self._lock = threading.Lock()

    def get(self, client_id: str, /) -> Key | None:
        return self._keys.get(client_id)

    get_nowait = get

    def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
        with self._lock:
            current = self._keys.get(record.client_id)
            if (current.version if current else None) != expect_version:
                return False
            self._keys[record.client_id] = record
            earlier = self._history.get(record.client_id, ())
            self._history[record.client_id] = (*changes, *earlier)[:HISTORY_KEPT]
            if has_password_hash(record):
                self._password_ids.add(record.client_id)
            else:
                self._password_ids.discard(record.client_id)
            self._prune_uses(record)
            self._announce(record.client_id)
            return True

    def add(self, records: Sequence[Key], /, changes: Sequence[Sequence[Change]] = ()) -> list[bool]:
        histories = changes or [()] * len(records)
        return [self.put(record, None, history) for record, history in zip(records, histories, strict=True)]

    def delete(self, client_id: str, /) -> bool:
        with self._lock:
            if self._keys.pop(client_id, None) is None:
                return False
            self._password_ids.discard(client_id)
            self._used.pop(client_id, None)
            self._history.pop(client_id, None)
            self._announce(client_id)
            return True

    def history(self, client_ids: Sequence[str], /) -> list[tuple[Change, ...]]:
        return [self._history.get(client_id, ()) for client_id in client_ids]

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        with self._lock:
            return [key for _, key in page_of(self._keys, prefix, after, limit)]

    def changes(self, since: str | None) -> Changes:
        with self._lock:
            end = self._dropped + len(self._changed)
            start = int(since) if since is not None and since.isdecimal() else -1
            is_gap = since is not None and not self._dropped <= start <= end
            return Changes(
                str(end),
                () if since is None or is_gap else tuple(self._changed[start - self._dropped :]),
                incomplete=is_gap,
                has_password_hashes=bool(self._password_ids),
            )

    def record_uses(self, uses: Sequence[LastUse], /) -> None:
        with self._lock:
            for use in uses:
                if use.client_id in self._keys:
                    used = self._used.setdefault(use.client_id, {})
                    used[use.secret_created_at] = max(use.at, used.get(use.secret_created_at, use.at))

    def last_uses(self, client_ids: Sequence[str], /) -> list[LastUse]:
        with self._lock:
            return [
                LastUse(client_id, created_at, at)
                for client_id in client_ids
                for created_at, at in self._used.get(client_id, {}).items()
            ]

    def close(self) -> None:
        """Do nothing: the keys stay."""

    def _prune_uses(self, record: Key) -> None:
        if used := self._used.get(record.client_id):
            kept = {secret.created_at for secret in record.secrets} | {max(used, key=lambda made: used[made])}
            self._used[record.client_id] = {made: at for made, at in used.items() if made in kept}

    def _announce(self, client_id: str) -> None:
        self._changed.append(client_id)
        if len(self._changed) > 2 * _CHANGES_KEPT:
            self._dropped += _CHANGES_KEPT
            del self._changed[:_CHANGES_KEPT]
