"""The tables, and their upgrade, which is one transaction. Statements name tables as ``{keys}``."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from ...errors import BackendUnavailable
from .errors import NO_SUCH_TABLE, StatementFailed
from .libpq import rows_of

if TYPE_CHECKING:
    from .libpq import Do

SCHEMA_VERSION: Final = 1

# The statements that lead to each version. Every change of a key locks the one row of ``state``, so that
# changes become visible in the order of their numbers. ``mark`` distinguishes changes that have the same
# number because the database was restored, or a standby promoted.
_STEPS: Final = (
    """
    CREATE TABLE {state} (version integer NOT NULL, seq bigint NOT NULL, has_passwords boolean NOT NULL)
        WITH (fillfactor = 10);
    CREATE TABLE {keys} (client_id text COLLATE "C" PRIMARY KEY,
        version bigint NOT NULL, record text NOT NULL, history text NOT NULL);
    CREATE TABLE {changes}
        (seq bigint PRIMARY KEY, mark bigint NOT NULL DEFAULT (random() * 1e18)::bigint, client_id text);
    CREATE TABLE {last_used}
        (client_id text COLLATE "C", secret bigint, minute bigint NOT NULL, PRIMARY KEY (client_id, secret))
        WITH (fillfactor = 70);
    INSERT INTO {state} VALUES (0, 1, false);
    INSERT INTO {changes} (seq) VALUES (1)
    """,
)


def table_names(schema: str, prefix: str) -> dict[str, str]:
    """The tables by their names in statements, and as ``schema`` their schema."""
    tables = ("state", "keys", "changes", "last_used")
    return {"schema": f'"{schema}"'} | {name: f'"{schema}"."{prefix}_{name}"' for name in tables}


async def check(do: Do, *, create: bool) -> int:
    """Check the tables, and create missing ones with ``create``; return the process ID of the server.

    Raises:
        BackendUnavailable: They are not of this release.
    """
    if create:
        await migrate(do, create=True)
    version, pid = await _state(do)
    if version != SCHEMA_VERSION:
        is_old = version < SCHEMA_VERSION
        remedy = "run  basicauth-mw check --upgrade" if is_old else "update the package"
        raise BackendUnavailable(
            f"the tables of keys in Postgres have version {version}; this release needs {SCHEMA_VERSION}: "
            f"{remedy}"
        )
    return pid


async def migrate(do: Do, *, create: bool) -> int:
    """Upgrade the tables; with ``create``, create missing ones. Return the version that they had, 0 for none.

    Older releases refuse them afterwards.
    """
    try:
        before, _ = await _state(do)
    except StatementFailed as exc:
        if not create or exc.sqlstate not in NO_SUCH_TABLE:
            raise
        before = 0
    if before >= SCHEMA_VERSION:
        return before
    await do("BEGIN; SET LOCAL statement_timeout = 0")
    # One process at a time; the others find the work done.
    await do(f"SELECT pg_advisory_xact_lock({zlib.crc32(b'basicauth_mw')})")
    # A statement that opens a table, or the functions would use what this session has cached before.
    result = await do(
        "SELECT to_regclass('{state}'), to_regnamespace('{schema}'), current_setting('server_encoding') "
        "FROM pg_catalog.pg_namespace LIMIT 1"
    )
    ((state, schema, encoding),) = rows_of(result)
    if encoding != "UTF8":
        raise BackendUnavailable("the encoding of the Postgres database is not UTF8: use another database")
    if not schema:
        await do("CREATE SCHEMA {schema}")
    before = (await _state(do))[0] if state else 0
    for step in _STEPS[before:]:
        await do(step)
    await do("UPDATE {state} SET version = greatest(version, $1::integer)", [SCHEMA_VERSION])
    await do("COMMIT")
    return before


async def _state(do: Do) -> tuple[int, int]:
    """The version of the tables, and the process ID of the server."""
    rows = rows_of(await do("SELECT version, pg_backend_pid() FROM {state}"))
    if len(rows) != 1:
        raise BackendUnavailable("the table of the state in Postgres has lost its row: restore a backup")
    version, pid = map(int, rows[0])
    return version, pid
