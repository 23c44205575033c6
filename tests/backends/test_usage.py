"""Writes after a verification are prompt, deduplicated and bounded, and never delay a request."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest

from basicauth_mw import Settings, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.auth.cache import CacheHit
from basicauth_mw.backends.codec import stored_secret, to_microseconds
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.backends.usage import MAX_PENDING, UsageRecorder
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, salt_of
from basicauth_mw.keys.model import Key, Secret, utcnow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 10.0


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.02)
    return found


def this_minute() -> datetime:
    return utcnow().replace(second=0, microsecond=0)


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "basicauth_mw usage"}


@pytest.fixture
def others() -> set[threading.Thread]:
    """The threads that other tests have left running."""
    return threads()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def recorder(store: MemoryStore) -> Iterator[UsageRecorder]:
    made = UsageRecorder(store, Hasher())
    yield made
    made.close()


def stored(store: MemoryStore, hashed: str, client_id: str = "id") -> Secret:
    secret = Secret(hashed, created_at=datetime(2025, 1, 1, tzinfo=UTC))
    assert store.put(Key(client_id, secrets=(secret,), version=1), None)
    return secret


def test_a_use_is_written_to_the_minute(store: MemoryStore, recorder: UsageRecorder) -> None:
    plain = generate("sk")
    secret = stored(store, Hasher().hash(plain))
    before = this_minute()

    recorder.record_use("id", stored_secret(secret), plain)

    (use,) = wait_for(lambda: store.last_uses(["id"]))
    assert use.client_id == "id"
    assert use.secret_created_at == secret.created_at
    assert before <= use.at <= this_minute()
    assert (use.at.second, use.at.microsecond) == (0, 0)


def test_close_writes_what_is_recorded(
    store: MemoryStore, recorder: UsageRecorder, others: set[threading.Thread]
) -> None:
    """Including cache hits, with the minute of the hit; the recorder can be used again."""
    plain = generate("sk")
    secret = stored(store, Hasher().hash(plain))
    other = secret.created_at + timedelta(seconds=1)

    class VerificationCache:
        def drain_hits(self) -> list[CacheHit]:
            return [CacheHit("id", to_microseconds(other), 120.0)]

    cache = VerificationCache()
    recorder.add_hit_source(cache.drain_hits)
    now = time.time()
    recorder.record_use("id", stored_secret(secret), plain)
    recorder.close()

    uses = {use.secret_created_at: use.at for use in store.last_uses(["id"])}
    assert uses[secret.created_at] >= datetime.fromtimestamp(now // 60 * 60, UTC)
    assert uses[other] == datetime.fromtimestamp((now - 120) // 60 * 60, UTC)
    assert threads() <= others
    recorder.record_use("id", stored_secret(replace(secret, created_at=other)), plain)
    recorder.close()
    assert {use.at for use in store.last_uses(["id"])} == {uses[secret.created_at]}


def test_a_cache_is_held_weakly(recorder: UsageRecorder, store: MemoryStore) -> None:
    gone = []

    class VerificationCache:
        def __del__(self) -> None:
            gone.append(True)

        def drain_hits(self) -> list[CacheHit]:
            return []

    recorder.add_hit_source(VerificationCache().drain_hits)
    gc.collect()
    assert gone
    recorder.record_use("id", stored_secret(stored(store, Hasher().hash(generate("sk")))), "secret")
    recorder.close()


def test_one_write_for_many_requests_of_a_minute(recorder: UsageRecorder, store: MemoryStore) -> None:
    plain = generate("sk")
    secret = stored(store, Hasher().hash(plain))
    batches: list[int] = []
    record = store.record_uses
    store.record_uses = lambda uses: (batches.append(len(uses)), record(uses))[1]  # type: ignore[method-assign]

    for _ in range(1000):
        recorder.record_use("id", stored_secret(secret), plain)
    recorder.close()
    for _ in range(1000):
        recorder.record_use("id", stored_secret(secret), plain)
    recorder.close()

    assert 1 <= len(batches) <= 2  # two if a minute has ended in between
    assert set(batches) == {1}


@pytest.mark.proves("F4")
def test_a_failed_write_pauses(store: MemoryStore, recorder: UsageRecorder) -> None:
    """That use is lost; a use in the next minute, or the next one after the store recovers, is not."""
    plain = generate("sk")
    secret = stored(store, Hasher().hash(plain))
    record = store.record_uses

    def fail(_uses: object) -> None:
        raise OSError(f"no reply for {plain}")

    store.record_uses = fail  # type: ignore[method-assign,assignment]
    recorder.record_use("id", stored_secret(secret), plain)
    recorder.close()
    assert store.last_uses(["id"]) == []
    store.record_uses = record  # type: ignore[method-assign]
    recorder.record_use("id", stored_secret(secret), plain)
    recorder.close()
    assert len(store.last_uses(["id"])) == 1


def test_failed_writes_pause_longer_each_time(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only role is not denied every second forever, and no last-used time is lost."""
    monkeypatch.setattr("basicauth_mw.backends.usage._GATHER_S", 0.01)
    monkeypatch.setattr("basicauth_mw.backends.usage._FIRST_PAUSE_S", 0.1)
    attempts: list[float] = []
    record = store.record_uses

    def deny(_uses: object) -> None:
        attempts.append(time.monotonic())
        raise PermissionError("NOPERM")

    store.record_uses = deny  # type: ignore[method-assign,assignment]
    recorder = UsageRecorder(store, Hasher())
    secret = stored(store, Hasher().hash(generate("sk")))
    numbers = itertools.count()

    def keep_using() -> bool:
        recorder.record_use(f"other{next(numbers)}", stored_secret(secret), "")
        return len(attempts) >= 4

    recorder.record_use("id", stored_secret(secret), "")
    wait_for(keep_using)
    pauses = [after - before for before, after in itertools.pairwise(attempts)]
    assert all(took >= least for took, least in zip(pauses, (0.1, 0.2, 0.4), strict=True)), pauses
    store.record_uses = record  # type: ignore[method-assign]
    recorder.close()
    assert len(store.last_uses(["id"])) == 1


