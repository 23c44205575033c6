"""FastAPI: the gate in one call, in the documentation as well, and dependencies for who is calling.

::

    app = FastAPI()
    install(app)

    @app.get("/reports", dependencies=[requires("reports:read")])
    async def reports(caller: CurrentPrincipal): ...
"""

# Annotations are values here: FastAPI reads them off a callable object too, where it cannot resolve text.
import json
from typing import Annotated, Any, Unpack

from ..asgi import PRINCIPAL, ASGIRequest, BasicAuthMiddleware
from ..auth.authenticator import Authenticator
from ..auth.problems import render, request_id_of
from ..errors import ConfigurationError
from ..keys.model import Principal
from ..keys.scopes import require_scopes
from ..settings import Overrides, Settings
from ._common import needed, needs
from ._openapi import DESCRIPTION, SCHEME, document, validation_problem

with needs("fastapi", "fastapi"):
    from fastapi import Depends, FastAPI, Security
    from fastapi.exception_handlers import request_validation_exception_handler
    from fastapi.exceptions import RequestValidationError
    from fastapi.openapi.models import HTTPBase
    from fastapi.requests import HTTPConnection, Request
    from fastapi.responses import Response
    from fastapi.security import SecurityScopes
    from fastapi.security.base import SecurityBase
    from starlette.types import ASGIApp

__all__ = ["CurrentPrincipal", "install", "requires"]


def install(
    app: FastAPI,
    backend: Any = None,
    *,
    settings: Settings | None = None,
    validation_status: int | None = None,
    **overrides: Unpack[Overrides],
) -> None:
    """Protect an app: every route, the documentation pages, mounted apps and unknown paths.

    The configuration is checked at once, and nothing is connected before the app starts. In the OpenAPI
    document every operation that is not excluded needs the scheme ``HTTPBasic``, and has the gate's answers.

    Args:
        app: The app, before it has started. Middleware added later stands round the gate.
        backend: As for ``BasicAuthMiddleware``; what is opened from a URL is closed when the app ends.
        settings: None: ``Settings.from_env()``.
        validation_status: Answer FastAPI's ``RequestValidationError`` by a problem with this status and its
            ``errors``; None: leave it alone.
        **overrides: Any field of ``Settings``.

    Raises:
        ConfigurationError: The configuration cannot be used, or the app has a gate already.
        RuntimeError: The app has started.
    """
    if not isinstance(app, FastAPI):
        raise ConfigurationError("install is for a FastAPI app: put BasicAuthMiddleware round any other")
    placed: list[object] = [each.cls for each in app.user_middleware]
    if any(each is BasicAuthMiddleware or isinstance(each, _Place) for each in placed):
        raise ConfigurationError("this app has a gate already: call install once, and add no other")
    if validation_status is not None:
        _check_validation(app, validation_status)
    authenticator = BasicAuthMiddleware(app, backend, settings=settings, **overrides)
    authenticator.app = _unbuilt
    app.add_middleware(_Place(authenticator))
    _document(app, authenticator.authenticator.settings, validation_status)
    if validation_status is not None:
        app.add_exception_handler(RequestValidationError, _ValidationHandler(validation_status))


class _Place:
    """Gives Starlette, which builds its middleware late, the one gate that was checked early."""

    __name__ = "BasicAuthMiddleware"  # for who lists an app's middleware

    def __init__(self, middleware: BasicAuthMiddleware) -> None:
        self._middleware = middleware

    @property
    def authenticator(self) -> Authenticator[Any]:
        """What decides on requests."""
        return self._middleware.authenticator

    def __call__(self, app: ASGIApp) -> ASGIApp:
        self._middleware.app = app
        return self._middleware


async def _unbuilt(_scope: object, _receive: object, _send: object) -> None:
    raise RuntimeError("the app's middleware is not built yet")


# --- the document


def _document(app: FastAPI, settings: Settings, validation_status: int | None) -> None:
    make = app.openapi

    def openapi() -> dict[str, Any]:
        schema = make()
        document(schema, settings, validation_status=validation_status)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it


# --- dependencies


class _Scheme(SecurityBase):
    """Gives the principal; FastAPI reads from it how the route is secured."""

    def __init__(self) -> None:
        self.model = HTTPBase(scheme="basic", description=DESCRIPTION)
        self.scheme_name = SCHEME

    async def __call__(self, connection: HTTPConnection) -> Principal:
        principal = connection.scope.get(PRINCIPAL)
        if not isinstance(principal, Principal):
            raise RuntimeError("no gate has seen this request: call install(app)")
        return principal


CurrentPrincipal = Annotated[Principal, Depends(_Scheme())]
"""Who is calling; on an excluded path the anonymous principal."""


async def _with_scopes(needed: SecurityScopes, principal: CurrentPrincipal) -> Principal:
    require_scopes(principal, *needed.scopes)
    return principal


def requires(*scopes: str) -> Any:
    """A dependency that lets only callers with every one of ``scopes`` through, and gives the principal.

    ``dependencies=[requires("read")]`` for a route, a router or an app, or
    ``caller: Annotated[Principal, requires("read")]``. It raises ``InsufficientScope``, a 403.

    Raises:
        ConfigurationError: There is no scope, or one that no key can have.
    """
    return Security(_with_scopes, scopes=needed(scopes))


# --- validation errors


def _check_validation(app: FastAPI, status: int) -> None:
    if type(status) is not int or not 400 <= status <= 499 or status == 401:
        raise ConfigurationError("validation_status: must be a whole number from 400 to 499, and not 401")
    if app.exception_handlers.get(RequestValidationError) is not request_validation_exception_handler:
        raise ConfigurationError(
            "validation_status: the app has a handler for RequestValidationError; drop one of the two"
        )


class _ValidationHandler:
    """Answers a validation error: which fields and why, and never what was sent in them."""

    def __init__(self, status: int) -> None:
        self._problem = validation_problem(status)

    async def __call__(self, request: Request, exc: Exception) -> Response:
        request_id = request_id_of(ASGIRequest.header(request.scope, "x-request-id"))
        answer = render(self._problem, request_id=request_id, challenge="")
        errors = exc.errors() if isinstance(exc, RequestValidationError) else ()
        members = json.loads(answer.body)
        members["errors"] = [{name: each[name] for name in ("loc", "msg", "type")} for each in errors]
        headers = {name: value for name, value in answer.headers if name != "Content-Length"}
        return Response(json.dumps(members).encode() + b"\n", answer.status, headers)
