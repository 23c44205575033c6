"""FastAPI: ``install`` protects an app and documents it; dependencies give the caller and check scopes.

::

    app = FastAPI()
    install(app)

    @app.get("/reports", dependencies=[requires("reports:read")])
    async def reports(caller: CurrentPrincipal): ...
"""

# No `from __future__ import annotations`: FastAPI cannot resolve text annotations of callable objects.
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Unpack

from ..asgi import BasicAuthMiddleware
from ..auth.authenticator import Authenticator
from ..auth.problems import Problem, render, request_id_of
from ..auth.request_adapters import PRINCIPAL, ASGIRequest
from ..errors import ConfigurationError
from ..keys.model import Principal
from ..keys.scopes import require_scopes
from ..settings import Overrides, Settings
from ._common import check_scopes_arg, require_framework
from ._openapi import BASIC, DESCRIPTION, add_security

with require_framework("fastapi", "fastapi"):
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

    The configuration is checked immediately; nothing is connected before the app starts. The OpenAPI document
    gets the security schemes of the setting ``schemes``, such as ``HTTPBasic``, which every operation on a
    protected path requires, and the responses of the middleware.

    Args:
        app: The app, before it has started. Middleware that you add later runs outside this one.
        backend: As for ``BasicAuthMiddleware``. If it is opened from a URL, it is closed when the app stops.
        settings: None: ``Settings.from_env()``.
        validation_status: Respond to FastAPI's ``RequestValidationError`` with a problem of this status that
            includes ``errors``; None: leave it to FastAPI.
        **overrides: Any field of ``Settings``.

    Raises:
        ConfigurationError: The configuration is invalid, or the app already has ``BasicAuthMiddleware``.
        RuntimeError: The app has already started.
    """
    if not isinstance(app, FastAPI):
        raise ConfigurationError("install() needs a FastAPI app: wrap other apps in BasicAuthMiddleware")
    installed: list[object] = [each.cls for each in app.user_middleware]
    if any(each is BasicAuthMiddleware or isinstance(each, _PrebuiltMiddleware) for each in installed):
        raise ConfigurationError("this app already has BasicAuthMiddleware: call install() once")
    if validation_status is not None:
        _check_validation_status(app, validation_status)
    middleware = BasicAuthMiddleware(app, backend, settings=settings, **overrides)
    app.add_middleware(_PrebuiltMiddleware(middleware))
    make_schema = app.openapi

    def openapi() -> dict[str, Any]:
        schema = make_schema()
        add_security(schema, middleware.authenticator.settings, validation_status=validation_status)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it
    if validation_status is not None:
        app.add_exception_handler(RequestValidationError, _validation_handler(validation_status))


class _PrebuiltMiddleware:
    """Gives Starlette, which creates middleware when the app starts, the one that ``install`` has created."""

    __name__ = "BasicAuthMiddleware"  # shown where an app's middleware is listed

    def __init__(self, middleware: BasicAuthMiddleware) -> None:
        self._middleware = middleware

    @property
    def authenticator(self) -> Authenticator[Any]:
        """For ``auth.discovery``."""
        return self._middleware.authenticator

    def __call__(self, app: ASGIApp) -> ASGIApp:
        self._middleware.app = app
        return self._middleware


class _Scheme(SecurityBase):
    """Returns the principal; FastAPI adds it to the OpenAPI document as a security scheme."""

    def __init__(self) -> None:
        self.model = HTTPBase(scheme="basic", description=DESCRIPTION)
        self.scheme_name = BASIC

    async def __call__(self, connection: HTTPConnection) -> Principal:
        principal = connection.scope.get(PRINCIPAL)
        if not isinstance(principal, Principal):
            raise RuntimeError("BasicAuthMiddleware did not process this request: call install(app)")
        return principal


CurrentPrincipal = Annotated[Principal, Depends(_Scheme())]
CurrentPrincipal.__doc__ = """A dependency that returns the caller, a ``Principal``.

::

    @app.get("/me")
    async def me(caller: CurrentPrincipal): ...

On an open path, and on an optional path without a key, it is the anonymous principal, whose
``is_authenticated`` is False. Without the middleware it raises RuntimeError.
"""


async def _require_scopes(required: SecurityScopes, principal: CurrentPrincipal) -> Principal:
    require_scopes(principal, *required.scopes)
    return principal


def requires(*scopes: str) -> Any:
    """Make a dependency that requires all ``scopes`` and returns the principal.

    Use ``dependencies=[requires("read")]`` for a route, a router or an app, or
    ``caller: Annotated[Principal, requires("read")]``. A missing scope raises ``InsufficientScope``, a 403
    (for an anonymous caller on an optional path, a 401 with a challenge).

    Raises:
        ConfigurationError: There is no scope, or an invalid one.
    """
    return Security(_require_scopes, scopes=check_scopes_arg(scopes))


def _check_validation_status(app: FastAPI, status: int) -> None:
    if type(status) is not int or not 400 <= status <= 499 or status == 401:
        raise ConfigurationError("validation_status must be an integer from 400 to 499 other than 401")
    if app.exception_handlers.get(RequestValidationError) is not request_validation_exception_handler:
        raise ConfigurationError(
            "the app has a handler for RequestValidationError: remove it, or validation_status"
        )


def _validation_handler(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Respond with the fields and the reasons of a validation error, never with the values that were sent."""
    problem = Problem(status, "validation_error", "The request is not valid.")

    async def handle(request: Request, exc: Exception) -> Response:
        request_id = request_id_of(ASGIRequest.header(request.scope, "x-request-id"))
        response = render(problem, request_id=request_id)
        errors = exc.errors() if isinstance(exc, RequestValidationError) else ()
        members = json.loads(response.body)
        members["errors"] = [{name: each[name] for name in ("loc", "msg", "type")} for each in errors]
        headers = {name: value for name, value in response.headers if name != "Content-Length"}
        return Response(json.dumps(members).encode() + b"\n", response.status, headers)

    return handle
