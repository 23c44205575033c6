"""What the commands print: JSON lines for programs, inert text for people.

Names, ids and metadata come from a database that others may write to, so nothing of theirs reaches a
terminal as anything but visible text: control characters, escape sequences, bidirectional overrides and
rich's markup are all shown, never obeyed.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from operator import add
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ..keys import lifecycle
from ..keys.model import Key, utcnow

# Wider than any table: what is to be copied is cut or folded nowhere, on no terminal.
_UNBOUNDED_COLUMNS = 1_000_000

# What is held in memory at a time.
_ROWS_AT_A_TIME = 500

# The digits of a minted secret, whatever its prefix; of a minted id they are for everybody to see.
_MINTED = re.compile(r"(?<=_)(?<!\bid_)[0-9A-Za-z]{49}(?![0-9A-Za-z])", re.ASCII)

_COLUMNS = ("ID", "STATE", "EXPIRES", "LAST USED", "SCOPES", "NAME")
_STATE = 1
_STYLES = {"active": "green", "expired": "yellow", "disabled": "yellow", "revoked": "red"}


def inert(text: str) -> str:
    """Make foreign text safe for a terminal: what is not visible is escaped as in Python, spaces apart."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def moment(value: datetime | None) -> str | None:
    """A time as RFC 3339 in UTC with ``Z``."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def state_of(key: Key) -> str:
    """One word for whether a key works: ``active``, ``expired``, ``disabled`` or ``revoked``."""
    return lifecycle.state_of(key, utcnow())


def key_fields(key: Key) -> dict[str, Any]:
    """A key as ``--json`` shows it: never its hashes."""
    return {
        "client_id": key.client_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
        "disabled": key.disabled,
        "last_used_at": moment(key.last_used_at),
        "metadata": dict(key.metadata),
        "secrets": [
            {
                "created_at": moment(secret.created_at),
                "expires_at": moment(secret.expires_at),
                "last_used_at": moment(secret.last_used_at),
            }
            for secret in key.secrets
        ],
    }


def print_json(fields: Mapping[str, Any]) -> None:
    """Print one object on one line, in ASCII, so that no name in it can act on a terminal."""
    say(json.dumps(fields, ensure_ascii=True, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):  # somebody's store may keep metadata in read-only views
        return dict(value)
    return str(value)


def say(text: str = "") -> None:
    """Print one line to stdout. Foreign text in it must have passed ``inert``."""
    sys.stdout.write(f"{text}\n")


def flush() -> None:
    """Hand what was printed to the operating system now, or raise ``OSError``."""
    sys.stdout.flush()


def complain(text: str) -> None:
    """Print one line to stderr, made inert, and without minted secrets that it may repeat.

    What was typed in the wrong place, a secret instead of an id, comes back in many an error.
    """
    sys.stderr.write(f"{inert(_MINTED.sub('...', text))}\n")


def print_key(key: Key) -> None:
    """Print one key for people, a field a line."""
    rows = [
        ("id", key.client_id),
        ("name", key.name),
        ("state", state_of(key)),
        ("scopes", " ".join(sorted(key.scopes))),
        ("created", moment(key.created_at)),
        ("expires", moment(key.expires_at) or "never"),
        ("revoked", moment(key.revoked_at)),
        ("last used", moment(key.last_used_at)),
        (
            "metadata",
            json.dumps(dict(key.metadata), ensure_ascii=False, default=_plain) if key.metadata else "",
        ),
    ]
    for label, value in rows:
        if value:
            say(f"{label:<10} {inert(value)}")


def print_secrets(key: Key) -> None:
    """Print when each live secret of a key was made, ends and was last used, a line each; never its hash."""
    now = utcnow()
    for secret in key.secrets:
        if lifecycle.is_live(secret, now):
            say(
                f"{'secret':<10} created {moment(secret.created_at)}, "
                f"expires {moment(secret.expires_at) or 'never'}, "
                f"last used {moment(secret.last_used_at) or 'never'}"
            )


def print_keys(keys: Iterable[Key]) -> None:
    """Print a table of keys for people, part by part, so that there may be any number of them.

    Rich lays the first part out. It takes some hundred microseconds for each row, as every cell might be
    wrapped; the rows of later parts, which are put under it, go without.
    """
    console = Console(file=sys.stdout, width=_UNBOUNDED_COLUMNS, highlight=False, markup=False, emoji=False)
    left = iter(keys)
    widths = [cell_len(name) for name in _COLUMNS]
    is_first = True
    while rows := [_row(key) for key in islice(left, _ROWS_AT_A_TIME)]:
        # A part may be wider than those above it, but never narrower.
        columns = zip(*rows, strict=True)
        widths = [max(width, *map(_cells, texts)) for width, texts in zip(widths, columns, strict=True)]
        if is_first:
            console.print(_table(rows), soft_wrap=True)
        else:
            sys.stdout.writelines(_lines(rows, widths, console))
        is_first = False
    if is_first:
        say("no keys")


def _table(rows: Iterable[Sequence[str]]) -> Table:
    table = Table(
        *(Column(name, no_wrap=True, overflow="ignore") for name in _COLUMNS),
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for texts in rows:
        table.add_row(
            *(
                Text(text, style=_STYLES[text] if column == _STATE else "")
                for column, text in enumerate(texts)
            )
        )
    return table


def _lines(rows: Iterable[Sequence[str]], widths: Sequence[int], console: Console) -> Iterator[str]:
    """What ``_table`` comes to, without its header."""
    styled: dict[str, str] = {}
    for state, style in _STYLES.items():
        with console.capture() as capture:
            console.print(Text(state, style=style), end="")
        styled[state] = capture.get()
    for texts in rows:
        cells = list(texts)
        cells[_STATE] = styled[texts[_STATE]]
        blanks = [" " * (width - _cells(text)) for text, width in zip(texts, widths, strict=True)]
        yield "  ".join(map(add, cells, blanks)) + "\n"


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _row(key: Key) -> tuple[str, ...]:
    return (
        inert(key.client_id),
        state_of(key),
        _to_the_minute(key.expires_at),
        _to_the_minute(key.last_used_at),
        inert(" ".join(sorted(key.scopes))),
        inert(key.name),
    )


def _to_the_minute(value: datetime | None) -> str:
    return "never" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")
