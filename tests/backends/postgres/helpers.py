"""Helpers of the tests of the Postgres store."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw.backends.postgres.store import PostgresStore
    from tests.postgres_server import PostgresServer

FAST = "$bamw1$0$" + "A" * 16 + "$" + "B" * 43


def key(client_id: str, version: int = 1, **fields: Any) -> Key:
    created_at = datetime(2024, 1, 1, tzinfo=UTC)
    secrets = (Secret(FAST, created_at),)
    return Key(client_id, created_at=created_at, version=version, secrets=secrets, **fields)


def on_thread(store: PostgresStore) -> Key | None:
    return store.get("id")


def on_loop(store: PostgresStore) -> Key | None:
    async def main() -> Key | None:
        try:
            return await store.aget("id")
        finally:
            await store.aclose()

    return asyncio.run(asyncio.wait_for(main(), 20))


BOTH: list[Callable[[PostgresStore], Key | None]] = [on_thread, on_loop]


def clients_of(server: PostgresServer) -> set[int]:
    """The connections of stores."""
    rows = server.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'basicauth_mw'")
    return {pid for (pid,) in rows}


def together(*works: Callable[[], object]) -> None:
    """Call each on a thread of its own; fail if one fails."""
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
