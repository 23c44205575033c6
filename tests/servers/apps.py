"""The apps that the servers serve: FastAPI in both placements, and Flask. Keys come from the environment."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, WebSocket
from flask import Flask, jsonify
from flask import request as flask_request
from pydantic import BaseModel

from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuthMiddleware


class Message(BaseModel):
    text: str


def make_api() -> FastAPI:
    api = FastAPI()

    @api.post("/echo")
    async def echo(message: Message, request: Request) -> dict[str, str]:
        return {"client_id": request.user.client_id, "text": message.text}

    @api.get("/hello")
    def hello(request: Request) -> dict[str, str]:
        return {"client_id": request.user.client_id}

    @api.get("/broken")
    async def broken() -> None:
        raise RuntimeError("canary of the handler")

    @api.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    @api.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.user.client_id)
        await websocket.close()

    return api


wrapped_app = BasicAuthMiddleware(make_api(), timeout_s=1)

inside_app = make_api()
inside_app.add_middleware(BasicAuthMiddleware, timeout_s=1)

flask_app = Flask(__name__)


@flask_app.post("/echo")
def echo() -> object:
    caller = flask_request.environ["basicauth_mw.principal"]
    return jsonify(client_id=caller.client_id, text=flask_request.get_json()["text"])


@flask_app.get("/hello")
def hello() -> object:
    return jsonify(client_id=flask_request.environ["basicauth_mw.principal"].client_id)


@flask_app.get("/broken")
def broken() -> object:
    raise RuntimeError("canary of the handler")


flask_app.wsgi_app = WSGIBasicAuthMiddleware(flask_app.wsgi_app)  # type: ignore[method-assign]


async def _who(scope: dict[str, object], _receive: object, send: Callable[[object], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"%010d" % os.getpid()})


def _wsgi_who(_environ: object, start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "10")])
    return [b"%010d" % os.getpid()]


# The response names the worker.
who_app = BasicAuthMiddleware(_who)
wsgi_who_app = WSGIBasicAuthMiddleware(_wsgi_who)
