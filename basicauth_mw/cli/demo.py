"""``basicauth-mw demo``: the FastAPI example, protected, with a new key."""

import logging
import os
import socket
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from typer import echo

from ..backends.backend import open_backend
from ..keys.model import utcnow
from ..settings.sources import ENV_PREFIX
from ._echo import CommandError, echo_json
from ._options import AsJson
from ._serving import HOST, Port, interrupted_by_signals, listening, serve
from .tokens import curl_command

_MOUNT = "/keys"
_KEY_LIFETIME = timedelta(days=1)


def demo(
    ctx: typer.Context,
    *,
    port: Port = 8000,
    database: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The SQLite file for the keys.", show_default="a temporary file"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the FastAPI example on 127.0.0.1 until Ctrl-C.

    Creates a key that expires after a day. BASICAUTH_* variables are ignored.
    """
    if ctx.obj:
        raise typer.BadParameter(
            "the demo uses its own SQLite file: use --database FILE instead of --backend"
        )
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise CommandError(f"the demo requires {' and '.join(missing)}: run  pip install {' '.join(missing)}")
    with interrupted_by_signals(), TemporaryDirectory(prefix="basicauth-demo-") as folder:
        url = f"sqlite:///{(database or Path(folder) / 'keys.db').absolute()}"
        with listening(port) as listener:
            address = f"http://{HOST}:{listener.getsockname()[1]}"
            _serve(url, address, listener, as_json=as_json)


def _serve(url: str, address: str, listener: socket.socket, *, as_json: bool) -> None:
    logging.basicConfig(format="%(levelname)s:     %(message)s")  # unlike other commands, as servers do
    # The app below reads this setting from the environment, and no other.
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    os.environ[f"{ENV_PREFIX}BACKEND"] = url
    with open_backend(create=True) as keys:
        scopes = ["read", "basicauth:admin"]  # the second opens the dashboard
        issued = keys.create(name="demo", scopes=scopes, expires_at=utcnow() + _KEY_LIFETIME)
    requests = _requests(address, issued.client_id, issued.secret)
    app = _load_example()
    has_dashboard = find_spec("jinja2") is not None
    if has_dashboard:
        from ..dashboard import dashboard  # requires an extra

        app.mount(_MOUNT, dashboard())
    if as_json:
        shown = {name: getattr(issued, name) for name in ("client_id", "secret", "authorization", "token")}
        at = f"{address}{_MOUNT}/" if has_dashboard else None
        samples = [{"status": status, "about": about, "curl": line} for status, about, line in requests]
        echo_json({"url": address, **shown, "dashboard": at, "requests": samples})
    else:
        echo(f"Serving on {address} - stop with Ctrl-C. In another terminal:")
        echo(f"\nexport ID={issued.client_id} SECRET={issued.secret}")
        for status, about, line in requests:
            echo(f"\n# {status}: {about}\n{line}")
        if has_dashboard:
            echo(f"\nThe dashboard is at {address}{_MOUNT}/ - sign in with this key:")
            echo(f"user name  {issued.client_id}\npassword   {issued.secret}")
        else:
            echo("\nFor the dashboard, run  pip install 'basicauth_mw[dashboard]'  and restart the demo.")
        echo()
    serve(app, listener)


def _requests(address: str, client_id: str, secret: str) -> list[tuple[int, str, str]]:
    def curl(path: str, *options: str) -> str:
        return curl_command(address + path, client_id, secret, "-i", *options)

    post = ("-H", "Content-Type: application/json", "-d", '{"text": "hello"}')
    return [
        (200, "a valid key", curl("/hello")),
        (401, "no key", f"curl -i {address}/hello"),
        (401, "a wrong secret", curl_command(f"{address}/hello", client_id, "wrong", "-i")),
        (200, "a POST request", curl("/echo", *post)),
        (404, "the app's own response", curl("/missing")),
        (500, "the app raised an exception, whose traceback is printed here", curl("/broken")),
        (504, "the app took longer than timeout_s", curl("/slow")),
        (200, "an excluded path, without a key", f"curl -i {address}/health"),
    ]


def _load_example() -> Any:
    """The app of ``examples/fastapi_app.py``, or of its copy in the wheel."""
    copy = Path(__file__).with_name("_demo_app.py")
    path = copy if copy.exists() else Path(__file__).parents[2] / "examples" / "fastapi_app.py"
    if not path.exists():
        raise CommandError("the example app is missing in this installation")
    return run_path(str(path))["app"]
