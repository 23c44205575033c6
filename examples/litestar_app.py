"""A Litestar app protected by API keys.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    uvicorn examples.litestar_app:app
"""

from typing import Any

from litestar import Litestar, Request, get

from basicauth_mw import Principal
from basicauth_mw.asgi import BasicAuthMiddleware


@get("/hello")
async def hello(request: Request[Principal, Any, Any]) -> dict[str, str]:
    """``request.user`` is the client."""
    return {"client_id": request.user.client_id}


app = BasicAuthMiddleware(Litestar([hello]))
