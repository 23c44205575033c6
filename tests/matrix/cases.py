"""A table of requests for every server, with the expected responses.

``app``, ``open`` and the other words are explained at ``Response.outcome``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.matrix.client import BAD, GOOD, TOKEN, head
from tests.matrix.kinds import GRANIAN, GUNICORN, H11, HTTPTOOLS
from tests.matrix.quirks import (
    ABSOLUTE_TARGET,
    BLANK_BEFORE_COLON,
    CLIENT_SETS_ROOT_PATH,
    CR_ENDS_LINE,
    DROPS_FRAGMENT,
    FIELD_LIMIT,
    FOLDS_SLASHES,
    KNOWN_METHODS,
    LAST_FIELD_WINS,
    LF_ENDS_LINE,
    PASSES_NUL,
    SCRIPT_NAME_FIELD,
    STRIPS_ANY_BLANK,
    UNFOLDS,
    UNREADABLE_IS_EMPTY,
    UPPER_METHODS,
    Quirk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

APP, OPEN = "app", "open"
MISSING, INVALID = "missing_credentials", "invalid_credentials"
BAD_REQUEST, TOO_LARGE = "server 400", "server 431"

ALL_GUNICORN = GUNICORN | {"gunicorn-asgi"}


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        id: The name of the case.
        raw: The bytes of the request.
        expected: The expected outcome.
        instead: Other outcomes, with the servers that have them.
        method: The method, which determines whether the response has a body.
        has_key: Whether the valid key is anywhere in the request.
    """

    id: str
    raw: bytes
    expected: str
    instead: Mapping[str, frozenset[str] | Quirk] = field(default_factory=dict)
    method: str = "GET"

    @property
    def has_key(self) -> bool:
        return TOKEN in self.raw

    def expected_of(self, server: str) -> str:
        for outcome, where in self.instead.items():
            if server in (where.servers if isinstance(where, Quirk) else where):
                return outcome
        return self.expected


def authorization(value: bytes) -> bytes:
    return b"Authorization: " + value


KEY = authorization(GOOD)
NO_KEY = authorization(BAD)


