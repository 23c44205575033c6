"""The gate for WSGI apps (PEP 3333): Flask, Django, Bottle, Pyramid, or a bare callable."""

from __future__ import annotations

import logging
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from .auth.authenticator import Authenticator
from .auth.discovery import entry_of, open_layers
from .auth.flask_refusals import answer_refusals
from .auth.frameworks import flask_exceptions, is_werkzeug_500, may_take_socket
from .auth.problems import is_refusal
from .auth.verifier import PendingVerification
from .keys.model import ANONYMOUS, Allow, Deny

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from typing import Unpack

    from .auth.problems import Response
    from .settings import Overrides, Settings

    Environ = dict[str, Any]
    Headers = list[tuple[str, str]]
    StartResponse = Callable[..., Callable[[bytes], object]]
    App = Callable[[Environ, StartResponse], Iterable[bytes]]

__all__ = ["BasicAuthMiddleware"]

logger = logging.getLogger("basicauth_mw")

PRINCIPAL = "basicauth_mw.principal"
_CAPTURED = "basicauth_mw.captured"
_CAPTURED_NAMES: Final = ("REQUEST_METHOD", "REMOTE_ADDR", "HTTP_X_REQUEST_ID", "HTTP_SEC_FETCH_MODE")


class WSGIRequest:
    """Reads a WSGI environ. Its text is octets as latin-1 code points (PEP 3333, "Unicode Issues")."""

    @staticmethod
    def authorization(request: Environ) -> bytes | None:
        value: str | None = request.get("HTTP_AUTHORIZATION")
        if value is None:
            return None
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            return value.encode("utf-8", "replace")  # a broken server; no credential either way

    @staticmethod
    def header(request: Environ, name: str) -> str | None:
        value: str | None = request.get("HTTP_" + name.upper().replace("-", "_"))
        # Servers join fields of one name by a comma, and none that is asked for here holds one.
        return None if value is None or "," in value else value

    @staticmethod
    def address(request: Environ) -> str:
        return str(request.get("REMOTE_ADDR") or "")

    @staticmethod
    def scheme(request: Environ) -> str:
        return str(request.get("wsgi.url_scheme", "http"))

    @staticmethod
    def method(request: Environ) -> str:
        return str(request.get("REQUEST_METHOD", ""))

    @staticmethod
    def path(request: Environ) -> tuple[str, str | None, bytes]:
        # PATH_INFO is below the mount point (SCRIPT_NAME) already. Some servers tell the target as sent.
        path = request.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
        raw = str(request.get("RAW_URI") or request.get("REQUEST_URI") or "")
        return path, None, raw.partition("?")[0].encode("utf-8", "replace")


