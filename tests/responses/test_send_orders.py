"""All orders of events between an app, a middleware and a server, against small reference models.

A model gives for each order what the client may see. In addition, a few laws hold without a model: at most
one response, never a clean end of a broken one, no change for an app that follows the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from basicauth_mw import Backend, InsufficientScope, Issued, Settings, asgi, wsgi
from tests.asgi.helpers import http_scope
from tests.wsgi.helpers import Body, make_environ

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from tests.asgi.helpers import Message, Receive, Scope, Send


@pytest.fixture(autouse=True)
def _without_logging() -> Iterator[None]:
    """Hundreds of thousands of failures are raised on purpose."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def _without_tracing(most: int) -> Iterator[None]:
    """Measuring coverage would take far longer than the test; the shallow runs reach the same lines."""
    tracer = sys.gettrace()
    if most > SHALLOW:
        sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.fixture
def most() -> int:
    """The length of the orders, unless a test sets it."""
    return SHALLOW


DEEP, SHALLOW = 6, 4
TIMEOUT_S = 60.0


class Boom(Exception):
    """The exception that the apps raise."""


class Gone(OSError):
    """What a server raises from send after the client has disconnected (ASGI 2.4)."""


# --- ASGI

MESSAGES: dict[str, Message] = {
    "hint": {"type": "http.response.early_hint", "links": [b"</a>"]},
    "start": {"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]},
    "start500": {  # Starlette's own, with body500 as its body
        "type": "http.response.start",
        "status": 500,
        "headers": [(b"content-length", b"21"), (b"content-type", b"text/plain; charset=utf-8")],
    },
    "body500": {"type": "http.response.body", "body": b"Internal Server Error"},
    "empty": {"type": "http.response.body", "body": b"", "more_body": True},
    "more": {"type": "http.response.body", "body": b"part", "more_body": True},
    "final": {"type": "http.response.body", "body": b"end"},
}
NAMES = {id(message): name for name, message in MESSAGES.items()}
# Other events: the client disconnects; the time limit expires, and the app is cancelled or continues.
GONE, LATE, LATE_IGNORED = "gone", "late", "late, ignored"
ENDS = ("return", "raise", "refuse", "cancel")


class Line(NamedTuple):
    """The messages that a strict server has accepted for one response.

    Attributes:
        state: new, started, done.
        taken: Names of the accepted messages; a response of the middleware is its status and ``problem``.
        gone: Whether the client has disconnected.
    """

    state: str = "new"
    taken: tuple[str, ...] = ()
    gone: bool = False

    def after(self, name: str) -> Line | str:
        """The line with one more message, or the name of the exception that the server raises."""
        if self.gone:
            return "Gone"
        kind = "start" if name.startswith("start") or name.isdigit() else "hint" if name == "hint" else "body"
        match self.state, kind:
            case ("new", "hint"):
                state = "new"
            case ("new", "start"):
                state = "started"
            case ("started", "body"):
                state = "started" if name in ("empty", "more") else "done"
            case _:
                return "RuntimeError"
        return Line(state, (*self.taken, name))


class Rules(NamedTuple):
    """The configuration of a middleware and its surroundings."""

    maps: bool = True
    timed: bool = True
    handler: str = ""  # where the app's own handler for errors is: "inside" the middleware, or "outside"
    stubborn: bool = False  # the app continues after an exception from send


class Model(NamedTuple):
    """The send guard.

    Attributes:
        stage: fresh; held: a start is held; whole: Starlette's whole response is held; out: the app's own
            response passes through; ours: the middleware has responded.
    """

    rules: Rules
    line: Line = Line()
    stage: str = "fresh"
    held: tuple[str, ...] = ()
    timer: bool = True
    failed: str = ""  # the exception that ended the app early

    def step(self, event: str) -> Model:
        """The effect of one event of the app, or around it."""
        if event == GONE:
            return self._replace(line=self.line._replace(gone=True))
        if event in (LATE, LATE_IGNORED):
            fires = self.timer and self.stage == "fresh"
            model = self._replace(timer=False)
            if not fires:
                return model
            return model.responded("504")._replace(failed="" if event == LATE_IGNORED else "late")
        if self.stage == "ours":
            return self
        if self.stage == "fresh" and event.startswith("start") and not self.rules.maps:
            return self._replace(stage="out").passed(event)
        if self.stage == "fresh" and event.startswith("start"):
            return self._replace(stage="held", held=(event,))
        if (self.held, event) == (("start500",), "body500"):
            return self._replace(stage="whole", held=("start500", "body500"))
        if self.stage == "fresh":
            model = self.passed(event)
            # After the client has disconnected no response is possible; a refused message changes nothing.
            return model._replace(stage="out") if self.line.gone else model
        return self._replace(stage="out", held=()).passed(*self.held, event)

    def passed(self, *names: str) -> Model:
        model = self
        for name in names:
            line = model.line.after(name)
            if isinstance(line, str):
                return model if self.rules.stubborn else model._replace(failed=line)
            model = model._replace(line=line)
        return model

    def responded(self, status: str) -> Model:
        line = self.line
        for name in (status, "problem"):
            after = line.after(name)
            line = line if isinstance(after, str) else after
        return self._replace(stage="ours", held=(), line=line)

    def end(self, how: str) -> tuple[Line, str]:
        """What the client has received when the app ends, and the exception that the server gets."""
        if self.stage == "ours":
            return self.line, ""
        raised = {"raise": "Boom", "refuse": "InsufficientScope", "cancel": "CancelledError"}.get(how, "")
        if self.failed:
            raised = self.failed
        if not raised:
            model = self._replace(rules=Rules(), held=()).passed(*self.held)
            return model.line, model.failed
        if raised == "CancelledError" or self.stage == "out":
            return self.line, raised
        rules, routine = self.rules, raised == "InsufficientScope"
        if not rules.maps or (self.stage == "whole" and rules.handler):
            model = self._replace(rules=Rules(), held=()).passed(*self.held)
            return model.line, model.failed or raised
        if rules.handler == "outside" and not routine:
            return self.line, raised
        return self.responded("403" if routine else "500").line, "" if routine else raised


class Loop(asyncio.SelectorEventLoop):
    """A loop whose timer for the time limit fires on request, and that of held starts never."""

    timer: asyncio.TimerHandle | None = None

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(self.time() + delay, callback, args, self, context)
        if delay >= TIMEOUT_S:
            self.timer = timer
        return timer

    def pass_time(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None and not timer.cancelled():
            timer._run()


class Handling:
    """The value of scope["app"] if an app handles its errors itself."""

    exception_handlers = {Exception: print}  # noqa: RUF012
    debug = False


class Stage:
    """One middleware that can play any order."""

    def __init__(self, rules: Rules, backend: Backend, issued: Issued, loop: Loop) -> None:
        self._rules = rules
        self._loop = loop
        settings = Settings(map_errors=rules.maps, timeout_s=TIMEOUT_S if rules.timed else None)
        self._authenticator = asgi.BasicAuthMiddleware(self._app, backend, settings=settings)
        self._scope = http_scope(issued.authorization)
        if rules.handler == "outside":
            self._scope["app"] = Handling
        self._events: tuple[str, ...] = ()
        self._end = ""
        self.line: Line = Line()

    async def play(self, events: tuple[str, ...], end: str) -> tuple[Line, str]:
        """What reaches the client, and what is re-raised to the server."""
        self._events, self._end, self.line = events, end, Line()
        raised = ""
        try:
            await self._authenticator(dict(self._scope), None, self._send)  # type: ignore[arg-type]
        except (Exception, asyncio.CancelledError) as exc:
            raised = type(exc).__name__
        return self.line, raised

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._rules.handler == "inside":
            scope["app"] = Handling
        for event in self._events:
            if event == GONE:
                self.line = self.line._replace(gone=True)
            elif event in (LATE, LATE_IGNORED):
                self._loop.pass_time()
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if event == LATE:
                        raise
            else:
                try:
                    await send(MESSAGES[event])
                except Exception:
                    if not self._rules.stubborn:
                        raise
        match self._end:
            case "raise":
                raise Boom
            case "refuse":
                raise InsufficientScope
            case "cancel":
                raise asyncio.CancelledError

    async def _send(self, message: Message) -> None:
        name = NAMES.get(id(message))
        if name is None:
            name = str(message["status"]) if "status" in message else "problem"
            assert name != "problem" or message["body"].startswith(b'{"type": "about:blank"')
        line = self.line.after(name)
        if isinstance(line, str):
            raise Gone if line == "Gone" else RuntimeError(line)
        self.line = line


def orders(model: Model, events: Iterable[str], most: int) -> Iterator[tuple[tuple[str, ...], Model]]:
    """Every possible order of at most so many events, and the model after it."""
    alphabet = tuple(events)
    stack: list[tuple[tuple[str, ...], Model]] = [((), model)]
    while stack:
        done, model = stack.pop()
        yield done, model
        if len(done) < most and not model.failed:
            for event in alphabet:
                if event == GONE and model.line.gone:
                    continue
                if event in (LATE, LATE_IGNORED) and not model.timer:
                    continue  # a timer fires once
                stack.append(((*done, event), model.step(event)))


def assert_laws(events: tuple[str, ...], end: str, line: Line, raised: str, rules: Rules) -> None:
    """Properties that hold whatever the model says."""
    case = (events, end, line, raised)
    starts = [name for name in line.taken if name.startswith("start") or name.isdigit()]
    assert len(starts) <= 1, case
    assert len(set(starts) & {"403", "500", "504"}) == line.taken.count("problem"), case
    if "problem" in line.taken:
        assert set(line.taken) <= {"hint", *starts, "problem"}, case  # nothing of the app's own response
        return
    if raised:  # the end belongs to the app
        assert line.state != "done" or {"final", "body500"} & set(events), case
    plain = end == "return" and not raised and not {GONE, LATE, LATE_IGNORED} & set(events)
    if plain and not rules.stubborn:
        assert line.taken == events, case


@pytest.mark.proves("A7", "A8", "X56")
@pytest.mark.parametrize(
    ("rules", "most"),
    [
        pytest.param(Rules(), SHALLOW, id="with a time limit"),
        pytest.param(Rules(timed=False), SHALLOW, id="without a time limit"),
        pytest.param(Rules(), DEEP - 1, id="with a time limit, deep"),
        pytest.param(Rules(timed=False), DEEP, id="without a time limit, deep"),
        pytest.param(Rules(stubborn=True), SHALLOW, id="an app that swallows what send raises"),
        pytest.param(Rules(maps=False), SHALLOW, id="errors not mapped"),
        pytest.param(Rules(maps=False, stubborn=True), SHALLOW, id="errors not mapped, swallowed"),
        pytest.param(Rules(handler="inside"), SHALLOW, id="its own handler inside"),
        pytest.param(Rules(handler="outside"), SHALLOW, id="its own handler outside"),
    ],
)
def test_asgi_orders(rules: Rules, most: int, backend: Backend, issued: Issued) -> None:
    """For any order of messages and any end of the app, the client sees what the model says."""
    events = [*MESSAGES, GONE, *([LATE, LATE_IGNORED] if rules.timed else [])]

    async def play_all(loop: Loop) -> int:
        stage = Stage(rules, backend, issued, loop)
        task = asyncio.current_task()
        assert task is not None
        played = 0
        for order, model in orders(Model(rules), events, most):
            # An app that an exception from send has ended cannot choose its end.
            for end in ("return",) if model.failed else ENDS:
                line, raised = await stage.play(order, end)
                assert (line, raised) == model.end(end), (order, end)
                assert_laws(order, end, line, raised, rules)
                assert task.cancelling() == 0, (order, end)
                played += 1
        assert asyncio.all_tasks() == {task}
        return played

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Loop)
        assert runner.run(play_all(loop)) > 500


# --- WSGI

RETURN = "return"  # the callable returns its body; earlier events are its own, later ones the body's
STARTS = {"start": "200 OK", "restart": "599 Own"}  # the second one with exc_info
DATA = {"write": b"w", "write nothing": b"", "chunk": b"c", "empty": b""}
WSGI_EVENTS = [*STARTS, *DATA, RETURN]
# The last: the client disconnects after the last chunk. "exit": a BaseException that is not an Exception.
WSGI_ENDS = ("end", "raise", "refuse", "exit", "leave")


class Snapshot(NamedTuple):
    """The response that a strict server was given.

    Attributes:
        status: Of the last start; empty: none.
        body: All bytes, written ones and chunks; a response of ours as ``problem``.
        chunks: The number of chunks, empty ones included.
    """

    status: str = ""
    body: tuple[bytes, ...] = ()
    chunks: int = 0

    @property
    def headers_are_out(self) -> bool:
        return bool(self.body)


class WsgiModel(NamedTuple):
    """The guard of ``start_response``."""

    seen: Snapshot = Snapshot()
    held: str = ""  # the status of a start that is held back
    returned: bool = False
    failed: str = ""

    def step(self, event: str) -> WsgiModel:
        if event == RETURN:
            return self._replace(returned=True)
        began = self.seen.status or self.held
        if event == "start":
            return self._replace(failed="AssertionError") if began else self._replace(held=STARTS[event])
        if event == "restart":
            if not self.seen.status:
                return self._replace(held=STARTS[event])
            if self.seen.headers_are_out:
                return self._replace(failed="Gone")  # what the app has given as exc_info
            return self._replace(seen=self.seen._replace(status=STARTS[event]))
        if not began:  # write() does not exist yet, and no chunk may come before a start
            return self._replace(failed="TypeError" if event.startswith("write") else "RuntimeError")
        data = (DATA[event],) if DATA[event] else ()
        chunks = self.seen.chunks + (not event.startswith("write"))
        return self._replace(
            held="", seen=Snapshot(self.seen.status or self.held, self.seen.body + data, chunks)
        )

    def end(self, how: str) -> tuple[Snapshot, str]:
        raised = {"raise": "Boom", "refuse": "InsufficientScope", "exit": "SystemExit"}.get(how, "")
        raised = self.failed or raised
        seen = self.seen
        if how == "end" and not raised:
            if seen.status or self.held:
                return seen._replace(status=seen.status or self.held), ""
            raised = "RuntimeError"
        if raised and raised != "SystemExit" and not seen.headers_are_out:
            status = "403 Forbidden" if raised == "InsufficientScope" else "500 Internal Server Error"
            return Snapshot(status, (b"problem",), seen.chunks + 1), ""
        return seen, raised


class Playing:
    """An app's body that plays the rest of an order, and acts as its server."""

    def __init__(self, script: Generator[bytes | None, None, None], in_close: BaseException | None) -> None:
        self._script = script
        self._in_close = in_close
        self.closed = 0

    def __iter__(self) -> Playing:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._script)
        assert chunk is not None
        return chunk

    def close(self) -> None:
        self.closed += 1
        if self._in_close is not None:
            raise self._in_close


