"""What servers do to a request or an answer before or behind the gate. docs/servers.md is made from this.

Each is backed by the cases and tests that name it: one whose servers have changed fails there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.matrix.kinds import GRANIAN, GUNICORN, H11, HTTPTOOLS


@dataclass(frozen=True, slots=True)
class Quirk:
    """One row.

    Attributes:
        what: What these servers do, others not.
        servers: Who.
        so: What that means for a user.
    """

    what: str
    servers: frozenset[str]
    so: str


# --- the Authorization field

LAST_FIELD_WINS = Quirk(
    "Of two `Authorization` fields only the last one arrives",
    frozenset({"cheroot"}),
    "The gate cannot refuse a repeated field. Let the proxy in front do it",
)
BLANK_BEFORE_COLON = Quirk(
    "Accepts a blank between a field's name and the colon (RFC 9112 5.1 wants a 400)",
    frozenset({"cheroot"}),
    "A proxy and the server may disagree about what a field is. Use a proxy that refuses such heads",
)
STRIPS_ANY_BLANK = Quirk(
    "Takes VT and other odd blanks off the end of a field's value",
    frozenset({"cheroot"}),
    "Nothing: the right key is still needed",
)
PASSES_NUL = Quirk(
    "Lets NUL through in a field's value, where the others answer 400",
    frozenset({"cheroot", "werkzeug"}),
    "Nothing: the gate answers 401. But other fields that your app reads may hold NUL as well",
)
UNFOLDS = Quirk(
    "Joins a value that is folded over two lines (RFC 9112 5.2 allows it), where the others answer 400",
    H11 | {"daphne", "waitress", "werkzeug"},
    "A folded right key is a right key",
)
CR_ENDS_LINE = Quirk(
    "Takes a bare CR for the end of a line",
    frozenset({"werkzeug"}),
    "Through a proxy that passes it on, a client can smuggle a field. It is for development: use another one",
)
LF_ENDS_LINE = Quirk(
    "Takes a bare LF for the end of a line (RFC 9112 2.2 allows it)",
    frozenset({"uvicorn-h11", "hypercorn", "werkzeug"}) | GRANIAN,
    "Nothing, if the proxy reads it the same way; most do",
)
FIELD_LIMIT = Quirk(
    "Answers 431 to a field of more than 8190 octets (`limit_request_field_size`)",
    GUNICORN | {"gunicorn-asgi"},
    "Nothing: the gate answers 401 from 8193 octets on",
)
UNREADABLE_IS_EMPTY = Quirk(
    "Hands over an empty value for one with octets above 0x7F",
    frozenset({"granian-wsgi"}),
    "The 401 says `missing_credentials` and not `invalid_credentials`",
)

# --- other fields

UNDERSCORES = Quirk(
    "`X_Name` and `X-Name` become the same variable, and the last one wins",
    frozenset({"granian-wsgi", "cheroot"}),
    "No spelling with `_` stands for `Authorization`, but what a proxy tells in fields of its own can be "
    "forged. Let it drop names with underscores",
)
SCRIPT_NAME_FIELD = Quirk(
    "Takes a field `SCRIPT_NAME` from a trusted peer (`forwarded_allow_ips`, by default 127.0.0.1) for the "
    "mount point, and answers 500 if the path does not start with it",
    GUNICORN,
    "The gate and the app see the same path below it, so nothing opens. If the proxy lets clients send it, "
    "set `forwarder_headers` to an empty value",
)

CLIENT_SETS_ROOT_PATH = Quirk(
    "Takes a header `Daphne-Root-Path` from any client for the mount point (`root_path`)",
    frozenset({"daphne"}),
    "A request with it needs a key on every path, unless `root_path` is the same. Let the proxy drop it",
)

BELIEVES_ADDRESS = Quirk(
    "Takes the client's address from `X-Forwarded-For` if 127.0.0.1 sends it (`--forwarded-allow-ips`)",
    HTTPTOOLS | {"uvicorn-h11"},
    "Right behind a proxy on the same host that sets it. Without one, a local client chooses the address "
    "that its failures are counted under: `--no-proxy-headers`",
)
BELIEVES_SCHEME = Quirk(
    "Takes the scheme from `X-Forwarded-Proto` if 127.0.0.1 sends it (the same setting)",
    HTTPTOOLS | GUNICORN | {"uvicorn-h11", "gunicorn-asgi"},
    "The same for `require_https`. An address that is not believed stays the proxy's until you say so "
    "(Werkzeug's `ProxyFix`)",
)

# --- methods and targets

KNOWN_METHODS = Quirk(
    "Answers 400 to a method that it does not know, as `FOO`",
    HTTPTOOLS,
    "Nothing: elsewhere it is checked like any other",
)
UPPER_METHODS = Quirk(
    "Answers 400 to a method in lower case",
    HTTPTOOLS | GUNICORN | {"gunicorn-asgi", "waitress", "cheroot"},
    "Nothing: elsewhere it is checked like any other",
)
ABSOLUTE_TARGET = Quirk(
    "Takes the path out of a target like `http://any/health`; the others hand on all of it, or answer 400",
    HTTPTOOLS | GRANIAN,
    "An excluded path is open under that spelling too, as the router sees the same; elsewhere it is not",
)
DROPS_FRAGMENT = Quirk(
    "Drops a fragment, and tells nothing of it: `/health#f` is `/health`",
    HTTPTOOLS | GRANIAN,
    "As above",
)
FOLDS_SLASHES = Quirk(
    "Makes one slash of those that a path starts with: `//health` is `/health`",
    frozenset({"werkzeug"}),
    "As above",
)

# --- bodies of requests

WAITS_FOR_BODY = Quirk(
    "Receives the whole body of a request before it answers, even with a 401",
    frozenset({"daphne", "waitress", "cheroot"}),
    "A refused upload costs its transfer. Limit its size in the proxy (waitress: `max_request_body_size`)",
)
STOPS_READING = Quirk(
    "Closes the connection after a 401 while the client still sends a large body",
    GUNICORN - {"gunicorn-gevent"} | GRANIAN | {"gunicorn-asgi", "hypercorn"},
    "A client that sends everything before it reads (urllib, aiohttp, Node's `http`) reports a reset "
    "connection instead of the 401, from about 1 MB on. Behind a proxy that buffers requests, as nginx does, "
    "it sees the 401",
)
CONTINUES_AT_ONCE = Quirk(
    "Sends `100 Continue` before anybody has looked at the request",
    GUNICORN | {"daphne", "hypercorn", "waitress", "cheroot", "werkzeug"},
    "A client that waits for it uploads all the same, and gets the 401 then; elsewhere it has it at once",
)

LEAVES_CHUNKS = Quirk(
    "Takes a chunked body that nobody has read for the next request, answers it with a 400, and closes the "
    "connection",
    frozenset({"cheroot"}),
    "Behind a proxy, others on that connection lose a request. Let the proxy send a length (nginx does, but "
    "for `proxy_request_buffering off`)",
)

# --- answers to what the app raises

CLOSES_AFTER_ERROR = Quirk(
    "Closes the connection behind the JSON 500 without saying so in it",
    HTTPTOOLS | {"uvicorn-h11", "gunicorn-asgi"},
    "Nothing: clients connect again",
)
LOSES_TRACEBACK = Quirk(
    "Logs nothing of an exception that is raised on behind a whole answer",
    frozenset({"gunicorn-asgi"}),
    "The log has the gate's line, `the app raised RuntimeError request_id=...`, and no traceback. Use the "
    "`uvicorn-worker` package, or an error monitor inside the app",
)

HANGS = Quirk(
    "Leaves the client waiting when the app raises after the first chunk",
    frozenset({"daphne"}),
    "It never looks whole, unless `--http-timeout` ends it: then a chunked one does. Send a `Content-Length`",
)
CLEAN_END = Quirk(
    "Ends a chunked answer neatly when the app raises after the first chunk",
    frozenset({"granian-wsgi"}),
    "A cut answer looks whole: send a `Content-Length`, or use the ASGI interface",
)
CHUNKS_FOR_10 = Quirk(
    "Sends chunks to an HTTP/1.0 client, which cannot read them; with the others the end of the connection "
    "is the end of the answer, so that such a client cannot tell that one was cut",
    HTTPTOOLS | {"werkzeug"},
    "Send a `Content-Length`; let the proxy speak HTTP/1.1 (nginx: `proxy_http_version 1.1`)",
)
EMPTY_CHUNK_STARTS = Quirk(
    "An empty first chunk sends the head of the answer",
    GUNICORN | {"werkzeug"},
    "An app that raises behind one gives a broken 200, not a 500",
)
KEEPS_FIELDS = Quirk(
    "Adds the fields of a second `start_response` to those of the first",
    frozenset({"cheroot"}),
    "An app that raises behind an empty first chunk gives the JSON 500 with its own fields as well",
)

NO_WRITE = Quirk(
    "Has no `write()`, the old way to send a body (PEP 3333)",
    frozenset({"granian-wsgi"}),
    "An app that uses it gives a JSON 500",
)

# --- websockets, and the end

NO_DENIAL = Quirk(
    "Has no denial response for websockets",
    frozenset({"daphne", "gunicorn-asgi"}),
    "A refused handshake is a bare 403, with no challenge and no body",
)
STOPS_AT_ONCE = Quirk(
    "SIGTERM cuts the answers that are under way",
    frozenset({"daphne", "waitress", "cheroot", "werkzeug"}),
    "Take it out of the load balancer first",
)

ROWS = {key: value for key, value in globals().items() if isinstance(value, Quirk)}

# How people call them, the large families first.
_FAMILIES = {
    "uvicorn, also as gunicorn's worker": HTTPTOOLS | {"uvicorn-h11"},
    "uvicorn (httptools), also as gunicorn's worker": HTTPTOOLS,
    "gunicorn": GUNICORN | {"gunicorn-asgi"},
    "gunicorn (WSGI)": GUNICORN,
    "granian": GRANIAN,
    "uvicorn (h11)": {"uvicorn-h11"},
    "gunicorn (ASGI)": {"gunicorn-asgi"},
    "granian (ASGI)": {"granian-asgi"},
    "granian (WSGI)": {"granian-wsgi"},
}


def name(servers: frozenset[str]) -> str:
    """Name servers for people."""
    names = []
    for family, members in _FAMILIES.items():
        if members <= servers:
            names.append(family)
            servers = servers - members
    return ", ".join([*names, *sorted(servers)])


def table() -> list[str]:
    """The lines of docs/servers.md."""
    return [f"| {row.what} | {name(row.servers)} | {row.so} |" for row in ROWS.values()]
