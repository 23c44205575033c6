"""The app that is deployed: a protected route, probes without a key, and metrics with one."""

from fastapi import FastAPI, Response
from prometheus_client import make_asgi_app

from basicauth_mw import open_backend
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install
from basicauth_mw.metrics import instrument

keys = open_backend()  # reads BASICAUTH_BACKEND; connects on first use

app = FastAPI()
app.mount("/metrics", make_asgi_app())
install(app, keys, exclude=["/health", "/ready"])
instrument(app)


@app.get("/hello")
async def hello(caller: CurrentPrincipal) -> dict[str, str]:
    return {"hello": caller.client_id}


@app.get("/health")
async def health() -> Response:
    """The process responds, even if the key store is down."""
    return Response(status_code=204)


@app.get("/ready")
async def ready() -> Response:
    """The key store is available, so requests can be verified."""
    return Response(status_code=204 if await keys.aready() else 503)
