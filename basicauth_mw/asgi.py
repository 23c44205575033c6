"""The gate for ASGI 3 apps: FastAPI, Starlette, Litestar, Quart, Django, or a bare callable."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast, overload

from ._frameworks import handles_errors, holds_cors, is_starlette_500
from .drive import arun
from .gate import Gate
from .model import Allow, Deny
from .problem import TIMEOUT, Answer, is_routine
from .verifier import Check

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Awaitable, Callable, MutableMapping

    from .model import Principal
    from .settings import Settings

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    # In asgiref, Starlette, Litestar and Quart each of these has a type of its own, that fits no other.
    AnyReceive = Callable[[], Awaitable[Any]]
    AnySend = Callable[[Any], Awaitable[None]]
    App = Callable[[Any, Any, Any], Awaitable[None]]

__all__ = ["BasicAuthMiddleware"]

logger = logging.getLogger("basicauth_mw")

PRINCIPAL: Final = "basicauth_mw.principal"
_AUTHORIZATION: Final = b"authorization"


class ScopeFacts:
    """Reads an ASGI scope of type http or websocket."""

    @staticmethod
    def authorization(request: Scope) -> bytes | None:
        found: bytes | None = None
        for name, value in request["headers"]:
            # Compared without case: ASGI no longer promises lower case.
            if len(name) == 13 and (name == _AUTHORIZATION or name.lower() == _AUTHORIZATION):
                if found is not None:
                    return b"%b, %b" % (found, value)  # whatever else comes, no credential survives this
                found = value
        return found

    @staticmethod
    def header(request: Scope, name: str) -> str | None:
        wanted = name.encode()
        length = len(wanted)
        found: bytes | None = None
        for sent, value in request["headers"]:
            if len(sent) == length and sent.lower() == wanted:
                if found is not None:
                    return None
                found = value
        # As in WSGI, whose servers join fields of one name: none that is asked for here holds a comma.
        return None if found is None or b"," in found else found.decode("latin-1")

    @staticmethod
    def address(request: Scope) -> str:
        client = request.get("client")
        return str(client[0]) if client and client[0] else ""

    @staticmethod
    def scheme(request: Scope) -> str:
        return str(request.get("scheme", "http"))

    @staticmethod
    def method(request: Scope) -> str:
        return str(request.get("method", ""))  # a websocket scope has none

    @staticmethod
    def path(request: Scope) -> tuple[str, str | None, bytes]:
        raw = request.get("raw_path") or b""
        return request["path"], request.get("root_path") or "", raw.partition(b"?")[0]


class BasicAuthMiddleware:
    """Lets requests with a valid API key through to an ASGI app, and answers all others.

    The app finds the caller as ``scope["basicauth_mw.principal"]``, a ``Principal``. With ``set_user`` it is
    ``scope["user"]`` as well, and ``scope["auth"]`` has its scopes. The scope is updated in place.

    What the app raises before it has answered becomes a JSON problem (RFC 9457); the exception is raised on
    behind the answer, so that servers and error monitors see it, unless it is a plain refusal such as
    ``InsufficientScope``.

    Args:
        app: The app to protect.
        backend: Where the keys are: a URL, what ``open_backend`` gives, or an object with ``get`` or
            ``aget``; None: ``settings.backend``.
        settings: None: ``Settings.from_env()``.
        **overrides: Any field of ``Settings``.

    Raises:
        ConfigurationError: Names everything that is wrong, and no secret.
    """

    # In two ways, as mypy takes what may be given by name and has **overrides for no factory of Starlette's.
    @overload
    def __init__(
        self, app: App, /, backend: Any = None, *, settings: Settings | None = None, **overrides: Any
    ) -> None: ...

    @overload
    def __init__(
        self, *, app: App, backend: Any = None, settings: Settings | None = None, **overrides: Any
    ) -> None: ...

    def __init__(  # type: ignore[misc]  # ... with an override named app as well
        self, app: App, backend: Any = None, *, settings: Settings | None = None, **overrides: Any
    ) -> None:
        self.app = app
        self._gate: Gate[Scope] = Gate(ScopeFacts(), backend, settings, overrides)
        configured = self._gate.settings
        self._sets_user = configured.set_user
        self._strips = configured.strip_authorization
        self._timeout_s = configured.timeout_s
        self._guards = configured.map_errors or configured.timeout_s is not None

    @property
    def gate(self) -> Gate[Scope]:
        """What decides on requests; for integrations."""
        return self._gate

    async def __call__(self, scope: Any, receive: AnyReceive, send: AnySend) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            if kind != "lifespan":
                raise RuntimeError(f"unknown ASGI scope type {kind!r}: it is not let through unchecked")
            await self._lifespan(scope, receive, send)
            return
        if type(scope.get("headers")) is not list:  # any iterable, even a one-shot one
            scope["headers"] = list(scope.get("headers", ()))
        gate = self._gate
        decision = gate.begin(scope)
        if type(decision) is not Allow:
            if isinstance(decision, Check):
                decision = await arun(decision, gate.performer)
            if isinstance(decision, Deny):
                self._remove_identity(scope)
                await _refuse(scope, receive, send, gate.refuse(scope, decision))
                return
        # The scope is updated in place, so that layers outside, such as metrics and access logs, see the
        # caller and what the app's router adds.
        principal = scope[PRINCIPAL] = decision.principal
        if self._sets_user:
            scope["user"] = scope["auth"] = principal
        if self._strips:  # a new list: the server may use its own again
            scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != _AUTHORIZATION]
        # Error monitors record the local variables of each frame that an exception passes. So no frame of
        # this module holds the scope, with the credential in it, while the app runs.
        running: Awaitable[None]
        if not self._guards:
            running = self.app(scope, receive, send)
            del scope
            await running
            return
        if kind == "websocket":
            running = self._websocket(scope, receive, send)
            del scope
            await running
            return
        guard = _Guard(send, scope)
        try:
            running = self.app(scope, receive, guard.send)
            del scope
            if self._timeout_s is None:
                await running
            else:
                await self._timed(running, guard, self._timeout_s)
        except Exception as exc:
            # The app may have put another user into the scope, so the principal is not looked up there.
            if not await self._answered(guard, exc, principal):
                raise
        else:
            if not guard.begun:
                await guard.release()

    async def _answered(self, guard: _Guard, exc: Exception, principal: Principal) -> bool:
        """Answer for an app that raised, if that is ours to do; tells whether that is the end of it."""
        if guard.begun:
            return False
        routine = is_routine(exc)
        if not self._gate.settings.map_errors or (
            guard.holds_answer and handles_errors(guard.scope.get("app"))
        ):
            await guard.release()  # not ours to replace
            return False
        request = guard.request
        if not routine and handles_errors(request.get("app")):
            return False  # its own handler is round us, and has not had its turn
        answer = self._gate.answer_exception(request, exc, client_id=principal.client_id, traceback=False)
        await _answer_if_there(request, guard.take(), answer)
        return routine

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app; a refusal that it raises before it has answered the handshake becomes the answer."""
        connected = answered = gone = False
        principal = scope[PRINCIPAL]
        guard = _Guard(send, scope)

        async def receiving() -> Message:
            nonlocal connected, gone
            message = await receive()
            connected = True
            gone = gone or message["type"] == "websocket.disconnect"
            return message

        async def sending(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        running: Awaitable[None]
        try:
            running = self.app(scope, receiving, sending)
            del scope
            await running
        except Exception as exc:
            if answered or gone or not is_routine(exc) or not self._gate.settings.map_errors:
                raise
            request = guard.request
            answer = self._gate.answer_exception(request, exc, client_id=principal.client_id, traceback=False)
            if connected:
                await _deny(request, send, answer)
            else:
                await _refuse(request, receive, send, answer)

    async def _timed(self, running: Awaitable[None], guard: _Guard, timeout_s: float) -> None:
        """Await the app; if no body event comes in time, answer 504 at once, then cancel and await it."""
        # The app stays in this task, so that its context variables and its cancellation are what they would
        # be without us. The answer is sent by a task of its own: a handler may ignore its cancellation.
        from asyncio import CancelledError, create_task, current_task, get_running_loop

        task = cast("Task[None]", current_task())
        cancelling = task.cancelling()
        answering: Task[None] | None = None

        def time_out() -> None:
            nonlocal answering
            if guard.begun or guard.holds_answer:
                return
            log = f"the app sent nothing within {timeout_s:g} s"
            request = guard.request
            answer = self._gate.answer_problem(request, TIMEOUT, log)
            answering = create_task(_answer_if_there(request, guard.take(), answer))
            task.cancel()

        timer = get_running_loop().call_later(timeout_s, time_out)
        try:
            await running
        except CancelledError:
            if answering is None or task.uncancel() > cancelling:
                raise  # cancelled from outside, perhaps as well
        except Exception:
            if answering is None:
                raise
            task.uncancel()  # what a handler makes of its cancellation is nobody's concern any more
        else:
            if answering is not None:
                task.uncancel()
        finally:
            timer.cancel()
        if answering is not None:
            await answering

    def _remove_identity(self, scope: Scope) -> None:
        scope.pop(PRINCIPAL, None)
        if self._sets_user:
            scope.pop("user", None)
            scope.pop("auth", None)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; the backend opens before the app starts and closes when it has stopped."""

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if holds_cors(self.app):
                    self._warn_of_cors()
                await self._gate.awarm()
            return message

        async def sending(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._gate.aclose()
            await send(message)

        await self.app(scope, receiving, sending)

    def _warn_of_cors(self) -> None:
        preflights = "" if self._gate.settings.allow_preflight else ", and preflights are refused"
        logger.warning(
            "CORSMiddleware stands inside the gate: scripts of other origins cannot read the gate's own "
            "answers%s; put it outside",
            preflights,
        )


class _Guard:
    """Holds the start of an answer back until its first body event, so that it can still be replaced.

    It also keeps what our own response needs to know of the request, whatever the app does to its scope.
    Unlike a dict among the local variables of a frame, it is opaque to error monitors.

    Attributes:
        scope: What the app was given.
        request: A copy of it, as it was before.
        begun: Something was sent that cannot be taken back, or an answer of ours is.
    """

    __slots__ = ("_body", "_send", "_start", "begun", "request", "scope")

    def __init__(self, send: Send, scope: Scope) -> None:
        self.scope = scope
        request = self.request = dict(scope)
        request["headers"] = tuple(scope["headers"])
        self._send = send
        self._start: Message | None = None
        self._body: Message | None = None
        self.begun = False

    @property
    def holds_answer(self) -> bool:
        """Whether a whole answer is held back, not just its start."""
        return self._body is not None

    async def send(self, message: Message) -> None:
        """What the app is given to send with."""
        # To call an attribute that holds a function, CPython looks for a method first: so it is read before.
        send = self._send
        if self.begun:
            await send(message)
        elif (start := self._start) is None:
            if message["type"] == "http.response.start":
                self._start = message
            else:
                await self._send_early(message)
        elif start["status"] == 500 and self._body is None and is_starlette_500(start, message):
            self._body = message  # an exception may follow: wait for the app to return or raise
        else:
            self.begun = True  # before the first await: nobody may begin a second answer meanwhile
            await send(start)
            if self._body is not None:
                await send(self._body)
            await send(message)

    async def release(self) -> None:
        """Send what is held back, if anything is."""
        if self.begun or self._start is None:
            return
        self.begun = True
        await self._send(self._start)
        if self._body is not None:
            await self._send(self._body)

    def take(self) -> Send:
        """What to send another answer with; all that the app has sent, or still does, is dropped."""
        send, self._send = self._send, _drop
        self.begun = True
        return send

    async def _send_early(self, message: Message) -> None:
        # Not an answer yet: an early hint, a push, a debug message of a test client.
        try:
            await self._send(message)
        except OSError:
            self.begun = True  # the client has gone: no answer can reach it
            raise


async def _drop(_message: Message) -> None:
    pass


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Answer) -> None:
    if scope["type"] == "http":
        await _answer(scope, send, answer)
        return
    message = await receive()  # the handshake; the answer to it must not come first
    if message["type"] == "websocket.connect":
        await _deny(scope, send, answer)


async def _deny(scope: Scope, send: Send, answer: Answer) -> None:
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await _answer(scope, send, answer, prefix="websocket.")
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})


async def _answer_if_there(scope: Scope, send: Send, answer: Answer) -> None:
    with suppress(OSError):  # the client has gone, which does not matter
        await _answer(scope, send, answer)


async def _answer(scope: Scope, send: Send, answer: Answer, *, prefix: str = "") -> None:
    start = {"type": f"{prefix}http.response.start", "status": answer.status, "headers": answer.raw_headers}
    await send(start)
    body = b"" if scope.get("method") == "HEAD" else answer.body
    await send({"type": f"{prefix}http.response.body", "body": body})
