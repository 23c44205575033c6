"""How servers change requests and responses outside the middleware; docs/servers.md is generated from this.

Cases and tests use each quirk by its name. They fail if the behavior of a server changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.matrix.kinds import GRANIAN, GUNICORN, H11, HTTPTOOLS


@dataclass(frozen=True, slots=True)
class Quirk:
    """One row.

    Attributes:
        what: What these servers do and others do not.
        servers: Their names.
        so: What it means for users.
    """

    what: str
    servers: frozenset[str]
    so: str


# --- the Authorization header

LAST_FIELD_WINS = Quirk(
    "Of two `Authorization` headers, passes on only the last one",
    frozenset({"cheroot"}),
    "The middleware cannot refuse a repeated header. Let the proxy refuse it",
)
BLANK_BEFORE_COLON = Quirk(
    "Accepts a space between the name of a header and the colon (RFC 9112 5.1 requires a 400)",
    frozenset({"cheroot"}),
    "A proxy and the server may disagree about which headers there are. Use a proxy that refuses such "
    "requests",
)
STRIPS_ANY_BLANK = Quirk(
    "Strips VT and other unusual whitespace from the end of a header's value",
    frozenset({"cheroot"}),
    "Nothing: a valid key is still required",
)
PASSES_NUL = Quirk(
    "Passes on NUL in the value of a header; the others respond with 400",
    frozenset({"cheroot", "werkzeug"}),
    "Nothing: the middleware responds with 401. But other headers that your app reads may also contain NUL",
)
UNFOLDS = Quirk(
    "Joins a header that is folded over two lines (RFC 9112 5.2 allows it); the others respond with 400",
    H11 | {"daphne", "waitress", "werkzeug"},
    "Nothing: a valid key in a folded header is accepted",
)
CR_ENDS_LINE = Quirk(
    "Accepts a bare CR as the end of a line",
    frozenset({"werkzeug"}),
    "If a proxy passes it on, a client can smuggle a header. Do not use it in production",
)
LF_ENDS_LINE = Quirk(
    "Accepts a bare LF as the end of a line (RFC 9112 2.2 allows it)",
    frozenset({"uvicorn-h11", "hypercorn", "werkzeug"}) | GRANIAN,
    "Nothing, if the proxy parses it the same way; most do",
)
FIELD_LIMIT = Quirk(
    "Responds with 431 to a header of more than 8190 bytes (`limit_request_field_size`)",
    GUNICORN | {"gunicorn-asgi"},
    "Nothing: the middleware responds with 401 above 8192 bytes",
)
UNREADABLE_IS_EMPTY = Quirk(
    "Passes on an empty value instead of one with bytes above 0x7F",
    frozenset({"granian-wsgi"}),
    "The code of the 401 is `missing_credentials` instead of `invalid_credentials`",
)

# --- other headers

UNDERSCORES = Quirk(
    "`X_Name` and `X-Name` become the same variable, and the last one wins",
    frozenset({"granian-wsgi", "cheroot"}),
    "No name with `_` counts as `Authorization`, but a client can forge headers that the proxy sets. Let the "
    "proxy drop names with underscores",
)
SCRIPT_NAME_FIELD = Quirk(
    "Uses a header `SCRIPT_NAME` of a trusted peer (`forwarded_allow_ips`, by default 127.0.0.1) as the "
    "mount point, and responds with 500 if the path does not start with it",
    GUNICORN,
    "The middleware and the app see the same path below it, so no other path opens. If the proxy lets "
    "clients send the header, set `forwarder_headers` to an empty value",
)

CLIENT_SETS_ROOT_PATH = Quirk(
    "Uses a header `Daphne-Root-Path` of any client as the mount point (`root_path`)",
    frozenset({"daphne"}),
    "A request with it requires a key on every path, unless `root_path` is the same. Let the proxy drop it",
)

BELIEVES_ADDRESS = Quirk(
    "Reads the client's address from `X-Forwarded-For` if 127.0.0.1 sends it (`--forwarded-allow-ips`)",
    HTTPTOOLS | {"uvicorn-h11"},
    "Correct behind a proxy on the same host that sets it. Without a proxy, a local client chooses the "
    "address that its failures are counted under: use `--no-proxy-headers`",
)
BELIEVES_SCHEME = Quirk(
    "Reads the scheme from `X-Forwarded-Proto` if 127.0.0.1 sends it (the same setting)",
    HTTPTOOLS | GUNICORN | {"uvicorn-h11", "gunicorn-asgi"},
    "The same for `require_https`. If the header is not trusted, the address is the proxy's; for WSGI apps "
    "use Werkzeug's `ProxyFix`",
)

# --- methods and targets

KNOWN_METHODS = Quirk(
    "Responds with 400 to an unknown method such as `FOO`",
    HTTPTOOLS,
    "Nothing: on other servers the request requires a key like any other",
)
UPPER_METHODS = Quirk(
    "Responds with 400 to a method in lower case",
    HTTPTOOLS | GUNICORN | {"gunicorn-asgi", "waitress", "cheroot"},
    "Nothing: on other servers the request requires a key like any other",
)
ABSOLUTE_TARGET = Quirk(
    "Passes on only the path of a target like `http://any/health`; the others pass on all of it, or "
    "respond with 400",
    HTTPTOOLS | GRANIAN,
    "An excluded path is open in that form too, because the router sees the path; on other servers it is not",
)
DROPS_FRAGMENT = Quirk(
    "Removes a fragment: `/health#f` is `/health`",
    HTTPTOOLS | GRANIAN,
    "As above",
)
FOLDS_SLASHES = Quirk(
    "Merges the slashes at the start of a path: `//health` is `/health`",
    frozenset({"werkzeug"}),
    "As above",
)

# --- bodies of requests

WAITS_FOR_BODY = Quirk(
    "Receives the whole body of a request before it responds, even with a 401",
    frozenset({"daphne", "waitress", "cheroot"}),
    "A refused upload is transferred in full. Limit its size in the proxy (waitress: "
    "`max_request_body_size`)",
)
STOPS_READING = Quirk(
    "Closes the connection after a 401 while the client still sends a large body",
    GUNICORN - {"gunicorn-gevent"} | GRANIAN | {"gunicorn-asgi", "hypercorn"},
    "A client that sends everything before it reads (urllib, aiohttp, Node's `http`) reports a reset "
    "connection instead of the 401, for bodies above about 1 MB. Behind a proxy that buffers requests, "
    "as nginx does, it sees the 401",
)
CONTINUES_AT_ONCE = Quirk(
    "Sends `100 Continue` before the middleware has seen the request",
    GUNICORN | {"daphne", "hypercorn", "waitress", "cheroot", "werkzeug"},
    "A client that waits for it uploads the body before it gets the 401; on other servers it gets the "
    "401 at once",
)

LEAVES_CHUNKS = Quirk(
    "Parses an unread chunked body as the next request, responds to it with a 400, and closes the connection",
    frozenset({"cheroot"}),
    "Behind a proxy, another client on that connection loses a request. Let the proxy send a length "
    "(nginx does unless `proxy_request_buffering` is `off`)",
)

# --- exceptions in the app

CLOSES_AFTER_ERROR = Quirk(
    "Closes the connection after the JSON 500 without a `Connection: close` in it",
    HTTPTOOLS | {"uvicorn-h11", "gunicorn-asgi"},
    "Nothing: clients reconnect",
)
LOSES_TRACEBACK = Quirk(
    "Does not log an exception that is raised after a complete response",
    frozenset({"gunicorn-asgi"}),
    "The log has the middleware's line, `the app raised RuntimeError request_id=...`, and no traceback. Use "
    "the `uvicorn-worker` package, or an error monitor inside the app",
)

HANGS = Quirk(
    "Leaves the client waiting when the app raises after the first chunk",
    frozenset({"daphne"}),
    "The response stays incomplete, unless `--http-timeout` ends it: then a chunked response looks "
    "complete. Send a `Content-Length`",
)
CLEAN_END = Quirk(
    "Ends a chunked response properly when the app raises after the first chunk",
    frozenset({"granian-wsgi"}),
    "A truncated response looks complete: send a `Content-Length`, or use the ASGI interface",
)
CHUNKS_FOR_10 = Quirk(
    "Sends chunks to an HTTP/1.0 client, which cannot parse them. With the others, the response ends "
    "with the connection, so such a client cannot detect a truncated response",
    HTTPTOOLS | {"werkzeug"},
    "Send a `Content-Length`; let the proxy speak HTTP/1.1 (nginx: `proxy_http_version 1.1`)",
)
EMPTY_CHUNK_STARTS = Quirk(
    "Sends the status and the headers with an empty first chunk",
    GUNICORN | {"werkzeug"},
    "An app that raises after one gives a broken 200, not a 500",
)
KEEPS_FIELDS = Quirk(
    "Adds the headers of a second `start_response` to those of the first",
    frozenset({"cheroot"}),
    "If an app raises after an empty first chunk, the JSON 500 also has the app's headers",
)

NO_WRITE = Quirk(
    "Does not support `write()`, the old way to send a body (PEP 3333)",
    frozenset({"granian-wsgi"}),
    "An app that uses it gives a JSON 500",
)

# --- websockets, and the end

NO_DENIAL = Quirk(
    "Does not support denial responses for websockets",
    frozenset({"daphne", "gunicorn-asgi"}),
    "A refused handshake is a 403 without a challenge and without a body",
)
STOPS_AT_ONCE = Quirk(
    "SIGTERM truncates responses in progress",
    frozenset({"daphne", "waitress", "cheroot", "werkzeug"}),
    "Remove the server from the load balancer first",
)

ROWS = {key: value for key, value in globals().items() if isinstance(value, Quirk)}

# Common names, with large families first.
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
    """The common names of servers."""
    names = []
    for family, members in _FAMILIES.items():
        if members <= servers:
            names.append(family)
            servers = servers - members
    return ", ".join([*names, *sorted(servers)])


def table() -> list[str]:
    """The lines of docs/servers.md."""
    return [f"| {row.what} | {name(row.servers)} | {row.so} |" for row in ROWS.values()]