class WsgiStage:
    """One middleware that can play any order."""

    def __init__(
        self, backend: Backend, issued: Issued, *, software: str, in_close: BaseException | None
    ) -> None:
        self._authenticator = wsgi.BasicAuthMiddleware(self._app, backend, settings=Settings())
        self._environ = make_environ(issued.authorization, SERVER_SOFTWARE=software)
        self._in_close = in_close
        self._events: tuple[str, ...] = ()
        self._end = ""
        self._as_list = False
        self._seen = Snapshot()
        self.status_at_return = ""
        self.too_late = False  # the middleware tried to replace a response that was already sent
        self.body: Any = None

    def play(self, events: tuple[str, ...], end: str, *, as_list: bool = False) -> tuple[Snapshot, str]:
        """What the server got, and what was re-raised to it."""
        self._events, self._end, self._as_list = events, end, as_list
        self._seen, self.status_at_return, self.too_late, self.body = Snapshot(), "", False, None
        most = sum(event in ("chunk", "empty") for event in events) if end == "leave" else -1
        result: Any = None
        raised = ""
        try:
            result = self._authenticator(self._environ, self._start_response)
            self.status_at_return = self._seen.status
            if most:
                for chunk in result:
                    self._take(chunk, chunks=1)
                    if self._seen.chunks == most:
                        break
        except (Exception, SystemExit) as exc:
            raised = type(exc).__name__
        finally:
            getattr(result, "close", lambda: None)()
        return self._seen, raised

    def _app(self, _environ: Any, start_response: Any) -> Iterable[bytes]:
        script = self._script(start_response)
        for step in script:
            if step is None:
                break
        self.body = list(script) if self._as_list else Playing(script, self._in_close)
        return self.body  # type: ignore[no-any-return]

    def _script(self, start_response: Any) -> Generator[bytes | None, None, None]:
        write: Any = None
        for event in self._events:
            match event:
                case "return":
                    yield None
                case "start":
                    write = start_response(STARTS[event], [])
                case "restart":
                    try:
                        raise Gone
                    except Gone as exc:
                        write = start_response(STARTS[event], [], (Gone, exc, None))
                case "write" | "write nothing":
                    write(DATA[event])
                case _:
                    yield DATA[event]
        match self._end:
            case "raise":
                raise Boom
            case "refuse":
                raise InsufficientScope
            case "exit":
                raise SystemExit

    def _start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is None:
            assert not self._seen.status, "started twice"
        elif self._seen.headers_are_out:
            self.too_late = self.too_late or exc_info[0] is not Gone
            raise exc_info[1].with_traceback(exc_info[2])
        self._seen = self._seen._replace(status=status)
        return self._take

    def _take(self, data: bytes, *, chunks: int = 0) -> None:
        assert self._seen.status, "bytes before a start"
        if data.startswith(b'{"type": "about:blank"'):
            data = b"problem"
        body = (*self._seen.body, data) if data else self._seen.body
        self._seen = self._seen._replace(body=body, chunks=self._seen.chunks + chunks)


