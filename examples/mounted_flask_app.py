"""A Flask app mounted in a FastAPI app, all behind the same API keys.

Make a key, then serve::

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
# The gate of FastAPI protects all that is mounted in it. This one is for Flask to know who is calling; to
# check the key again costs some microseconds.
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
