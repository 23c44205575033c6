"""Commands and replies of Redis as octets, by hiredis and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis.connection import Connection
from redis.exceptions import AuthenticationError, InvalidResponse, NoPermissionError, ResponseError

from basicauth_mw.backends import _redis_wire
from basicauth_mw.backends._redis_wire import MORE, Reader, make_reader, pack, pack_get

if TYPE_CHECKING:
    from collections.abc import Callable

READERS = [pytest.param(Reader, id="ours"), pytest.param(make_reader, id="hiredis")]

REPLIES: list[tuple[bytes, Any]] = [
    (b"$-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$6\r\na\r\n\xffb\x00\r\n", b"a\r\n\xffb\x00"),
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n*2\r\n:1\r\n$1\r\nx\r\n$-1\r\n+y\r\n", [[1, b"x"], None, b"y"]),
]


@pytest.mark.parametrize(
    "command", [("GET", b"a\r\n\xff"), ("EVAL", "return 1", 0), ("PING",), ("AUTH", "\u00fc", "")]
)
def test_commands_are_packed_as_by_redis_py(command: tuple[Any, ...]) -> None:
    assert pack(command) == b"".join(Connection().pack_command(*command))


def test_what_is_asked_most_is_packed_like_the_rest() -> None:
    assert pack_get(b"a:1:{id}") == pack(("GET", b"a:1:{id}"))


def test_hiredis_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_reader()).__module__ != Reader.__module__
    monkeypatch.setattr(_redis_wire, "_hiredis", None)
    assert type(make_reader()) is Reader


@pytest.mark.parametrize("make", READERS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_replies_come_in_any_pieces(make: Callable[[], Any], size: int) -> None:
    reader = make()
    stream = b"".join(octets for octets, _ in REPLIES) * 3
    found = []
    for start in range(0, len(stream), size):
        reader.feed(stream[start : start + size])
        while (reply := reader.gets()) is not MORE:
            found.append(reply)
    assert found == [reply for _, reply in REPLIES] * 3
    assert not reader.has_data()


@pytest.mark.parametrize("make", READERS)
def test_what_is_left_is_told(make: Callable[[], Any]) -> None:
    reader = make()
    assert not reader.has_data()
    for octets in (b"+O", b"K\r\n+"):
        reader.feed(octets)
        assert reader.has_data()
        reader.gets()
        assert reader.has_data()


@pytest.mark.parametrize("make", READERS)
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("WRONGTYPE Operation against a key", ResponseError),
        ("MOVED 1 h:2", ResponseError),
        ("NOPERM no", NoPermissionError),
        ("NOAUTH no", AuthenticationError),
        ("WRONGPASS no", AuthenticationError),
        ("", ResponseError),
    ],
)
def test_an_error_is_a_reply(make: Callable[[], Any], text: str, kind: type[Exception]) -> None:
    reader = make()
    reader.feed(f"-{text}\r\n+OK\r\n".encode())
    error = reader.gets()
    assert (type(error), str(error)) == (kind, text)
    assert reader.gets() == b"OK"


@pytest.mark.parametrize("make", READERS)
@pytest.mark.parametrize(
    "octets", [b"HTTP/1.1 400\r\n", b"\r\n", b"$-2\r\n", b"$x\r\n", b"*-2\r\n", b":x\r\n"]
)
def test_what_is_no_reply(make: Callable[[], Any], octets: bytes) -> None:
    reader = make()
    reader.feed(octets)
    with pytest.raises(InvalidResponse):
        reader.gets()


def test_a_string_of_another_length() -> None:
    """hiredis looks at the length only."""
    reader = Reader()
    reader.feed(b"$1\r\nabc\r\n")
    with pytest.raises(InvalidResponse):
        reader.gets()


def test_a_long_string_in_many_pieces_is_joined_once() -> None:
    reader = Reader()
    reader.feed(b"$1000000\r\n")
    assert reader.gets() is MORE
    before = reader._octets
    for _ in range(1000):
        reader.feed(b"x" * 1000)
        assert reader.gets() is MORE
    assert reader._octets is before
    reader.feed(b"\r\n")
    assert reader.gets() == b"x" * 1_000_000
