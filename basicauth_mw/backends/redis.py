"""``redis:`` - keys in one Redis server, 6.2 and up.

A key is a string, ``<prefix>:1:{<client id>}``. Beside them are ``<prefix>:1:index`` (a sorted set of ids,
all of score 0, so ordered by octets), ``<prefix>:1:changes`` (a stream) and ``<prefix>:1:facts`` (a hash);
the brace keeps ids and these names apart. A change is one script, so nobody sees half of it.
"""

from __future__ import annotations

import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .._extras import require
from .._fork import after_fork
from ..errors import BackendUnavailable, ConfigurationError, UnreadableRecord
from ..hashing import is_slow
from ._codec import dump_key, load_key
from ._redis_lines import LoopLines, ThreadLine, unavailable
from ._redis_url import parse_url
from ._threads import PerThread
from .base import Changes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from ..model import Key
    from ._redis_lines import Command

T = TypeVar("T")

_driver = require("redis.connection", extra="redis")
_adriver = require("redis.asyncio.connection", extra="redis")

CHANGES_KEPT: Final = 10_000

_ADMIN_TIMEOUT_S: Final = 5.0
_NO_CHANGE_YET: Final = "0-0"

_STREAM_ID = re.compile(r"\d{1,20}-\d{1,20}")

# KEYS: record, index, changes, facts. ARGV: what must be stored now (empty: nothing), what to store (empty:
# nothing), the client id, how many changes to keep, and whether a slow hash is among what is stored.
_SWAP: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[2], ARGV[3])
else
    redis.call('SET', KEYS[1], ARGV[2])
    redis.call('ZADD', KEYS[2], 0, ARGV[3])
    if ARGV[5] == '1' then redis.call('HSET', KEYS[4], 'slow', 1) end
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'id', ARGV[3])
return 1
"""


class RedisStore:
    """Keeps keys in Redis. Safe to share between threads and event loops, and across a fork.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads them; ``?prefix=`` is what all
            names of keys begin with (``basicauth``).
        deadline_s: Seconds for connecting and for each wait of a look-up.
        create: Not needed: there is nothing to make.

    Raises:
        ConfigurationError: The URL cannot be used. Its text is never shown: it may hold a password.
        MissingExtra: redis-py is not installed.
    """

    def __init__(self, url: str, *, deadline_s: float = 1.0, create: bool = False) -> None:
        url, prefix = parse_url(url)
        try:
            # RESP2 and no health checks: one round trip to be ready, and nothing comes unasked.
            options = {**_driver.parse_url(url), "protocol": 2, "decode_responses": False}
            aoptions = {**_adriver.parse_url(url), "protocol": 2, "decode_responses": False}
            connect = partial(ThreadLine, options.pop("connection_class", _driver.Connection), options)
            aconnect = partial(
                aoptions.pop("connection_class", _adriver.Connection),
                socket_connect_timeout=deadline_s,
                socket_timeout=None,  # a batch has one time limit for all of it
                **aoptions,
            )
            connect(deadline_s).close()  # makes the driver look at the options, and connects nothing
        except Exception as exc:
            # Its text may hold a part of the URL.
            raise ConfigurationError(
                f"redis-py cannot use the options of the Redis URL ({type(exc).__name__})"
            ) from None
        self._prefix = f"{prefix}:1:".encode()
        self._index = self._prefix + b"index"
        self._changes = self._prefix + b"changes"
        self._facts = self._prefix + b"facts"
        self._deadline_s = deadline_s
        self._aconnect = aconnect
        self._lines: PerThread[ThreadLine] = PerThread(partial(connect, deadline_s))
        self._admin_lines: PerThread[ThreadLine] = PerThread(partial(connect, _ADMIN_TIMEOUT_S))
        self._start()
        after_fork(self._forget)

    # --- looking up

    def get(self, client_id: str, /) -> Key | None:
        name = self._name(client_id)
        return None if name is None else _key(self._read(("GET", name))[0], client_id)

    async def aget(self, client_id: str, /) -> Key | None:
        """``get`` over the connections of the running event loop. May be cancelled at any time."""
        name = self._name(client_id)
        return None if name is None else _key(await self._loop().ask(("GET", name)), client_id)

    def holds_slow(self) -> bool:
        """Whether a slow hash was ever stored."""
        return _answer(self._read(("HEXISTS", self._facts, "slow"))[0], int) > 0

    def interrupt(self, thread_id: int) -> None:
        """Cut the connection that a thread waits on, so that its call fails at once.

        Args:
            thread_id: Of a thread that is inside a call of this store, and stays there meanwhile.
        """
        if line := self._busy.get(thread_id):
            line.cut()

    # --- changing

    def put(self, record: Key, /, expect_version: int | None) -> bool:
        stored = self._stored(record.client_id)
        before = load_key(stored, record.client_id) if stored else None
        if (before.version if before else None) != expect_version:
            return False
        slow = any(is_slow(secret.hash) for secret in record.secrets)
        return self._swap(record.client_id, stored, dump_key(record).encode(), slow=slow)

    def delete(self, client_id: str, /) -> bool:
        while stored := self._stored(client_id):
            if self._swap(client_id, stored, b"", slow=False):
                return True
        return False

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        start = prefix.encode()
        # No octet of UTF-8 is 255, so the last one can always be raised by one.
        end = b"(" + start[:-1] + bytes([start[-1] + 1]) if start else b"+"
        behind = after.encode()
        found: list[Key] = []
        while len(found) < limit:
            first = b"(" + behind if behind >= start else b"[" + start
            size = limit - len(found)
            (ids,) = self._admin(("ZRANGEBYLEX", self._index, first, end, "LIMIT", 0, size))
            if not _answer(ids, list):
                break
            records = self._admin(*(("GET", self._prefix + b"{%b}" % octets) for octets in ids))
            keys = (_key(text, _text(octets)) for octets, text in zip(ids, records, strict=True))
            found += [key for key in keys if key is not None]  # deleted meanwhile, or evicted
            if len(ids) < size:
                break
            behind = ids[-1]
        return found

    def changes(self, since: str | None) -> Changes:
        start = since if since is not None and _STREAM_ID.fullmatch(since) else ""
        newest, entries = self._read(
            ("XREVRANGE", self._changes, "+", "-", "COUNT", 1),
            # What came first after the other command is in the next answer too, which does no harm.
            ("XRANGE", self._changes, start or "+", "+"),
        )
        cursor = _entries(newest)[0][0] if newest else _NO_CHANGE_YET
        if since is None:
            return Changes(cursor)
        found = _entries(entries)
        if start == _NO_CHANGE_YET:
            whole = len(found) < CHANGES_KEPT
        else:
            # Nothing was trimmed, flushed or restored if the entry at the cursor itself is still there.
            whole = bool(found) and found.pop(0)[0] == start
        if not whole:
            return Changes(cursor, gap=True)
        return Changes(found[-1][0] if found else start, tuple(client_id for _, client_id in found))

    # --- ending

    def close(self) -> None:
        for line in (*self._lines.all(), *self._admin_lines.all()):
            line.retire()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        import asyncio

        if mine := self._loops.pop(asyncio.get_running_loop(), None):
            await mine.aclose()

    def warnings(self) -> list[tuple[str, str, str]]:
        """What works but should be seen to: code, message and remedy. Empty where CONFIG is not allowed.

        Raises:
            BackendUnavailable: The server cannot be asked.
        """
        names = ("maxmemory", "maxmemory-policy", "save", "appendonly")
        config = {}
        for name, answer in zip(
            names, self._admin(*(("CONFIG", "GET", name) for name in names)), strict=True
        ):
            if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], bytes):
                config[name] = answer[1].decode(errors="replace")
        found = []
        policy = config.get("maxmemory-policy", "")
        if policy.startswith("allkeys-"):
            found.append(
                (
                    "redis_evicts",
                    f"Redis drops keys when its memory is full (maxmemory-policy {policy})",
                    "set maxmemory-policy to noeviction, or to a volatile policy",
                )
            )
        if config.get("save") == "" and config.get("appendonly") == "no":
            found.append(
                (
                    "redis_not_persistent",
                    "Redis keeps nothing on disk: a restart loses every key",
                    "set appendonly to yes",
                )
            )
        return found

    # --- inside

    def _start(self) -> None:
        self._busy: dict[int, ThreadLine] = {}
        self._loops: dict[asyncio.AbstractEventLoop, LoopLines] = {}

    def _forget(self) -> object:
        inherited = (self._busy, self._loops)
        self._start()
        return inherited

    def _name(self, client_id: str) -> bytes | None:
        try:
            return self._prefix + b"{%b}" % client_id.encode()
        except UnicodeEncodeError:  # a lone surrogate is in no id
            return None

    def _stored(self, client_id: str) -> bytes:
        (stored,) = self._admin(("GET", self._prefix + b"{%b}" % client_id.encode()))
        return b"" if stored is None else _answer(stored, bytes)

    def _swap(self, client_id: str, stored: bytes, record: bytes, *, slow: bool) -> bool:
        octets = client_id.encode()
        names = (self._prefix + b"{%b}" % octets, self._index, self._changes, self._facts)
        values = (stored, record, octets, CHANGES_KEPT, int(slow))
        # Never asked twice: when the answer is lost, it may have been done.
        answers = self._ask(self._admin_lines.mine(), [("EVAL", _SWAP, 4, *names, *values)], again=False)
        return _answer(answers[0], int) == 1

    def _read(self, *commands: Command) -> list[Any]:
        return self._ask(self._lines.mine(), commands)

    def _admin(self, *commands: Command) -> list[Any]:
        return self._ask(self._admin_lines.mine(), commands)

    def _ask(self, line: ThreadLine, commands: Sequence[Command], *, again: bool = True) -> list[Any]:
        thread_id = threading.get_ident()
        with line:
            self._busy[thread_id] = line
            try:
                return line.ask(commands, again=again)
            except Exception as exc:
                raise unavailable(exc) from None
            finally:
                self._busy.pop(thread_id, None)

    def _loop(self) -> LoopLines:
        from asyncio import get_running_loop  # a process without an event loop never needs it

        loop = get_running_loop()
        if mine := self._loops.get(loop):
            return mine
        for other in list(self._loops):
            if other.is_closed():
                self._loops.pop(other, None)
        mine = self._loops[loop] = LoopLines(self._aconnect, self._deadline_s)
        return mine


def _key(reply: object, client_id: str) -> Key | None:
    return None if reply is None else load_key(_answer(reply, bytes), client_id)


def _answer(reply: Any, kind: type[T]) -> T:
    if isinstance(reply, kind):
        return reply
    if isinstance(reply, Exception):
        if str(reply).startswith("WRONGTYPE"):
            raise UnreadableRecord("Redis holds something of another type under one of our names") from None
        raise unavailable(reply) from None
    raise BackendUnavailable(f"Redis answered with {type(reply).__name__} instead of {kind.__name__}")


def _entries(reply: object) -> list[tuple[str, str]]:
    """Stream id and client id of each entry; ours has one field."""
    try:
        return [(entry_id.decode(), fields[1].decode()) for entry_id, fields in _answer(reply, list)]
    except (TypeError, ValueError, IndexError, AttributeError):
        raise UnreadableRecord("the stream of changes in Redis holds what was not written here") from None


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise UnreadableRecord("the index in Redis holds what is not a client id") from None
