"""What the commands read: durations, moments, JSON, secrets, a yes or no.

What cannot be parsed raises ``typer.BadParameter``, which ends in status 2.
"""

import getpass
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import typer

from ..errors import InvalidKey
from ..keys.model import utcnow
from ..keys.validation import SHORT_PASSWORD, duration_s, is_short_password
from ..portable import RepeatedName, read_json
from ._errors import CommandError
from ._output import complain, inert

# Far above the longest secret; only keeps a mistaken pipe from filling the memory.
_MAX_SECRET_OCTETS = 65_536

_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_expires(text: str) -> datetime | None:
    """Read when a key ends: ``90d``, ``12h``, ``30m``, ``45s``, ``2w`` from now, a moment, ``never``.

    Returns:
        The moment, which is given as in RFC 3339; None: never.

    Raises:
        typer.BadParameter: It is none of them.
    """
    if text == "never":
        return None
    advice = "give 90d, 12h, 30m, 45s or 2w, a moment with its zone as 2030-01-31T12:00:00Z, or never"
    try:
        if (seconds := duration_s(text)) is not None:
            return utcnow() + timedelta(seconds=seconds)
        if _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        if _DATE.fullmatch(text):
            advice = f"add a time and a zone: {text}T12:00:00Z"
    except OverflowError:
        advice = "too far away: give a moment before the year 9999, or never"
    except ValueError:
        advice = "there is no such moment in the calendar"  # 30 February
    raise typer.BadParameter(advice, param_hint="'--expires'")


def parse_overlap(text: str) -> int:
    """Read a duration, ``0`` for none at all, in seconds.

    Raises:
        typer.BadParameter: It is something else.
    """
    if (seconds := duration_s(text)) is None:
        raise typer.BadParameter("give 24h, 30m, 45s, 7d, 2w, or 0", param_hint="'--overlap'")
    return seconds


def parse_metadata(text: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        typer.BadParameter: It is not one.
    """
    try:
        value = read_json(text)
    except RepeatedName:
        raise typer.BadParameter("a name is there twice in one object", param_hint="'--metadata'") from None
    except RecursionError:
        raise typer.BadParameter("it is nested too deep", param_hint="'--metadata'") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter('give a JSON object: {"team": "search"}', param_hint="'--metadata'")
    return value


def given_secret(*, from_stdin: bool, from_prompt: bool) -> str | None:
    """The secret that somebody chose, as ``--secret-stdin`` or ``--secret-prompt`` say; None: neither.

    Raises:
        typer.BadParameter: Both.
        InvalidKey: There is none, or it is not text.
    """
    if from_stdin and from_prompt:
        raise typer.BadParameter("give --secret-stdin or --secret-prompt, not both")
    if from_stdin:
        return secret_from_stdin()
    return secret_from_prompt(twice=True) if from_prompt else None


def warn_if_short(secret: str) -> None:
    """Warn on stderr about a password that can be guessed."""
    if is_short_password(secret):
        complain(
            f"warning: a password of fewer than {SHORT_PASSWORD} characters can be guessed: "
            "rotate the key without one, and a secret is generated"
        )


def secret_from_stdin() -> str:
    """Read a secret from stdin, without a byte order mark and one final newline.

    A terminal is asked without echo.

    Raises:
        InvalidKey: There is none, or it is not UTF-8.
        CommandError: There is no stdin.
    """
    if stdin_is_terminal():
        return _hidden("Secret: ")
    octets = stdin().read(_MAX_SECRET_OCTETS + 1)
    if len(octets) > _MAX_SECRET_OCTETS:
        raise InvalidKey("the secret on stdin is far too long")
    try:
        secret = octets.decode("utf-8-sig")  # PowerShell writes a byte order mark into pipes
    except UnicodeDecodeError:
        raise InvalidKey("the secret on stdin is not UTF-8") from None
    secret = secret.removesuffix("\n").removesuffix("\r") if secret.endswith("\n") else secret
    if not secret:
        raise InvalidKey("there is no secret on stdin")
    return secret


def secret_from_prompt(*, twice: bool) -> str:
    """Ask for a secret on the terminal, without echo.

    Args:
        twice: Ask again and compare, for a secret that is to be remembered.

    Raises:
        typer.BadParameter: There is no terminal to ask on.
        InvalidKey: Nothing was typed, or two different things.
        CommandError: There is no stdin.
    """
    stdin()  # or say that there is none
    if not stdin_is_terminal():
        raise typer.BadParameter("there is no terminal to ask for the secret on: use --secret-stdin")
    secret = _hidden("Secret: ")
    if twice and _hidden("The same again: ") != secret:
        raise InvalidKey("the two secrets differ")
    return secret


def stdin_is_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty()


def stdin() -> BinaryIO:
    """What comes in.

    Raises:
        CommandError: Who started us has closed it.
    """
    if sys.stdin is None:
        raise CommandError("there is no standard input to read from: it is closed")
    return sys.stdin.buffer


def _hidden(question: str) -> str:
    secret = getpass.getpass(question)
    if not secret:
        raise InvalidKey("no secret was typed")
    return secret


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask on a terminal; without one, or with ``--yes``, go ahead.

    Args:
        question: One line; made inert here.
        yes: The answer is known.
    """
    if yes or not stdin_is_terminal():
        return True
    sys.stderr.write(f"{inert(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
