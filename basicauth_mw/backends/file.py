"""``file:``: keys from a file that may change while the process runs. Never written.

A thread looks at the file four times a second, by its path: Kubernetes replaces a link two levels up, which a
watch on the file itself would miss. It reads a changed file to its end, and then replaces the keys that
differ, all in short steps, so that other threads can run in between.

While the file is missing or invalid, its last good keys are used for ``cache_ttl_s``. Then lookups fail until
it is repaired.
"""

from __future__ import annotations

import logging
import os
import shlex
import stat
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, quote, unquote

from ..errors import BackendUnavailable, ConfigurationError, InvalidKey, MissingExtra
from ..keys.key_lists import FORMATS, entries_in_file
from ..runtime.background import BackgroundThread
from ..runtime.fork import after_fork
from .base import Changes, StoreWarning
from .listed import KeyList, ListedStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..keys.model import Key
    from .codec import StoredRecord

T = TypeVar("T")

logger = logging.getLogger("basicauth_mw")

POLL_EVERY_S: Final = 0.25
LOAD_LIMIT_S: Final = 30.0  # a file that takes longer to read, or keeps changing, is invalid
_REST_S: Final = 0.1  # a file that was changed more recently may be incomplete
_COARSE_S: Final = 2.5  # FAT stores times to two seconds
_STEP_S: Final = 0.004
_PAUSE_S: Final = 0.001
_NAMED: Final = 20  # how many invalid entries an error message lists
_LOADS_KEPT: Final = 16  # loads of the file whose changes are remembered
CHANGES_KEPT: Final = 10_000  # of one load of the file


class _Feed(NamedTuple):
    """What the latest loads of the file changed."""

    loads: int  # how many loads there were
    changed: tuple[frozenset[str], ...]  # by load, the latest one last
    has_password_hashes: bool


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
        self._has_plaintext = False
        self._feed = _Feed(0, (), has_password_hashes=False)
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
        """``get_record``, unless the file has to be checked first, as in a new process."""
        self._thread.start()
        if self._is_due() or self._is_outdated():
            raise BlockingIOError
        return super().get_record(client_id)

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        self._ensure_current()
        return super().scan(prefix, after, limit)

    def changes(self, since: str | None) -> Changes:
        """Return the keys that changed. While lookups fail, any may have, which ends cached verifications."""
        loads, changed, has_password_hashes = self._feed
        missed = 0 if since is None else loads - int(since)
        is_incomplete = self._is_outdated() or missed > len(changed)
        latest = changed[len(changed) - missed :] if missed and not is_incomplete else ()
        return Changes(
            str(loads),
            tuple(frozenset().union(*latest)),
            incomplete=is_incomplete,
            has_password_hashes=has_password_hashes,
        )

    def warnings(self) -> list[StoreWarning]:
        """Passwords that are too short, and secrets that other users can read."""
        warnings = super().warnings()
        if self._has_plaintext and os.name == "posix" and self._path.stat().st_mode & stat.S_IROTH:
            message = f"other users can read {self._path}, which contains secrets in plain text"
            remedy = f"run  chmod o= {shlex.quote(str(self._path))}, or store hashes in it"
            warnings.append(StoreWarning("key_file_readable_by_others", message, remedy))
        return warnings

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
            error.is_logged = self._feed.loads > 0
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
        signature = self._stat()
        if signature != self._signature:
            changed_at = max(signature[-2:])
            changed_s_ago = time.time() - changed_at / 1e9
            time.sleep(min(max(_REST_S - changed_s_ago, 0), _REST_S))
            try:
                found: KeyList | InvalidKey | MissingExtra = self._load(pause_s)
            except (InvalidKey, MissingExtra) as exc:
                found = exc.with_traceback(None)  # the traceback's frames hold secrets
            now = time.monotonic()
            if self._stat() != signature:
                return  # it changed meanwhile, so this may be a mixture
            if isinstance(found, KeyList):
                self._replace(found, pause_s)
            else:
                self._fail(str(found))
            # Where times are in whole seconds, another change may leave the same ones.
            is_certain = changed_at % 10**9 or abs(changed_s_ago) > _COARSE_S
            # Last, so that a process forked before this reads the file again.
            self._signature = signature if is_certain else ()
        if self._problem is None:
            self._good_at = now

    def _stat(self) -> tuple[int, ...]:
        """What changes with the file; the last two are the times of its last changes in nanoseconds."""
        found = self._path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "not a file")
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _load(self, pause_s: float) -> KeyList:
        found = KeyList(self._records)
        with self._path.open("rb") as file:
            for entry in self._in_steps(entries_in_file(file, self._format), pause_s):
                found.add(entry)
                if len(found.problems) > _NAMED:
                    break
        if found.problems:
            named = [f"{place}: {reason}" for place, reason in found.problems[:_NAMED]]
            more = ["and more"] if len(found.problems) > _NAMED else []
            raise InvalidKey("is invalid: " + "; ".join(named + more))
        if not found.ids:
            raise InvalidKey("contains no key")
        return found

    def _replace(self, found: KeyList, pause_s: float) -> None:
        loads, changed, had_password_hashes = self._feed
        has_password_hashes = found.has_password_hashes
        self._feed = _Feed(loads, changed, had_password_hashes or has_password_hashes)
        gone = [each for each in self._in_steps(self._records, pause_s) if each not in found.ids]
        for client_id in self._in_steps(gone, pause_s):
            del self._records[client_id]
        for client_id, record in self._in_steps(found.changed.items(), pause_s):
            self._records[client_id] = record
        self._short_passwords = found.short_passwords
        self._has_plaintext = found.has_plaintext
        # Announced last, so that no lookup finds an old record after its change is known.
        is_few = len(gone) + len(found.changed) <= CHANGES_KEPT
        latest = (*changed, frozenset([*gone, *found.changed]))[-_LOADS_KEPT:] if is_few else ()
        self._feed = _Feed(loads + 1, latest, has_password_hashes)
        if self._problem is not None:
            logger.warning("the key file %s can be read again", self._path)
        self._problem = None

    def _in_steps(self, items: Iterable[T], pause_s: float) -> Iterator[T]:
        """Yield the items, and let other threads run every few milliseconds. Lookups do not wait for this."""
        pause_at = 0.0
        for item in items:
            yield item
            if pause_s and (now := time.monotonic()) > pause_at:
                self._polled_at = now
                time.sleep(pause_s)
                pause_at = time.monotonic() + _STEP_S

    def _fail(self, reason: str) -> None:
        problem = f"the key file {self._path} {reason}"
        if self._problem is None and self._feed.loads:  # otherwise the first lookup logs it
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
        # Only the name of an existing file is repeated: anything else may be a secret.
        exists = os.path.isfile(path)  # noqa: PTH113 - without an error for a name that no file can have
        hint = f": use file:{quote(str(Path(path).absolute()))}" if exists else ""
        raise ConfigurationError(
            f"a key file is file:/path or file:///path, an absolute path on this machine{hint}"
        )
    if options or form not in (None, *FORMATS):
        raise ConfigurationError(f"file: has one option, ?format=, which is one of {', '.join(FORMATS)}")
    return Path(path), form
