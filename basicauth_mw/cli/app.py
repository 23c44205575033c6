"""The root of the command line: what ``basicauth-mw`` runs and how it ends."""

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
from . import board, check, demo, keys, tokens
from ._errors import reason_of
from ._logs import configure_logging, unrecorded
from ._options import BackendUrl, remember_backend
from ._output import complain, flush, say

PROGRAM = "basicauth-mw"

# What a command has to say of a failure it says itself, in one line.
_QUIET = logging.NullHandler()

# An extra argument that is a name made of a few words, and no secret.
_PLAIN_ID = re.compile(
    r"extra argument(?:\(s\))? \(((?=[^)]{1,24}\))[A-Za-z]+(?:[-_.](?:[A-Za-z]+|[0-9]{1,4})){0,2})\)"
)

DONE = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130  # what a shell reports for a program that SIGINT ended


def _settings_help() -> str:
    # \b keeps click from joining the lines
    rows = [f"{option.env:<29} {option.help}" for option in FIELDS]
    return "\b\nSettings come from the environment (or from the file that NAME_FILE names):\n" + "\n".join(
        rows
    )


app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help is plain text; the settings stay a table
    pretty_exceptions_enable=False,  # they would print local variables, and those hold secrets
    epilog=_settings_help(),
)
app.add_typer(keys.app, name="keys")
app.add_typer(tokens.app, name="token")
app.command()(tokens.curl)
app.command()(check.check)
app.command()(demo.demo)
app.command()(board.dashboard)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"{PROGRAM} {__version__}")
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
            help="What to log: JSON for Python's logging.config.dictConfig.",
            show_default=False,
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """API keys over HTTP Basic: make, list and end keys, and check what is configured."""
    remember_backend(ctx, backend)
    if log_config is not None:
        configure_logging(log_config)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: Without the program's name; None: ``sys.argv``.

    Returns:
        The exit status: 0 done, 1 refused or failed, 2 usage, 130 interrupted.
    """
    if sys.stdout is None or sys.stderr is None:
        return FAILED  # closed by who started us: what is shown once, a new secret, would be lost
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the locale cannot spell is no error
    logging.getLogger("basicauth_mw").addHandler(_QUIET)
    status = _run(arguments)
    if what := unrecorded():
        complain(f"error: {what}")
        status = status or FAILED
    return status


def _log_config_first(arguments: Sequence[str]) -> list[str]:
    """Allow ``--log-config`` after the command too, like ``--backend``."""
    ordered = list(arguments)
    end = ordered.index("--") if "--" in ordered else len(ordered)
    for place, word in enumerate(ordered[:end]):
        if word == "--log-config" or word.startswith("--log-config="):
            length = 1 if "=" in word else 2
            found = ordered[place : place + length]
            return [*found, *ordered[:place], *ordered[place + length :]]
    return ordered


def _run(arguments: Sequence[str] | None) -> int:
    try:
        arguments = _log_config_first(sys.argv[1:] if arguments is None else arguments)
        status = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        flush()
    except Exception as exc:
        status = _report(exc)
        try:
            flush()
        except OSError:
            _abandon_stdout()  # said already, or of no concern beside what was
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    return status if isinstance(status, int) else DONE


def _report(exc: Exception) -> int:
    """Say on stderr what went wrong, without a traceback, and choose the exit status."""
    match exc:
        case ConfigurationError():
            for problem in exc.problems:
                complain(f"error: {problem}")
        case BasicAuthError():
            complain(f"error: {str(exc) or exc.detail}")
        case BrokenPipeError():
            _abandon_stdout()  # the reader has seen enough
        case OSError():
            _abandon_stdout()
            complain(f"error: {reason_of(exc)}")
        case typer.Abort() | EOFError():
            return INTERRUPTED
        case _ if hasattr(exc, "format_message"):  # click's, told by shape: its class has moved before
            return _report_usage(exc)
        case _:  # a bug, here or in somebody's store; the text of a foreign error may hold a secret
            complain(f"error: unexpected {type(exc).__name__}: this is a bug, please report it")
    return FAILED


def _report_usage(exc: Any) -> int:
    message = exc.format_message()
    if type(exc).__name__ == "NoArgsIsHelpError":  # its message is the help text, not an error
        sys.stderr.write(f"{message}\n")
        return USAGE
    context = getattr(exc, "ctx", None)
    if "unexpected extra argument" in message:  # do not repeat what may well be a secret
        if (
            context is not None
            and context.command_path.endswith("keys create")
            and (extra := _PLAIN_ID.search(message))
        ):
            message = f"a client id is given with its option: use --client-id {extra[1]}"
        else:
            message = "too many arguments (secrets are never taken from the command line: use --secret-stdin)"
    if message.startswith("No such command 'remove'"):  # the nearest name is revoke, which frees no id
        message = "No such command 'remove'. Did you mean 'delete'?"
    command = context.command_path if context else PROGRAM
    complain(f"error: {message} (see {command} --help)")
    return USAGE


def _abandon_stdout() -> None:
    """Send what is still buffered nowhere, or the interpreter would complain about it on its way out."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
