"""Output of the commands: JSON lines for programs, text for people, errors and progress on stderr.

Names, IDs and metadata come from a database that others may write to. So control characters, escape sequences
and bidirectional overrides in them are escaped.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from typer import echo

from ..errors import BasicAuthError
from ..keys import lifecycle
from ..keys.escaping import escape_control
from ..keys.model import Key, Secret, utcnow

if TYPE_CHECKING:
    from rich.progress import Progress

# The random part of a generated secret, whatever its prefix. Client IDs of the earlier, long form are public.
_GENERATED = re.compile(r"(?<=_)(?<!\bid_)[0-9A-Za-z]{49}(?![0-9A-Za-z])", re.ASCII)

_KEY_FIELDS = tuple(each.name for each in fields(Key) if each.name != "version")


class CommandError(BasicAuthError):
    """A command was refused or failed; the message is the line to print."""

    code = "command_error"


def reason_of(exc: OSError) -> str:
    """The file name and the error of the operating system."""
    reason = (exc.strerror or type(exc).__name__).lower()
    return f"{exc.filename}: {reason}" if exc.filename else reason


def echo_error(text: str) -> None:
    """Print a line to stderr, without control characters and generated secrets.

    Many errors repeat an ID, in whose place a secret may have been typed.
    """
    echo(escape_control(_GENERATED.sub("...", text)), err=True)


def echo_json(members: Mapping[str, Any]) -> None:
    """Print an object as a line of JSON in ASCII."""
    echo(json.dumps(members, ensure_ascii=True, default=_encode))


def _encode(value: object) -> object:
    match value:
        case datetime():
            return isoformat(value)
        case Secret():
            return {name: getattr(value, name) for name in ("created_at", "expires_at", "last_used_at")}
        case frozenset():
            return sorted(value)
        case Mapping():  # a third-party store may return read-only metadata
            return dict(value)
    return str(value)


def isoformat(value: datetime | None) -> str | None:
    """A time as RFC 3339 in UTC with ``Z``."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def current_state(key: Key) -> str:
    return lifecycle.state_of(key, utcnow())


def count_keys(count: int) -> str:
    """``1 key``, ``2 keys``."""
    return f"{count} key{'' if count == 1 else 's'}"


def key_fields(key: Key) -> dict[str, Any]:
    """A key as ``--json`` prints it, without hashes."""
    return {name: getattr(key, name) for name in _KEY_FIELDS}


def echo_key(key: Key) -> None:
    """Print a key for people, one field per line."""
    rows = {
        "id": key.client_id,
        "name": key.name,
        "state": current_state(key),
        "scopes": " ".join(sorted(key.scopes)),
        "created": isoformat(key.created_at),
        "expires": isoformat(key.expires_at) or "never",
        "revoked": isoformat(key.revoked_at),
        "last used": isoformat(key.last_used_at),
        "metadata": key.metadata and json.dumps(dict(key.metadata), ensure_ascii=False, default=_encode),
    }
    for label, value in rows.items():
        if value:
            echo(f"{label:<10} {escape_control(value)}")


def echo_secrets(key: Key) -> None:
    """Print the times of each active secret of a key, one secret per line."""
    now = utcnow()
    for secret in key.secrets:
        if lifecycle.is_active(secret, now):
            echo(
                f"{'secret':<10} created {isoformat(secret.created_at)}, "
                f"expires {isoformat(secret.expires_at) or 'never'}, "
                f"last used {isoformat(secret.last_used_at) or 'never'}"
            )


def progress_bar(*, in_bytes: bool = False, shown: bool = True) -> "Progress":
    """Return a bar, which is shown in a ``with`` block."""
    # Imported here, so that commands without a bar start sooner.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    counts: tuple[ProgressColumn, ...] = (TextColumn("{task.completed:,} keys"), TimeElapsedColumn())
    if in_bytes:
        counts = (DownloadColumn(), TimeRemainingColumn())
    is_hidden = not (shown and sys.stderr.isatty())
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        console=Console(stderr=True, quiet=is_hidden),  # rich before 14.1 prints a line for a disabled bar
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=is_hidden,
    )
