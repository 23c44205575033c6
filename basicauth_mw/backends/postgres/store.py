"""``postgresql:`` - keys in PostgreSQL 13 and up, also through pgbouncer in transaction mode.

A lookup is one statement, for one ID or for many. A change is a transaction that first locks the one row of
``state``: writers take turns, and the numbers of changes become visible in their order.
"""

from __future__ import annotations

import re
from asyncio import to_thread
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from ...keys.hashing import has_password_hash
from ..base import Changes, LastUse
from ..codec import (
    as_key,
    dump_key,
    load_for_lookup,
    load_key,
    load_uses,
    to_microseconds,
    to_minutes,
)
from ..history import extend_history, load_history
from . import schema
from .clients import LoopClients, Session, ThreadClients
from .errors import NO_SUCH_TABLE, READ_ONLY, StatementFailed, translate_error
from .libpq import Connector, in_thread, on_loop, rows_of, run
from .url import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...keys.model import Change, Key
    from ..codec import StoredRecord
    from .libpq import Do, Row, Value, Work

T = TypeVar("T")

CHANGES_KEPT: Final = 10_000

_ADMIN_TIMEOUT_S: Final = 5.0
_UPGRADE_TIMEOUT_S: Final = 3600.0
_BATCH: Final = 1000
_CURSOR: Final = re.compile(r"(\d{1,18})\.(\d{1,19})", re.ASCII)
_END: Final = 2**62  # greater than the number of any change
_LAST: Final = "\U0010ffff" * 64  # greater than any ID, which has at most 255 bytes

_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '5s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '5s'; SELECT seq + 1 FROM {state} FOR UPDATE"
)
# A pooler may connect each transaction to another server, so each reply says whether it comes from a standby;
# if a reply may have several rows, one without a client ID says it.
_FIND_ONE: Final = "SELECT pg_is_in_recovery(), (SELECT record FROM {keys} WHERE client_id = $1)"
_FIND: Final = (
    "SELECT client_id, record FROM {keys} WHERE client_id = ANY ($1::text[]) "
    "UNION ALL SELECT NULL, pg_is_in_recovery()::text"
)
_INSERT: Final = (
    "INSERT INTO {keys} SELECT * FROM unnest($1::text[], $2::text[]::bigint[], $3::text[], $4::text[]) "
    "ON CONFLICT DO NOTHING RETURNING client_id"
)
_UPDATE: Final = (
    "UPDATE {keys} SET version = $2, record = $3, history = $4 WHERE client_id = $1 AND version = $5"
)
_HISTORY: Final = _FIND.replace("record", "history")
_ANNOUNCE: Final = (
    "WITH pruned AS (DELETE FROM {changes} WHERE seq <= $1::bigint - $4::bigint), "
    "counted AS (UPDATE {state} SET seq = $1::bigint, has_passwords = has_passwords OR $3::boolean) "
    "INSERT INTO {changes} (seq, client_id) VALUES ($1::bigint, $2)"
)
_SCAN: Final = (
    "(SELECT client_id, record FROM {keys} WHERE client_id > $1 AND client_id >= $2 AND client_id < $3 "
    "ORDER BY client_id LIMIT $4::bigint) UNION ALL SELECT NULL, pg_is_in_recovery()::text"
)
_CHANGES: Final = (
    "SELECT pg_is_in_recovery(), s.has_passwords, c.seq, c.mark, c.client_id FROM {state} s "
    "JOIN {changes} c ON c.seq >= least($1::bigint, s.seq) ORDER BY c.seq"
)
# In the order of the rows, so that two processes do not wait for each other.
_RECORD_USES: Final = (
    "INSERT INTO {last_used} AS used SELECT client_id, secret, max(minute) "
    "FROM unnest($1::text[], $2::text[]::bigint[], $3::text[]::bigint[]) AS new (client_id, secret, minute) "
    "JOIN {keys} USING (client_id) GROUP BY client_id, secret ORDER BY client_id, secret "
    "ON CONFLICT (client_id, secret) DO UPDATE SET minute = excluded.minute "
    "WHERE used.minute < excluded.minute"
)
_LAST_USES: Final = "SELECT client_id, secret, minute FROM {last_used} WHERE client_id = ANY ($1::text[])"
# Last uses of secrets that a key no longer has, except for the latest of all.
_PRUNE_USES: Final = (
    "DELETE FROM {last_used} WHERE client_id = $1 AND secret <> ALL ($2::text[]::bigint[]) "
    "AND (minute, secret) < (SELECT minute, secret FROM {last_used} WHERE client_id = $1 "
    "ORDER BY minute DESC, secret DESC LIMIT 1)"
)


