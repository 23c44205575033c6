"""``redis:`` - keys in one Redis server, 6.2 and up.

A key is a string, ``<prefix>:1:{<client id>}``. Beside them are ``<prefix>:1:index`` (a sorted set of ids,
all of score 0, so ordered by octets), ``<prefix>:1:changes`` (a stream) and ``<prefix>:1:facts`` (a hash);
the brace keeps ids and these names apart. A change is one script, so nobody sees half of it.

An event loop has a few connections of its own. What is asked while the others are on their way goes out
together, in one batch, read by a task that nobody cancels: a request that gives up leaves no reply behind for
the next one. A thread has its own connection, which ``interrupt`` may cut.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from .._extras import require
from .._fork import after_fork
from ..errors import BackendUnavailable, ConfigurationError, UnreadableRecord
from ..hashing import is_slow
from ._codec import dump_key, load_key
from ._threads import PerThread
from .base import Changes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from ..model import Key

    Command = tuple[bytes | str | int, ...]

T = TypeVar("T")

_driver = require("redis.connection", extra="redis")
_adriver = require("redis.asyncio.connection", extra="redis")
_errors = require("redis.exceptions", extra="redis")

CHANGES_KEPT: Final = 10_000
DEFAULT_PREFIX: Final = "basicauth"
CONNECTIONS_PER_LOOP: Final = 4

_ADMIN_TIMEOUT_S: Final = 5.0
_BATCH: Final = 100
_NO_CHANGE_YET: Final = "0-0"

# What may stand behind the ? of a URL: how to reach the server, never how to wait or to decode.
_OPTIONS: Final = frozenset(
    {
        "client_name",
        "db",
        "password",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
        "username",
    }
)
_PREFIX = re.compile(r"[!-z|~]{1,100}")  # visible ASCII but for braces
# Within the text, since a script's error has more before it.
_ERROR_CODE = re.compile(
    r"\b(BUSY|CLUSTERDOWN|CROSSSLOT|LOADING|MASTERDOWN|MISCONF|MOVED|NOREPLICAS|OOM|READONLY|WRONGTYPE)\b"
)
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
        url, prefix = _parse(url)
        try:
            # RESP2 and no health checks: one round trip to be ready, and nothing comes unasked.
            options = {**_driver.parse_url(url), "protocol": 2, "decode_responses": False}
            aoptions = {**_adriver.parse_url(url), "protocol": 2, "decode_responses": False}
            connect = partial(_Line, options.pop("connection_class", _driver.Connection), options)
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
        self._lines: PerThread[_Line] = PerThread(partial(connect, deadline_s))
        self._admin_lines: PerThread[_Line] = PerThread(partial(connect, _ADMIN_TIMEOUT_S))
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
        self._busy: dict[int, _Line] = {}
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}

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

    def _ask(self, line: _Line, commands: Sequence[Command], *, again: bool = True) -> list[Any]:
        thread_id = threading.get_ident()
        with line:
            self._busy[thread_id] = line
            try:
                return line.ask(commands, again=again)
            except Exception as exc:
                raise _unavailable(exc) from None
            finally:
                self._busy.pop(thread_id, None)

    def _loop(self) -> _Loop:
        from asyncio import get_running_loop  # a process without an event loop never needs it

        loop = get_running_loop()
        if mine := self._loops.get(loop):
            return mine
        for other in list(self._loops):
            if other.is_closed():
                self._loops.pop(other, None)
        mine = self._loops[loop] = _Loop(self._aconnect, self._deadline_s)
        return mine


class _Line:
    """One thread's connection, used in a ``with`` block.

    Args:
        connection_class: Of redis-py.
        options: For it.
        timeout_s: For connecting, and for each wait.
    """

    def __init__(self, connection_class: Any, options: dict[str, Any], timeout_s: float) -> None:
        self._in_use = threading.Lock()
        self._retired = False
        self._cut = False
        self._connection = connection_class(
            socket_connect_timeout=timeout_s,
            socket_timeout=timeout_s,
            redis_connect_func=self._greet,
            **options,
        )

    def __enter__(self) -> None:
        self._in_use.acquire()
        self._cut = False

    def __exit__(self, *_exc: object) -> None:
        if self._retired:
            self.close()
        self._in_use.release()

    def ask(self, commands: Sequence[Command], *, again: bool) -> list[Any]:
        """Send commands and read as many replies; an error reply is returned, not raised.

        Args:
            commands: What to ask.
            again: They may be asked twice, if a connection that was used before turns out to be closed.
        """
        reused = self._socket() is not None
        try:
            if reused and self._is_stale():
                self.close()
                reused = False
            try:
                return self._exchange(commands)
            except _errors.ConnectionError:
                if self._cut or not (again and reused):
                    raise
                self.close()
                return self._exchange(commands)
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """End what another thread waits for."""
        # The flag first: that thread looks at it as soon as it has a socket.
        self._cut = True
        in_use = self._socket()
        if in_use is not None:
            with suppress(OSError):
                # That of a TLS socket would let the other thread go on reading, in clear.
                socket.socket.shutdown(in_use, socket.SHUT_RDWR)

    def retire(self) -> None:
        """Close as soon as the line is not in use."""
        self._retired = True
        if self._in_use.acquire(blocking=False):
            with suppress(BaseException):
                self.close()
            self._in_use.release()

    def close(self) -> None:
        self._retired = False
        self._connection.disconnect()

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        connection.connect()  # unless it is
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies = []
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except _errors.ResponseError as exc:
                replies.append(exc)
        return replies

    def _socket(self) -> socket.socket | None:
        found: socket.socket | None = getattr(self._connection, "_sock", None)  # redis-py has no public name
        return found

    def _is_stale(self) -> bool:
        try:
            return bool(self._connection.can_read())  # a reply that nobody waits for
        except Exception:
            return True

    def _greet(self, connection: Any) -> None:
        if self._cut:
            raise _errors.ConnectionError("given up")
        connection.on_connect()


class _Loop:
    """The connections of one event loop.

    Args:
        connect: Makes a connection of redis-py, not connected yet.
        limit_s: For all of one batch, connecting included.
    """

    def __init__(self, connect: Callable[[], Any], limit_s: float) -> None:
        self._connect = connect
        self._limit_s = limit_s
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._free: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._summoned = False  # a task was made that has not begun

    async def ask(self, command: Command) -> Any:
        """Send a command with the next batch; an error reply is returned, not raised.

        Raises:
            BackendUnavailable: There is no reply.
        """
        from asyncio import get_running_loop

        loop = get_running_loop()
        answer = loop.create_future()
        self._waiting.append((command, answer))
        if not self._summoned and len(self._tasks) < CONNECTIONS_PER_LOOP:
            self._summoned = True
            # An empty context: the batch is nobody's request.
            task = Context().run(loop.create_task, self._serve())
            self._tasks.add(task)
            task.add_done_callback(self._served)
        return await answer

    async def aclose(self) -> None:
        """Give up what is asked, and close the connections."""
        from asyncio import gather

        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await gather(*tasks, return_exceptions=True)
        free, self._free = self._free, []
        for connection in free:
            with suppress(Exception):
                await connection.disconnect()

    async def _serve(self) -> None:
        from asyncio import current_task

        self._summoned = False
        try:
            while self._waiting:
                batch = [asked for asked in self._waiting[:_BATCH] if not asked[1].done()]
                del self._waiting[:_BATCH]
                if batch:
                    await self._answer(batch)
        finally:
            # Now, not a turn of the loop later: nothing may come to wait for a task that looks no more.
            self._tasks.discard(cast("asyncio.Task[None]", current_task()))

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)  # one that was cancelled before it began
        if task.cancelled():  # by aclose, or by whoever ends the loop
            self._summoned = False
            _fail(self._waiting, BackendUnavailable("the connections to Redis are being closed"))
            self._waiting.clear()

    async def _answer(self, batch: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        from asyncio import timeout

        try:
            async with timeout(self._limit_s):
                replies = await self._ask([command for command, _ in batch])
        except BaseException as exc:
            _fail(batch, exc)
            if not isinstance(exc, Exception):
                raise
            return
        for (_, answer), reply in zip(batch, replies, strict=True):
            if not answer.done():
                answer.set_result(reply)

    async def _ask(self, commands: list[Command]) -> list[Any]:
        reused = bool(self._free)
        connection = self._free.pop() if reused else self._connect()
        try:
            try:
                replies = await _aexchange(connection, commands)
            except _errors.ConnectionError:
                if not reused:
                    raise
                # The server has closed it meanwhile, and the other idle ones too, as a rule.
                idle, self._free = [connection, *self._free], []
                for other in idle:
                    await _drop(other)
                connection = self._connect()
                replies = await _aexchange(connection, commands)
        except BaseException:
            await _drop(connection)  # a reply may still come
            raise
        self._free.append(connection)
        return replies


async def _aexchange(connection: Any, commands: list[Command]) -> list[Any]:
    if not connection.is_connected:
        await connection.connect()
    elif await (getattr(connection, "can_read", None) or connection.can_read_destructive)():
        raise _errors.ConnectionError("a reply that nobody waits for")
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except _errors.ResponseError as exc:
            replies.append(exc)
    return replies


async def _drop(connection: Any) -> None:
    with suppress(Exception):
        await connection.disconnect(nowait=True)


def _fail(asked: list[tuple[Command, asyncio.Future[Any]]], exc: BaseException) -> None:
    for _, answer in asked:
        if not answer.done():
            answer.set_exception(_unavailable(exc))


def _key(reply: object, client_id: str) -> Key | None:
    return None if reply is None else load_key(_answer(reply, bytes), client_id)


def _answer(reply: Any, kind: type[T]) -> T:
    if isinstance(reply, kind):
        return reply
    if isinstance(reply, Exception):
        if str(reply).startswith("WRONGTYPE"):
            raise UnreadableRecord("Redis holds something of another type under one of our names") from None
        raise _unavailable(reply) from None
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


def _unavailable(exc: BaseException) -> BackendUnavailable:
    """Say what went wrong without the driver's text, which may hold anything."""
    name = type(exc).__name__
    match exc:
        case BackendUnavailable():
            return type(exc)(str(exc))
        case _errors.AuthenticationError() | _errors.AuthorizationError() | _errors.NoPermissionError():
            text = "Redis refuses the user or its password: check the backend URL and the ACL"
        case _errors.TimeoutError() | TimeoutError():
            text = "Redis did not answer in time"
        case _errors.ResponseError():
            code = _ERROR_CODE.search(str(exc))
            text = f"Redis answered with an error ({code[0] if code else name})"
        case _:
            text = f"Redis cannot be reached ({name})"
    return BackendUnavailable(text)


