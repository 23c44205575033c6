"""A Bottle app protected by API keys.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    waitress-serve --listen=127.0.0.1:8000 examples.bottle_app:app
"""

import bottle

from basicauth_mw.wsgi import BasicAuthMiddleware

app = bottle.Bottle()


@app.get("/hello")
def hello() -> dict[str, str]:
    """The environ has the client."""
    return {"client_id": bottle.request.environ["basicauth_mw.principal"].client_id}


app = BasicAuthMiddleware(app)
