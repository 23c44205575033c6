"""What ``check`` reports: problems and warnings, each with what to do about it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import BackendError, BasicAuthError, ConfigurationError, MissingExtra, UnreadableRecord

RESTORE = "restore the record from a backup, or delete it:  basicauth-mw keys delete ID"

# A message may end with what to do: a command after two spaces, or this advice.
GIVE_ACCESS = "give this user write access"
_COMMAND = re.compile(r"  (basicauth-mw(?: [a-z]+)+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem or a warning.

    Attributes:
        code: Stable; for programs.
        message: What is wrong. Contains no secret.
        remedy: What to do about it.
    """

    code: str
    message: str
    remedy: str


def findings_from(exc: Exception) -> Iterator[Finding]:
    """Return what an exception means for the operator."""
    match exc:
        case MissingExtra():
            yield Finding(exc.code, str(exc), f"run  pip install 'basicauth_mw[{exc.extra}]'")
        case ConfigurationError():
            for problem in exc.problems:
                command = _COMMAND.search(problem)
                remedy = f"run  {command[1]}, or correct the setting" if command else "correct the setting"
                yield Finding(exc.code, problem, remedy)
        case UnreadableRecord(client_id=None):  # not a key, so it cannot be deleted
            yield Finding(exc.code, str(exc), "restore it from a backup")
        case UnreadableRecord():
            yield Finding(exc.code, str(exc), RESTORE)
        case BackendError():
            yield _from_backend(exc.code, str(exc) or exc.detail)
        case BasicAuthError():
            yield Finding(exc.code, str(exc), "see the message")
        case _:  # the text of a third-party error may contain the URL, with a password
            message = f"the backend failed unexpectedly ({type(exc).__name__})"
            yield Finding("unexpected_error", message, "see the documentation of the backend")


def _from_backend(code: str, text: str) -> Finding:
    message, _, command = text.rpartition(":  ")
    if message:
        return Finding(code, message, f"run  {command}")
    message, _, advice = text.rpartition(": ")
    if advice.startswith(GIVE_ACCESS):
        return Finding(code, message, advice)
    if text.startswith("the key file"):
        remedy = "correct the file; servers read it again within a second"
    elif "SQLite" in text:
        remedy = "check that this is the right file, and that this user can write to it and to its directory"
    else:
        remedy = "check that the backend is running and can be reached from here"
    return Finding(code, text, remedy)
