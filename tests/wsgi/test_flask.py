"""Flask, which handles exceptions of views itself: the client gets one response, ours or Flask's."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from flask import Blueprint, Flask, abort, got_request_exception, request, stream_with_context
from werkzeug.exceptions import HTTPException, InternalServerError

from basicauth_mw import Backend, InsufficientScope, Issued, Settings, require_scopes
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.wsgi.helpers import LIMIT_S, Response, call, call_validated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wsgi.helpers import WsgiApp

DEFAULT_PAGE = InternalServerError().get_body().encode()


class Boom(ValueError):
    """The exception that the views raise."""


@pytest.fixture
def app() -> Flask:
    """A Flask app with a view for each case."""
    app = Flask("tested")

    @app.get("/")
    def hello() -> str:
        return f"hello {request.remote_user}"

    @app.get("/raise")
    def raises() -> str:
        raise Boom("inside")

    @app.get("/timeout")
    def time_out() -> str:
        raise TimeoutError

    @app.get("/scope")
    def scope() -> str:
        require_scopes(request.environ["basicauth_mw.principal"], "write")
        return "not reached"

    @app.get("/abort")
    def aborts() -> str:
        abort(500)

    @app.get("/returned")
    def returned() -> tuple[str, int]:
        return "mine", 500

    @app.get("/returned-default")
    def returned_default() -> Any:
        return InternalServerError().get_response()

    @app.get("/late")
    def late() -> Any:
        def chunks() -> Iterator[str]:
            yield "data"
            raise Boom("late")

        return app.response_class(stream_with_context(chunks()))

    @app.get("/stream-early")
    def stream_early() -> Any:
        def chunks() -> Iterator[str]:
            raise Boom("early")
            yield ""

        return app.response_class(chunks())

    return app


@pytest.fixture(params=["wsgi_app", "wrapped"])
def wrapped(request: pytest.FixtureRequest, app: Flask, backend: Backend) -> WsgiApp:
    """The app as its server gets it: by ``app.wsgi_app = ...``, or wrapped as a whole."""
    if request.param == "wrapped":
        return BasicAuthMiddleware(app, backend, settings=Settings())
    app.wsgi_app = BasicAuthMiddleware(app.wsgi_app, backend, settings=Settings())  # type: ignore[method-assign]
    return app


@pytest.mark.proves("X19", "X20")
@pytest.mark.parametrize(
    "field", ["Basic \xff\xfe", "Basic é:x", "Basic ZGVtbzp\xa0", "Basic " + "\x80" * 40]
)
def test_a_header_that_werkzeug_cannot_parse_never_reaches_it(
    app: Flask, backend: Backend, field: str
) -> None:
    """Its ``request.authorization`` decodes a token as ASCII, and a view that reads it would be a 500."""
    seen: list[object] = []
    inner = app.wsgi_app

    @app.get("/who")
    def who() -> str:
        return str(request.authorization)

    def watching(environ: Any, start_response: Any) -> Any:
        seen.append(environ)
        return inner(environ, start_response)

    app.wsgi_app = BasicAuthMiddleware(watching, backend, settings=Settings())  # type: ignore[method-assign]
    assert call_validated(app, field, path="/who").code == "invalid_credentials"
    assert seen == []


def test_a_view_responds(wrapped: WsgiApp, issued: Issued) -> None:
    good = call_validated(wrapped, issued.authorization)

    assert (good.status_line, good.body) == ("200 OK", b"hello ci")
    assert call_validated(wrapped).code == "missing_credentials"
    assert call_validated(wrapped, issued.authorization, path="/none").status_line == "404 NOT FOUND"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/raise", 500, "internal_error"), ("/timeout", 504, "timeout"), ("/scope", 403, "insufficient_scope")],
)
def test_an_exception_becomes_json(
    wrapped: WsgiApp, issued: Issued, path: str, status: int, code: str
) -> None:
    response = call_validated(wrapped, issued.authorization, path=path)

    assert (response.status, response.code) == (status, code)
    assert len(response.starts) == 1, "Flask's own page never reached the server"
    assert b"inside" not in response.body


def test_the_exception_is_logged(wrapped: WsgiApp, issued: Issued, caplog: pytest.LogCaptureFixture) -> None:
    call_validated(wrapped, issued.authorization, path="/raise")

    (record,) = [record for record in caplog.records if record.name == "basicauth_mw"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Boom)
    assert record.exc_info[2] is not None


def test_head(wrapped: WsgiApp, issued: Issued) -> None:
    head = call_validated(wrapped, issued.authorization, path="/raise", REQUEST_METHOD="HEAD")
    get = call_validated(wrapped, issued.authorization, path="/raise")

    assert (head.status, head.headers, head.body) == (500, get.headers, b"")
    assert head.named["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("what", [500, InternalServerError, Exception, ValueError, Boom, HTTPException])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_handler_of_the_app_wins(
    app: Flask, wrapped: WsgiApp, issued: Issued, what: Any, method: str
) -> None:
    @app.errorhandler(what)
    def mine(_exc: Exception) -> tuple[str, int]:
        return "mine", 500

    response = call_validated(wrapped, issued.authorization, path="/raise", REQUEST_METHOD=method)

    assert response.status == 500
    assert response.named["Content-Length"] == "4"
    assert response.body == (b"mine" if method == "GET" else b"")


def test_a_handler_wins_under_granian(app: Flask, backend: Backend, issued: Issued) -> None:
    """The first chunk is read early, once for Granian and once to detect Flask's own page."""
    app.register_error_handler(500, lambda _exc: ("mine", 500))
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    response = call(middleware, issued.authorization, path="/raise", SERVER_SOFTWARE="Granian")

    assert (response.status, response.body) == (500, b"mine")


