"""A Quart app protected by API keys.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    uvicorn examples.quart_app:app
"""

from quart import Quart, request

from basicauth_mw.asgi import BasicAuthMiddleware

app = Quart(__name__)


@app.get("/hello")
async def hello() -> dict[str, str]:
    """The ASGI scope has the client."""
    return {"client_id": request.scope["user"].client_id}


app.asgi_app = BasicAuthMiddleware(app.asgi_app)
