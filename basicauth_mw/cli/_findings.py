"""What ``check`` reports: problems and warnings, each with what to do about it."""

import re
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


def findings_from(exc: Exception) -> list[Finding]:
    """Return what an exception means for the operator."""
    match exc:
        case MissingExtra():
            remedy = f"run  pip install 'basicauth_mw[{exc.extra}]'"
        case ConfigurationError():
            commands = map(_COMMAND.search, exc.problems)
            advice = (f"run  {command[1]}, or correct" if command else "correct" for command in commands)
            pairs = zip(exc.problems, advice, strict=True)
            return [Finding(exc.code, problem, f"{verb} the setting") for problem, verb in pairs]
        case UnreadableRecord():
            remedy = "restore it from a backup" if exc.client_id is None else RESTORE  # None: not a key
        case BackendError():
            return [_from_backend(exc.code, str(exc) or exc.detail)]
        case BasicAuthError():
            remedy = "see the message"
        case _:  # the text of a third-party error may contain the URL, with a password
            message = f"the backend failed unexpectedly ({type(exc).__name__})"
            return [Finding("unexpected_error", message, "see the documentation of the backend")]
    return [Finding(exc.code, str(exc), remedy)]


def _from_backend(code: str, text: str) -> Finding:
    message, _, command = text.rpartition(":  ")
    if message:
        return Finding(code, message, f"run  {command}")
    message, _, advice = text.rpartition(": ")
    if advice.startswith(GIVE_ACCESS):
        return Finding(code, message, advice)
    if text.startswith("the key file"):
        remedy = "correct the file or its path; servers read the file again within a second"
    elif "SQLite" in text:
        remedy = "check that this is the right file, and that this user can write to it and to its directory"
    else:
        remedy = "check that the backend is running and can be reached from here"
    return Finding(code, text, remedy)
