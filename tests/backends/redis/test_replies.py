"""A server that sends wrong replies, and what is sent to it."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends import Changes, LastUse
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendError
from basicauth_mw.keys.model import Key, Secret, utcnow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW = utcnow()
ID = Key("id", secrets=(Secret("$2b$12$" + "A" * 53, NOW),), version=1)

WORK: dict[str, Callable[[RedisStore], object]] = {
    "get": lambda store: store.get("id"),
    "put": lambda store: store.put(ID, None),
    "delete": lambda store: store.delete("id"),
    "add": lambda store: store.add([ID, Key("other")]),
    "scan": lambda store: store.scan("", "", 9),
    "changes": lambda store: store.changes("1-1"),
    "record-uses": lambda store: store.record_uses([LastUse("id", NOW, NOW)]),
    "last-uses": lambda store: store.last_uses(["id"]),
    "warnings": lambda store: store.warnings(),
}

REPLIES = [
    b":7\r\n",
    b"+OK\r\n",
    b"$-1\r\n",
    b"$2\r\nid\r\n",
    b"$1\r\n\xff\r\n",
    b"*0\r\n",
    b"*1\r\n:1\r\n",
    b"*1\r\n$-1\r\n",
    b"*3\r\n:1\r\n:0\r\n:1\r\n",
    b"*2\r\n*0\r\n*1\r\n$2\r\nid\r\n",
    b"*2\r\n$2\r\nid\r\n*-1\r\n",
    b"-ERR unknown\r\n",
    b"-MOVED x\r\n",
    b"-\r\n",
    b"?\r\n",
]


class Parrot:
    """A server that has one reply to every command."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        threads = []
        try:
            while True:
                connection, _ = self._listener.accept()
                threads.append(threading.Thread(target=self._talk, args=(connection,)))
                threads[-1].start()
        except OSError:  # closed
            for thread in threads:
                thread.join(10)

    def _talk(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as received:
                for name in commands_in(received):
                    connection.sendall(b"+OK\r\n" if name == b"CLIENT" else self._reply)
        except OSError:  # the client closed it
            pass


def commands_in(received: Any) -> Iterator[bytes]:
    """The name of each command."""
    while count := received.readline():
        words = []
        for _ in range(int(count[1:])):
            words.append(received.read(int(received.readline()[1:])))
            received.read(2)
        yield words[0]


@pytest.mark.proves("F3")
@pytest.mark.parametrize("reply", REPLIES)
def test_a_wrong_reply_is_an_error_of_this_package(reply: bytes) -> None:
    """Or what it says, if it may be right."""
    with closing(Parrot(reply)) as server:
        for work in WORK.values():
            with closing(RedisStore(server.url, deadline_s=5)) as store:
                try:
                    found = work(store)
                except BackendError:
                    continue
                assert found is None or isinstance(found, bool | list | Changes)


def test_no_number_is_sent_to_be_formatted(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """hiredis crashes the interpreter if a signal handler raises while it formats one."""
    with closing(RedisStore(redis_url, deadline_s=5)) as store:
        sent: list[Any] = []
        execute = store._redis._admin._execute

        def record(node: Any, commands: Any) -> Any:
            sent.extend(commands)
            return execute(node, commands)

        monkeypatch.setattr(store._redis._admin, "_execute", record)
        monkeypatch.setattr(store._redis._lookups, "_execute", record)
        for name in ("add", "get", "delete", "put", "record-uses", "last-uses", "scan", "changes"):
            WORK[name](store)
        store.warnings()
        assert {command[0] for command in sent} >= {"EVAL", "ZADD", "ZREM", "ZRANGEBYLEX", "XRANGE", "HSET"}
        assert {type(word) for command in sent for word in command} == {bytes, str}
