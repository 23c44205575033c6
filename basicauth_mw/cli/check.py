"""``basicauth-mw check``: what is configured, whether it works, and what to do."""

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import groupby
from typing import Annotated

import typer

from ..auth.discovery import find_authenticator
from ..backends import ENTRY_POINTS, Store
from ..backends._sqlite_file import path_of
from ..backends.backend import Backend, open_backend
from ..backends.redis.url import parse_url
from ..errors import (
    BackendError,
    BasicAuthError,
    ConfigurationError,
    InvalidKey,
    MissingExtra,
    ReadOnlyBackend,
    UnreadableRecord,
)
from ..keys.audit import printable
from ..keys.generated_secrets import ID_PREFIX, generate
from ..keys.hashing import check_hash
from ..keys.model import Key
from ..serve import load
from ..settings import FIELDS, Option, Settings
from ._errors import CommandError
from ._options import AsJson, BackendUrl
from ._output import inert, print_json, say, state_of
from ._progress import Bar, progress_bar
from ._walk import readable

_REDIS = re.compile(r"rediss?(\+(sentinel|cluster))?|unix")

# What of a Redis URL can hold no password: hosts with their ports, and a path. A colon stands before a port,
# or in brackets.
_HOST = r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_ADDRESS = re.compile(rf"//((?:{_HOST}(?:,{_HOST})*)?(?:/[\w./-]*)?)(\?.*)?", re.ASCII | re.DOTALL)

_CORRECT = "correct the setting, then run this again"
_SEE_TO_IT = "see that the backend is up and can be reached from here"
_RESTORE = "restore the record from a backup, or delete it:  basicauth-mw keys delete ID"
_SEE_TO_FILE = "see that it is the right file, and that this user may write to it and its directory"

# How a message names what to do: two blanks before a command, or advice at its end.
_COMMAND = re.compile(r"  (basicauth-mw(?: [a-z]+)+)")
_GIVE_ACCESS = "give this user write access"

# How long keys are looked through, if --all does not ask for more; some hundred thousand of them, that is.
_LOOK_FOR_S = 10.0

_TELL_EVERY = 500  # keys, to the bar
_IDS_NAMED = 5

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


