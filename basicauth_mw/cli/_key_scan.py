"""Looks at every key of a backend for ``check``. Memory does not grow with their number."""

import time
from collections.abc import Callable, Iterator

from ..backends import Store
from ..backends.backend import Backend
from ..backends.search import iter_records
from ..errors import InvalidKey, ReadOnlyBackend, UnreadableRecord
from ..keys.audit import sanitize
from ..keys.hashing import check_hash
from ..keys.model import Key
from ._echo import count_keys, current_state
from ._findings import RESTORE, Finding

_PROGRESS_EVERY = 500  # keys
_IDS_NAMED = 5


class _IdSample:
    """Counts client IDs, and keeps the first few to name them."""

    def __init__(self) -> None:
        self.count = 0
        self._names: list[str] = []

    def add(self, client_id: str | None) -> None:
        self.count += 1
        if len(self._names) < _IDS_NAMED:
            self._names.append(repr(sanitize(client_id)))

    def __str__(self) -> str:
        more = self.count - len(self._names)
        return ", ".join(self._names) + (f" and {more} more" if more else "")


class KeyScan:
    """Finds keys that cannot be verified, and whether any key works."""

    def __init__(self, backend: Backend, *, budget_s: float | None) -> None:
        self._backend = backend
        self._budget_s = budget_s
        self._scanned = 0
        self._is_complete = False
        self._is_over_budget = False
        self._has_active = False
        self._first_unreadable: UnreadableRecord | None = None
        self._unreadable = _IdSample()
        self._damaged = _IdSample()
        self._without_pepper = _IdSample()

    def run(self, advance: Callable[[int], object]) -> None:
        """Scan the keys, at least the first one."""
        start = time.monotonic()
        try:
            for record in iter_records(self._backend):
                if self._budget_s is not None and self._scanned and time.monotonic() - start > self._budget_s:
                    self._is_over_budget = True
                    return
                self._scanned += 1
                if self._scanned % _PROGRESS_EVERY == 0:
                    advance(_PROGRESS_EVERY)
                self._inspect(record)
        except ReadOnlyBackend:
            return  # the store cannot list its keys
        self._is_complete = True

    def problems(self) -> Iterator[Finding]:
        """Problems that keep keys from working."""
        is_writable = isinstance(self._backend.store, Store)
        new_secret = "  basicauth-mw keys rotate ID --overlap 0" if is_writable else " give it a new secret"
        if self._first_unreadable is not None:
            several = f"{self._unreadable.count} stored keys cannot be read: {self._unreadable}"
            message = str(self._first_unreadable) if self._unreadable.count == 1 else several
            yield Finding(self._first_unreadable.code, message, RESTORE)
        for ids, code, reason, remedy in (
            (self._damaged, UnreadableRecord.code, "damaged hashes", "replace the secret"),
            (
                *(self._without_pepper, "unknown_pepper", "a pepper is not configured"),
                "add that pepper to BASICAUTH_PEPPER, after the newer ones; if it is lost",
            ),
        ):
            if ids.count:
                message = f"{reason}, so {count_keys(ids.count)} cannot be verified: {ids}"
                yield Finding(code, message, f"{remedy}:{new_secret}")
        bad = self._unreadable.count + self._damaged.count + self._without_pepper.count
        if self._is_complete and not (self._has_active or bad):
            found = "only keys that are expired, disabled or revoked" if self._scanned else "no key"
            yield Finding(
                "no_active_key",
                f"the backend has {found}, so every request is refused",
                "create a key:  basicauth-mw keys create --name NAME"
                if is_writable
                else "add a key where the backend reads them from",
            )

    def warnings(self) -> Iterator[Finding]:
        """A warning if the scan was incomplete."""
        if self._is_over_budget:
            yield Finding(
                "keys_not_looked_at",
                f"not every key was checked, only {count_keys(self._scanned)} in {self._budget_s:g} s",
                "to check every key, run  basicauth-mw check --all",
            )

    def _inspect(self, record: Key | UnreadableRecord) -> None:
        if isinstance(record, UnreadableRecord):
            self._first_unreadable = self._first_unreadable or record
            self._unreadable.add(record.client_id)
            return
        if record.revoked_at is not None:
            return  # it never works again, whatever its hashes are
        hashes = [secret.hash for secret in record.secrets]
        try:
            for hashed in hashes:
                check_hash(hashed)
        except InvalidKey:
            self._damaged.add(record.client_id)
            return
        if not all(map(self._backend.hasher.has_pepper, hashes)):
            self._without_pepper.add(record.client_id)
        elif current_state(record) == "active":
            self._has_active = True
