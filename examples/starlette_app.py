"""A Starlette app with a websocket protected by API keys.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    uvicorn examples.starlette_app:app
"""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from basicauth_mw.asgi import BasicAuthMiddleware


async def hello(request: Request) -> JSONResponse:
    """``request.user`` is the client."""
    return JSONResponse({"client_id": request.user.client_id})


async def echo(websocket: WebSocket) -> None:
    """``websocket.user`` is the client. Without a key, the response to the handshake is a 401."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_json({"client_id": websocket.user.client_id, "text": text})


app = Starlette(
    routes=[Route("/hello", hello), WebSocketRoute("/echo", echo)],
    middleware=[Middleware(BasicAuthMiddleware)],
)
