"""Apps with the dashboard in them: ASGI and WSGI. Keys and settings come from the environment."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Request
from flask import Flask, jsonify
from flask import request as flask_request
from pydantic import BaseModel, Field
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.dashboard import dashboard, wsgi_dashboard
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuthMiddleware

api = FastAPI(title="Example")


class Message(BaseModel):
    text: str = Field(examples=["hello"])


@api.post("/echo", summary="Say it back")
def echo(message: Message, request: Request) -> dict[str, str]:
    return {"client_id": request.user.client_id, "text": message.text}


@api.get("/teapot", summary="An unusual status")
def teapot() -> None:
    raise HTTPException(418, "short and stout")


@api.get("/items/{number}", summary="Look one up")
def item(number: Annotated[int, Path(examples=[1])]) -> dict[str, int]:
    return {"number": number}


api.mount("/keys", dashboard())
fastapi_app = BasicAuthMiddleware(api)

flask_app = Flask(__name__)


@flask_app.post("/echo")
def flask_echo() -> object:
    caller = flask_request.environ["basicauth_mw.principal"]
    return jsonify(client_id=caller.client_id, text=flask_request.get_json()["text"])


flask_app.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
    WSGIBasicAuthMiddleware(flask_app.wsgi_app), {"/keys": wsgi_dashboard()}
)
