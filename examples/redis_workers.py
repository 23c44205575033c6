"""Several workers, or servers, that share keys in Redis.

Create a key, then serve::

    export BASICAUTH_BACKEND=redis://localhost:6379/0
    basicauth-mw keys create --name me
    uvicorn --workers 2 examples.redis_workers:app

After you revoke it, every worker refuses it within 250 ms.
"""

import os

from fastapi import FastAPI, Response

from basicauth_mw import open_backend
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install

keys = open_backend()  # connects on first use

app = FastAPI()
install(app, keys, exclude=["/ready"])


@app.get("/hello")
async def hello(caller: CurrentPrincipal) -> dict[str, str | int]:
    return {"client_id": caller.client_id, "worker": os.getpid()}


@app.get("/ready")
async def ready() -> Response:
    """For a load balancer: whether Redis is available."""
    return Response(status_code=204 if await keys.aready() else 503)
