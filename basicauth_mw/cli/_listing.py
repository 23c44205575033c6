"""The table of ``keys list``."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from typer import echo

from ..keys.escaping import escape_control
from ..keys.model import Key
from ._echo import current_state

_ROWS_PER_PART = 500

_COLUMNS = ("ID", "STATE", "EXPIRES", "LAST USED", "SCOPES", "NAME")
_STATE = 1
_STYLES = {"active": "green", "expired": "yellow", "disabled": "yellow", "revoked": "red"}


def print_table(keys: Iterable[Key]) -> None:
    """Print a table of any number of keys, in parts. A later part may be wider, but never narrower."""
    console = Console(file=sys.stdout, highlight=False)
    states = {state: _styled(console, state, style) for state, style in _STYLES.items()}
    remaining = iter(keys)
    widths = list(map(cell_len, _COLUMNS))
    header = [_COLUMNS]
    while rows := [*header, *map(_row, islice(remaining, _ROWS_PER_PART))]:
        if rows == [_COLUMNS]:
            echo("no keys")
            return
        columns = zip(*rows, strict=True)
        widths = [max(width, *map(_cells, texts)) for width, texts in zip(widths, columns, strict=True)]
        for row in rows:
            cells = [text + " " * (width - _cells(text)) for text, width in zip(row, widths, strict=True)]
            if row is _COLUMNS:
                line = _styled(console, "  ".join(cells).rstrip(), "bold")
            else:
                cells[_STATE] = cells[_STATE].replace(row[_STATE], states[row[_STATE]])
                line = "  ".join(cells).rstrip()
            sys.stdout.write(f"{line}\n")
        header = []


def _styled(console: Console, text: str, style: str) -> str:
    """Text with the escape codes of a style, if stdout supports them."""
    with console.capture() as capture:
        console.print(Text(text, style=style), end="", soft_wrap=True)
    return capture.get()


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _row(key: Key) -> tuple[str, ...]:
    return (
        _printable(key.client_id),
        current_state(key),
        _to_the_minute(key.expires_at),
        _to_the_minute(key.last_used_at),
        _printable(" ".join(sorted(key.scopes))),
        _printable(key.name),
    )


def _printable(text: str) -> str:
    """Text as stdout will show it, so that its width is known."""
    encoding = sys.stdout.encoding
    return escape_control(text).encode(encoding, "backslashreplace").decode(encoding)


def _to_the_minute(value: datetime | None) -> str:
    return "never" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")
