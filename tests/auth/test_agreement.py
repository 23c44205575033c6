"""The ASGI and the WSGI middleware give the same response to the same Authorization header."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from basicauth_mw import Backend, Settings, asgi, wsgi
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow
from tests.wsgi.helpers import call

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from basicauth_mw import Issued

DEMO = b"Basic ZGVtbzpwQDU1dzByZA=="
REQUEST_ID = "r-1"

# Status, headers with lower-case names, body.
Outcome = tuple[int, dict[str, str], bytes]


class Both:
    """One backend after both middlewares; the apps return the client ID."""

    def __init__(self, loop: asyncio.Runner) -> None:
        self._loop = loop
        self.backend = Backend(MemoryStore(), settings=Settings())
        make = self.backend.create
        make(client_id="demo", secret="p@55w0rd")
        make(client_id="j\u00fcrgen-\u6771\u4eac", secret="\u5bc6\u78bc:\u00fc")
        self.generated = make(client_id="generated")
        self.disabled, self.revoked, self.expired = (
            make(client_id=name) for name in ("disabled", "revoked", "expired")
        )
        self.backend.disable("disabled")
        self.backend.revoke("revoked")
        stored = self.backend.store.get("expired")
        ended = replace(stored, expires_at=utcnow() - timedelta(days=1), version=stored.version + 1)
        assert self.backend.store.put(ended, stored.version)
        settings = Settings(throttle="")
        self._asgi = asgi.BasicAuthMiddleware(self._asgi_app, self.backend, settings=settings)
        self._wsgi = wsgi.BasicAuthMiddleware(self._wsgi_app, self.backend, settings=settings)

    @staticmethod
    async def _asgi_app(scope: Any, _receive: Any, send: Any) -> None:
        body = repr(scope["user"]).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
        )
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    def _wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [repr(environ["basicauth_mw.principal"]).encode()]

    def by_asgi(self, field: bytes | None) -> Outcome:
        headers = [(b"x-request-id", REQUEST_ID.encode())]
        if field is not None:
            headers.append((b"authorization", field))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("192.0.2.1", 1),
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            raise AssertionError("the body is not read")

        async def send(message: Any) -> None:
            sent.append(message)

        self._loop.run(self._asgi(scope, receive, send))
        start, body = sent
        named = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return start["status"], named, body["body"]

    def by_wsgi(self, field: bytes | None) -> Outcome:
        response = call(self._wsgi, None if field is None else field.decode("latin-1"))
        assert response.raised is None
        return response.status, {name.lower(): value for name, value in response.headers}, response.body

    def outcome(self, field: bytes | None) -> Outcome:
        """The outcome of both; each is called twice, because the first result may be cached."""
        first = self.by_asgi(field)
        assert self.by_wsgi(field) == first
        assert self.by_wsgi(field) == first
        assert self.by_asgi(field) == first
        return first


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with asyncio.Runner() as loop:
        yield Both(loop)


def basic(pair: str | bytes) -> bytes:
    return b"Basic " + b64encode(pair.encode() if isinstance(pair, str) else pair)


def row(name: str, status: int, code: str, field: bytes | None) -> Any:
    return pytest.param(field, status, code, id=name)


@pytest.mark.proves("X13", "X14", "X19", "X21", "X22", "X25", "X26", "X27")
@pytest.mark.parametrize(
    ("field", "status", "code"),
    [
        row("right", 200, "", DEMO),
        row("lower-case", 200, "", b"basic ZGVtbzpwQDU1dzByZA=="),
        row("upper-case", 200, "", b"BASIC ZGVtbzpwQDU1dzByZA=="),
        row("spaces", 200, "", b"Basic    ZGVtbzpwQDU1dzByZA=="),
        row("blanks-around", 200, "", b" \t" + DEMO + b"\t "),
        row("non-latin", 200, "", basic("j\u00fcrgen-\u6771\u4eac:\u5bc6\u78bc:\u00fc")),
        row("absent", 401, "missing_credentials", None),
        row("empty", 401, "missing_credentials", b""),
        row("blanks", 401, "missing_credentials", b" \t "),
        row("wrong", 401, "invalid_credentials", basic("demo:p@55w0re")),
        row("wrong-case", 401, "invalid_credentials", basic("demo:P@55w0rd")),
        row("unknown", 401, "invalid_credentials", basic("unknown:p@55w0rd")),
        row("unknown-generated", 401, "invalid_credentials", basic(f"unknown:{generate('sk')}")),
        row("mistyped", 401, "invalid_credentials", basic(f"generated:{generate('sk')[:-1]}_")),
        row("prefix", 401, "invalid_credentials", basic("demo:p@55w0r")),
        row("longer", 401, "invalid_credentials", basic("demo:p@55w0rdx")),
        row("blank-after", 401, "invalid_credentials", basic("demo:p@55w0rd ")),
        row("decomposed", 401, "invalid_credentials", basic("ju\u0308rgen-\u6771\u4eac:\u5bc6\u78bc:\u00fc")),
        row("latin-1", 401, "invalid_credentials", basic("j\u00fcrgen:x".encode("latin-1"))),
        row("scheme-alone", 401, "invalid_credentials", b"Basic"),
        row("no-token", 401, "invalid_credentials", b"Basic "),
        row("other-scheme", 401, "invalid_credentials", b"Bearer ZGVtbzpwQDU1dzByZA=="),
        row("tab", 401, "invalid_credentials", b"Basic\tZGVtbzpwQDU1dzByZA=="),
        row("no-padding", 401, "invalid_credentials", b"Basic ZGVtbzpwQDU1dzByZA"),
        row("trailing-bits", 401, "invalid_credentials", b"Basic ZGVtbzpwQDU1dzByZB=="),
        row("junk-inside", 401, "invalid_credentials", b"Basic ZGVtbzpw!QDU1dzByZA=="),
        row("url-safe", 401, "invalid_credentials", b"Basic ZGVtbzpw_DU1dzByZA=="),
        row("two", 401, "invalid_credentials", DEMO + b", " + DEMO),
        row("quoted", 401, "invalid_credentials", b'Basic "ZGVtbzpwQDU1dzByZA=="'),
        row("parameter", 401, "invalid_credentials", DEMO + b" realm=api"),
        row("no-colon", 401, "invalid_credentials", basic("demo")),
        row("no-id", 401, "invalid_credentials", basic(":p@55w0rd")),
        row("no-secret", 401, "invalid_credentials", basic("demo:")),
        row("nul-after", 401, "invalid_credentials", basic("demo:p@55w0rd\0")),
        row("control", 401, "invalid_credentials", basic("demo:p@55\x7fw0rd")),
        row("raw-nul", 401, "invalid_credentials", DEMO + b"\0"),
        row("raw-line", 401, "invalid_credentials", DEMO + b"\r\n"),
        row("high-bytes", 401, "invalid_credentials", b"Basic \xff\xfe\x80"),
        row("nbsp", 401, "invalid_credentials", b"Basic\xa0ZGVtbzpwQDU1dzByZA=="),
        row("nel-after", 401, "invalid_credentials", DEMO + b"\x85"),
        row("long", 401, "invalid_credentials", b"Basic " + b"A" * 100_000),
        row("long-blanks", 401, "invalid_credentials", b"Basic " + b" " * 10_000 + b"ZGVtbzpwQDU1dzByZA=="),
    ],
)
def test_a_header_gets_one_response(both: Both, field: bytes | None, status: int, code: str) -> None:
    got, headers, body = both.outcome(field)

    assert got == status
    if status == 401:
        assert headers["www-authenticate"] == 'Basic realm="api", charset="UTF-8"'
        assert json.loads(body)["code"] == code


@pytest.mark.proves("P8")
def test_ended_keys_get_one_response(both: Both) -> None:
    ended: list[Issued] = [both.disabled, both.revoked, both.expired]
    wrong = both.outcome(basic("demo:p@55w0re"))

    assert both.outcome(both.generated.authorization.encode())[0] == 200
    assert [both.outcome(issued.authorization.encode()) for issued in ended] == [wrong] * 3


@pytest.mark.proves("X16", "X19", "X21", "X42")
@given(
    field=st.binary(max_size=80)
    | st.binary(max_size=60).map(basic)
    | st.text(max_size=30).map(lambda text: basic(text.encode("utf-8", "replace")))
    | st.tuples(
        st.sampled_from([b"Basic ", b"basic  ", b" BASIC "]), st.text("ZGVtbzpwQDU1dzByA=", max_size=24)
    ).map(lambda parts: parts[0] + parts[1].encode())
    | st.tuples(st.integers(0, len(DEMO) - 1), st.integers(0, 255)).map(
        lambda change: DEMO[: change[0]] + bytes([change[1]]) + DEMO[change[0] + 1 :]
    )
)
@example(field=DEMO)
@example(field=b"")
def test_any_bytes_get_one_response(both: Both, field: bytes) -> None:
    """Only the valid credentials are accepted, with any spelling of the scheme."""
    status, _, body = both.outcome(field)

    assert status in (200, 401)
    accepted = field.strip(b" \t")
    assert (status == 200) == (accepted[:6].lower() == b"basic " and accepted[6:].lstrip(b" ") == DEMO[6:])
    if status == 401:
        blank = not accepted
        assert json.loads(body)["code"] == ("missing_credentials" if blank else "invalid_credentials")


@pytest.mark.proves("F34")
def test_an_outage_gets_one_response() -> None:
    """A store that raises: both return the same 503, and a 401 where no lookup is needed."""

    class Broken:
        def get(self, _client_id: str) -> None:
            raise OSError

    settings = Settings(throttle="")

    async def request(field: bytes) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        middleware = asgi.BasicAuthMiddleware(Both._asgi_app, Broken(), settings=settings)
        headers = [(b"x-request-id", b"r-1"), (b"authorization", field)]
        await middleware({"type": "http", "method": "GET", "path": "/", "headers": headers}, None, send)  # type: ignore[arg-type]
        return sent[0]["status"], sent[1]["body"]

    for field, status in ((DEMO, 503), (b"Basic !", 401)):
        response = call(
            wsgi.BasicAuthMiddleware(Both._wsgi_app, Broken(), settings=settings), field.decode("latin-1")
        )
        assert asyncio.run(request(field)) == (response.status, response.body)
        assert response.status == status
