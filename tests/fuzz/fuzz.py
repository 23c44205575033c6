"""A random fuzz test of the parser and both middlewares, with mutated valid headers and with noise.

    python -m tests.fuzz.fuzz [--minutes 5 | --inputs 50000000] [--processes 2] [--seed N]
    python -m tests.fuzz.fuzz --seed N --batch WORKER/NUMBER     repeat one batch
    python -m tests.fuzz.fuzz --field HEX                        one header through all three

Each input goes through the parser, whose result is compared with that of an independent second parser below.
One input in ``MIDDLEWARE_SHARE`` also goes through the ASGI and the WSGI middleware, as a request with other
headers, a method and a path. It stops at the first difference and prints how to repeat it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import queue
import random
import re
import sys
import time
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, NamedTuple

from basicauth_mw import Backend, Settings, asgi, encode_basic, wsgi
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import MalformedCredentials
from basicauth_mw.keys import authorization_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

BATCH = 2000
MIDDLEWARE_SHARE = 10
REPORT_S = 10.0
GENERATED = "sk_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg1A7p0b"

# --- the second parser: the grammar as a regular expression

_FORM = re.compile(
    rb"[ \t]*[Bb][Aa][Ss][Ii][Cc] +"
    rb"((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?)[ \t]*"
)
_PAIR = re.compile(r"([^:\x00-\x1f\x7f]+):([^\x00-\x1f\x7f]+)")


def reference(field: bytes) -> tuple[str, str] | None:
    """Client ID and secret; None: malformed."""
    form = _FORM.fullmatch(field)
    if form is None or len(field) > 8192:
        return None
    try:
        pair = _PAIR.fullmatch(b64decode(form[1]).decode())
    except UnicodeDecodeError:
        return None
    return None if pair is None else (pair[1], pair[2])


# --- inputs

_TOKENS = [
    *(
        b" ",
        b"  ",
        b"\t",
        b"=",
        b"==",
        b",",
        b", Basic ",
        b"Basic ",
        b"basic",
        b"Bearer ",
        b'"',
        b"\0",
        b"\r\n",
    ),
    *(b":", b"Og==", b"-", b"_", b"%3D", b"\x80", b"\xff", b"\xc2\xa0", b"\xef\xbb\xbf", b"\x1c", b"\x85"),
]
_PAIR_TOKENS = [
    *(
        b":",
        b"::",
        b"\0",
        b"\n",
        b"\x7f",
        b"\x1f",
        b" ",
        b"\x80",
        b"\xc0\xba",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
    ),
    *("\u00fc".encode(), "\uff1a".encode(), "\U0001f511".encode(), "e\u0301".encode(), b"\xc2\x85"),
]
_PATHS = [b"/docs/x", b"/open", b"/docs/a/b", b"/x", b"/"]
_PATH_TOKENS = [
    *(
        b"/",
        b"//",
        b"..",
        b"/../",
        b"/./",
        b"%2e",
        b"%2f",
        b"%5c",
        b"%00",
        b"%25",
        b"%252e",
        b"\\",
        b";",
        b"?",
    ),
    *(b"#", b"\0", b"\xc3\xbc", b"%c3%bc", b"%ff", b"docs", b"admin", b"."),
]
_METHODS = ["GET", "POST", "HEAD", "OPTIONS", "FOO", "get", ""]
_OTHERS = [
    (b"proxy-authorization", b"Basic Y2k6eA=="),
    (b"x-authorization", b"Basic Y2k6eA=="),
    (b"x-forwarded-user", b"ci"),
    (b"x-http-method-override", b"OPTIONS"),
    (b"x-original-url", b"/open"),
    (b"connection", b"authorization"),
    (b"origin", b"https://a.example"),
    (b"access-control-request-method", b"PUT"),
    (b"sec-fetch-mode", b"cors"),
    (b"x-request-id", b"r-1"),
    (b"x-request-id", b"\xff \0"),
]


class Mutator:
    """Mutates valid headers.

    Args:
        rng: Source of randomness.
        good: Headers to start from.
    """

    def __init__(self, rng: random.Random, good: Sequence[bytes]) -> None:
        self._rng = rng
        self._random = rng.random
        self._good = good
        self._buffer = b""
        self._at = 0

    def field(self) -> bytes:
        """The next header."""
        chance = self._random
        good = self._good[int(chance() * len(self._good))]
        kind = chance()
        if kind < 0.45:  # mutate the header
            for _ in range(1 + int(chance() * 3)):
                good = self._mutate(good, _TOKENS)
            return good
        if kind < 0.85:  # mutate the pair that is encoded in it
            pair = b64decode(good[6:])
            for _ in range(1 + int(chance() * 2)):
                pair = self._mutate(pair, _PAIR_TOKENS)
            return b"Basic " + b64encode(pair)
        length = int(chance() ** 3 * 96)
        if kind < 0.93:
            return b"Basic " + b64encode(self._noise(length))
        if kind < 0.97:
            return self._noise(length)
        if kind < 0.98:  # lengths below and above the limits
            return b"Basic " + b64encode(pair_of(self._noise, int(chance() * 6300)))
        return good

    def path(self) -> bytes:
        path = _PATHS[int(self._random() * len(_PATHS))]
        for _ in range(int(self._random() * 4)):
            path = self._mutate(path, _PATH_TOKENS)
        return path

    def _mutate(self, value: bytes, tokens: Sequence[bytes]) -> bytes:
        chance = self._random
        at = int(chance() * (len(value) + 1))
        kind = int(chance() * 10)
        if kind < 3:
            return value[:at] + tokens[int(chance() * len(tokens))] + value[at:]
        if kind == 3:
            return value + tokens[int(chance() * len(tokens))]
        if kind == 4:
            return value[:at] + tokens[int(chance() * len(tokens))] + value[at + 1 :]
        if kind == 5:
            return value[:at] + bytes((int(chance() * 256),)) + value[at + 1 :]
        if kind == 6 and at < len(value):
            return value[:at] + bytes((value[at] ^ 1 << int(chance() * 8),)) + value[at + 1 :]
        if kind == 7:
            return value[:at] + value[at + 1 + int(chance() * 4) :]
        if kind == 8:
            other = self._good[int(chance() * len(self._good))]
            return value[:at] + other[int(chance() * len(other)) :]
        return value[:at] + value[at:].swapcase()

    def _noise(self, length: int) -> bytes:
        if self._at + length > len(self._buffer):
            self._buffer, self._at = self._rng.randbytes(1 << 16), 0
        self._at += length
        return self._buffer[self._at - length : self._at]


def pair_of(noise: Callable[[int], bytes], length: int) -> bytes:
    """A pair of about this length, in printable ASCII."""
    return b"c:" + noise(length).hex().encode()[:length]


# --- targets


class Failure(NamedTuple):
    """The first difference.

    Attributes:
        where: Parser, ASGI or WSGI.
        what: The input.
        said: The actual and the expected result.
        batch: The batch of the input.
    """

    where: str
    what: str
    said: str
    batch: str = ""


class Request(NamedTuple):
    """A request, before a server makes a scope or an environ of it."""

    fields: tuple[bytes, ...]
    method: str = "GET"
    raw_path: bytes = b"/"
    others: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def path(self) -> bytes:
        return _PERCENT.sub(lambda form: bytes((int(form[1], 16),)), self.raw_path.partition(b"?")[0])


_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
# Paths that are certainly excluded. Any other path that reaches the app without credentials is a difference.
_OPEN = re.compile(
    r"/open|/docs/(?!\.{1,2}(?:/|\Z))[^/;\\?#%\x00-\x1f\x7f-\x9f\ufffd](?:(?!//|/\.{1,2}(?:/|\Z))[^;\\?#%\x00-\x1f\x7f-\x9f\ufffd])*"
)


class Target:
    """The parser and the middlewares, with the same keys in each process."""

    def __init__(self) -> None:
        backend = Backend(MemoryStore(), settings=Settings())
        self.keys: dict[tuple[str, str], str] = {}
        fields = []
        for client_id, secret in (
            ("demo", "p@55w0rd"),
            ("ci", "s"),
            ("j\u00fcrgen-\u6771\u4eac", "\u5bc6\u78bc:\u00fc"),
            ("generated", GENERATED),
            ("long", "x" * 700),
        ):
            backend.create(client_id=client_id, secret=secret)
            self.keys[client_id, secret] = client_id
            fields.append(encode_basic(client_id, secret).encode())
        # The same headers in every process, so that the seed determines a batch.
        backend.create(client_id="gone", secret="gone and away")
        backend.revoke("gone")
        others = [
            ("gone", "gone and away"),
            ("a", "b"),
            ("unknown", GENERATED),
            ("generated", GENERATED[:-1]),
        ]
        self.good = (*fields, *(encode_basic(*pair).encode() for pair in others))
        settings = Settings(exclude=("/open", "/docs/*"), throttle="", cache_size=64)
        self._asgi = asgi.BasicAuthMiddleware(self._asgi_app, backend, settings=settings)
        self._wsgi = wsgi.BasicAuthMiddleware(self._wsgi_app, backend, settings=settings)
        self._who: str | None = None
        self._sent: list[Any] = []

    def parse(self, field: bytes) -> str:
        """What is wrong with the parser's result for a header; empty if it is correct."""
        wanted = reference(field)
        for value in (field, field.decode("latin-1")):
            try:
                got = authorization_header.parse_basic(value)
            except MalformedCredentials:
                if wanted is None:
                    continue
                return f"malformed instead of {wanted!r}"
            except BaseException as exc:
                return f"raised {exc!r}"
            if wanted is None or (got.client_id, got.secret) != wanted:
                return f"{(got.client_id, got.secret)!r} instead of {wanted!r}"
        if wanted is not None and encode_basic(*wanted)[6:].encode() != field.strip(b" \t")[6:].lstrip(b" "):
            return "differs from the result of encode_basic"
        return ""

    async def send_asgi(self, request: Request) -> str:
        """What is wrong with the response of the ASGI middleware."""
        scope = {
            "type": "http",
            "method": request.method,
            "scheme": "http",
            "path": request.path.decode("utf-8", "replace"),
            "raw_path": request.raw_path,
            "root_path": "",
            "query_string": b"",
            "headers": [*request.others, *((b"authorization", field) for field in request.fields)],
            "client": ("192.0.2.1", 1),
        }
        self._who, self._sent = None, []
        try:
            await self._asgi(scope, None, self._send)  # type: ignore[arg-type]
            start, body = self._sent
            fields = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
            return self._wrong(request, start["status"], fields, body["body"])
        except BaseException as exc:
            return f"raised {exc!r}"

    def send_wsgi(self, request: Request) -> str:
        """What is wrong with the response of the WSGI middleware."""
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.path.decode("latin-1"),
            "SCRIPT_NAME": "",
            "RAW_URI": request.raw_path.decode("latin-1"),
            "REMOTE_ADDR": "192.0.2.1",
            "wsgi.url_scheme": "http",
        }
        for name, value in [*request.others, *((b"authorization", field) for field in request.fields)]:
            key = "HTTP_" + name.decode().upper().replace("-", "_")
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]},{text}" if key in environ else text
        self._who, self._sent = None, []
        try:
            body = b"".join(self._wsgi(environ, self._start))
            ((status, headers),) = self._sent
            fields = {name.lower(): value for name, value in headers}
            return self._wrong(request, int(status[:3]), fields, body)
        except BaseException as exc:
            return f"raised {exc!r}"

    def _wrong(self, request: Request, status: int, fields: dict[str, str], body: bytes) -> str:
        said = f"{status} for {self._who!r}"
        fields_sent = [field for field in request.fields if len(request.fields) > 1 or field.strip(b" \t")]
        pair = reference(fields_sent[0]) if len(fields_sent) == 1 else None
        wanted = self.keys.get(pair) if pair else None
        if self._who == "":  # anonymous
            path = request.path.decode("utf-8", "replace")
            return "" if status == 200 and _OPEN.fullmatch(path) else f"{said}: {path!r} is open"
        if self._who is not None:
            return "" if status == 200 and self._who == wanted else f"{said} instead of {wanted!r}"
        if status != 401 or wanted is not None:
            return f"{said}, but {wanted!r} was to be allowed"
        if fields.get("www-authenticate") != 'Basic realm="api", charset="UTF-8"':
            return f"the challenge {fields.get('www-authenticate')!r}"
        if request.method == "HEAD":
            return "a body for HEAD" if body else ""
        code = json.loads(body)["code"]
        if code != ("invalid_credentials" if fields_sent else "missing_credentials"):
            return f"the code {code!r}"
        return "" if fields["content-length"] == str(len(body)) else "a wrong length"

    async def _send(self, message: Any) -> None:
        self._sent.append(message)

    def _start(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        self._sent.append((status, headers))

    async def _asgi_app(self, scope: Any, _receive: Any, send: Any) -> None:
        self._who = scope["user"].client_id
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"app"})

    def _wsgi_app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        principal = environ["basicauth_mw.principal"]
        self._who = principal.client_id if principal else ""
        start_response("200 OK", [])
        return [b"app"]


