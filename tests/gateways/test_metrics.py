"""``examples/gateways/key_service.py``: metrics on a port of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx

from basicauth_mw import encode_basic, open_backend
from tests.gateways.gateway import EXAMPLES, stop
from tests.waiting import free_port, listens, wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_the_service_has_metrics_on_a_port_of_their_own(tmp_path: Path) -> None:
    port, metrics_port = free_port(), free_port()
    url = f"sqlite:///{tmp_path}/keys.db"
    with open_backend(url, create=True) as keys:
        issued = keys.create()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    environ |= {"BASICAUTH_BACKEND": url, "METRICS_PORT": str(metrics_port)}
    words = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "key_service:app", f"--port={port}"]
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(words, env=environ, stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(port) or child.poll() is not None)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for authorization in (issued.authorization, issued.authorization, encode_basic("x", "wrong")):
                client.get("/check", headers={"Authorization": authorization})
            assert client.get("/metrics").status_code == 404
        seen = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", trust_env=False).text
    finally:
        stop(child)
    assert 'basicauth_decisions_total{decision="allow",reason="ok"} 2.0' in seen
    assert 'basicauth_decisions_total{decision="deny",reason="unknown"} 1.0' in seen
    assert "basicauth_cache_hits_total 1.0" in seen
