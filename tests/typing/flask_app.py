"""Flask apps, with the extension and with the middleware alone."""

from typing import assert_type

from flask import Flask, Response, jsonify, request

from basicauth_mw import Principal
from basicauth_mw.integrations.flask import BasicAuth, current_principal, requires
from basicauth_mw.wsgi import BasicAuthMiddleware

auth = BasicAuth()


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["BASICAUTH_BACKEND"] = "sqlite:///keys.db"
    auth.init_app(app)

    @app.get("/reports/<int:number>")
    @requires("reports:read")
    def report(number: int) -> Response:
        assert_type(current_principal, Principal)
        return jsonify(by=current_principal.client_id, number=number)

    @app.get("/later")
    @requires("reports:read")
    async def later() -> dict[str, str]:
        return {"by": current_principal.name}

    return app


@requires("read")
def doubled(number: int) -> float:
    return number * 2.0


assert_type(doubled(1), float)

plain = Flask(__name__)


@plain.get("/")
def hello() -> str:
    caller: Principal = request.environ["basicauth_mw.principal"]
    return caller.client_id


plain.wsgi_app = BasicAuthMiddleware(plain.wsgi_app, backend="env:")  # type: ignore[method-assign]
