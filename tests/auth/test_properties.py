"""What holds of every request, whatever is in it: found by Hypothesis, for both middlewares at once."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from basicauth_mw import Backend, ConfigurationError, Settings, asgi, encode_basic, wsgi
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.keys.generated_secrets import generate
from tests.asgi.helpers import http_scope
from tests.wsgi.helpers import call, make_environ

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.asgi.helpers import Message

_BACKEND = Backend(MemoryStore(), settings=Settings())
_ISSUED = _BACKEND.create(client_id="ci")
_GOOD, _SECRET = _ISSUED.authorization.encode(), _ISSUED.secret
_ENDED = _BACKEND.create(client_id="ended").authorization.encode()
_BACKEND.revoke("ended")


class Request(NamedTuple):
    """A request before a server has made a scope or an environ of it.

    Attributes:
        headers: Names in lower case, and values, in bytes.
        path: Decoded once, below the mount point.
        query: As it was sent.
    """

    headers: tuple[tuple[bytes, bytes], ...] = ()
    path: bytes = b"/x"
    method: str = "GET"
    scheme: str = "http"
    root: str = ""
    query: str = ""

    def scope(self) -> Any:
        path = self.root + self.path.decode("utf-8", "replace")
        scope = http_scope(
            method=self.method, path=path, headers=self.headers, scheme=self.scheme, root_path=self.root
        )
        return {**scope, "query_string": self.query.encode()}

    def environ(self) -> dict[str, Any]:
        environ = make_environ(None, self.path.decode("latin-1"))
        del environ["HTTP_X_REQUEST_ID"]
        environ |= {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": self.root,
            "QUERY_STRING": self.query,
            "wsgi.url_scheme": self.scheme,
            "RAW_URI": self.scope()["raw_path"].decode("latin-1"),
        }
        for name, value in self.headers:
            key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]},{text}" if key in environ else text  # as servers do
        return environ


class Outcome(NamedTuple):
    """What a client sees; who the app was told has come in, or None if it was not called."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    who: str | None


class Both:
    """One set of settings, both middlewares."""

    loop: ClassVar[asyncio.Runner]

    def __init__(self, **settings: Any) -> None:
        kept = Settings(**{"throttle": "", **settings})
        self._asgi = asgi.BasicAuthMiddleware(self._asgi_app, _BACKEND, settings=kept)
        self._wsgi = wsgi.BasicAuthMiddleware(self._wsgi_app, _BACKEND, settings=kept)
        self._who: str | None = None

    async def _asgi_app(self, scope: Any, _receive: Any, send: Any) -> None:
        self._who = scope["user"].client_id
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"app"})

    def _wsgi_app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        principal = environ["basicauth_mw.principal"]
        self._who = principal.client_id if principal else ""
        start_response("200 OK", [("X-App", "1")])
        return [b"app"]

    def by_asgi(self, request: Request) -> Outcome:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        self._who = None
        self.loop.run(self._asgi(request.scope(), None, send))  # type: ignore[arg-type]
        start, body = sent
        headers = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
        return self._outcome(start["status"], headers, body["body"])

    def by_wsgi(self, request: Request) -> Outcome:
        self._who = None
        answer = call(lambda _, start_response: self._wsgi(request.environ(), start_response))
        assert answer.raised is None
        headers = [(name.lower(), value) for name, value in answer.headers]
        return self._outcome(answer.status, headers, answer.body)

    def _outcome(self, status: int, headers: list[tuple[str, str]], body: bytes) -> Outcome:
        # A new request id is new each time; one that came in is repeated.
        for name, value in headers:
            if name == "x-request-id" and re.fullmatch(r"[0-9a-f]{24}", value):
                body = body.replace(value.encode(), b"NEW")
                headers = [pair for pair in headers if pair[0] != name]
        return Outcome(status, tuple(headers), body, self._who)

    def ask(self, request: Request) -> Outcome:
        """What both say."""
        by_asgi, by_wsgi = self.by_asgi(request), self.by_wsgi(request)
        assert by_asgi == by_wsgi
        return by_asgi


@pytest.fixture(scope="module", autouse=True)
def _loop() -> Iterator[None]:
    with asyncio.Runner() as Both.loop:
        yield


BOTH = {
    "defaults": Both(),
    "open paths": Both(exclude=("/open", "/docs/*", "/\u00fc"), root_path="/app"),
    "everything": Both(
        exclude=("/open", "/docs/*"),
        root_path="/app",
        allow_preflight=True,
        require_https=True,
        challenge="navigations",
    ),
    "hidden field, no mapping": Both(strip_authorization=True, map_errors=False, cache_ttl_s=0),
}

