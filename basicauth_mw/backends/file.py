"""``file:``: keys from a file that may change while the process runs. Never written.

A thread looks at the file four times a second, by its path: Kubernetes replaces a link two levels up, which a
watch on the file itself would miss. It reads a changed file in short steps, so that other threads can run in
between, and then replaces all keys at once.

While the file is missing or invalid, its last good keys are used for ``cache_ttl_s``. Then lookups fail until
it is repaired.
"""

from __future__ import annotations

import logging
import stat
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qs, unquote

from ..errors import BackendUnavailable, ConfigurationError, InvalidKey, MissingExtra
from ..keys.key_lists import FORMATS, entries_in_file
from ..runtime.background import BackgroundThread
from ..runtime.fork import after_fork
from .base import Changes
from .listed import KeyList, ListedStore

if TYPE_CHECKING:
    from ..keys.model import Key
    from .codec import StoredRecord

logger = logging.getLogger("basicauth_mw")

POLL_EVERY_S: Final = 0.25
LOAD_LIMIT_S: Final = 10.0  # a file that is read for longer, or changes all the time, counts as broken
_REST_S: Final = 0.1  # a file that was changed more recently may be incomplete
_STEP_S: Final = 0.004
_PAUSE_S: Final = 0.001
_NAMED: Final = 20  # invalid entries in a message
_LOADS_KEPT: Final = 16  # whose changes are known
CHANGES_KEPT: Final = 10_000  # of one load


class _Loaded(NamedTuple):
    """The keys of the file, and which of them the latest loads changed."""

    list: KeyList
    loads: int  # how many there were
    changed: tuple[frozenset[str], ...]  # by load, the latest one last