def fields() -> Iterator[Case]:
    """Authorization headers, and headers that resemble them."""

    def case(
        name: str, expected: str, *lines: bytes, instead: Mapping[str, frozenset[str] | Quirk] | None = None
    ) -> Case:
        return Case(name, head(*lines), expected, instead or {})

    yield case("right", APP, KEY)
    yield case("wrong", INVALID, NO_KEY)
    yield case("none", MISSING)
    yield case("empty", MISSING, authorization(b""))
    yield case("malformed", INVALID, authorization(b"Basic !"))
    yield case("other-scheme", INVALID, authorization(b"Bearer " + TOKEN))
    yield case("scheme-in-upper-case", APP, authorization(b"BASIC " + TOKEN))
    yield case("name-in-odd-case", APP, b"aUtHoRiZaTiOn: " + GOOD)

    # RFC 9110 5.3: it is not a list, so there is at most one.
    yield case("right-then-wrong", INVALID, KEY, NO_KEY)
    yield case("wrong-then-right", INVALID, NO_KEY, KEY, instead={APP: LAST_FIELD_WINS})
    yield case("right-twice", INVALID, KEY, KEY, instead={APP: LAST_FIELD_WINS})
    yield case(
        "wrong-then-right-in-other-case",
        INVALID,
        NO_KEY,
        b"AUTHORIZATION: " + GOOD,
        instead={APP: LAST_FIELD_WINS},
    )
    yield case("empty-then-right", INVALID, authorization(b""), KEY, instead={APP: LAST_FIELD_WINS})
    yield case("right-then-empty", INVALID, KEY, authorization(b""), instead={MISSING: LAST_FIELD_WINS})
    yield case("joined-right-right", INVALID, authorization(GOOD + b", " + GOOD))
    yield case("joined-right-wrong", INVALID, authorization(GOOD + b", " + BAD))
    yield case("joined-wrong-right", INVALID, authorization(BAD + b"," + GOOD))

    # Other names.
    yield case("trailing-underscore", MISSING, b"Authorization_: " + GOOD)
    yield case("trailing-underscore-and-wrong", INVALID, NO_KEY, b"Authorization_: " + GOOD)
    yield case("wrong-trailing-underscore-and-right", APP, KEY, b"Authorization_: " + BAD)
    yield case("x-underscore", MISSING, b"X_Authorization: " + GOOD)
    yield case("x-hyphen", MISSING, b"X-Authorization: " + GOOD)
    yield case("variable-name", MISSING, b"HTTP_AUTHORIZATION: " + GOOD)
    yield case("proxy-authorization", MISSING, b"Proxy-Authorization: " + GOOD)
    yield case("proxy-underscore", MISSING, b"Proxy_Authorization: " + GOOD)
    yield case(
        "blank-before-colon",
        BAD_REQUEST,
        b"Authorization : " + GOOD,
        instead={APP: BLANK_BEFORE_COLON, MISSING: frozenset({"werkzeug"})},
    )
    folded_first = H11 | {"daphne", "waitress", "cheroot", "werkzeug"}
    yield case("blank-before-name", BAD_REQUEST, b" " + KEY, instead={MISSING: folded_first})
    yield case(
        "planted-identity",
        MISSING,
        b"Remote-User: demo",
        b"Remote_User: demo",
        b"REMOTE_USER: demo",
        b"AUTH_TYPE: Basic",
        b"basicauth_mw.principal: demo",
    )

    # A server is not a proxy: it must ignore this, above all after the check.
    yield case("connection-names-it", APP, KEY, b"Connection: authorization")
    yield case("connection-names-it-wrong", INVALID, NO_KEY, b"Connection: authorization")
    yield case("connection-names-it-none", MISSING, b"Connection: authorization")

    # RFC 9110 5.5: whitespace around a value is not part of it.
    yield case("no-blank", APP, b"Authorization:" + GOOD)
    yield case("leading-blanks", APP, b"Authorization:  \t " + GOOD)
    yield case("leading-tab", APP, b"Authorization:\t" + GOOD)
    yield case("trailing-blanks", APP, KEY + b"  ")
    yield case("trailing-tab", APP, KEY + b"\t")
    yield case("tab-inside", INVALID, authorization(b"Basic\t" + TOKEN))
    yield case("blank-and-tab-inside", INVALID, authorization(b"Basic \t" + TOKEN))
    yield case(
        "trailing-vt",
        BAD_REQUEST,
        KEY + b"\x0b",
        instead={APP: STRIPS_ANY_BLANK, INVALID: frozenset({"werkzeug"})},
    )
    yield case("trailing-nbsp", INVALID, KEY + b"\xa0", instead={MISSING: UNREADABLE_IS_EMPTY})

    # Characters that no value may contain.
    yield case("nul-at-end", BAD_REQUEST, KEY + b"\0", instead={INVALID: PASSES_NUL})
    yield case(
        "nul-inside", BAD_REQUEST, authorization(GOOD[:10] + b"\0" + GOOD[10:]), instead={INVALID: PASSES_NUL}
    )
    yield case("nul-and-more", BAD_REQUEST, KEY + b"\0more", instead={INVALID: PASSES_NUL})
    del_passes = H11 | {"daphne", "cheroot", "werkzeug"}
    yield case("del-at-end", BAD_REQUEST, KEY + b"\x7f", instead={INVALID: del_passes})
    yield case(
        "high-bytes",
        INVALID,
        authorization(bytes(range(0x80, 0x100))),
        instead={BAD_REQUEST: frozenset({"daphne"}), MISSING: UNREADABLE_IS_EMPTY},
    )
    yield case(
        "utf-8", INVALID, authorization(b"Basic " + "é".encode()), instead={MISSING: UNREADABLE_IS_EMPTY}
    )
    yield case(
        "folded",
        BAD_REQUEST,
        authorization(b"Basic\r\n " + TOKEN),
        instead={APP: UNFOLDS, INVALID: frozenset({"cheroot"})},
    )
    yield case(
        "folded-with-tab",
        BAD_REQUEST,
        authorization(b"Basic\r\n\t" + TOKEN),
        instead={APP: H11 | {"daphne"}, INVALID: frozenset({"waitress", "cheroot", "werkzeug"})},
    )
    yield case(
        "folded-empty", BAD_REQUEST, KEY + b"\r\n ", instead={APP: UNFOLDS, MISSING: frozenset({"cheroot"})}
    )
    yield case(
        "folded-with-more", BAD_REQUEST, KEY + b"\r\n more", instead={INVALID: UNFOLDS.servers | {"cheroot"}}
    )
    yield case(
        "folded-into-another",
        BAD_REQUEST,
        b"X-Other: x\r\n " + KEY,
        instead={MISSING: UNFOLDS.servers | {"cheroot"}},
    )
    yield case(
        "cr-inside",
        BAD_REQUEST,
        authorization(b"Basic \r" + TOKEN),
        instead={INVALID: frozenset({"cheroot", "werkzeug"})},
    )
    yield case(
        "cr-and-more",
        BAD_REQUEST,
        KEY + b"\rmore",
        instead={APP: CR_ENDS_LINE, INVALID: frozenset({"cheroot"})},
    )
    yield case(
        "cr-in-another",
        BAD_REQUEST,
        b"X-Other: x\r" + KEY,
        instead={APP: CR_ENDS_LINE, MISSING: frozenset({"cheroot"})},
    )
    yield case("lf-in-another", BAD_REQUEST, b"X-Other: x\n" + KEY, instead={APP: LF_ENDS_LINE})

    # Sizes: the limit is 8192 bytes.
    def padded(size: int) -> bytes:
        return authorization(b"Basic" + b" " * (size - len(b"Basic" + TOKEN)) + TOKEN)

    yield case("8-kib", APP, padded(8192), instead={TOO_LARGE: FIELD_LIMIT})
    yield case("8-kib-and-1", INVALID, padded(8193), instead={TOO_LARGE: FIELD_LIMIT})
    yield case(
        "8-kib-and-1-of-junk",
        INVALID,
        authorization(b"Basic " + b"A" * 8187),
        instead={TOO_LARGE: FIELD_LIMIT},
    )
    yield case(
        "64-kib",
        INVALID,
        authorization(b"Basic " + b"A" * 65530),
        instead={TOO_LARGE: ALL_GUNICORN | {"hypercorn", "werkzeug"}, "hangs up": frozenset({"daphne"})},
    )
    many = {TOO_LARGE: ALL_GUNICORN | GRANIAN | {"werkzeug"}, BAD_REQUEST: frozenset({"daphne"})}
    yield case("1000-fields", MISSING, *(b"X-%d: x" % number for number in range(1000)), instead=many)
    # Less than the 16 KiB that h11 accepts in several parts: the network may divide it.
    yield case("800-of-them", INVALID, *(b"Authorization: x" for _ in range(800)), instead=many)


