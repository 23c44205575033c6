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
from typing import Final, NamedTuple

from ..errors import BasicAuthError, InsufficientScope, Rejected

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REQUEST_ID_FIELD: Final = "X-Request-ID"
_RAW_REQUEST_ID_FIELD: Final = _REQUEST_ID_FIELD.lower().encode()
_BEHIND_ID: Final = b'"}\n'
_LONGEST_RETRY_S: Final = 2**31 - 1  # what every reader of delta-seconds can hold: RFC 9111 section 1.2.2


class Problem(NamedTuple):
    """What is told to the client.

    Attributes:
        status: HTTP status code.
        code: Stable name of the case.
        detail: One sentence for people; constant, so that nothing inside can leak through it.
        retry_after_s: Seconds, at least 1; None: no such field.
        scopes: Those that the caller lacks.
    """

    status: int
    code: str
    detail: str
    retry_after_s: int | None = None
    scopes: tuple[str, ...] = ()

    @property
    def phrase(self) -> str:
        """The standard phrase of the status (RFC 9110 section 15)."""
        return _phrase(self.status)


@dataclass(frozen=True, slots=True)
class ProblemTemplate:
    """What all answers for one problem have in common: everything but the request id.

    Attributes:
        status: HTTP status code.
        phrase: Its standard phrase.
        fields: Header field names in their usual case, and values, both of latin-1 characters.
        raw_fields: The same as octets, the names in lower case.
        before_id: The body up to the request id.
    """

    status: int
    phrase: str
    fields: tuple[tuple[str, str], ...]
    raw_fields: tuple[tuple[bytes, bytes], ...]
    before_id: bytes


class Response(NamedTuple):
    """A whole answer of ours.

    Attributes:
        form: All of it but the request id.
        request_id: Letters, digits, ``.``, ``_`` and ``-``.
    """

    form: ProblemTemplate
    request_id: str

    @property
    def status(self) -> int:
        """HTTP status code."""
        return self.form.status

    @property
    def phrase(self) -> str:
        """Its standard phrase."""
        return self.form.phrase

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Field names in their usual case, and values, as WSGI takes them."""
        return [*self.form.fields, (_REQUEST_ID_FIELD, self.request_id)]

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Field names in lower case, and values, in octets, as ASGI takes them."""
        return [*self.form.raw_fields, (_RAW_REQUEST_ID_FIELD, self.request_id.encode())]

    @property
    def body(self) -> bytes:
        """The problem, as JSON in UTF-8. A HEAD request gets the same header fields and no body."""
        return self.form.before_id + self.request_id.encode() + _BEHIND_ID


TIMEOUT: Final = Problem(504, "timeout", "The server did not answer in time.")
_INTERNAL: Final = Problem(500, BasicAuthError.code, BasicAuthError.detail)


def unwrap_group(exc: BaseException) -> BaseException:
    """The one exception in an exception group that holds no other; else ``exc`` itself."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def to_problem(exc: BaseException) -> Problem:
    """What an exception is to the client: one of ours by its status, a time-out 504, anything else 500."""
    exc = unwrap_group(exc)
    if isinstance(exc, BasicAuthError) and exc.status is not None:
        retry_after_s = None
        if exc.retry_after_s is not None:  # whatever an app has put there, not a number included
            retry_after_s = math.ceil(min(max(1, exc.retry_after_s), _LONGEST_RETRY_S))
        scopes = exc.scopes if isinstance(exc, InsufficientScope) else ()
        return Problem(exc.status, exc.code, exc.detail, retry_after_s, scopes)
    return TIMEOUT if isinstance(exc, TimeoutError) else _INTERNAL


def is_refusal(exc: BaseException) -> bool:
    """Whether an exception is a normal refusal of the caller, and so nobody's error to be logged."""
    exc = unwrap_group(exc)
    return isinstance(exc, Rejected) and exc.status is not None


def render(problem: Problem, *, request_id: str, challenge: str) -> Response:
    """Make the answer for a problem.

    Args:
        problem: What to tell.
        request_id: As ``request_id_of`` gives it.
        challenge: Value of WWW-Authenticate; sent with a 401 only, and always with that.
    """
    return Response(_form(problem, challenge, len(request_id)), request_id)


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


@lru_cache(maxsize=256)  # bounded: an app may raise errors of its own with any text
def _form(problem: Problem, challenge: str, id_length: int) -> ProblemTemplate:
    status, phrase = problem.status, problem.phrase
    members: dict[str, object] = {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": problem.detail,
        "code": problem.code,
    }
    if problem.scopes:
        members["scopes"] = problem.scopes
    before_id = json.dumps(members).encode()[:-1] + b', "request_id": "'
    fields = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(before_id) + id_length + len(_BEHIND_ID))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if status == 401:
        fields.append(("WWW-Authenticate", challenge))
    if problem.retry_after_s is not None:
        fields.append(("Retry-After", str(problem.retry_after_s)))
    raw_fields = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in fields)
    return ProblemTemplate(status, phrase, tuple(fields), raw_fields, before_id)


def _renew() -> None:
    global _process_id  # a forked child must not repeat its parent's ids
    _process_id = os.urandom(8).hex()


_process_id: str
_renew()
_numbers = count()
if hasattr(os, "register_at_fork"):  # not on Windows, where no process forks
    os.register_at_fork(after_in_child=_renew)
