"""The root of the command line, and its exit statuses."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import BasicAuthError, ConfigurationError
from ..settings import FIELDS
from . import check, dashboard, demo, keys, tokens
from ._echo import echo_error, reason_of
from ._logs import configure_logging, lost_audit_records
from ._options import BackendUrl, remember_backend

PROGRAM = "basicauth-mw"

# Commands report their failures themselves, in one line.
_QUIET = logging.NullHandler()

# An extra argument that is a name of a few words, and not a secret.
_PLAIN_ID = re.compile(
    r"extra argument(?:\(s\))? \(((?=[^)]{1,24}\))[A-Za-z]+(?:[-_.](?:[A-Za-z]+|[0-9]{1,4})){0,2})\)"
)

DONE = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130  # as in __main__


# \b keeps click from joining the lines.
_SETTINGS = "\n".join(
    (
        "\b\nEnvironment variables (NAME_FILE names a file to read the value from):",
        *(f"{option.env:<29} {option.help}" for option in FIELDS),
    )
)

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    rich_markup_mode=None,  # help is plain text; the settings stay a table
    pretty_exceptions_enable=False,  # they would print local variables, which hold secrets
    epilog=_SETTINGS,
)
app.add_typer(keys.app, name="keys")
app.add_typer(tokens.app, name="token")
for command in (tokens.curl, check.check, demo.demo, dashboard.dashboard):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    backend: BackendUrl = None,
    log_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="BASICAUTH_LOG_CONFIG",
            help="A log configuration: JSON for Python's logging.config.dictConfig.",
            show_default=False,
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Manage API keys."""
    remember_backend(ctx, backend)
    if log_config is not None:
        configure_logging(log_config)


def run(arguments: Sequence[str] | None = None) -> int:
    if sys.stdout is None or sys.stderr is None:
        return FAILED  # closed by the caller: a new secret, which is shown once, would be lost
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the locale cannot encode
    logging.getLogger("basicauth_mw").addHandler(_QUIET)
    status = _run(sys.argv[1:] if arguments is None else arguments)
    if problem := lost_audit_records():
        echo_error(f"error: {problem}")
        status = status or FAILED
    return status


def _run(arguments: Sequence[str]) -> int:
    try:
        status = app(args=_log_config_first(arguments), prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as exc:
        status = _report(exc)
        try:
            sys.stdout.flush()
        except OSError:
            _redirect_to_devnull()  # reported already, or less important than the first error
    return status if isinstance(status, int) else DONE


def _log_config_first(arguments: Sequence[str]) -> list[str]:
    """Allow ``--log-config`` after the command too, like ``--backend``."""
    ordered = list(arguments)
    end = ordered.index("--") if "--" in ordered else len(ordered)
    for index, word in enumerate(ordered[:end]):
        if word == "--log-config" or word.startswith("--log-config="):
            length = 1 if "=" in word else 2
            found = ordered[index : index + length]
            return [*found, *ordered[:index], *ordered[index + length :]]
    return ordered


def _report(exc: Exception) -> int:
    """Print an error to stderr, without a traceback, and return the exit status."""
    match exc:
        case ConfigurationError():
            for problem in exc.problems:
                echo_error(f"error: {problem}")
        case BasicAuthError():
            echo_error(f"error: {str(exc) or exc.detail}")
        case BrokenPipeError():
            _redirect_to_devnull()  # the reader, such as head, has seen enough
        case OSError():
            if exc.filename is None:  # an error of stdout
                _redirect_to_devnull()
            echo_error(f"error: {reason_of(exc)}")
        case typer.Abort() | EOFError():
            return INTERRUPTED
        case _ if hasattr(exc, "format_message"):  # UsageError, whose module depends on typer's version
            return _report_usage(exc)
        case _:  # a bug, perhaps of a third-party store; its text may contain a secret
            echo_error(f"error: unexpected {type(exc).__name__}; this is a bug, please report it")
    return FAILED


def _report_usage(exc: Any) -> int:
    message = exc.format_message()
    if type(exc).__name__ == "NoArgsIsHelpError":  # its message is the help text, not an error
        typer.echo(message, err=True)
        return USAGE
    context = getattr(exc, "ctx", None)
    command = context.command_path if context else PROGRAM
    if "unexpected extra argument" in message:  # which may be a secret, so it is not repeated
        if command.endswith("keys create") and (extra := _PLAIN_ID.search(message)):
            message = f"the client ID is an option: use --client-id {extra[1]}"
        else:
            message = "too many arguments (secrets are never taken from the command line: use --secret-stdin)"
    if message.startswith("No such command 'remove'"):  # click suggests revoke, which does something else
        message = "No such command 'remove'. Did you mean 'delete'?"
    echo_error(f"error: {message} (see {command} --help)")
    return USAGE


def _redirect_to_devnull() -> None:
    """Discard buffered output, so that the interpreter does not fail to write it at exit."""
    with Path(os.devnull).open("wb") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())
