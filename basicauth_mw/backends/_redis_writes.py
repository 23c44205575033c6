"""Changes of keys in Redis: one script where all is in one place, ordered steps where it is spread.

A Redis Cluster keeps records, index, changes and facts on different nodes, so that no script can reach them
all. There the record alone decides, by a script of its own, and everything else is written round it: what
must never be missing before it, and what may be superfluous after it.

In both, all that may be refused (by the user's rights, by something foreign under one of our names, for want
of memory) comes before the record: Redis does not undo what a script did before it failed, and a change that
failed must not have been made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..hashing import is_slow
from ._codec import dump_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..model import Key
    from ._redis_ways import Command

CHANGES_KEPT: Final = 10_000

# In the place of a record that is none, and so has no octets to compare.
OF_ANOTHER_TYPE: Final = b"\0"

_PER_SCRIPT: Final = 100  # half a millisecond of the server's time


class Names:
    """The names under which Redis keeps what is ours.

    Args:
        prefix: What they begin with. The braces round an id keep it apart from the other names, and, in a
            cluster, put all of one client into one slot (but for ids that begin with a brace).
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = f"{prefix}:1:".encode()
        self.index = self.prefix + b"index"
        self.changes = self.prefix + b"changes"
        self.facts = self.prefix + b"facts"

    def record(self, octets: bytes) -> bytes:
        return self.prefix + b"{%b}" % octets

    def used(self, octets: bytes) -> bytes:
        return self.prefix + b"{%b}:used" % octets

    def announce(self, octets: bytes) -> Command:
        """The command that tells of a change."""
        return ("XADD", self.changes, "MAXLEN", "~", CHANGES_KEPT, "*", "id", octets)

    def note_slow(self) -> Command:
        """The command that tells of a slow hash."""
        return ("HSET", self.facts, "slow", 1)

    def try_leave(self) -> Command:
        """The command that fails where taking an id out of the index would; no id is empty."""
        return ("ZREM", self.index, b"")

    def enter(self, ids: Sequence[bytes]) -> Command:
        """The command that has ids in the index."""
        members: list[bytes | int] = []
        for octets in ids:
            members += (0, octets)
        return ("ZADD", self.index, *members)


@dataclass(frozen=True, slots=True)
class Swap:
    """One change of one key.

    Attributes:
        octets: The client id.
        stored: The record that must be there now; empty: none; or ``OF_ANOTHER_TYPE``.
        record: The record that is to be there; empty: none.
        slow: Whether it holds a slow hash.
        secrets: Which secrets it holds, as the uses are named.
    """

    octets: bytes
    stored: bytes
    record: bytes
    slow: bool = False
    secrets: tuple[int, ...] = ()


class Ask(Protocol):
    """Sends commands and gives their replies.

    Args:
        commands: They may be made while others are on their way.
        again: They may be asked twice, and so are not made on the way.

    Raises:
        BackendUnavailable: One of the replies is an error, or there is none.
    """

    def __call__(self, commands: Iterable[Command], *, again: bool = True) -> list[Any]: ...


class Changer(Protocol):
    """Makes changes."""

    def swap(self, ask: Ask, change: Swap) -> bool:
        """Tells whether the record was the one that had to be there, and is another now."""
        ...

    def add(self, ask: Ask, records: Sequence[Key]) -> list[bool]:
        """Write keys whose ids are not taken; tells which."""
        ...

    def note_uses(self, ask: Ask, uses: Sequence[tuple[bytes, int, int]]) -> None:
        """Note client id, secret and minute of each use, of keys that are stored."""
        ...


# --- the scripts. Each is a piece of another one as well, so keys have names.

# ARGV: what must be stored now; empty: nothing; a NUL: something of another type.
_UNLESS_STORED: Final = """
local there = redis.pcall('GET', record) or ''
if type(there) == 'table' then
    if not string.find(there.err, 'WRONGTYPE', 1, true) then return there end
    there = '\\0'
end
if there ~= ARGV[1] then return 0 end
"""