def wsgi_orders(most: int) -> Iterator[tuple[tuple[str, ...], WsgiModel]]:
    """Every possible order of at most so many events besides the return."""
    stack: list[tuple[tuple[str, ...], WsgiModel]] = [((), WsgiModel())]
    while stack:
        done, model = stack.pop()
        yield done, model
        if model.failed:
            continue
        for event in WSGI_EVENTS:
            if event == RETURN and model.returned:
                continue
            if event in ("chunk", "empty") and not model.returned:
                continue
            if event != RETURN and len(done) - model.returned == most:
                continue
            stack.append(((*done, event), model.step(event)))


def wsgi_ends(order: tuple[str, ...], model: WsgiModel) -> Iterator[str]:
    for end in WSGI_ENDS:
        if model.failed:
            possible = end == "end"  # an app that was ended cannot choose
        elif end == "leave":
            possible = bool(order) and order[-1] in ("chunk", "empty")
        else:
            possible = model.returned or end != "end"
        if possible:
            yield end


@pytest.mark.proves("W4", "W6", "W9", "X56")
@pytest.mark.parametrize(
    ("software", "in_close", "most"),
    [
        pytest.param("", None, SHALLOW, id="any server"),
        pytest.param("Granian/2.8", None, SHALLOW, id="granian"),
        pytest.param("", None, DEEP, id="any server, deep"),
        pytest.param("Granian/2.8", None, DEEP - 1, id="granian, deep"),
        pytest.param("", Boom(), SHALLOW, id="close fails"),
        pytest.param("Granian/2.8", Boom(), SHALLOW, id="granian, close fails"),
    ],
)
def test_wsgi_orders(
    software: str, in_close: BaseException | None, most: int, backend: Backend, issued: Issued
) -> None:
    """For any order of starts, writes, chunks and exceptions of the app, the server sees what the
    model says, and the body is closed once."""
    stage = WsgiStage(backend, issued, software=software, in_close=in_close)
    played = 0
    for order, model in wsgi_orders(most):
        for end in wsgi_ends(order, model):
            seen, raised = stage.play(order, end)
            expected, raises = model.end(end)
            if software:
                # What is read from the app before its first byte, empty chunks or its end, is not seen.
                seen, expected = seen._replace(chunks=0), expected._replace(chunks=0)
                if raises == "SystemExit" and not seen.status:
                    expected = expected._replace(status="")
            assert (seen, raised) == (expected, raises), (order, end)
            assert not stage.too_late, (order, end)
            assert stage.body is None or stage.body.closed == 1, (order, end)
            if software and RETURN in order and end != "exit" and seen.status != stage.status_at_return:
                # Too late for a server that fixes the status at once; Granian itself has no write().
                assert "write" in order, (order, end)
            played += 1
    assert played > 1000


