"""Connections of event loops to Redis, one for each loop and server.

What is asked in one turn of the loop goes out together. Who asks alone, as far as can be told beforehand,
does not wait for the turn to end.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from contextvars import Context
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from ..errors import BackendUnavailable
from ._redis_pipe import fail, open_pipe, replies_to
from ._redis_wire import pack, pack_get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._redis_pipe import Asked, Pipe
    from ._redis_ways import Command, Router, Way

_CLOSING: Final = "the connections to Redis are being closed"
_CLOCK_STEP_S: Final = 0.002  # a timer may be early by as much


class LoopLines:
    """The connections of the running event loop, one for each way.

    Args:
        router: Says which way to take.
        connect: Makes a connection of redis-py that is never connected; takes more options for it.
        limit_s: For each question, connecting included.
    """

    def __init__(self, router: Router, connect: Callable[..., Any], limit_s: float) -> None:
        self._router = router
        self._ways = router.ways
        self._connect = connect
        self._limit_s = limit_s
        self._lines: dict[Way, LoopLine] = {}
        self._is_closed = False

    async def get(self, name: bytes) -> Any:
        """The reply to a GET; an error reply is returned, not raised. May be cancelled at any time.

        Raises:
            BackendUnavailable: There is no reply.
        """
        router = self._router
        if (way := router.way_of(name)) is None:
            return (await self.ask([("GET", name)]))[0]
        try:
            reply = await self._to(way).begin(pack_get(name))
        except asyncio.CancelledError:
            router.doubt(way)
            raise
        if reply is None or type(reply) is bytes:
            if router.ways is not self._ways:
                self._keep(router.ways)
            return reply
        outcome = reply if isinstance(reply, BackendUnavailable) else [reply]
        return (await self.ask([("GET", name)], (way, outcome)))[0]

    async def ask(
        self, commands: Sequence[Command], known: tuple[Way, list[Any] | Exception] | None = None
    ) -> list[Any]:
        """Send commands that only read where they belong; may be cancelled at any time.

        Args:
            commands: An error reply to one of them is returned, not raised.
            known: The way that was taken with them before, and what came of it.

        Raises:
            BackendUnavailable: There is no reply.
        """
        outcome: Any = None
        with closing(self._router.ask(commands, again=True)) as steps:
            while True:
                try:
                    way, batch = steps.send(outcome)
                except StopIteration as done:
                    self._keep(self._router.ways)
                    return cast("list[Any]", done.value)
                if known is not None and known[0] == way and batch == commands:
                    outcome = known[1]
                else:
                    try:
                        outcome = await self._to(way).ask(batch)
                    except Exception as exc:
                        outcome = exc
                known = None  # it may be asked again

    async def aclose(self) -> None:
        """Give up what is asked, and close the connections."""
        self._is_closed = True
        lines, self._lines = self._lines, {}
        await asyncio.gather(*(line.aclose() for line in lines.values()))

    def _to(self, way: Way) -> LoopLine:
        if (line := self._lines.get(way)) is None:
            if self._is_closed:
                raise BackendUnavailable(_CLOSING)
            line = self._lines[way] = LoopLine(self._connect, way, self._limit_s)
        return line

    def _keep(self, ways: frozenset[Way]) -> None:
        if ways is self._ways:
            return
        gone = self._lines.keys() - ways
        idle = {way for way in gone if self._lines[way].is_idle()}
        if idle == gone:
            self._ways = ways
        for way in idle:
            self._lines.pop(way).close()


class LoopLine:
    """The running event loop's connection that takes one way; made anew where it was lost.

    Args:
        connect: As for ``LoopLines``.
        way: Taken anew for each connection.
        limit_s: For each question, connecting included.
    """

    def __init__(self, connect: Callable[..., Any], way: Way, limit_s: float) -> None:
        self._connect = connect
        self._way = way
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # an empty one: what goes on here is nobody's request
        self._pipe: Pipe | None = None
        self._waiting: list[Asked] = []  # not sent yet
        self._is_summoned = False  # to send it
        self._in_company = False  # whether what was sent last was several questions
        self._dialing: asyncio.Task[Pipe] | None = None
        self._dialed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def begin(self, octets: bytes) -> asyncio.Future[Any]:
        """Ask one thing, of which the future will tell; it may be cancelled.

        That is the reply, or an error reply, or ``BackendUnavailable``: none is raised.
        """
        answer = self._loop.create_future()
        asked_at = self._loop.time()
        asked = (answer, octets, asked_at, True, True)
        pipe = self._pipe
        if pipe is not None and not pipe.unanswered and not self._in_company:
            pipe.send((asked,))
        else:
            self._waiting.append(asked)
            if not self._is_summoned:
                self._summon()
        if self._timer is None:
            self._set_timer(asked_at)
        return answer

    async def ask(self, commands: Iterable[Command]) -> list[Any]:
        """Ask several things, one behind the other; an error reply is returned, not raised.

        Raises:
            BackendUnavailable: There is no reply.
        """
        asked_at = self._loop.time()
        asked = [(self._loop.create_future(), pack(command), asked_at, True, False) for command in commands]
        self._waiting += asked
        self._summon()
        if self._timer is None:
            self._set_timer(asked_at)
        return await replies_to([answer for answer, *_ in asked])

    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not (self._waiting or self._dialing or (self._pipe and self._pipe.unanswered))

    def close(self) -> None:
        """Give up what is asked, and close the connection."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._dialing is not None:
            self._dialing.cancel()
        if self._pipe is not None:
            self._pipe.lose(BackendUnavailable(_CLOSING))
        self._fail(BackendUnavailable(_CLOSING))

    async def aclose(self) -> None:
        """``close``, and wait until nothing is open."""
        pipe, dialing = self._pipe, self._dialing
        self.close()
        if dialing is not None:
            await asyncio.wait([dialing])
        if pipe is not None:
            await asyncio.wait([pipe.gone])

    # --- sending

    def _summon(self) -> None:
        if not self._is_summoned:
            self._is_summoned = True
            self._loop.call_soon(self._send, context=self._context)

    def _send(self) -> None:
        self._is_summoned = False
        waiting = [asked for asked in self._waiting if not asked[0].done()]
        if self._pipe is None:
            self._waiting = waiting
            if waiting and self._dialing is None:
                self._dial()
            return
        self._waiting = []
        self._in_company = len(waiting) > 1
        if self._in_company and len({asked[1] for asked in waiting}) < len(waiting):
            waiting = self._without_repeats(waiting)
        if waiting:
            self._pipe.send(waiting)

    def _without_repeats(self, waiting: Iterable[Asked]) -> list[Asked]:
        """Ask once what several want to know."""
        questions: dict[bytes, asyncio.Future[Any]] = {}
        left: list[Asked] = []
        for asked in waiting:
            answer, octets, asked_at, once_more, may_share = asked
            if not may_share:
                left.append(asked)
                continue
            if (question := questions.get(octets)) is None:
                # Not that of the first, who may give up.
                question = questions[octets] = self._loop.create_future()
                left.append((question, octets, asked_at, once_more, False))
            question.add_done_callback(partial(_pass_on, answer), context=self._context)
        return left

    def _dial(self) -> None:
        self._dialed_at = self._loop.time()
        self._dialing = self._loop.create_task(self._open())
        self._dialing.add_done_callback(self._dialed, context=self._context)

    async def _open(self) -> Pipe:
        async with asyncio.timeout(self._limit_s):
            return await open_pipe(self._connect, self._way)

    def _dialed(self, task: asyncio.Task[Pipe]) -> None:
        self._dialing = None
        if task.cancelled():  # by close, or by whoever ends the loop
            self._fail(BackendUnavailable(_CLOSING))
        elif (reason := task.exception()) is not None:
            self._fail(reason, until=self._dialed_at)  # who has asked since is given another try
        elif self._is_closed:
            task.result().lose(BackendUnavailable(_CLOSING))
        elif not task.result().is_open:
            self._fail(ConnectionResetError(), until=self._dialed_at)
        else:
            self._pipe = task.result()
            self._pipe.on_loss = self._lost
        self._send()

    # --- what goes wrong

    def _lost(self, asked: Iterable[Asked], reason: Exception) -> None:
        """Ask once more what may be: the server may have closed long ago a connection that was of use."""
        pipe, self._pipe = self._pipe, None
        worth_it = not self._is_closed and (
            isinstance(reason, TimeoutError) or (pipe is not None and pipe.has_answered)
        )
        late = self._late()
        again: list[Asked] = []
        for each in asked:
            answer, octets, asked_at, once_more, may_share = each
            if worth_it and once_more and asked_at > late:
                again.append((answer, octets, asked_at, False, may_share))
            else:
                fail([each], reason)
        if again:
            self._waiting[:0] = again
            self._summon()

    def _late(self) -> float:
        """What was asked then, or before, has no time left."""
        return self._loop.time() - self._limit_s + _CLOCK_STEP_S

    def _set_timer(self, asked_at: float) -> None:
        self._timer = self._loop.call_at(asked_at + self._limit_s, self._look, context=self._context)

    def _look(self) -> None:
        """See who has waited too long. One timer does for all: it is set for the oldest question."""
        self._timer = None
        late = self._late()
        if self._pipe is not None and self._pipe.unanswered and self._pipe.unanswered[0][2] <= late:
            self._pipe.lose(TimeoutError())
        self._fail(TimeoutError(), until=late)
        left = [asked[2] for asked in self._waiting[:1]]
        if self._pipe is not None and self._pipe.unanswered:
            left.append(self._pipe.unanswered[0][2])
        if left:
            self._set_timer(min(left))

    def _fail(self, reason: BaseException, until: float = inf) -> None:
        failed = [asked for asked in self._waiting if asked[2] <= until]
        self._waiting = [asked for asked in self._waiting if asked[2] > until]
        fail(failed, reason)


def _pass_on(answer: asyncio.Future[Any], question: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_result(question.result())