# `held` are the secrets that the key has. Of others, the use is forgotten, but for the latest of all. What
# cannot be read stays: an error has no elements.
_FORGET: Final = """
local uses, latest, latest_at = redis.pcall('HGETALL', used), nil, -1
for i = 1, #uses, 2 do
    local at = tonumber(uses[i + 1]) or 0
    if at > latest_at then latest, latest_at = uses[i], at end
end
for i = 1, #uses, 2 do
    if uses[i] ~= latest and not held[uses[i]] then redis.pcall('HDEL', used, uses[i]) end
end
"""

# ARGV: a secret, and the minute of its use.
_USE: Final = """
local before = redis.call('HGET', used, ARGV[1])
if not before or tonumber(before) < tonumber(ARGV[2]) then redis.call('HSET', used, ARGV[1], ARGV[2]) end
"""

# ARGV: what must be stored now, what to store (empty: nothing), the client id, how many changes to keep,
# whether a slow hash is stored, the secrets. A full server refuses a script at its first write, if that takes
# memory: so nothing is stored there, but keys can be deleted, since a ZREM takes none. The first one changes
# nothing, and fails where the one behind the DEL would: no id is empty.
_SWAP: Final = f"""
local record, used, index, changes, facts = unpack(KEYS)
{_UNLESS_STORED}
local gone = ARGV[2] == ''
if gone then
    redis.call('ZREM', index, '')
else
    redis.call('ZADD', index, 0, ARGV[3])
    if ARGV[5] == '1' then redis.call('HSET', facts, 'slow', 1) end
end
redis.call('XADD', changes, 'MAXLEN', '~', ARGV[4], '*', 'id', ARGV[3])
if gone then
    redis.call('DEL', record, used)
    redis.call('ZREM', index, ARGV[3])
else
    redis.call('SET', record, ARGV[2])
    local held = {{}}
    for i = 6, #ARGV do held[ARGV[i]] = true end
    {_FORGET}
end
return 1
"""
# KEYS: index, facts, records. ARGV: whether a slow hash is stored; id and record of each.
_ADD: Final = """
local index, facts, made = KEYS[1], KEYS[2], {}
for i = 3, #KEYS do
    local id, record = ARGV[2 * i - 4], ARGV[2 * i - 3]
    made[i - 2] = 1 - redis.call('EXISTS', KEYS[i])
    if made[i - 2] == 1 then
        redis.call('ZADD', index, 0, id)
        if ARGV[1] == '1' then redis.call('HSET', facts, 'slow', 1) end
        redis.call('SET', KEYS[i], record)
    end
end
return made
"""
# ARGV: what must be stored now, and what to store; empty: nothing.
_SWAP_RECORD: Final = f"""
local record = KEYS[1]
{_UNLESS_STORED}
if ARGV[2] == '' then redis.call('DEL', record) else redis.call('SET', record, ARGV[2]) end
return 1
"""
_FORGET_USES: Final = f"""
local used, held = KEYS[1], {{}}
for i = 1, #ARGV do held[ARGV[i]] = true end
{_FORGET}
"""
_FORGET_ALL_USES: Final = "redis.pcall('DEL', KEYS[1])"
_NOTE_STORED_USE: Final = f"""
local record, used = unpack(KEYS)
if redis.call('EXISTS', record) == 0 then return end
{_USE}
"""
_NOTE_USE: Final = f"local used = KEYS[1] {_USE}"


def holds_slow(record: Key) -> bool:
    """Whether a slow hash is among a key's."""
    return any([is_slow(secret.hash) for secret in record.secrets])  # noqa: C419 - few, and it is quicker