class BasicAuthMiddleware:
    """Lets requests with a valid API key through to a WSGI app, and answers all others.

    The app finds the caller in ``environ``: ``REMOTE_USER``, ``AUTH_TYPE``, and the ``Principal`` as
    ``basicauth_mw.principal``. With ``set_user`` off, the first two are not changed. What it raises before
    the first octet of its body becomes a JSON problem (RFC 9457), logged with its traceback.

    Args:
        app: The app to protect; for Flask ``app.wsgi_app``.
        backend: Where the keys are: a URL, what ``open_backend`` gives, or an object with ``get`` or
            ``aget``; None: ``settings.backend``.
        settings: None: ``Settings.from_env()``.
        **overrides: Any field of ``Settings``; ``timeout_s`` has no effect here, as a thread cannot be
            stopped.

    Raises:
        ConfigurationError: Names everything that is wrong, and no secret.

    Attributes:
        entry: The Flask app whose ``wsgi_app`` this is to be, until the first request has found what is
            outside; for integrations.
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
        self._authenticator: Authenticator[Environ] = Authenticator(
            WSGIRequest(), backend, settings, overrides
        )
        self._strips = self._authenticator.settings.strip_authorization
        self._maps_errors = self._authenticator.settings.map_errors
        self._sets_user = self._authenticator.settings.set_user
        self.entry = entry_of(app)
        if self._maps_errors:
            answer_refusals(app, self.answer_refusal)

    @property
    def authenticator(self) -> Authenticator[Environ]:
        """What decides on requests; for integrations."""
        return self._authenticator

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        authenticator = self._authenticator
        if self.entry is not None:
            self._warn_of_open_layers()
        decision = authenticator.decide(environ)
        if type(decision) is not Allow:
            if isinstance(decision, PendingVerification):
                decision = authenticator.verify(decision)
            if isinstance(decision, Deny):
                self._remove_identity(environ)
                return _answer(environ, start_response, authenticator.refuse(environ, decision))
        # The environ is updated in place, so that layers outside, such as an access log, see the caller. What
        # our own responses read is captured first. Nothing else is kept: no frame of ours holds a credential.
        read = environ.get
        captured = environ[_CAPTURED] = (
            read("REQUEST_METHOD"),
            read("REMOTE_ADDR"),
            read("HTTP_X_REQUEST_ID"),
            read("HTTP_SEC_FETCH_MODE"),
        )
        if decision is ANONYMOUS:
            self._remove_identity(environ)
            environ[PRINCIPAL] = None
        else:
            principal = environ[PRINCIPAL] = decision.principal
            if self._sets_user:
                user = principal.client_id
                environ["REMOTE_USER"] = user if user.isascii() else user.encode().decode("latin-1")
                environ["AUTH_TYPE"] = "Basic"
        if self._strips:
            environ.pop("HTTP_AUTHORIZATION", None)
        # Error monitors record the local variables of each frame that an exception passes. What is popped as
        # an argument is not one of them.
        given = [environ]
        if not self._maps_errors:
            del environ, read
            return self.app(given.pop(), start_response)
        guard = _Guard(start_response, "HTTP_UPGRADE" in environ and may_take_socket(environ))
        answered = flask_exceptions(environ)
        wrapper = read("wsgi.file_wrapper")
        if wrapper is not None and not isinstance(wrapper, type):
            wrapper = environ["wsgi.file_wrapper"] = _FileWrapper(wrapper)
        request = (captured, guard, answered, decision.principal.client_id)
        on_gunicorn = "gunicorn.socket" in environ
        on_granian = read("SERVER_SOFTWARE", "").startswith("Granian")
        del environ, read
        try:
            result = self.app(given.pop(), guard.start_response)
        except Exception as exc:
            if guard.is_lost(exc) or (exc in answered and not is_refusal(exc)):
                raise  # in debug mode and in tests, Flask re-raises what it has already reported
            if isinstance(exc, StopIteration) and on_gunicorn:
                raise  # it tells gunicorn that the app has taken over the socket
            return self._replace(*request, exc)
        if not guard.started and guard.is_farewell(result):
            return result
        if _is_passed_on(result, wrapper):
            try:
                guard.release()
            except Exception as exc:
                _close(result)
                return self._replace(*request, exc)
            return result
        replace = partial(self._replace, *request)
        body = _Body(result, guard, replace)
        if answered:
            body.peek()
            reported = answered[-1]
            if guard.is_werkzeug_500(body.first) and (is_refusal(reported) or not guard.takes_socket):
                body.close()
                return replace(reported)
        if on_granian:
            body.begin()  # it fixes the status as soon as we return
        return body

    def _warn_of_open_layers(self) -> None:
        entry, self.entry = self.entry, None
        for name in open_layers(entry, self):
            logger.warning(
                "%s is outside BasicAuthMiddleware, so the paths that it serves need no key: wrap "
                "app.wsgi_app, or call init_app of BasicAuth, after it is added",
                name,
            )

    def _remove_identity(self, environ: Environ) -> None:
        environ.pop(PRINCIPAL, None)
        if self._sets_user:
            environ.pop("REMOTE_USER", None)
            environ.pop("AUTH_TYPE", None)

    def answer_refusal(self, environ: Environ, exc: Exception) -> Response:
        """The response to a refusal that the app raises; for integrations."""
        principal = environ.get(PRINCIPAL)
        client_id = None if principal is None else principal.client_id
        captured = _captured_request(environ[_CAPTURED]) if _CAPTURED in environ else environ
        return self._authenticator.answer_exception(captured, exc, client_id=client_id, traceback=False)

    def _replace(
        self,
        captured: tuple[Any, ...],
        guard: _Guard,
        answered: Sequence[Exception],
        client_id: str,
        exc: Exception,
    ) -> Iterable[bytes]:
        """Answer in place of the app; the one caller makes sure that it is not too late."""
        request = _captured_request(captured)
        try:
            answer = self._authenticator.answer_exception(request, exc, client_id=client_id, traceback=True)
            if not guard.released and (exc in answered or is_refusal(exc)):
                # Nobody's failure any more. Werkzeug's test client would raise what it gets as exc_info.
                return _answer(request, guard.given, answer)
            return _answer(request, guard.given, answer, exc_info=(type(exc), exc, exc.__traceback__))
        finally:
            del exc  # the frame would keep it, and it keeps the frame: PEP 3333 asks for this


class _Guard:
    """Holds ``start_response`` back until the body begins, so that the answer can still be replaced.

    Attributes:
        given: The server's ``start_response``.
        started: The app has called ``start_response``.
        released: The server's was called.
        begun: An octet of the body may be out: nothing can be taken back.
        takes_socket: The app may have taken the socket over, as long as it has started no response.
    """

    __slots__ = ("_held", "_write", "begun", "given", "released", "started", "takes_socket")

    def __init__(self, start_response: StartResponse, takes_socket: bool) -> None:
        self.given = start_response
        self.takes_socket = takes_socket
        self.started = self.released = self.begun = False
        self._held: tuple[Any, ...] | None = None
        self._write: Callable[[bytes], object] | None = None

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """What the app is given to start with."""
        self.started = True
        arguments: tuple[Any, ...] = (status, headers)
        if exc_info is not None:
            arguments = (status, headers, exc_info)
            if self.released:
                self._write = self.given(*arguments)
                return self.write
        elif self.released or self._held is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self._held = arguments
        return self.write

    def release(self) -> None:
        """Start the answer for good, if that was not done before.

        Raises:
            RuntimeError: The app has not started any.
        """
        if self.released:
            return
        if self._held is None:
            if self.takes_socket:
                return
            raise RuntimeError("the app gave a body and never called start_response")
        held, self._held = self._held, None
        self.released = True
        self._write = self.given(*held)

    def is_lost(self, exc: Exception) -> bool:
        """Whether it is too late for a response: part of one was sent, or the app has the socket."""
        return self.begun or (self.takes_socket and not self.started and not is_refusal(exc))

    def is_farewell(self, result: object) -> bool:
        """Whether a result without a start tells the server that the app has taken over the socket."""
        if isinstance(result, list) and not result:
            return True
        return self.takes_socket and (not result or not hasattr(result, "__iter__"))

    def give_up(self) -> None:
        """Another answer has taken the place of the one held back."""
        self._held = None
        self.released = self.begun = True

    def write(self, data: bytes) -> object:
        """The old way to send a body (PEP 3333, "The write() Callable")."""
        self.release()
        if self._write is None:
            raise RuntimeError("this server has no write()")
        self.begun = self.begun or bool(data)
        return self._write(data)

    def is_werkzeug_500(self, first: bytes | None) -> bool:
        """Whether the answer that is held back is Werkzeug's for an unhandled exception."""
        return self._held is not None and is_werkzeug_500(self._held[0], self._held[1], first)


