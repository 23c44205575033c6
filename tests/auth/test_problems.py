"""Errors as problem documents: what the client gets, and nothing else."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicauth_mw import Principal, Settings, errors, require_scopes
from basicauth_mw.auth.problems import (
    TIMEOUT,
    Problem,
    is_refusal,
    render,
    request_id_of,
    to_problem,
    unwrap_group,
)
from basicauth_mw.auth.schemes import challenges
from basicauth_mw.errors import BasicAuthError, InsufficientScope, Rejected, Throttled

CODES = {
    "missing_credentials": 401,
    "invalid_credentials": 401,
    "https_required": 403,
    "insufficient_scope": 403,
    "throttled": 429,
    "internal_error": 500,
    "timeout": 504,
    "backend_unavailable": 503,
    "overloaded": 503,
}
CLASSES = [
    thing
    for thing in vars(errors).values()
    if isinstance(thing, type) and issubclass(thing, BasicAuthError) and thing is not errors.MissingExtra
]


def rendered(problem: Problem) -> dict[str, str]:
    response = render(problem, request_id="r", challenges=("Basic x",))
    assert len({name.lower() for name, _ in response.headers}) == len(response.headers)
    return dict(response.headers)


@pytest.mark.proves("H2", "P4")
@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_published_response(kind: type[BasicAuthError]) -> None:
    """A status and a code of the contract; the exception's message is not in the response."""
    problem = to_problem(kind("inner words"))

    assert CODES[problem.code] == problem.status
    assert "inner words" not in problem.detail
    assert (problem.retry_after_s is not None) == (problem.status in {429, 503})


@pytest.mark.proves("P7")
@pytest.mark.parametrize("exc", [ValueError("inner"), OSError(5, "inner", "/etc/x"), KeyError("inner")])
def test_a_foreign_exception_is_an_internal_error(exc: Exception) -> None:
    """The response contains no detail of it, not even its class name."""
    response = render(to_problem(exc), request_id="r", challenges=("c",))

    assert response.status == 500
    assert json.loads(response.body)["code"] == "internal_error"
    for inner in ("inner", "/etc/x", type(exc).__name__):
        assert inner not in response.body.decode()


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (TimeoutError(), 504),
        (ExceptionGroup("a", [TimeoutError()]), 504),
        (ExceptionGroup("a", [ExceptionGroup("b", [InsufficientScope()])]), 403),
        (ExceptionGroup("a", [InsufficientScope(), InsufficientScope()]), 500),
        (ExceptionGroup("a", [InsufficientScope(), ValueError()]), 500),
    ],
)
def test_a_group_of_one_counts_as_its_exception(exc: Exception, status: int) -> None:
    """A task group wraps a handler's single error; a group of several errors has no single cause."""
    assert to_problem(exc).status == status
    assert is_refusal(exc) == (status == 403)


def test_the_only_exception_in_a_group() -> None:
    """At any depth; the group itself if it has more than one."""
    one = ValueError()
    pair = ExceptionGroup("a", [one, one])

    assert unwrap_group(one) is one
    assert unwrap_group(ExceptionGroup("a", [ExceptionGroup("b", [one])])) is one
    assert unwrap_group(pair) is pair
    assert unwrap_group(ExceptionGroup("b", [pair])) is pair
    assert isinstance(unwrap_group(BaseExceptionGroup("a", [KeyboardInterrupt()])), KeyboardInterrupt)


def test_only_a_refusal_with_a_status_is_routine() -> None:
    """An error that becomes a 500 is a bug and must be reported."""
    assert is_refusal(InsufficientScope())
    assert is_refusal(Throttled())
    assert not is_refusal(errors.BackendUnavailable())
    assert not is_refusal(ValueError())
    assert not is_refusal(Rejected())


def test_an_apps_own_error() -> None:
    """Status, code and detail are those of the app's class, even for a status without a standard phrase."""

    class Own(BasicAuthError):
        code: ClassVar[str] = "own"
        status: ClassVar[int | None] = 499
        detail: ClassVar[str] = 'Says "é".'

    response = render(to_problem(Own("inner")), request_id="r", challenges=("c",))

    assert (response.status, response.phrase) == (499, "Error")
    assert json.loads(response.body) == {
        "type": "about:blank",
        "title": "Error",
        "status": 499,
        "detail": 'Says "é".',
        "code": "own",
        "request_id": "r",
    }


@pytest.mark.proves("H14", "P1")
@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503, 504])
def test_the_headers_of_a_response(status: int) -> None:
    """no-store and nosniff always; a challenge with a 401 only."""
    problem = Problem(status, "code", "Detail.", 7 if status == 503 else None)
    headers = rendered(problem)

    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Request-ID"] == "r"
    assert headers.get("WWW-Authenticate") == ("Basic x" if status == 401 else None)
    assert headers.get("Retry-After") == ("7" if status == 503 else None)
    body = render(problem, request_id="r", challenges=("c",)).body
    assert headers["Content-Length"] == str(len(body))


