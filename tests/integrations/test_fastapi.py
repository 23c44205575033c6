"""``install`` protects a FastAPI app and extends its OpenAPI document."""

import asyncio
import json
import logging
import pydoc
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import OpenAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse, Response
from fastapi.security import APIKeyHeader, HTTPBasic
from pydantic import BaseModel

from basicauth_mw import Backend, ConfigurationError, Issued, Principal, Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.auth import configuration
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install, requires
from tests.asgi.helpers import Exchange, call, connect, http_scope, websocket_scope


class Item(BaseModel):
    number: int
    password: str = ""


def make_app(**more: Any) -> FastAPI:
    app = FastAPI(**more)

    @app.get("/me")
    async def me(caller: CurrentPrincipal) -> dict[str, Any]:
        return {"id": caller.client_id, "scopes": sorted(caller.scopes)}

    @app.get("/read", dependencies=[requires("read")])
    def read() -> str:
        return "read"

    @app.get("/write")
    def write(caller: Annotated[Principal, requires("write", "read")]) -> str:
        return caller.client_id

    @app.post("/items/{place}")
    async def item(place: int, item: Item) -> Item:
        return item

    @app.get("/open/{name}")
    async def opened(name: str, caller: CurrentPrincipal) -> str:
        return f"{name} {caller.is_authenticated}"

    @app.get("/open/bare/health")
    async def health() -> str:
        return "ok"

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("inside")

    return app


@pytest.fixture
def app(backend: Backend) -> FastAPI:
    app = make_app()
    install(app, backend, settings=Settings(exclude=("/open/*",)))
    return app


def get(app: FastAPI, path: str, authorization: str | None = None, **more: Any) -> Exchange:
    return call(app, http_scope(authorization, path=path, headers=[(b"x-request-id", b"r-1")], **more))


def post(app: FastAPI, path: str, issued: Issued, body: bytes) -> Exchange:
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"r-1")]
    scope = http_scope(issued.authorization, method="POST", path=path, headers=headers)
    return call(app, scope, {"type": "http.request", "body": body})


# --- the middleware


@pytest.mark.parametrize("path", ["/me", "/docs", "/redoc", "/openapi.json", "/nowhere", "/"])
def test_everything_is_protected(app: FastAPI, issued: Issued, path: str) -> None:
    assert get(app, path).problem["code"] == "missing_credentials"
    assert get(app, path, issued.authorization).status in (200, 404)


def test_mounted_apps_are_protected(app: FastAPI, issued: Issued) -> None:
    app.mount("/sub", make_app())

    assert get(app, "/sub/me").status == 401
    assert json.loads(get(app, "/sub/me", issued.authorization).body)["id"] == "ci"


def test_exceptions_become_json(app: FastAPI, issued: Issued) -> None:
    seen = get(app, "/boom", issued.authorization)

    assert seen.problem["code"] == "internal_error"
    assert isinstance(seen.raised, ValueError)


def test_a_bad_configuration_raises_at_the_call() -> None:
    """The error names every problem, and the app is unchanged."""
    app = make_app()

    with pytest.raises(ConfigurationError) as caught:
        install(app, "nonsense://x", settings=Settings(), relm="x")

    assert len(caught.value.problems) == 2
    assert app.user_middleware == []
    assert "securitySchemes" in app.openapi()["components"]  # from CurrentPrincipal, not from install
    assert "responses" not in app.openapi()["components"]


def test_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app()
    with pytest.raises(ConfigurationError, match="BASICAUTH_KEYS"):
        install(app)
    monkeypatch.setenv("BASICAUTH_KEYS", "demo:p@55w0rd")

    install(app)

    assert get(app, "/me", "Basic ZGVtbzpwQDU1dzByZA==").status == 200


def test_installing_twice_is_an_error(app: FastAPI, backend: Backend) -> None:
    with pytest.raises(ConfigurationError, match="already has BasicAuthMiddleware"):
        install(app, backend, settings=Settings())
    other = make_app()
    other.add_middleware(BasicAuthMiddleware, backend=backend, settings=Settings())
    with pytest.raises(ConfigurationError, match="already has BasicAuthMiddleware"):
        install(other, backend, settings=Settings())

    assert len(app.user_middleware) == len(other.user_middleware) == 1


