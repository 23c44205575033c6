"""Each example, and the demo, on a real server with a real socket."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple, cast

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from basicauth_mw import encode_basic, hash_secret
from basicauth_mw.backends.backend import open_backend
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from basicauth_mw import Issued

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 20.0

SERVERS = {
    "fastapi": ["uvicorn", "examples.fastapi_app:app", "--port={port}", "--log-level=warning"],
    "flask": ["waitress", "--listen=127.0.0.1:{port}", "examples.flask_app:app"],
}

# These examples have only /hello, which returns the caller.
UVICORN = ["--port={port}", "--log-level=warning"]
WAITRESS = ["--listen=127.0.0.1:{port}"]
HELLO = {
    "starlette": ["uvicorn", "examples.starlette_app:app", *UVICORN],
    "django": ["waitress", *WAITRESS, "examples.django_app:application"],
    "django-admin": ["examples.django_admin", "runserver", "--noreload", "127.0.0.1:{port}"],
    "litestar": ["uvicorn", "examples.litestar_app:app", *UVICORN],
    "quart": ["uvicorn", "examples.quart_app:app", *UVICORN],
    "falcon": ["waitress", *WAITRESS, "examples.falcon_app:app"],
    "bottle": ["waitress", *WAITRESS, "examples.bottle_app:app"],
    "mounted-flask": ["uvicorn", "examples.mounted_flask_app:app", *UVICORN],
    "redis-workers": ["uvicorn", "examples.redis_workers:app", "--workers=2", *UVICORN],
    "own-store": ["uvicorn", "examples.own_store:app", *UVICORN],
}


def environment(**settings: str) -> dict[str, str]:
    """The environment of the tests, with only these settings of the package."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    return {**inherited, **settings}


@contextmanager
def serving(name: str, backend: str, log: Path, **settings: str) -> Iterator[httpx.Client]:
    """Serve an example until the block ends; yields a client for it."""
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port) for word in {**SERVERS, **HELLO}[name])]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(BASICAUTH_BACKEND=backend, **settings),
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
    """A valid key, a wrong one and none; the app's own 404, its exception, and its open paths."""
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
    for response in refused:
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Basic realm="api", charset="UTF-8"'
        assert response.headers["content-type"] == "application/problem+json"
    assert (missing.status_code, missing.json()) == (404, {"error": "no such thing here"})
    assert missing.headers["content-type"] == "application/json"
    assert (broken.status_code, broken.json()["code"]) == (500, "internal_error")
    assert "something broke" not in broken.text
    assert "something broke" in (tmp_path / "log").read_text()
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


def requires_a_key(client: httpx.Client, *paths: str, issued: Issued) -> None:
    """A valid key gets the app's response, a wrong one and none get ours."""
    for path in paths:
        good = client.get(path, auth=(issued.client_id, issued.secret))
        assert (good.status_code, good.json()["client_id"]) == (200, issued.client_id)
        for auth, code in (
            ((issued.client_id, "wrong"), "invalid_credentials"),
            (None, "missing_credentials"),
        ):
            refused = client.get(path, auth=auth)
            assert (refused.status_code, refused.json()["code"]) == (401, code)
            assert refused.headers["www-authenticate"] == 'Basic realm="api", charset="UTF-8"'
    assert client.get("/nowhere").status_code == 401


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    """A key in the file ``keys.db``."""
    with open_backend(f"sqlite:///{tmp_path}/keys.db", create=True) as backend:
        return backend.create(name="test")


@pytest.mark.parametrize(
    "name", ["starlette", "django", "litestar", "quart", "falcon", "bottle", "mounted-flask"]
)
def test_hello(name: str, issued: Issued, tmp_path: Path) -> None:
    paths = ["/hello", *(["/legacy/hello"] if name == "mounted-flask" else [])]

    with serving(name, f"sqlite:///{tmp_path}/keys.db", tmp_path / "log") as client:
        requires_a_key(client, *paths, issued=issued)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_starlette_websocket(issued: Issued, tmp_path: Path) -> None:
    with serving("starlette", f"sqlite:///{tmp_path}/keys.db", tmp_path / "log") as client:
        url = f"ws://127.0.0.1:{client.base_url.port}/echo"
        headers = {"Authorization": issued.authorization}
        with connect(url, additional_headers=headers, proxy=None) as websocket:
            websocket.send("\u3042")
            assert json.loads(websocket.recv(LIMIT_S)) == {"client_id": issued.client_id, "text": "\u3042"}
        for authorization in ({}, {"Authorization": encode_basic(issued.client_id, "wrong")}):
            with pytest.raises(InvalidStatus) as refused:
                connect(url, additional_headers=authorization, proxy=None)
            assert refused.value.response.status_code == 401


@pytest.mark.usefixtures("issued")
def test_django_checks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/django_app.py", "check"],
        cwd=ROOT,
        env=environment(BASICAUTH_BACKEND=f"sqlite:///{tmp_path}/keys.db"),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, "no issues" in done.stdout) == (0, True), done.stderr


