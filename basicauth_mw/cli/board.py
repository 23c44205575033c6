"""``basicauth-mw dashboard``: the dashboard by itself, on this machine."""

from importlib.util import find_spec
from typing import Annotated

import typer

from ..backends import Store
from ..settings import Settings
from ._errors import CommandError
from ._options import AsJson, BackendUrl, opened
from ._output import flush, print_json, say
from ._serving import HOST, interrupted_by_signals, listening, serve

DEFAULT_PORT = 8001


def dashboard(
    ctx: typer.Context,
    *,
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="0: any free one.")
    ] = DEFAULT_PORT,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Serve the dashboard for a key backend on 127.0.0.1, until Ctrl-C.

    It opens with a key that has the scope basicauth:admin.
    """
    from ..dashboard import ADMIN_SCOPE  # its extra may not be installed: then this says so
    from ..dashboard import dashboard as make

    if find_spec("uvicorn") is None:
        raise CommandError("the dashboard needs uvicorn by itself: run  pip install uvicorn")
    with interrupted_by_signals(), opened(ctx, backend) as keys, listening(port) as listener:
        # The backend is given: the settings are to name none, whatever --backend said.
        app = make(keys, settings=Settings.from_env(backend="memory:"))
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        if as_json:
            print_json({"url": address})
        else:
            say(f"The dashboard is at {address} - stop with Ctrl-C.")
            if isinstance(keys.store, Store):
                say("Sign in with a client id and its secret. If no key opens it yet, make one:")
                say(f'basicauth-mw keys create --name "dashboard" --scope {ADMIN_SCOPE}')
            else:
                say("Sign in with a client id and its secret.")
                say(f"If no key opens it yet, add the scope {ADMIN_SCOPE} to one where the keys are kept.")
        flush()  # whoever reads a pipe waits for these lines
        serve(app, listener)
