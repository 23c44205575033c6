"""``basicauth-mw demo``: the FastAPI example, protected, with a key that was just made."""

import logging
import os
import socket
import sys
from datetime import timedelta
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from ..backends.backend import open_backend
from ..keys.model import utcnow
from ..settings.sources import ENV_PREFIX
from ._curl import curl_line
from ._errors import CommandError
from ._options import AsJson
from ._output import flush, print_json, say
from ._serving import HOST, interrupted_by_signals, listening, serve

DEFAULT_PORT = 8000

_MOUNT = "/keys"
_KEY_LIVES = timedelta(days=1)


def demo(
    ctx: typer.Context,
    *,
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="0: any free one.")
    ] = DEFAULT_PORT,
    database: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the keys here.", show_default="a temporary file")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the FastAPI example on this machine, with a key that lasts a day, until Ctrl-C.

    The keys are in an embedded SQLite file. BASICAUTH_* variables are not looked at.
    """
    if ctx.obj:
        raise typer.BadParameter("the demo makes a store of its own: --database FILE keeps it")
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise CommandError(f"the demo needs {' and '.join(missing)}: run  pip install {' '.join(missing)}")
    with interrupted_by_signals(), TemporaryDirectory(prefix="basicauth-demo-") as folder:
        url = f"sqlite:///{(database or Path(folder) / 'keys.db').absolute()}"
        with listening(port) as listener:
            address = f"http://{HOST}:{listener.getsockname()[1]}"
            _serve(url, address, listener, as_json=as_json)


def _serve(url: str, address: str, listener: socket.socket, *, as_json: bool) -> None:
    logging.basicConfig(format="%(levelname)s:     %(message)s")  # the log of a server, unlike other commands
    # The demo is the same wherever it runs: the app below reads this one setting and no other.
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    os.environ[f"{ENV_PREFIX}BACKEND"] = url
    with open_backend(create=True) as keys:
        scopes = ["read", "basicauth:admin"]  # the second opens the dashboard
        issued = keys.create(name="demo", scopes=scopes, expires_at=utcnow() + _KEY_LIVES)
    requests = _requests(address, issued.client_id, issued.secret)
    example = _load_example()
    app = example.app
    has_dashboard = find_spec("jinja2") is not None
    if has_dashboard:
        from ..dashboard import dashboard  # its extra may not be installed

        app.mount(_MOUNT, dashboard())
    if as_json:
        print_json(
            {
                "url": address,
                "client_id": issued.client_id,
                "secret": issued.secret,
                "authorization": issued.authorization,
                "token": issued.token,
                "dashboard": f"{address}{_MOUNT}/" if has_dashboard else None,
                "requests": [
                    {"status": status, "about": about, "curl": line} for status, about, line in requests
                ],
            }
        )
    else:
        say(f"Serving on {address} - stop with Ctrl-C. In another terminal:")
        for status, about, line in requests:
            say(f"\n# {status}: {about}\n{line}")
        if has_dashboard:
            say(f"\nThe dashboard is at {address}{_MOUNT}/ - sign in with this key:")
            say(f"user name  {issued.client_id}\npassword   {issued.secret}")
        else:
            say("\nFor the dashboard, run  pip install 'basicauth_mw[dashboard]'  and start this again.")
        say()
    flush()  # whoever reads a pipe waits for these lines
    serve(app, listener)


def _requests(address: str, client_id: str, secret: str) -> list[tuple[int, str, str]]:
    def curl(path: str, *options: str) -> str:
        return curl_line(address + path, client_id, secret, "-i", *options)

    post = ("-H", "Content-Type: application/json", "-d", '{"text": "hello"}')
    return [
        (200, "the right key", curl("/echo", *post)),
        (401, "no key", f"curl -i {address}/missing"),
        (401, "a wrong key", curl_line(f"{address}/missing", client_id, "wrong", "-i")),
        (404, "the app's own answer passes through", curl("/missing")),
        (500, "the app raised an exception (its traceback is here, as it should be)", curl("/broken")),
        (504, "the app outran timeout_s", curl("/slow")),
        (200, "an excluded path needs no key", f"curl -i {address}/health"),
    ]


def _load_example() -> Any:
    """The module ``examples/fastapi_app.py``, of which the wheel carries a copy beside this file."""
    copy = Path(__file__).with_name("_demo_app.py")
    path = copy if copy.exists() else Path(__file__).parents[2] / "examples" / "fastapi_app.py"
    spec = spec_from_file_location("basicauth_mw_demo_app", path)
    if spec is None or spec.loader is None or not path.exists():
        raise CommandError("this installation comes without the example that the demo serves")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # FastAPI resolves the annotations of the handlers through it
    spec.loader.exec_module(module)
    return module
