"""Write the keys of a file to a backend. Memory does not grow with their number.

The input is read in batches: while a thread writes one batch, the caller's thread reads the next. Only one
batch at a time is being written, and it is reported before the next one is written, so the report always says
how far the import has come. An export is read twice: nothing is written until it has been checked to its last
line. In the other formats, every line stands for itself. Errors give line numbers and reasons, never a secret
or a hash.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, Final

from ...errors import BasicAuthError, InvalidKey, KeyExists
from ...keys.audit import printable
from ...keys.model import Key
from .formats import CsvParser, LineCounter, PasswordRow, make_key, parse_htpasswd
from .jsonl import TransferError
from .reader import decode_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from ...backends.backend import Backend
    from .reader import InputFile

BATCH: Final = 1000  # lines

_PASSWORDS_PER_BATCH: Final = 40  # each takes tens of milliseconds to hash
_BATCH_BYTES: Final = 1024 * 1024


class ImportReport:
    """The progress and the result of an import. Override the methods of interest.

    They are called in the thread that imports.

    Attributes:
        imported: Keys that were written.
        unchanged: Keys of an export that were stored already, with the same content.
        refused: Lines that were not imported.
        saw_plaintext: Whether the file contained secrets that were not hashed.
    """

    def __init__(self) -> None:
        self.imported = 0
        self.unchanged = 0
        self.refused = 0
        self.saw_plaintext = False

    def on_start(self, work: str, size: int | None) -> None:
        """A pass over the file starts."""

    def on_progress(self, size: int) -> None:
        """Called with the number of bytes processed since the last call."""

    def deferring(self) -> AbstractContextManager[object]:
        """A context in which an interrupt should be deferred: a batch is started, or awaited and reported."""
        return nullcontext()

    def on_imported(self, key: Key) -> None:
        """A key was written. ``imported`` includes its whole batch already."""

    def on_refused(self, line: int, reason: str) -> None:
        """A line was not imported. The reason repeats nothing of it but a client id that is taken."""
        self.refused += 1


def import_keys(backend: Backend, source: InputFile, report: ImportReport, *, partial: bool = False) -> None:
    """Write the keys that do not exist yet. An import that was interrupted can be repeated.

    Each key is written completely or not at all. Existing keys are never changed.
    """
    backend.add([])  # raises ReadOnlyBackend before any work is done
    if source.format == "export" and not partial:
        with source.spool() as copy:
            _check_export(backend, source, report, copy)
            _Importer(backend, source.format, report).run(source.rewound(copy))
    else:
        _Importer(backend, source.format, report).run(source)


def _check_export(backend: Backend, source: InputFile, report: ImportReport, copy: BinaryIO | None) -> None:
    report.on_start("checking", source.size)
    counter = LineCounter()
    number = size = 0
    for number, line in source.lines(copy):
        size += len(line)
        if size > _BATCH_BYTES:
            report.on_progress(size)
            size = 0
        try:
            if text := decode_line(line, first=number == 1):
                key = counter.parse(text)
                counter.check()
                backend.check(key)
        except InvalidKey as exc:
            report.on_refused(number, str(exc))
    report.on_progress(size)
    if counter.is_truncated and not report.refused:
        report.on_refused(number, "not the last line of the export: the file was cut off")
    if report.refused:
        raise TransferError(
            "the export is damaged, so nothing was imported; --partial imports its valid lines"
        )


class _Unchanged(KeyExists):
    """The same key is stored already."""


_Resolved = Key | BasicAuthError

# What became of a line: a key, why there is none, or what returns the key when its password has been hashed.
_Entry = _Resolved | Callable[[], Key]


@dataclass(slots=True)
class _Batch:
    """Lines that are written together: the number, the client id if there is one, and the entry of each."""

    lines: list[tuple[int, str | None, _Entry]] = field(default_factory=list)
    size: int = 0  # bytes
    room: int = BATCH  # lines


class _Importer:
    def __init__(
        self,
        backend: Backend,
        format: str,  # noqa: A002 - as in --format
        report: ImportReport,
    ) -> None:
        self._backend = backend
        self._report = report
        self._is_export = format == "export"
        self._counter = LineCounter()
        self._csv = CsvParser(backend.hasher)
        self._parse = {"export": self._counter.parse, "csv": self._csv.parse, "htpasswd": parse_htpasswd}[
            format
        ]
        self._batch = _Batch()
        self._writing: tuple[_Batch, list[_Resolved], Future[list[BasicAuthError | None]]] | None = None
        self._writer = ThreadPoolExecutor(1, "basicauth-import-writer")
        self._hashers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "basicauth-import-hasher")

    def run(self, source: InputFile) -> None:
        self._report.on_start("importing", source.size)
        number = 0
        try:
            for number, line in source.lines():
                self._add_line(number, line)
                if self._batch.room <= 0 or self._batch.size > _BATCH_BYTES:
                    self._write_batch()
            if self._counter.is_truncated:
                problem = InvalidKey("missing: the file was cut off")
                self._batch.lines.append((number + 1, None, problem))
            self._write_batch()
        finally:
            self._report.saw_plaintext = self._csv.saw_plaintext
            self._hashers.shutdown(cancel_futures=True)
            is_idle = False
            try:
                self._report_batch()
                is_idle = True
            finally:
                self._writer.shutdown(wait=is_idle)  # a second Ctrl-C does not wait for a write that hangs

    def _add_line(self, number: int, line: bytes) -> None:
        batch = self._batch
        batch.size += len(line)
        batch.room -= 1
        try:
            if not (text := decode_line(line, first=number == 1)):
                return
            parsed = self._parse(text)
            if isinstance(parsed, Key):
                batch.lines.append((number, parsed.client_id, parsed))
            elif parsed is not None:
                batch.lines.append((number, parsed.client_id, self._start_hashing(parsed)))
                batch.room -= BATCH // _PASSWORDS_PER_BATCH
            self._counter.check()
        except InvalidKey as exc:
            batch.lines.append((number, None, exc.with_traceback(None)))

    def _start_hashing(self, row: PasswordRow) -> _Entry:
        if self._backend.get(row.client_id) is not None:  # takes a fraction of the time of a hash
            return KeyExists()
        future = self._hashers.submit(self._backend.hash, row.password)
        return lambda: make_key(row.client_id, future.result(), **row.fields)

    def _write_batch(self) -> None:
        """Pass the batch on to the writer, when it is done with the previous one."""
        batch, self._batch = self._batch, _Batch()
        entries = [entry() if callable(entry) else entry for _, _, entry in batch.lines]
        keys = [entry for entry in entries if isinstance(entry, Key)]
        self._report_batch()
        with self._report.deferring():  # an interrupt in between would leave a batch that is never reported
            self._writing = (batch, entries, self._writer.submit(self._write, keys))

    def _write(self, keys: Sequence[Key]) -> list[BasicAuthError | None]:
        """Write keys, in the writer's thread. Returns for each why it was not written, or None."""
        problems = self._backend.add(keys)
        if not self._is_export:
            return problems
        return [
            _Unchanged() if isinstance(problem, KeyExists) and _is_stored(self._backend, key) else problem
            for key, problem in zip(keys, problems, strict=True)
        ]

    def _report_batch(self) -> None:
        """Wait for the batch that is being written, and report it."""
        if self._writing is None:
            return
        report = self._report
        first_lines: dict[str | None, int] = {}
        with report.deferring():
            (batch, entries, future), self._writing = self._writing, None
            problems = future.result()
            report.imported += problems.count(None)  # first: reporting may fail half-way
            outcomes = iter(problems)
            for (number, client_id, _), entry in zip(batch.lines, entries, strict=True):
                problem = next(outcomes) if isinstance(entry, Key) else entry
                first = first_lines.setdefault(client_id, number)
                if problem is None and isinstance(entry, Key):
                    report.on_imported(entry)
                elif isinstance(problem, _Unchanged):
                    report.unchanged += 1
                elif isinstance(problem, KeyExists):
                    too = f": line {first} has it too" if first < number else ""
                    report.on_refused(number, f"its client id {printable(client_id)!r} is taken{too}")
                else:
                    report.on_refused(number, str(problem))
            report.on_progress(batch.size)


def _is_stored(backend: Backend, key: Key) -> bool:
    """Whether the same key is stored, regardless of when it was last used."""
    stored = backend.get(key.client_id)
    return stored is not None and _without_last_use(stored) == _without_last_use(key)


def _without_last_use(key: Key) -> Key:
    secrets = tuple(replace(secret, last_used_at=None) for secret in key.secrets)
    return replace(key, last_used_at=None, secrets=secrets)
