"""Sends requests of every kind at full rate, and checks each response."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from basicauth_mw import encode_basic
from basicauth_mw.keys.generated_secrets import generate
from tests.soak.parts import Part

if TYPE_CHECKING:
    import random

    from tests.soak.model import Keys, Verdict
    from tests.soak.report import Report
    from tests.soak.sites import Site

LIMIT_S = 15.0
LATE_S = 5.0  # more than any response takes: the deadline for the store is one second
JUST_S = 0.5

# How many of a thousand requests are of each kind.
WEIGHTS = {
    "valid key": 560,
    "valid key, header spelled differently": 150,  # not in a cache
    "valid key, slow handler": 20,
    "valid key, handler raises": 4,
    "valid key, handler times out": 6,
    "inactive key": 90,
    "wrong secret": 60,
    "unknown id": 50,
    "malformed": 30,
    "no header": 20,
    "wrong password": 1,  # takes a password hash
    "client disconnects": 9,
}
PATHS = {
    "valid key, slow handler": ("/late", 200),
    "valid key, handler raises": ("/raises", 500),
    "valid key, handler times out": ("/slow", 504),
}
MALFORMED = (
    *("Basic", "Basic ", "Basic !!!!", "Bearer abc", "Basic Og==", "Basic YTo=", "Basic OmI=", "Basic YQ=="),
    *("Basic YTpi, Basic YTpi", "Basic YTpi=", "Basic YTpj Yg==", "BasicYTpi", "Basic\tYTpi", "Basic YToA"),
    "Basic " + "A" * 8000,
)
CODES = {500: "internal_error", 503: "backend_unavailable", 504: "timeout"}


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        kind: One of ``WEIGHTS``.
        field: The Authorization header; None: absent.
        client_id: The client ID in it.
        secret: The secret in it.
    """

    kind: str
    field: str | None
    client_id: str = ""
    secret: str = ""

    @property
    def path(self) -> str:
        return PATHS.get(self.kind, ("/who", 200))[0]

    @property
    def status(self) -> int:
        """The status of the app's response."""
        return PATHS.get(self.kind, ("/who", 200))[1]


@dataclass(frozen=True)
class Response:
    """A response.

    Attributes:
        status: 0 if it is incomplete.
        body: The body, or the error if it is incomplete.
        sent: When the request was sent, on the monotonic clock.
        received: When the response was received.
    """

    status: int
    body: bytes
    sent: float
    received: float