_FIELDS = (
    st.sampled_from(
        [_GOOD, _ENDED, b"", b" ", b"Basic", _GOOD + b",", b" " + _GOOD + b"\t", _GOOD.swapcase()]
    )
    | st.binary(max_size=40)
    | st.builds(
        lambda client_id, secret: encode_basic(client_id, secret).encode(),
        st.sampled_from(["ci", "ended", "nobody", "c" * 300]),
        st.sampled_from(["s", "p\u00e4ss", generate("sk"), generate("sk")[:-1] + "_", "x" * 1025]),
    )
    | st.tuples(st.integers(0, len(_GOOD) - 1), st.binary(min_size=1, max_size=1)).map(
        lambda change: _GOOD[: change[0]] + change[1] + _GOOD[change[0] + 1 :]
    )
)
_TOKENS = st.text("!#$%&'*+.^_`|~-09azAZ", min_size=1, max_size=8)
_METHODS = st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "TRACE", "CONNECT", "get", "FOO", ""]) | _TOKENS
_PATHS = st.sampled_from(
    [b"/", b"/x", b"/open", b"/docs/x", b"/docs", b"/docs/../x", b"//open", b"/\xc3\xbc", b"/\xfc", b"", b"*"]
) | st.binary(max_size=12).map(b"/docs/".__add__)
# Read by the middleware: at most once each in a request, as a server joins them its own way.
_READ = st.fixed_dictionaries(
    {},
    optional={
        b"x-request-id": st.sampled_from([b"r-1", b"", b"a b", b"x" * 129, b"\xff"]),
        b"origin": st.sampled_from([b"https://a.example", b"", b"null"]),
        b"access-control-request-method": st.sampled_from([b"PUT", b""]),
        b"sec-fetch-mode": st.sampled_from([b"cors", b"navigate", b"", b"\xff"]),
    },
).map(lambda fields: tuple(fields.items()))
# Near misses of the one that counts, and what other software takes for an identity or a path.
_OTHER_NAMES = st.sampled_from(
    [
        *(b"proxy-authorization", b"x-authorization", b"authorization-", b"-authorization", b"authorizatio"),
        *(b"authorisation", b"www-authenticate", b"authentication", b"authorization\0", b"authorization "),
        *(b"remote-user", b"x-remote-user", b"x-forwarded-user", b"x-client-id", b"x-api-key", b"cookie"),
        *(b"connection", b"host", b"x-original-url", b"x-rewrite-url", b"x-forwarded-prefix", b"script-name"),
        *(b"x-http-method-override", b"x-forwarded-proto", b"x-forwarded-for", b"forwarded", b"expect"),
    ]
) | _TOKENS.map(lambda name: b"x-" + name.lower().encode())
_OTHERS = st.lists(
    st.tuples(
        _OTHER_NAMES,
        st.sampled_from([_GOOD, b"ci", b"1", b"/open", b"OPTIONS", b"https", b"authorization", b""])
        | st.binary(max_size=20),
    ),
    max_size=4,
).map(tuple)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    fields = draw(
        st.lists(_FIELDS, max_size=2).map(lambda some: [(b"authorization", value) for value in some])
    )
    headers = draw(st.permutations([*fields, *draw(_READ), *draw(_OTHERS)]))
    return Request(
        tuple(headers),
        draw(_PATHS),
        draw(_METHODS),
        draw(st.sampled_from(["http", "https"])),
        draw(st.sampled_from(["", "", "/app"])),
    )


@pytest.mark.proves("H8", "X42")
@pytest.mark.parametrize("name", BOTH)
@examples(max_examples=300, deadline=None)
@given(request=requests())
@example(request=Request(((b"authorization", _GOOD),)))
def test_the_middlewares_agree_on_every_request(name: str, request: Request) -> None:
    """Verdict, status, headers, body, and who the app is told has come in."""
    outcome = BOTH[name].ask(request)
    fields = [value for key, value in request.headers if key == b"authorization"]

    if outcome.who:
        (field,) = fields
        scheme, _, token = field.strip(b" \t").partition(b" ")
        # The scheme is case-insensitive (RFC 9110 section 11.1): one changed byte may give "basic".
        assert (scheme.lower(), token) == (b"basic", _GOOD.partition(b" ")[2])
    elif outcome.who is None:
        assert outcome.status in (401, 403)
        assert ("www-authenticate" in dict(outcome.headers)) == (outcome.status == 401)
        assert json.loads(outcome.body)["status"] == outcome.status if request.method != "HEAD" else True
    else:
        assert name in ("open paths", "everything")


