"""``basicauth-mw dashboard``: the dashboard without an app."""

from importlib.util import find_spec

import typer
from typer import echo

from ..backends import Store
from ..settings import Settings
from ._echo import CommandError, echo_json
from ._options import AsJson, BackendUrl, open_for
from ._serving import HOST, Port, interrupted_by_signals, listening, serve


def dashboard(
    ctx: typer.Context, *, port: Port = 8001, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Serve the dashboard on 127.0.0.1 until Ctrl-C.

    Sign in with a key that has the scope basicauth:admin.
    """
    from ..dashboard import ADMIN_SCOPE  # raises MissingExtra if its extra is not installed
    from ..dashboard import dashboard as make_dashboard

    if find_spec("uvicorn") is None:
        raise CommandError("the dashboard command requires uvicorn: run  pip install uvicorn")
    with interrupted_by_signals(), open_for(ctx, backend) as keys, listening(port) as listener:
        # The backend is passed, so the settings must not name another one.
        app = make_dashboard(keys, settings=Settings.from_env(backend="memory:"))
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        if as_json:
            echo_json({"url": address})
        else:
            echo(f"The dashboard is at {address} - stop with Ctrl-C.")
            if isinstance(keys.store, Store):
                echo("Sign in with a client ID and its secret. To create a key for the dashboard:")
                echo(f'basicauth-mw keys create --name "dashboard" --scope {ADMIN_SCOPE}')
            else:
                echo("Sign in with a client ID and its secret.")
                echo(f"The key needs the scope {ADMIN_SCOPE}; add it where the backend reads the keys from.")
        serve(app, listener)
