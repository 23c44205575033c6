"""Flask with websockets, wrapped and not, for servers whose socket an app can take over.

``python -m tests.servers.socket_apps KIND PORT`` serves it if the server has no command.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FILE = Path(__file__)
KIND = os.environ.get("SOCKET_KIND", "")
if KIND == "eventlet":
    os.environ["EVENTLET_NO_GREENDNS"] = "yes"  # or dnspython imports trio, which eventlet cannot patch
    import eventlet

    eventlet.monkey_patch()
if KIND.startswith("gevent"):
    from gevent import monkey

    monkey.patch_all()
if KIND == "gunicorn-gevent":
    # With gevent-websocket installed, Flask-SocketIO wants that package's own worker.
    sys.modules["geventwebsocket"] = None  # type: ignore[assignment]

from flask import Flask, Response, send_file  # noqa: E402
from flask_sock import Sock  # noqa: E402
from flask_socketio import SocketIO  # noqa: E402

from basicauth_mw import InsufficientScope  # noqa: E402
from basicauth_mw.wsgi import BasicAuthMiddleware  # noqa: E402

ASYNC_MODES = {
    "eventlet": "eventlet",
    "gunicorn-gevent": "gevent",
    "gevent-websocket": "gevent",
}


def make_app() -> Flask:
    flask = Flask(__name__)
    sock = Sock(flask)

    @sock.route("/echo")  # type: ignore[untyped-decorator]
    def echo(ws: Any) -> None:
        ws.send(ws.receive())

    @sock.route("/boom")  # type: ignore[untyped-decorator]
    def boom(ws: Any) -> None:
        ws.send(ws.receive())
        raise ValueError("in the handler")

    @flask.route("/refuse", websocket=True)
    def refuse() -> Response:
        raise InsufficientScope

    @flask.get("/file")
    def file() -> Response:
        return send_file(FILE, mimetype="text/plain", max_age=0)

    if KIND in ASYNC_MODES or KIND in ("gunicorn-gthread", "werkzeug"):
        SocketIO(flask, async_mode=ASYNC_MODES.get(KIND, "threading"))
    return flask


bare = make_app().wsgi_app
wrapped = BasicAuthMiddleware(make_app().wsgi_app)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return (bare if "HTTP_X_BARE" in environ else wrapped)(environ, start_response)


def serve(port: int) -> None:
    if KIND == "werkzeug":
        from werkzeug.serving import run_simple

        run_simple("127.0.0.1", port, app, threaded=True)
    elif KIND == "eventlet":
        import eventlet.wsgi

        eventlet.wsgi.server(eventlet.listen(("127.0.0.1", port)), app)
    elif KIND == "uwsgi":
        import pyuwsgi

        pyuwsgi.run(["--http-socket", f"127.0.0.1:{port}", "--module", "tests.servers.socket_apps:app"])
    else:
        from gevent.pywsgi import WSGIServer

        more: dict[str, Any] = {}
        if KIND == "gevent-websocket":
            from geventwebsocket.handler import WebSocketHandler

            more["handler_class"] = WebSocketHandler
        WSGIServer(("127.0.0.1", port), app, **more).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