def test_a_handler_of_a_blueprint_wins_there(app: Flask, wrapped: WsgiApp, issued: Issued) -> None:
    blueprint = Blueprint("part", "part", url_prefix="/part")

    @blueprint.errorhandler(Boom)
    def mine(_exc: Exception) -> tuple[str, int]:
        return "mine", 500

    @blueprint.get("/raise")
    def raises() -> str:
        raise Boom

    app.register_blueprint(blueprint)

    assert call_validated(wrapped, issued.authorization, path="/part/raise").body == b"mine"
    assert call_validated(wrapped, issued.authorization, path="/raise").code == "internal_error"


def test_a_handler_for_something_else_does_not_matter(app: Flask, wrapped: WsgiApp, issued: Issued) -> None:
    app.register_error_handler(404, lambda _exc: ("mine", 404))
    app.register_error_handler(KeyError, lambda _exc: ("mine", 500))

    assert call_validated(wrapped, issued.authorization, path="/raise").code == "internal_error"
    assert call_validated(wrapped, issued.authorization, path="/none").body == b"mine"


def test_a_handler_that_raises_is_an_exception(app: Flask, wrapped: WsgiApp, issued: Issued) -> None:
    @app.errorhandler(Boom)
    def mine(_exc: Exception) -> str:
        raise KeyError

    assert call_validated(wrapped, issued.authorization, path="/raise").code == "internal_error"