def test_wsgi_orders_with_a_list(backend: Backend, issued: Issued) -> None:
    """A list is passed to the server unchanged, unless there was no start.

    An empty one without a start means that the app has taken over the socket.
    """
    stage = WsgiStage(backend, issued, software="", in_close=None)
    played = 0
    for order, model in wsgi_orders(SHALLOW):
        body = order[order.index(RETURN) + 1 :] if RETURN in order else None
        if body is None or not set(body) <= {"chunk", "empty"}:
            continue
        began = order[0] != RETURN and not model.failed
        seen, raised = stage.play(order, "end", as_list=True)
        if order == (RETURN,):
            expected = Snapshot("", (), 0), ""
        elif began:
            expected = model.end("end")
        else:
            expected = Snapshot("500 Internal Server Error", (b"problem",), 1), ""
        assert (seen, raised) == expected, order
        played += 1
    assert played > 100


@pytest.mark.proves("W6")
@pytest.mark.parametrize("exc", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_base_exception_closes_the_body_under_granian(
    backend: Backend, issued: Issued, exc: type[BaseException]
) -> None:
    """PEP 3333 requires close() however a request ends; the server never sees this body."""
    body = Body([exc()])

    def app(_environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    middleware = wsgi.BasicAuthMiddleware(app, backend, settings=Settings())
    environ = make_environ(issued.authorization, SERVER_SOFTWARE="Granian/2.8")
    with pytest.raises(exc):
        middleware(environ, lambda *_: None)
    assert body.closed == 1


def test_data_written_after_a_second_start_is_sent(backend: Backend, issued: Issued) -> None:
    """A server that accepts a start after bytes must not be given one."""
    stage = WsgiStage(backend, issued, software="", in_close=None)

    assert stage.play((RETURN, "start", "empty", "restart", "write"), "raise")[1] == "Boom"
    assert not stage.too_late
