"""Changes of keys in a Redis Cluster that fail, are interrupted, or happen at the same time."""

from __future__ import annotations

import logging
import random
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Settings, open_backend
from basicauth_mw.backends import dump_key
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable, KeyNotFound
from basicauth_mw.keys.model import Key, Secret
from tests.redis_server import at_work
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 0.4
SLOW = "$2b$12$" + "A" * 53


@pytest.fixture
def store(redis_cluster_url: str) -> Iterator[RedisStore]:
    with closing(RedisStore(redis_cluster_url, deadline_s=DEADLINE_S)) as opened:
        yield opened


# --- announcements


@pytest.mark.parametrize("failures", [1, 2])
def test_a_change_whose_announcement_failed_is_announced_when_it_is_repeated(
    redis_cluster_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failures: int,
) -> None:
    """The change was made, so it is reported and audited; repeating it announces it again."""
    caplog.set_level(logging.INFO)
    with open_backend(redis_cluster_url, settings=Settings()) as backend:
        store = backend.store
        backend.create(client_id="ci")
        cursor = store.changes(None).cursor
        do, is_swapped, left = store._redis.do, False, failures

        def fail_after_the_swap(*commands: Any, retry: bool = True, **more: bool) -> Any:
            nonlocal is_swapped, left
            if is_swapped and left:
                left -= 1
                raise BackendUnavailable("the node of the announcements is down")
            is_swapped |= not retry
            return do(*commands, retry=retry, **more)

        monkeypatch.setattr(store._redis, "do", fail_after_the_swap)
        assert backend.revoke("ci").revoked_at is not None
        assert left == 0
        events = [record.basicauth["event"] for record in caplog.records if hasattr(record, "basicauth")]
        assert events == ["key.created", "key.revoked"]
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warned) == failures - 1
        ((_, *announced),) = store._redis.read(("XRANGE", store._names.changes, cursor, "+"))
        assert len(announced) == 1 + (failures == 1)  # before the swap, and after it was read back
        after = store.changes(cursor).cursor
        backend.revoke("ci")
        assert store.changes(after).client_ids == ("ci",)
        backend.delete("ci")
        after = store.changes(cursor).cursor
        with pytest.raises(KeyNotFound):
            backend.delete("ci")
        assert store.changes(after).client_ids == ("ci",)
        assert len([each for each in caplog.records if hasattr(each, "basicauth")]) == 3


# --- the state after an interrupted change


class KilledError(BaseException):
    """Stands for a kill of the process that makes the change."""


ONE = Key("id", version=1)
TWO = Key("id", version=2, secrets=(Secret(SLOW, datetime(2024, 1, 1, tzinfo=UTC)),))


def stored_as(key: Key | None) -> bytes:
    return b"" if key is None else dump_key(key).encode()


@pytest.mark.proves("F33")
def test_a_process_killed_in_a_change_leaves_no_unannounced_change(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any step: stored keys are listed, password hashes are known, and changes were announced."""
    names, do = store._names, store._redis.do
    for steps in range(6):
        store.delete("id")
        for old, new in ((None, ONE), (ONE, TWO), (TWO, None)):
            cursor = store.changes(None).cursor
            left = steps

            def until_killed(*commands: Any, retry: bool = True, **more: bool) -> list[Any]:
                nonlocal left
                if left == 0:
                    raise KilledError
                left -= 1
                return do(*commands, retry=retry, **more)

            with monkeypatch.context() as patch:
                patch.setattr(store._redis, "do", until_killed)
                try:
                    done = store._swap(b"id", stored_as(old), new)
                except KilledError:
                    done = False
            stored, entered = store._redis.replies(names.get(b"id"), ("ZSCORE", names.index, "id"))
            if stored is not None:
                assert entered is not None
            if (stored or b"") != stored_as(old):
                assert (stored or b"") == stored_as(new)
                assert "id" in store.changes(cursor).client_ids
            if stored == stored_as(TWO):
                assert store.changes(None).has_password_hashes
            if not done:
                break
        else:
            assert steps >= 3  # the change had fewer steps


def test_a_change_is_announced_after_it_was_made(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before: another process may have read the old record again after the first announcement."""
    cursor, do = "", store._redis.do

    def record_order(*commands: Any, retry: bool = True, **more: bool) -> list[Any]:
        nonlocal cursor
        replies = do(*commands, retry=retry, **more)
        if not retry:
            cursor = store.changes(None).cursor
        return replies

    monkeypatch.setattr(store._redis, "do", record_order)
    for old, new in ((None, ONE), (ONE, TWO), (TWO, None)):
        assert store._swap(b"id", stored_as(old), new)
        assert store.changes(cursor).client_ids == ("id",)


def test_a_swap_that_is_lost_changes_nothing(store: RedisStore) -> None:
    assert store.put(ONE, None)
    assert not store._swap(b"id", b"something else", TWO)
    assert not store._swap(b"id", b"something else", None)
    assert store.get("id") == ONE
    assert len(store.scan("", "", 9)) == 1


def test_an_id_created_and_deleted_at_the_same_time(
    store: RedisStore, redis_cluster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another change happens between any two steps of a change, stored keys are still in the index."""
    do = store._redis.do

    def run_with(work: Callable[[], Any], step: int, change: Callable[[], Any]) -> None:
        steps = iter(range(step + 1))

        def execute(*commands: Any, retry: bool = True, **more: bool) -> list[Any]:
            if next(steps, None) == step:
                work()
            return do(*commands, retry=retry, **more)

        with monkeypatch.context() as patch:
            patch.setattr(store._redis, "do", execute)
            change()
        assert len(other.scan("", "", 9)) == (other.get("id") is not None)
        other.delete("id")

    with closing(RedisStore(redis_cluster_url, deadline_s=DEADLINE_S)) as other:
        for step in range(5):
            assert other.put(ONE, None)
            run_with(lambda: other.put(ONE, None), step, lambda: store._swap(b"id", stored_as(ONE), None))
            for change in (lambda: store._swap(b"id", b"", ONE), lambda: store.add([ONE])):
                assert other.put(ONE, None)
                run_with(lambda: other.delete("id"), step, change)


def test_keys_created_and_deleted_by_many_threads(store: RedisStore) -> None:
    """All keys that are stored in the end are in the index."""
    names = [f"k{number}" for number in range(4)]
    done: list[str] = []

    def change() -> None:
        name = random.choice(names)
        match random.randrange(3):
            case 0:
                store.put(Key(name), None)
            case 1:
                store.add([Key(name), Key(random.choice(names))])
            case _:
                store.delete(name)
        done.append(name)

    for _ in range(5):
        before = len(done)
        with at_work(*[change] * 6) as failures:
            wait_until(lambda before=before: failures or len(done) > before + 100)
        assert not failures
        stored = {name for name in names if store.get(name) is not None}
        assert {key.client_id for key in store.scan("", "", 100)} == stored
