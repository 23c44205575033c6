"""``basicauth-mw keys import`` and ``export``."""

import os
import stat
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from typer import echo

from ...keys.escaping import escape_control
from ...keys.model import Key
from .._echo import CommandError, count_keys, echo_error, echo_json, key_fields, progress_bar
from .._input import stdin
from .._options import AsJson, BackendUrl, open_for
from ..tokens import credential_fields
from .exporter import export_file, export_keys
from .importer import ImportReport, import_keys
from .input_file import FORMATS, InputFile
from .interrupts import Interrupts

if TYPE_CHECKING:
    from rich.progress import Progress

_ERRORS_SHOWN = 20  # without --json


def export(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The file, readable by its owner only.", show_default="stdout"),
    ] = None,
    *,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Export all keys, with their hashes, as JSON lines.

    The file is created when the export is complete, and replaces an earlier export with the same name.
    """
    to_file = file is not None and str(file) != "-" and not _is_stdout(file)
    with (
        open_for(ctx, backend) as store,
        Interrupts(),
        progress_bar(shown=to_file or not sys.stdout.isatty()) as bar,
    ):
        advance = partial(bar.advance, bar.add_task("exporting", total=None))
        if file is None or not to_file:
            export_keys(store, sys.stdout.buffer, advance)
            return
        try:
            count = export_file(store, file, advance)
        except OSError as exc:
            exc.filename = str(file)  # not the name of the temporary file
            raise
    if as_json:
        echo_json({"exported": count, "file": str(file)})
    else:
        echo(f"exported {count_keys(count)}")


def import_(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An export, a CSV file (id,secret) or an htpasswd file; - for stdin.",
            show_default=False,
        ),
    ],
    *,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="|".join(FORMATS), help="The format of the file.", show_default="detected"
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Import the valid lines of a damaged export.")
    ] = False,
    new_secrets: Annotated[
        bool,
        typer.Option(
            "--new-secrets",
            help="Give users of an htpasswd file whose hash cannot be imported a new secret, and print it.",
        ),
    ] = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Import keys from a file. Existing keys are unchanged.

    A missing SQLite file is created.
    """
    if format_ is not None and format_ not in FORMATS:
        raise typer.BadParameter(f"expected one of {', '.join(FORMATS)}", param_hint="'--format'")
    with Interrupts() as interrupts, _open(file) as stream:
        source = InputFile(stream, format=format_)
        report = _ConsoleReport(interrupts, as_json=as_json)
        try:
            with (
                open_for(ctx, backend, create=True) as keys,
                progress_bar(in_bytes=True, shown=not (as_json or new_secrets)) as report.bar,
            ):
                import_keys(keys, source, report, partial=partial, new_secrets=new_secrets)
        except BaseException as exc:
            report.echo_errors()
            if report.not_printed is not None:
                echo_error(
                    f"the new secret of {report.not_printed!r} was not printed: give it another one with  "
                    "basicauth-mw keys rotate --overlap 0"
                )
            if report.imported or isinstance(exc, KeyboardInterrupt):
                echo_error(
                    f"stopped after importing {count_keys(report.imported)}; the import can be repeated"
                )
            raise
        finally:
            others = stat.S_IRGRP | stat.S_IROTH
            if report.saw_plaintext and file != "-" and os.fstat(stream.fileno()).st_mode & others:
                echo_error(
                    f"warning: other users can read {file}, which contains secrets in plain text: run "
                    "chmod 600 now, and delete the file when it is no longer needed"
                )
    report.echo_errors()
    if not as_json:
        unchanged = f"; already present: {report.unchanged}" if report.unchanged else ""
        # Stdout has nothing but the new secrets, if there are any.
        echo(f"imported {count_keys(report.imported)}{unchanged}", err=new_secrets)
    if report.refused:
        lines = "1 line was" if report.refused == 1 else f"{report.refused} lines were"
        raise CommandError(f"{lines} not imported, see above")


class _ConsoleReport(ImportReport):
    bar: "Progress"
    not_printed: str | None = None  # the client ID of a stored key whose new secret is not printed yet

    def __init__(self, interrupts: Interrupts, *, as_json: bool) -> None:
        super().__init__()
        self._interrupts = interrupts
        self._as_json = as_json
        self._errors: list[str] = []  # printed when the progress bar is gone

    def on_start(self, work: str, size: int | None) -> None:
        self._task = self.bar.add_task(work, total=size)

    def on_progress(self, size: int) -> None:
        self.bar.advance(self._task, size)

    def deferring(self) -> AbstractContextManager[None]:
        return self._interrupts.deferred()

    def on_imported(self, key: Key, secret: str | None) -> None:
        self.not_printed = key.client_id if secret is not None else None
        if self._as_json:
            shown = {}
            if secret is not None:
                shown = {"secret": secret, **credential_fields(key.client_id, secret)}
            echo_json({**key_fields(key), **shown})
        elif secret is not None:
            echo(f"{escape_control(key.client_id)}:{secret}")
        self.not_printed = None

    def on_refused(self, line: int, reason: str) -> None:
        super().on_refused(line, reason)
        text = f"error: line {line}: {reason}"
        if self._as_json:
            echo_error(text)
        elif self.refused <= _ERRORS_SHOWN:
            self._errors.append(text)

    def echo_errors(self) -> None:
        for text in self._errors:
            echo_error(text)
        if not self._as_json and self.refused > _ERRORS_SHOWN:
            echo_error(f"error: and {self.refused - _ERRORS_SHOWN} more lines (--json prints all)")


def _open(file: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(stdin()) if file == "-" else Path(file).open("rb")


def _is_stdout(file: Path) -> bool:
    """Whether a name such as /dev/stdout means the pipe or terminal that stdout is."""
    try:
        named, stdout = file.stat(), os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # no such file; stdout is none
        return False
    return os.path.samestat(named, stdout) and not stat.S_ISREG(named.st_mode)
