"""A secret appears in plain text only once, when it is created.

Two canaries, a generated secret and a password, go through every operation with secrets. Then the tests
search all output for them, in every encoding that software may use.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from base64 import b64encode
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, quote_plus

import pytest

from basicauth_mw import Backend, Credentials, Key, Secret, Settings, encode_basic, open_backend, parse_basic
from basicauth_mw import asgi as asgi_shell
from basicauth_mw import wsgi as wsgi_shell
from basicauth_mw.errors import BasicAuthError
from basicauth_mw.keys.generated_secrets import generate
from tests.asgi import helpers as asgi_helpers
from tests.redis_server import RedisServer
from tests.waiting import free_port, listens, wait_until
from tests.wsgi import helpers as wsgi_helpers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "basicauth_mw"]
LIMIT_S = 30.0

GENERATED = generate("sk")
PASSWORD = "Kanarienvögel 'Ünter' dem \U0001f511 Dach"
OTHERS = (generate("sk"), 'Zaunkönige "über" \U0001f511 Nacht')  # the new secrets of a rotation
CANARIES = (GENERATED, PASSWORD, *OTHERS)
CHANGED = GENERATED[:-1] + (
    "a" if GENERATED[-1] != "a" else "b"
)  # one character differs, so the checksum is wrong

HASH = re.compile(r"\$(bamw1|argon2id|2b)\$")


def core(secret: str) -> str:
    """A part of the secret, which is also in a truncated secret."""
    return secret[4:20]


def spellings(secret: str) -> dict[str, bytes]:
    """The core of a secret in every encoding that software may use."""
    text = core(secret)
    data = text.encode()
    found = {
        "raw": data,
        "reversed": text[::-1].encode(),
        "utf-16": text.encode("utf-16-le"),
        "utf-8 decoded as latin-1": data.decode("latin-1").encode(),
        "url": quote(text, safe="").encode(),
        "path": quote(text).encode(),
        "form": quote_plus(text).encode(),
        "repr": repr(text)[1:-1].encode(),
        "ascii": ascii(text)[1:-1].encode(),
        "bytes": repr(data)[2:-1].encode(),
        "json": json.dumps(text)[1:-1].encode(),
        "json twice": json.dumps(json.dumps(text)[1:-1])[1:-1].encode(),
        "hex": data.hex().encode(),
        "numbers": ", ".join(map(str, data)).encode(),
    }
    for before in range(3):  # base64 has three encodings for the same bytes
        whole = b64encode(b"x" * before + data)
        inner = whole[4 if before else 0 :][: (len(data) - 4) // 3 * 4]
        found[f"base64-{before}"] = inner
        found[f"base64url-{before}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    return found


def hashes_of(key: Key) -> list[bytes]:
    """The digests in a key's hashes."""
    return [secret.hash.rpartition("$")[2].encode() for secret in key.secrets]


def assert_clean(data: bytes | str, *, raw_only: bool = False) -> None:
    """Check that no canary appears."""
    haystack = data if isinstance(data, bytes) else data.encode("utf-8", "backslashreplace")
    for number, secret in enumerate(CANARIES):
        for form, needle in spellings(secret).items():
            if raw_only and form.startswith("base64"):
                continue
            at = haystack.find(needle)
            assert at < 0, f"canary {number} as {form}, in {haystack[max(0, at - 80) : at + 40]!r}"


@pytest.mark.proves("X43")
@pytest.mark.parametrize("secret", CANARIES, ids=["generated", "password", "generated-2", "password-2"])
def test_the_search_finds_the_canary(secret: str) -> None:
    """Without this, the other tests would be meaningless."""
    credentials = f"some-id:{secret}".encode()
    for text in (
        secret,
        repr(secret),
        ascii({"secret": secret}),
        json.dumps([secret]),
        quote(f"id:{secret}@host", safe=""),
        repr(credentials),
        credentials.hex(),
        encode_basic("ci", secret),
        encode_basic("other", secret),
        encode_basic("third", secret),
        secret[2:25],
    ):
        with pytest.raises(AssertionError, match="canary"):
            assert_clean(text)
    assert_clean("Basic " + b64encode(b"ci:something else").decode())


