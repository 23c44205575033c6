"""Key names and scripts. A change of a key is a compare and swap of its record.

A cluster keeps records, index, changes and state on different nodes, so no script can write all of them. The
other writes surround the swap: entries that must never be missing are written before it, and entries that are
no longer needed are removed after it. On one server the swap announces the change itself. Everything that
Redis may refuse (a missing right, a value of another type, no memory) precedes the write of the record, so a
change that failed was not made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .cluster import Command

CHANGES_KEPT: Final = 10_000
MAX_COUNTERS: Final = 100_000  # of failures, for one limit and period; about 100 bytes each
_MAXLEN: Final = str(CHANGES_KEPT)

# Represents a stored value of another type, which cannot be compared.
NOT_A_STRING: Final = b"\0"

# KEYS: the record and its history; on one server also the changes and the index. ARGV: what must be stored
# now (empty: nothing), what to store (empty: nothing), the client ID, the new history. A full server refuses
# XADD, but not in a script that has called another command that writes: so keys can be deleted there. No ID
# is empty.
_SWAP: Final = f"""
local current = redis.pcall('GET', KEYS[1]) or ''
if type(current) == 'table' then
    if not string.find(current.err, 'WRONGTYPE', 1, true) then return current end
    current = '\\0'
end
if current ~= ARGV[1] then return 0 end
if KEYS[3] then
    if ARGV[2] == '' then redis.call('ZREM', KEYS[4], '') end
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', {CHANGES_KEPT}, '*', 'id', ARGV[3])
end
if ARGV[2] == '' then
    redis.call('DEL', KEYS[1], KEYS[2] or KEYS[1])
else
    redis.call('SET', KEYS[1], ARGV[2])
    if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4]) end
end
return 1
"""
# KEYS: the index, the changes, and new records. ARGV: their client IDs, their values, and their histories, or
# the only one if all have the same. A pipeline of SET commands takes the client three times as long.
_ADD: Final = f"""
local count = #KEYS - 2
local members, done = {{}}, {{}}
for i = 1, count do members[2 * i - 1], members[2 * i] = 0, ARGV[i] end
redis.call('ZADD', KEYS[1], unpack(members))
if redis.call('EXISTS', unpack(KEYS, 3)) < count then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', {CHANGES_KEPT}, '*', 'id', '')
end
for i = 1, count do
    done[i] = redis.call('SET', KEYS[i + 2], ARGV[count + i], 'NX') and 1 or 0
    local history = ARGV[2 * count + i] or ARGV[2 * count + 1]
    if done[i] == 1 and history ~= '' then redis.call('SET', KEYS[i + 2] .. ':history', history) end
end
return done
"""
# KEYS: the last uses of one client. ARGV: secret and minute, again and again; a later minute stays.
_RECORD_USES: Final = """
for i = 1, #ARGV, 2 do
    local before = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '')
    if not before or before < tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
