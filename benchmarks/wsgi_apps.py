"""The WSGI apps that are compared: unprotected ones, ours around them, and other ways to protect them.

They accept the same credentials as those in ``asgi_apps``.
"""

from __future__ import annotations

import hmac
import io
import os
import time
from hashlib import blake2b
from itertools import cycle

from asgi_apps import ADDRESSES, BODY, CLIENT_ID, FIELD, REFUSED_BODY, SECRET, is_right

from basicauth_mw import Settings, open_backend
from basicauth_mw.wsgi import BasicAuthMiddleware

HEADERS = [("Content-Type", "application/json"), ("Content-Length", "18")]
REFUSED_HEADERS = [
    ("Content-Type", "application/json"),
    ("Content-Length", "26"),
    ("WWW-Authenticate", 'Basic realm="api"'),
]


def bare(environ, start_response):
    start_response("200 OK", HEADERS)
    return [BODY]


class Floor:
    """Like ``asgi_apps.Floor``. The server has already joined repeated headers with a comma."""

    def __init__(self, app) -> None:
        self.app = app
        self.keyed = blake2b(key=os.urandom(32), digest_size=32)
        keyed = self.keyed.copy()
        keyed.update(FIELD)
        digest = keyed.digest()
        self.table = {digest: (digest, time.monotonic() + 3600, "demo")}

    def __call__(self, environ, start_response):
        found = environ.get("HTTP_AUTHORIZATION")
        entry = None
        if found is not None and len(found) <= 8192:
            keyed = self.keyed.copy()
            keyed.update(found.encode("latin-1"))
            digest = keyed.digest()
            entry = self.table.get(digest)
        if entry is None or not hmac.compare_digest(entry[0], digest) or entry[1] <= time.monotonic():
            start_response("401 Unauthorized", REFUSED_HEADERS)
            return [REFUSED_BODY]
        environ = environ.copy()
        environ["REMOTE_USER"] = entry[2]
        return self.app(environ, start_response)


def ours(app, backend=None, **overrides):
    """This middleware with its default settings; without ``backend``, with one key in memory."""
    settings = Settings(**overrides)
    if backend is None:
        backend = open_backend("memory:", settings=settings)
        backend.create(client_id=CLIENT_ID, secret=SECRET)
    return BasicAuthMiddleware(app, backend, settings=settings)


def flask(verify=None):
    """A Flask app with one view, protected by Flask-HTTPAuth if ``verify``."""
    from flask import Flask
    from flask_httpauth import HTTPBasicAuth

    app, auth = Flask("bench"), HTTPBasicAuth()

    @auth.verify_password
    def check(client_id, secret):
        return client_id if verify(client_id, secret) else None

    def hello():
        return {"hello": "world"}

    app.add_url_rule("/", view_func=auth.login_required(hello) if verify else hello)
    return app


# --- for servers


def flask_app():
    return flask()


def httpauth_flask_app():
    return flask(is_right)


def floor_flask_app():
    app = flask()
    app.wsgi_app = Floor(app.wsgi_app)
    return app


def ours_flask_app():
    app = flask()
    app.wsgi_app = ours(app.wsgi_app)
    return app


def worker_app():
    """Responds with the ID of its process; settings from the environment."""

    def app(environ, start_response):
        body = b"%d" % os.getpid()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    return BasicAuthMiddleware(app)


# --- requests in this process


def environ(field: bytes | None = FIELD) -> dict:
    """What a server makes of curl's request, with or without an Authorization header."""
    made = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "bench",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "HTTP_HOST": "127.0.0.1:8000",
        "HTTP_USER_AGENT": "curl/8.0",
        "HTTP_ACCEPT": "*/*",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if field is not None:
        made["HTTP_AUTHORIZATION"] = field.decode("latin-1")
    return made


def start_nothing(status, headers, exc_info=None):
    return bytes


def request_of(app, field: bytes | None, status: int, clients=ADDRESSES):
    """Return a call that sends one request, from each address in turn, and reads the response.

    Raises:
        RuntimeError: The response has another status.
    """
    template = environ(field)
    addresses = cycle([address for address, _ in clients])
    statuses = []

    def start(line, headers, exc_info=None):
        statuses.append(int(line[:3]))

    consume(app({**template, "REMOTE_ADDR": next(addresses), "wsgi.input": io.BytesIO()}, start))
    if statuses != [status]:
        raise RuntimeError(f"{app!r} responded with {statuses}, not {status}")

    async def call() -> None:
        request = {**template, "REMOTE_ADDR": next(addresses), "wsgi.input": io.BytesIO()}
        consume(app(request, start_nothing))

    return call


def consume(body) -> None:
    for _ in body:
        pass
    if close := getattr(body, "close", None):
        close()