class Everything(logging.Handler):
    """Collects the records of all loggers, with every attribute and every traceback.

    Attributes:
        collected: Messages, attributes and tracebacks.
        locals: Tracebacks with the local variables of all frames.
    """

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.collected: list[str] = []
        self.locals: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.collected += [
            record.getMessage(),
            repr(vars(record)),
            str(record.exc_text),
            str(record.stack_info),
        ]
        if record.exc_info and record.exc_info[1]:
            self.take(record.exc_info[1])

    def take(self, exc: BaseException) -> None:
        """Collect an exception as tracebacks and error monitors show it."""
        self.collected += [str(exc), repr(exc), repr(exc.args), *traceback.format_exception(exc)]
        self.locals += traceback.TracebackException.from_exception(exc, capture_locals=True).format()


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> Iterator[Everything]:
    """Debug logging of all loggers."""
    for name in [name for name in os.environ if name.startswith("BASICAUTH_")]:
        monkeypatch.delenv(name)
    handler = Everything()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.NOTSET)
    for name in ("basicauth_mw", "basicauth_mw.audit", "asyncio", "redis"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


class BothApps:
    """An app whose path /broken raises, in both middlewares."""

    def __init__(self, backend: Any, settings: Settings, everything: Everything) -> None:
        self.asgi = asgi_shell.BasicAuthMiddleware(self._asgi, backend, settings=settings)
        self.wsgi = wsgi_shell.BasicAuthMiddleware(self._wsgi, backend, settings=settings)
        self._backend = backend
        self._everything = everything
        self._loop = asyncio.Runner(debug=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._loop:
            if isinstance(self._backend, Backend):
                self._loop.run(self._backend.aclose())

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/broken":
            raise RuntimeError(f"broken for {scope['user']!r}")
        await asgi_helpers.App()(scope, receive, send)

    def _wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/broken":
            raise RuntimeError(f"broken for {environ['basicauth_mw.principal']!r}")
        start_response("200 OK", [])
        return [b"hello"]

    def send_request(self, authorization: str, path: str = "/") -> set[int]:
        """Send a request to both, and collect the responses and the exceptions."""
        scope = asgi_helpers.http_scope(authorization, path=path)
        seen = self._loop.run(asgi_helpers.exchange(self.asgi, scope))
        response = wsgi_helpers.call(self.wsgi, authorization, path=path)
        self._everything.collected += [repr(seen.messages), repr(response.starts), repr(response.body)]
        for raised in (seen.raised, response.raised, response.starts[-1][2] and response.starts[-1][2][1]):
            if raised is not None:
                self._everything.take(raised)
        return {seen.status, response.status}


def basic(data: bytes) -> str:
    return f"Basic {b64encode(data).decode()}"


def run_life_cycle(backend: Backend, everything: Everything, *, settings: Settings) -> list[Any]:
    """Use the canaries in a complete life cycle; return every public object that handled one."""
    with BothApps(backend, settings, everything) as apps:
        return [backend, settings, apps.asgi, apps.wsgi, *life_cycle(backend, apps, everything)]


def life_cycle(backend: Backend, apps: BothApps, everything: Everything) -> list[Any]:
    touched: list[Any] = []
    for client_id, first, second in (("generated", GENERATED, OTHERS[0]), ("password", PASSWORD, OTHERS[1])):
        issued = backend.create(client_id=client_id, secret=first, name="canary")
        touched += [issued, issued.key, *issued.key.secrets, parse_basic(issued.authorization)]
        touched += [Credentials(client_id, first), Secret(backend.hash(first))]
        for _ in range(2):
            assert apps.send_request(issued.authorization) == {200}
        assert apps.send_request(issued.authorization, "/broken") == {500}
        for wrong in (basic(f"{client_id}:{first}x".encode()), encode_basic("unknown", first)):
            assert apps.send_request(wrong) == {401}
        refused: list[tuple[Callable[..., object], dict[str, Any]]] = [
            (backend.create, {"client_id": client_id, "secret": first}),
            (backend.create, {"client_id": "new", "secret": f"{first}\n"}),
            (backend.create, {"client_id": "new", "secret": first * 40}),
            (backend.create, {"client_id": "new", "secret": first, "name": "n" * 201}),
            (backend.rotate, {"client_id": client_id, "secret": second, "overlap_s": -1}),
            (backend.rotate, {"client_id": "unknown", "secret": first}),
            (backend.rotate, {"client_id": client_id, "secret": first}),
            (backend.hash, {"secret": f"{first}\0"}),
            (encode_basic, {"client_id": "a:b", "secret": first}),
            (encode_basic, {"client_id": "a", "secret": f"{first}\0"}),
            (parse_basic, {"value": basic(first.encode())}),
            (parse_basic, {"value": basic(f"{client_id}:{first}\0".encode())}),
            (parse_basic, {"value": f"Bearer {first}".encode()}),
        ]
        for act, arguments in refused:
            with pytest.raises(BasicAuthError) as error:
                act(**arguments)
            everything.collected += [str(error.value), repr(error.value), repr(error.value.args)]
            everything.collected += traceback.format_exception(error.value)
        rotated = backend.rotate(client_id, secret=second, overlap_s=0)
        touched += [rotated, rotated.key, *rotated.key.secrets, backend.get(client_id)]
        assert apps.send_request(rotated.authorization) == {200}
        assert apps.send_request(issued.authorization) == {401}
        for path in ("/", "/broken"):
            apps.send_request(rotated.authorization, path)
    for malformed in (
        *(
            basic(b"generated:" + CHANGED.encode()),
            f"Bearer {GENERATED}",
            basic(GENERATED.encode()),
            GENERATED,
        ),
        *(basic(PASSWORD.encode("latin-1", "replace")), basic(f"generated:{PASSWORD}\0".encode())),
        *(
            f"{encode_basic('generated', GENERATED)}, {encode_basic('generated', GENERATED)}",
            f"Basic {GENERATED}",
        ),
    ):
        assert apps.send_request(malformed) == {401}
    backend.update("generated", metadata={"a": 1})
    backend.disable("generated")
    assert apps.send_request(encode_basic("generated", OTHERS[0])) == {401}
    backend.revoke("password")
    assert apps.send_request(encode_basic("password", OTHERS[1])) == {401}
    return touched


def ours() -> Iterable[object]:
    """Every existing object of this package."""
    gc.unfreeze()
    return [
        each
        for each in gc.get_objects()
        if str(type(each).__module__).partition(".")[0] == "basicauth_mw" and not isinstance(each, type)
    ]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path / 'keys.db'}"
        case "redis":
            return str(request.getfixturevalue("redis_url"))
        case _:
            return "memory:"


@pytest.mark.proves("P7", "O6", "X43")
def test_no_log_error_or_repr_contains_a_secret(
    url: str, everything: Everything, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor a hash: debug logs, responses, exceptions with their tracebacks, and every ``repr``."""
    settings = Settings(throttle="", backend_deadline_s=5.0, pepper=(PASSWORD, GENERATED))
    backend = open_backend(url, settings=settings, create=True)
    touched = run_life_cycle(backend, everything, settings=settings)
    shown = [repr(each) for each in (*touched, *ours())] + [str(each) for each in touched]
    hashes = {hashed for each in touched if isinstance(each, Key) for hashed in hashes_of(each)}
    assert len(hashes) >= 4
    out = "".join(capfd.readouterr())

    text = "\n".join([*everything.collected, *shown, out])
    assert_clean(text)
    for hashed in hashes:
        assert hashed not in text.encode()
    assert_clean("\n".join(everything.locals), raw_only=True)  # the server itself keeps the header
    assert "broken for Principal" in text
    assert "key.rotated" in text


class Broken:
    """A third-party store that raises an exception with all its secrets."""

    def __init__(self) -> None:
        self.password = GENERATED

    def get(self, client_id: str) -> Key | None:
        password, sent = self.password, PASSWORD
        raise RuntimeError(f"cannot connect with {password} {sent}")


@pytest.mark.proves("P7", "X43")
def test_no_outage_shows_a_secret(everything: Everything, own_redis_server: RedisServer) -> None:
    """A store's exception may contain its password, and a server may stop at any point."""
    url = own_redis_server.url().replace("redis://", f"redis://:{quote(PASSWORD, safe='')}@")
    settings = Settings(throttle="", backend_deadline_s=0.3)
    backend = open_backend(url, settings=settings)
    own_redis_server.stop()
    for store in (backend, Broken()):
        with BothApps(store, settings, everything) as apps:
            for secret in CANARIES:
                assert apps.send_request(encode_basic("ci", secret)) == {503}
            everything.collected += [repr(apps.asgi), repr(apps.wsgi), repr(store)]
    for act in (lambda: backend.create(secret=PASSWORD), lambda: backend.rotate("ci", secret=GENERATED)):
        with pytest.raises(BasicAuthError) as error:
            act()
        everything.collected += [
            str(error.value),
            repr(error.value),
            *traceback.format_exception(error.value),
        ]

    assert any("is unavailable" in line for line in everything.collected)
    assert_clean("\n".join(everything.collected))
    assert_clean("\n".join(everything.locals), raw_only=True)


# --- on disk and on the network


@pytest.mark.proves("B8", "X43")
def test_no_sqlite_file_contains_a_secret(tmp_path: Path, everything: Everything) -> None:
    """Neither the file nor its log, open or closed."""
    file = tmp_path / "keys.db"
    settings = Settings(throttle="", pepper=(PASSWORD,))
    seen = b""
    with open_backend(f"sqlite:///{file}", settings=settings, create=True) as backend:
        run_life_cycle(backend, everything, settings=settings)
        backend.delete("password")
        backend.get("generated")
        (hashed,) = hashes_of(backend.get("generated") or Key(""))
        seen = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
        assert hashed in seen, "the stored hash must be in the files"
        assert_clean(seen)
    assert_clean(b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir())))


