"""A Falcon app protected by API keys.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    waitress-serve --listen=127.0.0.1:8000 examples.falcon_app:app
"""

import falcon

from basicauth_mw.wsgi import BasicAuthMiddleware


class Hello:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """The environ has the client."""
        response.media = {"client_id": request.env["basicauth_mw.principal"].client_id}


app = falcon.App()
app.add_route("/hello", Hello())

app = BasicAuthMiddleware(app)