class PostgresStore:
    """Keeps keys in Postgres. Safe to share between threads and event loops, and across a fork.

    Args:
        url: ``postgresql://`` or ``postgres://``, as libpq reads it. ``?schema=`` (default ``public``) and
            ``?prefix=`` (default ``basicauth``) name the tables.
        deadline_s: Seconds for a lookup.
        create: Create missing tables when they are first needed.

    Raises:
        ConfigurationError: The URL cannot be used. Its text is never shown: it may hold a password.
        MissingExtra: psycopg is not installed.
    """

    def __init__(self, url: str, *, deadline_s: float = 1.0, create: bool = False) -> None:
        target = parse_url(url)
        self._deadline_s = deadline_s
        self._create = create
        self._schema = target.schema
        self._connector = Connector(target, statement_timeout_s=max(1.0, deadline_s))
        self.display_name = self._connector.server
        names = schema.table_names(target.schema, target.prefix)
        self._new_session = partial(Session, self._connector, names)
        check = partial(schema.check, create=create)
        self._threads = ThreadClients(partial(self._new_session, in_thread, check))
        self._loops = LoopClients(partial(self._new_session, on_loop, check), _lookup, timeout_s=deadline_s)

    # --- looking up

    def get(self, client_id: str, /) -> Key | None:
        return as_key(self.get_record(client_id))

    async def aget(self, client_id: str, /) -> Key | None:
        """``get`` over the connection of the running event loop. May be cancelled at any time."""
        return as_key(await self.aget_record(client_id))

    def get_record(self, client_id: str, /) -> StoredRecord | None:
        """``get`` without decoding more than the secrets."""
        found = self._run(partial(self._threads.run, partial(_lookup, [client_id]), self._deadline_s))
        return load_for_lookup(found[0], client_id)

    async def aget_record(self, client_id: str, /) -> StoredRecord | None:
        """``aget`` without decoding more than the secrets."""
        try:
            found = await self._loops.get(client_id)
        except NotImplementedError:  # this loop cannot watch sockets: the default on Windows
            return await to_thread(self.get_record, client_id)
        except Exception as exc:
            failure = translate_error(exc, self._connector.server, self._schema)
        else:
            return load_for_lookup(found, client_id)
        raise failure  # without a context: the frames hold the password

    # --- changing

    def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
        client_id = record.client_id

        async def change(do: Do) -> bool:
            if expect_version is None:
                written = await do(_INSERT, _columns([record], [changes]))
                await do("DELETE FROM {last_used} WHERE client_id = $1", [client_id])  # a deleted key's
            else:
                stored = await _select(_HISTORY, [[client_id]], "", do)
                history = extend_history(stored[0][1] if stored else "", changes)
                values = [client_id, record.version, dump_key(record), history, expect_version]
                written = await do(_UPDATE, values)
                held = [str(to_microseconds(secret.created_at)) for secret in record.secrets]
                await do(_PRUNE_USES, [client_id, held])
            return bool(written.command_tuples)

        return self._change(change, client_id, has_password=has_password_hash(record))

    def delete(self, client_id: str, /) -> bool:
        async def change(do: Do) -> bool:
            deleted = await do("DELETE FROM {keys} WHERE client_id = $1", [client_id])
            await do("DELETE FROM {last_used} WHERE client_id = $1", [client_id])
            return bool(deleted.command_tuples)

        return self._change(change, client_id)

    def add(self, records: Sequence[Key], /, changes: Sequence[Sequence[Change]] = ()) -> list[bool]:
        added: list[bool] = []
        for start in range(0, len(records), _BATCH):
            batch, histories = records[start : start + _BATCH], changes[start : start + _BATCH]

            insert = partial(_select, _INSERT, _columns(batch, histories), "")
            # No ID is announced: only found keys are cached, so no cache can hold one of these.
            new = set(self._change(insert, None, has_password=any(map(has_password_hash, batch))))
            for record in batch:
                added.append((record.client_id,) in new)
                new.discard((record.client_id,))  # only the first of equal IDs was written
        return added

    def _change(self, change: Work[T], client_id: str | None, *, has_password: bool = False) -> T:
        """Make a change and announce it in one transaction, unless ``change`` returns something false."""

        async def work(do: Do) -> T:
            seq = int((await do(_BEGIN)).get_value(0, 0))
            result = await change(do)
            if result:
                await do(_ANNOUNCE, [seq, client_id, str(has_password), CHANGES_KEPT])
            await do("COMMIT" if result else "ROLLBACK")
            return result

        return self._run(partial(self._threads.run_admin, work, _ADMIN_TIMEOUT_S), writing=True)

    # --- listing and following

    def history(self, client_ids: Sequence[str], /) -> list[list[Change]]:
        rows = self._rows(_HISTORY, [list(filter(_is_storable, client_ids))])
        found = {client_id: load_history(text) for client_id, text in rows}
        return [found.get(client_id, []) for client_id in client_ids]

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        if "\0" in prefix:
            return []
        after = after.partition("\0")[0]  # equivalent, as no ID has a control character
        rows = self._rows(_SCAN, [after, prefix, prefix + _LAST, limit])
        return [load_key(record, client_id) for client_id, record in rows]

    def changes(self, since: str | None) -> Changes:
        cursor = _CURSOR.fullmatch(since or "")
        at = cursor.groups() if cursor else (str(_END), "")
        rows = self._run(partial(self._threads.run, partial(_changes, at[0]), _ADMIN_TIMEOUT_S))
        # Nothing was pruned, restored or lost if the change at the cursor itself is still there.
        is_complete = rows[0][2:4] == at
        return Changes(
            ".".join(rows[-1][2:4]),
            tuple(client_id for *_, client_id in rows[1:] if client_id) if is_complete else (),
            incomplete=since is not None and not is_complete,
            has_password_hashes=rows[0][1] == "t",
        )

    # --- last uses

    def record_uses(self, uses: Sequence[LastUse], /) -> None:
        for start in range(0, len(uses), _BATCH):
            batch = uses[start : start + _BATCH]
            secrets = [str(to_microseconds(use.secret_created_at)) for use in batch]
            minutes = [str(to_minutes(use.at)) for use in batch]
            values: list[Value] = [[use.client_id for use in batch], secrets, minutes]
            self._rows(_RECORD_USES, values, writing=True)

    def last_uses(self, client_ids: Sequence[str], /) -> list[LastUse]:
        rows = self._rows(_LAST_USES, [list(filter(_is_storable, client_ids))])
        return [use for client_id, *row in rows for use in load_uses(client_id, [tuple(row)])]

    # --- ending

    def close(self) -> None:
        self._threads.close()
        self._loops.close_ended()

    async def aclose(self) -> None:
        """Close the connection of the running event loop."""
        await self._loops.aclose()

    def upgrade(self) -> str | None:
        session = self._new_session(in_thread)

        async def work(do: Do) -> int:
            before = await schema.migrate(do, create=self._create)
            await schema.check(do, create=False)
            return before

        try:
            before = self._run(lambda: run(session.perform(work, _UPGRADE_TIMEOUT_S)))
        finally:
            session.close()
        if before == schema.SCHEMA_VERSION:
            return None
        if before == 0:
            return f"created the tables of keys in the schema {self._schema}"
        return f"upgraded the tables of keys from version {before} to {schema.SCHEMA_VERSION}"

    # --- inside

    def _rows(self, statement: str, values: Sequence[Value], *, writing: bool = False) -> list[Row]:
        work = partial(_select, statement, values, "")
        return self._run(partial(self._threads.run_admin, work, _ADMIN_TIMEOUT_S), writing=writing)

    def _run(self, call: Callable[[], T], *, writing: bool = False) -> T:
        try:
            return call()
        except Exception as exc:
            failure = translate_error(exc, self._connector.server, self._schema, writing=writing)
        raise failure  # without a context: the frames hold the password