def methods() -> Iterator[Case]:
    """Every method requires a key, and the middleware refuses none for its name."""
    unknown = {"FOO": KNOWN_METHODS, "get": UPPER_METHODS, "M-x_1!": UPPER_METHODS}
    for name in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", *unknown):
        refused = {BAD_REQUEST: unknown[name]} if name in unknown else {}
        body = (b"Content-Length: 0",) if name in ("POST", "PUT", "PATCH") else ()
        for credentials, lines, expected in (
            ("none", (), MISSING),
            ("wrong", (NO_KEY,), INVALID),
            ("right", (KEY,), APP),
        ):
            raw = head(*lines, *body, method=name.encode())
            outcome = "problem 401" if name == "HEAD" and expected != APP else expected
            yield Case(f"{name}-{credentials}", raw, outcome, refused, name)
    # Not with the valid key: no app is a tunnel.
    for credentials, lines, expected in (("none", (), MISSING), ("wrong", (NO_KEY,), INVALID)):
        yield Case(
            f"CONNECT-{credentials}",
            head(*lines, method=b"CONNECT"),
            expected,
            {"server 405": frozenset({"cheroot"})},
            "CONNECT",
        )
    preflight = (b"Origin: https://example.com", b"Access-Control-Request-Method: GET")
    yield Case("OPTIONS-preflight", head(*preflight, method=b"OPTIONS"), MISSING, method="OPTIONS")
    for header in (b"X-HTTP-Method-Override: OPTIONS", b"X-Original-URL: /health", b"X-Rewrite-URL: /health"):
        yield Case(header.split(b":")[0].decode(), head(header), MISSING)
    yield Case("HTTP-1.0-none", head(version=b"1.0"), MISSING)
    yield Case("HTTP-1.0-right", head(KEY, version=b"1.0"), APP)