@pytest.mark.proves("F29")
def test_pending_uses_are_bounded_and_the_oldest_is_dropped(store: MemoryStore) -> None:
    held = threading.Event()
    entered = threading.Event()
    written: list[str] = []

    def record(uses: Any) -> None:
        entered.set()
        assert held.wait(LIMIT_S)
        written.extend(use.client_id for use in uses)

    store.record_uses = record  # type: ignore[method-assign]
    recorder = UsageRecorder(store, Hasher())
    secret = Secret(Hasher().hash(generate("sk")))
    recorder.record_use("first", stored_secret(secret), "")
    assert entered.wait(LIMIT_S)

    for number in range(MAX_PENDING + 10):
        recorder.record_use(str(number), stored_secret(secret), "")
    held.set()
    recorder.close()

    assert written[0] == "first"
    assert written[1:] == [str(number) for number in range(10, MAX_PENDING + 10)]


@pytest.mark.parametrize(
    ("old", "plain"),
    [
        pytest.param(
            lambda plain: bcrypt.hashpw(plain.encode(), bcrypt.gensalt(4)).decode(), "password", id="bcrypt"
        ),
        pytest.param(Hasher([b"old"]).hash, generate("sk"), id="pepper"),
    ],
)
def test_an_outdated_hash_is_replaced(store: MemoryStore, old: Callable[[str], str], plain: str) -> None:
    hasher = Hasher([b"new", b"old"])
    recorder = UsageRecorder(store, hasher)
    secret = stored(store, old(plain))
    cursor = store.changes(None).cursor

    recorder.record_use("id", stored_secret(secret), plain)
    recorder.record_use("id", stored_secret(secret), plain)
    recorder.close()

    key = store.get("id")
    assert key is not None
    (new,) = key.secrets
    assert new.hash != secret.hash
    assert not hasher.needs_rehash(new.hash)
    assert new == replace(secret, hash=new.hash)
    assert key.version == 2  # replaced once
    assert store.changes(cursor).client_ids == ("id",)


