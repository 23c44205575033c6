"""A Flask app protected by API keys, like ``fastapi_app.py``.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    waitress-serve --listen=127.0.0.1:8000 examples.flask_app:app
"""

from flask import Flask, Response, jsonify, request

from basicauth_mw.wsgi import BasicAuthMiddleware

app = Flask(__name__)


@app.post("/echo")
def echo() -> Response:
    """The environ has the client: the key's ID, name, scopes and metadata."""
    caller = request.environ["basicauth_mw.principal"]
    return jsonify(client_id=caller.client_id, text=request.get_json()["text"])


@app.get("/missing")
def missing() -> tuple[Response, int]:
    """The app's own response is passed on unchanged, whatever its status."""
    return jsonify(error="no such thing here"), 404


@app.get("/broken")
def broken() -> Response:
    """An exception becomes a JSON 500 without details; the traceback goes to the log."""
    raise RuntimeError("something broke")


# There is no /slow here: a WSGI app runs in a thread, which cannot be stopped, so timeout_s is for ASGI only.
# Under WSGI, set the server's own time limit, such as gunicorn's --timeout.


@app.get("/health")
def health() -> Response:
    """Open: it is excluded below."""
    return jsonify(status="ok")


# The backend and every other setting are read from BASICAUTH_* in the environment.
app.wsgi_app = BasicAuthMiddleware(app.wsgi_app, exclude=("/health",))
