"""Creates files of keys, and upgrades those of an older release."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ...errors import BackendUnavailable, ConfigurationError
from . import schema
from .files import SQLITE_ERRORS, check_is_file, check_writable_mount, has_tables, retry_while_locked
from .forks import short_connection
from .wal import backend_error, checkpoint, may_write, open_keys

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

T = TypeVar("T")

WRITE_WAIT_S: Final = 5.0


def create_file(path: Path) -> None:
    """Create a missing file, readable by its owner only, and fill an empty one.

    Raises:
        ConfigurationError: It cannot be created, or is not a file of keys.
    """
    try:
        # 0600 from the start; SQLite gives its log the mode of the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        check_is_file(path)
    except OSError as exc:
        raise ConfigurationError(
            f"{path} cannot be created: {exc.strerror}: does its directory exist?"
        ) from None

    def fill(connection: sqlite3.Connection) -> None:
        ((application,),) = connection.execute("PRAGMA application_id").fetchall()
        if not application and not has_tables(connection):
            check_writable_mount(path)
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            schema.create(connection)
        schema.check_is_ours(connection)

    try:
        _with_file(path, fill)
    except BackendUnavailable as exc:
        raise ConfigurationError(f"{path} cannot be used: {exc}") from None


def upgrade_file(path: Path) -> str | None:
    """Upgrade a file, in one transaction. Older releases refuse it afterwards.

    The version that a file lacks after ``sqlite3 keys.db < dump.sql`` is set again.

    Returns:
        What was done, for people; None if the file is of this release.

    Raises:
        BackendUnavailable: It is of a newer release, is no file of keys, or cannot be written.
    """

    def upgrade(connection: sqlite3.Connection) -> int | None:
        connection.execute("PRAGMA synchronous = FULL")
        if not schema.needs_migration(connection, may_write=may_write(path)):
            return None
        check_writable_mount(path)
        before = schema.migrate(connection)
        checkpoint(connection)
        return before

    before = _with_file(path, upgrade)
    if before is None:
        return None  # or only its texts were indexed
    if before == 0:
        return f"{path} was restored from a dump; its version has been set"
    return f"upgraded {path} from schema version {before} to {schema.SCHEMA_VERSION}"


def _with_file(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do some work on a file, while no other connection locks it."""

    def attempt() -> T:
        try:
            with short_connection(path, open_keys) as connection:
                return work(connection)
        except SQLITE_ERRORS as exc:
            raise backend_error(exc, Path(os.path.realpath(path))) from exc

    return retry_while_locked(attempt, WRITE_WAIT_S)
