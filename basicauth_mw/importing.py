"""Keys into a backend from a file; memory does not grow with their number.

An export is JSON lines (``portable``). An import reads one, a CSV of ``id,secret``
(by a header also name, scopes and expires_at, in any order), or an htpasswd file.
An export is checked to its last line before anything is written; of the other two, the lines that can be used
are. Errors name lines and reasons, never a secret or a hash.
"""

from __future__ import annotations

import csv
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from .errors import BasicAuthError, InvalidKey, KeyExists
from .keys.audit import printable
from .keys.generated_secrets import SecretShape, classify, is_secret
from .keys.hashing import looks_hashed, salts, unsupported_scheme
from .keys.model import Key, Secret, utcnow
from .keys.validation import check_client_id, check_new_client_id, check_secret, parse_moment
from .portable import TransferError, load_line
from .sources import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from .backends.backend import Backend
    from .sources import Source

BATCH: Final = 1000

_SLOW_BATCH: Final = 40  # a batch of chosen secrets; each takes tens of milliseconds
_BATCH_OCTETS: Final = 1024 * 1024

# What the columns of a CSV are called elsewhere.
_HEADER_IDS: Final = frozenset(
    {
        *("id", "client_id", "clientid", "client id", "key", "key_id"),
        *("user", "username", "user_name", "login", "name"),
    }
)
_HEADER_SECRETS: Final = frozenset(
    {
        *("secret", "client_secret", "password", "pass", "passwd"),
        *("api_key", "apikey", "key", "token"),
    }
)

_HEADER_DETAILS: Final = {
    **dict.fromkeys(("name", "label", "description"), "name"),
    **dict.fromkeys(("scopes", "scope"), "scopes"),
    **dict.fromkeys(("expires_at", "expires"), "expires_at"),
}
_NUMBERS: Final = {2: "two", 3: "three", 4: "four", 5: "five"}

# What crypt(3) made first, and htpasswd -d still does.
_DES_CRYPT = re.compile(r"[./0-9A-Za-z]{13}")


class Report:
    """How an import goes. Override what is of interest.

    Attributes:
        imported: Keys that were written.
        present: Keys of an export that were there already, just the same.
        refused: Lines that were not imported.
        plain: Whether secrets stood in a column for them in clear.
    """

    def __init__(self) -> None:
        self.imported = 0
        self.present = 0
        self.refused = 0
        self.plain = False

    def begins(self, work: str, octets: int | None) -> None:
        """A pass over the file begins.

        Args:
            work: ``checking`` or ``importing``.
            octets: How many there are to read; None: that cannot be told.
        """

    def reads(self, octets: int) -> None:
        """So many more octets were dealt with."""

    def writing(self) -> AbstractContextManager[object]:
        """Entered while a batch is written and reported."""
        return nullcontext()

    def on_imported(self, key: Key) -> None:
        """A key was written; ``imported`` counts it already, with all of its batch."""

    def on_refused(self, line: int, reason: str) -> None:
        """A line is not imported.

        Args:
            line: Counted from 1.
            reason: Holds nothing of the line but, where it is taken, the client id.
        """
        self.refused += 1


def import_keys(
    backend: Backend,
    source: Source,
    report: Report,
    *,
    partial: bool = False,
    make: Callable[[], Backend] | None = None,
) -> None:
    """Write the keys of a file that are not there yet.

    Each key is written whole or not at all; a key that is there is never changed. An import that ended early
    can be run again.

    Args:
        backend: Where to.
        source: Where from.
        report: Is told what becomes of every line.
        partial: Treat an export as the others: import the lines that can be used.
        make: Gives the backend to write to when there is a key to write, so that nothing is made for a file
            that is no use; until then ``backend``, with the same settings and no key, stands in for it.

    Raises:
        TransferError: It is no whole export; the lines at fault were reported, and nothing was written.
        BackendUnavailable: The backend failed on the way.
        ReadOnlyBackend: It cannot be written to.
        MissingExtra: There is a chosen secret, and argon2-cffi is not installed.
    """
    if make is None:
        backend.add([])  # or it cannot be written to, which is better known before the work than after
    if source.kind == "export" and not partial:
        with source.copy() as copy:
            _check_export(backend, source, report, copy)
            _import(backend, source.again(copy), report, make)
    else:
        _import(backend, source, report, make)


