"""``basicauth-mw check``: what is configured, whether it works, and what to do."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import groupby

import typer

from ..backend import Backend, open_backend
from ..backends import Store
from ..errors import (
    BackendError,
    BasicAuthError,
    ConfigurationError,
    MissingExtra,
    ReadOnlyBackend,
    UnreadableRecord,
)
from ..minting import ID_PREFIX, mint
from ..settings import FIELDS, Option, Settings
from ._errors import CommandError
from ._options import AsJson, BackendUrl
from ._output import inert, print_json, say, state_of

# What of a URL can hold no password: the name of a variable, or a host, a port and a path.
_HARMLESS = re.compile(r"\w*|//[\w.\[\]:,-]*(/[\w./-]*)?", re.ASCII)

_CORRECT = "correct the setting, then run this again"
_SEE_TO_IT = "see that the backend is up and can be reached from here"
_SEE_TO_FILE = "see that it is the right file, and that this user may write to it and its directory"

# How a message names what to do: two blanks before a command, or advice at its end.
_COMMAND = re.compile(r"  (basicauth-mw(?: [a-z]+)+)")
_GIVE_ACCESS = "give this user write access"

# What a problem with that advice says already.
_UNWRITABLE = frozenset({"sqlite_file_not_writable", "sqlite_directory_not_writable"})


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or may be.

    Attributes:
        code: Stable; for programs.
        message: What was seen; holds no secret.
        remedy: What to do about it.
    """

    code: str
    message: str
    remedy: str


def check(ctx: typer.Context, backend: BackendUrl = None, as_json: AsJson = False) -> None:
    """Say what is configured, whether it works, and what to do. Status 1 if it does not work."""
    url = backend or ctx.obj
    settings: Settings | None = None
    problems: list[Finding] = []
    warnings: list[Finding] = []
    try:
        settings = Settings.from_env(backend=url) if url else Settings.from_env()
        with open_backend(settings=settings) as opened:
            problems = list(_problems_of(opened))
            try:
                warnings = list(_warnings_of(opened))  # they may say why it does not work
            except Exception as exc:
                problems = problems or list(_told_by(exc))
            if any(each.remedy.startswith(_GIVE_ACCESS) for each in problems):
                warnings = [each for each in warnings if each.code not in _UNWRITABLE]
    except Exception as exc:  # whatever a store does, this command exists to report it
        problems = list(_told_by(exc))
    if as_json:
        print_json(
            {
                "ok": not problems,
                "problems": [asdict(each) for each in problems],
                "warnings": [asdict(each) for each in warnings],
            }
        )
    else:
        _report(settings, problems, warnings)
    if problems:
        raise CommandError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found, see above")


def _problems_of(backend: Backend) -> Iterator[Finding]:
    try:
        backend.get(mint(ID_PREFIX))  # nobody's: whether the store answers is all that matters
        yield from _missing_extras_of(backend)
        yield from _problems_of_keys(backend)
    except Exception as exc:  # what was found until then is told, too
        yield from _told_by(exc)


def _missing_extras_of(backend: Backend) -> Iterator[Finding]:
    holds_slow = getattr(backend.store, "holds_slow", None)
    if holds_slow is not None and holds_slow() and find_spec("argon2") is None:
        yield Finding(
            MissingExtra.code,
            "the backend holds keys with slow hashes, which cannot be checked without argon2-cffi",
            "run  pip install 'basicauth_mw[passwords]'",
        )


def _problems_of_keys(backend: Backend) -> Iterator[Finding]:
    """Whether there is a key that works; if not, what is to be seen instead."""
    seen, pepper_is_missing = False, False
    try:
        for key in backend.iter_keys():
            seen = True
            if state_of(key) == "active":
                if all(backend.hasher.is_known(secret.hash) for secret in key.secrets):
                    return
                pepper_is_missing = True
    except ReadOnlyBackend:
        return  # a store that cannot list its keys
    if pepper_is_missing:
        yield Finding(
            "unknown_pepper",
            "the secrets of the keys were hashed with a pepper that is not configured",
            "put that pepper into BASICAUTH_PEPPER, behind the newer ones",
        )
        return
    yield Finding(
        "no_active_key",
        "the backend holds "
        + ("only keys that are expired, disabled or revoked" if seen else "no key")
        + ", so every request is refused",
        "make a key:  basicauth-mw keys create --name NAME"
        if isinstance(backend.store, Store)
        else "add a key where the backend reads them from",
    )


def _warnings_of(backend: Backend) -> Iterator[Finding]:
    warnings = getattr(backend.store, "warnings", None)
    if warnings is not None:
        for code, message, remedy in warnings():
            yield Finding(code, message, remedy)


def _told_by(exc: Exception) -> Iterator[Finding]:
    match exc:
        case MissingExtra():
            yield Finding(exc.code, str(exc), f"run  pip install 'basicauth_mw[{exc.extra}]'")
        case ConfigurationError():
            for problem in exc.problems:
                command = _COMMAND.search(problem)
                remedy = f"run  {command[1]}, or correct the setting" if command else _CORRECT
                yield Finding(exc.code, problem, remedy)
        case UnreadableRecord():
            yield Finding(
                exc.code,
                str(exc),
                "restore the record from a backup, or delete it:  basicauth-mw keys delete ID",
            )
        case BackendError():
            yield _told_by_backend(exc.code, str(exc) or exc.detail)
        case BasicAuthError():
            yield Finding(exc.code, str(exc), "see the message")
        case _:  # its text may hold the URL, and that a password
            yield Finding(
                "unexpected_error",
                f"the backend failed in a way that is not foreseen ({type(exc).__name__})",
                "see the documentation of the backend",
            )


def _told_by_backend(code: str, text: str) -> Finding:
    message, _, command = text.rpartition(":  ")  # some name the command to run
    if message:
        return Finding(code, message, f"run  {command}")
    message, _, advice = text.rpartition(": ")
    if advice.startswith(_GIVE_ACCESS):
        return Finding(code, message, advice)
    return Finding(code, text, _SEE_TO_FILE if "SQLite" in text else _SEE_TO_IT)


def _report(settings: Settings | None, problems: list[Finding], warnings: list[Finding]) -> None:
    if settings is not None:
        for option in FIELDS:
            value = getattr(settings, option.name)
            if option.name == "backend" or value != option.default:
                say(f"{option.name:<18} {inert(_shown(option, value))}")
    for label, findings in (("problem", problems), ("warning", warnings)):
        for remedy, alike in groupby(findings, key=lambda each: each.remedy):
            for each in alike:
                say(f"{label}: {inert(each.message)}")
            say(f"  -> {inert(remedy)}")
    if not problems:
        say("ok")


def _shown(option: Option, value: object) -> str:
    if option.kind == "secrets":
        return "(set, not shown)"
    if option.name == "backend":
        return _without_secrets(str(value))
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _without_secrets(url: str) -> str:
    """A backend URL as far as it may be shown; one that is written wrong may hold a password anywhere."""
    scheme, colon, rest = url.partition(":")
    if scheme == "sqlite":
        return url
    if not colon or not scheme.replace("+", "").isidentifier():
        return "..."
    rest, question, _ = rest.partition("?")
    _, at, rest = rest.rpartition("@")
    if at:
        rest = f"//{rest}"
    if not _HARMLESS.fullmatch(rest):
        return f"{scheme}:..."
    return f"{scheme}:{rest.replace('//', '//***@', 1) if at else rest}{'?...' if question else ''}"