class Wiretap:
    """All commands that a Redis server gets, from MONITOR."""

    def __init__(self, server: RedisServer) -> None:
        self._connection = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)
        self._connection.sendall(b"MONITOR\r\n")
        assert self._connection.recv(5) == b"+OK\r\n"
        self.heard = b""
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(OSError):
            while data := self._connection.recv(65536):
                self.heard += data

    def close(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT_S)
        self._connection.close()


@pytest.mark.proves("B8", "X43")
def test_no_redis_dump_contains_a_secret(everything: Everything) -> None:
    """Neither the commands, the slow log nor the dump."""
    import redis

    with (
        RedisServer("--rdbcompression", "no", "--slowlog-log-slower-than", "0") as server,
        ExitStack() as stack,
    ):
        tap = Wiretap(server)
        stack.callback(tap.close)
        settings = Settings(throttle="", backend_deadline_s=5.0, pepper=(PASSWORD,))
        backend = stack.enter_context(open_backend(server.url(), settings=settings))
        run_life_cycle(backend, everything, settings=settings)
        (hashed,) = hashes_of(backend.get("generated") or Key(""))
        client = stack.enter_context(redis.Redis(port=server.port))
        client.slowlog_get(1000)
        dumps = b"".join(client.dump(name) or b"" for name in client.scan_iter(count=1000))
        client.save()
        file = Path(client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"])
        saved = file.read_bytes()
        slow = repr(client.slowlog_get(1000))
        client.echo("the end")
        wait_until(lambda: b"the end" in tap.heard)

        assert hashed in dumps
        assert hashed in saved
        assert hashed in tap.heard
        for data in (dumps, saved, slow, tap.heard):
            assert_clean(data)


# --- processes


class Watched:
    """A process whose arguments and environment are read continuously while it runs.

    Attributes:
        seen: Arguments and environments of the process and its children, from /proc.
        reads: How often they were read.
    """

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
        self.process = subprocess.Popen(
            arguments, cwd=ROOT, env={**inherited, **(env or {})}, start_new_session=True, **options
        )
        self.seen: set[bytes] = set()
        self.reads = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            for folder in self._folders():
                for name in ("cmdline", "environ"):
                    with suppress(OSError):
                        self.seen.add((folder / name).read_bytes())
            self.reads += 1
            time.sleep(0.002)

    def _folders(self) -> list[Path]:
        folder = Path("/proc", str(self.process.pid))
        children = ""
        with suppress(OSError):
            children = (folder / "task" / folder.name / "children").read_text()
        return [folder, *(Path("/proc", child) for child in children.split())]

    def communicate(self, stdin: bytes | None = None) -> tuple[bytes, bytes]:
        out, err = self.process.communicate(stdin, timeout=LIMIT_S)
        self._thread.join(LIMIT_S)
        assert self.reads > 3
        assert_clean(b"".join(self.seen))
        return out or b"", err or b""


@pytest.mark.proves("X43", "X44")
def test_the_command_line_shows_a_secret_once(tmp_path: Path) -> None:
    """When it is created or encoded; never to ``ps``, and never a hash."""
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    export = tmp_path / "export.jsonl"
    sheet = tmp_path / "keys.csv"
    sheet.write_text(f'other,{OTHERS[0]}\nbad id:,{GENERATED}\nmistyped,{CHANGED}\ntoo,many,"{PASSWORD}"\n')
    sheet.chmod(0o600)
    collected = b""

    def run(
        *arguments: str, stdin: str | None = None, status: int = 0, shows: bool = False
    ) -> tuple[bytes, bytes]:
        nonlocal collected
        pipe = subprocess.PIPE
        child = Watched(
            *COMMAND, *arguments, env={"BASICAUTH_BACKEND": url}, stdin=pipe, stdout=pipe, stderr=pipe
        )
        out, err = child.communicate((stdin or "").encode())
        assert child.process.returncode == status, (arguments, err)
        assert not HASH.search((out + err).decode())
        collected += err if shows else out + err
        return out, err

    for client_id, secret, second in (("generated", GENERATED, OTHERS[0]), ("password", PASSWORD, OTHERS[1])):
        out, _ = run("keys", "create", "--client-id", client_id, "--secret-stdin", stdin=secret, shows=True)
        assert core(secret) in out.decode()
        run("keys", "create", "--client-id", client_id, "--secret-stdin", stdin=secret, status=1)
        run("keys", "create", "--client-id", "a:b", "--secret-stdin", stdin=secret, status=1)
        run("keys", "create", "--secret-stdin", stdin=f"{secret}\0", status=1)
        out, _ = run(
            *("keys", "rotate", client_id, "--overlap", "0", "--secret-stdin", "--json"),
            stdin=second,
            shows=True,
        )
        assert json.loads(out)["secret"] == second
        run("keys", "rotate", client_id, "--secret-stdin", stdin=second, status=1)
        run("token", "encode", client_id, "--secret-stdin", stdin=second, shows=True)
        run("token", "encode", "a:b", "--secret-stdin", stdin=second, status=1)
        run("curl", "http://127.0.0.1/", client_id, "--secret-stdin", stdin=second, shows=True)
        run("keys", "show", client_id)
        run("keys", "update", client_id, "--name", "canary", "--json")
        run("keys", "disable", client_id)
        run("keys", "enable", client_id, "--json")
    run("keys", "list")
    run("keys", "list", "--json")
    run("check")
    run("keys", "export", str(export))
    run("keys", "import", str(sheet), status=1)
    run("keys", "import", str(sheet), "--json", status=1)
    run("keys", "import", str(export))
    run("keys", "revoke", "generated", "--yes")
    run("keys", "delete", "password", "--yes")

    assert_clean(collected)
    assert HASH.search(export.read_text())
    assert_clean(export.read_bytes())
    sheet.unlink()
    assert_clean(b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir())))


