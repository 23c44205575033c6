"""Custom stores, and code that manages keys."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import assert_type

from basicauth_mw import Backend, Issued, Key, Secret, Settings, hash_secret
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends import Changes, ReadableStore, Store, dump_key, load_key


class TeamStore:
    """Only ``get``."""

    def __init__(self, url: str = "team:") -> None:
        self._keys = {
            "a": Key(
                client_id="a",
                name="Team A",
                scopes={"read"},
                secrets=[Secret(hash=hash_secret("correct horse"))],
                metadata={"team": 1},
                expires_at=datetime.now(UTC) + timedelta(days=1),
            )
        }

    def get(self, client_id: str) -> Key | None:
        return self._keys.get(client_id)


class AsyncStore:
    """Only ``aget``."""

    async def aget(self, client_id: str) -> Key | None:
        return None


class WholeStore:
    """All of ``Store``."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def get(self, client_id: str, /) -> Key | None:
        text = self._texts.get(client_id)
        return None if text is None else load_key(text, client_id)

    def put(self, record: Key, /, expect_version: int | None) -> bool:
        stored = self.get(record.client_id)
        if (None if stored is None else stored.version) != expect_version:
            return False
        self._texts[record.client_id] = dump_key(record)
        return True

    def delete(self, client_id: str, /) -> bool:
        return self._texts.pop(client_id, None) is not None

    def scan(self, prefix: str, after: str, limit: int) -> Sequence[Key]:
        return [load_key(text, name) for name, text in self._texts.items() if name.startswith(prefix)][:limit]

    def changes(self, since: str | None) -> Changes:
        return Changes(cursor="0", client_ids=(), incomplete=since is not None)

    def close(self) -> None:
        self._texts.clear()


readable: ReadableStore = TeamStore()
store: Store = WholeStore()
factory: Callable[[str], ReadableStore] = TeamStore  # what an entry point names
loaded = [point.load() for point in entry_points(group="basicauth_mw.backends")]


async def app(scope: object, receive: object, send: object) -> None: ...


middlewares = [
    BasicAuthMiddleware(app, each, settings=Settings()) for each in (TeamStore(), AsyncStore(), store)
]

with Backend(store, settings=Settings()) as backend:
    issued = backend.create(name="ci", scopes=["read"], metadata={"a": [1]})
    assert_type(issued, Issued)
    assert_type(issued.secret, str)
    assert_type(backend.get("ci"), Key | None)
    assert_type(backend.ready(), bool)
    backend.update("ci", scopes=(), expires_at=None, metadata=None)
    names: list[str] = [key.name for key in backend.iter_keys(prefix="a", limit=10)]


async def look(backend: Backend) -> None:
    assert_type(await backend.aget("ci"), Key | None)
    assert_type(await backend.aready(), bool)
