"""The gate for ASGI 3 apps: FastAPI, Starlette, Litestar, Quart, Django, or a bare callable."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, cast

from .auth.authenticator import Authenticator
from .auth.frameworks import handles_errors, is_starlette_500, own_root_path, wraps_cors
from .auth.problems import TIMEOUT, Response, is_refusal
from .auth.verifier import PendingVerification
from .keys.model import Allow, Deny

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Unpack

    from .keys.model import Principal
    from .settings import Overrides, Settings

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

_ASYNCIO_NEEDED: Final = (
    "basicauth_mw needs asyncio and does not run on trio: start the server with its asyncio worker"
)
PRINCIPAL: Final = "basicauth_mw.principal"
_AUTHORIZATION: Final = b"authorization"


class ASGIRequest:
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

    What the app raises before it has answered becomes a JSON problem (RFC 9457); the exception is re-raised
    after the answer, so that servers and error monitors see it, unless it is a plain refusal such as
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
        configured = self._authenticator.settings
        self._sets_user = configured.set_user
        self._strips = configured.strip_authorization
        self._timeout_s = configured.timeout_s
        self._guards = configured.map_errors or configured.timeout_s is not None
        holds = configured.map_errors and configured.start_hold_s
        self._held_starts = _HeldStarts(configured.start_hold_s) if holds else None

    @property
    def authenticator(self) -> Authenticator[Scope]:
        """What decides on requests; for integrations."""
        return self._authenticator

    async def __call__(self, scope: Any, receive: AnyReceive, send: AnySend) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            if kind != "lifespan":
                raise RuntimeError(f"unknown ASGI scope type {kind!r}: it is not let through unchecked")
            await self._lifespan(scope, receive, send)
            return
        if type(scope.get("headers")) is not list:  # any iterable, even a one-shot one
            scope["headers"] = list(scope.get("headers", ()))
        authenticator = self._authenticator
        decision = authenticator.decide(scope)
        if type(decision) is not Allow:
            if isinstance(decision, PendingVerification):
                if not _runs_on_asyncio():
                    raise RuntimeError(_ASYNCIO_NEEDED)
                decision = await authenticator.averify(decision)
            if isinstance(decision, Deny):
                self._remove_identity(scope)
                await _refuse(scope, receive, send, authenticator.refuse(scope, decision))
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
        guard = _Guard(send, scope, self._held_starts)
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
        except BaseException as exc:
            if guard.held is not None:
                await guard.give_up(exc)
            raise
        else:
            if guard.held is not None:
                await guard.release()

    async def _answered(self, guard: _Guard, exc: Exception, principal: Principal) -> bool:
        """Answer for an app that raised, if that is ours to do; tells whether that is the end of it."""
        if guard.begun:
            if guard.held is not None:
                await guard.give_up(exc)
            return False
        routine = is_refusal(exc)
        if not self._authenticator.settings.map_errors or (
            guard.holds_answer and handles_errors(guard.scope.get("app"))
        ):
            await guard.release()  # not ours to replace
            return False
        request = guard.request
        if not routine and handles_errors(request.get("app")):
            return False  # its own handler is round us, and has not had its turn
        answer = self._authenticator.answer_exception(
            request, exc, client_id=principal.client_id, traceback=False
        )
        await _answer_if_there(request, guard.take(), answer)
        return routine

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app; a refusal that it raises before it has answered the handshake becomes the answer."""
        connected = answered = gone = False
        principal = scope[PRINCIPAL]
        guard = _Guard(send, scope, None)

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
            if answered or gone or not is_refusal(exc) or not self._authenticator.settings.map_errors:
                raise
            request = guard.request
            answer = self._authenticator.answer_exception(
                request, exc, client_id=principal.client_id, traceback=False
            )
            if connected:
                await _deny(request, send, answer)
            else:
                await _refuse(request, receive, send, answer)

    async def _timed(self, running: Awaitable[None], guard: _Guard, timeout_s: float) -> None:
        """Await the app; if it starts no response in time, answer 504 at once, then cancel and await it."""
        # The app stays in this task, so that its context variables and its cancellation are what they would
        # be without us. The answer is sent by a task of its own: a handler may ignore its cancellation.
        from asyncio import CancelledError, create_task, current_task, get_running_loop

        task = cast("Task[None]", current_task())
        cancelling = task.cancelling()
        answering: Task[None] | None = None

        def time_out() -> None:
            nonlocal answering
            if guard.has_start:
                return
            log = f"the app started no response within {timeout_s:g} s"
            request = guard.request
            answer = self._authenticator.answer_problem(request, TIMEOUT, log)
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

        if not _runs_on_asyncio():
            await receive()
            await send({"type": "lifespan.startup.failed", "message": _ASYNCIO_NEEDED})
            return

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if wraps_cors(self.app):
                    self._warn_of_cors()
                await self._authenticator.warm_up()
            return message

        async def sending(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._authenticator.aclose()
            await send(message)

        await self.app(scope, receiving, sending)

    def _warn_of_cors(self) -> None:
        preflights = "" if self._authenticator.settings.allow_preflight else ", and preflights are refused"
        logger.warning(
            "CORSMiddleware stands inside the gate: scripts of other origins cannot read the gate's own "
            "answers%s; put it outside",
            preflights,
        )


class _HeldStarts:
    """Releases each response start that has been held for too long.

    A timer for each response would cost more than all the rest. So each event loop has one timer, which runs
    while starts are held.

    Args:
        hold_s: The longest time that a start is held, in seconds.

    Attributes:
        timers: By thread: to ask for the running loop itself costs a system call on Python 3.11.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self.timers: dict[int, _Timer] = {}

    def start_timer(self) -> _Timer:
        """Start the timer of the running loop, and forget those of loops that have ended."""
        from asyncio import get_running_loop  # not when this module is imported

        for ident, timer in list(self.timers.items()):
            if not timer.loop.is_running():
                self.timers.pop(ident, None)
        return _Timer(get_running_loop(), self.timers, self._hold_s)


class _Timer:
    """The timer of one event loop, which runs in one thread.

    It goes off twice in the longest time that a start may be held, and releases those that were there when it
    went off before. When none is held any more, it ends.

    Attributes:
        loop: The event loop.
        newest: The guards that have held a start since the timer last went off.
    """

    def __init__(self, loop: AbstractEventLoop, timers: dict[int, _Timer], hold_s: float) -> None:
        self.loop = loop
        self.newest: set[_Guard] = set()
        self._older = self.newest
        self._period_s = hold_s / 2
        self._timers = timers
        self._ident = get_ident()
        timers[self._ident] = self
        self._run()

    def _run(self) -> None:
        self._older, self.newest = self.newest, set()
        # In an empty context, not in that of the current request.
        self.loop.call_later(self._period_s, self._go_off, context=Context())

    def _go_off(self) -> None:
        for guard in tuple(self._older):
            guard.release_late(self.loop)
        if self.newest:
            self._run()
        elif self._timers.get(self._ident) is self:
            del self._timers[self._ident]


class _Guard:
    """Holds the start of a response back until its first body event, so that it can still be replaced.

    It also keeps what our own response needs to know of the request, whatever the app does to its scope.
    Unlike a dict among the local variables of a frame, it is opaque to error monitors.

    Attributes:
        scope: What the app was given.
        request: A copy of it, as it was before.
        begun: Something was sent that cannot be taken back, or a response of ours is.
        held: Not None while a start is held back, or being released because it was held for too long.
    """

    __slots__ = (
        *("_body", "_context", "_held_starts", "_releasing", "_send", "_start"),
        *("begun", "held", "request", "scope"),
    )

    _body: Message | None  # this and the next two: from when a start is held
    _context: Context
    _releasing: Task[None] | None

    def __init__(self, send: Send, scope: Scope, held_starts: _HeldStarts | None) -> None:
        self.scope = scope
        request = self.request = dict(scope)
        request["headers"] = tuple(scope["headers"])
        self._send = send
        self._held_starts = held_starts
        self._start: Message | None = None
        self.begun = False
        self.held: set[_Guard] | None = None

    @property
    def has_start(self) -> bool:
        """Whether a response has started: the app's, held back or not, or ours."""
        return self.begun or self._start is not None

    @property
    def holds_answer(self) -> bool:
        """Whether a whole answer is held back, not just its start."""
        return self._start is not None and self._body is not None

    async def send(self, message: Message) -> None:
        """What the app is given to send with."""
        # To call an attribute that holds a function, CPython looks for a method first: so it is read before.
        send = self._send
        if self.begun:
            await send(message)
        elif (start := self._start) is None:
            if message["type"] != "http.response.start":
                await self._send_early(message)
            elif not self._hold(message):
                self.begun = True
                await send(message)
        elif start["status"] == 500 and self._body is None and is_starlette_500(start, message):
            self._body = message  # an exception may follow: wait for the app to return or raise
        else:
            self.begun = True  # before the first await: nobody may begin a second answer meanwhile
            self.held.discard(self)  # type: ignore[union-attr]  # a start is held
            self.held = None
            await send(start)
            if self._body is not None:
                await send(self._body)
            await send(message)

    async def release(self) -> None:
        """Send what is held back, or wait for a late release; raises what the server's ``send`` raises."""
        if self.held is None:
            return
        if self.begun:
            await cast("Task[None]", self._releasing)
        else:
            self._begin()
            await self._send_held(self._send)

    def release_late(self, loop: AbstractEventLoop) -> None:
        """Send what is held back in a task, since the app does not send the next message."""
        self.begun = True
        self.held.discard(self)  # type: ignore[union-attr]  # a start is held
        send = self._send
        self._send = partial(self._send_after_release, send)
        # In the context that the app had when it sent the start.
        self._releasing = loop.create_task(self._send_held(send), context=self._context)

    def take(self) -> Send:
        """What to send another answer with; all that the app has sent, or still does, is dropped."""
        send, self._send = self._send, _drop
        self._begin()
        return send

    async def give_up(self, exc: BaseException) -> None:
        """End a late release after the app has raised, or drop what is held back.

        Args:
            exc: What the app has raised: an ``Exception`` after the response began, or anything else.
        """
        from asyncio import wait

        if not self.begun:
            self._begin()
            return
        releasing = cast("Task[None]", self._releasing)
        if not isinstance(exc, Exception):
            releasing.cancel()
        if not isinstance(exc, GeneratorExit):  # which allows no await
            await wait([releasing])
            if not releasing.cancelled():
                releasing.exception()  # the app's own exception is reported, not this one

    def _hold(self, start: Message) -> bool:
        """Hold a start back unless a client may wait for it before anything else happens."""
        held_starts = self._held_starts
        if held_starts is None:
            return False
        for name, value in start.get("headers", ()):
            if len(name) == 12 and name.lower() == b"content-type":
                if value[:17].lower() == b"text/event-stream":
                    return False
                break
        timer = held_starts.timers.get(get_ident())
        if timer is None or not timer.loop.is_running():
            try:
                timer = held_starts.start_timer()
            except RuntimeError:
                return False  # no event loop of asyncio: nothing could release it
        self._start = start
        self._body = self._releasing = None
        self._context = copy_context()
        held = self.held = timer.newest
        held.add(self)
        return True

    def _begin(self) -> None:
        self.begun = True
        if self.held is not None:
            self.held.discard(self)
            self.held = None

    async def _send_held(self, send: Send) -> None:
        await send(self._start)  # type: ignore[arg-type]  # there is one
        if self._body is not None:
            await send(self._body)

    async def _send_after_release(self, send: Send, message: Message) -> None:
        """Send a message after a late release, whose failure is raised here."""
        from asyncio import shield  # another task of the app may wait for the same

        releasing = cast("Task[None]", self._releasing)
        try:
            await shield(releasing)
        finally:
            if releasing.done():
                self._send = send
                self.held = None
        await send(message)

    async def _send_early(self, message: Message) -> None:
        # Not an answer yet: an early hint, a push, a debug message of a test client.
        try:
            await self._send(message)
        except OSError:
            self.begun = True  # the client has gone: no answer can reach it
            raise


def _runs_on_asyncio() -> bool:
    """Whether the running task is one of asyncio's; without any event loop, nothing that runs is trio's."""
    trio = sys.modules.get("trio")
    if trio is None:
        return True
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return True
    return False


async def _drop(_message: Message) -> None:
    pass


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    if scope["type"] == "http":
        await _answer(scope, send, answer)
        return
    message = await receive()  # the handshake; the answer to it must not come first
    if message["type"] == "websocket.connect":
        await _deny(scope, send, answer)


async def _deny(scope: Scope, send: Send, answer: Response) -> None:
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await _answer(scope, send, answer, prefix="websocket.")
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})


async def _answer_if_there(scope: Scope, send: Send, answer: Response) -> None:
    with suppress(OSError):  # the client has gone, which does not matter
        await _answer(scope, send, answer)


async def _answer(scope: Scope, send: Send, answer: Response, *, prefix: str = "") -> None:
    start = {"type": f"{prefix}http.response.start", "status": answer.status, "headers": answer.raw_headers}
    await send(start)
    body = b"" if scope.get("method") == "HEAD" else answer.body
    await send({"type": f"{prefix}http.response.body", "body": body})
