"""``include``, ``exclude`` and ``optional``: exact paths or folders; any ambiguity means protected."""

from __future__ import annotations

import posixpath
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from basicauth_mw import Settings
from basicauth_mw.auth.path_rules import PathRules
from basicauth_mw.settings.parsers import PARSERS, path_entry_error

if TYPE_CHECKING:
    from collections.abc import Callable


def row(name: str, *values: object) -> Any:
    return pytest.param(*values, id=name)


def by_code(path: str) -> str:
    """A test ID that every shell and tool accepts."""
    return "".join(c if c.isascii() and c.isalnum() else f".{ord(c):x}." for c in path)


ENTRIES = ("/health", "/docs/*", "/a/b/c", "/caf\u00e9", "/", "/dir/")
OPEN = PathRules(exclude=ENTRIES)


def is_open(rules: PathRules, path: str, *, root: str | None = None, raw: bytes = b"") -> bool:
    return rules.access(path, root=root, raw=raw) == "open"


@pytest.mark.proves("X33")
@pytest.mark.parametrize(
    "path",
    [
        row("exact", "/health"),
        row("exact-deep", "/a/b/c"),
        row("exact-non-ascii", "/caf\u00e9"),
        row("exact-root", "/"),
        row("exact-final-slash", "/dir/"),
        row("below", "/docs/x"),
        row("below-deep", "/docs/x/y/z.css"),
        row("below-folder", "/docs/x/"),
        row("below-dots-in-a-name", "/docs/..x/x..y/.z/..."),
        row("below-non-ascii", "/docs/\u5bc6\u94a5"),
        row("below-space", "/docs/a b"),
        row("below-star", "/docs/*"),
        row("below-same-name", "/docs/docs"),
    ],
)
def test_open(path: str) -> None:
    """Excluded paths need no credentials."""
    assert is_open(OPEN, path)


@pytest.mark.proves("A15", "X29", "X30", "X31", "X33")
@pytest.mark.parametrize(
    "path",
    [
        row("empty", ""),
        row("other", "/admin"),
        row("longer", "/healthz"),
        row("shorter", "/healt"),
        row("final-slash", "/health/"),
        row("below-exact", "/health/x"),
        row("no-final-slash", "/dir"),
        row("upper-case", "/HEALTH"),
        row("folder-itself", "/docs"),
        row("folder-slash", "/docs/"),
        row("folder-prefix", "/docsx"),
        row("folder-prefix-deep", "/docs.html/x"),
        row("folder-case", "/Docs/x"),
        row("not-at-the-start", "/x/docs/y"),
        row("not-at-the-start-exact", "/x/health"),
        row("nfd", "/cafe\u0301"),
        row("fullwidth", "/\uff48ealth"),
        row("space-before", " /health"),
        row("space-after", "/health "),
        # ambiguous: two readers might disagree
        row("no-slash", "health"),
        row("star-form", "*"),
        row("absolute-uri", "http://evil/health"),
        row("authority", "evil:443"),
        row("double-slash-before", "//health"),
        row("double-slash-inside", "/docs//x"),
        row("double-slash-after", "/docs/x//"),
        row("network-path", "//evil/docs/x"),
        row("dot", "/docs/./x"),
        row("dot-after", "/docs/x/."),
        row("dot-alone", "/docs/."),
        row("dots", "/docs/../admin"),
        row("dots-and-back", "/docs/../docs/x"),
        row("dots-after", "/docs/x/.."),
        row("dots-alone", "/docs/.."),
        row("dots-first", "/../docs/x"),
        row("dot-first", "/./docs/x"),
        row("parameter", "/docs/x;a=b"),
        row("parameter-hides-dots", "/docs/..;/admin"),
        row("parameter-exact", "/health;"),
        row("backslash", "/docs/..\\admin"),
        row("backslash-first", "\\health"),
        row("query-left-in", "/docs/x?y"),
        row("query-exact", "/health?"),
        row("fragment-left-in", "/health#f"),
        row("fragment-below", "/docs/x#f"),
        row("encoded-twice", "/docs/%2e%2e/admin"),
        row("percent", "/docs/100%"),
        row("nul", "/docs/x\0"),
        row("nul-exact", "/health\0"),
        row("newline", "/docs/x\n"),
        row("tab", "/docs/\tx"),
        row("del", "/docs/x\x7f"),
        row("nel", "/docs/x\x85"),
        row("replacement", "/docs/\ufffd"),
        row("surrogate", "/docs/\udcff"),
    ],
)
def test_protected(path: str) -> None:
    """All other paths are protected, and so is an excluded path with anything ambiguous in it."""
    assert not is_open(OPEN, path)
    assert not is_open(
        OPEN, path, raw=path.encode("utf-8", "surrogateescape" if "\udcff" in path else "strict")
    )


