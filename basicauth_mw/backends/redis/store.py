"""``redis:`` - keys in Redis 6.2 and up, or Valkey: on one server, with Sentinels, or in a cluster.

A key is a string, ``<prefix>:1:{<client ID>}``. The last uses of its secrets are in a hash with ``:used``
added to that name: the microsecond in which a secret was created, and the minute of its use, since the epoch.
Its history is a string with ``:history`` added. Only a swap of the record writes the history, so it is as it
was read before as long as the record is. While a slot moves to another node of a cluster, and for IDs that
begin with ``}``, the two are written one after the other.

``<prefix>:1:index`` is a sorted set of IDs, all with score 0, so ordered by bytes; ``<prefix>:1:changes`` is
a stream, and ``<prefix>:1:state`` a hash. ``<prefix>:1:{:failures}:...`` are hashes of failed requests. The
braces keep IDs apart from these names.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Final

from ...errors import BackendUnavailable, ReadOnlyBackend, UnreadableRecord
from ...keys.hashing import has_password_hash
from ..base import Changes, LastUse, StoreWarning
from ..codec import (
    as_key,
    dump_key,
    load_for_lookup,
    load_uses,
    to_microseconds,
    to_minutes,
)
from ..history import extend_history, load_history
from .checks import CONFIG, config_warnings, decode_id, foreign_warning
from .commands import Commands
from .errors import is_denied, is_split, is_wrong_type
from .scripts import CHANGES_KEPT, NOT_A_STRING, KeyNames
from .url import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...keys.model import Change, Key
    from ..codec import StoredRecord

_BATCH: Final = 1000
_NO_CHANGE_YET: Final = "0-0"

_STREAM_ID = re.compile(r"\d{1,20}-\d{1,20}")


class RedisStore:
    """Keeps keys in Redis. Safe to share between threads and event loops, and across a fork.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads them; with ``+sentinel`` or
            ``+cluster`` after the scheme, one or several hosts. ``?prefix=`` starts every name in Redis
            (default ``basicauth``).
        deadline_s: Seconds for a lookup. There are two attempts, with half of them each.
        create: Ignored: there is nothing to create.

    Raises:
        ConfigurationError: The URL cannot be used. Its text is never shown: it may hold a password.
        MissingExtra: redis-py is not installed.
    """

    def __init__(self, url: str, *, deadline_s: float = 1.0, create: bool = False) -> None:
        target = parse_url(url)
        self.single_server = target.topology != "cluster"
        self._names = KeyNames(target.prefix)
        self._redis = Commands(target, deadline_s)
        self.display_name = self._redis.server

    # --- looking up

    def get(self, client_id: str, /) -> Key | None:
        return as_key(self.get_record(client_id))

    async def aget(self, client_id: str, /) -> Key | None:
        """``get`` over the connections of the running event loop. May be cancelled at any time."""
        return as_key(await self.aget_record(client_id))

    def get_record(self, client_id: str, /) -> StoredRecord | None:
        """``get`` without decoding more than the secrets."""
        return self._record(self._redis.read(self._names.get(_encoded(client_id)))[0], client_id)

    async def aget_record(self, client_id: str, /) -> StoredRecord | None:
        """``aget`` without decoding more than the secrets."""
        reply = await self._redis.aget(self._names.record(_encoded(client_id)))
        return self._record(reply, client_id)

    # --- changing

    def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
        client_id = record.client_id.encode()
        reply, earlier = self._redis.do(self._names.get(client_id), ("GET", self._names.history(client_id)))
        current = b"" if reply is None else self._redis.check_type(reply, bytes)
        before = as_key(self._record(current, record.client_id)) if current else None
        if (before.version if before else None) != expect_version:
            return False
        history = self._history(earlier) if current else ""
        return self._swap(client_id, current, record, extend_history(history, changes) if changes else "")

    def delete(self, client_id: str, /) -> bool:
        encoded = client_id.encode()
        while True:
            (reply,) = self._redis.replies(self._names.get(encoded))
            if reply is None:
                return False
            current = NOT_A_STRING if is_wrong_type(reply) else self._redis.check_type(reply, bytes)
            if self._swap(encoded, current, None):
                return True

    def history(self, client_ids: Sequence[str], /) -> list[list[Change]]:
        commands = [("GET", self._names.history(_encoded(client_id))) for client_id in client_ids]
        return [load_history(self._history(reply)) for reply in self._redis.read(*commands)]

    def add(self, records: Sequence[Key], /, changes: Sequence[Sequence[Change]] = ()) -> list[bool]:
        """Store new keys. No ID is announced: no process can have cached one of these keys."""
        made: list[bool] = []
        names = self._names
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            client_ids = [record.client_id.encode() for record in batch]
            rows = [dump_key(record) for record in batch]
            histories = [extend_history("", each) for each in changes[start : start + _BATCH]]
            histories = histories or [""] * len(batch)
            if any(map(has_password_hash, batch)):
                self._redis.do(names.mark_has_password())
            if self.single_server:
                (reply,) = self._redis.do(names.add(client_ids, rows, histories), retry=False)
                added = self._redis.items(reply, int)
                if len(added) != len(batch):
                    raise BackendUnavailable(
                        f"{self._redis.server} sent {len(added)} replies for {len(batch)} keys"
                    )
                made += map(bool, added)
            else:
                index_add = names.index_add(client_ids)  # before and after, as for a swap
                (_, *exist) = self._redis.do(
                    index_add, *(("EXISTS", names.record(each)) for each in client_ids)
                )
                if not all(exist):
                    self._redis.do(names.announce(b""))
                done = self._redis.do(*map(names.set_new, client_ids, rows), retry=False)
                made += map(bool, done)
                written = zip(client_ids, histories, done, strict=True)
                new = [names.set_history(each, text) for each, text, is_new in written if is_new and text]
                self._redis.do(index_add, *new)
        return made

    def announce(self, client_id: str, /) -> None:
        """Announce a change again, in case it was made but its announcement failed."""
        if not self.single_server:  # one server makes a change and announces it in one step
            self._redis.do(self._names.announce(client_id.encode()))

    def _swap(self, client_id: bytes, expected: bytes, record: Key | None, history: str = "") -> bool:
        names = self._names
        # A cluster announces a change before the swap, since this process may be killed right after it, and
        # again afterwards: another process may have read the old record after the first announcement.
        announcement = [] if self.single_server else [names.announce(client_id)]
        if record is not None:
            before = [names.index_add([client_id])]
            if has_password_hash(record):
                before.append(names.mark_has_password())
            value = dump_key(record).encode()
        else:
            # No ID is empty: this only fails early if ZREM is not allowed, as the script for one server does.
            before = [] if self.single_server else [names.index_remove(b"")]
            value = b""
        self._redis.do(*before, *announcement)
        swap = names.swap(client_id, expected, value, history, announce=self.single_server)
        (done,) = self._redis.do(swap, retry=False, may_be_split=True)
        if is_split(done):
            (done,) = self._redis.do(names.swap(client_id, expected, value, None), retry=False)
            if done and (history or record is None):
                self._redis.do(names.set_history(client_id, history))
        if not done:
            return False
        if record is None:
            self._redis.do(*announcement, names.index_remove(client_id), ("DEL", names.used(client_id)))
            (recreated,) = self._redis.do(names.get(client_id))
            if recreated is not None:  # perhaps indexed before it was removed from the index
                self._redis.do(names.index_add([client_id]))
        else:
            # A delete of the same ID may have removed it from the index meanwhile.
            self._redis.do(*announcement, names.index_add([client_id]))
            self._prune_uses(client_id, record if expected else None)
        return True

    # --- listing and following

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        start = prefix.encode()
        # No byte of UTF-8 is 255, so the last one can always be raised by one.
        end = b"(" + start[:-1] + bytes([start[-1] + 1]) if start else b"+"
        last, index = after.encode(), self._names.index
        found: list[Key] = []
        while len(found) < limit:
            first = b"(" + last if last >= start else b"[" + start
            size = limit - len(found)
            (ids,) = self._redis.replies(("ZRANGEBYLEX", index, first, end, "LIMIT", "0", str(size)))
            ids = self._redis.items(ids, bytes, index)
            named = {encoded: name for encoded in ids if (name := decode_id(encoded)) is not None}
            records = self._redis.replies(*map(self._names.get, named)) if named else []
            stored = map(self._record, records, named.values())
            found += filter(None, map(as_key, stored))  # None: deleted meanwhile, or evicted
            if len(ids) < size:
                break
            last = ids[-1]
        return found

    def changes(self, since: str | None) -> Changes:
        start = since if since is not None and _STREAM_ID.fullmatch(since) else ""
        newest, entries = self._redis.read(
            ("XREVRANGE", self._names.changes, "+", "-", "COUNT", "1"),
            # A change that arrives between the two commands is reported twice, which does no harm.
            ("XRANGE", self._names.changes, start or "+", "+"),
        )
        has_passwords = None
        with suppress(BackendUnavailable):  # in a cluster, it may be on another node, which may be down
            has_passwords = any(self._read_marks())
        cursor = self._entries(newest)[0][0] if newest else _NO_CHANGE_YET
        if since is None:
            return Changes(cursor, has_password_hashes=has_passwords)
        found = self._entries(entries)
        if start == _NO_CHANGE_YET:
            is_complete = len(found) < CHANGES_KEPT
        else:
            # Nothing was trimmed, flushed or restored if the entry at the cursor itself is still there.
            is_complete = bool(found) and found.pop(0)[0] == start
        # A cluster announces a change twice in a row, before and after it is made.
        client_ids = [client_id for client_id, _ in groupby(changed for _, changed in found)]
        if not is_complete or None in client_ids:
            return Changes(cursor, incomplete=True, has_password_hashes=has_passwords)
        known = tuple(filter(None, client_ids))  # not those of imports, which are empty
        return Changes(found[-1][0] if found else start, known, has_password_hashes=has_passwords)

    # --- last uses

    def record_uses(self, uses: Sequence[LastUse], /) -> None:
        minutes: dict[bytes, list[str]] = {}
        for use in uses:
            each = minutes.setdefault(_encoded(use.client_id), [])
            each += (str(to_microseconds(use.secret_created_at)), str(to_minutes(use.at)))
        names, do = self._names, self._redis.do
        used = list(minutes)
        for start in range(0, len(used), _BATCH):
            batch = used[start : start + _BATCH]
            exist = do(*(("EXISTS", names.record(each)) for each in batch))
            kept = [each for each, exists in zip(batch, exist, strict=True) if exists]
            do(*(names.record_uses(each, minutes[each]) for each in kept))

    def last_uses(self, client_ids: Sequence[str], /) -> list[LastUse]:
        commands = [("HGETALL", self._names.used(_encoded(client_id))) for client_id in client_ids]
        replies = self._redis.read(*commands) if commands else []
        found: list[LastUse] = []
        for client_id, reply in zip(client_ids, replies, strict=True):
            with suppress(UnreadableRecord):  # a use that is lost is no reason to hide a key
                fields = self._redis.check_type(reply, list)
                found += load_uses(client_id, zip(fields[::2], fields[1::2], strict=False))
        return found

    def _prune_uses(self, client_id: bytes, record: Key | None) -> None:
        """Remove the last uses of secrets that a key no longer has, except the latest of all."""
        used, replies = self._names.used(client_id), self._redis.replies
        if record is None:  # a new key: they are those of a deleted one
            replies(("DEL", used))
            return
        with suppress(BackendUnavailable):  # the change itself has been made
            (reply,) = replies(("HGETALL", used))
            fields = self._redis.items(reply, bytes)
            minutes = {
                name: int(minute) if minute.isdigit() else 0
                for name, minute in zip(fields[::2], fields[1::2], strict=False)
            }
            held = {b"%d" % to_microseconds(secret.created_at) for secret in record.secrets}
            latest = max(minutes, key=minutes.__getitem__, default=b"")
            if gone := minutes.keys() - held - {latest}:
                replies(("HDEL", used, *gone))

    # --- failed requests

    def add_failures(
        self, limit: str, period_s: float, failures: Mapping[bytes, int], /
    ) -> list[tuple[int, int]]:
        command = self._names.add_failures(limit, period_s, int(time.time() // period_s), failures)
        (reply,) = self._redis.replies(command, retry=False)
        if is_denied(reply):
            raise ReadOnlyBackend(
                f"{self._redis.server} does not allow this user to count failures: check the ACL"
            )
        counts = iter(self._redis.check_type(reply, list))
        return list(zip(counts, counts, strict=True))

    # --- ending

    def close(self) -> None:
        self._redis.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._redis.aclose()

    def warnings(self) -> list[StoreWarning]:
        """Settings that lose keys; empty if CONFIG is not allowed.

        Raises:
            BackendUnavailable: The server cannot be reached.
            UnreadableRecord: Another program has overwritten a name of this package.
        """
        found = dict.fromkeys(config_warnings(self._redis.replies_of_all(CONFIG)))
        self._read_marks()  # raises for a foreign value
        with suppress(BackendUnavailable):  # listing keys reports that the index cannot be read
            found |= dict.fromkeys(foreign_warning(self._redis, self._names.index))
        return list(found)

    # --- inside

    def _read_marks(self) -> list[int]:
        """Whether the store may contain password hashes, by the name of this release and an earlier one."""
        marks = self._redis.read(*self._names.has_password_hashes)
        return [self._redis.check_type(mark, int) for mark in marks]

    def _history(self, reply: object) -> str:
        return "" if reply is None else self._redis.check_type(reply, bytes).decode(errors="replace")

    def _record(self, reply: object, client_id: str) -> StoredRecord | None:
        if is_wrong_type(reply):
            raise UnreadableRecord(
                f"the stored key of {client_id!r} cannot be read: its value in Redis has another type",
                client_id=client_id,
            )
        return load_for_lookup(None if reply is None else self._redis.check_type(reply, bytes), client_id)

    def _entries(self, reply: object) -> list[tuple[str, str | None]]:
        """Stream ID and client ID of each entry; None: this package did not write the entry."""
        try:
            return [
                (entry_id.decode(), decode_id(fields[1]) if len(fields) == 2 and fields[0] == b"id" else None)
                for entry_id, fields in self._redis.check_type(reply, list, self._names.changes)
            ]
        except (TypeError, ValueError, AttributeError):
            raise BackendUnavailable(f"{self._redis.server} sent something that is not a stream") from None


def _encoded(client_id: str) -> bytes:
    return client_id.encode(errors="surrogatepass")  # no ID contains a lone surrogate: not found