class Tally(NamedTuple):
    """Numbers of inputs."""

    parser: int = 0
    asgi: int = 0
    wsgi: int = 0

    def __add__(self, other: Tally) -> Tally:  # type: ignore[override]
        return Tally(*map(sum, zip(self, other, strict=True)))


def batch(target: Target, runner: asyncio.Runner, seed: str, size: int = BATCH) -> Tally | Failure:
    """Run one batch, which its seed determines."""
    rng = random.Random(seed)
    mutator = Mutator(rng, target.good)
    fields = [mutator.field() for _ in range(size)]
    for field in fields:
        if wrong := target.parse(field):
            return Failure("parser", f"--field {field.hex()}", wrong, seed)
    requests = list(_requests(mutator, rng, fields[::MIDDLEWARE_SHARE]))
    for request in requests:
        if wrong := target.send_wsgi(request):
            return Failure("WSGI", repr(request), wrong, seed)

    async def send_all() -> Failure | None:
        for request in requests:
            if wrong := await target.send_asgi(request):
                return Failure("ASGI", repr(request), wrong, seed)
        return None

    return runner.run(send_all()) or Tally(size, len(requests), len(requests))


def _requests(mutator: Mutator, rng: random.Random, fields: Sequence[bytes]) -> Iterator[Request]:
    for field in fields:
        # Sometimes two headers, or none.
        chance = rng.random()
        sent = (field, mutator.field()) if chance < 0.05 else () if chance < 0.07 else (field,)
        others = rng.sample(_OTHERS, int(rng.random() * 3))
        yield Request(
            sent,
            _METHODS[int(rng.random() * len(_METHODS))],
            mutator.path() if rng.random() < 0.5 else b"/x",
            tuple(dict(others).items()),
        )