class Client(Part):
    """Sends one request after the other to a server, on a persistent connection.

    Args:
        site: The server.
        keys: The keys of its store.
        report: Gets counts and problems.
        rng: Source of randomness.
    """

    def __init__(self, site: Site, keys: Keys, report: Report, rng: random.Random) -> None:
        super().__init__(f"client of {site.name}", report)
        self._site = site
        self._keys = keys
        self._rng = rng
        self._connection = self._new_connection()
        self._number = 0
        self._kinds = list(WEIGHTS)
        self._weights = list(WEIGHTS.values())

    def work(self) -> None:
        while not self.stopping.is_set():
            request = self._any_request()
            if request.kind == "client disconnects":
                self._leave(request)
            else:
                self.judge(request, self.send(request))
        self.close()

    def close(self) -> None:
        self._connection.close()

    # --- choosing a request

    def _any_request(self) -> Request:
        rng = self._rng
        (kind,) = rng.choices(self._kinds, self._weights)
        if kind == "no header":
            return Request(kind, None)
        if kind == "malformed":
            return Request(kind, rng.choice(MALFORMED))
        client_id, secret = self._some_key()
        match kind:
            case "wrong secret":
                secret = generate("sk")
            case "wrong password":
                secret = f"guess-{rng.randrange(10**9)}"
            case "unknown id":
                client_id, secret = generate("id"), generate("sk")
            case "inactive key":
                client_id, secret = rng.choice(self._keys.gone() or [(client_id, generate("sk"))])
        field = encode_basic(client_id, secret)
        # An uncached password takes a password hash each time, which would take all the CPU time.
        if kind == "valid key, header spelled differently" and not secret.startswith("password"):
            field = _respelled(field, rng)
        return Request(kind, field, client_id, secret)

    def _some_key(self) -> tuple[str, str]:
        entries = self._keys.all()
        for _ in range(20):
            if not entries:
                break
            entry = self._rng.choice(entries)
            # Includes secrets that have just ended.
            secrets = [each for each in entry.state.secrets if each.goes_on_at(time.monotonic() - JUST_S)]
            if entry.state.status == "live" and secrets:
                return entry.client_id, self._rng.choice(secrets).text
        return "unknown", generate("sk")

    # --- sending a request

    def send(self, request: Request) -> Response:
        fields = {} if request.field is None else {"Authorization": request.field}
        self._number += 1
        sent = time.monotonic()
        try:
            self._connection.request("GET", f"{request.path}?{self._number}", headers=fields)
            response = self._connection.getresponse()
            status, body = response.status, response.read()
            if status == 500:  # after an exception uvicorn closes the connection without announcing it
                self._connection.close()
        except (OSError, HTTPException) as exc:
            self._connection.close()
            self._connection = self._new_connection()
            status, body = 0, repr(exc).encode()
        return Response(status, body, sent, time.monotonic())

    def _leave(self, request: Request) -> None:
        """Disconnect in the middle of the request, or after it."""
        data = f"GET /late HTTP/1.1\r\nHost: h\r\nAuthorization: {request.field}\r\n\r\n".encode()
        length = self._rng.choice((len(data) // 2, len(data)))
        try:
            with socket.create_connection(("127.0.0.1", self._site.port), timeout=LIMIT_S) as connection:
                connection.sendall(data[:length])
        except OSError:  # a worker may be killed
            pass
        self._report.count("requests", f"{request.kind}: disconnected")

    def _new_connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self._site.port, timeout=LIMIT_S)

    # --- checking a response

    def judge(self, request: Request, response: Response) -> None:
        """Count a response, and report what is wrong with it."""
        allowed = self._keys.allowed(
            self._site.name, request.client_id, request.secret, response.sent, response.received
        )
        said = f"{response.status or 'broken connection'}"
        self._report.count("requests", f"{request.kind}: {said}")
        self._report.count("excuses", "an outage" if allowed.outage else "none")
        problem = wrong(request, response, allowed, str(self._number))
        if problem:
            self._report.wrong(
                request.kind,
                self._site.name,
                f"{problem}; {said} {response.body[:300]!r} for {request.client_id!r} after "
                f"{response.received - response.sent:.3f} s; allowed was {allowed}; "
                f"known: {self._keys.describe(request.client_id, request.secret, response.sent)}",
            )
        elif response.status == 200:
            scopes = frozenset(json.loads(response.body)["scopes"])
            lag_s = self._keys.lag_s(request.client_id, request.secret, scopes, response.sent)
            if lag_s:
                excused = self._keys.had_outage(response.sent - lag_s, response.sent, self._site.name)
                self._report.lag(lag_s, well=not excused)


def wrong(request: Request, response: Response, allowed: Verdict, number: str) -> str:
    """What is wrong with a response; empty if it is correct."""
    if response.status == 0:
        return "" if allowed.broken else "incomplete response"
    if response.received > response.sent + LATE_S and not allowed.broken:
        return "too late"
    if request.kind in ("no header", "malformed"):  # refused without a lookup
        code = _code(response)
        expected = f"{'missing' if request.kind == 'no header' else 'invalid'}_credentials"
        return "" if (response.status, code) == (401, expected) else f"expected a 401, {expected}"
    match response.status:
        case 401:
            if _code(response) != "invalid_credentials":
                return "a 401 of another kind"
            return "" if allowed.refused else "an active key was refused"
        case 503:
            code = _code(response)
            if code == "overloaded" and request.secret.startswith(("password", "guess")):
                return ""
            if code != "backend_unavailable":
                return "a 503 of another kind"
            return "" if allowed.outage else "a 503 without a fault"
        case 504 if allowed.broken and allowed.scopes and _code(response) == "timeout":
            return ""  # the worker was stopped while the timeout went on
        case request.status if not allowed.scopes:
            return "an inactive key was allowed"
        case 200 if request.status == 200:
            said = json.loads(response.body)
            if (said["client_id"], said["number"]) != (request.client_id, number):
                return "the response to another request"
            return "" if frozenset(said["scopes"]) in allowed.scopes else "allowed with other scopes"
        case request.status:
            return "" if _code(response) == CODES[response.status] else "a problem of another kind"
    return f"expected {request.status}"


def _code(response: Response) -> object:
    try:
        return json.loads(response.body)["code"]
    except (ValueError, KeyError, TypeError):
        return None


def _respelled(field: str, rng: random.Random) -> str:
    """The same credential: the scheme is case-insensitive, and any number of spaces may follow it."""
    scheme, _, token = field.partition(" ")
    letters = "".join(rng.choice((letter.lower(), letter.upper())) for letter in scheme)
    return letters + " " * rng.randint(1, 40) + token
