"""A Starlette app with a websocket behind API keys.

Make a key, then serve::

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
    """Who is calling is in ``request.user``."""
    return JSONResponse({"client_id": request.user.client_id})


async def echo(websocket: WebSocket) -> None:
    """And in ``websocket.user``. Without a key, the handshake is answered by a 401."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_json({"client_id": websocket.user.client_id, "text": text})


app = Starlette(
    routes=[Route("/hello", hello), WebSocketRoute("/echo", echo)],
    middleware=[Middleware(BasicAuthMiddleware)],
)