# --- running


def work(
    worker: int, seed: int, most: int, ends_at: float, report: Callable[[Tally | Failure | None], object]
) -> None:
    """Run batches until there is a failure, ``most`` inputs are done, or the time is up; report each."""
    target = Target()
    with asyncio.Runner() as runner:
        number = done = 0
        while done < most and time.monotonic() < ends_at:
            found = batch(target, runner, f"{seed}/{worker}/{number}", min(BATCH, most - done))
            report(found)
            if isinstance(found, Failure):
                return
            done += found.parser
            number += 1
    report(None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if there was a failure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=None, help="duration; 5 without --inputs")
    parser.add_argument("--inputs", type=int, default=None, help="number of inputs for the parser")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, which is printed")
    parser.add_argument("--batch", metavar="WORKER/NUMBER", help="run only this batch, with --seed")
    parser.add_argument("--field", type=bytes.fromhex, metavar="HEX", help="run only this header")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    if options.field is not None:
        return _one(options.field)
    if options.batch is not None:
        with asyncio.Runner() as runner:
            found = batch(Target(), runner, f"{seed}/{options.batch}")
        print(_failed(found) if isinstance(found, Failure) else found)
        return int(isinstance(found, Failure))
    minutes = options.minutes or (5.0 if options.inputs is None else float("inf"))
    print(f"seed {seed}, {options.processes} processes", flush=True)
    failure, counts, seconds = _run(seed, minutes * 60, options.inputs or sys.maxsize, options.processes)
    print(_rate(counts, seconds))
    if failure:
        print(_failed(failure))
        return 1
    print("no difference")
    return 0


