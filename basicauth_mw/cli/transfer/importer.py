"""Write the keys of a file to a backend. Memory does not grow with their number.

The input is read in batches. Each one is written and reported before the next one is read, so the report
always says how far the import has come. Only passwords are hashed in other threads: parsing in one thread and
writing in another was measured to be slower, with SQLite and with Redis. An export is read twice: nothing is
written until it has been checked to its last line. In the other formats, each line is independent. Errors
give line numbers and reasons, never a secret or a hash.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, Final

from ...errors import BasicAuthError, InvalidKey, KeyExists
from ...keys.audit import sanitize
from ...keys.key_lists import decode_line
from ...keys.model import Change, Key
from ...keys.validation import check_new_client_id
from .._echo import CommandError
from .import_formats import CsvParser, LineCounter, PasswordRow, make_key, parse_htpasswd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from ...backends.backend import Backend
    from .input_file import InputFile

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

    imported = 0
    unchanged = 0
    refused = 0
    saw_plaintext = False

    def on_start(self, work: str, size: int | None) -> None:
        """A pass over the file starts."""

    def on_progress(self, size: int) -> None:
        """Called with the number of bytes processed since the last call."""

    def deferring(self) -> AbstractContextManager[object]:
        """A context in which an interrupt should be deferred: a batch is written and reported."""
        return nullcontext()

    def on_imported(self, key: Key, secret: str | None) -> None:
        """A key was written, perhaps with a generated secret. ``imported`` counts its whole batch already."""

    def on_refused(self, line: int, reason: str) -> None:
        """A line was not imported. The reason repeats nothing of it but a client ID that is taken."""
        self.refused += 1


def import_keys(
    backend: Backend,
    source: InputFile,
    report: ImportReport,
    *,
    partial: bool = False,
    new_secrets: bool = False,
) -> None:
    """Write the keys that do not exist yet. An import that was interrupted can be repeated.

    Each key is written completely or not at all. Existing keys are never changed.

    Args:
        backend: Stores the keys.
        source: The file.
        report: Gets progress and results.
        partial: Import the valid lines of a damaged export.
        new_secrets: Generate a secret for each user of an htpasswd file whose hash cannot be imported.

    Raises:
        CommandError: The file is not read to its end, or ``new_secrets`` does not apply to it.
    """
    backend.add([])  # raises ReadOnlyBackend before any work is done
    if new_secrets and source.format != "htpasswd":
        raise CommandError(f"--new-secrets is for htpasswd files, but this is read as {source.format}")
    if source.format == "export" and not partial:
        with source.spool() as copy:
            _check_export(backend, source, report, copy)
            _Importer(backend, source.rewound(copy), report).run()
    else:
        _Importer(backend, source, report, new_secrets=new_secrets).run()


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
                backend.check(key, counter.history)
        except InvalidKey as exc:
            report.on_refused(number, str(exc))
    report.on_progress(size)
    if counter.is_truncated and not report.refused:
        report.on_refused(number, "not the last line of the export: the file was cut off")
    if report.refused:
        raise CommandError(
            "the export is damaged, so nothing was imported; --partial imports its valid lines"
        )


# The outcome of a line: a key, a problem, or the key once its password is hashed.
_Entry = Key | BasicAuthError | Future[Key]


@dataclass(slots=True)
class _Batch:
    """Lines that are written together: the number, the client ID if there is one, and the entry of each.

    ``histories`` are those of an export, by the number of their line.
    """

    lines: list[tuple[int, str | None, _Entry]] = field(default_factory=list)
    histories: dict[int, list[Change]] = field(default_factory=dict)
    size: int = 0  # bytes
    room: int = BATCH  # lines


class _Importer:
    def __init__(
        self, backend: Backend, source: InputFile, report: ImportReport, *, new_secrets: bool = False
    ) -> None:
        self._backend = backend
        self._source = source
        self._report = report
        self._counter = LineCounter()
        self._csv = CsvParser(backend.hasher)
        parsers = {"export": self._counter.parse, "csv": self._csv.parse, "htpasswd": parse_htpasswd}
        self._parse = self._parse_or_renew if new_secrets else parsers[source.format]
        self._generated: dict[str, str] = {}  # secrets of the batch, by their hash
        self._batch = _Batch()
        self._hashers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "basicauth-import-hasher")

    def run(self) -> None:
        self._report.on_start("importing", self._source.size)
        number = 0
        try:
            for number, line in self._source.lines():
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
                batch.histories[number] = self._counter.history
            elif parsed is not None:
                batch.lines.append((number, parsed.client_id, self._start_hashing(parsed)))
                batch.room -= BATCH // _PASSWORDS_PER_BATCH
            self._counter.check()
        except InvalidKey as exc:
            batch.lines.append((number, None, exc.with_traceback(None)))

    def _parse_or_renew(self, text: str) -> Key | None:
        """Parse a line of an htpasswd file; a user whose hash cannot be imported gets a new secret."""
        try:
            key = parse_htpasswd(text)
            if key is not None:
                self._backend.check(key)
        except InvalidKey:
            client_id, colon, hashed = text.partition(":")
            if not colon:
                raise
            if hashed.startswith(("!", "*")) or not hashed.strip():
                raise InvalidKey("the user is locked") from None
            check_new_client_id(client_id)
            secret = self._backend.generate_secret()
            stored = self._backend.hash(secret)
            self._generated[stored] = secret
            key = make_key(client_id, stored)
        return key

    def _start_hashing(self, row: PasswordRow) -> _Entry:
        if self._backend.get(row.client_id) is not None:  # takes a fraction of the time of a hash
            return KeyExists()
        return self._hashers.submit(self._hash, row)

    def _hash(self, row: PasswordRow) -> Key:
        return make_key(row.client_id, self._backend.hash(row.password), **row.fields)

    def _write_batch(self) -> None:
        """Write the batch, and report every line of it."""
        batch, self._batch = self._batch, _Batch()
        generated, self._generated = self._generated, {}
        entries = [entry.result() if isinstance(entry, Future) else entry for _, _, entry in batch.lines]
        keys = [
            (entry, batch.histories.get(number, []))
            for (number, _, _), entry in zip(batch.lines, entries, strict=True)
            if isinstance(entry, Key)
        ]
        report = self._report
        first_lines: dict[str | None, int] = {}
        with report.deferring():
            # New secrets are written one by one: if one cannot be printed, no other is lost.
            outcomes = self._add(keys, at_once=1 if generated else BATCH)
            for (number, client_id, _), entry in zip(batch.lines, entries, strict=True):
                problem = next(outcomes) if isinstance(entry, Key) else entry
                first = first_lines.setdefault(client_id, number)
                if problem is None and isinstance(entry, Key):
                    report.on_imported(entry, generated.get(entry.secrets[0].hash) if generated else None)
                elif not isinstance(problem, KeyExists):
                    report.on_refused(number, str(problem))
                elif self._is_stored(entry):
                    report.unchanged += 1
                else:
                    too = f": line {first} has it too" if first < number else ""
                    report.on_refused(number, f"its client ID {sanitize(client_id)!r} is taken{too}")
            report.on_progress(batch.size)

    def _add(self, keys: list[tuple[Key, list[Change]]], *, at_once: int) -> Iterator[BasicAuthError | None]:
        """Write the keys with their histories, and yield the problem of each."""
        for start in range(0, len(keys), at_once):
            records, histories = zip(*keys[start : start + at_once], strict=True)
            problems = self._backend.add(records, histories=histories)
            self._report.imported += problems.count(None)  # first: reporting may fail half-way
            yield from problems

    def _is_stored(self, entry: _Entry) -> bool:
        """Whether the same key of an export is stored, regardless of when it was last used."""
        if self._source.format != "export" or not isinstance(entry, Key):
            return False
        stored = self._backend.get(entry.client_id)
        return stored is not None and _without_last_use(stored) == _without_last_use(entry)


def _without_last_use(key: Key) -> Key:
    secrets = tuple(replace(secret, last_used_at=None) for secret in key.secrets)
    return replace(key, last_used_at=None, secrets=secrets)
