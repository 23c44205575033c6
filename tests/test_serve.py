"""``basicauth_mw.serve``: how it finds the app to protect, and its errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from basicauth_mw import ConfigurationError, asgi, open_backend, serve, wsgi
from tests.asgi.helpers import call, http_scope
from tests.test_examples import LIMIT_S, environment
from tests.waiting import free_port
from tests.wsgi.helpers import call as call_wsgi

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
    """Its instances are ASGI apps."""
    async def __call__(self, scope, receive, send):
        await plain(scope, receive, send)

class Iterable:
    """A WSGI app that is a class."""
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

unreadable = dict  # has no signature
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
    """A module with apps; removes protected apps of earlier tests."""
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
    assert serve.app is app, "created once"
    assert call(app, http_scope()).status == 401
    with pytest.raises(ConfigurationError, match=r"is ASGI; serve basicauth_mw\.serve:app with an ASGI"):
        _ = serve.wsgi_app


@pytest.mark.parametrize("name", WSGI)
def test_wsgi_apps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", f"given_apps:{name}")

    app = serve.wsgi_app

    assert isinstance(app, wsgi.BasicAuthMiddleware)
    assert serve.wsgi_app is app
    assert call_wsgi(app).status == 401
    with pytest.raises(ConfigurationError, match=r"is WSGI; serve basicauth_mw\.serve:wsgi_app with a WSGI"):
        _ = serve.app


def test_a_valid_key_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", "given_apps:plain")
    assert call(serve.app, http_scope(KEY)).body == b"demo"
    monkeypatch.setenv("BASICAUTH_APP", "given_apps:plain_wsgi")
    assert call_wsgi(serve.wsgi_app, KEY).body == b"demo"


def test_a_factory_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", "given_apps:counted")

    _ = serve.app, serve.app

    assert sys.modules["given_apps"].made == [1]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "BASICAUTH_APP is not set; name the app to protect: BASICAUTH_APP=package.module:app"),
        ("  ", "BASICAUTH_APP is not set"),
        ("given_apps", "invalid name 'given_apps'; expected package.module:app"),
        ("given_apps:", "invalid name"),
        (":plain", "invalid name"),
        ("given_apps.py:plain", r"there is no module 'given_apps\.py'; omit \.py"),
        ("./given_apps:plain", "invalid name"),
        ("given_apps:plain:x", "invalid name"),
        ("given_apps:create_api(1)", "invalid name"),
        ("nowhere:app", "there is no module 'nowhere'; install it, or add its directory to PYTHONPATH"),
        ("nowhere.inner:app", "there is no module 'nowhere'"),
        ("basicauth_mw.nowhere:app", "there is no module 'basicauth_mw.nowhere'"),
        ("given_apps:plan", "module 'given_apps' has no attribute 'plan'; did you mean plain"),
        ("given_apps:zzz", "module 'given_apps' has no attribute 'zzz'$"),
        ("given_apps:space.outer", "type has no attribute 'outer'"),
        (
            "given_apps:nothing",
            r"nothing is not callable \(NoneType\); name an app or an app factory",
        ),
        ("given_apps:number()", r"is not callable \(int\)"),
        ("given_apps:gives_nothing", "the result of given_apps:gives_nothing is not callable"),
        ("given_apps:async_factory", "is an async factory; make it synchronous"),
        ("given_apps:old", "given_apps:old is not an app; an ASGI app is async"),
        ("given_apps:unreadable", "is not an app"),
        ("given_apps:api()", r"calls an object that takes arguments; omit the \(\) after an app"),
        ("basicauth_mw.serve:app", "is for the server's command line; name the app to protect"),
        ("given_apps:old()", "calls an object that takes arguments"),
        ("given_apps:plain_wsgi()", "calls an object that takes arguments"),
        ("given_apps:create_installed", "is already protected; serve it directly"),
        ("given_apps:from_basicauth", "is already protected; serve it directly"),
    ],
)
def test_errors_name_the_problem(target: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", target)

    with pytest.raises(ConfigurationError, match=message):
        _ = serve.app


def test_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="BASICAUTH_APP is not set"):
        _ = serve.wsgi_app


@pytest.mark.parametrize(
    ("target", "kind"), [("given_broken:app", ModuleNotFoundError), ("given_wrong:app", ZeroDivisionError)]
)
def test_errors_inside_the_module_are_not_caught(
    target: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_APP", target)

    with pytest.raises(kind):
        _ = serve.app


def test_an_invalid_setting_is_an_error_when_the_app_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_APP", "given_apps:plain")
    monkeypatch.setenv("BASICAUTH_REALMS", "x")

    with pytest.raises(ConfigurationError, match="did you mean realm"):
        _ = serve.app


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'application'"):
        _ = serve.application  # type: ignore[attr-defined]


def test_the_middleware_is_imported_on_first_use() -> None:
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
@pytest.mark.parametrize("include", [None, "/echo"])
def test_real_servers(server: list[str], target: str, include: str | None, tmp_path: Path) -> None:
    """The commands in the documentation, with an app that does not import the package."""
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
            env=environment(
                BASICAUTH_APP=target,
                BASICAUTH_BACKEND=url,
                PYTHONPATH=paths,
                **({} if include is None else {"BASICAUTH_INCLUDE": include}),
            ),
            stdout=log,
            stderr=log,
        )
    try:
        transport = httpx.HTTPTransport(retries=8)  # until the server listens, with exponential backoff
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, transport=transport, timeout=LIMIT_S) as client:
            good = client.post("/echo", json={"text": "x"}, auth=("ci", issued.secret))
            bad = client.post("/echo", json={"text": "x"}, auth=("ci", "wrong"))
            unknown = [client.get(path).status_code for path in ("/unknown", "/ECHO", "/x;y")]
    finally:
        child.terminate()
        child.wait(LIMIT_S)

    assert (good.status_code, good.json()) == (200, {"client_id": "ci", "text": "x"})
    assert (bad.status_code, bad.json()["code"]) == (401, "invalid_credentials")
    assert unknown == ([401] * 3 if include is None else [404, 401, 401])


def test_a_server_prints_the_error(tmp_path: Path) -> None:
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
