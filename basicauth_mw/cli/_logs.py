"""``--log-config``: where the command line records what it does."""

import json
import logging.config
import sys
from collections.abc import Iterator
from pathlib import Path

from ..keys import audit
from ._errors import CommandError, reason_of

_FORM = 'give a JSON object for logging.config.dictConfig: {"version": 1, ...}'

_MAX_OCTETS = 1024 * 1024  # far above any configuration; a device has no end

# What was not recorded: which event, and why.
_lost: list[tuple[str, str]] = []


def configure_logging(path: Path) -> None:
    """Set logging up from a file. Loggers that it does not name stay as they are, unless it says otherwise.

    What cannot record a change of a key is found before one is made, as far as that can be told.

    Args:
        path: Of a JSON object as ``logging.config.dictConfig`` takes it.

    Raises:
        CommandError: It cannot be read, or be used. Says which part, and none of its values.
    """
    try:
        with path.open("rb") as stream:
            octets = stream.read(_MAX_OCTETS + 1)
    except OSError as exc:
        raise CommandError(f"the log configuration cannot be read: {reason_of(exc)}") from None
    if len(octets) > _MAX_OCTETS:
        raise CommandError(f"the log configuration {path} is longer than {_MAX_OCTETS} octets: {_FORM}")
    try:
        config = json.loads(octets)
    except (ValueError, RecursionError):
        raise CommandError(f"the log configuration {path} is not JSON: {_FORM}") from None
    if not isinstance(config, dict):
        raise CommandError(f"the log configuration {path} is no object: {_FORM}")
    config.setdefault("disable_existing_loggers", False)
    try:
        logging.config.dictConfig(config)
    except Exception as exc:  # a class that it names may raise anything
        raise CommandError(f"the log configuration {path} cannot be used: {_reason(exc)}: {_FORM}") from None
    logging.raiseExceptions = False  # no tracebacks, at exit either: what matters of them is told here
    _lost.clear()
    for handler in _audit_handlers():
        try:
            _format_a_sample(handler)
        except Exception as exc:
            raise CommandError(
                f"the log configuration {path} cannot be used: the handler {handler.name!r} cannot write "
                f"what is recorded of a change: {_failure(exc)}"
            ) from None
        _watch(handler)


def unrecorded() -> str | None:
    """Say that what was done is not in the audit log, and why; None: it is, or need not be."""
    for handler in _audit_handlers():
        try:
            handler.flush()  # what is kept until the end is written now, while there is somebody to tell
        except Exception as exc:
            if not _lost:
                _lost.append(("", _failure(exc)))
    if not _lost:
        return None
    event, reason = _lost[0]
    done = "exported" if event == "key.exported" else "changed"
    more = f" ({len(_lost)} records)" if len(_lost) > 1 else ""
    _lost.clear()
    return f"{done}, but not recorded in the audit log: {reason}{more}"


def _audit_handlers() -> Iterator[logging.Handler]:
    """All that a record of a change comes to, those behind another one as well."""
    if not audit.is_wanted(None):
        return
    logger: logging.Logger | None = audit.logger
    while logger is not None:
        for each in logger.handlers:
            handler: object = each
            while isinstance(handler, logging.Handler) and handler.level <= logging.INFO:
                yield handler
                handler = getattr(handler, "target", None)  # of a MemoryHandler
        logger = logger.parent if logger.propagate else None


def _format_a_sample(handler: logging.Handler) -> None:
    facts = {"event": "key.created", "client_id": "id", "reason": None, "address": None, "request_id": None}
    text = "event='key.created' client_id='id'"
    record = audit.logger.makeRecord(
        audit.logger.name, logging.INFO, __file__, 0, "%s", (text,), None, extra={"basicauth": facts}
    )
    for authenticator in (
        audit.logger,
        handler,
    ):  # they may add what the formatter names, or give another record
        passed: object = authenticator.filter(record)
        if not passed:
            return
        record = passed if isinstance(passed, logging.LogRecord) else record
    handler.format(record)


def _watch(handler: logging.Handler) -> None:
    """Take note of each record that a handler fails on, where logging would print a traceback."""
    real = handler.handle

    def handle(record: logging.LogRecord) -> bool:
        try:
            return real(record)
        except Exception as exc:  # not every handler, and no filter, sees to its own
            _note(record, exc)
            return False

    def handle_error(record: logging.LogRecord) -> None:
        _note(record, sys.exc_info()[1])

    handler.handle = handle  # type: ignore[method-assign]
    handler.handleError = handle_error  # type: ignore[method-assign]


def _note(record: logging.LogRecord, exc: BaseException | None) -> None:
    if record.name == audit.logger.name:
        _lost.append((getattr(record, "basicauth", {}).get("event", ""), _failure(exc)))


def _failure(exc: BaseException | None) -> str:
    """Why a handler failed; the text of a foreign error may hold a value."""
    if isinstance(exc, OSError):
        return reason_of(exc)
    if isinstance(exc, ValueError) and str(exc).startswith("Formatting field not found"):
        return str(exc)  # and its name
    return type(exc).__name__


def _reason(exc: Exception) -> str:
    """Which part it is, as ``dictConfig`` says, and why; the text of the cause may hold a value."""
    part = str(exc) if isinstance(exc, ValueError) and exc.__cause__ is not None else "its content"
    cause = exc.__cause__ or exc
    return f"{part} ({reason_of(cause) if isinstance(cause, OSError) else type(cause).__name__})"
