"""A Quart app behind API keys.

Make a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    uvicorn examples.quart_app:app
"""

from quart import Quart, request

from basicauth_mw.asgi import BasicAuthMiddleware

app = Quart(__name__)


@app.get("/hello")
async def hello() -> dict[str, str]:
    """Who is calling is in the ASGI scope."""
    return {"client_id": request.scope["user"].client_id}


app.asgi_app = BasicAuthMiddleware(app.asgi_app)
