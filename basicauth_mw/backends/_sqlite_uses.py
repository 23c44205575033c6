"""When secrets were last used: a small file beside the file of keys.

It is apart because it is written every second by every busy process. In the file of keys that would hold up
changes of keys, and look to every other process like a file that was replaced. And as it is no change of a
key, it may be lost: what goes wrong here never keeps anybody from reading or changing keys.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import BackendUnavailable
from ._sqlite_file import connect, explain, has_tables
from ._sqlite_forks import briefly
from .codec import load_uses, to_microseconds, to_minutes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from ..keys.model import Key
    from .base import Use

APPLICATION_ID: Final = int.from_bytes(b"bamu")
SCHEMA_VERSION: Final = 1

_WAIT_S: Final = 1.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# secret is when that secret was created, in microseconds, and minute when it was last used, in minutes, both
# since the epoch.
_TABLE: Final = (
    "CREATE TABLE last_used (client_id TEXT NOT NULL, secret INTEGER NOT NULL, minute INTEGER NOT NULL, "
    "PRIMARY KEY (client_id, secret)) WITHOUT ROWID"
)
_OF_CLIENT: Final = "SELECT secret, minute FROM last_used WHERE client_id = ?"


class UseLog:
    """Notes uses in ``<file of keys>.last-used``, which is made when there is one to note.

    A connection lives for one call: there are few calls, and so nothing to look after between them.

    Args:
        keys: The path of the file of keys, or of a link to it: the uses lie beside the file.
    """

    def __init__(self, keys: Path) -> None:
        self._keys = keys

    @property
    def path(self) -> Path:
        """Of the file of uses."""
        return Path(f"{os.path.realpath(self._keys)}.last-used")

    def record(self, uses: Sequence[Use], stored: Callable[[Collection[str]], Collection[str]]) -> None:
        """Note uses that are later than those known.

        Args:
            uses: In any order.
            stored: Tells which of some client ids have a key. It is asked while nobody else can write here,
                so that a key that is deleted meanwhile leaves nothing behind.

        Raises:
            BackendUnavailable: They could not be noted.
        """
        if not uses:
            return
        self._make()
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not _is_ready(connection):
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            known = stored({use.client_id for use in uses})
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

    def last(self, client_ids: Sequence[str]) -> list[Use]:
        """The last use of every secret of these clients; none if the file cannot be read."""
        try:
            if not self._is_there():
                return []
            with self._open() as connection:
                if not _is_ready(connection):
                    return []
                return [use for client_id in client_ids for use in _uses(client_id, connection)]
        except BackendUnavailable:
            return []

    def prune(self, key: Key) -> None:
        """Drop what is known of secrets that a key no longer has, but for its latest use."""
        held = {secret.created_at for secret in key.secrets}

        def drop(connection: sqlite3.Connection) -> None:
            uses = list(_uses(key.client_id, connection))
            latest = max((use.at for use in uses), default=_EPOCH)
            connection.executemany(
                "DELETE FROM last_used WHERE client_id = ? AND secret = ?",
                [
                    (key.client_id, to_microseconds(use.secret_created_at))
                    for use in uses
                    if use.secret_created_at not in held and use.at < latest
                ],
            )

        self._tidy(drop)

    def forget(self, client_id: str) -> None:
        """Drop all that is known of a client."""

        def drop(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM last_used WHERE client_id = ?", (client_id,))

        self._tidy(drop)

    def check(self) -> None:
        """Make sure that uses can be read.

        Raises:
            BackendUnavailable: They cannot.
        """
        if self._is_there():
            with self._open() as connection:
                _is_ready(connection)

    def _is_there(self) -> bool:
        try:
            self.path.stat()
        except OSError:
            return False
        return True

    def _tidy(self, drop: Callable[[sqlite3.Connection], None]) -> None:
        # The key was changed already, and well: what fails here may not look like a failure of that.
        with suppress(BackendUnavailable):
            if self._is_there():
                with self._open() as connection:
                    if _is_ready(connection):
                        drop(connection)

    def _make(self) -> None:
        """Make the file, if it is missing, for those who may open the file of keys."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        except OSError as exc:
            raise BackendUnavailable(f"{self.path.name} cannot be made: {exc.strerror}") from exc
        try:
            if hasattr(os, "fchown"):  # not on Windows, where a file inherits who may open it
                keys = self._keys.stat()
                with suppress(PermissionError):  # only root may, and needs to
                    os.fchown(descriptor, keys.st_uid, keys.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(keys.st_mode) & 0o666)
        except OSError as exc:
            raise BackendUnavailable(f"{self.path.name} cannot be made: {exc.strerror}") from exc
        finally:
            os.close(descriptor)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with briefly(self.path, partial(connect, wait_s=_WAIT_S)) as connection:
                yield connection
        except sqlite3.Error as exc:
            raise BackendUnavailable(
                f"{self.path.name}, with last uses, cannot be used: {explain(exc)}"
            ) from exc


def _uses(client_id: str, connection: sqlite3.Connection) -> Iterator[Use]:
    return load_uses(client_id, connection.execute(_OF_CLIENT, (client_id,)))


def _is_ready(connection: sqlite3.Connection) -> bool:
    """Whether there is a table; a file that holds something else is an error."""
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if (application, version) == (APPLICATION_ID, SCHEMA_VERSION):
        return True
    if application or has_tables(connection):
        raise BackendUnavailable(
            "the file of last uses is not one of this release of basicauth_mw: remove it, and it begins anew"
        )
    return False
