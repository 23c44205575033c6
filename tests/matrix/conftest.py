"""One process for each server, shared by all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.matrix.kinds import SERVERS, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = {"BASICAUTH_KEYS": "demo:p@55w0rd,d\u00e9mo:\u5bc6\u7801\u5bc6\u7801", "BASICAUTH_THROTTLE": ""}


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that all tests share, so do not stop it. Pytest runs the tests server by server."""
    log = tmp_path_factory.mktemp("server") / f"{request.param}.log"
    with Server(request.param, log, SETTINGS) as running:
        yield running
