"""The Flask app that the servers serve. Keys come from the environment."""

from flask import Flask, jsonify, request

from basicauth_mw.wsgi import BasicAuthMiddleware

app = Flask(__name__)


@app.post("/echo")
def echo() -> object:
    caller = request.environ["basicauth_mw.principal"]
    return jsonify(client_id=caller.client_id, text=request.get_json()["text"])


@app.get("/hello")
def hello() -> object:
    return jsonify(client_id=request.environ["basicauth_mw.principal"].client_id)


@app.get("/broken")
def broken() -> object:
    raise RuntimeError("canary of the handler")


app.wsgi_app = BasicAuthMiddleware(app.wsgi_app)  # type: ignore[method-assign]