class _Count:
    """The lines of an export, as told by its end; several exports may be joined.

    Attributes:
        is_cut: The line that was read last is a whole one, but not the last of its export.
    """

    def __init__(self) -> None:
        self._lines = 0
        self.is_cut = False

    def take(self, end: int | None) -> None:
        """Count a line.

        Raises:
            InvalidKey: It is the last one, of another number of lines.
        """
        self._lines += 1
        self.is_cut = end is None
        if end is not None:
            lines, self._lines = self._lines, 0
            if end != lines:
                raise InvalidKey(f"the end of {end} lines, but there are {lines}: some are lost")

    def take_damaged(self) -> None:
        """Count a line that cannot be read."""
        self._lines += 1
        self.is_cut = False


def _check_export(backend: Backend, source: Source, report: Report, copy: BinaryIO | None) -> None:
    report.begins("checking", source.octets)
    number = 0
    count = _Count()
    octets = 0
    for number, line in source.lines(copy):
        octets += len(line)
        if octets > _BATCH_OCTETS:
            report.reads(octets)
            octets = 0
        try:
            text = text_of(line, first=number == 1)
            if not text:
                continue
            key, end = _loaded(text, count)
            count.take(end)
            backend.check(key)
        except BasicAuthError as exc:
            report.on_refused(number, str(exc))
    report.reads(octets)
    if count.is_cut and not report.refused:
        report.on_refused(number, "the last line, but not that of the export: the file was cut off")
    if report.refused:
        raise TransferError(
            "this is no whole export, so nothing was imported; --partial imports the lines that can be used"
        )


def _loaded(text: str, count: _Count) -> tuple[Key, int | None]:
    try:
        return load_line(text)
    except InvalidKey:
        count.take_damaged()
        raise


def _import(
    backend: Backend, source: Source, report: Report, make: Callable[[], Backend] | None = None
) -> None:
    report.begins("importing", source.octets)
    with ExitStack() as stack:
        batch = _Batch(backend, source.kind, report, stack, make)
        number = 0
        for number, line in source.lines():
            batch.take(number, line)
        batch.end(number)