STRANGE = """
class Strange:
    blocking = True
    def __init__(self, url): self.held = {held!r}
    def get(self, client_id): raise RuntimeError(self.held)
    def put(self, record, expect_version): raise RuntimeError(self.held)
    def delete(self, client_id): raise RuntimeError(self.held)
    def scan(self, prefix, after, limit): raise RuntimeError(self.held)
    def changes(self, since): raise RuntimeError(self.held)
    def close(self): pass
"""


@pytest.mark.proves("X43")
@pytest.mark.parametrize(
    "arguments",
    [("keys", "create", "--secret-stdin"), ("keys", "rotate", "ci", "--secret-stdin"), ("check",)],
    ids=["create", "rotate", "check"],
)
def test_no_crash_of_the_command_line_shows_a_secret(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """One line and status 1, without a traceback and the local variables that rich would print."""
    (tmp_path / "strange_store.py").write_text(STRANGE.format(held=GENERATED))
    distribution = tmp_path / "strange_store-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-store\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text(
        "[basicauth_mw.backends]\nstrange = strange_store:Strange\n"
    )
    pipe = subprocess.PIPE
    child = Watched(
        *COMMAND,
        *arguments,
        env={"BASICAUTH_BACKEND": "strange:", "PYTHONPATH": str(tmp_path), "FORCE_COLOR": "1"},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )
    out, err = child.communicate(PASSWORD.encode())

    assert child.process.returncode == 1
    assert out + err
    assert b"Traceback" not in out + err
    assert_clean(out + err)


