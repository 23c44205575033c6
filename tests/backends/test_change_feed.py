"""The change feed: every change is noticed, and an idle feed costs nothing."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends import Changes
from basicauth_mw.backends.change_feed import POLL_EVERY_S, ChangeFeed
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 10.0


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.01)


class Subscriber:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def invalidate(self, client_id: str, /) -> None:
        self.heard.append(client_id)

    def clear(self) -> None:
        self.heard.append("everything")


class Watched(MemoryStore):
    """A memory store that counts the reads of its changes, and can delay or fail them."""

    def __init__(self) -> None:
        super().__init__()
        self.polls = 0
        self.failure: Exception | None = None

    def changes(self, since: str | None) -> Changes:
        self.polls += 1
        if self.failure is not None:
            raise self.failure
        return super().changes(since)


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def subscriber() -> Subscriber:
    return Subscriber()


@pytest.fixture
def feed(store: Watched, subscriber: Subscriber) -> Iterator[ChangeFeed]:
    made = ChangeFeed(store)
    made.subscribe(subscriber, keeps_s=30)
    yield made
    made.close()


def test_changes_are_published(store: Watched, feed: ChangeFeed, subscriber: Subscriber) -> None:
    store.put(Key("before"), None)
    feed.refresh()
    feed.mark_active()
    store.put(Key("a"), None)
    wait_for(lambda: subscriber.heard == ["a"])
    store.delete("a")
    store.put(Key("b"), None)
    wait_for(lambda: sorted(subscriber.heard) == ["a", "a", "b"])


def test_an_older_reply_does_not_replace_a_newer_one(store: Watched, feed: ChangeFeed) -> None:
    """Two concurrent queries, of which the first gets its reply last."""
    feed.refresh()
    assert not feed.has_password_hashes
    outdated = store.changes(None)
    started, answer = threading.Event(), threading.Event()
    replies = iter([outdated])

    def slow_once(since: str | None) -> Changes:
        if (reply := next(replies, None)) is None:
            return MemoryStore.changes(store, since)
        started.set()
        assert answer.wait(LIMIT_S)
        return reply

    store.changes = slow_once  # type: ignore[method-assign]
    older = threading.Thread(target=feed.poll)
    older.start()
    assert started.wait(LIMIT_S)
    store.put(Key("a", secrets=(Secret("$2b$12$" + "A" * 53),)), None)
    feed.refresh()
    assert feed.has_password_hashes
    answer.set()
    older.join(LIMIT_S)
    assert feed.has_password_hashes
    feed.poll()
    assert feed.has_password_hashes


def test_nothing_runs_before_a_verification(store: Watched, feed: ChangeFeed) -> None:
    assert not feed.is_ready(for_password=False)
    feed.refresh()
    assert feed.is_ready(for_password=False)
    assert feed._thread._thread is None
    assert store.polls == 1


def test_entries_cached_before_the_first_cursor_are_cleared(
    store: Watched, feed: ChangeFeed, subscriber: Subscriber
) -> None:
    """The store was unavailable at the first request."""
    store.failure = BackendUnavailable("away")
    with pytest.raises(BackendUnavailable):
        feed.refresh()
    assert feed.is_ready(for_password=False)  # no later request reads it again
    feed.mark_active()
    polls = store.polls
    wait_for(lambda: store.polls > polls + 1)
    assert subscriber.heard == []
    store.failure = None
    wait_for(lambda: subscriber.heard == ["everything"])
    store.put(Key("a"), None)
    wait_for(lambda: subscriber.heard == ["everything", "a"])


@pytest.mark.proves("F24")
def test_an_outage_loses_no_change(
    store: Watched, feed: ChangeFeed, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    feed.refresh()
    feed.mark_active()
    store.failure = BackendUnavailable("away")
    store.put(Key("a"), None)
    polls = store.polls
    wait_for(lambda: store.polls > polls + 1)
    assert subscriber.heard == []
    store.failure = None
    wait_for(lambda: subscriber.heard == ["a"])
    assert not caplog.records  # lookups log an outage


@pytest.mark.proves("F24")
def test_incomplete_changes_clear_everything(
    store: Watched, feed: ChangeFeed, subscriber: Subscriber
) -> None:
    feed.refresh()
    feed._cursor = "99"
    feed.mark_active()
    wait_for(lambda: subscriber.heard == ["everything"])


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (UnreadableRecord("the stream is damaged"), "the stream is damaged"),
        (OSError("canary"), "raised OSError"),
    ],
    ids=["ours", "foreign"],
)
def test_a_feed_that_cannot_be_read_is_logged_once(
    store: Watched, feed: ChangeFeed, caplog: pytest.LogCaptureFixture, failure: Exception, said: str
) -> None:
    feed.refresh()
    store.failure = failure
    feed.mark_active()
    polls = store.polls
    wait_for(lambda: store.polls > polls + 2)
    (record,) = caplog.records
    assert said in record.getMessage()
    assert "canary" not in record.getMessage()


def test_it_does_not_poll_while_no_cache_can_hold_an_entry(store: Watched, subscriber: Subscriber) -> None:
    """The changes made meanwhile are published afterwards."""
    feed = ChangeFeed(store)
    feed.subscribe(subscriber, keeps_s=0.05)
    feed.refresh()
    feed.mark_active()
    wait_for(lambda: feed._idle)
    polls = store.polls
    store.put(Key("meanwhile"), None)
    time.sleep(3 * POLL_EVERY_S)  # in which it would have polled
    assert store.polls == polls
    feed.mark_active()
    wait_for(lambda: subscriber.heard == ["meanwhile"])
    feed.close()


def test_it_polls_at_most_ten_times_a_second(store: Watched, feed: ChangeFeed) -> None:
    feed.refresh()
    begin = time.monotonic()
    feed.mark_active()
    wait_for(lambda: store.polls >= 5)
    assert time.monotonic() - begin >= 4 * POLL_EVERY_S


def test_close_stops_the_thread_and_the_next_verification_starts_it(
    store: Watched, feed: ChangeFeed, subscriber: Subscriber
) -> None:
    feed.refresh()
    feed.mark_active()
    thread = feed._thread._thread
    assert thread is not None
    feed.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    store.put(Key("meanwhile"), None)
    feed.mark_active()
    wait_for(lambda: subscriber.heard == ["everything", "meanwhile"])


@pytest.mark.proves("F24")
def test_close_clears_the_caches(feed: ChangeFeed, subscriber: Subscriber) -> None:
    """A cache hit does not start the thread, so an entry would survive a revocation."""
    feed.close()
    assert subscriber.heard == ["everything"]


@pytest.mark.parametrize("returned", [None, Changes("1", None), object()], ids=["none", "no-ids", "object"])  # type: ignore[arg-type]
def test_a_wrong_return_value_of_a_store_does_not_stop_the_feed(
    feed: ChangeFeed, subscriber: Subscriber, store: Watched, monkeypatch: pytest.MonkeyPatch, returned: Any
) -> None:
    feed.refresh()
    with monkeypatch.context() as patched:
        patched.setattr(store, "changes", lambda _since: returned)
        feed.poll()
    store.put(Key("a"), None)
    feed.poll()
    assert subscriber.heard == ["a"]


def test_a_disabled_cache_is_not_polled_for(store: Watched, subscriber: Subscriber) -> None:
    feed = ChangeFeed(store)
    feed.subscribe(subscriber, keeps_s=0)
    feed.refresh()
    feed.mark_active()
    assert feed._thread._thread is None


def test_close_stops_an_idle_thread(store: Watched, subscriber: Subscriber) -> None:
    feed = ChangeFeed(store)
    feed.subscribe(subscriber, keeps_s=0.05)
    feed.refresh()
    feed.mark_active()
    wait_for(lambda: feed._idle)
    thread = feed._thread._thread
    assert thread is not None
    feed.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_a_store_without_changes_is_not_polled() -> None:
    class Reader:
        def get(self, client_id: str, /) -> Key | None:
            return None

    feed = ChangeFeed(Reader())
    assert feed.is_ready(for_password=False)
    feed.mark_active()
    assert feed._thread._thread is None


def test_a_child_process_starts_over(store: Watched, feed: ChangeFeed, subscriber: Subscriber) -> None:
    feed.refresh()
    feed.mark_active()
    pid = os.fork()
    if pid == 0:
        try:
            assert not feed.is_ready(for_password=False)
            assert feed._thread._thread is None
            feed.refresh()
            feed.mark_active()
            store.put(Key("a"), None)
            wait_for(lambda: subscriber.heard == ["a"])
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_many_threads_start_one(store: Watched, feed: ChangeFeed) -> None:
    feed.refresh()
    before = set(threading.enumerate())
    barrier = threading.Barrier(8)

    def verify() -> None:
        barrier.wait(LIMIT_S)
        feed.mark_active()

    verifiers = [threading.Thread(target=verify) for _ in range(8)]
    for prover in verifiers:
        prover.start()
    for prover in verifiers:
        prover.join(LIMIT_S)
    started = [thread for thread in set(threading.enumerate()) - before if thread.name == "basicauth_mw feed"]
    assert started == [feed._thread._thread]
