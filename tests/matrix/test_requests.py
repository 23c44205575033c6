"""Every request of the table, on every server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.matrix.cases import APP, CASES, MISSING, OPEN, Case
from tests.matrix.client import Response, head, send
from tests.matrix.conftest import SETTINGS
from tests.matrix.kinds import Server
from tests.matrix.quirks import SCRIPT_NAME_FIELD

if TYPE_CHECKING:
    from pathlib import Path

CHALLENGE = 'Basic realm="api", charset="UTF-8"'


def check_refusal(response: Response, method: str = "GET") -> None:
    """Check that a response of the middleware is complete and has all its headers."""
    assert response.whole
    assert response.values("www-authenticate") == ([CHALLENGE] if response.status == 401 else [])
    assert response.value("cache-control") == "no-store"
    assert response.value("x-content-type-options") == "nosniff"
    assert re.fullmatch("[0-9A-Za-z._-]+", response.value("x-request-id") or "")
    if method != "HEAD":
        assert response.value("content-length") == str(len(response.body))
        assert response.json()["request_id"] == response.value("x-request-id")


@pytest.mark.parametrize("name", sorted(SCRIPT_NAME_FIELD.servers))
def test_no_mount_point_from_clients(name: str, tmp_path: Path) -> None:
    """As docs/servers.md recommends: gunicorn then accepts none from clients."""
    with Server(name, tmp_path / "log", SETTINGS, ("--forwarder-headers", "")) as server:
        for case in CASES:
            if case.id.startswith("script-name"):
                assert send(server, case.raw).outcome == case.expected


# The options that set the mount point.
ROOT_PATH = {
    "uvicorn-h11": ("--root-path", "/x"),
    "hypercorn": ("--root-path", "/x"),
    "granian-asgi": ("--url-path-prefix", "/x"),
    "daphne": ("--root-path", "/x"),
    "gunicorn-asgi": ("--root-path", "/x"),
}


@pytest.mark.parametrize("name", ROOT_PATH)
def test_a_mount_point(name: str, tmp_path: Path) -> None:
    """With ``root_path`` set, excluded paths are open below the mount point, and nothing else is."""
    settings = {**SETTINGS, "BASICAUTH_ROOT_PATH": "/x"}
    with Server(name, tmp_path / "log", settings, ROOT_PATH[name]) as server:
        # Some servers prepend the mount point to the path, others expect it there.
        below = {target: send(server, head(target=target)).outcome for target in (b"/health", b"/x/health")}
        assert OPEN in below.values(), below
        for target in (b"/hello", b"/x/hello", b"/x", b"/xhealth", b"/X/health"):
            outcome = send(server, head(target=target)).outcome
            assert outcome in (MISSING, "server 404"), (target, outcome)


@pytest.mark.proves("H1", "H2", "H3", "H8", "H9", "H10", "H15", "A2", "A15", "O7")
@pytest.mark.proves("X19", "X20", "X23", "X24", "X25", "X28", "X29", "X30")
@pytest.mark.proves("X31", "X36", "X37", "X38", "X40", "X42", "X48")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_request(server: Server, case: Case) -> None:
    """Without the key only open paths are served, however a server parses the request."""
    logged = server.log.stat().st_size
    response = send(server, case.raw, case.method)
    outcome = response.outcome

    # First the checks that matter for security, independent of the table.
    if outcome == APP:
        assert case.has_key
    if outcome == OPEN:
        path = response.json()["path"]
        assert path == "/health" or path.startswith("/open/")
        assert ".." not in path
    if outcome not in (APP, OPEN) and not outcome.startswith(("server", "hangs")):
        assert response.status == 401
        check_refusal(response, case.method)
    assert outcome == case.expected_of(server.name)
    assert b"Traceback" not in server.log.read_bytes()[logged:]
