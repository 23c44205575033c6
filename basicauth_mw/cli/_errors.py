"""How a command fails: one clear line, never a traceback."""

from ..errors import BasicAuthError


class CommandError(BasicAuthError):
    """A command was refused or failed; the message is the line to print."""

    code = "command_error"


def reason_of(exc: OSError) -> str:
    """Say in words why the operating system refused."""
    reason = (exc.strerror or type(exc).__name__).lower()
    return f"{exc.filename}: {reason}" if exc.filename else reason