class InOnePlace:
    """Changes on one server: each is one script, so that nobody sees half of it.

    Args:
        names: Of what is there.
    """

    def __init__(self, names: Names) -> None:
        self._names = names

    def swap(self, ask: Ask, change: Swap) -> bool:
        names, octets = self._names, change.octets
        keys = (names.record(octets), names.used(octets), names.index, names.changes, names.facts)
        values = (change.stored, change.record, octets, CHANGES_KEPT, int(change.slow))
        # Never asked twice: when the answer is lost, it may have been done.
        (done,) = ask([("EVAL", _SWAP, len(keys), *keys, *values, *change.secrets)], again=False)
        return bool(done)

    def add(self, ask: Ask, records: Sequence[Key]) -> list[bool]:
        # Redis works on one script while the next is made.
        parts = (records[start : start + _PER_SCRIPT] for start in range(0, len(records), _PER_SCRIPT))
        return [new == 1 for made in ask(map(self._add, parts), again=False) for new in made]

    def _add(self, records: Sequence[Key]) -> Command:
        names = self._names
        keys, slow = [names.index, names.facts], False
        values: list[bytes] = []
        for record in records:
            octets = record.client_id.encode()
            keys.append(names.record(octets))
            values += (octets, dump_key(record).encode())
            slow = slow or holds_slow(record)
        return ("EVAL", _ADD, len(keys), *keys, int(slow), *values)

    def note_uses(self, ask: Ask, uses: Sequence[tuple[bytes, int, int]]) -> None:
        names = self._names
        ask(
            ("EVAL", _NOTE_STORED_USE, 2, names.record(octets), names.used(octets), secret, minute)
            for octets, secret, minute in uses
        )


class Spread:
    """Changes in a cluster: each command and each script has one key.

    Args:
        names: Of what is in the cluster.
    """

    def __init__(self, names: Names) -> None:
        self._names = names

    def swap(self, ask: Ask, change: Swap) -> bool:
        names, octets = self._names, change.octets
        record, used = names.record(octets), names.used(octets)
        # Whatever happens from now on, the index has every id and the facts are true; and who is killed
        # behind the swap has told of the change.
        before: list[Command] = [names.note_slow()] if change.slow else []
        before.append(names.enter([octets]) if change.record else names.try_leave())
        ask([*before, names.announce(octets)])
        (done,) = ask([("EVAL", _SWAP_RECORD, 1, record, change.stored, change.record)], again=False)
        if not done:
            return False
        # Once more: who was told before it may have read the old record since.
        after: list[Command] = [names.announce(octets)]
        if change.record:
            # A delete of the same id may have taken it out of the index since.
            after.append(names.enter([octets]))
        else:
            after.append(("ZREM", names.index, octets))
        if change.record and change.stored:
            after.append(("EVAL", _FORGET_USES, 1, used, *change.secrets))
        else:
            after.append(("EVAL", _FORGET_ALL_USES, 1, used))
        ask(after)
        if not change.record:
            (anew,) = ask([("GET", record)])  # it was allowed before, which EXISTS may not be
            if anew is not None:  # made meanwhile, and perhaps entered before it was taken out
                ask([names.enter([octets])])
        return True

    def add(self, ask: Ask, records: Sequence[Key]) -> list[bool]:
        names = self._names
        ids = [record.client_id.encode() for record in records]
        enter = names.enter(ids)  # before and after, as for a swap
        ask([names.note_slow(), enter] if any(map(holds_slow, records)) else [enter])
        replies = ask(
            [
                ("SET", names.record(octets), dump_key(record).encode(), "NX")
                for octets, record in zip(ids, records, strict=True)
            ],
            again=False,
        )
        ask([enter])
        return [reply is not None for reply in replies]

    def note_uses(self, ask: Ask, uses: Sequence[tuple[bytes, int, int]]) -> None:
        names = self._names
        stored = ask(("EXISTS", names.record(octets)) for octets, _, _ in uses)
        ask(
            ("EVAL", _NOTE_USE, 1, names.used(octets), secret, minute)
            for (octets, secret, minute), exists in zip(uses, stored, strict=True)
            if exists
        )
