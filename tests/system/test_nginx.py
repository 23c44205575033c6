"""The table of requests of ``tests/gateways`` with the operating system's nginx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.gateway import KINDS, Gateway, run
from tests.gateways.test_gateways import TestGateway as TestNginx
from tests.gateways.test_gateways import issued as issued

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TestNginx"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run(KINDS["nginx"], tmp_path_factory.mktemp("nginx")) as running:
        yield running
