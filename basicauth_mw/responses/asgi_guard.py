"""Hold the start of an ASGI response back, so that an exception can still become an error response.

``ASGIResponseGuard.send`` keeps the start until the app sends its next message. An app may take long to send
that, and a client may wait for the start, so a start is held for a limited time. A timer for each response
would cost more than everything else, so each event loop has one timer, which runs while starts are held. It
releases a start in a task, which the app's next ``send`` awaits.

Error monitors record the local variables of each frame that an exception passes. The credential is only in
the attributes of a guard, which they do not look into.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, cast

from ..auth.frameworks import is_starlette_500
from .asgi_send import deny_handshake, refuse, try_send_response

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task

    from ..auth.problems import Response
    from .asgi_send import Message, Receive, Scope, Send


class HoldTimers(threading.local):
    """The timer of the event loop that runs in each thread.

    Args:
        hold_s: The longest time that a start is held, in seconds.

    Attributes:
        timer: None before the first start is held in this thread.
    """

    timer: HoldTimer | None = None

    def __init__(self, hold_s: float) -> None:
        self.hold_s = hold_s

    def reset_in_child(self) -> None:
        """Drop the timer of an event loop that runs in the parent process only."""
        self.timer = None


class HoldTimer:
    """Releases the starts that were held when the timer last fired.

    Attributes:
        loop: The event loop.
        is_set: Whether it will fire.
        newest: Guards that have held a start since the timer last fired.
    """

    def __init__(self, period_s: float) -> None:
        from asyncio import get_running_loop  # not when this module is imported

        self.loop = get_running_loop()
        self.is_set = False
        self.newest: set[ASGIResponseGuard] = set()
        self._older = self.newest
        self._period_s = period_s

    def set(self) -> None:
        """Let it fire after its period."""
        self.is_set = True
        self._older, self.newest = self.newest, set()
        # In an empty context, not in that of the current request.
        self.loop.call_later(self._period_s, self._fire, context=Context())

    def _fire(self) -> None:
        self.is_set = False
        for guard in tuple(self._older):
            guard.release_late(self.loop)
        if self.newest:
            self.set()


class ASGIResponseGuard:
    """The ``send`` that the app gets: holds the start of its response.

    Args:
        send: The server's ``send``.
        scope: The scope that the app gets.
        timers: None if starts are not held.

    Attributes:
        request: A copy of the scope from before the app was called, for error responses.
        committed: Whether something was sent that cannot be taken back, or the middleware responds.
        held: Not None while a start is held or being sent, or a late release has not been awaited.
    """

    __slots__ = (
        *("_body", "_context", "_releasing", "_send", "_start", "_start_sent", "_timers"),
        *("committed", "held", "request", "scope"),
    )

    _body: Message | None  # this and the next three are set when a start is held
    _context: Context
    _releasing: Task[None] | None  # a late release
    _start_sent: Future[None] | None  # set if a task of the app waits until another has sent the start

    def __init__(self, send: Send, scope: Scope, timers: HoldTimers | None) -> None:
        self.scope = scope
        self.request = request = dict(scope)
        request["headers"] = tuple(request["headers"])
        self._send = send
        self._timers = timers
        self._start: Message | None = None
        self.committed = False
        self.held: set[ASGIResponseGuard] | None = None

    @property
    def app_started(self) -> bool:
        """Whether the app has started a response, or the middleware responds."""
        return self.committed or self._start is not None

    @property
    def holds_whole_response(self) -> bool:
        """Whether the body is held as well as the start."""
        return self._start is not None and self._body is not None

    async def send(self, message: Message) -> None:
        """Send or hold a message of the app."""
        # An attribute that holds a function is read first: CPython is slower to call it in place.
        send = self._send
        if self.committed:
            if self.held is not None:
                await self._wait_for_release()
            await send(message)
        elif (start := self._start) is None:
            if message["type"] != "http.response.start":
                await self._send_early(message)
            elif not self._hold(message):
                self.committed = True
                await send(message)
        elif start["status"] == 500 and self._body is None and is_starlette_500(start, message):
            self._body = message  # Starlette raises the exception next
        else:
            self.committed = True  # before the first await: nothing else may begin a response
            self.held.discard(self)  # type: ignore[union-attr]  # a start is held
            try:
                await send(start)
                if self._body is not None:
                    await send(self._body)
            finally:
                self.held = None
                if self._start_sent is not None:
                    self._start_sent.set_result(None)
            await send(message)

    async def release(self) -> None:
        """Send what is held, or await a late release.

        Raises:
            Exception: Whatever the server's ``send`` raises.
        """
        if self.held is None:
            return
        if not self.committed:
            self._begin()
            await self._send_held()
        elif self._releasing is not None:
            await self._releasing

    def release_late(self, loop: AbstractEventLoop) -> None:
        """Send what is held in a task, as the app does not send its next message."""
        self.committed = True
        self.held.discard(self)  # type: ignore[union-attr]  # a start is held
        # In the context that the app had when it sent the start.
        self._releasing = loop.create_task(self._send_held(), context=self._context)

    def take(self) -> Send:
        """Return the server's ``send``. Everything that the app has sent, or still sends, is dropped."""
        send, self._send = self._send, _drop
        self._begin()
        return send

    async def respond(self, response: Response) -> None:
        """Send a response instead of the app's."""
        await try_send_response(self.request, self.take(), response)

    async def discard(self, exc: BaseException) -> None:
        """Drop what is held, or end a late release, after the app has raised ``exc``."""
        from asyncio import wait

        if not self.committed:
            self._begin()
        elif self.held is not None and (releasing := self._releasing) is not None:
            if not isinstance(exc, Exception):
                releasing.cancel()
            if not isinstance(exc, GeneratorExit):  # which allows no await
                await wait([releasing])
                if not releasing.cancelled():
                    releasing.exception()  # the app's own exception is reported, not this one

    def _hold(self, start: Message) -> bool:
        """Hold a start, unless it is that of an event stream or no timer can release it."""
        timers = self._timers
        if timers is None:
            return False
        headers = start.get("headers", [])
        if type(headers) is not list:  # any iterable, even one that can be read only once
            headers = start["headers"] = list(headers)
        for name, value in headers:
            if len(name) == 12 and (name == b"content-type" or name.lower() == b"content-type"):
                if len(value) >= 17 and value[:17].lower() == b"text/event-stream":
                    return False
                break
        timer = timers.timer
        if timer is None or not timer.loop.is_running():
            try:
                timer = timers.timer = HoldTimer(timers.hold_s / 2)
            except RuntimeError:
                return False  # not an event loop of asyncio
        if not timer.is_set:
            timer.set()
        self._start = start
        self._body = self._releasing = self._start_sent = None
        self._context = copy_context()
        held = self.held = timer.newest
        held.add(self)
        return True

    async def _send_held(self) -> None:
        await self._send(cast("Message", self._start))
        if self._body is not None:
            await self._send(self._body)

    async def _send_early(self, message: Message) -> None:
        """Send what comes before a response: an early hint, a push, a debug message of a test client."""
        try:
            await self._send(message)
        except OSError:
            self.committed = True  # the client has gone, and no response can reach it
            raise

    async def _wait_for_release(self) -> None:
        """Wait until the start is sent, by the timer's task or by another task of the app."""
        from asyncio import get_running_loop, shield

        if self._releasing is None:
            if self._start_sent is None:
                self._start_sent = get_running_loop().create_future()
            await shield(self._start_sent)
            return
        try:
            await shield(self._releasing)  # raises what the server's send has raised
        finally:
            if self._releasing.done():
                self.held = None

    def _begin(self) -> None:
        self.committed = True
        if self.held is not None:
            self.held.discard(self)
            self.held = None


class HandshakeGuard(ASGIResponseGuard):
    """Watches a websocket until the app has responded to its handshake, or the client has gone.

    Attributes:
        is_received: Whether the app has received the handshake.
    """

    __slots__ = ("_receive", "is_received")

    def __init__(self, send: Send, scope: Scope, receive: Receive) -> None:
        super().__init__(send, scope, None)
        self._receive = receive
        self.is_received = False

    async def receive(self) -> Message:
        """The ``receive`` that the app gets."""
        message = await self._receive()
        self.is_received = True
        if message["type"] == "websocket.disconnect":
            self.committed = True
        return message

    async def send(self, message: Message) -> None:
        self.committed = True
        await self._send(message)

    async def respond(self, response: Response) -> None:
        with suppress(OSError):  # the client has gone
            if self.is_received:
                await deny_handshake(self.request, self._send, response)
            else:
                await refuse(self.request, self._receive, self._send, response)


async def _drop(_message: Message) -> None:
    pass
