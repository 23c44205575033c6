"""When secrets were last used: a small file next to the file of keys.

Every busy process writes it every second. In the file of keys that would delay changes of keys, and other
processes would take the file for a replaced one. A use is no change of a key, so it may be lost: no error
here keeps a key from being read or changed.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...errors import BackendUnavailable
from ..codec import load_uses, to_microseconds, to_minutes
from .files import connect, explain, has_tables
from .forks import short_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from ...keys.model import Key
    from ..base import LastUse

APPLICATION_ID: Final = int.from_bytes(b"bamu")
SCHEMA_VERSION: Final = 1

_WAIT_S: Final = 1.0

# ``secret`` is when that secret was created, in microseconds, and ``minute`` when it was last used, in
# minutes, both since the epoch.
_TABLE: Final = (
    "CREATE TABLE last_used (client_id TEXT NOT NULL, secret INTEGER NOT NULL, minute INTEGER NOT NULL, "
    "PRIMARY KEY (client_id, secret)) WITHOUT ROWID"
)
_SELECT: Final = "SELECT secret, minute FROM last_used WHERE client_id = :client_id"
_DELETE: Final = "DELETE FROM last_used WHERE client_id = :client_id"
# No datetime is as late as the bound. Text and blobs, which only damage leaves, are greater than any number.
_IS_EARLIER: Final = (
    "minute < (SELECT max(minute) FROM last_used WHERE client_id = :client_id AND minute < 4223371680)"
)


class LastUsedFile:
    """Records uses in ``<file of keys>.last-used``, which is created with the first one.

    A connection lives for one call: calls are rare, so there is nothing to look after between them. A failure
    to delete uses is ignored: the key has been changed, which must not look like a failure.
    """

    def __init__(self, keys: Path) -> None:
        self._keys = keys

    @property
    def path(self) -> Path:
        """Path of the file; it is next to the file of keys, not next to a link to it."""
        return Path(f"{os.path.realpath(self._keys)}.last-used")

    def record(
        self, uses: Sequence[LastUse], existing_ids: Callable[[Collection[str]], Collection[str]]
    ) -> None:
        """Record uses that are later than the recorded ones. Raises ``BackendUnavailable``.

        ``existing_ids`` returns which client IDs have a key. It is called while this file is locked, so that
        a key that is deleted meanwhile leaves no uses.
        """
        if not uses:
            return
        self._create()
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not _has_table(connection):
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            known = existing_ids({use.client_id for use in uses})
            connection.executemany(
                "INSERT INTO last_used VALUES (?, ?, ?) ON CONFLICT (client_id, secret) "
                "DO UPDATE SET minute = excluded.minute WHERE excluded.minute > minute",
                [
                    (use.client_id, to_microseconds(use.secret_created_at), to_minutes(use.at))
                    for use in uses
                    if use.client_id in known
                ],
            )
            connection.execute("COMMIT")

    def last(self, client_ids: Sequence[str]) -> list[LastUse]:
        """The last use of every secret of these clients; none if the file cannot be read."""
        found = self._execute(_SELECT, *client_ids)
        return [use for client_id, row in found for use in load_uses(client_id, [row])]

    def prune(self, key: Key) -> None:
        """Delete the uses of secrets that a key no longer has, except its latest use."""
        kept = ", ".join(str(to_microseconds(secret.created_at)) for secret in key.secrets)
        self._execute(f"{_DELETE} AND secret NOT IN ({kept}) AND {_IS_EARLIER}", key.client_id)

    def delete(self, client_ids: Iterable[str]) -> None:
        """Delete all uses of these clients."""
        with suppress(BackendUnavailable), self._open_existing() as connection:
            if connection is not None:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_DELETE, [{"client_id": each} for each in client_ids])
                connection.execute("COMMIT")

    def check(self) -> None:
        """Raise ``BackendUnavailable`` if uses cannot be read."""
        with self._open_existing():
            pass

    def _execute(self, statement: str, *client_ids: str) -> list[tuple[str, tuple[Any, Any]]]:
        """Execute a statement for each client; return its rows, or none if the file cannot be used."""
        with suppress(BackendUnavailable), self._open_existing() as connection:
            if connection is not None:
                execute = connection.execute
                return [(each, row) for each in client_ids for row in execute(statement, {"client_id": each})]
        return []

    @contextmanager
    def _open_existing(self) -> Iterator[sqlite3.Connection | None]:
        """Open the file if it exists and has its table; None if not."""
        try:
            self.path.stat()
        except OSError:
            yield None
            return
        with self._open() as connection:
            yield connection if _has_table(connection) else None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with short_connection(self.path, partial(connect, wait_s=_WAIT_S)) as connection:
                yield connection
        except sqlite3.Error as exc:
            raise BackendUnavailable(
                f"{self.path.name}, with last-used times, cannot be used: {explain(exc)}"
            ) from exc

    def _create(self) -> None:
        """Create a missing file with the owner and the mode of the file of keys."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                if hasattr(os, "fchown"):  # not on Windows, where a file inherits its access rights
                    keys = self._keys.stat()
                    with suppress(PermissionError):  # only root may, and needs to
                        os.fchown(descriptor, keys.st_uid, keys.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(keys.st_mode) & 0o666)
            finally:
                os.close(descriptor)
        except FileExistsError:
            return
        except OSError as exc:
            raise BackendUnavailable(f"{self.path.name} cannot be created: {exc.strerror}") from exc


def _has_table(connection: sqlite3.Connection) -> bool:
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if (application, version) == (APPLICATION_ID, SCHEMA_VERSION):
        return True
    if application or has_tables(connection):
        raise BackendUnavailable(
            "the file of last-used times was not written by this release of basicauth_mw: delete it, and a "
            "new one is created"
        )
    return False