@pytest.mark.proves("X29", "X32")
@pytest.mark.parametrize("triplet", ["2f", "5c", "2e", "25", "00", "3f", "23", "3b"])
def test_odd_encodings_are_protected(triplet: str) -> None:
    """The raw path is checked too if the server provides it, with hex digits in either case."""
    for raw in (
        f"/docs/%{triplet}x",
        f"/docs/%{triplet.upper()}x",
        f"%{triplet}/docs/x",
        f"/docs/x%{triplet}",
    ):
        assert not is_open(OPEN, "/docs/x", raw=raw.encode())


@pytest.mark.parametrize("odd", [";a", "\\a", "#a", "\0a", "\x1fa", "\x7fa"], ids=by_code)
def test_a_path_that_a_server_truncated_is_protected(odd: str) -> None:
    """Some servers remove a fragment or a control character from the path; other readers do not."""
    assert not is_open(OPEN, "/docs/x", raw=f"/docs/x{odd}".encode())
    assert not is_open(OPEN, "/health", raw=f"/health{odd}".encode())


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        row("plain", "/docs/x", b"/docs/x"),
        row("no-raw-path", "/docs/x", b""),
        row("utf-8", "/caf\u00e9", b"/caf%C3%A9"),
        row("space", "/docs/a b", b"/docs/a%20b"),
        row("needless", "/health", b"/%68ealth"),
        row("utf-8", "/caf\u00e9", b"/caf\xc3\xa9"),
    ],
)
def test_harmless_encodings_are_open(path: str, raw: bytes) -> None:
    """An encoding that has only one reading changes nothing."""
    assert is_open(OPEN, path, raw=raw)


@pytest.mark.proves("A15", "X30", "X33")
@pytest.mark.parametrize(
    ("path", "root", "opens"),
    [
        row("in-path", "/api/health", "/api", True),
        row("in-path-folder", "/api/docs/x", "/api", True),
        row("in-path-no-mount-from-server", "/api/health", "", True),
        row("not-in-path", "/health", "/api", True),
        row("not-in-path-no-mount-from-server", "/health", "", True),
        row("twice", "/api/api/health", "/api", False),
        row("no-segment", "/apihealth", "/api", False),
        row("no-segment-2", "/apix/health", "/api", False),
        row("alone", "/api", "/api", False),
        row("and-slash", "/api/", "/api", True),  # "/" is listed
        row("other-case", "/API/health", "/api", False),
        row("not-in-front", "/docs/x/api/admin", "/api", False),
        row("not-in-front-no-mount-from-server", "/docs/x/api/admin", "", False),
        row("part-of-a-segment", "/docs/x-/apis", "/api", False),
        row("then-odd", "/api//health", "/api", False),
        row("then-dots", "/api/../health", "/api", False),
        row("another-mount", "/api/health", "/v1", False),
        row("another-mount-in-path", "/v1/health", "/v1", False),
        row("deeper-mount", "/api/v1/health", "/api/v1", False),
        row("shallower-mount", "/api/health", "/ap", False),
        row("mount-with-a-slash", "/api/health", "/api/", False),
        row("mount-that-is-an-entry", "/health", "/health", False),
    ],
)
def test_a_mount_that_is_set(path: str, root: str, opens: bool) -> None:
    """The mount point is removed as whole segments; anything unclear is protected."""
    mounted = PathRules(exclude=ENTRIES, root_path="/api")
    assert is_open(mounted, path, root=root) is opens


@pytest.mark.parametrize("path", ["/health", "/api/health", "/docs/x", "/", "/docs/x/api/admin"])
@pytest.mark.parametrize("root", ["/api", "/health", "/docs", "/", "x", "/api/", "/docs/x"])
def test_an_unset_mount_point_excludes_nothing(path: str, root: str) -> None:
    """Routers disagree about the rest of the path, and with some servers the client sets the mount point."""
    assert not is_open(OPEN, path, root=root)
    assert is_open(OPEN, "/health", root="")