def targets() -> Iterator[Case]:
    """Requests without credentials: excluded paths, and paths that resemble them."""

    def case(target: bytes, expected: str = MISSING, **instead: frozenset[str] | Quirk) -> Case:
        words = {"own": BAD_REQUEST, "open": OPEN, "missing": MISSING}
        return Case(
            ascii(target)[2:-1],
            head(target=target),
            expected,
            {words[word]: where for word, where in instead.items()},
        )

    yield from (
        case(target, OPEN)
        for target in (
            b"/health",
            b"/health?x=1",
            b"/health?/../hello",
            b"/open/x",
            b"/open/x/y",
            b"/%68ealth",
        )
    )
    for target in (
        *(b"/open", b"/open/", b"/openx", b"/open/../hello", b"/open/%2e%2e/hello", b"/open/..%2fhello"),
        *(b"/open/.", b"/open/..", b"/open//x", b"/open/x/../../hello", b"/open\\x", b"/open/\\..\\hello"),
        *(
            b"/health/",
            b"/health/x",
            b"/health/../hello",
            b"/health/../secret",
            b"/hello/../health",
            b"/./health",
        ),
        *(b"/%2e/health", b"/health/%2e%2e/hello", b"/..;/health", b"/health%2f", b"/health%2F..%2fhello"),
        *(b"/%2fhealth", b"/health;x", b"/health%3bx", b"/health;/../hello", b"/health%3fx", b"/health%23"),
        *(
            b"/health%00",
            b"/health%00/hello",
            b"/health\\",
            b"/health%5c..%5chello",
            b"/health%20",
            b"/health%0a",
        ),
        *(
            b"/health%c0%af",
            b"/health%ff",
            b"/health%",
            b"/%2568ealth",
            b"/%u0068ealth",
            b"/HEALTH",
            b"/health:80",
        ),
        *(b"/hello?/health", b"/hello?x=/health"),
        *(b"/hello?access_token=" + TOKEN, b"/hello?authorization=" + GOOD.replace(b" ", b"%20")),
    ):
        yield case(target)
    strict = frozenset({"cheroot"})
    yield case(b"//health", own=strict, open=FOLDS_SLASHES)
    yield case(b"///health", open=FOLDS_SLASHES)
    yield case(b"//evil/health", own=strict)
    for target in (b"http://evil/health", b"HTTP://evil/health", b"https://evil/health", b"evil://x/health"):
        yield case(target, own=strict, open=ABSOLUTE_TARGET)
    yield case(b"http://evil/hello", own=strict)
    yield case(b"http://health/hello", own=strict)
    yield case(b"http://evil/open/../hello", own=strict)
    yield case(b"http://evil", own=strict | HTTPTOOLS)
    yield case(b"http://evil?/health", own=strict | HTTPTOOLS)
    yield case(b"/health#f", own=strict, open=DROPS_FRAGMENT)
    yield case(b"/hello#/health", own=strict)
    yield case(b"/health#/../hello", own=strict, open=HTTPTOOLS | GRANIAN)  # the others pass on the original
    no_slash = HTTPTOOLS | ALL_GUNICORN | {"cheroot"}
    yield case(b"health", own=no_slash)
    yield case(b"*", own=ALL_GUNICORN | strict)
    yield case(b"?", own=no_slash | GRANIAN)
    yield case(b"/health ", BAD_REQUEST, open=HTTPTOOLS | {"werkzeug"})
    yield case(
        b"/health\t", BAD_REQUEST, missing=frozenset({"waitress", "cheroot"}), open=frozenset({"werkzeug"})
    )
    yield case(b"/health\xff", BAD_REQUEST, missing=frozenset({"werkzeug"}))
    yield case(b"/\xef\xbd\x88ealth", BAD_REQUEST, missing=GRANIAN | {"werkzeug"})  # a full-width h
    # Clients cannot set the mount point, and the Host header has no path.
    yield Case("host-with-a-path", head(b"Host: x/health?", host=False), MISSING)
    yield Case(
        "script-name", head(b"Script-Name: /x", b"X-Forwarded-Prefix: /x", target=b"/x/health"), MISSING
    )
    mounted = {OPEN: SCRIPT_NAME_FIELD}
    yield Case("script-name-underscore", head(b"SCRIPT_NAME: /x", target=b"/x/health"), MISSING, mounted)
    yield Case(
        "script-name-open",
        head(b"SCRIPT_NAME: /open", target=b"/open/hello"),
        OPEN,
        {MISSING: SCRIPT_NAME_FIELD},
    )
    yield Case("script-name-elsewhere", head(b"SCRIPT_NAME: /x"), MISSING, {"server 500": SCRIPT_NAME_FIELD})
    for root in (b"/health", b"health", b"/x", b"/", b"/admin"):
        for target in (b"/health", b"/open/x", b"/open/x/health/hello"):
            yield Case(
                f"daphne-root-path-{root.decode()}-{target.decode()}",
                head(b"Daphne-Root-Path: " + root, target=target),
                OPEN,
                {MISSING: CLIENT_SETS_ROOT_PATH},
            )
    yield Case(
        "daphne-root-path-elsewhere", head(b"Daphne-Root-Path: /hello", target=b"/hello/health"), MISSING
    )
    yield Case("path-info", head(b"PATH_INFO: /health", b"Path-Info: /health"), MISSING)


CASES = [*fields(), *methods(), *targets()]
