"""A FastAPI app protected by API keys.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    uvicorn examples.fastapi_app:app
"""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from basicauth_mw.integrations.fastapi import install

app = FastAPI(title="Echo")
# The backend and every other setting are read from BASICAUTH_* in the environment.
install(app, exclude=("/health",), timeout_s=3)


class Message(BaseModel):
    text: str


@app.get("/hello")
async def hello(request: Request) -> dict[str, str]:
    """``request.user`` is the client: the key's ID, name, scopes and metadata."""
    return {"hello": request.user.name}


@app.post("/echo")
async def echo(message: Message, request: Request) -> dict[str, str]:
    """The body is a model, as in any FastAPI app."""
    return {"client_id": request.user.client_id, "text": message.text}


@app.get("/missing")
async def missing() -> JSONResponse:
    """The app's own response is passed on unchanged, whatever its status."""
    return JSONResponse({"error": "no such thing here"}, status_code=404)


@app.get("/broken")
async def broken() -> None:
    """An exception becomes a JSON 500 without details; the traceback goes to the log."""
    raise RuntimeError("something broke")


@app.get("/slow")
async def slow() -> None:
    """A handler that takes longer than ``timeout_s`` is cancelled; the response is a JSON 504."""
    await asyncio.sleep(60)


@app.get("/health")
async def health() -> dict[str, str]:
    """Needs no key: it is excluded above."""
    return {"status": "ok"}
