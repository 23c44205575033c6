"""The extension: factories, blueprints, the test client, and the current principal."""

from __future__ import annotations

import logging
import pydoc
from typing import TYPE_CHECKING, Any

import pytest
from flask import Blueprint, Flask, abort, got_request_exception, request
from flask.views import MethodView
from werkzeug.middleware.proxy_fix import ProxyFix

from basicauth_mw import Backend, ConfigurationError, InsufficientScope, Issued, Principal
from basicauth_mw.errors import BasicAuthError, InvalidCredentials, Rejected
from basicauth_mw.integrations.flask import BasicAuth, current_principal, requires
from basicauth_mw.wsgi import BasicAuthMiddleware

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

auth = BasicAuth()
part = Blueprint("part", __name__, url_prefix="/part")


@part.get("/me")
def part_me() -> str:
    return current_principal.client_id


@part.get("/write")
@requires("read", "write")
def part_write() -> str:
    pytest.fail("must not be reached")


class Things(MethodView):
    decorators = [requires("read")]  # noqa: RUF012 - as Flask wants it

    def get(self, number: int) -> str:
        return f"thing {number}"


def create_app(backend: Any = None, **config: Any) -> Flask:
    """An app factory; all its apps share one extension."""
    app = Flask("tested")
    app.config.update(config)

    @app.get("/me")
    def me() -> dict[str, Any]:
        return {"id": current_principal.client_id, "known": current_principal.is_authenticated}

    @app.get("/write")
    @requires("write")
    def write() -> str:
        pytest.fail("must not be reached")

    @app.get("/boom")
    def boom() -> str:
        raise ValueError("inside")

    @app.get("/rejected")
    def rejected() -> str:
        raise Rejected("of no kind")

    @app.get("/hides")
    def hides() -> str:
        request.environ.update(REMOTE_ADDR="203.0.113.9", HTTP_X_REQUEST_ID="changed")
        raise InsufficientScope

    @app.get("/own-check")
    def own_check() -> str:
        raise InvalidCredentials

    @app.get("/abort")
    def aborted() -> str:
        abort(404)

    app.add_url_rule("/things/<int:number>", view_func=Things.as_view("things"))
    app.register_blueprint(part)
    auth.init_app(app, backend)
    return app


@pytest.fixture
def app(backend: Backend) -> Flask:
    return create_app(backend, BASICAUTH_EXCLUDE=["/open"])


class Caller:
    """Sends requests with a key, with Flask's test client."""

    def __init__(self, app: Flask, issued: Issued) -> None:
        self.client: FlaskClient = app.test_client()
        self.headers = {"Authorization": issued.authorization}

    def get(self, path: str) -> TestResponse:
        return self.client.get(path, headers=self.headers)

    def code(self, path: str) -> str:
        response = self.get(path)
        assert response.mimetype == "application/problem+json"
        code: str = response.get_json(force=True)["code"]
        return code


@pytest.fixture
def caller(app: Flask, issued: Issued) -> Caller:
    return Caller(app, issued)


def test_everything_is_protected(caller: Caller) -> None:
    for path in ("/me", "/part/me", "/things/1", "/static/x", "/nowhere"):
        assert caller.client.get(path).status_code == 401

    assert caller.get("/me").get_json() == {"id": "ci", "known": True}
    assert caller.get("/part/me").text == "ci"
    assert caller.get("/nowhere").status_code == 404


def test_help_shows_the_documentation_of_current_principal(app: Flask) -> None:
    """Outside a request and inside one."""
    outside = pydoc.render_doc(current_principal, renderer=pydoc.plaintext)
    with app.test_request_context():
        request.environ["basicauth_mw.principal"] = Principal("ci")
        inside = pydoc.render_doc(current_principal, renderer=pydoc.plaintext)
        assert repr(current_principal) == repr(Principal("ci"))

    for text in (outside, inside):
        assert "The caller of the current request, a ``Principal``." in text
        assert "LocalProxy" not in text


def test_scopes(caller: Caller) -> None:
    assert caller.get("/things/3").text == "thing 3"
    assert caller.code("/write") == "insufficient_scope"
    assert caller.code("/part/write") == "insufficient_scope"


