"""``basicauth-mw keys import`` and ``export``."""

import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, BinaryIO, Self

import typer

from ..backends.backend import Backend
from ..exporting import export_file, export_keys
from ..importing import Report, import_keys
from ..keys.model import Key
from ..sources import KINDS, Source
from ._errors import CommandError, reason_of
from ._input import stdin
from ._options import AsJson, BackendUrl, opened, stand_in
from ._output import complain, key_fields, print_json, say
from ._progress import Bar, progress_bar

# For people; a program gets them all.
_REFUSALS_SHOWN = 20


def export(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Readable by its owner only.", show_default="stdout"),
    ] = None,
    *,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write all keys, with their hashes, as JSON lines. A file appears when it is complete, or not at all."""
    to_file = file is not None and str(file) != "-" and not _is_stdout(file)
    with (
        opened(ctx, backend) as store,
        _Signals(),
        progress_bar(octets=False, wanted=to_file or not sys.stdout.isatty()) as bar,
    ):
        bar.begin("exporting", None)
        if file is None or not to_file:
            export_keys(store, sys.stdout.buffer, bar.advance)
            return
        try:
            count = export_file(store, file, bar.advance)
        except OSError as exc:
            exc.filename = str(file)  # not the temporary one
            raise CommandError(reason_of(exc)) from None
    if as_json:
        print_json({"exported": count, "file": str(file)})
    else:
        say(f"exported {_keys(count)}")


def import_(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An export, a CSV of id,secret, an htpasswd file; - is stdin.",
            show_default=False,
        ),
    ],
    *,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="|".join(KINDS), help="What it is.", show_default="by its content"),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Import what can be used of a damaged export.")
    ] = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Add the keys of a file; those that are there already are left alone. A missing SQLite file is made."""
    if format_ is not None and format_ not in KINDS:
        raise typer.BadParameter(f"give one of {', '.join(KINDS)}", param_hint="'--format'")
    with _Signals() as signals, _stream(file) as stream:
        source = Source(stream, kind=format_)
        report = _Told(signals, as_json=as_json)
        try:
            with (
                ExitStack() as stack,
                progress_bar(octets=True, wanted=not as_json) as report.bar,
            ):

                def make() -> Backend:
                    return stack.enter_context(opened(ctx, backend, create=True))

                if (nothing := stand_in(ctx, backend)) is not None:
                    import_keys(nothing, source, report, partial=partial, make=make)
                else:
                    import_keys(make(), source, report, partial=partial)
        except BaseException as exc:
            report.tell_refused()
            if report.imported or isinstance(exc, KeyboardInterrupt):
                complain(f"{_keys(report.imported)} imported until it was stopped; it can be run again")
            raise
        finally:
            if report.plain and file != "-" and _is_readable_by_others(stream):
                complain(
                    f"warning: other users may read {file}, which holds secrets in clear: "
                    "chmod 600 it now, and delete it when it is done with"
                )
    report.tell_refused()
    if not as_json:
        there = f"; there already: {report.present}" if report.present else ""
        say(f"imported {_keys(report.imported)}{there}")
    if report.refused:
        lines = "1 line was" if report.refused == 1 else f"{report.refused} lines were"
        raise CommandError(f"{lines} not imported, see above")


class _Told(Report):
    """Prints what becomes of the lines."""

    def __init__(self, signals: "_Signals", *, as_json: bool) -> None:
        super().__init__()
        self.bar = Bar()
        self._signals = signals
        self._as_json = as_json
        self._waiting: list[str] = []  # until the bar is gone

    def begins(self, work: str, octets: int | None) -> None:
        self.bar.begin(work, octets)

    def reads(self, octets: int) -> None:
        self.bar.advance(octets)

    def writing(self) -> AbstractContextManager[object]:
        return self._signals.held()

    def on_imported(self, key: Key) -> None:
        if self._as_json:
            print_json(key_fields(key))

    def on_refused(self, line: int, reason: str) -> None:
        super().on_refused(line, reason)
        text = f"error: line {line}: {reason}"
        if self._as_json:
            complain(text)
        elif self.refused <= _REFUSALS_SHOWN:
            self._waiting.append(text)

    def tell_refused(self) -> None:
        for text in self._waiting:
            complain(text)
        if not self._as_json and self.refused > _REFUSALS_SHOWN:
            complain(f"error: and {self.refused - _REFUSALS_SHOWN} lines more (--json names all)")


class _Signals:
    """Makes Ctrl-C, and what ends a program in the background, a KeyboardInterrupt; not amid a batch."""

    def __enter__(self) -> Self:
        self._is_held = False
        self._came = False
        self._before = {
            number: signal.signal(number, self._on_signal)
            for name in ("SIGINT", "SIGTERM", "SIGHUP")
            if (number := getattr(signal, name, None)) is not None  # Windows has no SIGHUP
            and signal.getsignal(number) is not signal.SIG_IGN  # as nohup wants it
        }
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the first one wait for the end of the block."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._came:
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_held and not self._came:
            self._came = True
        else:
            raise KeyboardInterrupt


@contextmanager
def _stream(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield stdin()
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(file).open("rb"))
        except OSError as exc:
            raise CommandError(reason_of(exc)) from None
        yield stream


def _is_stdout(file: Path) -> bool:
    """Whether a name, as /dev/stdout, means the pipe or the terminal to which we write anyway."""
    try:
        there, here = file.stat(), os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # no such file; no such stdout
        return False
    return os.path.samestat(there, here) and not stat.S_ISREG(there.st_mode)


def _is_readable_by_others(stream: BinaryIO) -> bool:
    return bool(os.fstat(stream.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _keys(count: int) -> str:
    return f"{count} key{'' if count == 1 else 's'}"
