"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.redis_server import RedisCluster, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_server import PostgresServer

# Tests that need more than PyPI run only on request: make test-system.
collect_ignore = ["system"]

gc.disable()  # until all tests are collected

# A busy machine must not fail a test; the benchmarks measure speed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# Under nohup, in the background of a script, and with some CI runners, these signals are ignored, also in all
# processes that the tests start. A handler in Python is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def pytest_configure() -> None:
    """Keep temporary files in memory if there is space: tests do not wait for a disk."""
    memory = Path("/dev/shm")
    if "TMPDIR" not in os.environ and os.access(memory, os.W_OK):
        status = os.statvfs(memory)
        if status.f_bavail * status.f_frsize > 1 << 30 and not status.f_flag & os.ST_NOEXEC:
            os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


def pytest_collection_finish() -> None:
    """Keep thousands of collected tests out of every garbage collection, here and in forked processes."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server that all tests of this process share, so do not stop it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """A backend URL with a prefix that no other test uses."""
    return redis_server.url(f"test-{secrets.token_hex(8)}")


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A server that the test may stop, freeze and fill."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """Three nodes that all tests of this process share, so do not stop them."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    """A backend URL with a prefix that no other test uses."""
    return redis_cluster.url(f"test-{secrets.token_hex(8)}")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server that all tests of this process share, so do not stop it."""
    from tests.postgres_server import PostgresServer

    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A backend URL with empty tables, in a schema that no other test uses."""
    return postgres_server.url_with_tables(f"test_{secrets.token_hex(8)}")


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A server that the test may stop, freeze and configure."""
    from tests.postgres_server import PostgresServer

    with PostgresServer() as server:
        yield server