class _Batch:
    """Lines that are written together, and reported in their order."""

    def __init__(
        self,
        backend: Backend,
        kind: str,
        report: Report,
        stack: ExitStack,
        make: Callable[[], Backend] | None,
    ) -> None:
        self._backend = backend
        self._report = report
        self._make = make
        self._is_export = kind == "export"
        self._read = {"export": self._of_export, "csv": self._of_csv, "htpasswd": self._of_htpasswd}[kind]
        self._stack = stack
        self._pool: ThreadPoolExecutor | None = None
        self._count = _Count()
        self._is_begun = False  # whether a line that can be used was read
        self._has_header = False
        self._places = {"id": 0, "secret": 1}  # of the columns of a CSV
        self._clear()

    def _clear(self) -> None:
        self._entries: list[tuple[int, _Entry]] = []
        self._octets = 0
        self._room = BATCH
        self._salts = salts(BATCH)
        self._now = utcnow()

    def take(self, number: int, line: bytes) -> None:
        """Read one line; write the batch when it is full."""
        self._octets += len(line)
        self._room -= 1
        try:
            if text := text_of(line, first=number == 1):
                entry = self._read(text, number)
                self._is_begun = True
                if entry is not None:
                    self._entries.append((number, entry))
        except InvalidKey as exc:  # the header may be yet to come, behind comments or a title
            self._entries.append((number, exc.with_traceback(None)))
        if self._room <= 0 or self._octets > _BATCH_OCTETS:
            self.write()

    def end(self, number: int) -> None:
        """Write what is left.

        Args:
            number: Of the last line.
        """
        if self._count.is_cut:
            self._entries.append((number + 1, InvalidKey("missing: the file was cut off")))
        self.write()

    def write(self) -> None:
        """Write what was read, and report it."""
        ready = [(number, _resolved(entry)) for number, entry in self._entries]
        if self._make is not None:
            ready = [(number, self._checked(entry)) for number, entry in ready]
        ids = [_id_of(entry) for _, entry in self._entries]
        keys = [entry for _, entry in ready if isinstance(entry, Key)]
        if keys and self._make is not None:
            self._backend = self._make()
            self._make = None
        first_lines: dict[str | None, int] = {}
        with self._report.writing():
            added = self._backend.add(keys) if keys else []
            self._report.imported += added.count(None)  # all are stored, even if not all can be told
            outcomes = iter(added)
            for (number, entry), client_id in zip(ready, ids, strict=True):
                problem = next(outcomes) if isinstance(entry, Key) else entry
                first = first_lines.setdefault(client_id, number)
                if problem is None and isinstance(entry, Key):
                    self._report.on_imported(entry)
                elif isinstance(problem, KeyExists) and self._is_there(entry):
                    self._report.present += 1
                elif isinstance(problem, KeyExists):
                    too = f": line {first} has it too" if first < number else ""
                    self._report.on_refused(number, f"its client id {printable(client_id)!r} is taken{too}")
                else:
                    self._report.on_refused(number, str(problem))
            self._report.reads(self._octets)
        self._clear()

    # --- a line of each format

    def _of_export(self, text: str, number: int) -> _Entry:
        key, end = _loaded(text, self._count)
        try:
            self._count.take(end)
        except InvalidKey as exc:
            self._entries.append((number, exc.with_traceback(None)))  # the key itself is whole
        return key

    def _of_csv(self, text: str, _number: int) -> _Entry | None:
        row = _columns(text)
        if not self._is_begun and (header := _header_of(row, text)) is not None:
            self._places = header
            self._has_header = True
            return None
        if len(row) != len(self._places):
            self._report.plain |= any(map(is_secret, row))
            hint = "; put quotes around the hash" if any(map(looks_hashed, row)) else ""
            expected = ",".join(sorted(self._places, key=self._places.__getitem__))
            raise InvalidKey(f"not the {_NUMBERS.get(len(self._places), 'same')} columns {expected}{hint}")
        if text.startswith("#"):
            raise InvalidKey("begins with #, but CSV has no comments: drop it, or put quotes around the id")
        pair = client_id, secret = row[self._places["id"]], row[self._places["secret"]]
        has_blanks = any(value != value.strip() and _quoted(value) not in text for value in pair)
        # Prose has commas, too, but a blank after them.
        is_hash = looks_hashed(secret)
        if secret and not is_hash and (self._has_header or not has_blanks):
            self._report.plain = True
        if has_blanks:  # in most files a slip; where it is meant, quotes say so
            raise InvalidKey("a blank beside the comma or at the end: drop it, or put quotes around it")
        check_new_client_id(client_id)
        details = self._details(row)
        if is_hash:
            return _key(client_id, secret, self._now, details)
        shape = classify(secret)
        if shape is SecretShape.GENERATED:  # checked by that, so it can go the short way
            hashed = self._backend.hasher.digest_secret(secret, salt=next(self._salts))
            return _key(client_id, hashed, self._now, details)
        if shape is SecretShape.BAD_CHECKSUM:
            check_secret(secret)  # says so
        self._room -= BATCH // _SLOW_BATCH
        if self._backend.get(client_id) is not None:  # known at a fraction of what the hash costs
            return client_id, None, details
        return client_id, self._slow(secret), details

    def _details(self, row: Sequence[str]) -> _Details:
        """The non-empty values of the columns other than id and secret."""
        found: _Details = {}
        for column, place in self._places.items():
            value = row[place].strip()
            if not value or column in ("id", "secret"):
                continue
            if column == "expires_at":
                found[column] = parse_moment(value, "expires_at")
            else:
                found[column] = frozenset(value.split()) if column == "scopes" else value
        return found

    def _of_htpasswd(self, text: str, _number: int) -> _Entry | None:
        if text.startswith("#"):
            return None
        client_id, colon, rest = text.partition(":")
        if not colon:
            raise InvalidKey("not user:hash")
        hashed = rest.partition(":")[0].rstrip()  # nginx allows a comment behind it
        check_client_id(client_id)
        if looks_hashed(hashed):
            return _key(client_id, hashed, self._now)
        if _DES_CRYPT.fullmatch(hashed):
            raise unsupported_scheme("crypt (DES)")
        raise InvalidKey("not a hash that is understood here, or plain text: re-make it with  htpasswd -B")

    # --- inside

    def _slow(self, secret: str) -> Future[str]:
        if self._pool is None:
            workers = min(4, os.cpu_count() or 1)
            self._pool = self._stack.enter_context(ThreadPoolExecutor(workers, "basicauth-import"))
            self._stack.callback(self._pool.shutdown, cancel_futures=True)
        return self._pool.submit(self._backend.hash, secret)

    def _checked(self, entry: _Resolved) -> _Resolved:
        """What ``add`` would refuse is refused here, as there is nothing yet to add to."""
        if isinstance(entry, Key):
            try:
                self._backend.check(entry)
            except InvalidKey as exc:
                return exc.with_traceback(None)
        return entry

    def _is_there(self, entry: _Resolved) -> bool:
        """Whether the very key of an export is stored already; when it was used is no part of it."""
        if not self._is_export or not isinstance(entry, Key):
            return False
        stored = self._backend.get(entry.client_id)
        return stored is not None and _unused(stored) == _unused(entry)