def test_uses_that_are_recorded_during_a_write_are_written_too(
    store: MemoryStore, recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that waited for the lock adds to the new table, not to the one being written."""
    plain = generate("sk")
    first, second = (stored(store, Hasher([b"old"]).hash(plain), client_id) for client_id in ("id", "other"))
    rehash = recorder._rehash

    def rehash_and_record(client_id: str, hashed: str, secret: str) -> None:
        if client_id == "id":
            recorder.record_use("other", stored_secret(second), plain)
        rehash(client_id, hashed, secret)

    monkeypatch.setattr(recorder, "_rehash", rehash_and_record)
    recorder.record_use("id", stored_secret(first), plain)

    def is_rehashed(client_id: str) -> bool:
        key = store.get(client_id)
        return key is not None and not Hasher().needs_rehash(key.secrets[0].hash)

    wait_for(lambda: is_rehashed("id") and is_rehashed("other"))


def test_a_new_hash_leaves_the_other_secrets_unchanged(store: MemoryStore, recorder: UsageRecorder) -> None:
    plain = generate("sk")
    old = Secret(Hasher([b"old"]).hash(plain), created_at=datetime(2025, 1, 1, tzinfo=UTC))
    others = [
        Secret(Hasher().hash(generate("sk"), salt=salt_of([old])), created_at=utcnow()) for _ in range(2)
    ]
    assert store.put(Key("id", secrets=(others[0], old, others[1]), version=1), None)
    recorder.record_use("id", stored_secret(old), plain)
    recorder.close()
    key = store.get("id")
    assert key is not None
    first, new, last = key.secrets
    assert [first, last] == others
    assert new.hash != old.hash
    assert Hasher().verify_digest(plain, key.secrets) == new
    assert salt_of([new]) == salt_of([old])


def test_a_hash_that_has_changed_meanwhile_is_not_replaced(
    store: MemoryStore, recorder: UsageRecorder
) -> None:
    secret = stored(store, Hasher([b"old"]).hash(generate("sk")))
    other = Secret(Hasher().hash(generate("sk")))
    assert store.put(Key("id", secrets=(other,), version=2), 1)
    recorder.record_use("id", stored_secret(secret), "plain")
    recorder.record_use("gone", stored_secret(secret), "plain")
    recorder.close()
    key = store.get("id")
    assert key is not None
    assert key.secrets == (other,)


def test_a_lost_race_is_retried(store: MemoryStore, recorder: UsageRecorder) -> None:
    plain = generate("sk")
    secret = stored(store, Hasher([b"old"]).hash(plain))
    put = store.put

    def lose_once(record: Key, expect_version: int | None) -> bool:
        store.put = put  # type: ignore[method-assign]
        key = store.get("id")
        assert key is not None
        assert put(replace(key, name="of another", version=2), 1)
        return put(record, expect_version)

    store.put = lose_once  # type: ignore[method-assign,assignment]
    recorder.record_use("id", stored_secret(secret), plain)
    recorder.close()
    key = store.get("id")
    assert key is not None
    assert key.name == "of another"
    assert key.version == 3
    assert not Hasher().needs_rehash(key.secrets[0].hash)


def test_no_secret_in_the_log(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    recorder = UsageRecorder(store, Hasher())
    secret = stored(store, Hasher([b"old"]).digest_secret("canary"))

    def fail(*_args: object) -> bool:
        raise OSError("canary")

    store.put = fail  # type: ignore[method-assign]
    store.record_uses = fail  # type: ignore[method-assign,assignment]
    with caplog.at_level("DEBUG"):
        recorder.record_use("id", stored_secret(secret), "canary")
        recorder.close()
    assert len(caplog.records) == 1
    assert "canary" not in caplog.text
    assert secret.hash not in caplog.text


def test_a_read_only_store_starts_no_thread(others: set[threading.Thread]) -> None:
    class Reader:
        def get(self, client_id: str, /) -> Key | None:
            return None

    recorder = UsageRecorder(Reader(), Hasher())
    recorder.record_use("id", stored_secret(Secret(Hasher([b"old"]).hash("secret"))), "secret")
    assert threads() <= others
    recorder.close()


def test_a_child_process_starts_its_own_thread(store: MemoryStore, recorder: UsageRecorder) -> None:
    plain = generate("sk")
    secret = stored(store, Hasher().hash(plain))
    recorder.record_use("other", stored_secret(secret), plain)
    pid = os.fork()
    if pid == 0:
        try:
            recorder.record_use("id", stored_secret(secret), plain)
            recorder.close()
            os._exit(0 if store.last_uses(["id"]) and len(threads()) == 0 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_thread_stops_with_its_backend(others: set[threading.Thread]) -> None:
    """Unreferenced middleware and backends leave no thread running."""
    keys = open_backend("memory:", settings=Settings())
    authenticator = BasicAuthMiddleware(object(), keys, settings=Settings())  # type: ignore[arg-type]
    keys.usage.record_use("id", stored_secret(Secret("$bamw1$")), "")
    assert threads() - others
    del keys, authenticator
    gc.collect()
    wait_for(lambda: threads() <= others)


def test_a_backend_that_is_collected_on_the_thread_itself_stops_it(others: set[threading.Thread]) -> None:
    """The garbage collector can run on any thread."""
    keys = open_backend("memory:", settings=Settings())
    assert isinstance(keys.store, MemoryStore)
    held: list[Any] = [keys]
    ended = threading.Event()

    def record(_uses: object) -> None:
        held.clear()
        ended.set()

    keys.store.record_uses = record  # type: ignore[method-assign]
    keys.usage.record_use("id", stored_secret(Secret(Hasher().hash(generate("sk")))), "")
    del keys
    assert ended.wait(LIMIT_S)
    wait_for(lambda: threads() <= others)


def test_a_dropped_backend_does_not_wait(request: pytest.FixtureRequest) -> None:
    gc.freeze()  # exclude objects of other tests from the measured collection
    request.addfinalizer(gc.unfreeze)
    keys = open_backend("memory:", settings=Settings())
    assert isinstance(keys.store, MemoryStore)
    entered, held = threading.Event(), threading.Event()

    def record(_uses: object) -> None:
        entered.set()
        held.wait(LIMIT_S)

    keys.store.record_uses = record  # type: ignore[method-assign]
    keys.usage.record_use("id", stored_secret(Secret(Hasher().hash(generate("sk")))), "")
    assert entered.wait(LIMIT_S)
    begin = time.monotonic()
    del keys
    gc.collect()
    assert time.monotonic() - begin < 1
    held.set()