class FileStore(ListedStore):
    """Holds the keys that a file lists, as digests keyed for this process.

    Args:
        url: ``file:/path`` or ``file:///path``, percent-encoded, with ``?format=`` and one of ``FORMATS``;
            without it the format is detected.
        deadline_s: Unused: a lookup does not wait for the file.
        create: Unused.

    Attributes:
        keeps_s: Seconds that the last good keys are used while the file is missing or invalid.

    Raises:
        ConfigurationError: The URL is invalid. A missing or invalid file fails the lookups instead.
    """

    def __init__(self, url: str, *, deadline_s: float = 1.0, create: bool = False) -> None:
        self._path, self._format = parse_file_url(url)
        super().__init__(str(self._path))
        self.keeps_s = 0.0
        self._loaded = _Loaded(self._list, 0, ())
        self._signature: tuple[int, ...] = ()  # of the file that was read
        self._problem: str | None = None
        self._good_at = float("-inf")
        self._thread = BackgroundThread("file", partial(_serve, weakref.ref(self)))
        self._reset()
        after_fork(self._reset)
        self._poll(pause_s=0)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._polled_at = float("-inf")

    @property
    def is_stale(self) -> bool:
        """Whether the file is missing or invalid, so that its last good keys are used, or none."""
        return self._problem is not None

    def get(self, client_id: str, /) -> Key | None:
        self._ensure_current()
        return super().get(client_id)

    def get_record(self, client_id: str, /) -> StoredRecord | None:
        self._ensure_current()
        return super().get_record(client_id)

    def get_record_nowait(self, client_id: str, /) -> StoredRecord | None:
        """``get_record``, unless the file has to be looked at first, as in a new process."""
        self._thread.start()
        if self._is_due() or self._is_outdated():
            raise BlockingIOError
        return super().get_record(client_id)

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        self._ensure_current()
        return super().scan(prefix, after, limit)

    def changes(self, since: str | None) -> Changes:
        """Return the keys that changed. While lookups fail, any may have, which ends cached verifications."""
        loaded = self._loaded
        missed = 0 if since is None else loaded.loads - int(since)
        is_incomplete = self._is_outdated() or missed > len(loaded.changed)
        changed = loaded.changed[len(loaded.changed) - missed :] if missed and not is_incomplete else ()
        return Changes(
            str(loaded.loads),
            tuple(frozenset().union(*changed)),
            incomplete=is_incomplete,
            has_password_hashes=loaded.list.has_password_hashes,
        )

    def close(self) -> None:
        """Stop the thread. The next lookup starts it again."""
        self._thread.stop()

    def _is_due(self) -> bool:
        return time.monotonic() > self._polled_at + 4 * POLL_EVERY_S

    def _is_outdated(self) -> bool:
        limit_s = self.keeps_s + (LOAD_LIMIT_S if self._problem is None else 0)
        return time.monotonic() >= self._good_at + limit_s

    def _ensure_current(self) -> None:
        if self._is_due():
            self.poll()
        self._thread.start()
        if self._is_outdated():
            error = BackendUnavailable(self._problem or f"the key file {self._path} was not read in time")
            error.is_logged = self._loaded.loads > 0
            raise error

    # --- reading

    def poll(self) -> None:
        """Read the file if it has changed, unless another thread does."""
        self._poll(pause_s=_PAUSE_S)

    def _poll(self, *, pause_s: float) -> None:
        if not self._lock.acquire(timeout=_REST_S):
            return
        try:
            self._read_if_changed(pause_s)
        except OSError as exc:
            self._signature = ()
            self._fail(f"cannot be read ({exc.strerror})")
        finally:
            self._polled_at = time.monotonic()
            self._lock.release()

    def _read_if_changed(self, pause_s: float) -> None:
        now = time.monotonic()
        signature, changed_s_ago = self._stat()
        if signature != self._signature:
            time.sleep(min(max(_REST_S - changed_s_ago, 0), _REST_S))
            try:
                found: KeyList | InvalidKey | MissingExtra = self._load(pause_s)
            except (InvalidKey, MissingExtra) as exc:
                found = exc.with_traceback(None)  # whose frames hold secrets
            if self._stat()[0] != signature:
                return  # it changed meanwhile, so this may be a mixture
            self._signature = signature
            if isinstance(found, KeyList):
                self._replace(found)
            else:
                self._fail(str(found))
        if self._problem is None:
            self._good_at = now

    def _stat(self) -> tuple[tuple[int, ...], float]:
        """What changes with the file, and how many seconds ago it changed."""
        found = self._path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "not a file")
        signature = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return signature, time.time() - found.st_mtime

    def _load(self, pause_s: float) -> KeyList:
        found = KeyList()
        known = self._list.records
        pause_at = 0.0
        with self._path.open("rb") as file:
            for entry in entries_in_file(file, self._format):
                found.add(entry, known)
                if pause_s and (now := time.monotonic()) > pause_at:
                    self._polled_at = now  # the keys of before are used until the end
                    time.sleep(pause_s)
                    pause_at = time.monotonic() + _STEP_S
                if len(found.problems) > _NAMED:
                    break
        if found.problems:
            named = [f"{place}: {reason}" for place, reason in found.problems[:_NAMED]]
            more = ["and more"] if len(found.problems) > _NAMED else []
            raise InvalidKey("is invalid: " + "; ".join(named + more))
        if not found.records:
            raise InvalidKey("contains no key")
        return found

    def _replace(self, found: KeyList) -> None:
        old = self._loaded
        records, known = found.records, old.list.records
        changed = {client_id for client_id, record in records.items() if known.get(client_id) is not record}
        changed |= known.keys() - records.keys()
        is_few = len(changed) <= CHANGES_KEPT
        # First the keys, so that no lookup finds the old ones after their change is known.
        self._list = found
        latest = (*old.changed, frozenset(changed))[-_LOADS_KEPT:] if is_few else ()
        self._loaded = _Loaded(found, old.loads + 1, latest)
        if self._problem is not None:
            logger.warning("the key file %s can be read again", self._path)
        self._problem = None

    def _fail(self, reason: str) -> None:
        problem = f"the key file {self._path} {reason}"
        if self._problem is None and self._loaded.loads:  # otherwise the first lookup logs it
            logger.error(
                "%s; the keys that it had are used for %g s, then requests get a 503 until it is repaired",
                problem,
                self.keeps_s,
            )
        self._problem = problem


def _serve(store_ref: weakref.ref[FileStore], closing: threading.Event) -> None:
    while not closing.wait(POLL_EVERY_S):
        if (store := store_ref()) is None:
            return
        store.poll()
        del store


def parse_file_url(url: str) -> tuple[Path, str | None]:
    """The path and the format in a ``file:`` URL. Raises ``ConfigurationError`` if it is invalid."""
    location, _, query = url.partition(":")[2].partition("?")
    path = unquote(location.removeprefix("//"))
    try:
        options = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        options = {"": []}
    form = options.pop("format", [None])[-1]
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ConfigurationError("a key file is file:/path or file:///path, an absolute path on this machine")
    if options or form not in (None, *FORMATS):
        raise ConfigurationError(f"file: has one option, ?format=, which is one of {', '.join(FORMATS)}")
    return Path(path), form
