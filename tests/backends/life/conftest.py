"""Fixtures of the life-cycle tests: a store, the process that changes keys, and another process."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from basicauth_mw import Backend

from tests.backends.life.helpers import (
    CLIENTS,
    AnyClient,
    Deployment,
)


@pytest.fixture(autouse=True)
def uses_are_written_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of these tests wait until a batch of last-used times is written."""
    monkeypatch.setattr("basicauth_mw.backends.usage._GATHER_S", 0.1)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BASICAUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def deployment(url: str) -> Iterator[Deployment]:
    with ExitStack() as stack:
        yield Deployment(url, stack)


@pytest.fixture
def backend(deployment: Deployment) -> Backend:
    """The process that changes keys."""
    return deployment.open()


@pytest.fixture(params=CLIENTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def here(deployment: Deployment, backend: Backend, kind: str) -> AnyClient:
    """Middleware in the process that changes keys, with the default cache."""
    return deployment.serve(kind, backend)


@pytest.fixture
def elsewhere(deployment: Deployment, kind: str) -> AnyClient:
    """Middleware of another process."""
    return deployment.serve(kind, deployment.open())


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """The audit events since the last call."""
    caplog.set_level(logging.DEBUG)
    taken = 0

    def take() -> list[dict[str, Any]]:
        nonlocal taken
        found = [record for record in caplog.records if record.name == "basicauth_mw.audit"]
        new, taken = found[taken:], len(found)
        return [record.basicauth for record in new]  # type: ignore[attr-defined]

    return take
