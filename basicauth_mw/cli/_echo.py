"""Output of the commands: JSON lines for programs, text for people, errors on stderr.

Names, IDs and metadata come from a database that others may write to. So control characters, escape sequences
and bidirectional overrides in them are escaped.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from typer import echo

from ..errors import BasicAuthError
from ..keys import lifecycle
from ..keys.escaping import escape_control
from ..keys.model import Key, Secret, utcnow

# The random part of a generated secret, whatever its prefix. Client IDs of the earlier, long form are public.
_GENERATED = re.compile(r"(?<=_)(?<!\bid_)[0-9A-Za-z]{49}(?![0-9A-Za-z])", re.ASCII)

_KEY_FIELDS = (
    *("client_id", "name", "scopes", "created_at", "expires_at", "revoked_at", "disabled", "last_used_at"),
    *("metadata", "secrets"),
)


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


def echo_json(fields: Mapping[str, Any]) -> None:
    """Print an object as a line of JSON in ASCII."""
    echo(json.dumps(fields, ensure_ascii=True, default=_encode))


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
