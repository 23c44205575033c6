"""The options that several commands share, and the backend they mean."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import Annotated

import typer

from ..backends.backend import Backend, open_backend
from ..settings import Settings
from ._errors import CommandError
from ._output import complain

_PASSWORD_BEFORE_HOST = re.compile(r"\A[^:]*:/*[^@]*:[^@]*@")
_PASSWORD_AS_PARAMETER = re.compile(r"[?&][^=&]*(?:passw|secret|token)[^=&]*=", re.IGNORECASE)


def _without_password(url: str | None) -> str | None:
    # Read loosely on purpose: a URL that a driver would refuse may hold a password all the same, and a
    # refusal too many only sends it to the environment.
    if url is None or url.startswith("sqlite:"):
        return url
    if _PASSWORD_BEFORE_HOST.search(url) or _PASSWORD_AS_PARAMETER.search(url):
        raise typer.BadParameter(
            "it holds a password, which every process list would show: set BASICAUTH_BACKEND instead"
        )
    return url


BackendUrl = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="URL",
        callback=_without_password,
        help="The key backend; without it, BASICAUTH_BACKEND.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ClientId = Annotated[str, typer.Argument(metavar="ID", help="The client id.", show_default=False)]
SecretStdin = Annotated[
    bool, typer.Option("--secret-stdin", help="Read the secret from stdin; one final newline is dropped.")
]
SecretPrompt = Annotated[bool, typer.Option("--secret-prompt", help="Ask for the secret, hidden.")]


def remember_backend(ctx: typer.Context, url: str | None) -> None:
    """Keep what ``--backend`` said before the command; the nearest to the command counts."""
    ctx.obj = url or ctx.obj


def _settings(ctx: typer.Context, url: str | None) -> Settings:
    url = url or ctx.obj
    return Settings.from_env(backend=url) if url else Settings.from_env()


def _check_lasts(settings: Settings) -> None:
    if settings.backend.lower().startswith("memory:"):
        raise CommandError("memory: ends with this command: name a backend that lasts")


def _sqlite_path(settings: Settings) -> Path | None:
    scheme, _, path = settings.backend.partition(":///")
    return Path(path) if scheme.lower() == "sqlite" else None


def _check_link(settings: Settings) -> None:
    """Nothing is made where somebody else's link points to."""
    path = _sqlite_path(settings)
    if path is not None and path.is_symlink() and not path.exists():
        raise CommandError(
            f"{path} is a link to {os.path.realpath(path)}, which does not exist: name that file to make it "
            "there, or remove the link"
        )


@contextmanager
def opened(ctx: typer.Context, url: str | None, *, create: bool = False) -> Iterator[Backend]:
    """Open the backend that a command means, and close it behind. An older form of its store is upgraded.

    Args:
        ctx: The command's; knows the ``--backend`` before the command.
        url: The ``--backend`` behind it, which goes first.
        create: For new keys: make a missing SQLite file, and refuse what ends with this command.

    Raises:
        CommandError: No SQLite file can be made, as a link names a file that is missing.
    """
    if create:
        settings = _settings(ctx, url)
        _check_lasts(settings)
        _check_link(settings)
    backend = open_backend(url or ctx.obj, create=create)
    backend.actor = _user()
    try:
        upgrade = getattr(backend.store, "upgrade", None)
        if upgrade is not None and (done := upgrade()):
            complain(done)
        yield backend
    finally:
        backend.close()


def _user() -> str | None:
    """The user of the operating system, for the audit log."""
    try:
        return getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have a number and no name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else None


def stand_in(ctx: typer.Context, url: str | None) -> Backend | None:
    """For a SQLite file that is yet to be made, a backend that holds no key; else None.

    Args:
        ctx: As for ``opened``.
        url: As for ``opened``.

    Raises:
        CommandError: The backend ends with this command.
    """
    settings = _settings(ctx, url)
    _check_lasts(settings)
    path = _sqlite_path(settings)
    return None if path is None or path.exists() else Backend(_NoKeys(), settings=settings)


class _NoKeys:
    """A store without keys."""

    def get(self, client_id: str, /) -> None:
        return None
