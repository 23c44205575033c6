"""A server with the interface of OpenAI's: models, and chat completions that may be streamed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = FastAPI()
proceed = asyncio.Event()


@app.get("/v1/models")
async def models() -> dict[str, Any]:
    """The models, as OpenAI lists them."""
    return {"object": "list", "data": [{"id": "parrot", "object": "model", "created": 0, "owned_by": "me"}]}


@app.post("/v1/chat/completions")
async def complete(body: dict[str, Any]) -> Any:
    """Repeat the last message."""
    text = body["messages"][-1]["content"]
    if body.get("stream"):
        return StreamingResponse(chunks(text), media_type="text/event-stream")
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "parrot", "choices": [choice]}


async def chunks(text: str) -> AsyncIterator[str]:
    """The text in two chunks; the second one waits for a POST to ``/continue``."""
    proceed.clear()
    middle = len(text) // 2
    yield chunk({"role": "assistant", "content": text[:middle]})
    await proceed.wait()
    yield chunk({"content": text[middle:]}, "stop")
    yield "data: [DONE]\n\n"


def chunk(delta: dict[str, str], reason: str | None = None) -> str:
    """One event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    event = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "parrot"}
    return f"data: {json.dumps({**event, 'choices': [choice]})}\n\n"


@app.post("/continue")
async def proceed_with_the_stream() -> None:
    """Let the stream end."""
    proceed.set()