def test_a_500_that_a_view_returns_passes_unchanged(
    wrapped: WsgiApp, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """By abort, by return, and even Werkzeug's own page, byte for byte."""
    bodies = {
        path: call_validated(wrapped, issued.authorization, path=path)
        for path in ("/abort", "/returned", "/returned-default")
    }

    assert {response.status_line for response in bodies.values()} == {"500 INTERNAL SERVER ERROR"}
    assert bodies["/abort"].body == DEFAULT_PAGE
    assert bodies["/returned"].body == b"mine"
    assert bodies["/returned-default"].body == DEFAULT_PAGE
    assert [record for record in caplog.records if record.name == "basicauth_mw"] == []


@pytest.mark.parametrize("setting", ["DEBUG", "TESTING", "PROPAGATE_EXCEPTIONS"])
def test_an_exception_that_flask_reraises_is_reraised(
    app: Flask, wrapped: WsgiApp, issued: Issued, setting: str
) -> None:
    """The debugger and ``pytest.raises`` see it; a missing scope is still a 403."""
    app.config[setting] = True

    raised = call(wrapped, issued.authorization, path="/raise")
    scope = call(wrapped, issued.authorization, path="/scope")

    assert isinstance(raised.raised, Boom)
    assert raised.starts == []
    assert scope.code == "insufficient_scope"
    assert call(wrapped, issued.authorization, path="/abort").body == DEFAULT_PAGE


def test_the_test_client_works(app: Flask, backend: Backend, issued: Issued) -> None:
    """It raises any exc_info, so the middleware passes none if Flask itself would not raise."""
    app.wsgi_app = BasicAuthMiddleware(app.wsgi_app, backend, settings=Settings())  # type: ignore[method-assign]
    client = app.test_client()
    headers = {"Authorization": issued.authorization}

    assert client.get("/").status_code == 401
    assert client.get("/", headers=headers).text == "hello ci"
    refused = client.get("/raise", headers=headers)
    assert (refused.status_code, refused.get_json()["code"]) == (500, "internal_error")
    assert client.get("/scope", headers=headers).status_code == 403
    app.testing = True
    assert client.get("/scope", headers=headers).status_code == 403
    with pytest.raises(Boom):
        client.get("/raise", headers=headers)


def test_map_errors_off_does_not_affect_flask(app: Flask, backend: Backend, issued: Issued) -> None:
    wrapped = BasicAuthMiddleware(app, backend, settings=Settings(), map_errors=False)

    assert call_validated(wrapped, issued.authorization, path="/raise").body == DEFAULT_PAGE


def test_the_signal_still_reaches_others(app: Flask, wrapped: WsgiApp, issued: Issued) -> None:
    """Error monitors use it."""
    heard: list[Exception] = []

    def receiver(_sender: Flask, exception: Exception, **_more: Any) -> None:
        heard.append(exception)

    with got_request_exception.connected_to(receiver, app):
        call_validated(wrapped, issued.authorization, path="/raise")
        call_validated(wrapped, issued.authorization, path="/abort")

    assert [type(exc) for exc in heard] == [Boom]


def test_a_hook_may_add_headers(app: Flask, wrapped: WsgiApp, issued: Issued) -> None:
    """The page is still Werkzeug's own."""

    @app.after_request
    def add(response: Any) -> Any:
        response.headers["X-Mine"] = "1"
        return response

    assert call_validated(wrapped, issued.authorization, path="/raise").code == "internal_error"
    assert ("X-Mine", "1") in call_validated(wrapped, issued.authorization, path="/abort").headers


def test_a_hook_that_changes_the_page_takes_precedence(app: Flask, wrapped: WsgiApp, issued: Issued) -> None:
    @app.after_request
    def change(response: Any) -> Any:
        response.data = json.dumps({"mine": response.status_code})
        return response

    assert call_validated(wrapped, issued.authorization, path="/raise").body == b'{"mine": 500}'


def test_a_stream_that_fails_late_is_truncated(wrapped: WsgiApp, issued: Issued) -> None:
    response = call(wrapped, issued.authorization, path="/late")

    assert isinstance(response.raised, Boom)
    assert (response.status_line, response.body) == ("200 OK", b"data")


def test_a_stream_that_fails_at_once_becomes_json(wrapped: WsgiApp, issued: Issued) -> None:
    """Flask does not see that exception at all."""
    assert call_validated(wrapped, issued.authorization, path="/stream-early").code == "internal_error"


def test_teardown_and_close_run_once(app: Flask, wrapped: WsgiApp, issued: Issued) -> None:
    """For the discarded response, too."""
    counted: list[str] = []

    @app.teardown_request
    def request_ends(_exc: BaseException | None) -> None:
        counted.append("request")

    @app.teardown_appcontext
    def context_ends(_exc: BaseException | None) -> None:
        counted.append("context")

    @app.after_request
    def add(response: Any) -> Any:
        response.call_on_close(lambda: counted.append("close"))
        return response

    for path in ("/", "/raise", "/abort", "/scope"):
        counted.clear()
        call_validated(wrapped, issued.authorization, path=path)
        assert sorted(counted) == ["close", "context", "request"], path


def test_a_hook_before_and_a_teardown_that_fail(app: Flask, wrapped: WsgiApp, issued: Issued) -> None:
    """Exceptions that Flask does not handle reach the middleware like those of any app."""
    fails = ["before"]

    @app.before_request
    def before() -> None:
        if "before" in fails:
            raise Boom

    @app.after_request
    def after(response: Any) -> Any:
        if "after" in fails:
            raise Boom
        return response

    @app.teardown_request
    def teardown(_exc: BaseException | None) -> None:
        if "teardown" in fails:
            raise Boom

    for where in ("before", "after", "teardown"):
        fails[:] = [where]
        assert call_validated(wrapped, issued.authorization).code == "internal_error", where
    fails.clear()
    assert call_validated(wrapped, issued.authorization).status == 200


def test_threads_keep_their_exceptions_apart(app: Flask, backend: Backend, issued: Issued) -> None:
    """One raises while the other returns 500 itself, both at once."""
    both = threading.Barrier(2)

    @app.get("/raise-together")
    def raise_together() -> str:
        both.wait(LIMIT_S)
        raise Boom

    @app.get("/abort-together")
    def abort_together() -> str:
        both.wait(LIMIT_S)
        abort(500)

    logging.getLogger(app.name).disabled = True
    app.wsgi_app = BasicAuthMiddleware(app.wsgi_app, backend, settings=Settings())  # type: ignore[method-assign]

    def send_request(path: str) -> Response:
        return call(app, issued.authorization, path=path)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(200):
            raised, aborted = pool.map(send_request, ("/raise-together", "/abort-together"))
            assert raised.code == "internal_error"
            assert aborted.body == DEFAULT_PAGE


def test_one_flask_inside_another(backend: Backend, issued: Issued) -> None:
    """An exception that the inner app handled does not belong to the outer one."""
    inner = Flask("inner")
    outer = Flask("outer")

    @inner.get("/raise")
    def raises() -> str:
        raise Boom

    @outer.get("/")
    def view() -> str:
        inner.test_client().get("/raise")
        return "fine"

    @outer.get("/abort")
    def asks_and_aborts() -> str:
        inner.test_client().get("/raise")
        abort(500)

    @outer.get("/missing")
    def asks_and_raises() -> str:
        inner.test_client().get("/raise")
        raise InsufficientScope

    wrapped = BasicAuthMiddleware(outer, backend, settings=Settings())

    assert call_validated(wrapped, issued.authorization).body == b"fine"
    assert call_validated(wrapped, issued.authorization, path="/abort").body == DEFAULT_PAGE
    assert call_validated(wrapped, issued.authorization, path="/missing").code == "insufficient_scope"


def test_twice_protected(app: Flask, backend: Backend, issued: Issued) -> None:
    """Two middlewares around one app: the inner one creates the response, and the outer one passes it on."""
    app.wsgi_app = BasicAuthMiddleware(app.wsgi_app, backend, settings=Settings())  # type: ignore[method-assign]
    wrapped = BasicAuthMiddleware(app, backend, settings=Settings())

    response = call_validated(wrapped, issued.authorization, path="/raise")

    assert response.code == "internal_error"
    assert len(response.starts) == 1