def _run(seed: int, limit_s: float, most: int, processes: int) -> tuple[Failure | None, Tally, float]:
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    began = time.monotonic()
    shares = [most // processes + (number < most % processes) for number in range(processes)]
    # All processes of the machine share the monotonic clock.
    workers = [
        context.Process(target=work, args=(number, seed, share, began + limit_s, reports.put), daemon=True)
        for number, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    counts, failure, running, shown = Tally(), None, processes, began
    while running and failure is None:
        try:
            found = reports.get(timeout=REPORT_S)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("a worker has died") from None
            continue
        if found is None:
            running -= 1
        elif isinstance(found, Failure):
            failure = found
        else:
            counts += found
        if time.monotonic() > shown + REPORT_S:
            shown = time.monotonic()
            print(_rate(counts, shown - began), flush=True)
    for worker in workers:
        worker.terminate() if failure else None
        worker.join()
    return failure, counts, time.monotonic() - began


def _rate(counts: Tally, seconds: float) -> str:
    return (
        f"{seconds:7.0f} s  parser {counts.parser:,}  ASGI {counts.asgi:,}  WSGI {counts.wsgi:,}"
        f"  {counts.parser / seconds:,.0f} inputs/s"
    )


def _failed(failure: Failure) -> str:
    seed, _, number = failure.batch.partition("/")
    return (
        f"{failure.where}: {failure.said}\n  input: {failure.what}\n"
        f"  repeat: python -m tests.fuzz.fuzz --seed {seed} --batch {number}"
    )


def _one(field: bytes) -> int:
    target, request = Target(), Request((field,))
    said = {"parser": target.parse(field), "WSGI": target.send_wsgi(request)}
    said["ASGI"] = asyncio.run(target.send_asgi(request))
    print(f"{field!r}\n  is {reference(field)!r} for the reference")
    for where, wrong in said.items():
        print(f"  {where}: {wrong or 'correct'}")
    return int(any(said.values()))


if __name__ == "__main__":
    sys.exit(main())
