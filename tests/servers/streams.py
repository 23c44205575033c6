"""The chunks that the streaming apps send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

published = asyncio.Event()


async def chunks(*before: str, layout: str = "{}") -> AsyncIterator[str]:
    for chunk in before:
        yield layout.format(chunk)
    published.clear()
    await published.wait()
    yield layout.format("published")
