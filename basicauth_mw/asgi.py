"""ASGI 3 middleware, for FastAPI, Starlette, Litestar, Quart, Django, or any other app."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from .auth.authenticator import Authenticator
from .auth.frameworks import own_root_path, wraps_cors
from .auth.request_adapters import PRINCIPAL, ASGIRequest
from .auth.verifier import PendingVerification
from .keys.model import Principal
from .responses.asgi_errors import handle_exception, run_with_timeout
from .responses.asgi_guard import ASGIResponseGuard, HandshakeGuard, HoldTimers
from .responses.asgi_send import refuse, send_response
from .runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Unpack

    from .responses.asgi_send import Message, Receive, Scope, Send
    from .settings import Overrides, Settings

    App = Callable[[Any, Any, Any], Awaitable[None]]
    # asgiref, Starlette, Litestar and Quart each define these types, and none accepts those of another.
    AnyReceive = Callable[[], Awaitable[Any]]
    AnySend = Callable[[Any], Awaitable[None]]

__all__ = ["BasicAuthMiddleware"]

logger = logging.getLogger("basicauth_mw")

_ASYNCIO_NEEDED: Final = (
    "basicauth_mw needs asyncio and does not run on trio: start the server with its asyncio worker"
)


class BasicAuthMiddleware:
    """Let requests with a valid API key through to an ASGI app, and respond to all others.

    The app finds the caller in ``scope["basicauth_mw.principal"]``, a ``Principal``. With ``set_user`` it is
    ``scope["user"]`` as well, and ``scope["auth"]`` has its scopes. The scope is updated in place.

    An exception that the app raises before it has responded becomes a JSON problem (RFC 9457). It is then
    re-raised, so that the server and error monitors see it, unless it is a refusal such as
    ``InsufficientScope``.

    ::

        app = BasicAuthMiddleware(app, "sqlite:///keys.db", exclude=["/health"])

    Args:
        app: The app to protect.
        backend: Where the keys are: a URL, a ``Backend`` from ``open_backend``, or an object with ``get`` or
            ``aget``. None means ``settings.backend``.
        settings: None means ``Settings.from_env()``.
        **overrides: Any field of ``Settings``. Times are in seconds.

    Raises:
        ConfigurationError: The settings cannot be used. It names every problem, and no secret.
    """

    def __init__(
        self,
        app: App,
        backend: Any = None,
        *,
        settings: Settings | None = None,
        **overrides: Unpack[Overrides],
    ) -> None:
        self.app = app
        self._authenticator: Authenticator[Scope] = Authenticator(
            ASGIRequest(), backend, settings, overrides, root_path=own_root_path(app)
        )
        used = self._authenticator.settings
        self._sets_user = used.set_user
        headers = self._authenticator.credential_headers if used.strip_authorization else ()
        self._stripped = frozenset(name.encode() for name in headers)
        self._timeout_s = used.timeout_s
        self._guards = used.map_errors or used.timeout_s is not None
        self._timers = HoldTimers(used.start_hold_s) if used.map_errors and used.start_hold_s else None
        if self._timers is not None:
            after_fork(self._timers.reset_in_child)

    @property
    def authenticator(self) -> Authenticator[Scope]:
        """Decides on requests; for integrations."""
        return self._authenticator

    async def __call__(self, scope: Any, receive: AnyReceive, send: AnySend) -> None:
        """Serve one request, or the lifespan of the app.

        Raises:
            RuntimeError: The scope is of an unknown type, or the server runs on trio.
            Exception: Whatever the app raises, unless it is a refusal that became the response.
        """
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            if kind != "lifespan":
                raise RuntimeError(
                    f"unknown ASGI scope type {kind!r}: it cannot be authenticated, so it is refused"
                )
            await self._lifespan(scope, receive, send)
            return
        if type(scope.get("headers")) is not list:  # any iterable, even one that can be read only once
            scope["headers"] = list(scope.get("headers", ()))
        authenticator = self._authenticator
        decision = authenticator.decide(scope)
        if type(decision) is not Principal:
            if isinstance(decision, PendingVerification):
                if "trio" in sys.modules and not _runs_on_asyncio():
                    raise RuntimeError(_ASYNCIO_NEEDED)
                decision = await authenticator.averify(decision)
            if not isinstance(decision, Principal):
                self._remove_identity(scope)
                response = authenticator.refusal_response(scope, decision)
                if kind == "http":
                    await send_response(scope, send, response)
                else:
                    await refuse(scope, receive, send, response)
                return
        # In place, so that layers outside, such as metrics and access logs, see the caller and what the app's
        # router adds.
        scope[PRINCIPAL] = principal = decision
        if self._sets_user:
            scope["user"] = scope["auth"] = principal
        if self._stripped:  # a new list: the server may use its own again
            scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() not in self._stripped]
        # Error monitors record the local variables of each frame that an exception passes. So no frame of
        # this package holds the scope, with the credential in it, while the app runs.
        running: Awaitable[None]
        if not self._guards:
            running = self.app(scope, receive, send)
            del scope
            await running
            return
        if kind == "http":
            guard = ASGIResponseGuard(send, scope, self._timers)
        else:
            guard = handshake = HandshakeGuard(send, scope, receive)
            receive = handshake.receive
        try:
            running = self.app(scope, receive, guard.send)
            del scope
            if self._timeout_s is None or kind != "http":
                await running
            else:
                await run_with_timeout(authenticator, guard, running, self._timeout_s)
        except BaseException as exc:
            # The app may have put another user into the scope, so the principal is not looked up there.
            if not await handle_exception(authenticator, guard, exc, principal.client_id):
                raise
        else:
            if guard.held is not None:
                await guard.release()

    def _remove_identity(self, scope: Scope) -> None:
        scope.pop(PRINCIPAL, None)
        if self._sets_user:
            scope.pop("user", None)
            scope.pop("auth", None)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; open the backend before the app starts, close it after it stops."""
        if not _runs_on_asyncio():
            await receive()
            await send({"type": "lifespan.startup.failed", "message": _ASYNCIO_NEEDED})
            return

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if wraps_cors(self.app):
                    self._warn_about_cors()
                await self._authenticator.warm_up()
            return message

        async def watched_send(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._authenticator.aclose()
            await send(message)

        await self.app(scope, watched_receive, watched_send)

    def _warn_about_cors(self) -> None:
        preflights = "" if self._authenticator.settings.allow_preflight else ", and preflights are refused"
        logger.warning(
            "CORSMiddleware is inside BasicAuthMiddleware: cross-origin scripts cannot read the "
            "responses of BasicAuthMiddleware%s; put CORSMiddleware outside",
            preflights,
        )


def _runs_on_asyncio() -> bool:
    """Whether the running task belongs to asyncio and not to trio."""
    trio = sys.modules.get("trio")
    if trio is None:
        return True
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return True
    return False