def test_django_admin(tmp_path: Path) -> None:
    """Set the project up as its docstring says, sign in, create a key, and use it."""
    url = f"sqlite:///{tmp_path}/keys.db"
    open_backend(url, create=True).close()
    password = {"DJANGO_SUPERUSER_PASSWORD": "only-for-this-test"}
    database = {"DJANGO_DATABASE": str(tmp_path / "django.db")}
    for command in (
        ["check"],
        ["makemigrations", "--check"],
        ["migrate", "--verbosity=0"],
        ["createsuperuser", "--no-input", "--username=ada", "--email=ada@example.com"],
    ):
        subprocess.run(
            [sys.executable, "-W", "error", "examples/django_admin.py", *command],
            cwd=ROOT,
            env=environment(BASICAUTH_BACKEND=url, **password, **database),
            check=True,
            timeout=LIMIT_S,
        )

    with serving("django-admin", url, tmp_path / "log", **database) as client:

        def submit(path: str, **fields: str) -> httpx.Response:
            client.get(path)
            token = client.cookies["csrftoken"]
            return client.post(path, data={"csrfmiddlewaretoken": token, **fields})

        sign_in = submit("/admin/login/", username="ada", password=password["DJANGO_SUPERUSER_PASSWORD"])
        assert sign_in.status_code == 302
        page = submit("/admin/basicauth_mw/apikey/add/", client_id="ci", name="CI").text
        secret = re.search(r"sk_\w+", page)
        assert secret is not None
        assert client.get("/static/basicauth_mw/issued.js").status_code == 200
        assert client.get("/api/hello").status_code == 401
        assert client.get("/api/hello", auth=("ci", secret[0])).json() == {"client_id": "ci"}


def test_redis_workers(redis_url: str, tmp_path: Path) -> None:
    """Both workers accept the key, and neither after it is revoked."""
    with open_backend(redis_url) as backend:
        issued = backend.create()
        auth = (issued.client_id, issued.secret)
        with serving("redis-workers", redis_url, tmp_path / "log") as client:
            requires_a_key(client, "/hello", issued=issued)
            assert client.get("/ready").status_code == 204
            workers = set()
            while len(workers) < 2:
                workers.add(client.get("/hello", auth=auth).json()["worker"])
            backend.revoke(issued.client_id)
            time.sleep(0.25)  # the documented limit
            assert {client.get("/hello", auth=auth).status_code for _ in range(10)} == {401}


def test_own_store(tmp_path: Path) -> None:
    """A damaged file accepts no key, and does not give a 401."""
    teams = tmp_path / "teams.toml"
    teams.write_text(
        f'[team-a]\nname = "Team A"\nscopes = ["read"]\nhash = \'{hash_secret("correct horse")}\'\n'
    )
    with serving("own-store", "env:", tmp_path / "log", TEAMS=str(teams)) as client:
        key = SimpleNamespace(client_id="team-a", secret="correct horse")
        requires_a_key(client, "/hello", issued=cast("Issued", key))
        teams.write_text("no TOML")
        assert client.get("/hello", auth=("team-b", "x")).status_code == 503


def test_every_example_is_run() -> None:
    """By these tests, or by ``make test-system``."""
    served = {word.partition(":")[0] for words in {**SERVERS, **HELLO}.values() for word in words}
    for path in (ROOT / "examples").iterdir():
        if path.suffix == ".py":
            assert f"examples.{path.stem}" in served
        elif path.suffix == ".conf":
            assert path.name in (ROOT / "tests" / "system" / "test_nginx_front.py").read_text()


class Response(NamedTuple):
    status: int
    body: bytes


def paste(line: str) -> Response:
    """Send the request of a printed ``curl`` line, so that no curl is needed here."""
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
    response = httpx.request(
        method, url, content=body, auth=auth, headers=headers, timeout=LIMIT_S, trust_env=False
    )
    return Response(response.status_code, response.content)


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the demo with ``folder`` for its temporary files."""
    child = subprocess.Popen(
        [sys.executable, "-m", "basicauth_mw", "demo", *arguments],
        cwd=folder,  # any folder: the demo must not need the clone
        # The user's settings would only break the demo, so it ignores them.
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
    """Send a signal; return the status, and the output that has not been read yet."""
    child.send_signal(number)
    out, err = child.communicate(timeout=LIMIT_S)
    return child.returncode, out.decode(), err.decode()


def test_demo_prints_commands_that_work(tmp_path: Path) -> None:
    port = free_port()

    with demo(tmp_path, "--port", str(port)) as child:
        assert child.stdout is not None
        expected, lines = [], []
        while len(lines) < 8:
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
        responses = [paste(line) for line in lines]
        secret = next(line for line in lines if "sk_" in line).partition("sk_")[2][:40].encode()
        command_line = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        status, _, errors = stopped(child, signal.SIGTERM)

    assert [response.status for response in responses] == expected
    assert set(expected) == {200, 401, 404, 500, 504}
    assert json.loads(responses[0].body) == {"hello": "demo"}
    echoed = json.loads(responses[3].body)
    assert echoed["text"] == "hello"
    assert secret not in command_line
    assert status == 0
    # The only traceback is that of the exception in the app, which is expected in its log.
    assert errors.count("RuntimeError: something broke") == errors.count("Traceback (most recent call last)")
    assert secret.decode() not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_demo_exits_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """On any free port, with its keys in a file that remains, and with one JSON object for programs."""
    database = tmp_path / "demo.db"

    with demo(tmp_path, "--port", "0", "--database", str(database), "--json") as child:
        assert child.stdout is not None
        said = json.loads(child.stdout.readline())
        responses = [(each["status"], paste(each["curl"]).status) for each in said["requests"][:2]]
        page = httpx.get(
            said["dashboard"], auth=(said["client_id"], said["secret"]), timeout=LIMIT_S, trust_env=False
        )
        assert stopped(child, number) == (0, "", "")

    assert responses == [(200, 200), (401, 401)]
    assert (page.status_code, "API Keys" in page.text) == (200, True)
    assert list(said) == ["url", "client_id", "secret", "authorization", "token", "dashboard", "requests"]
    with open_backend(f"sqlite:///{database}") as backend:
        assert backend.get(said["client_id"]) is not None
