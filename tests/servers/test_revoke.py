"""Every worker of a real server refuses a revoked key in a quarter of a second, with a file in one."""

from __future__ import annotations

import time
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Settings, encode_basic, open_backend
from tests.servers.conftest import WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from basicauth_mw import Backend
    from tests.servers.conftest import Served

REPEATS = 8
BOUND_S = 0.25
LIMIT_S = 20.0


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'keys.db'}"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def keys(url: str) -> Iterator[Backend]:
    with open_backend(url, settings=Settings(), create=True) as opened:
        yield opened


def status_and_worker(connection: HTTPConnection, authorization: str) -> tuple[int, int]:
    """The status, and the process ID of the worker if the status is 200."""
    connection.request("GET", "/", headers={"Authorization": authorization})
    response = connection.getresponse()
    body = response.read()
    return response.status, int(body) if response.status == 200 else 0


def reach_all(port: int, authorization: str, stack: ExitStack) -> dict[int, HTTPConnection]:
    """Open a connection to each worker. The kernel selects the worker, so this takes several tries."""
    reached: dict[int, HTTPConnection] = {}
    end = time.monotonic() + LIMIT_S
    while len(reached) < 4:
        assert time.monotonic() < end, f"only {len(reached)} workers were reached"
        connection = HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        stack.callback(connection.close)
        status, worker = status_and_worker(connection, authorization)
        assert status == 200
        reached.setdefault(worker, connection)
    return reached


@pytest.mark.proves("F24", "F31")
@pytest.mark.parametrize("server", WORKERS)
def test_every_worker_refuses_a_revoked_key(
    server: str, url: str, keys: Backend, serve: Callable[..., Served]
) -> None:
    """The cache would keep the key for an hour. The median must be below the limit, since machines pause."""
    served = serve(server, BASICAUTH_BACKEND=url, BASICAUTH_CACHE_TTL_S="3600")
    taken: list[float] = []
    with ExitStack() as stack:
        workers = reach_all(served.port, keys.create().authorization, stack).values()
        for _ in range(REPEATS):
            issued = keys.create()
            for connection in workers:  # now the key is cached in each worker
                assert status_and_worker(connection, issued.authorization)[0] == 200
            keys.revoke(issued.client_id)
            begin = time.monotonic()
            left = list(workers)
            while left := [each for each in left if status_and_worker(each, issued.authorization)[0] != 401]:
                assert time.monotonic() < begin + LIMIT_S, "it is still accepted"
            taken.append(time.monotonic() - begin)
    assert sorted(taken)[REPEATS // 2] < BOUND_S


@pytest.mark.proves("F24", "F31")
@pytest.mark.parametrize("server", WORKERS)
def test_every_worker_reads_a_changed_key_file(
    server: str, tmp_path: Path, serve: Callable[..., Served]
) -> None:
    """The cache would keep the key for an hour. The file is replaced by renaming."""
    path = tmp_path / "keys"

    def write(secret: str) -> str:
        (tmp_path / "new").write_text(f"ci:{secret}\n")
        (tmp_path / "new").rename(path)
        return encode_basic("ci", secret)

    authorization = write("a password of ci")
    served = serve(server, BASICAUTH_BACKEND=f"file:{path}", BASICAUTH_CACHE_TTL_S="3600")
    taken: list[float] = []
    with ExitStack() as stack:
        workers = reach_all(served.port, authorization, stack).values()
        for number in range(REPEATS):
            for connection in workers:  # now the key is cached in each worker
                assert status_and_worker(connection, authorization)[0] == 200
            old, authorization = authorization, write(f"password {number} of ci")
            begin = time.monotonic()
            left = list(workers)
            while left := [each for each in left if status_and_worker(each, old)[0] != 401]:
                assert time.monotonic() < begin + LIMIT_S, "it is still accepted"
            taken.append(time.monotonic() - begin)
    assert sorted(taken)[REPEATS // 2] < 1.0