@pytest.mark.parametrize("path", ["api", "/", "/api/", "//api", "/a/../b", "/a*", "/a;b", "/a%20b", "/a?b"])
def test_refused_mounts(path: str) -> None:
    with pytest.raises(ValueError, match="must"):
        PARSERS["optional_path"](path)


@pytest.mark.parametrize("path", ["/api", "/api/v1", "/caf\u00e9", "/a b"])
def test_accepted_mounts(path: str) -> None:
    assert PARSERS["optional_path"](path) == path


@pytest.mark.proves("O8")
def test_nothing_is_excluded_by_default() -> None:
    """Without entries every path is protected."""
    nothing = PathRules(exclude=())

    assert not nothing.has_open
    assert not nothing.has_optional
    assert list(nothing.describe()) == []
    assert not any(is_open(nothing, path) for path in ("/", "", "/health", "*"))
    assert OPEN.has_open


@pytest.mark.parametrize(
    "entry",
    ["/", "/health", "/docs/*", "/a/b/", "/caf\u00e9/*", "/.well-known/*", "/a b", "/~x"],
    ids=by_code,
)
def test_allowed_entries(entry: str) -> None:
    """A decoded path, or a folder with everything below it."""
    assert path_entry_error(entry) == ""


@pytest.mark.proves("O8", "X33")
@pytest.mark.parametrize(
    "entry",
    [
        "",
        "health",
        "*",
        "/*",
        "//*",
        "/a//*",
        "/docs*",
        "/docs/**",
        "/a/*/b",
        "/*/",
        "//x",
        "/a//b",
        "/a/./b",
        "/a/..",
        "/../*",
        "/a?b",
        "/a#b",
        "/a;b",
        "/a%20b",
        "/a\\b",
        "/a\n",
        "/a\0",
        "/\ufffd",
        "http://host/health",
    ],
    ids=by_code,
)
def test_refused_entries(entry: str) -> None:
    """Entries for all paths, patterns, and entries that could never match are refused with a reason."""
    assert path_entry_error(entry)


# --- properties

_SEGMENTS = st.text(st.sampled_from("ab.-~ \u00e9*"), min_size=1, max_size=5).filter(
    lambda text: text not in (".", "..")
)
_OPEN_PATHS = st.lists(_SEGMENTS, min_size=1, max_size=4).map(lambda segments: "/docs/" + "/".join(segments))
_ODD = st.sampled_from(
    [
        "//",
        "/./",
        "/../",
        ";",
        "\\",
        "\0",
        "\ufffd",
        "?",
        "#",
        "%",
        "%2e",
        "\udc80",
        *map(chr, range(0x20)),
        *map(chr, range(0x7F, 0xA0)),
    ]
)


@pytest.mark.proves("X29", "X30")
@given(_OPEN_PATHS, _ODD, st.data())
def test_an_odd_sequence_protects_an_open_path(path: str, odd: str, data: st.DataObject) -> None:
    """An ambiguous sequence anywhere in an open path makes it a protected one."""
    assert is_open(OPEN, path)

    place = data.draw(st.integers(0, len(path)))
    assert not is_open(OPEN, path[:place] + odd + path[place:])


@pytest.mark.proves("X30")
@given(_OPEN_PATHS, st.sampled_from(["/.", "/..", "/./", "/../x"]))
def test_a_dot_segment_at_the_end_protects_too(path: str, odd: str) -> None:
    """A path that ends in a dot segment is ambiguous even without a final slash."""
    assert not is_open(OPEN, path + odd)


def _normalized(path: str) -> str:
    """Uses ``posixpath``, which drops a final slash; routers that keep it see another path."""
    flat = posixpath.normpath(path)
    return flat if flat == "/" or not path.endswith("/") else flat + "/"


