"""``--log-config``: where the command line records what it does."""

import json
import logging.config
from pathlib import Path

from ._errors import CommandError, reason_of

_FORM = 'give a JSON object for logging.config.dictConfig: {"version": 1, ...}'


def configure_logging(path: Path) -> None:
    """Set logging up from a file. Loggers that it does not name stay as they are, unless it says otherwise.

    Args:
        path: Of a JSON object as ``logging.config.dictConfig`` takes it.

    Raises:
        CommandError: It cannot be read, or be used. Says which part, and none of its values.
    """
    try:
        config = json.loads(path.read_bytes())
    except OSError as exc:
        raise CommandError(f"the log configuration cannot be read: {reason_of(exc)}") from None
    except (ValueError, RecursionError):
        raise CommandError(f"the log configuration {path} is not JSON: {_FORM}") from None
    if not isinstance(config, dict):
        raise CommandError(f"the log configuration {path} is no object: {_FORM}")
    config.setdefault("disable_existing_loggers", False)
    try:
        logging.config.dictConfig(config)
    except Exception as exc:  # a class that it names may raise anything
        raise CommandError(f"the log configuration {path} cannot be used: {_reason(exc)}: {_FORM}") from None


def _reason(exc: Exception) -> str:
    """Which part it is, as ``dictConfig`` says, and why; the text of the cause may hold a value."""
    part = str(exc) if isinstance(exc, ValueError) and exc.__cause__ is not None else "its content"
    cause = exc.__cause__ or exc
    return f"{part} ({reason_of(cause) if isinstance(cause, OSError) else type(cause).__name__})"