def test_an_async_view(app: Flask, issued: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as in Flask itself, with asgiref."""

    @app.get("/async")
    @requires("read")
    async def view() -> str:
        return current_principal.client_id

    assert Caller(app, issued).get("/async").text == "ci"


def test_a_view_keeps_its_name() -> None:
    assert part_write.__name__ == "part_write"


@pytest.mark.parametrize("scopes", [(), (["read"],), ("a b",)])
def test_invalid_scopes_are_an_error(scopes: Any) -> None:
    with pytest.raises(ConfigurationError):
        requires(*scopes)


def test_an_excluded_path(app: Flask, issued: Issued) -> None:
    @app.get("/open")
    def opened() -> dict[str, Any]:
        return {"known": current_principal.is_authenticated, "is": isinstance(current_principal, Principal)}

    assert app.test_client().get("/open").get_json() == {"known": False, "is": True}


def test_a_refusal_is_not_an_error(
    app: Flask, caller: Caller, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """It gives no traceback and no signal to monitors, but one audit record."""
    caplog.set_level(logging.INFO)
    signals: list[Exception] = []

    def receiver(_sender: Flask, exception: Exception, **_more: Any) -> None:
        signals.append(exception)

    with got_request_exception.connected_to(receiver, app):
        refused = caller.get("/write")

    assert refused.status_code == 403
    assert signals == []
    (record,) = caplog.records
    assert record.basicauth["reason"] == "insufficient_scope"  # type: ignore[attr-defined]
    assert record.basicauth["client_id"] == "ci"  # type: ignore[attr-defined]
    assert record.basicauth["request_id"] == refused.headers["X-Request-ID"]  # type: ignore[attr-defined]


def test_a_view_cannot_change_the_audit_record(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """It has the address and the request ID that the middleware received."""
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    assert caller.code("/hides") == "insufficient_scope"
    (record,) = caplog.records
    fields = record.basicauth  # type: ignore[attr-defined]
    assert fields["address"] == "127.0.0.1"
    assert fields["request_id"] != "changed"


def test_after_request_hooks_see_refusals(app: Flask, caller: Caller) -> None:
    """They can add CORS headers, for example."""

    @app.after_request
    def mark(response: Any) -> Any:
        response.headers["X-Mark"] = "1"
        return response

    assert caller.get("/write").headers["X-Mark"] == "1"
    head = caller.client.head("/write", headers=caller.headers)
    assert (head.status_code, head.data) == (403, b"")


def test_a_view_can_refuse_credentials(caller: Caller) -> None:
    """The response has a challenge."""
    assert caller.code("/own-check") == "invalid_credentials"
    assert "WWW-Authenticate" in caller.get("/own-check").headers


def test_an_exception_becomes_json_and_sends_a_signal(
    app: Flask, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    signals: list[Exception] = []

    def receiver(_sender: Flask, exception: Exception, **_more: Any) -> None:
        signals.append(exception)

    with got_request_exception.connected_to(receiver, app):
        assert caller.code("/boom") == "internal_error"
        assert caller.code("/rejected") == "internal_error"

    assert [type(exc) for exc in signals] == [ValueError, Rejected]
    assert caller.get("/abort").mimetype == "text/html"


def test_exceptions_propagate_if_flask_propagates_them(app: Flask, caller: Caller) -> None:
    app.testing = True

    assert caller.code("/write") == "insufficient_scope"
    with pytest.raises(ValueError, match="inside"):
        caller.get("/boom")


@pytest.mark.parametrize("kind", [InsufficientScope, Rejected])
def test_an_error_handler_of_the_app_wins(backend: Backend, issued: Issued, kind: type[Exception]) -> None:
    app = Flask("own")
    app.register_error_handler(kind, lambda _exc: ("mine", 418))
    app.get("/")(requires("write")(lambda: ""))
    BasicAuth(app, backend)

    assert Caller(app, issued).get("/").text == "mine"


@pytest.mark.parametrize("place", ["app", "blueprint"])
def test_a_handler_for_the_base_class_wins(backend: Backend, issued: Issued, place: str) -> None:
    """On an app or a blueprint, and whenever it is registered."""
    app = Flask("own")
    blueprint = Blueprint("blueprint", __name__)
    app.get("/app")(requires("write")(lambda: ""))
    blueprint.get("/blueprint")(requires("write")(lambda: ""))
    BasicAuth(app, backend)

    async def handle(exc: Exception) -> tuple[str, int]:
        return f"mine: {exc}", 418

    (app if place == "app" else blueprint).register_error_handler(BasicAuthError, handle)
    app.register_blueprint(blueprint)

    caller = Caller(app, issued)
    assert caller.get(f"/{place}").text == "mine: the key lacks a scope: write"
    if place == "blueprint":
        assert caller.code("/app") == "insufficient_scope"


def test_a_handler_for_all_exceptions_does_not_get_refusals(backend: Backend, issued: Issued) -> None:
    app = create_app(backend)
    app.register_error_handler(Exception, lambda _exc: ("mine", 500))

    assert Caller(app, issued).code("/write") == "insufficient_scope"
    assert Caller(app, issued).get("/boom").text == "mine"


def test_without_map_errors_flask_handles_exceptions(backend: Backend, issued: Issued) -> None:
    caller = Caller(create_app(backend, BASICAUTH_MAP_ERRORS="off"), issued)

    assert (caller.get("/write").status_code, caller.get("/write").mimetype) == (500, "text/html")


# --- configuration


def test_settings_come_from_the_config(issued: Issued, backend: Backend) -> None:
    app = create_app(BASICAUTH_BACKEND=backend, BASICAUTH_REALM="mine", BASICAUTH_REQUIRE_HTTPS=None)

    refused = app.test_client().get("/me")
    assert refused.headers["WWW-Authenticate"] == 'Basic realm="mine", charset="UTF-8"'
    assert Caller(app, issued).get("/me").status_code == 200


def test_precedence_of_backends(backend: Backend, issued: Issued) -> None:
    """init_app, then the constructor, then the configuration."""
    for extension, given in ((BasicAuth(backend="memory:"), backend), (BasicAuth(backend=backend), None)):
        app = Flask("own")
        app.config["BASICAUTH_BACKEND"] = "nonsense://"
        extension.init_app(app, given)
        assert Caller(app, issued).get("/").status_code == 404


def test_an_error_names_every_problem() -> None:
    app = Flask("own")
    app.config.update(BASICAUTH_REALM="a\nb", BASICAUTH_TIMEOUTS=3)

    with pytest.raises(ConfigurationError) as caught:
        auth.init_app(app)

    assert len(caught.value.problems) == 2
    assert "did you mean timeout_s" in str(caught.value)
    assert not isinstance(app.wsgi_app, BasicAuthMiddleware)


@pytest.mark.proves("X47")
def test_no_keys_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="BASICAUTH_KEYS"):
        BasicAuth(Flask("own"))


@pytest.mark.parametrize("given", ["sqlite:///keys.db", None, object()])
def test_only_an_app_can_be_protected(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs a Flask app"):
        BasicAuth().init_app(given)


def test_timeout_s_has_no_effect(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """And a warning says so."""
    create_app(backend, BASICAUTH_TIMEOUT_S=3)

    assert [record.message for record in caplog.records] == [
        "BASICAUTH_TIMEOUT_S has no effect under Flask: configure the server's timeout instead"
    ]


def test_protecting_an_app_twice_is_an_error(app: Flask, backend: Backend) -> None:
    with pytest.raises(ConfigurationError, match="already has BasicAuthMiddleware"):
        auth.init_app(app)
    with pytest.raises(ConfigurationError, match="already has BasicAuthMiddleware"):
        BasicAuth(app, backend)
    other = Flask("other")
    other.wsgi_app = BasicAuthMiddleware(other.wsgi_app, backend)  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="already has BasicAuthMiddleware"):
        BasicAuth(other, backend)
    other.wsgi_app = ProxyFix(other.wsgi_app)  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="already has BasicAuthMiddleware"):
        BasicAuth(other, backend)


def test_apps_of_one_factory_have_separate_middlewares(backend: Backend, issued: Issued) -> None:
    protected, elsewhere = create_app(backend), create_app("memory:")

    assert Caller(protected, issued).get("/me").status_code == 200
    assert Caller(elsewhere, issued).get("/me").status_code == 401


def test_init_app_after_the_first_request_is_an_error(backend: Backend) -> None:
    """Flask raises it, and the app is unchanged."""
    app = Flask("own")
    app.test_client().get("/")

    with pytest.raises(AssertionError, match="can no longer be called"):
        auth.init_app(app, backend)

    assert app.test_client().get("/").status_code == 404


def test_proxy_fix_runs_outside_the_middleware(backend: Backend, issued: Issued) -> None:
    app = create_app(backend, BASICAUTH_REQUIRE_HTTPS=True)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1)  # type: ignore[method-assign]
    caller = Caller(app, issued)

    assert caller.code("/me") == "https_required"
    caller.headers["X-Forwarded-Proto"] = "https"
    assert caller.get("/me").status_code == 200


@pytest.mark.proves("X41")
def test_requires_without_the_middleware_refuses_every_request(app: Flask, backend: Backend) -> None:
    bare = Flask("bare")
    bare.testing = True
    bare.get("/")(requires("read")(lambda: ""))

    with pytest.raises(RuntimeError, match="BasicAuthMiddleware did not process this request"):
        bare.test_client().get("/")
    with pytest.raises(RuntimeError, match="outside of request context"):
        _ = current_principal.client_id
    with app.test_request_context("/", environ_overrides={"basicauth_mw.principal": Principal("x")}):
        assert current_principal.client_id == "x"
