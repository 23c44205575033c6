"""The FastAPI apps that the servers serve, in both placements. Keys come from the environment."""

import asyncio

from fastapi import FastAPI, Request, WebSocket
from pydantic import BaseModel

from basicauth_mw.asgi import BasicAuthMiddleware


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