@pytest.mark.proves("O7", "X28", "X38", "X40")
@pytest.mark.parametrize("name", BOTH)
@examples(max_examples=200, deadline=None)
@given(request=requests(), others=_OTHERS, at=st.integers(0, 8))
def test_other_headers_change_nothing(name: str, request: Request, others: Any, at: int) -> None:
    """Nothing but the Authorization header, and what the settings say is read, has a say."""
    headers = (*request.headers[:at], *others, *request.headers[at:])

    assert BOTH[name].ask(request._replace(headers=headers)) == BOTH[name].ask(request)


@pytest.mark.proves("O7")
@pytest.mark.parametrize(
    "name", ["authorization", "Authorization", "access_token", "api_key", "key", "token"]
)
@pytest.mark.parametrize(
    "value",
    [_GOOD.decode(), _GOOD[6:].decode(), _SECRET, f"ci:{_SECRET}"],
    ids=["field", "token", "secret", "pair"],
)
def test_a_secret_in_the_query_never_authenticates(name: str, value: str) -> None:
    """Addresses end up in logs and histories, so none is read for a secret."""
    outcome = BOTH["defaults"].ask(Request(query=f"{name}={quote(value)}"))

    assert (outcome.status, outcome.who) == (401, None)
    assert json.loads(outcome.body)["code"] == "missing_credentials"


@pytest.mark.proves("H1", "H15", "X37")
@pytest.mark.parametrize("name", ["defaults", "hidden field, no mapping"])
@examples(max_examples=200, deadline=None)
@given(request=requests(), method=_METHODS, path=_PATHS, scheme=st.sampled_from(["http", "https"]))
def test_method_and_path_change_nothing(
    name: str, request: Request, method: str, path: bytes, scheme: str
) -> None:
    """Where nothing is excluded, what is asked for has no say in whether one may ask."""
    other = request._replace(method=method, path=path, scheme=scheme)
    here, there = BOTH[name].ask(request), BOTH[name].ask(other)

    assert (here.status, here.headers, here.who) == (there.status, there.headers, there.who)
    if "HEAD" not in (request.method, method):
        assert here.body == there.body


@pytest.mark.proves("H15", "X37")
@examples(max_examples=200, deadline=None)
@given(request=requests(), method=_METHODS)
def test_the_method_changes_nothing_on_any_path(request: Request, method: str) -> None:
    """An open path is open, and a protected one protected, for every method."""
    here, there = (BOTH["open paths"].ask(request._replace(method=each)) for each in (request.method, method))

    assert (here.status, here.headers, here.who) == (there.status, there.headers, there.who)


@pytest.mark.proves("H6")
@given(realm=st.text(st.characters(), max_size=20) | st.text('"\\, =\t\n\x7f\x85', max_size=8))
@example(realm='", charset="latin-1')
@example(realm="\ud800")
def test_any_realm_is_refused_at_the_start_or_sent_safely(realm: str) -> None:
    """RFC 9110 section 5.6.4: what goes over the wire is one quoted-string of the realm's bytes."""
    try:
        settings = Settings(realm=realm)
    except ConfigurationError:
        assert re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", realm)
        return
    outcome = Both(realm=settings.realm).ask(Request())
    field = dict(outcome.headers)["www-authenticate"].encode("latin-1")
    form = re.fullmatch(
        rb'Basic realm="((?:[\t !\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*)", charset="UTF-8"',
        field,
    )
    assert form is not None
    assert re.sub(rb"\\(.)", rb"\1", form[1], flags=re.DOTALL).decode() == realm


_PREFLIGHT = {b"origin": b"https://a.example", b"access-control-request-method": b"PUT"}


@pytest.mark.parametrize("twice", [b"origin", b"access-control-request-method", b"sec-fetch-mode"])
def test_a_repeated_header_is_absent(twice: bytes) -> None:
    """None of those that are read may hold a comma, so the middlewares can agree."""
    fields = {**_PREFLIGHT, b"sec-fetch-mode": b"cors"}
    if twice == b"sec-fetch-mode":
        del fields[b"origin"]
    request = Request((*fields.items(), (twice, fields[twice])), method="OPTIONS", scheme="https")

    outcome = BOTH["everything"].ask(request)
    assert outcome.status == 401
    assert dict(outcome.headers)["www-authenticate"].startswith(
        "Basic" if twice == b"sec-fetch-mode" else "xBasic"
    )
