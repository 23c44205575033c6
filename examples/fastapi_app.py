"""A FastAPI app behind API keys.

Make a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    uvicorn examples.fastapi_app:app
"""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from basicauth_mw.asgi import BasicAuthMiddleware

api = FastAPI(title="Echo")


class Message(BaseModel):
    text: str


@api.post("/echo")
async def echo(message: Message, request: Request) -> dict[str, str]:
    """Who is calling is in ``request.user``: the key's id, name, scopes and metadata."""
    return {"client_id": request.user.client_id, "text": message.text}


@api.get("/missing")
async def missing() -> JSONResponse:
    """An answer of the app's own passes through untouched, whatever its status."""
    return JSONResponse({"error": "no such thing here"}, status_code=404)


@api.get("/broken")
async def broken() -> None:
    """An exception becomes a JSON 500 that tells the caller nothing; the traceback goes to the log."""
    raise RuntimeError("something broke")


@api.get("/slow")
async def slow() -> None:
    """What outruns ``timeout_s`` is cancelled, and answered by a JSON 504."""
    await asyncio.sleep(60)


@api.get("/health")
async def health() -> dict[str, str]:
    """Open to everybody: it is excluded below."""
    return {"status": "ok"}


# Where the keys are, and every other setting, comes from BASICAUTH_* in the environment.
app = BasicAuthMiddleware(api, exclude=("/health",), timeout_s=1)
