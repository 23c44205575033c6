"""An instrumented WSGI app. Its responses name the worker, and each worker serves the metrics of all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from basicauth_mw.metrics import instrument
from basicauth_mw.wsgi import BasicAuthMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable


def _app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return [generate_latest(registry)]
    return [b"%d" % os.getpid()]


app = BasicAuthMiddleware(_app, exclude=("/metrics",))
instrument(app)