def check(
    ctx: typer.Context,
    *,
    all_keys: Annotated[
        bool, typer.Option("--all", help="Look at every key, however many there are.")
    ] = False,
    app: Annotated[
        str,
        typer.Option("--app", metavar="MODULE:APP", help="Check the app's own configuration; imports it."),
    ] = "",
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say what is configured, whether it works, and what to do. Status 1 if it does not work.

    Every key is looked at, for some seconds at most unless --all is given.
    """
    url = backend or ctx.obj
    if app and url:
        raise typer.BadParameter("--app has a backend of its own: leave --backend out")
    settings: Settings | None = None
    problems: list[Finding] = []
    warnings: list[Finding] = []
    try:
        if app:
            settings, subject = _of_app(app)
        else:
            settings = Settings.from_env(backend=url) if url else Settings.from_env()
            subject = open_backend(settings=settings)
        with subject as opened:
            keys = _Keys(look_for_s=None if all_keys else _LOOK_FOR_S)
            with progress_bar(octets=False, wanted=not as_json) as bar:
                problems = list(_problems_of(opened, keys, bar))
            try:
                # They may say why it does not work.
                warnings = [*_risks_of(settings), *keys.warnings(), *_warnings_of(opened)]
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


def _of_app(target: str) -> tuple[Settings, Backend]:
    """The settings and the backend of the middleware that protects an app.

    Raises:
        ConfigurationError: There is no such app, or nothing protects it.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    found, is_call = load(target, "--app")
    if is_call:
        found = found()
    authenticator = find_authenticator(found, build=True)
    if authenticator is None:
        raise ConfigurationError(
            f"--app: {target} has no BasicAuthMiddleware, so it answers every request without a key: "
            "wrap it, or call install(app) or BasicAuth(app)"
        )
    return authenticator.settings, authenticator.backend


def _risks_of(settings: Settings) -> Iterator[Finding]:
    """Warn about valid settings that may allow more access than intended."""
    if not settings.require_https:
        yield Finding(
            "plain_http",
            "keys are accepted over plain http, where anyone on the way can read them",
            "set BASICAUTH_REQUIRE_HTTPS=on, and have the server trust the proxy's X-Forwarded-Proto",
        )
    if settings.allow_preflight:
        yield Finding(
            "preflights_run_handlers",
            "an OPTIONS request that looks like a CORS preflight runs the app's handlers without a key",
            "put CORSMiddleware outside and drop BASICAUTH_ALLOW_PREFLIGHT, or check the method in each view",
        )


def _problems_of(backend: Backend, keys: "_Keys", bar: Bar) -> Iterator[Finding]:
    try:
        backend.get(generate(ID_PREFIX))  # nobody's: whether the store answers is all that matters
        yield from _missing_extras_of(backend)
        yield from keys.problems(backend, bar)
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


class _EnoughError(Exception):
    """There are more keys than there is time for."""


@dataclass(slots=True)
class _Named:
    """Client ids of which some are named, and all are counted."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, client_id: str) -> None:
        self.count += 1
        if len(self.names) < _IDS_NAMED:
            self.names.append(repr(printable(client_id)))

    def __str__(self) -> str:
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more} more" if more else "")


class _Keys:
    """What is found by looking at the keys, one by one; memory does not grow with their number.

    Args:
        look_for_s: Seconds after which the rest is left; None: all are looked at.
    """

    def __init__(self, *, look_for_s: float | None) -> None:
        self._look_for_s = look_for_s
        self._ends_at: float | None = None
        self._seen = 0
        self._saw_all = False
        self._is_cut_short = False
        self._works = False
        self._unreadable = _Named()
        self._first_unreadable: UnreadableRecord | None = None
        self._damaged = _Named()
        self._without_pepper = _Named()

    def problems(self, backend: Backend, bar: Bar) -> Iterator[Finding]:
        """Look, and tell what keeps keys from working, and whether any works at all."""
        bar.begin("checking", None)
        try:
            self._look(backend, bar)
        except ReadOnlyBackend:
            return  # a store that cannot list its keys
        except _EnoughError:
            self._is_cut_short = True
        except Exception:
            yield from self._problems(is_writable=isinstance(backend.store, Store))
            raise
        else:
            self._saw_all = True
        yield from self._problems(is_writable=isinstance(backend.store, Store))

    def warnings(self) -> Iterator[Finding]:
        """That ``problems`` has not looked at all keys."""
        if self._is_cut_short:
            yield Finding(
                "keys_not_looked_at",
                f"not all keys were looked at, but {_keys(self._seen)} in {self._look_for_s:g} s",
                "to look at every key, run  basicauth-mw check --all",
            )

    def _look(self, backend: Backend, bar: Bar) -> None:
        if self._look_for_s is not None:
            self._ends_at = time.monotonic() + self._look_for_s

        def on_unreadable(client_id: str, exc: UnreadableRecord) -> None:
            self._next(bar)
            self._first_unreadable = self._first_unreadable or exc
            self._unreadable.add(client_id)

        for key in readable(backend, on_unreadable):
            self._next(bar)
            self._take(key, backend)

    def _next(self, bar: Bar) -> None:
        """Count one more key, if it is to be looked at; the first one always is."""
        if self._seen and self._ends_at is not None and time.monotonic() > self._ends_at:
            raise _EnoughError
        self._seen += 1
        if self._seen % _TELL_EVERY == 0:
            bar.advance(_TELL_EVERY)

    def _take(self, key: Key, backend: Backend) -> None:
        if key.revoked_at is not None:
            return  # it never works again, whatever its hashes are
        hashes = [secret.hash for secret in key.secrets]
        if any(map(_is_damaged, hashes)):
            self._damaged.add(key.client_id)
        elif not all(map(backend.hasher.is_known, hashes)):
            self._without_pepper.add(key.client_id)
        elif state_of(key) == "active":
            self._works = True

    def _problems(self, *, is_writable: bool) -> Iterator[Finding]:
        if self._first_unreadable is not None:
            some = f"{self._unreadable.count} stored keys cannot be read: {self._unreadable}"
            yield Finding(
                self._first_unreadable.code,
                str(self._first_unreadable) if self._unreadable.count == 1 else some,
                _RESTORE,
            )
        if self._damaged.count:
            yield Finding(
                UnreadableRecord.code,
                f"a hash is damaged, so {_keys(self._damaged.count)} cannot be checked: {self._damaged}",
                "end it:  basicauth-mw keys rotate ID --overlap 0",
            )
        if self._without_pepper.count:
            yield Finding(
                "unknown_pepper",
                f"a pepper is not configured, so {_keys(self._without_pepper.count)} cannot be checked: "
                f"{self._without_pepper}",
                "put that pepper into BASICAUTH_PEPPER, behind the newer ones; if it is lost:  "
                "basicauth-mw keys rotate ID --overlap 0",
            )
        has_problems = self._first_unreadable or self._damaged.count or self._without_pepper.count
        if self._saw_all and not (self._works or has_problems):
            yield Finding(
                "no_active_key",
                "the backend holds "
                + ("only keys that are expired, disabled or revoked" if self._seen else "no key")
                + ", so every request is refused",
                "make a key:  basicauth-mw keys create --name NAME"
                if is_writable
                else "add a key where the backend reads them from",
            )


def _is_damaged(hashed: str) -> bool:
    try:
        check_hash(hashed)
    except InvalidKey:
        return True
    return False


def _keys(count: int) -> str:
    return f"{count} key{'' if count == 1 else 's'}"


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
        case UnreadableRecord(client_id=None):  # no key, so that there is none to delete
            yield Finding(exc.code, str(exc), "restore it from a backup")
        case UnreadableRecord():
            yield Finding(
                exc.code,
                str(exc),
                _RESTORE,
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
    """A backend URL as far as it may be shown; one that is written wrong may hold a password anywhere.

    So nothing is shown behind the scheme but what is surely the name of a file, of a variable, or of hosts.
    """
    scheme, colon, rest = url.partition(":")
    kind = scheme.lower()
    try:
        if colon and kind == "sqlite":
            path_of(url)
            return url
        if colon and _REDIS.fullmatch(kind):
            parse_url(url)
            return f"{scheme}:{_address(rest)}"
    except ConfigurationError:
        return f"{scheme}:..."
    if colon and kind in ("env", "memory"):
        # A variable that is set is one; anything else may be the keys, with their secrets.
        return url if not rest or rest in os.environ or f"{rest}_FILE" in os.environ else f"{scheme}:..."
    is_known = colon and kind in {entry.name.lower() for entry in entry_points(group=ENTRY_POINTS)}
    return f"{scheme}:..." if is_known else "..."


def _address(rest: str) -> str:
    """Of a Redis URL that can be read, what stands behind the scheme, but for user, password and options."""
    # What comes behind the last @ is no password, whatever comes before the first / or ? or #.
    before, at, behind = rest.rpartition("@")
    if re.search(r"[/?#]", before.removeprefix("//")):
        return "..."  # one of the two was not encoded, so it cannot be told which
    found = _ADDRESS.fullmatch(f"//{behind}" if at else behind)
    if found is None:
        return "..."
    return f"//{'***@' if at else ''}{found[1]}{'?...' if found[2] else ''}"
