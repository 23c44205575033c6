"""All keys of a backend, including records that cannot be read, and the table of ``keys list``."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from operator import add

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from typer import echo

from ..backends.backend import Backend
from ..errors import UnreadableRecord
from ..keys.model import Key
from ._echo import escape_control, state_of

# Wider than any table: an id that is to be copied must not be cut or wrapped.
_UNLIMITED_COLUMNS = 1_000_000

_ROWS_PER_PART = 500

_COLUMNS = ("ID", "STATE", "EXPIRES", "LAST USED", "SCOPES", "NAME")
_STATE = 1
_STYLES = {"active": "green", "expired": "yellow", "disabled": "yellow", "revoked": "red"}


def iter_records(
    backend: Backend, *, prefix: str = "", after: str = "", limit: int | None = None
) -> Iterator[Key | UnreadableRecord]:
    """Iterate over all keys in the order of their ids, and over the errors of those that cannot be read.

    Args:
        backend: The backend.
        prefix: As for ``Backend.iter_keys``.
        after: As for ``Backend.iter_keys``.
        limit: As for ``Backend.iter_keys``; counts readable keys.

    Raises:
        UnreadableRecord: A record without a client id cannot be read, so it cannot be skipped.
    """
    one_by_one = False  # from the start of a page with such a record up to that record
    while True:
        start = after
        try:
            for key in backend.iter_keys(prefix, after, 1 if one_by_one else limit):
                yield key
                after = key.client_id
                limit = None if limit is None else limit - 1
        except UnreadableRecord as exc:
            if exc.client_id is None:
                raise
            if one_by_one:
                yield exc.with_traceback(None)
                after = exc.client_id
            one_by_one = not one_by_one
        else:
            if not one_by_one or after == start:
                return


def print_table(keys: Iterable[Key]) -> None:
    """Print a table of any number of keys.

    Rich lays out the first part. It takes hundreds of microseconds per row, because every cell might wrap, so
    the rows of later parts are formatted here.
    """
    console = Console(file=sys.stdout, width=_UNLIMITED_COLUMNS, highlight=False, markup=False, emoji=False)
    remaining = iter(keys)
    widths = list(map(cell_len, _COLUMNS))
    is_first = True
    while rows := list(map(_row, islice(remaining, _ROWS_PER_PART))):
        # A part may be wider than those above it, but never narrower.
        columns = zip(*rows, strict=True)
        widths = [max(width, *map(_cells, texts)) for width, texts in zip(widths, columns, strict=True)]
        if is_first:
            console.print(_table(rows), soft_wrap=True)
        else:
            sys.stdout.writelines(_lines(rows, widths, console))
        is_first = False
    if is_first:
        echo("no keys")


def _table(rows: Iterable[Sequence[str]]) -> Table:
    table = Table(
        *(Column(name, no_wrap=True, overflow="ignore") for name in _COLUMNS),
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for texts in rows:
        styles = (_STYLES[text] if column == _STATE else "" for column, text in enumerate(texts))
        table.add_row(*map(Text, texts, styles))
    return table


def _lines(rows: Iterable[Sequence[str]], widths: Sequence[int], console: Console) -> Iterator[str]:
    """The same as ``_table``, without the header."""
    styled: dict[str, str] = {}
    for state, style in _STYLES.items():
        with console.capture() as capture:
            console.print(Text(state, style=style), end="")
        styled[state] = capture.get()
    for texts in rows:
        cells = list(texts)
        cells[_STATE] = styled[texts[_STATE]]
        padding = [" " * (width - _cells(text)) for text, width in zip(texts, widths, strict=True)]
        yield "  ".join(map(add, cells, padding)) + "\n"


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _row(key: Key) -> tuple[str, ...]:
    return (
        escape_control(key.client_id),
        state_of(key),
        _to_the_minute(key.expires_at),
        _to_the_minute(key.last_used_at),
        escape_control(" ".join(sorted(key.scopes))),
        escape_control(key.name),
    )


def _to_the_minute(value: datetime | None) -> str:
    return "never" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")
