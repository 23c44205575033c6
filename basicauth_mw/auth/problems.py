"""Turn errors into responses, RFC 9457 problem bodies and their headers, without sending them.

Refusals may come in floods, so everything but the request ID is made once for each problem and cached.
"""

from __future__ import annotations

import json
import math
import os
import re
from functools import lru_cache
from itertools import count
from typing import Final, NamedTuple

from ..errors import BasicAuthError, InsufficientScope, Rejected

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REQUEST_ID_HEADER: Final = "X-Request-ID"
_RAW_REQUEST_ID_HEADER: Final = _REQUEST_ID_HEADER.lower().encode()
_BODY_SUFFIX: Final = b'"}\n'
_LONGEST_RETRY_S: Final = 2**31 - 1  # every recipient can represent it: RFC 9111 section 1.2.2


class Problem(NamedTuple):
    """The content of a problem document.

    Attributes:
        status: HTTP status code.
        code: Stable name of the case.
        detail: One sentence for people; constant, so that nothing internal can leak through it.
        retry_after_s: Seconds, at least 1; None for no Retry-After.
        scopes: The scopes that the caller lacks.
    """

    status: int
    code: str
    detail: str
    retry_after_s: int | None = None
    scopes: tuple[str, ...] = ()

    @property
    def phrase(self) -> str:
        """The standard phrase of the status (RFC 9110 section 15)."""
        from http import HTTPStatus  # not when this module is imported

        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return "Error"


class Response(NamedTuple):
    """A complete response of the middleware.

    Attributes:
        status: HTTP status code.
        phrase: Its standard phrase.
        common_headers: All headers but the request ID, with names in their usual case, as latin-1.
        common_raw_headers: The same as bytes, with names in lower case.
        body_prefix: The body up to the request ID.
        request_id: Letters, digits, ``.``, ``_`` and ``-``.
    """

    status: int
    phrase: str
    common_headers: tuple[tuple[str, str], ...]
    common_raw_headers: tuple[tuple[bytes, bytes], ...]
    body_prefix: bytes
    request_id: str

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers as WSGI takes them."""
        return [*self.common_headers, (_REQUEST_ID_HEADER, self.request_id)]

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI takes them."""
        return [*self.common_raw_headers, (_RAW_REQUEST_ID_HEADER, self.request_id.encode())]

    @property
    def body(self) -> bytes:
        """The problem, as JSON in UTF-8. A HEAD request gets the same headers and no body."""
        return self.body_prefix + self.request_id.encode() + _BODY_SUFFIX


TIMEOUT: Final = Problem(504, "timeout", "The server did not respond in time.")
_INTERNAL: Final = Problem(500, BasicAuthError.code, BasicAuthError.detail)


def unwrap_group(exc: BaseException) -> BaseException:
    """The only exception in an exception group; any other ``exc`` itself."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def to_problem(exc: BaseException) -> Problem:
    """The problem for an exception: one of this package by its status, ``TimeoutError`` 504, others 500."""
    if isinstance(exc, BaseExceptionGroup):
        exc = unwrap_group(exc)
    if isinstance(exc, BasicAuthError) and exc.status is not None:
        retry_after_s = None
        if exc.retry_after_s is not None:  # an app may have set anything, even NaN
            retry_after_s = math.ceil(min(max(1, exc.retry_after_s), _LONGEST_RETRY_S))
        scopes = exc.scopes if isinstance(exc, InsufficientScope) else ()
        return Problem(exc.status, exc.code, exc.detail, retry_after_s, scopes)
    return TIMEOUT if isinstance(exc, TimeoutError) else _INTERNAL


def is_refusal(exc: BaseException) -> bool:
    """Whether an exception refuses the caller, and so is not an error of the app."""
    exc = unwrap_group(exc)
    return isinstance(exc, Rejected) and exc.status is not None


def render(problem: Problem, *, request_id: str, challenges: tuple[str, ...] = ()) -> Response:
    """Make the response for a problem.

    Args:
        problem: The content of the problem document.
        request_id: From ``request_id_of``.
        challenges: The values of WWW-Authenticate, which every 401 has and no other response.
    """
    return Response(*_without_id(problem, challenges, len(request_id)), request_id)


def request_id_of(sent: str | None) -> str:
    """The X-Request-ID of the request if it is harmless, else a new one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return f"{_process_id}{next(_numbers):08x}"


@lru_cache(maxsize=256)  # bounded: an app may raise its own errors with any text
def _without_id(
    problem: Problem, challenges: tuple[str, ...], id_length: int
) -> tuple[int, str, tuple[tuple[str, str], ...], tuple[tuple[bytes, bytes], ...], bytes]:
    """The parts of a ``Response`` without the request ID, of which only the length matters here."""
    members: dict[str, object] = {
        "type": "about:blank",
        "title": problem.phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
    }
    if problem.scopes:
        members["scopes"] = problem.scopes
    body_prefix = json.dumps(members).encode()[:-1] + b', "request_id": "'
    headers = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body_prefix) + id_length + len(_BODY_SUFFIX))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if problem.status == 401:
        headers += [("WWW-Authenticate", challenge) for challenge in challenges]
    if problem.retry_after_s is not None:
        headers.append(("Retry-After", str(problem.retry_after_s)))
    raw_headers = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers)
    return problem.status, problem.phrase, tuple(headers), raw_headers, body_prefix


def _renew() -> None:
    global _process_id  # a forked child must not repeat its parent's IDs
    _process_id = os.urandom(8).hex()


_process_id: str
_renew()
_numbers = count()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_renew)
