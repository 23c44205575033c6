"""``basicauth_mw.serve``: which app is meant, and what is said when there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from basicauth_mw import ConfigurationError, asgi, open_backend, serve, wsgi
from tests.shells.asgi_helpers import call, http_scope
from tests.shells.wsgi_helpers import call as call_wsgi
from tests.test_examples import LIMIT_S, environment
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

MODULE = '''
import functools
from flask import Flask
from fastapi import FastAPI
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler

async def plain(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["user"].client_id.encode()})

def plain_wsgi(environ, start_response):
    start_response("200 OK", [])
    return [environ["REMOTE_USER"].encode()]

partial = functools.partial(plain)
api = FastAPI()
site = Flask(__name__)
django_asgi = ASGIHandler.__new__(ASGIHandler)
django_wsgi = WSGIHandler.__new__(WSGIHandler)

def decorated(app):
    @functools.wraps(app)
    def wrapper(*args):
        return app(*args)
    return wrapper

class Callable:
    """An ASGI app, once it is made."""
    async def __call__(self, scope, receive, send):
        await plain(scope, receive, send)

class Iterable:
    """A WSGI app of the oldest sort."""
    def __init__(self, environ, start_response):
        start_response("200 OK", [])
    def __iter__(self):
        return iter([b""])

instance = Callable()

def create_api(debug=False):
    return FastAPI(debug=debug)

def create_site(config=None, name="x"):
    return Flask(name)

class space:
    inner = plain

made = []
def counted():
    made.append(1)
    return plain

def from_basicauth():
    from basicauth_mw.asgi import BasicAuthMiddleware
    return BasicAuthMiddleware(plain, "memory:")

def create_installed():
    from basicauth_mw.integrations.fastapi import install
    app = FastAPI()
    install(app, "memory:")
    return app

async def async_factory():
    return plain

def old(scope):
    return plain

nothing = None
number = 7

def gives_nothing():
    return None

unreadable = dict  # a callable that tells little of its arguments
'''


FASTAPI = """
from fastapi import FastAPI, Request
app = FastAPI()
@app.post("/echo")
async def echo(request: Request):
    return {"client_id": request.user.client_id, **await request.json()}