"""
# KEYS: the counts of this period, and of the one before. ARGV: how many counters there may be, seconds until
# they expire, then counter and number, again and again. Replies, for each: the count before, and the new one.
_ADD_FAILURES: Final = """
local room, found = tonumber(ARGV[1]) - redis.call('HLEN', KEYS[1]), {}
for i = 3, #ARGV, 2 do
    local total = tonumber(ARGV[i + 1])
    local is_new = redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0
    if room > 0 or not is_new then
        total = redis.call('HINCRBY', KEYS[1], ARGV[i], total)
        if is_new then room = room - 1 end
    end
    found[i - 2] = tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or 0)
    found[i - 1] = total
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return found
"""


class KeyNames:
    """The names in Redis, and the commands on them.

    The braces around an ID keep it apart from the other names, and put everything of one client into one slot
    of a cluster (except for IDs that begin with a brace).
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = f"{prefix}:1:".encode()
        self.index = self.prefix + b"index"
        self.changes = self.prefix + b"changes"
        self.state = self.prefix + b"state"
        # The second one is how earlier releases wrote it.
        self.has_password_hashes: tuple[Command, ...] = (
            ("HEXISTS", self.state, "password_hashes"),
            ("HEXISTS", self.prefix + b"facts", "slow"),
        )

    def record(self, client_id: bytes) -> bytes:
        return self.prefix + b"{%b}" % client_id

    def used(self, client_id: bytes) -> bytes:
        return self.prefix + b"{%b}:used" % client_id

    def history(self, client_id: bytes) -> bytes:
        return self.prefix + b"{%b}:history" % client_id

    def get(self, client_id: bytes) -> Command:
        return ("GET", self.record(client_id))

    def swap(
        self,
        client_id: bytes,
        expected: bytes,
        record: bytes,
        history: str | None,
        *,
        announce: bool = False,
    ) -> Command:
        """Replace the record ``expected`` by ``record``; empty means none. Replies 1 if replaced, else 0.

        The same script replaces the history, unless it is empty, or deletes it with the record; None ignores
        it. With ``announce``, it also publishes the change. A cluster does not support this.
        """
        keys = [self.record(client_id)]
        if history is not None:
            keys.append(self.history(client_id))
        if announce:
            keys += (self.changes, self.index)
        return ("EVAL", _SWAP, str(len(keys)), *keys, expected, record, client_id, history or "")

    def add(self, client_ids: Sequence[bytes], records: Sequence[str], histories: Sequence[str]) -> Command:
        """Store records whose client IDs are new, and announce an import. Replies, for each, 1 if it was
        stored, else 0.

        A cluster does not support this.
        """
        names = (self.index, self.changes, *map(self.record, client_ids))
        sent = histories if len(set(histories)) > 1 else histories[:1]
        return ("EVAL", _ADD, str(len(names)), *names, *client_ids, *records, *sent)

    def set_new(self, client_id: bytes, record: str) -> Command:
        """Store a record if its client ID is new, else reply None."""
        return ("SET", self.record(client_id), record, "NX")

    def set_history(self, client_id: bytes, history: str) -> Command:
        """Store a history, or delete it if it is empty."""
        name = self.history(client_id)
        return ("SET", name, history) if history else ("DEL", name)

    def record_uses(self, client_id: bytes, uses: Sequence[str]) -> Command:
        """Store secret and minute, again and again, unless a later minute is stored."""
        return ("EVAL", _RECORD_USES, "1", self.used(client_id), *uses)

    def add_failures(
        self, limit: str, period_s: float, period: int, failures: Mapping[bytes, int]
    ) -> Command:
        """Count failures. Replies, for each counter, its failures in the period before and in this one."""
        # A client ID contains no colon, so no record is in these braces. They put both names in one slot.
        name = self.prefix + b"{:failures}:%b:%g:" % (limit.encode(), period_s)
        keys = (name + b"%d" % period, name + b"%d" % (period - 1))
        expires_s = str(math.ceil(2 * period_s))
        counts: list[bytes | str] = []
        for counter, count in failures.items():
            counts += (counter, str(count))
        return ("EVAL", _ADD_FAILURES, "2", *keys, str(MAX_COUNTERS), expires_s, *counts)

    def announce(self, client_id: bytes) -> Command:
        """Announce to every process that a key has changed.

        An empty ID concerns no key. It announces that keys were imported: no process has cached them yet, but
        a store without them is then recognized as another one.
        """
        return ("XADD", self.changes, "MAXLEN", "~", _MAXLEN, "*", "id", client_id)

    def index_add(self, client_ids: Sequence[bytes]) -> Command:
        members: list[bytes | str] = []
        for client_id in client_ids:
            members += ("0", client_id)
        return ("ZADD", self.index, *members)

    def index_remove(self, client_id: bytes) -> Command:
        return ("ZREM", self.index, client_id)

    def mark_has_password(self) -> Command:
        """Record that the store contains a password hash."""
        return ("HSET", self.state, "password_hashes", "1")
