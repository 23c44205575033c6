"""Options that several commands share, and opening the backend that they name."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backends import LastUse, open_store
from ..backends.backend import Backend, open_backend
from ..keys.model import Change, Key
from ..settings import Settings
from ._echo import CommandError, echo_error
from ._input import parse_metadata, refuse_dangling_link
from ._urls import has_password


def _refuse_password(url: str | None) -> str | None:
    if url is not None and has_password(url):
        raise typer.BadParameter(
            "the URL contains a password, which every process list would show: set BASICAUTH_BACKEND instead"
        )
    return url


BackendUrl = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="URL",
        callback=_refuse_password,
        help="The key backend.",
        show_default="BASICAUTH_BACKEND",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
ClientId = Annotated[str, typer.Argument(metavar="ID", help="The client ID.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="A description, up to 200 characters.")]
Scopes = Annotated[
    list[str] | None, typer.Option("--scope", metavar="SCOPE", help="A scope; can be repeated.")
]
Expires = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN", help="When the key expires: 90d, 12h, 30m, 2w, 2030-01-31T12:00:00Z, or never."
    ),
]
Metadata = Annotated[
    dict[str, Any] | None,
    typer.Option(metavar="JSON", parser=parse_metadata, help="A JSON object, up to 4 KiB."),
]
SecretStdin = Annotated[
    bool, typer.Option("--secret-stdin", help="Read the secret from stdin, without its final newline.")
]
SecretPrompt = Annotated[bool, typer.Option("--secret-prompt", help="Prompt for the secret.")]


def remember_backend(ctx: typer.Context, url: str | None) -> None:
    """Store a ``--backend`` that precedes the command. The last one on the command line applies."""
    ctx.obj = url or ctx.obj


@contextmanager
def open_for(ctx: typer.Context, url: str | None, *, create: bool = False) -> Iterator[Backend]:
    """Open the backend of a command, upgrade its store if necessary, and close it afterwards."""
    backend = _for_new_keys(url or ctx.obj) if create else open_backend(url or ctx.obj)
    backend.actor = _user()
    try:
        upgrade_store(backend)
        yield backend
    finally:
        backend.close()


def upgrade_store(backend: Backend) -> None:
    """Convert stored data to the format of this release, and print what was done."""
    upgrade = getattr(backend.store, "upgrade", None)
    if upgrade is not None and (done := upgrade()):
        echo_error(done)


def _for_new_keys(url: str | None) -> Backend:
    settings = Settings.from_env(backend=url) if url else Settings.from_env()
    scheme, _, path = settings.backend.partition(":///")
    if scheme.lower().startswith("memory:"):
        raise CommandError(
            "the keys in memory: are lost when this command ends: use a backend that stores them"
        )
    if scheme.lower() != "sqlite" or Path(path).exists():
        return open_backend(settings=settings, create=True)
    refuse_dangling_link(Path(path))
    return Backend(_CreatedOnWrite(settings), settings=settings)


def _user() -> str | None:
    """The user of the operating system, for the audit log."""
    try:
        return getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have a number and no name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else None


class _CreatedOnWrite:
    """A store whose file is created when the first key is written, so that refused keys leave no file."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _store(self) -> Any:
        deadline_s = self._settings.backend_deadline_s
        return open_store(self._settings.backend, deadline_s=deadline_s, create=True)

    def get(self, client_id: str, /) -> Key | None:
        return self._store.get(client_id) if "_store" in vars(self) else None

    def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
        return bool(self._store.put(record, expect_version, changes))

    def add(self, records: Sequence[Key], /, changes: Sequence[Sequence[Change]] = ()) -> list[bool]:
        return list(self._store.add(records, changes)) if records else []

    def record_uses(self, uses: Sequence[LastUse], /) -> None:
        if uses:
            self._store.record_uses(uses)

    def last_uses(self, client_ids: Sequence[str], /) -> list[LastUse]:
        return list(self._store.last_uses(client_ids))

    def close(self) -> None:
        if "_store" in vars(self):
            self._store.close()

    # The other methods of a store, which commands that write new keys do not use.
    def _unused(self, *_arguments: Any) -> Any:
        raise NotImplementedError

    delete = scan = changes = history = _unused
