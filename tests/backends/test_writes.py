"""A change that was made is reported as made, even if the reply was lost."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import pytest

from basicauth_mw import Backend, Key, Settings, open_backend
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import BackendUnavailable, KeyExists, KeyNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = Settings(backend_deadline_s=5.0)


class LossyProxy:
    """A proxy that forwards everything, but closes the connection instead of sending the reply to a change.

    Args:
        to: The port of the server.
        change: What a request that makes a change contains.

    Attributes:
        port: The port that it listens on.
        drop: How many replies to changes it still has to drop.
    """

    def __init__(self, to: int, change: bytes) -> None:
        self._to = to
        self._change = change
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.drop = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        serving = []
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                serving.append(threading.Thread(target=self._serve, args=(near,)))
                serving[-1].start()
        for thread in serving:
            thread.join(10)

    def _serve(self, near: socket.socket) -> None:
        with (
            near,
            socket.create_connection(("127.0.0.1", self._to)) as far,
            selectors.DefaultSelector() as ready,
            suppress(OSError),
        ):
            ready.register(near, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, near)
            dropping = False
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data or (dropping and key.fileobj is far):
                        return
                    if key.fileobj is near and self.drop and self._change in data:
                        self.drop, dropping = self.drop - 1, True
                    key.data.sendall(data)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(params=["redis", "postgres"])
def lossy(request: pytest.FixtureRequest, stack: ExitStack) -> tuple[LossyProxy, str]:
    """A proxy in front of a server, and the URL of a store there."""
    server = request.getfixturevalue(f"{request.param}_server")
    change = b"current ~= ARGV" if request.param == "redis" else b"COMMIT"
    proxy = stack.enter_context(LossyProxy(server.port, change))
    url = request.getfixturevalue(f"{request.param}_url")
    return proxy, url.replace(f":{server.port}/", f":{proxy.port}/")


@pytest.fixture
def proxy(lossy: tuple[LossyProxy, str]) -> LossyProxy:
    return lossy[0]


@pytest.fixture
def backend(lossy: tuple[LossyProxy, str], stack: ExitStack) -> Backend:
    """A store whose replies may be lost."""
    return stack.enter_context(open_backend(lossy[1], settings=SETTINGS))


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """The audit events so far."""
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    def recorded() -> list[tuple[str, str]]:
        fields = [getattr(record, "basicauth", None) for record in caplog.records]
        return [(each["event"], each["client_id"]) for each in fields if each]

    return recorded


CHANGES: dict[str, Callable[[Backend], object]] = {
    "revoked": lambda backend: backend.revoke("ci").revoked_at,
    "disabled": lambda backend: backend.disable("ci").disabled,
    "updated": lambda backend: backend.update("ci", name="new").name == "new",
    "rotated": lambda backend: len(backend.rotate("ci").key.secrets) == 2,
    "deleted": lambda backend: backend.delete("ci").client_id == "ci" and backend.get("ci") is None,
}


@pytest.mark.proves("F3")
@pytest.mark.parametrize("event", CHANGES)
def test_a_change_that_was_made_is_reported(
    proxy: LossyProxy, backend: Backend, events: Callable[[], list[tuple[str, str]]], event: str
) -> None:
    backend.create(client_id="ci")
    proxy.drop = 1
    assert CHANGES[event](backend)
    assert proxy.drop == 0
    assert events() == [("key.created", "ci"), (f"key.{event}", "ci")]


@pytest.mark.proves("F3", "F33")
def test_a_key_that_was_created_is_not_lost(
    proxy: LossyProxy, backend: Backend, events: Callable[[], list[tuple[str, str]]]
) -> None:
    proxy.drop = 1
    issued = backend.create(client_id="ci")
    assert backend.get("ci") == issued.key
    assert events() == [("key.created", "ci")]
    with pytest.raises(KeyExists):
        backend.create(client_id="ci")


@pytest.mark.parametrize("count", [50, 950])
def test_imported_keys_are_reported(
    proxy: LossyProxy, backend: Backend, events: Callable[[], list[tuple[str, str]]], count: int
) -> None:
    """All of them; if only some were stored, the error says how many."""
    backend.create(client_id="k0")
    keys = [Key(f"k{number}", secrets=backend.create().key.secrets) for number in range(count)]
    before = len(events())
    proxy.drop = 1
    said = ""
    try:
        assert backend.add(keys)[1:] == [None] * (count - 1)
    except BackendUnavailable as exc:
        said = str(exc)
    if said:
        assert said.startswith(f"{len(events()) - before} of {count} keys were stored")
    stored = {key.client_id for key in backend.iter_keys(prefix="k")}
    assert {("key.imported", client_id) for client_id in stored - {"k0"}} == set(events()[before:])
    backend.add(keys)
    assert len(list(backend.iter_keys(prefix="k"))) == count


class Unsure(MemoryStore):
    """A store whose writes have an unknown outcome.

    Attributes:
        writes: Whether the write is made despite the error.
        reads: Whether the store can be read afterwards.
        then: Called after the write.
    """

    writes = reads = True
    then: Callable[[], object] = staticmethod(lambda: None)
    failed = False

    def get(self, client_id: str, /) -> Key | None:
        if self.failed and not self.reads:
            raise BackendUnavailable("down")
        return super().get(client_id)

    get_nowait = get

    def put(self, record: Key, /, expect_version: int | None, changes: Any = ()) -> bool:
        self._fail(lambda: MemoryStore.put(self, record, expect_version))

    def delete(self, client_id: str, /) -> bool:
        self._fail(lambda: MemoryStore.delete(self, client_id))

    def add(self, records: Any, /, changes: Any = ()) -> list[bool]:
        self._fail(lambda: MemoryStore.put(self, records[0], None))

    def _fail(self, write: Callable[[], object]) -> Any:
        if self.writes:
            write()
        self.then()
        self.failed = True
        raise BackendUnavailable("no reply")


@pytest.fixture
def unsure() -> Unsure:
    store = Unsure()
    MemoryStore.put(store, Key("ci", version=1), None)
    return store


WRITES: dict[str, Callable[[Backend], object]] = {
    "create": lambda backend: backend.create(client_id="new"),
    "revoke": lambda backend: backend.revoke("ci"),
    "delete": lambda backend: backend.delete("ci"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_change_that_was_not_made_is_reported(
    unsure: Unsure, events: Callable[[], list[tuple[str, str]]], write: Callable[[Backend], object]
) -> None:
    unsure.writes = False
    with pytest.raises(BackendUnavailable, match="nothing was changed so far: no reply"):
        write(Backend(unsure, settings=SETTINGS))
    assert events() == []


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_an_unknown_outcome_is_reported(
    unsure: Unsure, events: Callable[[], list[tuple[str, str]]], write: Callable[[Backend], object]
) -> None:
    unsure.reads = False
    with pytest.raises(BackendUnavailable, match="may or may not have been made"):
        write(Backend(unsure, settings=SETTINGS))
    assert events() == []


def test_the_outcome_is_unknown_after_a_concurrent_change(unsure: Unsure) -> None:
    unsure.then = lambda: MemoryStore.put(unsure, Key("ci", name="other", version=3), 2)
    with pytest.raises(BackendUnavailable, match="may or may not"):
        Backend(unsure, settings=SETTINGS).revoke("ci")


def test_some_of_many_keys(unsure: Unsure, events: Callable[[], list[tuple[str, str]]]) -> None:
    backend = Backend(unsure, settings=SETTINGS)
    with pytest.raises(BackendUnavailable, match="1 of 2 keys were stored: no reply"):
        backend.add([Key("a"), Key("b")])
    assert events() == [("key.imported", "a")]
    assert backend.get("b") is None


def test_keys_with_an_unknown_outcome_do_not_hide_others(
    unsure: Unsure, events: Callable[[], list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If reading the keys back fails, those that were found are reported."""
    get = unsure.get

    def fail_for_b(client_id: str) -> Key | None:
        if client_id == "b":
            raise BackendUnavailable("down again")
        return get(client_id)

    monkeypatch.setattr(unsure, "get", fail_for_b)
    backend = Backend(unsure, settings=SETTINGS)
    with pytest.raises(BackendUnavailable, match="1 of 2 keys were stored: no reply"):
        backend.add([Key("a"), Key("b")])
    assert events() == [("key.imported", "a")]


def test_an_unreachable_store_was_not_written_to(unsure: Unsure) -> None:
    """The store is read before it is written, so this is certain."""
    unsure.failed, unsure.reads = True, False
    for write in WRITES.values():
        with pytest.raises(BackendUnavailable, match=r"^down$"):
            write(Backend(unsure, settings=SETTINGS))
    unsure.reads = True
    with pytest.raises(KeyNotFound):
        Backend(unsure, settings=SETTINGS).delete("unknown")