# How other readers may interpret a path: a proxy, a router, a file server.
READERS: dict[str, Callable[[str], str]] = {
    "normpath": _normalized,
    "unquote": unquote,
    "unquote twice": lambda path: unquote(unquote(path)),
    "unquote, then normpath": lambda path: _normalized(unquote(path)),
    "backslashes": lambda path: path.replace("\\", "/"),
    "backslashes, then normpath": lambda path: _normalized(path.replace("\\", "/")),
    "parameters": lambda path: re.sub(r";[^/]*", "", path),
    "parameters, then normpath": lambda path: _normalized(re.sub(r";[^/]*", "", path)),
    "a URL's path": lambda path: urlsplit(path).path,
    "a URL's path below a host": lambda path: urlsplit("http://host" + path).path,
    "up to a NUL": lambda path: path.partition("\0")[0],
    "slashes merged": lambda path: re.sub(r"/+", "/", path),
    "blanks and controls dropped": lambda path: re.sub(r"[\x00-\x1f\x7f]", "", path),
}
_PIECES = st.sampled_from(
    [
        *("/", ".", ";", "%", "\\", "?", "#", "a", "b", "@", ":", " "),
        *("/docs/", "/docs", "/health", "..", "/../", "/./", "//", "http:", "admin"),
        *("2e", "%2e", "%2f", "%5c", "%00", "%252e", "\0", "\t", "\n", "\ufffd", "\x85", "\u00e9"),
    ]
)
_HOSTILE = st.lists(_PIECES, max_size=8).map("".join)


@pytest.mark.proves("X30", "X32")
@examples(max_examples=500)
@given(st.one_of(_HOSTILE, _HOSTILE.map("/docs/x".__add__), st.text(max_size=8).map("/docs/".__add__)))
@example("/docs/..;/admin")
@example("/docs/%2e%2e/admin")
@example("/docs/%252e%252e/admin")
@example("/docs/..\\admin")
@example("/docs/x\0")
def test_every_reader_of_an_open_path_reads_the_same(path: str) -> None:
    """If any common interpretation of a path gives another path, it is protected."""
    if is_open(OPEN, path):
        assert {name: read(path) for name, read in READERS.items()} == dict.fromkeys(READERS, path)


@pytest.mark.proves("X29", "X32")
@examples(max_examples=500)
@given(
    st.lists(
        _PIECES | st.integers(0, 255).map("%{:02x}".format) | st.integers(0, 255).map("%{:02X}".format),
        max_size=6,
    ).map(lambda pieces: "/docs/x" + "".join(pieces))
)
@example("/docs/x%c0%ae%c0%ae/")
@example("/docs/%2e%2e/admin")
@example("/docs/%252e%252e/admin")
def test_every_reader_of_a_path_as_sent_reads_the_same(raw: str) -> None:
    """The server decodes it once; readers that decode it later, twice, or after splitting it, agree."""
    encoded = raw.encode()
    path = unquote_to_bytes(encoded.partition(b"?")[0].partition(b"#")[0]).decode("utf-8", "replace")
    if not is_open(OPEN, path, raw=encoded.partition(b"?")[0]):
        return
    # Readers that split the path first and then decode the parts.
    split = [unquote(part) for part in raw.partition("?")[0].split("/")]
    assert "/".join(split) == path
    assert {name: read(path) for name, read in READERS.items()} == dict.fromkeys(READERS, path)
    assert _normalized(raw.partition("?")[0]) == raw.partition("?")[0]


@pytest.mark.proves("A15")
@given(st.text(max_size=20), st.text(max_size=10), st.binary(max_size=20))
@example("/docs", "", b"")
@example("", "/", b"")
def test_any_path_has_a_decision(path: str, root: str, raw: bytes) -> None:
    """Any path, mount point and raw path gives a decision; only excluded paths are open."""
    for exclude in (OPEN, PathRules(exclude=ENTRIES, root_path="/api")):
        if is_open(exclude, path, root=root, raw=raw):
            assert root in ("", exclude.root_path)
            below = path.removeprefix(exclude.root_path or "")
            assert below in ENTRIES or below.startswith("/docs/")


@pytest.mark.proves("X33")
@given(
    st.one_of(
        st.text(max_size=12),
        st.text(st.sampled_from("/.*a;"), max_size=8).map("/".__add__),
        st.text(st.sampled_from("/.a"), max_size=6).map(lambda text: f"/{text}/*"),
    )
)
@example("//*")
def test_an_entry_is_refused_or_excludes_something(entry: str) -> None:
    """No accepted entry could never match, and none opens everything."""
    if path_entry_error(entry):
        return
    exclude = PathRules(exclude=[entry])
    assert not is_open(exclude, "/x-elsewhere/x")
    folder = entry.removesuffix("*")
    if folder == entry:
        assert is_open(exclude, entry)
        assert not is_open(exclude, entry + "x")
        return
    assert is_open(exclude, folder + "x")
    for path in (folder, folder[:-1], folder[:-1] + "x", folder[:-1] + "x/y"):
        assert not is_open(exclude, path)


