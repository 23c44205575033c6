"""``redis:`` - keys in Redis, 6.2 and up: in one server, behind Sentinels, or in a cluster.

A key is a string, ``<prefix>:1:{<client id>}``; when its secrets were used last is in a hash of that name
with ``:used`` behind it: the microsecond in which a secret was made, and the minute of its use, since the
epoch. Beside them are ``<prefix>:1:index`` (a sorted set of ids, all of score 0, so ordered by octets),
``<prefix>:1:changes`` (a stream) and ``<prefix>:1:facts`` (a hash); the brace keeps ids and these names
apart.
"""

from __future__ import annotations

import re
import threading
from asyncio import get_running_loop
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .._extras import require
from .._fork import after_fork
from ..errors import BackendUnavailable, ConfigurationError, UnreadableRecord
from ._codec import dump_key, load_found, load_uses
from ._redis_cluster import Cluster
from ._redis_lines import ThreadLines
from ._redis_loop import LoopLines
from ._redis_replies import unavailable
from ._redis_sentinel import ToMaster
from ._redis_url import parse_url
from ._redis_ways import Direct, OneServer
from ._redis_writes import CHANGES_KEPT, OF_ANOTHER_TYPE, InOnePlace, Names, Spread, Swap, holds_slow
from ._threads import PerThread
from .base import Changes, Use

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator, Sequence

    from ..model import Key
    from ._redis_url import Target
    from ._redis_ways import Command, Router

T = TypeVar("T")

_driver = require("redis.connection", extra="redis")
_adriver = require("redis.asyncio.connection", extra="redis")

_ADMIN_TIMEOUT_S: Final = 5.0
_BATCH: Final = 1000
_PAGE: Final = 10_000
_MEMBERS_SHOWN: Final = 10
_CONFIG: Final = ("maxmemory-policy", "save", "appendonly")
_NO_CHANGE_YET: Final = "0-0"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = timedelta(minutes=1)

_STREAM_ID = re.compile(r"\d{1,20}-\d{1,20}")


