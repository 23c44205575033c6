"""Input of the commands: durations, times, JSON, secrets, confirmation, paths.

Invalid option values raise ``typer.BadParameter``, which ends with status 2.
"""

import getpass
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import typer

from ..errors import InvalidKey
from ..keys import validation
from ..keys.escaping import escape_control
from ..keys.model import utcnow
from ..keys.validation import parse_duration
from ._echo import CommandError

# Far more than the longest secret: limits what is read from a pipe that was connected by mistake.
_MAX_SECRET_BYTES = 65_536

_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LONGEST_PERIOD_S = 36_500 * 86_400  # a century, which can be subtracted from every date
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_expires(text: str) -> datetime | None:
    """Parse ``--expires``: a duration from now such as ``90d``, a time in RFC 3339, or ``never``."""
    if text == "never":
        return None
    advice = "expected 90d, 12h, 30m, 45s or 2w, a time with its zone such as 2030-01-31T12:00:00Z, or never"
    try:
        if (seconds := parse_duration(text)) is not None:
            return utcnow() + timedelta(seconds=seconds)
        if _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        if _DATE.fullmatch(text):
            advice = f"add a time and a zone: {text}T12:00:00Z"
    except OverflowError:
        advice = "too far away: use a time before the year 9999, or never"
    except ValueError:
        advice = "this date or time does not exist"  # 30 February
    raise typer.BadParameter(advice, param_hint="'--expires'")


def parse_created(text: str) -> datetime:
    """Parse ``--created``, a time in RFC 3339."""
    with suppress(ValueError, OverflowError):
        if _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    raise typer.BadParameter("expected a time with its zone such as 2030-01-31T12:00:00.123456Z")


def parse_seconds(text: str, option: str) -> int:
    """Parse an option that is a duration; returns seconds."""
    if (seconds := parse_duration(text)) is None:
        raise typer.BadParameter(
            "expected a duration such as 24h, 30m, 45s, 7d, 2w or 0", param_hint=f"'{option}'"
        )
    return seconds


def parse_period(text: str, option: str) -> timedelta:
    """Parse an option that is a duration. A longer one than a century counts as a century."""
    return timedelta(seconds=min(parse_seconds(text, option), _LONGEST_PERIOD_S))


def parse_metadata(text: str) -> dict[str, Any]:
    """Parse ``--metadata``, a JSON object."""
    try:
        return validation.parse_metadata(text)
    except InvalidKey as exc:
        raise typer.BadParameter(str(exc)) from None


def read_secret(*, from_stdin: bool, from_prompt: bool) -> str | None:
    """Read a secret as ``--secret-stdin`` or ``--secret-prompt`` say; None without either."""
    if from_stdin and from_prompt:
        raise typer.BadParameter("--secret-stdin and --secret-prompt cannot be combined")
    if from_stdin:
        return secret_from_stdin()
    return secret_from_prompt(confirm=True) if from_prompt else None


def secret_from_stdin() -> str:
    """Read a secret from stdin, without a byte order mark and one final newline. Prompts on a terminal."""
    if stdin_is_terminal():
        return _prompt("Secret: ")
    data = stdin().read(_MAX_SECRET_BYTES + 1)
    if len(data) > _MAX_SECRET_BYTES:
        raise InvalidKey("the secret on stdin is far too long")
    try:
        secret = data.decode("utf-8-sig")  # PowerShell writes a byte order mark into pipes
    except UnicodeDecodeError:
        raise InvalidKey("the secret on stdin is not UTF-8") from None
    secret = secret.removesuffix("\n").removesuffix("\r") if secret.endswith("\n") else secret
    if not secret:
        raise InvalidKey("there is no secret on stdin")
    return secret


def secret_from_prompt(*, confirm: bool) -> str:
    """Prompt for a secret on the terminal, without echo."""
    stdin()
    if not stdin_is_terminal():
        raise typer.BadParameter("stdin is not a terminal: use --secret-stdin")
    secret = _prompt("Secret: ")
    if confirm and _prompt("Repeat the secret: ") != secret:
        raise InvalidKey("the two secrets differ")
    return secret


def stdin_is_terminal() -> bool:
    """Whether the user can be prompted."""
    return sys.stdin is not None and sys.stdin.isatty()


def stdin() -> BinaryIO:
    if sys.stdin is None:
        raise CommandError("standard input is closed")
    return sys.stdin.buffer


def confirm(prompt: str) -> bool:
    """Ask for confirmation on the terminal; without a terminal, return True."""
    if not stdin_is_terminal():
        return True
    typer.echo(f"{escape_control(prompt)} [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _prompt(text: str) -> str:
    secret = getpass.getpass(text)
    if not secret:
        raise InvalidKey("no secret was typed")
    return secret


def refuse_dangling_link(path: Path) -> None:
    """Refuse to create a file through a link, which another user may have created."""
    if path.is_symlink() and not path.exists():
        target = os.path.realpath(path)
        raise CommandError(
            f"{path} is a link to {target}, which does not exist: name that file, or remove the link"
        )