class _Body:
    """The app's body, one chunk for one chunk, with the start of the answer released just before the first.

    Attributes:
        first: What ``peek`` found; None: no chunk.
    """

    __slots__ = ("_chunks", "_closed", "_guard", "_replace", "_result", "_source", "first")

    def __init__(
        self, result: Iterable[bytes], guard: _Guard, replace: Callable[[Exception], Iterable[bytes]]
    ) -> None:
        self._result = result
        self._guard = guard
        self._replace = replace
        self._source: Iterable[bytes] | None = None  # what is left of the result, if it was looked into
        self._chunks = self._run()
        self._closed = False
        self.first: bytes | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks  # a generator: the server asks it with no call of ours between

    def __next__(self) -> bytes:
        return next(self._chunks)  # for a server that asks without iter()

    def _run(self) -> Generator[bytes, None, None]:
        guard = self._guard
        try:
            for chunk in self._result if self._source is None else self._source:
                if not guard.begun:
                    guard.release()
                    guard.begun = bool(chunk)
                yield chunk
            guard.release()  # an empty body has a start as well
            return
        except Exception as exc:
            if guard.is_lost(exc):
                raise  # never a clean end: the server breaks the connection
            substitute = self._substitute(exc)
        yield from substitute

    def peek(self, *, to_octets: bool = False) -> None:
        """Take the first chunk from the app before the server asks for it, or all up to the first octet."""
        if self._source is not None:
            return
        taken: list[bytes] = []
        try:
            rest = iter(self._result)
            taken.append(next(rest))
            while to_octets and not taken[-1]:
                taken.append(next(rest))
            self._source = chain(taken, rest)
        except StopIteration:
            self._source = taken
        except BaseException as exc:
            if not isinstance(exc, Exception) or self._guard.is_lost(exc):
                self.close()  # the server never sees it
                raise
            self._source = self._substitute(exc)
        else:
            self.first = taken[0]

    def begin(self) -> None:
        """Start the answer before the server asks for its body, with the status that it will end with."""
        self.peek(to_octets=True)
        try:
            self._guard.release()
        except Exception as exc:
            self._source = self._substitute(exc)

    def close(self) -> None:
        """Close the app's body, once, whoever asks and however often."""
        self._chunks.close()  # it refers to this object, and this object to it
        self._close_result()

    def _close_result(self) -> None:
        if not self._closed:
            self._closed = True
            _close(self._result)

    def _substitute(self, exc: Exception) -> Iterable[bytes]:
        self._close_result()
        self.first = None
        substitute = self._replace(exc)
        self._guard.give_up()
        return substitute