class RedisStore:
    """Keeps keys in Redis. Safe to share between threads and event loops, and across a fork.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads them; with ``+sentinel`` or
            ``+cluster`` behind the scheme, and several hosts, for those. ``?prefix=`` is what all names of
            keys begin with (``basicauth``).
        deadline_s: Seconds for connecting and for each wait of a look-up.
        create: Not needed: there is nothing to make.

    Raises:
        ConfigurationError: The URL cannot be used. Its text is never shown: it may hold a password.
        MissingExtra: redis-py is not installed.
    """

    def __init__(self, url: str, *, deadline_s: float = 1.0, create: bool = False) -> None:
        target = parse_url(url)
        try:
            # Makes the driver look at the options, and connects nothing.
            connect, aconnect = _connector(_driver, target.url), _connector(_adriver, target.url)
            connect(**target.sentinel_login)
        except Exception as exc:
            # Its text may hold a part of the URL.
            raise ConfigurationError(
                f"redis-py cannot use the options of the Redis URL ({type(exc).__name__})"
            ) from None
        self.in_one_place = target.form != "cluster"
        self._names = Names(target.prefix)
        self._changer = Spread(self._names) if target.form == "cluster" else InOnePlace(self._names)
        self.deadline_s = deadline_s
        self._aconnect = aconnect
        self._router = _router(target, deadline_s)
        self._lines: PerThread[ThreadLines] = PerThread(
            partial(ThreadLines, self._router, connect, deadline_s)
        )
        self._admin_lines: PerThread[ThreadLines] = PerThread(
            partial(ThreadLines, self._router, connect, _ADMIN_TIMEOUT_S)
        )
        self._start()
        after_fork(self._forget)

    # --- looking up

    def get(self, client_id: str, /) -> Key | None:
        octets = _octets(client_id)
        return None if octets is None else _key(self._read(self._get(octets))[0], client_id)

    async def aget(self, client_id: str, /) -> Key | None:
        """``get`` over the connections of the running event loop. May be cancelled at any time."""
        octets = _octets(client_id)
        if octets is None:
            return None
        try:
            reply = await self._loop().get(self._names.record(octets))
        except Exception as exc:
            raise unavailable(exc) from None
        return _key(reply, client_id)

    def holds_slow(self) -> bool:
        """Whether a slow hash was ever stored."""
        return _answer(self._read(("HEXISTS", self._names.facts, "slow"))[0], int) > 0

    def interrupt(self, thread_id: int) -> None:
        """Cut the connection that a thread waits on, so that its call fails at once.

        Args:
            thread_id: Of a thread that is inside a call of this store, and stays there meanwhile.
        """
        if lines := self._busy.get(thread_id):
            lines.cut()

    # --- changing

    def put(self, record: Key, /, expect_version: int | None) -> bool:
        stored = self._stored(record.client_id)
        before = _key(stored, record.client_id) if stored else None
        if (before.version if before else None) != expect_version:
            return False
        return self._changer.swap(
            self._do,
            Swap(
                octets=record.client_id.encode(),
                stored=stored,
                record=dump_key(record).encode(),
                slow=holds_slow(record),
                secrets=tuple(_microseconds(secret.created_at) for secret in record.secrets),
            ),
        )

    def add(self, records: Sequence[Key], /) -> list[bool]:
        """Write keys that are new. They are not announced: nobody remembers a key that was not there."""
        made: list[bool] = []
        for start in range(0, len(records), _BATCH):
            made += self._changer.add(self._do, records[start : start + _BATCH])
        return made

    def delete(self, client_id: str, /) -> bool:
        octets = client_id.encode()
        while True:
            (stored,) = self._admin(self._get(octets))
            if stored is None:
                return False
            known = OF_ANOTHER_TYPE if _is_of_another_type(stored) else _answer(stored, bytes)
            if self._changer.swap(self._do, Swap(octets, known, b"")):
                return True

    def announce(self, client_id: str, /) -> None:
        """Tell of a change once more, where it may have been made and its announcement have failed."""
        if not self.in_one_place:
            self._do([self._names.announce(client_id.encode())])

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        start = prefix.encode()
        # No octet of UTF-8 is 255, so the last one can always be raised by one.
        end = b"(" + start[:-1] + bytes([start[-1] + 1]) if start else b"+"
        behind = after.encode()
        found: list[Key] = []
        while len(found) < limit:
            first = b"(" + behind if behind >= start else b"[" + start
            size = limit - len(found)
            (ids,) = self._admin(("ZRANGEBYLEX", self._names.index, first, end, "LIMIT", 0, size))
            if _is_of_another_type(ids):
                raise UnreadableRecord(
                    f"Redis holds something of another type as {self._names.index.decode()}"
                )
            if not _answer(ids, list):
                break
            named = {octets: name for octets in ids if (name := _text(octets)) is not None}
            records = self._admin(*map(self._get, named)) if named else []
            keys = (_key(text, name) for name, text in zip(named.values(), records, strict=True))
            found += [key for key in keys if key is not None]  # deleted meanwhile, or evicted
            if len(ids) < size:
                break
            behind = ids[-1]
        return found

    def changes(self, since: str | None) -> Changes:
        start = since if since is not None and _STREAM_ID.fullmatch(since) else ""
        newest, entries = self._read(
            ("XREVRANGE", self._names.changes, "+", "-", "COUNT", 1),
            # What came first after the other command is in the next answer too, which does no harm.
            ("XRANGE", self._names.changes, start or "+", "+"),
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
        # What was announced twice in a row, before and after a change, is one.
        client_ids = [client_id for client_id, _ in groupby(map(itemgetter(1), found))]
        told = tuple(client_id for client_id in client_ids if client_id is not None)
        if not whole or len(told) < len(client_ids):
            return Changes(cursor, gap=True)
        return Changes(found[-1][0] if found else start, told)

    # --- last uses

    def record_uses(self, uses: Sequence[Use], /) -> None:
        for start in range(0, len(uses), _BATCH):
            self._changer.note_uses(
                self._do,
                [
                    (octets, _microseconds(use.secret_created_at), (use.at - _EPOCH) // _MINUTE)
                    for use in uses[start : start + _BATCH]
                    if (octets := _octets(use.client_id)) is not None
                ],
            )

    def last_uses(self, client_ids: Sequence[str], /) -> list[Use]:
        known = ((client_id, _octets(client_id)) for client_id in client_ids)
        asked = {client_id: octets for client_id, octets in known if octets is not None}
        replies = self._read(*(("HGETALL", self._names.used(octets)) for octets in asked.values()))
        found: list[Use] = []
        for client_id, reply in zip(asked, replies, strict=True):
            found += _uses(reply, client_id)
        return found

    # --- ending

    def close(self) -> None:
        for lines in (*self._lines.all(), *self._admin_lines.all()):
            lines.retire()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        if mine := self._loops.pop(get_running_loop(), None):
            await mine.aclose()

    def warnings(self) -> list[tuple[str, str, str]]:
        """What works but should be seen to: code, message and remedy. Empty where CONFIG is not allowed.

        Raises:
            BackendUnavailable: The server cannot be asked.
        """
        with self._asking(self._admin_lines.mine()) as lines:
            answers = lines.ask_all([("CONFIG", "GET", name) for name in _CONFIG])
        found: dict[tuple[str, str, str], None] = {}
        for start in range(0, len(answers), len(_CONFIG)):
            found |= dict.fromkeys(_warnings(answers[start : start + len(_CONFIG)]))
        with suppress(BackendUnavailable):  # who may not ask for the ids cannot list keys either, and is told
            found |= dict.fromkeys(self._foreign())
        return list(found)

    # --- inside

    def _start(self) -> None:
        self._busy: dict[int, ThreadLines] = {}
        self._loops: dict[asyncio.AbstractEventLoop, LoopLines] = {}

    def _forget(self) -> object:
        inherited = (self._busy, self._loops)
        self._start()
        return inherited

    def _get(self, octets: bytes) -> Command:
        return ("GET", self._names.record(octets))

    def _foreign(self) -> Iterator[tuple[str, str, str]]:
        """What is wrong with the index: what is no client id is passed over by ``scan``."""
        foreign: list[bytes] = []
        first, page = b"-", [b""]
        while page:
            (reply,) = self._admin(("ZRANGEBYLEX", self._names.index, first, "+", "LIMIT", 0, _PAGE))
            page = _answer(reply, list)
            foreign += [octets for octets in page if _text(octets) is None]
            first = b"(" + page[-1] if page else first
        if foreign:
            name = self._names.index.decode()
            members = " ".join(map(_quoted, foreign[:_MEMBERS_SHOWN]))
            yield (
                "redis_foreign_ids",
                f"{name} in Redis holds what is no client id ({len(foreign)} times); it is passed over",
                f"in redis-cli (with -c for a cluster), run  ZREM {name} {members}",
            )

    def _stored(self, client_id: str) -> bytes:
        (stored,) = self._admin(self._get(client_id.encode()))
        return b"" if stored is None else _answer(stored, bytes)

    def _read(self, *commands: Command) -> list[Any]:
        with self._asking(self._lines.mine()) as lines:
            return lines.ask(commands)

    def _admin(self, *commands: Command) -> list[Any]:
        with self._asking(self._admin_lines.mine()) as lines:
            return lines.ask(commands)

    def _do(self, commands: Iterable[Command], *, again: bool = True) -> list[Any]:
        with self._asking(self._admin_lines.mine()) as lines:
            replies = lines.ask(tuple(commands) if again else commands, again=again)
        for reply in replies:
            if isinstance(reply, Exception):
                raise _failure(reply)
        return replies

    @contextmanager
    def _asking(self, lines: ThreadLines) -> Iterator[ThreadLines]:
        thread_id = threading.get_ident()
        with lines:
            self._busy[thread_id] = lines
            try:
                yield lines
            except Exception as exc:
                raise unavailable(exc) from None
            finally:
                self._busy.pop(thread_id, None)

    def _loop(self) -> LoopLines:
        loop = get_running_loop()
        if (mine := self._loops.get(loop)) is not None:
            return mine
        for other in list(self._loops):
            if other.is_closed():
                self._loops.pop(other, None)
        mine = self._loops[loop] = LoopLines(self._router, self._aconnect, self.deadline_s)
        return mine


def _connector(driver: Any, url: str) -> partial[Any]:
    # RESP2 and no health checks: one round trip to be ready, and nothing comes unasked.
    options = {**driver.parse_url(url), "protocol": 2, "decode_responses": False}
    return partial(options.pop("connection_class", driver.Connection), **options)


def _router(target: Target, deadline_s: float) -> Router:
    match target.form:
        case "cluster":
            return Cluster(target.addresses)
        case "sentinel":
            # Those of the master are no business of theirs.
            options = {"username": None, "password": None, "db": 0, **target.sentinel_login}
            return OneServer(ToMaster(target.addresses, target.service, options, deadline_s))
        case _:
            return OneServer(Direct())


def _octets(client_id: str) -> bytes | None:
    try:
        return client_id.encode()
    except UnicodeEncodeError:  # a lone surrogate is in no id
        return None


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _key(reply: object, client_id: str) -> Key | None:
    if _is_of_another_type(reply):
        raise UnreadableRecord(
            f"the stored key of {client_id!r} is no key: Redis holds something of another type there",
            client_id=client_id,
        )
    try:
        text = None if reply is None else str(_answer(reply, bytes), "utf-8")  # json takes surrogates
    except UnicodeDecodeError as exc:  # whose text may hold hashes
        raise UnreadableRecord(
            f"the stored key of {client_id!r} cannot be read ({type(exc).__name__})", client_id=client_id
        ) from None
    return load_found(text, client_id)


def _is_of_another_type(reply: object) -> bool:
    return isinstance(reply, Exception) and "WRONGTYPE" in str(reply)


def _answer(reply: Any, kind: type[T]) -> T:
    if isinstance(reply, kind):
        return reply
    if isinstance(reply, Exception):
        raise _failure(reply) from None
    raise BackendUnavailable(f"Redis answered with {type(reply).__name__} instead of {kind.__name__}")


def _failure(reply: Exception) -> BackendUnavailable:
    if _is_of_another_type(reply):
        return UnreadableRecord("Redis holds something of another type under one of our names")
    return unavailable(reply)


def _entries(reply: object) -> list[tuple[str, str | None]]:
    """Stream id and client id of each entry; None: it was not written here, and may mean anything."""
    try:
        return [(entry_id.decode(), _announced(fields)) for entry_id, fields in _answer(reply, list)]
    except (TypeError, ValueError, AttributeError):
        raise BackendUnavailable("Redis answered with what is no stream") from None


def _announced(fields: object) -> str | None:
    match fields:
        case [b"id", bytes(octets)]:
            with suppress(UnicodeDecodeError):
                return octets.decode()
    return None


def _uses(reply: object, client_id: str) -> Iterator[Use]:
    """What can be read of them: a use that is lost is no reason to hide a key."""
    with suppress(UnreadableRecord):
        parts = iter(_answer(reply, list))
        yield from load_uses(client_id, zip(parts, parts, strict=False))


def _warnings(answers: Sequence[object]) -> Iterator[tuple[str, str, str]]:
    """Of one server, whose answers to CONFIG GET are given."""
    config = {
        name: answer[1].decode(errors="replace")
        for name, answer in zip(_CONFIG, answers, strict=True)
        if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], bytes)
    }
    policy = config.get("maxmemory-policy", "")
    if policy.startswith("allkeys-"):
        yield (
            "redis_evicts",
            f"Redis drops keys when its memory is full (maxmemory-policy {policy})",
            "set maxmemory-policy to noeviction, or to a volatile policy",
        )
    if config.get("save") == "" and config.get("appendonly") == "no":
        yield (
            "redis_not_persistent",
            "Redis keeps nothing on disk: a restart loses every key",
            "set appendonly to yes",
        )


def _text(octets: bytes) -> str | None:
    """What a client id is; None: it is none."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return None


def _quoted(octets: bytes) -> str:
    """As redis-cli takes what is not text."""
    plain = bytes(octet for octet in range(0x20, 0x7F) if octet not in b'"\\')
    return '"' + "".join(chr(octet) if octet in plain else f"\\x{octet:02x}" for octet in octets) + '"'
