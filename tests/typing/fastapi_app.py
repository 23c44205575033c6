"""FastAPI and Starlette apps."""

from typing import Annotated, assert_type

from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from basicauth_mw import Backend, Principal, Settings, open_backend, require_scopes
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install, requires
from basicauth_mw.metrics import instrument

app = FastAPI()
app.add_middleware(BasicAuthMiddleware, backend="env:", exclude=("/health",))

configured = FastAPI()
configured.add_middleware(BasicAuthMiddleware, settings=Settings(backend="env:", realm="reports"))


@app.get("/hello")
async def hello(request: Request) -> dict[str, str]:
    caller: Principal = request.user
    require_scopes(caller, "hello")
    assert_type(caller.client_id, str)
    assert_type(caller.scopes, frozenset[str])
    return {"hello": caller.name}


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(str(websocket.user.client_id))


installed = FastAPI()
router = APIRouter(dependencies=[requires("reports:read")])


@router.get("/me", dependencies=[requires("a", "b")])
async def me(caller: CurrentPrincipal) -> dict[str, str]:
    assert_type(caller, Principal)
    return {"id": caller.client_id}


@router.post("/reports")
def make_report(caller: Annotated[Principal, requires("reports:write")]) -> list[str]:
    return sorted(caller.scopes)


installed.include_router(router)
install(installed, open_backend("memory:"), validation_status=400, timeout_s=5.0)
instrument(installed)


async def home(request: StarletteRequest) -> JSONResponse:
    return JSONResponse({"id": request.user.client_id})


listed = Starlette(routes=[Route("/", home)], middleware=[Middleware(BasicAuthMiddleware, backend="env:")])
wrapped = BasicAuthMiddleware(Starlette(routes=[Route("/", home)]), open_backend())
assert_type(wrapped.authenticator.backend, Backend)
