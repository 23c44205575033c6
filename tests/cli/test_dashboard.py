"""``dashboard``: it serves the dashboard alone, on this machine."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from basicauth_mw.backends.backend import open_backend
from basicauth_mw.cli import dashboard, demo
from basicauth_mw.dashboard import ADMIN_SCOPE
from basicauth_mw.keys.generated_secrets import generate
from tests.cli.helpers import LIMIT_S, Done, ended, process

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("as_json", [True, False])
def test_dashboard_serves_until_it_is_interrupted(url: str, as_json: bool) -> None:
    with open_backend(url, create=True) as backend:
        admin = backend.create(scopes=[ADMIN_SCOPE])
        reader = backend.create(scopes=["read"])

    arguments = ("--backend", url, "--port", "0", *(["--json"] if as_json else []))
    with process("dashboard", *arguments) as child:
        assert child.stdout is not None
        said = child.stdout.readline().decode()
        rest = "" if as_json else "".join(child.stdout.readline().decode() for _ in range(2))
        address = json.loads(said)["url"] if as_json else said.split()[4]
        seen = [
            httpx.get(address, auth=(each.client_id, each.secret), timeout=LIMIT_S, trust_env=False)
            for each in (admin, reader)
        ]
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=LIMIT_S)

    assert address.startswith("http://127.0.0.1:")
    assert [each.status_code for each in seen] == [200, 403]
    assert (child.returncode, err) == (0, b"")
    assert out == b""
    assert as_json or f"--scope {ADMIN_SCOPE}" in rest


def test_dashboard_suggests_nothing_that_its_backend_refuses() -> None:
    arguments = ("dashboard", "--backend", "env:", "--port", "0")
    with process(*arguments, env={"BASICAUTH_KEYS": f"x:{generate('sk')}"}) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline().decode() for _ in range(3)]
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=LIMIT_S)

    assert "keys create" not in "".join(lines)
    assert ADMIN_SCOPE in lines[2]


def test_dashboard_reports_that_its_port_is_in_use(url: str) -> None:
    with open_backend(url, create=True), socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        ended("dashboard", "--backend", url, "--port", str(port)).failed_with(f"port {port}")


@pytest.mark.parametrize(
    ("package", "says"), [("jinja2", "basicauth_mw[dashboard]"), ("uvicorn", "pip install uvicorn")]
)
def test_dashboard_names_the_extra_to_install(
    without: Callable[..., Callable[..., Done]], package: str, says: str
) -> None:
    without(package)("dashboard").failed_with(says)


def test_dashboard_needs_a_server(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "find_spec", lambda _name: None)

    cli("dashboard").failed_with("pip install uvicorn")


@pytest.mark.parametrize("as_json", [True, False])
def test_demo_does_without_the_dashboard(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """If its extra is not installed, the demo prints the command, and serves the rest."""
    served: list[Any] = []
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "jinja2" else object())
    monkeypatch.setattr(demo, "serve", lambda app, _listener: served.append(app))
    monkeypatch.setattr(demo.logging, "basicConfig", lambda **_: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        done = cli("demo", "--port", "0", *(["--json"] if as_json else []))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    assert done.status == 0
    assert len(served) == 1
    if as_json:
        assert done.json["dashboard"] is None
    else:
        assert "pip install 'basicauth_mw[dashboard]'" in done.out
