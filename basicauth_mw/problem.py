"""Errors as answers: RFC 9457 problem bodies and their header fields. Pure; the shells only send them."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from itertools import count
from typing import Final

from .errors import BackendError, BasicAuthError, Rejected, Throttled

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_RETRY_AFTER_S: Final = 2  # for what heals by itself: a store that is back, a queue that is shorter


@dataclass(frozen=True, slots=True)
class Problem:
    """What is told to the client.

    Attributes:
        status: HTTP status code.
        code: Stable name of the case.
        detail: One sentence for people; constant, so that nothing inside can leak through it.
        retry_after_s: Seconds, at least 1; None: no such field.
    """

    status: int
    code: str
    detail: str
    retry_after_s: int | None = None

    @property
    def phrase(self) -> str:
        """The standard phrase of the status (RFC 9110 section 15)."""
        return _phrase(self.status)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of ours.

    Attributes:
        status: HTTP status code.
        phrase: Its standard phrase.
        headers: Field names in their usual case, and values, both of latin-1 characters.
        body: The problem, as JSON in UTF-8. A HEAD request gets the same header fields and no body.
    """

    status: int
    phrase: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


TIMEOUT: Final = Problem(504, "timeout", "The server did not answer in time.")
_INTERNAL: Final = Problem(500, BasicAuthError.code, BasicAuthError.detail)


def sole(exc: BaseException) -> BaseException:
    """The one exception in an exception group that holds no other; else ``exc`` itself."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def problem_of(exc: BaseException) -> Problem:
    """What an exception is to the client: one of ours by its status, a time-out 504, anything else 500."""
    exc = sole(exc)
    if isinstance(exc, BasicAuthError) and exc.status is not None:
        retry_after_s = None
        if isinstance(exc, Throttled):
            retry_after_s = max(1, math.ceil(exc.retry_after_s))
        elif isinstance(exc, BackendError):
            retry_after_s = _RETRY_AFTER_S
        return Problem(exc.status, exc.code, exc.detail, retry_after_s)
    return TIMEOUT if isinstance(exc, TimeoutError) else _INTERNAL


def is_routine(exc: BaseException) -> bool:
    """Whether an exception is a normal refusal of the caller, and so nobody's error to be logged."""
    exc = sole(exc)
    return isinstance(exc, Rejected) and exc.status is not None


def render(problem: Problem, *, request_id: str, challenge: str) -> Answer:
    """Make the answer for a problem.

    Args:
        problem: What to tell.
        request_id: As ``request_id_of`` gives it.
        challenge: Value of WWW-Authenticate; sent with a 401 only, and always with that.
    """
    phrase = problem.phrase
    body = _body(problem.status, phrase, problem.code, problem.detail) + request_id.encode() + b'"}\n'
    headers = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Request-ID", request_id),
    ]
    if problem.status == 401:
        headers.append(("WWW-Authenticate", challenge))
    if problem.retry_after_s is not None:
        headers.append(("Retry-After", str(problem.retry_after_s)))
    return Answer(problem.status, phrase, tuple(headers), body)


def request_id_of(sent: str | None) -> str:
    """The X-Request-ID that came in, if it is one to be repeated safely; else a new one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return f"{_process_id}{next(_numbers):08x}"


@lru_cache
def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


@lru_cache  # bounded: an app may raise errors of its own with any text
def _body(status: int, phrase: str, code: str, detail: str) -> bytes:
    members = {"type": "about:blank", "title": phrase, "status": status, "detail": detail, "code": code}
    return json.dumps(members).encode()[:-1] + b', "request_id": "'


def _renew() -> None:
    global _process_id  # a forked child must not repeat its parent's ids
    _process_id = os.urandom(8).hex()


_process_id: str
_renew()
_numbers = count()
os.register_at_fork(after_in_child=_renew)