# A server with maximum output: debug levels everywhere, and the debug modes of asyncio and Python.
DEBUGGED = """
import faulthandler, logging, sys
logging.basicConfig(level=logging.NOTSET, stream=sys.stderr)
from basicauth_mw.asgi import BasicAuthMiddleware

async def apps(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/broken":
        raise RuntimeError("broken")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})

app = BasicAuthMiddleware(apps, throttle="")
"""


@pytest.mark.proves("X43")
def test_no_debugged_server_shows_a_secret(tmp_path: Path) -> None:
    """Its debug log, its arguments, its environment, and its output when it is killed."""
    (tmp_path / "apps.py").write_text(DEBUGGED)
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    with open_backend(url, settings=Settings(), create=True) as backend:
        for client_id, secret in (("generated", GENERATED), ("password", PASSWORD)):
            backend.create(client_id=client_id, secret=secret)
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = Watched(
            *(sys.executable, "-X", "dev", "-X", "faulthandler", "-m", "uvicorn", "apps:app"),
            *(f"--port={port}", "--log-level=trace", f"--app-dir={tmp_path}"),
            env={"BASICAUTH_BACKEND": url, "PYTHONASYNCIODEBUG": "1"},
            stdout=output,
            stderr=output,
        )
        try:
            wait_until(lambda: listens(port) or server.process.poll() is not None)

            def send_request(authorization: str, path: str = "/") -> int:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
                connection.request("GET", path, headers={"Authorization": authorization})
                status = connection.getresponse().status
                connection.close()
                return status

            for client_id, secret in (("generated", GENERATED), ("password", PASSWORD)):
                right = encode_basic(client_id, secret)
                assert [send_request(right), send_request(right), send_request(right, "/broken")] == [
                    200,
                    200,
                    500,
                ]
                assert send_request(encode_basic("unknown", secret)) == 401
                assert send_request(basic(f"{client_id}:{secret}x".encode())) == 401
                assert send_request(f"Bearer {quote(secret)}") == 401
            assert send_request(basic(f"generated:{CHANGED}".encode())) == 401
            (tmp_path / "keys.db").write_bytes(b"damaged" * 1000)
            assert send_request(encode_basic("unknown", GENERATED)) in (401, 503)
        finally:
            server.process.send_signal(signal.SIGABRT)
            server.communicate()

    collected = log.read_bytes()
    for expected in (b"RuntimeError: broken", b"auth.refused", b"Fatal Python error: Aborted", b"TRACE"):
        assert expected in collected
    assert_clean(collected)
    assert_clean(b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()) if path.is_file()))