@pytest.mark.proves("H13")
@pytest.mark.parametrize(
    ("error_s", "header_s"),
    [
        (0, 1),
        (-5, 1),
        (1, 1),
        (61, 61),
        (-math.inf, 1),
        (math.nan, 1),
        (math.inf, 2**31 - 1),
        pytest.param(10**5000, 2**31 - 1, id="huge"),
    ],
)
def test_retry_after_is_at_least_one(error_s: int, header_s: int) -> None:
    """Whatever the error says, and never more than clients can represent."""
    assert rendered(to_problem(Throttled(retry_after_s=error_s)))["Retry-After"] == str(header_s)


@pytest.mark.proves("H13")
def test_retry_after_is_a_whole_number() -> None:
    """An app may raise the error with a fraction; clients parse digits only."""
    assert re.fullmatch(r"[0-9]+", rendered(to_problem(Throttled(retry_after_s=1.5)))["Retry-After"])  # type: ignore[arg-type]


_EXCEPTIONS = st.recursive(
    st.builds(
        lambda status, code, detail, retry_after_s: type(
            "Own",
            (BasicAuthError,),
            {"status": status, "code": code, "detail": detail, "retry_after_s": retry_after_s},
        )("inner words"),
        st.none() | st.integers(100, 599),
        st.text(max_size=20),
        st.text(st.characters(), max_size=40),  # includes lone surrogates
        st.none() | st.integers() | st.floats(),
    )
    | st.sampled_from([TimeoutError("inner words"), ValueError("inner words"), OSError(5, "inner words")])
    | st.sampled_from([kind for kind in CLASSES if kind is not errors.ConfigurationError]).map(
        lambda kind: kind("inner words")
    ),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda each: ExceptionGroup("g", each)),
    max_leaves=4,
)


@pytest.mark.proves("P1", "P2", "P3", "P4", "P5", "P6", "A4")
@given(_EXCEPTIONS, st.none() | st.text(max_size=20), st.sampled_from([Settings().realm, 'q"\\', "é 東"]))
def test_any_error_is_a_problem(exc: Exception, request_id: str | None, realm: str) -> None:
    """RFC 9457: one JSON object in UTF-8, members of the right types, the real status, no internal detail."""
    sent = request_id_of(request_id)
    response = render(to_problem(exc), request_id=sent, challenges=challenges(("basic",), realm))
    members = json.loads(response.body.decode())

    assert {name: type(value) for name, value in members.items()} == {
        "type": str,
        "title": str,
        "status": int,
        "detail": str,
        "code": str,
        "request_id": str,
    }
    assert (members["type"], members["status"], members["title"]) == (
        "about:blank",
        response.status,
        response.phrase,
    )
    assert members["request_id"] == sent
    assert b"inner words" not in response.body
    fields = dict(response.headers)
    assert len(fields) == len(response.headers) == len(response.raw_headers)
    assert fields["Content-Length"] == str(len(response.body))
    assert ("WWW-Authenticate" in fields) == (response.status == 401)
    assert re.fullmatch(r"[1-9][0-9]{0,9}", fields.get("Retry-After", "1"))
    for name, value in response.raw_headers:
        assert re.fullmatch(rb"[a-z-]+", name)
        assert re.fullmatch(rb"[\x20-\x7e\x80-\xff]+", value)  # RFC 9110 section 5.5
        assert value == value.strip()


def test_a_timeout() -> None:
    assert (TIMEOUT.status, TIMEOUT.code, TIMEOUT.phrase) == (504, "timeout", "Gateway Timeout")


@given(st.none() | st.text(max_size=140) | st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True))
def test_a_request_id_is_repeated_only_if_it_is_safe(sent: str | None) -> None:
    """Any other ID is replaced by a generated one, which would be safe."""
    form = re.compile(r"[A-Za-z0-9._-]{1,128}")
    used = request_id_of(sent)

    assert form.fullmatch(used)
    assert (used == sent) == (sent is not None and form.fullmatch(sent) is not None)
    body = json.loads(render(TIMEOUT, request_id=used, challenges=("c",)).body)
    assert body["request_id"] == used


def test_new_request_ids_differ_in_a_forked_child() -> None:
    """The child must not continue the parent's sequence."""
    before = request_id_of(None)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, request_id_of(None).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        in_child = lines.read()
    os.waitpid(child, 0)
    after = request_id_of(None)

    assert len({before, in_child, after}) == 3
    assert in_child[:16] != after[:16]


def test_a_403_names_the_missing_scopes() -> None:
    """Only a client with a valid key sees them. Other responses have no such member."""
    with pytest.raises(InsufficientScope) as caught:
        require_scopes(Principal("ci", scopes=frozenset({"read"})), "write", "read", "admin")
    assert caught.value.scopes == ("admin", "write")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.scopes, str(copied)) == (caught.value.scopes, str(caught.value))
    for exc, scopes in ((caught.value, ["admin", "write"]), (InsufficientScope("no"), None)):
        response = render(to_problem(exc), request_id="r", challenges=())
        assert json.loads(response.body).get("scopes") == scopes
        assert dict(response.headers)["Content-Length"] == str(len(response.body))