def test_an_entry_that_would_open_everything_is_named() -> None:
    assert "everything" in path_entry_error("/*")


# --- include


API = PathRules(include=["/api/*", "/me", "/dir/", "/caf\u00e9/*"], exclude=["/api/status", "/api/pub/*"])


@pytest.mark.proves("X57")
@pytest.mark.parametrize(
    "path",
    [
        *("/api", "/api/", "/api/x", "/api/x/y", "/API", "/Api/", "/aPi/X", "/me", "/me/", "/ME", "/Me/"),
        *(
            "/dir",
            "/dir/",
            "/DIR",
            "/caf\u00e9",
            "/caf\u00e9/x",
            "/CAF\u00c9/x",
            "/ap\u0131/x",
            "/AP\u0130/x",
        ),
        # an excluded path in another spelling is not excluded
        *("/api/STATUS", "/api/status/", "/API/status", "/api/pub", "/api/pub/", "/api/PUB/x"),
        # ambiguous: two readers might disagree
        *("", "api/x", "*", "http://evil/x", "//", "//x", "/x//api", "/x/../api/x", "/./x", "/x/.", "/x/.."),
        *("/x;y", "/x\\y", "/x?y", "/x#y", "/%61pi/x", "/x%", "/x\0", "/x\n", "/x\x85", "/\ufffd", "/\udcff"),
    ],
    ids=by_code,
)
def test_included(path: str) -> None:
    """Matched as widely as any router does; the rest of an ambiguous path does not matter."""
    assert API.access(path) == "protected"


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/x", "/apix", "/apix/y", "/x/api", "/x/api/y", "/mex", "/me/x", "/dir/x", "/m", "/a"),
        *("/api/status", "/api/pub/x", "/cafe/x", "/caf", "/\u00e9", "/a b", "/api .", "/ap\u0456"),
    ],
    ids=by_code,
)
def test_not_included(path: str) -> None:
    """All other paths are open, and so is a path that is in both ``include`` and ``exclude``."""
    assert API.access(path) == "open"
    assert API.access(path, raw=quote(path).encode()) == "open"


@pytest.mark.proves("X57")
def test_letters_are_equal_if_a_regular_expression_takes_them_for_equal() -> None:
    """As for a Django route ``(?i)^api/``, to which four letters outside ASCII are ASCII letters too."""
    letters = re.compile("(?i)[a-z]")
    for letter in filter(letters.fullmatch, map(chr, range(sys.maxunicode + 1))):
        (same,) = {each for each in "abcdefghijklmnopqrstuvwxyz" if re.fullmatch(f"(?i){each}", letter)}
        assert PathRules(include=[f"/{same}/*"]).access(f"/{letter}/x") == "protected"


_SPELLINGS = st.sampled_from(["/api", "/api/", "/api/x", "/me", "/me/", "/dir", "/dir/"])


@pytest.mark.proves("X57")
@given(_SPELLINGS, st.lists(st.booleans(), min_size=8, max_size=8))
def test_case_never_opens_an_included_path(path: str, swapped: list[bool]) -> None:
    spelling = "".join(c.swapcase() if swap else c for c, swap in zip(path, swapped, strict=False))
    assert API.access(spelling) == "protected"


@pytest.mark.proves("X30", "X57")
@given(st.text(max_size=12).map("/".__add__), _ODD, st.data())
def test_an_odd_sequence_protects_a_path_that_is_not_included(
    path: str, odd: str, data: st.DataObject
) -> None:
    place = data.draw(st.integers(1, len(path)))
    assert API.access(path[:place] + odd + path[place:]) == "protected"
    assert API.access("/x", raw=b"/x" + odd.encode("utf-8", "surrogatepass")) != "optional"


@pytest.mark.proves("X32", "X57")
@examples(max_examples=500)
@given(st.one_of(_HOSTILE, _HOSTILE.map("/api/".__add__), _HOSTILE.map("/x/".__add__)))
@example("/x/..;/api/y")
@example("/x/%2e%2e/api/y")
@example("/x/..\\api/y")
@example("/\\api/y")
def test_no_reader_of_an_open_path_reads_an_included_one(path: str) -> None:
    """If any common interpretation of a path is included, the path is protected."""
    if API.access(path) == "open" and not path.startswith("/api/"):
        for name, read in READERS.items():
            assert not re.match(r"(?i)/api(/|\Z)|/me/?\Z", read(path)), name