def _parse(url: str) -> tuple[str, str]:
    """Take our own part off a URL.

    Returns:
        What redis-py understands, and the prefix of the keys' names.
    """
    scheme = url.partition(":")[0].lower()
    if scheme in ("redis+sentinel", "redis+cluster"):
        raise ConfigurationError(
            f"{scheme}:// is not supported in this release: name one node by redis://, rediss:// or unix://"
        )
    problems: list[str] = []
    try:
        parts = urlsplit(url)
        port = parts.port
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # its text holds what was wrong, which may be a part of the password
        raise ConfigurationError(
            "the Redis URL cannot be read: percent-encode special characters of the password"
        ) from None
    options = dict(pairs)
    prefix = options.pop("prefix", DEFAULT_PREFIX)
    if any(character.isspace() or not character.isprintable() for character in url):
        problems.append("the Redis URL holds white space or control characters: percent-encode them")
    if scheme not in ("redis", "rediss", "unix"):
        problems.append("a Redis URL starts with redis://, rediss:// or unix://")
    if "#" in url:
        problems.append("the Redis URL holds a #: percent-encode it as %23")
    if len(options) + ("prefix" in dict(pairs)) != len(pairs):
        problems.append("the Redis URL has an option twice")
    if not options.keys() <= _OPTIONS:
        problems.append(
            "the Redis URL has an option that cannot be set; these can: "
            + ", ".join(sorted({*_OPTIONS, "prefix"}))
        )
    if not _PREFIX.fullmatch(prefix):
        problems.append("the prefix in the Redis URL is 1 to 100 visible ASCII characters without braces")
    if scheme == "unix":
        if parts.hostname or port is not None or not parts.path.strip("/"):
            problems.append("a unix socket is unix:///path/to/redis.sock, with three slashes")
    else:
        if not parts.hostname:
            problems.append("the Redis URL has no host: write redis://host:port/0")
        if not re.fullmatch(r"(/\d{0,9})?", parts.path):
            problems.append(
                "the path of the Redis URL is the number of a database, as in redis://host:port/0"
            )
        if "db" in options and parts.path.strip("/"):
            problems.append("the Redis URL names the database twice")
    if not re.fullmatch(r"\d{1,9}", options.get("db", "0")):
        problems.append("db in the Redis URL is the number of a database")
    if problems:
        raise ConfigurationError(problems)
    return f"{scheme}://{parts.netloc}{parts.path}?{urlencode(options)}", prefix
