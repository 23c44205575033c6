"""The router of a Redis Cluster: slot maps and redirections, without a network."""

from __future__ import annotations

from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ResponseError

from basicauth_mw.backends.redis.cluster import Cluster, Node
from basicauth_mw.errors import BackendUnavailable
from tests.redis_server import SLOTS

A, B, C = Node(("a", 1)), Node(("b", 2)), Node(("c", 3))
ALL_AT_A = [[0, SLOTS - 1, [b"a", 1, b"id"]]]


def play(cluster: Cluster, commands: list[Any], replies: list[Any], **how: Any) -> tuple[Any, list[Any]]:
    """Reply to each command in turn; return the replies and the node of each command."""
    steps = cluster.route(commands, **how)
    sent: list[Any] = []
    reply = None
    while True:
        try:
            node, batch = steps.send(reply)
        except StopIteration as done:
            assert replies == []
            return done.value, sent
        sent.append((node, list(batch)))
        reply = replies.pop(0)


GET = ("GET", b"x")
SLOTS_OF = ("CLUSTER", "SLOTS")
X = key_slot(b"x")


@pytest.mark.parametrize("ranges", [[], [[0, X - 1, [b"a", 1]]], [[X + 1, SLOTS - 1, [b"a", 1]]]])
def test_a_slot_that_no_node_serves(ranges: list[Any]) -> None:
    with pytest.raises(BackendUnavailable, match="no node of the Redis Cluster"):
        play(Cluster([("a", 1)]), [GET], [[ranges]])


def test_the_first_and_the_last_slot_of_a_range() -> None:
    slots = [[0, X - 1, [b"a", 1]], [X, X, [b"b", 2]], [X + 1, SLOTS - 1, [b"a", 1]]]
    assert play(Cluster([("a", 1)]), [GET], [[slots], [b"found"]])[1][1] == (B, [GET])


def test_the_number_of_redirections_is_limited() -> None:
    cluster = Cluster([("a", 1)])
    replies: list[Any] = [[ALL_AT_A], *([[MovedError(f"{X} b:2")], [MovedError(f"{X} a:1")]] * 10)]
    with pytest.raises(BackendUnavailable, match="redirect from one to another"):
        play(cluster, [GET], replies)
    replies = [[AskError(f"{X} b:2")], *([[b"OK", AskError(f"{X} b:2")]] * 10)]
    with pytest.raises(BackendUnavailable, match="redirect from one to another"):
        play(cluster, [GET], replies)


def test_a_redirection_to_an_ipv6_address() -> None:
    replies = [[ALL_AT_A], [AskError(f"{X} 2001:db8::1:2")], [b"OK", b"found"]]
    replies, sent = play(Cluster([("a", 1)]), [GET], replies)
    assert replies == [b"found"]
    assert sent[2] == (Node(("2001:db8::1", 2)), [("ASKING",), GET])


@pytest.mark.parametrize("reply", [ResponseError("unknown command"), b"MOVED 1 b:2", None])
def test_other_replies_are_not_redirections(reply: Any) -> None:
    assert play(Cluster([("a", 1)]), [GET], [[ALL_AT_A], [reply]])[0] == [reply]


def test_a_redirection_without_a_host_keeps_the_host() -> None:
    replies, sent = play(Cluster([("a", 1)]), [GET], [[ALL_AT_A], [MovedError(f"{X} :2")], [b"found"]])
    assert replies == [b"found"]
    assert sent == [(A, [SLOTS_OF]), (A, [GET]), (Node(("a", 2)), [GET])]


@pytest.mark.parametrize("host", [b"", None])
def test_a_node_that_does_not_know_its_name(host: bytes | None) -> None:
    slots = [[0, SLOTS - 1, [host, 7, b"id"]]]
    assert play(Cluster([("a", 1)]), [GET], [[slots], [b"found"]])[1][1] == (Node(("a", 7)), [GET])


def test_a_moved_slot_is_read_from_its_new_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot map is fetched again, from the new node first, but not for every redirection."""
    monkeypatch.setattr("basicauth_mw.backends.redis.cluster._MAP_AGE_S", 0)
    cluster = Cluster([("a", 1), ("c", 3)])
    all_at_b = [[0, SLOTS - 1, [b"b", 2, b"id"]]]
    replies: list[Any] = [[ALL_AT_A], [MovedError(f"{X} b:2")], [all_at_b], [b"found"]]
    replies, sent = play(cluster, [GET], replies)
    assert replies == [b"found"]
    assert sent == [(A, [SLOTS_OF]), (A, [GET]), (B, [SLOTS_OF]), (B, [GET])]
    assert play(cluster, [GET, GET], [[b"1", b"2"]]) == ([b"1", b"2"], [(B, [GET, GET])])


def test_a_node_that_does_not_reply_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of one node does not affect others, and a write is not repeated."""
    lost = ConnectionError("lost")
    cluster = Cluster([("a", 1), ("c", 3)])
    play(cluster, [GET], [[ALL_AT_A], [b"found"]])
    with pytest.raises(ConnectionError):
        play(cluster, [GET], [lost])
    cluster._refreshed_at = 0
    with pytest.raises(ConnectionError):
        play(cluster, [GET], [[ALL_AT_A], lost, [ALL_AT_A]])
    with monkeypatch.context() as patched:
        patched.setattr("basicauth_mw.backends.redis.cluster._MAP_AGE_S", 0)
        with pytest.raises(ConnectionError):
            play(cluster, [GET], [[ALL_AT_A], lost, lost, lost])
    cluster._refreshed_at = 0
    with pytest.raises(ConnectionError):
        play(cluster, [GET], [[ALL_AT_A], lost], retry=False)
    cluster._refreshed_at = 0
    assert play(cluster, [GET], [lost, [[[0, SLOTS - 1, [b"c", 3, b"id"]]]], [b"found"]]) == (
        [b"found"],
        [(C, [SLOTS_OF]), (A, [SLOTS_OF]), (C, [GET])],
    )


def test_slots_of_a_lost_node_are_read_from_its_successor() -> None:
    """In the same call, if it is safe to repeat; the slot map is not fetched from the lost node."""
    cluster = Cluster([("a", 1), ("c", 3)])
    play(cluster, [GET], [[ALL_AT_A], [b"found"]])
    cluster._refreshed_at = 0
    replies: list[Any] = [ConnectionError("lost"), [[[0, SLOTS - 1, [b"c", 3, b"id"]]]], [b"found"]]
    assert play(cluster, [GET], replies) == ([b"found"], [(A, [GET]), (C, [SLOTS_OF]), (C, [GET])])


def test_an_abandoned_lookup_marks_the_slot_map_stale() -> None:
    """The next lookup does not fetch the map from the same node first."""
    cluster = Cluster([("a", 1), ("c", 3)])
    play(cluster, [GET], [[ALL_AT_A], [b"found"]])
    steps = cluster.route([GET])
    assert next(steps) == (A, [GET])
    steps.close()
    cluster._refreshed_at = 0
    assert play(cluster, [GET], [[ALL_AT_A], [b"found"]])[1] == [(C, [SLOTS_OF]), (A, [GET])]


@pytest.mark.parametrize(
    "reply", [None, b"", 7, [], [[1]], [[0, 1, []]], [[0, 1, [b"\xff", 1]]], [[0, 1, 2]], ResponseError("x")]
)
def test_an_invalid_slot_map_is_ignored(reply: Any) -> None:
    cluster = Cluster([("a", 1), ("c", 3)])
    assert play(cluster, [GET], [[reply], [ALL_AT_A], [b"found"]])[0] == [b"found"]
