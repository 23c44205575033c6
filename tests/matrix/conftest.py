"""One process for each server, shared by all tests."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.matrix.kinds import SERVERS, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = {"BASICAUTH_KEYS": "demo:p@55w0rd,d\u00e9mo:\u5bc6\u7801\u5bc6\u7801", "BASICAUTH_THROTTLE": ""}


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Start a server by name, once in this process, whatever the order of the tests."""
    directory = tmp_path_factory.mktemp("server")
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(Server(name, directory / f"{name}.log", SETTINGS)))


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest, start: Callable[[str], Server]) -> Server:
    """A server that all tests share, so do not stop it. Pytest runs the tests server by server."""
    return start(request.param)