def _captured_request(captured: tuple[Any, ...]) -> Environ:
    """The part of an environ that our own responses need, rebuilt from its ``_CAPTURED`` entry."""
    return dict(zip(_CAPTURED_NAMES, captured, strict=True))


class _FileWrapper:
    """Stands in for a ``wsgi.file_wrapper`` that is a function, as uWSGI's and mod_wsgi's are.

    The result of a class is recognised by its type, that of a function only by its identity.
    """

    __slots__ = ("_wrap", "result")

    def __init__(self, wrap: Callable[..., Iterable[bytes]]) -> None:
        self._wrap = wrap
        self.result: Iterable[bytes] | None = None

    def __call__(self, *arguments: Any) -> Iterable[bytes]:
        self.result = self._wrap(*arguments)
        return self.result


def _is_passed_on(result: Iterable[bytes], wrapper: Any) -> bool:
    """Whether a result goes to the server as it is: nothing in it can fail, or the server knows it."""
    if isinstance(result, (list, tuple)):
        return True
    if isinstance(wrapper, _FileWrapper):
        return result is wrapper.result
    return isinstance(wrapper, type) and isinstance(result, wrapper)


def _close(result: object) -> None:
    close = getattr(result, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception:
        logger.exception("close() of the app's body failed")


def _answer(
    environ: Environ, start_response: StartResponse, answer: Response, exc_info: Any = None
) -> Iterable[bytes]:
    arguments: tuple[Any, ...] = (f"{answer.status} {answer.phrase}", answer.headers)
    start_response(*arguments) if exc_info is None else start_response(*arguments, exc_info)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]
