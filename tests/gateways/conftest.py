"""The gateways whose programs come from PyPI; nginx is in ``tests/system``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.gateway import KINDS, Gateway, run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["caddy", "envoy", "haproxy"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that the tests of a module share; its service accepts every scheme."""
    with run(KINDS[request.param], tmp_path_factory.mktemp(request.param)) as running:
        yield running
