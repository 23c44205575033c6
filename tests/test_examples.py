"""Each example, and the demo, behind a real server on a real socket."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from basicauth_mw.backend import open_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 20.0

SERVERS = {
    "fastapi": ["uvicorn", "examples.fastapi_app:app", "--port={port}", "--log-level=warning"],
    "flask": ["waitress", "--listen=127.0.0.1:{port}", "examples.flask_app:app"],
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**settings: str) -> dict[str, str]:
    """The environment of the tests, with only these settings of ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    return {**inherited, **settings}


@contextmanager
def serving(name: str, backend: str, log: Path) -> Iterator[httpx.Client]:
    """Serve an example until the block ends; gives a client for it."""
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port) for word in SERVERS[name])]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(BASICAUTH_BACKEND=backend),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        ends = time.monotonic() + LIMIT_S
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            timeout=LIMIT_S,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),  # servers close after an exception
        ) as client:
            yield client
    finally:
        server.terminate()
        try:
            server.wait(LIMIT_S)
        finally:
            server.kill()


@pytest.mark.parametrize("name", SERVERS)
def test_example(name: str, tmp_path: Path) -> None:
    """A right key, a wrong one and none; the app's own 404, its exception, and what is open."""
    url = f"sqlite:///{tmp_path}/keys.db"
    with open_backend(url, create=True) as backend:
        issued = backend.create(name="test")
    right = (issued.client_id, issued.secret)
    wrong = (issued.client_id, "wrong")
    text = {"text": "\u3042"}

    with serving(name, url, tmp_path / "log") as client:
        good = client.post("/echo", json=text, auth=right)
        refused = [
            client.post("/echo", json=text),
            client.post("/echo", json=text, auth=wrong),
            client.get("/missing", auth=wrong),
            client.get("/nowhere"),
        ]
        missing = client.get("/missing", auth=right)
        broken = client.get("/broken", auth=right)
        health = client.get("/health")

    assert (good.status_code, good.json()) == (200, {"client_id": issued.client_id, **text})
    for answer in refused:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="api", charset="UTF-8"'
        assert answer.headers["content-type"] == "application/problem+json"
    assert (missing.status_code, missing.json()) == (404, {"error": "no such thing here"})
    assert missing.headers["content-type"] == "application/json"
    assert (broken.status_code, broken.json()["code"]) == (500, "internal_error")
    assert "something broke" not in broken.text
    assert "something broke" in (tmp_path / "log").read_text()
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


class Answer(NamedTuple):
    status: int
    body: bytes


def paste(line: str) -> Answer:
    """Do what a printed ``curl`` line does, so that no curl is needed here."""
    words = iter(shlex.split(line))
    assert next(words) == "curl"
    url, body, auth, headers = "", None, None, {}
    for word in words:
        match word:
            case "-i":
                pass
            case "-u":
                client_id, _, secret = next(words).partition(":")
                auth = (client_id, secret)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d":
                body = next(words).encode()
            case _:
                url = word
    method = "GET" if body is None else "POST"
    answer = httpx.request(
        method, url, content=body, auth=auth, headers=headers, timeout=LIMIT_S, trust_env=False
    )
    return Answer(answer.status_code, answer.content)


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the demo with ``folder`` for its temporary files."""
    child = subprocess.Popen(
        [sys.executable, "-m", "basicauth_mw", "demo", *arguments],
        cwd=folder,  # anywhere: it must not need the clone
        # Settings of whoever starts it would only break the demo, so it does not look at them.
        env=environment(
            TMPDIR=str(folder), BASICAUTH_BACKEND="redis://127.0.0.1:1", BASICAUTH_REQUIRE_HTTPS="1"
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def stopped(child: subprocess.Popen[bytes], number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal; status, and what was printed that nobody has read yet."""
    child.send_signal(number)
    out, err = child.communicate(timeout=LIMIT_S)
    return child.returncode, out.decode(), err.decode()


def test_demo_prints_lines_that_do_what_they_say(tmp_path: Path) -> None:
    port = free_port()

    with demo(tmp_path, "--port", str(port)) as child:
        assert child.stdout is not None
        expected, lines = [], []
        while len(lines) < 7:
            line = child.stdout.readline().decode()
            assert line, child.stderr and child.stderr.read().decode()
            if line.startswith("# "):
                expected.append(int(line[2:5]))
            elif line.startswith("curl "):
                assert f"http://127.0.0.1:{port}/" in line
                lines.append(line)
        child.stdout.readline()
        assert (
            child.stdout.readline().decode().startswith(f"The dashboard is at http://127.0.0.1:{port}/keys/ ")
        )
        answers = [paste(line) for line in lines]
        secret = next(line for line in lines if "sk_" in line).partition("sk_")[2][:40].encode()
        command_line = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        status, _, errors = stopped(child, signal.SIGTERM)

    assert [answer.status for answer in answers] == expected
    assert set(expected) == {200, 401, 404, 500, 504}
    echoed = json.loads(answers[0].body)
    assert echoed["text"] == "hello"
    assert secret not in command_line
    assert status == 0
    # The one traceback is that of the exception in the app, which its log is for.
    assert errors.count("RuntimeError: something broke") == errors.count("Traceback (most recent call last)")
    assert secret.decode() not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_demo_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """On any free port, with its keys in a file that stays, and one JSON object for programs."""
    database = tmp_path / "demo.db"

    with demo(tmp_path, "--port", "0", "--database", str(database), "--json") as child:
        assert child.stdout is not None
        said = json.loads(child.stdout.readline())
        answers = [(each["status"], paste(each["curl"]).status) for each in said["requests"][:2]]
        page = httpx.get(
            said["dashboard"], auth=(said["client_id"], said["secret"]), timeout=LIMIT_S, trust_env=False
        )
        assert stopped(child, number) == (0, "", "")

    assert answers == [(200, 200), (401, 401)]
    assert (page.status_code, "API Keys" in page.text) == (200, True)
    assert list(said) == ["url", "client_id", "secret", "authorization", "dashboard", "requests"]
    with open_backend(f"sqlite:///{database}") as backend:
        assert backend.get(said["client_id"]) is not None