@pytest.mark.proves("X57")
@pytest.mark.parametrize(
    ("path", "root", "access"),
    [
        ("/v1/api/x", "/v1", "protected"),
        ("/api/x", "/v1", "protected"),
        ("/v1/api/x", "", "protected"),
        ("/x", "/v1", "open"),
        ("/v1/x", "/v1", "open"),
        ("/v1", "/v1", "protected"),
        ("/V1/api/x", "/v1", "protected"),
        ("/x/v1/api/x", "/v1", "protected"),
        ("/v1x/api/x", "/v1", "protected"),
        ("/x", "/v2", "protected"),
        ("/x", "/v1/", "protected"),
    ],
)
def test_included_below_a_mount(path: str, root: str, access: str) -> None:
    """A path that two routers could understand differently is protected."""
    rules = PathRules(include=["/api/*"], root_path="/v1")
    assert rules.access(path, root=root) == access


@pytest.mark.proves("X57")
def test_nothing_is_open_below_an_unknown_mount() -> None:
    for path in ("/x", "/v1/x", "/", "/api/x"):
        assert API.access(path, root="/v1") == "protected"
    assert API.access("/x", root="") == "open"


def test_include_may_name_everything() -> None:
    """It equals the default."""
    assert path_entry_error("/*", opens=False) == ""
    assert {PathRules(include=["/*"]).access(path) for path in ("", "/", "/x", "/x/y", "*")} == {"protected"}


# --- optional


@pytest.mark.proves("X33")
@given(st.one_of(_HOSTILE, _OPEN_PATHS, _HOSTILE.map("/docs/".__add__)), st.binary(max_size=8))
def test_optional_matches_as_exclude_does(path: str, raw: bytes) -> None:
    expected = "optional" if is_open(OPEN, path, raw=raw) else "protected"
    assert PathRules(optional=ENTRIES).access(path, raw=raw) == expected


def test_precedence() -> None:
    """The stricter rule of those that open a path; a listed path before ``include``."""
    rules = PathRules(include=["/api/*"], exclude=["/a", "/api/b"], optional=["/a", "/api/c", "/c"])
    assert {path: rules.access(path) for path in ("/a", "/api/b", "/api/c", "/c", "/api/d", "/d")} == {
        "/a": "optional",
        "/api/b": "open",
        "/api/c": "optional",
        "/c": "optional",
        "/api/d": "protected",
        "/d": "open",
    }


def test_the_description() -> None:
    rules = PathRules(include=["/api/*"], exclude=["/api/status"], optional=["/a", "/b"])
    assert list(rules.describe()) == [
        "open without credentials: every path except '/api/*'",
        "open without credentials: '/api/status'",
        "credentials are optional: '/a', '/b'",
    ]


def test_from_settings() -> None:
    """The setting of the mount point takes precedence over the app's own."""
    settings = Settings(include=("/api/*", "/dir/"), exclude=("/api/a",), optional=("/api/b",))
    rules = PathRules.from_settings(settings, "/v1")

    for path in ("/v1/api", "/v1/api/x", "/v1/dir", "/v1/dir/"):
        assert rules.access(path, root="/v1") == "protected"
    for path in ("/v1/api/a", "/v1/apix", "/v1/dirx", "/v1/x"):
        assert rules.access(path, root="/v1") == "open"
    assert rules.access("/v1/api/b", root="/v1") == "optional"
    assert rules.access("/api/a") == rules.access("/x") == "open", "WSGI has no mount point in the path"
    moved = PathRules.from_settings(settings.replace(root_path="/v2"), "/v1")
    assert moved.access("/v2/x", root="/v2") == "open"
    assert moved.access("/v1/x", root="/v1") == "protected"
    assert PathRules.from_settings(settings).access("/x", root="/v1") == "protected"


def test_what_is_possible_at_all() -> None:
    """Without such rules, a middleware does not read the path of a request."""
    made = [PathRules(), PathRules(include=["/a"]), PathRules(exclude=["/a"]), PathRules(optional=["/a"])]
    assert [rules.has_open for rules in made] == [False, True, True, False]
    assert [rules.has_optional for rules in made] == [False, False, False, True]