def test_not_a_fastapi_app_is_an_error(backend: Backend) -> None:
    with pytest.raises(ConfigurationError, match="needs a FastAPI app"):
        install(BasicAuthMiddleware(make_app(), backend, settings=Settings()), backend)  # type: ignore[arg-type]


def test_an_app_that_has_started_is_unchanged(backend: Backend) -> None:
    app = make_app()
    get(app, "/me")

    with pytest.raises(RuntimeError, match="has started"):
        install(app, backend, settings=Settings())

    assert "responses" not in app.openapi()["components"]


def test_starlette_gets_the_middleware_that_was_checked(backend: Backend, issued: Issued) -> None:
    """Starlette builds its middleware when the app starts."""
    app = make_app()
    install(app, backend, settings=Settings())
    (placed,) = app.user_middleware
    checked = placed.cls._middleware  # type: ignore[attr-defined]

    assert get(app, "/me", issued.authorization).status == 200
    assert placed.cls(app.router) is checked  # type: ignore[call-arg, comparison-overlap]


class Watched(MemoryStore):
    """Records when it is closed."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self._events = events

    def close(self) -> None:
        self._events.append("closed")
        super().close()


@pytest.mark.parametrize("given", ["url", "object"])
def test_a_backend_from_a_url_is_opened_once_and_closed_with_the_app(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """A backend object is not closed."""
    events: list[str] = []

    def open_store(_url: str, **_more: object) -> MemoryStore:
        events.append("opened")
        return Watched(events)

    monkeypatch.setattr(configuration, "open_store", open_store)
    app = make_app()
    install(app, "memory:" if given == "url" else Watched(events), settings=Settings())

    lifespan = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    seen = call(app, lifespan, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})

    assert [message["type"].rpartition(".")[0] for message in seen.messages] == [
        "lifespan.startup",
        "lifespan.shutdown",
    ]
    assert events == (["opened", "closed"] if given == "url" else [])


def test_middleware_added_later_runs_outside(backend: Backend) -> None:
    app = make_app()
    install(app, backend, settings=Settings())

    @app.middleware("http")
    async def mark(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-mark"] = "1"
        return response

    assert get(app, "/me").headers["x-mark"] == "1"


# --- dependencies


def test_the_principal(app: FastAPI, issued: Issued) -> None:
    assert json.loads(get(app, "/me", issued.authorization).body) == {"id": "ci", "scopes": ["read"]}
    assert get(app, "/open/x").body == b'"x False"'


def test_help_shows_the_documentation_of_current_principal() -> None:
    text = pydoc.render_doc(CurrentPrincipal, renderer=pydoc.plaintext)

    assert "A dependency that returns the caller, a ``Principal``." in text


def test_scopes(app: FastAPI, issued: Issued, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    assert get(app, "/read", issued.authorization).status == 200
    refused = get(app, "/write", issued.authorization)

    assert (refused.status, refused.problem["code"], refused.raised) == (403, "insufficient_scope", None)
    assert [record.basicauth["reason"] for record in caplog.records] == ["insufficient_scope"]  # type: ignore[attr-defined]


def test_scopes_of_a_router_and_a_route_add_up(backend: Backend, issued: Issued) -> None:
    router = APIRouter(prefix="/r", dependencies=[requires("read")])

    @router.get("/one")
    def one() -> int:
        return 1

    @router.get("/two", dependencies=[requires("write")])
    def two() -> int:
        return 2

    app = FastAPI()
    app.include_router(router)
    install(app, backend, settings=Settings())

    assert get(app, "/r/one", issued.authorization).status == 200
    assert get(app, "/r/two", issued.authorization).status == 403
    assert app.openapi()["paths"]["/r/two"]["get"]["security"] == [{"HTTPBasic": ["read", "write"]}]


def test_scopes_on_an_excluded_path_refuse_everyone(backend: Backend) -> None:
    app = make_app()
    install(app, backend, settings=Settings(exclude=("/read",)))

    assert get(app, "/read").problem["code"] == "insufficient_scope"


def test_a_websocket(app: FastAPI, issued: Issued) -> None:
    @app.websocket("/ws")
    async def ws(socket: WebSocket, caller: CurrentPrincipal) -> None:
        await socket.accept()
        await socket.send_text(caller.client_id)
        await socket.close()

    @app.websocket("/admin", dependencies=[requires("admin")])
    async def admin(socket: WebSocket) -> None:
        pytest.fail("must not be reached")

    good = connect(app, websocket_scope(issued.authorization, path="/ws"))

    assert [message.get("text") for message in good.messages] == [None, "ci", None]
    assert connect(app, websocket_scope(path="/ws")).status == 401
    assert connect(app, websocket_scope(issued.authorization, path="/admin")).status == 403


@pytest.mark.proves("X41")
@pytest.mark.parametrize("path", ["/me", "/read"])
def test_dependencies_without_the_middleware_refuse_every_request(path: str, issued: Issued) -> None:
    seen = get(make_app(), path, issued.authorization)

    assert seen.status == 500
    assert "BasicAuthMiddleware did not process this request" in str(seen.raised)


def test_dependencies_work_with_a_wrapped_app(backend: Backend, issued: Issued) -> None:
    app = BasicAuthMiddleware(make_app(), backend, settings=Settings())

    assert call(app, http_scope(issued.authorization, path="/read")).status == 200


@pytest.mark.parametrize("scopes", [(), (["read"],), ("a b",)])
def test_invalid_scopes_are_an_error(scopes: Any) -> None:
    with pytest.raises(ConfigurationError):
        requires(*scopes)


def test_fastapis_own_scheme_can_read_the_key(backend: Backend, issued: Issued) -> None:
    """It has the same name, so the document has one scheme."""
    app = FastAPI()

    @app.get("/")
    def route(given: Annotated[Any, Depends(HTTPBasic())]) -> str:
        return str(given.username)

    install(app, backend, settings=Settings())

    assert get(app, "/", issued.authorization).body == b'"ci"'
    assert list(app.openapi()["components"]["securitySchemes"]) == ["HTTPBasic"]


# --- the document


@pytest.fixture
def schema(app: FastAPI, issued: Issued) -> dict[str, Any]:
    """The document that a client with a key gets."""
    schema: dict[str, Any] = json.loads(get(app, "/openapi.json", issued.authorization).body)
    return schema


def refs(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for each in value.values():
            yield from refs(each)
    elif isinstance(value, list):
        for each in value:
            yield from refs(each)


def test_the_document_is_valid(schema: dict[str, Any]) -> None:
    OpenAPI.model_validate(schema)
    for ref in refs(schema):
        found: Any = schema
        for part in ref.removeprefix("#/").split("/"):
            found = found[part]


def test_the_security_scheme_and_its_requirements(schema: dict[str, Any]) -> None:
    assert schema["components"]["securitySchemes"] == {
        "HTTPBasic": {
            "type": "http",
            "scheme": "basic",
            "description": "An API key: its client ID as the user name, its secret as the password.",
        }
    }
    security = {path: item.popitem()[1].get("security") for path, item in schema["paths"].items()}
    assert security == {
        "/me": [{"HTTPBasic": []}],
        "/read": [{"HTTPBasic": ["read"]}],
        "/write": [{"HTTPBasic": ["read", "write"]}],
        "/items/{place}": [{"HTTPBasic": []}],
        "/open/{name}": [],
        "/open/bare/health": None,
        "/boom": [{"HTTPBasic": []}],
    }


def test_the_responses(schema: dict[str, Any]) -> None:
    """All six, as problems; on an excluded path those that the app can cause."""
    assert set(schema["paths"]["/me"]["get"]["responses"]) == {
        "200", "401", "403", "429", "500", "503", "504",
    }  # fmt: skip
    assert set(schema["paths"]["/open/{name}"]["get"]["responses"]) == {"200", "422", "500", "504"}
    for status in (401, 403, 429, 500, 503, 504):
        response = schema["components"]["responses"][f"BasicAuth{status}"]
        assert list(response["content"]) == ["application/problem+json"]


def test_the_schema_matches_the_responses(app: FastAPI, schema: dict[str, Any]) -> None:
    problem = get(app, "/me").problem
    properties = schema["components"]["schemas"]["BasicAuthProblem"]["properties"]

    assert list(problem) == list(properties)
    types = {"string": str, "integer": int}
    assert all(isinstance(problem[name], types[each["type"]]) for name, each in properties.items())


def test_only_possible_responses_are_documented(backend: Backend) -> None:
    app = make_app()
    install(app, backend, settings=Settings(throttle="", map_errors=False))

    assert set(app.openapi()["paths"]["/me"]["get"]["responses"]) == {"200", "401", "403", "503"}


def test_responses_that_a_route_declares_are_unchanged(backend: Backend) -> None:
    app = FastAPI()

    @app.get("/", responses={403: {"description": "Mine"}})
    def route() -> int:
        return 1

    install(app, backend, settings=Settings())

    responses = app.openapi()["paths"]["/"]["get"]["responses"]
    assert responses["403"] == {"description": "Mine"}
    assert "401" in responses


def test_another_scheme_is_required_too(backend: Backend) -> None:
    app = FastAPI()
    other = APIKeyHeader(name="x-key")

    @app.get("/", dependencies=[Depends(other), requires("read")])
    @app.get("/open", dependencies=[Depends(other)])
    def route() -> int:
        return 1

    install(app, backend, settings=Settings(exclude=("/open",)))

    paths = app.openapi()["paths"]
    assert paths["/"]["get"]["security"] == [{"APIKeyHeader": [], "HTTPBasic": ["read"]}]
    assert paths["/open"]["get"]["security"] == [{"APIKeyHeader": []}]


def test_each_scheme_is_an_alternative(backend: Backend) -> None:
    app = make_app()
    install(app, backend, settings=Settings(schemes=("bearer", "header:x-api-key", "basic")))

    schema = app.openapi()
    documented = schema["components"]["securitySchemes"]
    assert {name: documented[name]["type"] for name in documented} == {
        "HTTPBearer": "http",
        "x-api-key": "apiKey",
        "HTTPBasic": "http",
    }
    assert documented["HTTPBearer"]["scheme"] == "bearer"
    assert (documented["x-api-key"]["in"], documented["x-api-key"]["name"]) == ("header", "x-api-key")
    assert schema["paths"]["/read"]["get"]["security"] == [
        {"HTTPBearer": ["read"]},
        {"x-api-key": ["read"]},
        {"HTTPBasic": ["read"]},
    ]
    first = json.dumps(schema)
    assert json.dumps(app.openapi()) == first


def test_a_scheme_that_is_not_enabled_is_not_documented(backend: Backend) -> None:
    app = make_app()
    install(app, backend, settings=Settings(schemes=("bearer",)))

    schema = app.openapi()
    assert list(schema["components"]["securitySchemes"]) == ["HTTPBearer"]
    assert schema["paths"]["/me"]["get"]["security"] == [{"HTTPBearer": []}]


def test_the_apps_own_basic_scheme_stays_next_to_bearer(backend: Backend) -> None:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(HTTPBasic())])
    def route() -> int:
        return 1

    install(app, backend, settings=Settings(schemes=("bearer",)))

    schema = app.openapi()
    assert set(schema["components"]["securitySchemes"]) == {"HTTPBasic", "HTTPBearer"}
    assert schema["paths"]["/"]["get"]["security"] == [{"HTTPBasic": [], "HTTPBearer": []}]


def test_the_document_can_be_made_again(app: FastAPI) -> None:
    """With the same result, and with routes added later."""
    first = json.dumps(app.openapi())
    assert json.dumps(app.openapi()) == first

    @app.get("/later")
    def later() -> int:
        return 1

    app.openapi_schema = None
    assert app.openapi()["paths"]["/later"]["get"]["security"] == [{"HTTPBasic": []}]


def test_a_custom_document_is_extended(backend: Backend) -> None:
    app = make_app()

    def own() -> dict[str, Any]:
        schema = get_openapi(title="Own", version="1", routes=app.routes, openapi_version="3.0.3")
        schema["paths"]["/me"]["summary"] = "not an operation"
        return schema

    app.openapi = own  # type: ignore[method-assign]
    install(app, backend, settings=Settings())

    schema = app.openapi()
    assert schema["info"]["title"] == "Own"
    assert schema["paths"]["/write"]["get"]["security"] == [{"HTTPBasic": []}], "3.0 has no scopes there"


def test_the_documentation_page_can_be_opened(backend: Backend) -> None:
    app = make_app()
    install(app, backend, settings=Settings(exclude=("/docs", "/openapi.json")))

    assert get(app, "/docs").status == 200
    assert get(app, "/openapi.json").status == 200
    assert get(app, "/me").status == 401


# --- validation errors


@pytest.mark.parametrize("status", [400, 422])
def test_a_validation_error_as_a_problem(backend: Backend, issued: Issued, status: int) -> None:
    """It names fields and reasons, and does not repeat the values."""
    app = make_app()
    install(app, backend, settings=Settings(), validation_status=status)

    seen = post(app, "/items/x", issued, b'{"number": "many", "password": ["hush"]}')

    assert seen.status == status
    assert seen.headers["content-type"] == "application/problem+json"
    assert seen.headers["x-request-id"] == seen.problem["request_id"] == "r-1"
    assert seen.headers["content-length"] == str(len(seen.body))
    problem = seen.problem
    assert (problem["status"], problem["code"]) == (status, "validation_error")
    assert [(each["loc"], each["type"]) for each in problem["errors"]] == [
        (["path", "place"], "int_parsing"),
        (["body", "number"], "int_parsing"),
        (["body", "password"], "string_type"),
    ]
    assert all(set(each) == {"loc", "msg", "type"} for each in problem["errors"])
    assert b"many" not in seen.body
    assert b"hush" not in seen.body
    assert post(app, "/items/1", issued, b'{"number": 1}').status == 200
    assert post(app, "/items/1", issued, b"{").status == status


def test_validation_problems_are_documented(backend: Backend) -> None:
    app = make_app()
    install(app, backend, settings=Settings(), validation_status=400)

    schema = app.openapi()

    OpenAPI.model_validate(schema)
    responses = schema["paths"]["/items/{place}"]["post"]["responses"]
    assert "422" not in responses
    assert responses["400"] == {"$ref": "#/components/responses/BasicAuthValidationProblem"}
    assert "400" not in schema["paths"]["/me"]["get"]["responses"]
    assert not {"HTTPValidationError", "ValidationError"} & set(schema["components"]["schemas"])
    assert app.openapi() == schema


def test_a_schema_that_a_route_refers_to_is_kept(backend: Backend) -> None:
    app = make_app()
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ValidationError"}}}

    @app.get("/own", responses={409: {"description": "Mine", "content": content}})
    def own() -> int:
        return 1

    install(app, backend, settings=Settings(), validation_status=400)

    schemas = app.openapi()["components"]["schemas"]
    assert "ValidationError" in schemas
    assert "HTTPValidationError" not in schemas


def test_validation_errors_are_fastapis_own_by_default(app: FastAPI, issued: Issued) -> None:
    seen = post(app, "/items/x", issued, b"{}")

    assert seen.status == 422
    assert "detail" in json.loads(seen.body)
    assert "422" in app.openapi()["paths"]["/items/{place}"]["post"]["responses"]


@pytest.mark.parametrize("status", [200, 401, 500, True, "400", 400.0])
def test_an_invalid_validation_status_is_an_error(backend: Backend, status: Any) -> None:
    app = make_app()

    with pytest.raises(ConfigurationError, match="validation_status"):
        install(app, backend, settings=Settings(), validation_status=status)

    assert app.user_middleware == []


def test_a_handler_of_the_app_is_not_replaced(backend: Backend, issued: Issued) -> None:
    app = make_app()

    @app.exception_handler(RequestValidationError)
    async def own(_request: Request, _exc: Exception) -> Response:
        return PlainTextResponse("mine", 418)

    with pytest.raises(ConfigurationError, match="remove it, or validation_status"):
        install(app, backend, settings=Settings(), validation_status=400)
    install(app, backend, settings=Settings())

    assert post(app, "/items/x", issued, b"{}").body == b"mine"


def test_a_request_is_refused_before_its_body_is_read(app: FastAPI) -> None:
    """A client without a key does not get validation errors."""
    scope = http_scope(method="POST", path="/items/x")

    async def receive() -> dict[str, Any]:
        pytest.fail("the body was read")

    async def main() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent

    assert asyncio.run(main())[0]["status"] == 401