"""
FLASK = """
from flask import Flask, request
def make():
    app = Flask(__name__)
    app.post("/echo")(lambda: {"client_id": request.remote_user, **request.get_json()})
    return app
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of apps; nothing that was made before."""
    (tmp_path / "given_apps.py").write_text(MODULE)
    (tmp_path / "given_broken.py").write_text("import not_there_at_all")
    (tmp_path / "given_wrong.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in os.environ if name.startswith("BASICAUTH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BASICAUTH_KEYS", "demo:p@55w0rd")
    yield
    for name in ("app", "wsgi_app"):
        vars(serve).pop(name, None)
    for name in ("given_apps", "given_broken", "given_wrong"):
        sys.modules.pop(name, None)


ASGI = [
    *("plain", "partial", "api", "django_asgi", "Callable", "instance"),
    *("create_api", "create_api()", "space.inner"),
]
WSGI = ["plain_wsgi", "site", "django_wsgi", "Iterable", "create_site", "create_site()"]
KEY = "Basic ZGVtbzpwQDU1dzByZA=="


@pytest.mark.parametrize("name", ASGI)
def test_asgi_apps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", f" given_apps:{name} ")

    app = serve.app

    assert isinstance(app, asgi.BasicAuthMiddleware)
    assert serve.app is app, "it is made once"
    assert call(app, http_scope()).status == 401
    with pytest.raises(ConfigurationError, match=r"is ASGI: serve basicauth_mw\.serve:app by an ASGI"):
        _ = serve.wsgi_app


@pytest.mark.parametrize("name", WSGI)
def test_wsgi_apps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", f"given_apps:{name}")

    app = serve.wsgi_app

    assert isinstance(app, wsgi.BasicAuthMiddleware)
    assert serve.wsgi_app is app
    assert call_wsgi(app).status == 401
    with pytest.raises(ConfigurationError, match=r"is WSGI: serve basicauth_mw\.serve:wsgi_app by a WSGI"):
        _ = serve.app


def test_the_key_lets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", "given_apps:plain")
    assert call(serve.app, http_scope(KEY)).body == b"demo"
    monkeypatch.setenv("BASICAUTH_APP", "given_apps:plain_wsgi")
    assert call_wsgi(serve.wsgi_app, KEY).body == b"demo"


def test_a_factory_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", "given_apps:counted")

    _ = serve.app, serve.app

    assert sys.modules["given_apps"].made == [1]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("", "BASICAUTH_APP is not set: it names the app to protect, as in BASICAUTH_APP=package.module:app"),
        ("  ", "BASICAUTH_APP is not set"),
        ("given_apps", "is no name of an app: give it as in BASICAUTH_APP=package.module:app"),
        ("given_apps:", "is no name of an app"),
        (":plain", "is no name of an app"),
        ("given_apps.py:plain", r"there is no module 'given_apps\.py': give it without \.py"),
        ("./given_apps:plain", "is no name of an app"),
        ("given_apps:plain:x", "is no name of an app"),
        ("given_apps:create_api(1)", "is no name of an app"),
        ("nowhere:app", "there is no module 'nowhere': install it, or put its directory on PYTHONPATH"),
        ("nowhere.inner:app", "there is no module 'nowhere'"),
        ("basicauth_mw.nowhere:app", "there is no module 'basicauth_mw.nowhere'"),
        ("given_apps:plan", "module 'given_apps' has no attribute 'plan': did you mean plain"),
        ("given_apps:zzz", "module 'given_apps' has no attribute 'zzz'$"),
        ("given_apps:space.outer", "type has no attribute 'outer'"),
        (
            "given_apps:nothing",
            r"nothing cannot be called \(NoneType\): name an app, or what makes one",
        ),
        ("given_apps:number()", r"cannot be called \(int\)"),
        ("given_apps:gives_nothing", "what given_apps:gives_nothing gives cannot be called"),
        ("given_apps:async_factory", "is an asynchronous factory: make it a plain one"),
        ("given_apps:old", "given_apps:old is no app: ASGI ones are asynchronous"),
        ("given_apps:unreadable", "is no app"),
        ("given_apps:api()", r"is a call of what takes arguments: an app goes without \(\)"),
        ("basicauth_mw.serve:app", "is what the server is given: name the app to protect"),
        ("given_apps:old()", "is a call of what takes arguments"),
        ("given_apps:plain_wsgi()", "is a call of what takes arguments"),
        ("given_apps:create_installed", "is behind a gate already: serve it itself"),
        ("given_apps:from_basicauth", "is behind a gate already: serve it itself"),
    ],
)
def test_what_is_wrong_is_said(target: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", target)

    with pytest.raises(ConfigurationError, match=said):
        _ = serve.app


def test_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="BASICAUTH_APP is not set"):
        _ = serve.wsgi_app


@pytest.mark.parametrize(
    ("target", "kind"), [("given_broken:app", ModuleNotFoundError), ("given_wrong:app", ZeroDivisionError)]
)
def test_an_error_inside_the_module_is_raised_as_it_is(
    target: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_APP", target)

    with pytest.raises(kind):
        _ = serve.app


def test_a_bad_setting_shows_before_anything_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", "given_apps:plain")
    monkeypatch.setenv("BASICAUTH_REALMS", "x")

    with pytest.raises(ConfigurationError, match="did you mean realm"):
        _ = serve.app


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'application'"):
        _ = serve.application  # type: ignore[attr-defined]


def test_only_what_is_asked_for_is_imported() -> None:
    code = "import sys, basicauth_mw.serve; print({'basicauth_mw.asgi', 'asyncio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("server", "target"),
    [
        (["uvicorn", "basicauth_mw.serve:app", "--port={port}"], "bare_fastapi:app"),
        (["waitress", "--listen=127.0.0.1:{port}", "basicauth_mw.serve:wsgi_app"], "bare_flask:make"),
    ],
    ids=["uvicorn", "waitress"],
)
def test_a_real_server(server: list[str], target: str, tmp_path: Path) -> None:
    """The commands of the documentation, with an app that knows nothing of us."""
    (tmp_path / "bare_flask.py").write_text(FLASK)
    (tmp_path / "bare_fastapi.py").write_text(FASTAPI)
    url = f"sqlite:///{tmp_path}/keys.db"
    with open_backend(url, create=True) as backend:
        issued = backend.create(client_id="ci")
    port = free_port()
    paths = f"{ROOT}{os.pathsep}{tmp_path}"
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *(word.format(port=port) for word in server)],
            cwd=tmp_path,
            env=environment(BASICAUTH_APP=target, BASICAUTH_BACKEND=url, PYTHONPATH=paths),
            stdout=log,
            stderr=log,
        )
    try:
        transport = httpx.HTTPTransport(retries=8)  # until it listens; they wait longer every time
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, transport=transport, timeout=LIMIT_S) as client:
            good = client.post("/echo", json={"text": "x"}, auth=("ci", issued.secret))
            bad = client.post("/echo", json={"text": "x"}, auth=("ci", "wrong"))
    finally:
        child.terminate()
        child.wait(LIMIT_S)

    assert (good.status_code, good.json()) == (200, {"client_id": "ci", "text": "x"})
    assert (bad.status_code, bad.json()["code"]) == (401, "invalid_credentials")


def test_a_server_shows_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "basicauth_mw.serve:app", "--port=0"],
        cwd=tmp_path,
        env=environment(BASICAUTH_APP="nowhere:app"),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert done.returncode != 0
    assert "BASICAUTH_APP: there is no module 'nowhere'" in done.stderr.splitlines()[-1]