# What a line comes to: a key, a key whose hash is being made (None: its id is taken), or why there is none.
_Resolved = Key | BasicAuthError
_Details = dict[str, Any]
_Entry = _Resolved | tuple[str, Future[str] | None, _Details]


def _resolved(entry: _Entry) -> _Resolved:
    if not isinstance(entry, tuple):
        return entry
    client_id, future, details = entry
    if future is None:
        return KeyExists()
    try:
        return _key(client_id, future.result(), utcnow(), details)
    except InvalidKey as exc:
        return exc.with_traceback(None)


def _id_of(entry: _Entry) -> str | None:
    if isinstance(entry, tuple):
        return entry[0]
    return entry.client_id if isinstance(entry, Key) else None


def _columns(text: str) -> list[str]:
    """The values of a line of CSV.

    Raises:
        InvalidKey: It is none.
    """
    # Where nothing is quoted, a comma is always the end of a value, and this is several times as fast.
    if '"' not in text and "\r" not in text and len(text) <= csv.field_size_limit():
        return text.split(",")
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as exc:
        if "field limit" in str(exc):
            raise InvalidKey("a field is far longer than an id or a secret may be") from None
        raise InvalidKey("not CSV: a quote or a line break is where none belongs") from None
    return row


def _header_of(row: Sequence[str], text: str) -> dict[str, int] | None:
    """Where the columns are, if the first line of a CSV names them; None: it does not.

    Raises:
        InvalidKey: It may do so: one of two is such a name, and no quotes say that it is meant.
    """
    names = [value.strip().lower() for value in row]
    secrets = [place for place, name in enumerate(names) if name in _HEADER_SECRETS]
    ids = [place for place, name in enumerate(names) if name in _HEADER_IDS]
    pairs = [(one, other) for one in ids for other in secrets if one != other]
    if pairs:
        # "name" is the id only where no other column is.
        client_id, secret = min(pairs, key=lambda pair: names[pair[0]] == "name")
        places = {"id": client_id, "secret": secret}
        for place, name in enumerate(names):
            if place not in (client_id, secret):
                column = _HEADER_DETAILS.get(name)
                if column is None or column in places:
                    raise InvalidKey("a header may name id, secret, name, scopes and expires_at, each once")
                places[column] = place
        return places
    if len(row) != 2 or not (names[0] in _HEADER_IDS or names[1] in _HEADER_SECRETS):
        return None
    is_key = looks_hashed(names[1]) or classify(row[1]) is not SecretShape.OTHER
    if not is_key and text != ",".join(map(_quoted, row)):
        raise InvalidKey("looks like a header; if it is a key, put quotes around both")
    return None


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _key(
    client_id: str, hashed: str, now: datetime, details: Mapping[str, Any] = MappingProxyType({})
) -> Key:
    return Key(client_id, created_at=now, secrets=(Secret(hashed, created_at=now),), **details)


def _unused(key: Key) -> Key:
    secrets = tuple(replace(secret, last_used_at=None) for secret in key.secrets)
    return replace(key, last_used_at=None, secrets=secrets)
