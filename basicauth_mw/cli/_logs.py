"""``--log-config``: where the commands log what they change.

A key may have changed by the time that its audit record cannot be written. So a configuration that cannot
format a record is refused before the command starts, and every record that is lost is reported at the end.
"""

import json
import logging.config
import sys
from collections.abc import Iterator
from pathlib import Path

from ..keys import audit
from ._echo import CommandError, reason_of

_EXPECTED = 'expected a JSON object for logging.config.dictConfig: {"version": 1, ...}'

_MAX_BYTES = 1024 * 1024  # far more than any configuration has; a device may have no end

# The event of each audit record that was not written, and why.
_lost: list[tuple[str, str]] = []


def configure_logging(path: Path) -> None:
    """Configure logging from a file. Loggers that it does not name are unchanged unless it says otherwise."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as exc:
        raise CommandError(f"cannot read the log configuration: {reason_of(exc)}") from None
    if len(data) > _MAX_BYTES:
        raise CommandError(f"the log configuration {path} is longer than {_MAX_BYTES} bytes: {_EXPECTED}")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise CommandError(f"the log configuration {path} is not JSON: {_EXPECTED}") from None
    if not isinstance(config, dict):
        raise CommandError(f"the log configuration {path} is not an object: {_EXPECTED}")
    config.setdefault("disable_existing_loggers", False)
    try:
        logging.config.dictConfig(config)
    except Exception as exc:  # a class that it names may raise anything
        raise CommandError(f"cannot use the log configuration {path}: {_part_of(exc)}: {_EXPECTED}") from None
    logging.raiseExceptions = False  # no tracebacks, even at exit
    _lost.clear()
    for handler in _audit_handlers():
        try:
            _dry_run(handler)
        except Exception as exc:
            raise CommandError(
                f"cannot use the log configuration {path}: the handler {handler.name!r} cannot format audit "
                f"records: {_failure(exc)}"
            ) from None
        _capture_failures(handler)


def lost_audit_records() -> str | None:
    """Return an error message if an audit record was not written, else None."""
    for handler in _audit_handlers():
        try:
            handler.flush()  # what is buffered until the end is written now, while errors can be reported
        except Exception as exc:
            if not _lost:
                _lost.append(("", _failure(exc)))
    if not _lost:
        return None
    event, reason = _lost[0]
    done = "exported" if event == "key.exported" else "changed"
    count = f" ({len(_lost)} records)" if len(_lost) > 1 else ""
    _lost.clear()
    return f"{done}, but not recorded in the audit log: {reason}{count}"


def _audit_handlers() -> Iterator[logging.Handler]:
    """Every handler of audit records, including the targets of memory handlers."""
    if not audit.is_enabled(None):
        return
    logger: logging.Logger | None = audit.logger
    while logger is not None:
        for each in logger.handlers:
            handler: object = each
            while isinstance(handler, logging.Handler) and handler.level <= logging.INFO:
                yield handler
                handler = getattr(handler, "target", None)
        logger = logger.parent if logger.propagate else None


def _dry_run(handler: logging.Handler) -> None:
    """Filter and format a record without writing it."""
    fields = {"event": "key.created", "client_id": "id", "reason": None, "address": None, "request_id": None}
    text = "event='key.created' client_id='id'"
    record = audit.logger.makeRecord(
        audit.logger.name, logging.INFO, __file__, 0, "%s", (text,), None, extra={"basicauth": fields}
    )
    for filterer in (audit.logger, handler):  # filters may add fields, or replace the record
        passed: object = filterer.filter(record)
        if not passed:
            return
        record = passed if isinstance(passed, logging.LogRecord) else record
    handler.format(record)


def _capture_failures(handler: logging.Handler) -> None:
    """Note each audit record that a handler fails on, where logging would print a traceback."""
    handle = handler.handle

    def handle_safely(record: logging.LogRecord) -> bool:
        try:
            return handle(record)
        except Exception:  # filters, and handlers that do not call handleError
            handle_error(record)
            return False

    def handle_error(record: logging.LogRecord) -> None:
        if record.name == audit.logger.name:
            event = getattr(record, "basicauth", {}).get("event", "")
            _lost.append((event, _failure(sys.exc_info()[1])))

    handler.handle = handle_safely  # type: ignore[method-assign]
    handler.handleError = handle_error  # type: ignore[method-assign]


def _failure(exc: BaseException | None) -> str:
    """Why a handler failed, without the text of other errors, which may contain a value."""
    if isinstance(exc, OSError):
        return reason_of(exc)
    if isinstance(exc, ValueError) and str(exc).startswith("Formatting field not found"):
        return str(exc)
    return type(exc).__name__


def _part_of(exc: Exception) -> str:
    """The part that ``dictConfig`` names, and why it failed."""
    part = str(exc) if isinstance(exc, ValueError) and exc.__cause__ is not None else "its content"
    return f"{part} ({_failure(exc.__cause__ or exc)})"
