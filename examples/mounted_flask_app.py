"""A Flask app mounted in a FastAPI app, both protected by the same API keys.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    uvicorn examples.mounted_flask_app:app
"""

from a2wsgi import WSGIMiddleware
from fastapi import FastAPI
from flask import Flask

from basicauth_mw import open_backend
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install
from basicauth_mw.integrations.flask import BasicAuth, current_principal

keys = open_backend()

legacy = Flask(__name__)
# FastAPI's middleware protects everything that is mounted in it. This one makes current_principal available
# in Flask; verifying the key again takes a few microseconds.
BasicAuth(legacy, keys)


@legacy.get("/hello")
def old_hello() -> dict[str, str]:
    return {"client_id": current_principal.client_id}


app = FastAPI()
install(app, keys)


@app.get("/hello")
async def hello(caller: CurrentPrincipal) -> dict[str, str]:
    return {"client_id": caller.client_id}


app.mount("/legacy", WSGIMiddleware(legacy))