async def _select(statement: str, values: Sequence[Value], name: str, do: Do) -> list[Row]:
    rows = rows_of(await do(statement, values, name))
    _check_primary(in_recovery=("", "true") in rows)
    return [row for row in rows if row[0]]  # no ID is empty


async def _changes(since: str, do: Do) -> list[Row]:
    """The changes from a number on, or the newest one."""
    rows = await _select(_CHANGES, [since], "basicauth_changes", do)
    if not rows:
        raise StatementFailed(next(iter(NO_SUCH_TABLE)))
    _check_primary(in_recovery=rows[0][0] == "t")
    return rows


def _check_primary(*, in_recovery: bool) -> None:
    if in_recovery:
        raise StatementFailed(READ_ONLY)


async def _lookup(client_ids: Sequence[str], do: Do) -> list[str | bytes | None]:
    """The records of some IDs, in order; None for an unknown one."""
    if len(client_ids) == 1 and _is_storable(client_ids[0]):  # a third faster
        result = await do(_FIND_ONE, client_ids, "basicauth_find_one")
        _check_primary(in_recovery=result.get_value(0, 0) == b"t")
        return [result.get_value(0, 1)]
    rows = await _select(_FIND, [list(filter(_is_storable, client_ids))], "basicauth_find", do)
    found: dict[str, str] = dict(rows)
    return [found.get(client_id) for client_id in client_ids]


def _columns(records: Sequence[Key], changes: Sequence[Sequence[Change]]) -> list[Value]:
    """The parameters of ``_INSERT``."""
    return [
        [record.client_id for record in records],
        [str(record.version) for record in records],
        [dump_key(record) for record in records],
        [extend_history("", each) for each in changes or [()] * len(records)],
    ]


def _is_storable(client_id: str) -> bool:
    """Whether Postgres can store an ID; none has a NUL or a lone surrogate."""
    try:
        return b"\0" not in client_id.encode()
    except UnicodeEncodeError:
        return False
