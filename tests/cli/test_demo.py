"""``demo``, the parts that need no server."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.cli.helpers import (
    Done,
    ended,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_demo_names_the_extra_to_install(without: Callable[..., Callable[..., Done]]) -> None:
    without("fastapi", "uvicorn")("demo").failed_with("pip install fastapi uvicorn")


def test_demo_reports_that_its_port_is_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = ended("demo", "--port", str(port), env={"TMPDIR": str(tmp_path)})

    done.failed_with(f"port {port}")
    assert not list(tmp_path.iterdir())


def test_demo_has_a_separate_store(tmp_path: Path) -> None:
    done = ended("--backend", f"sqlite:///{tmp_path}/other.db", "demo", "--port", "0")

    done.failed_with("--database", status=2)
    assert not list(tmp_path.iterdir())
