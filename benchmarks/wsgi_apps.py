"""The WSGI apps that are compared: bare ones, ours round them, and what else protects them.

The same credentials as in ``asgi_apps``.
"""

from __future__ import annotations

import hmac
import io
import os
import time
from hashlib import blake2b

from asgi_apps import BODY, CLIENT_ID, FIELD, REFUSED_BODY, SECRET, is_right

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
    """What ``asgi_apps.Floor`` does, in WSGI, where the server joins fields of one name by a comma."""

    def __init__(self, app, field: bytes = FIELD) -> None:
        self.app = app
        self.keyed = blake2b(key=os.urandom(32), digest_size=32)
        keyed = self.keyed.copy()
        keyed.update(field)
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


def ours(app, **overrides):
    """This middleware, with a key in memory."""
    settings = Settings(**{"cache_ttl_s": 3600, **overrides})
    backend = open_backend("memory:", settings=settings)
    backend.create(client_id=CLIENT_ID, secret=SECRET)
    return BasicAuthMiddleware(app, backend, settings=settings)


def werkzeug(protected: bool = False):
    """A Werkzeug app that looks at ``request.authorization`` if it is protected."""
    from werkzeug.wrappers import Request, Response

    @Request.application
    def app(request):
        if protected:
            sent = request.authorization
            if sent is None or sent.type != "basic" or not is_right(sent.username or "", sent.password or ""):
                return Response(REFUSED_BODY, 401, {"WWW-Authenticate": 'Basic realm="api"'})
        return Response(BODY, mimetype="application/json")

    return app


def flask(protected: bool = False):
    """A Flask app with one view; protected: by Flask-HTTPAuth, which is given a plain comparison."""
    from flask import Flask
    from flask_httpauth import HTTPBasicAuth

    app, auth = Flask("bench"), HTTPBasicAuth()

    @auth.verify_password
    def check(client_id, secret):
        return client_id if is_right(client_id, secret) else None

    def hello():
        return {"hello": "world"}

    app.add_url_rule("/", view_func=auth.login_required(hello) if protected else hello)
    return app


def django(protected: bool = False):
    """A Django app with one view of Django REST framework; protected: by its BasicAuthentication."""
    import logging
    from types import ModuleType, SimpleNamespace

    from django.conf import settings

    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF=ModuleType("no_urls"),
            REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
            LOGGING_CONFIG=None,
        )
        import django as package

        package.setup()
        logging.getLogger("django.request").setLevel(logging.ERROR)  # a line on stderr for each refusal
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import path
    from rest_framework.authentication import BasicAuthentication
    from rest_framework.exceptions import AuthenticationFailed
    from rest_framework.permissions import IsAuthenticated
    from rest_framework.renderers import JSONRenderer
    from rest_framework.response import Response
    from rest_framework.views import APIView

    class Authentication(BasicAuthentication):
        def authenticate_credentials(self, userid, password, request=None):
            if not is_right(userid, password):
                raise AuthenticationFailed
            return SimpleNamespace(is_authenticated=True, username=userid), None

    class Hello(APIView):
        authentication_classes = [Authentication] if protected else []
        permission_classes = [IsAuthenticated] if protected else []
        renderer_classes = (JSONRenderer,)

        def get(self, request):
            return Response({"hello": "world"})

    urls = ModuleType("urls")
    vars(urls)["urlpatterns"] = [path("", Hello.as_view())]

    class Handler(WSGIHandler):
        def get_response(self, request):
            request.urlconf = urls  # each app its own: Django has one set of settings for a process
            return super().get_response(request)

    return Handler()


# --- for servers


def bare_app():
    return bare


def flask_httpauth_app():
    return flask(protected=True)


def floor_app():
    return Floor(bare)


def ours_app():
    return ours(bare)


def floor_round_flask_app():
    app = flask()
    app.wsgi_app = Floor(app.wsgi_app)
    return app


def ours_round_flask_app():
    app = flask()
    app.wsgi_app = ours(app.wsgi_app)
    return app


def worker_app():
    """Tells which process answered; keys and settings from the environment."""

    def app(environ, start_response):
        body = b"%d" % os.getpid()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    return BasicAuthMiddleware(app)


# --- requests in process


def environ(field: bytes | None = FIELD) -> dict:
    """What a server makes of curl's request, with or without an Authorization field."""
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


def request_of(app, field: bytes | None, status: int):
    """A call that sends one request and reads its body; made only if the answer is the expected one."""
    template = environ(field)
    statuses = []

    def start(line, headers, exc_info=None):
        statuses.append(int(line[:3]))

    consume(app({**template, "wsgi.input": io.BytesIO()}, start))
    if statuses != [status]:
        raise RuntimeError(f"{app!r} answered {statuses}, not {status}")

    async def call() -> None:
        consume(app({**template, "wsgi.input": io.BytesIO()}, start_nothing))

    return call


def consume(body) -> None:
    for _ in body:
        pass
    if close := getattr(body, "close", None):
        close()
