"""The pure parts: requests to paste, endpoints from a document, tokens, charts, activity."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from base64 import b64encode
from datetime import timedelta
from typing import Any

import pytest

from basicauth_mw import Credentials
from basicauth_mw.auth.authenticator import _AUDITED
from basicauth_mw.auth.stats import Snapshot
from basicauth_mw.dashboard.calls import Call, encoders_for, requests_for
from basicauth_mw.dashboard.listing import KeyView, Place, recency_of
from basicauth_mw.dashboard.openapi import MAX_ENDPOINTS, Endpoint, endpoints_of
from basicauth_mw.dashboard.problems import OldToken, PageProblem
from basicauth_mw.dashboard.templates import environment, render
from basicauth_mw.dashboard.tokens import LIFE_S, PageTokens
from basicauth_mw.dashboard.views import reason_groups
from basicauth_mw.dashboard.wording import REASONS
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow
from tests.dashboard.conftest import BASE, Visitor, a_request

NASTY = [
    "it's",
    '"quoted"',
    "$HOME `id` \\ !x",
    "two\nlines",
    "@file",
    "\u20ac \U0001f511",
    "</script>",
    "{a} [b]",
]

# --- requests to paste


def code_of(call: Call, name: str) -> str:
    return next(each.code for each in requests_for(call) if each.name == name)


@pytest.mark.parametrize("text", NASTY)
def test_curl_says_the_request(text: str) -> None:
    """Word for word what a shell makes of it."""
    body = json.dumps({"text": text}, ensure_ascii=False, indent=2)
    code = code_of(Call("POST", f"{BASE}/echo", body, token="dG9rZW4="), "curl")
    assert code.startswith(
        "curl -X POST --compressed 'http://127.0.0.1:8000/echo' \\\n  -H 'Authorization: Basic "
    )

    words = subprocess.run(
        ["sh", "-c", 'curl() { printf "%s\\0" "$@"; }\n' + code], capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    assert words == [
        *("-X", "POST", "--compressed", f"{BASE}/echo"),
        *("-H", "Authorization: Basic dG9rZW4=", "-H", "Content-Type: application/json", "-d", body),
    ]


def test_curl_of_what_curl_would_read_otherwise() -> None:
    raw = Call("POST", f"{BASE}/a[1]{{b}}", "@name", "text/plain")

    assert "--data-raw '@name'" in code_of(raw, "curl")
    assert "--globoff" in code_of(raw, "curl")
    assert code_of(Call("HEAD", BASE), "curl").startswith("curl --head --compressed")
    assert "-d" not in code_of(Call("GET", BASE, "body"), "curl")


@pytest.mark.parametrize("library", ["requests", "httpx"])
@pytest.mark.parametrize(
    "text", [*NASTY, None, True, 1.5, [1, {"a": None}], {"deep": {"er": list(range(99))}}]
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_python_says_the_request(library: str, text: object, kind: str) -> None:
    body = json.dumps({"value": text}, ensure_ascii=False)
    code = code_of(Call("PUT", f"{BASE}/x?y=\u20ac", body, kind, token="dG9rZW4="), library)
    seen: dict[str, Any] = {}

    class Library:
        @staticmethod
        def request(*arguments: object, **named: object) -> Any:
            seen.update(arguments=arguments, **named)
            return type("Response", (), {"status_code": 200, "text": ""})

    exec(code.replace(f"import {library}\n", ""), {library: Library, "print": lambda *_: None})
    assert seen["arguments"] == ("PUT", f"{BASE}/x?y=\u20ac")
    assert seen["headers"]["Authorization"] == "Basic dG9rZW4="
    if kind == "application/json":
        assert seen["json"] == {"value": text}
    else:
        assert seen["headers"]["Content-Type"] == kind
        assert seen["data" if library == "requests" else "content"] == body.encode()


@pytest.mark.parametrize("body", ["no json", '{"a": NaN}', "[" * 100_000, '"\ud800"'[:1] + '"'])
def test_a_body_that_is_no_json_goes_as_it_is(body: str) -> None:
    code = code_of(Call("POST", BASE, body), "httpx")

    assert "content=" in code or body == '""'
    compile(code, "snippet", "exec")


@pytest.mark.parametrize("text", NASTY)
def test_javascript_says_the_request(text: str) -> None:
    body = json.dumps({"text": text}, ensure_ascii=False)
    code = code_of(Call("POST", f"{BASE}/echo", body, token="dG9rZW4="), "fetch")

    assert f"body: {json.dumps(body)}," in code
    assert '"Basic dG9rZW4="' in code
    assert "body" not in code_of(Call("GET", BASE, body), "fetch")


@pytest.mark.parametrize(
    ("client_id", "secret"), [("ci", "sk_1"), *((text, text) for text in NASTY), ("\u202e", "x")]
)
def test_the_lines_that_encode(client_id: str, secret: str) -> None:
    shell, python, script = encoders_for(client_id, secret)
    expected = b64encode(f"{client_id}:{secret}".encode()).decode()
    names: dict[str, Any] = {}

    exec(python.code, names)
    assert names["headers"] == {"Authorization": f"Basic {expected}"}
    said = subprocess.run(["sh", "-c", shell.code], capture_output=True, text=True, check=True).stdout
    assert said == expected
    assert "\u202e" not in shell.code + python.code + script.code
    if node := shutil.which("node"):
        code = script.code + "\nprocess.stdout.write(token);"
        assert (
            subprocess.run([node, "-e", code], capture_output=True, text=True, check=True).stdout == expected
        )


# --- endpoints


def document(**operation: Any) -> dict[str, Any]:
    return {"paths": {"/x": {"post": operation}}}


def example_of(schema: Any, **components: Any) -> Any:
    body = {"content": {"application/json": {"schema": schema}}}
    (endpoint,) = endpoints_of({**document(requestBody=body), "components": {"schemas": components}})
    return json.loads(endpoint.body)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "format": "uuid"}, "00000000-0000-4000-8000-000000000000"),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "minimum": "x"}, 1),
        ({"type": "number"}, 1.5),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["integer", "null"]}, 1),
        ({"type": []}, "text"),
        ({"type": "array"}, []),
        ({"type": "array", "items": {"type": "integer"}}, [1]),
        ({"type": "object"}, {}),
        ({"properties": {"a": {"default": 3}, "b": {"const": 4}}}, {"a": 3, "b": 4}),
        ({"enum": ["red", "blue"]}, "red"),
        ({"example": {"a": 1}}, {"a": 1}),
        ({"examples": ["one", "two"]}, "one"),
        ({"examples": {"no value": {}}, "default": 2}, 2),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
        ({"oneOf": [{"type": "boolean"}]}, True),
        (
            {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}, {"type": "string"}]},
            {"a": "text", "b": "text"},
        ),
        ({"$ref": "#/components/schemas/A"}, {"text": "text"}),
        ({"$ref": "#/components/schemas/a~1b"}, 1),
        ({"$ref": "#/nowhere"}, "text"),
        ({"$ref": "#/components/schemas/A/type/x"}, "text"),
        ({"$ref": "https://elsewhere.example/"}, "text"),
        ({"$ref": "#/components/schemas/Self"}, "text"),
        (7, "text"),
    ],
    ids=str,
)
def test_an_example_of_a_schema(schema: Any, expected: Any) -> None:
    components = {
        "A": {"type": "object", "properties": {"text": {"type": "string"}}},
        "a/b": {"type": "integer"},
        "Self": {"$ref": "#/components/schemas/Self"},
    }
    assert example_of(schema, **components) == expected


def test_schemas_that_refer_to_one_another_end() -> None:
    """However they branch, little is made of them."""
    wide = {"properties": {f"p{number}": {"$ref": "#/components/schemas/Wide"} for number in range(40)}}
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Wide"}}}}
    paths = {f"/{number}": {"post": {"requestBody": body}} for number in range(50)}

    found = endpoints_of({"paths": paths, "components": {"schemas": {"Wide": wide}}})
    assert len(found) == 50
    assert sum(len(endpoint.body) for endpoint in found) < 5_000_000


def test_parameters_titles_kinds_and_servers() -> None:
    given = {
        "servers": [{"url": "/api/"}],
        "paths": {
            "/items/{number}/{name}/{other}": {
                "parameters": [
                    {"in": "path", "name": "number", "schema": {"type": "integer"}},
                    {"$ref": "#/components/parameters/Name"},
                ],
                "get": {
                    "summary": "Look",
                    "parameters": [
                        {"in": "query", "name": "q", "required": True, "example": "a b"},
                        {"in": "query", "name": "left out"},
                        {"in": "query", "name": "n", "required": True, "schema": {"type": "boolean"}},
                    ],
                },
                "put": {"requestBody": {"content": {"text/plain": {"example": "words"}}}},
                "patch": {
                    "requestBody": {
                        "content": {
                            "application/x-www-form-urlencoded": {"examples": {"x": {"value": {"a": "b c"}}}}
                        }
                    }
                },
                "delete": {"summary": 7, "requestBody": {"content": {"text/csv": 7}}},
                "trace": {},
            },
            "no-slash": {"get": {}},
            "/nothing": 7,
        },
        "components": {"parameters": {"Name": {"in": "path", "name": "name", "example": "a/b"}}},
    }
    path = "/api/items/1/a%2Fb/text"
    assert endpoints_of(given) == [
        Endpoint("GET", f"{path}?q=a+b&n=true", "Look"),
        Endpoint("PUT", path, "", "words", "text/plain"),
        Endpoint("PATCH", path, "", "a=b+c", "application/x-www-form-urlencoded"),
        Endpoint("DELETE", path, "", "text", "text/csv"),
    ]


@pytest.mark.parametrize(
    "given", [None, 7, [], {}, {"paths": 7}, {"paths": []}, {"paths": {"/": {"get": 7}}}, {"paths": {7: {}}}]
)
def test_what_is_no_document_has_no_endpoints(given: Any) -> None:
    assert endpoints_of(given) == []


@pytest.mark.parametrize(
    "servers", [7, [], [7], [{}], [{"url": "https://elsewhere"}], [{"url": "//elsewhere"}]]
)
def test_servers_elsewhere_do_not_count(servers: Any) -> None:
    assert endpoints_of({"paths": {"/x": {"get": {}}}, "servers": servers})[0].path == "/x"


def test_paths_begin_where_the_app_does() -> None:
    """Unless the document says otherwise."""
    paths = {"paths": {"/x": {"get": {}}}}

    assert endpoints_of(paths, "/api")[0].path == "/api/x"
    assert endpoints_of({**paths, "servers": [{"url": "/other"}]}, "/api")[0].path == "/other/x"


ROUND: dict[str, Any] = {}
ROUND["self"] = ROUND
DEEP: dict[str, Any] = {}
for _ in range(3000):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "given",
    [
        {"example": ROUND},
        {"example": DEEP},
        {"example": {("a", 1): 2}},
        {"example": 10**5000},
        {"schema": {"type": "integer", "minimum": 10**5000}},
    ],
    ids=["round", "deep", "no-text", "huge", "huge-least"],
)
def test_a_broken_example_leaves_its_endpoint_out(given: dict[str, Any]) -> None:
    """And no other."""
    body = {"content": {"application/json": given}}

    found = endpoints_of({"paths": {"/a": {"post": {"requestBody": body}}, "/b": {"get": {}}}})
    assert [endpoint.label for endpoint in found] == ["GET /b"]


@pytest.mark.parametrize(
    "path",
    [
        {"/\ud800": {"get": {}}},
        {"//elsewhere": {"get": {}}},
        {"/{a}": {"get": {"parameters": [{"in": "path", "name": "a", "example": "\ud800"}]}}},
        {"/": {"get": {"parameters": [{"in": "query", "name": "a", "required": True, "example": "\ud800"}]}}},
    ],
    ids=["surrogate", "host", "parameter", "query"],
)
def test_what_is_no_path_is_left_out(path: dict[str, Any]) -> None:
    assert endpoints_of({"paths": {**path, "/b": {"get": {}}}}) == [Endpoint("GET", "/b")]


def test_an_example_that_no_form_could_hold_is_none() -> None:
    body = {"content": {"application/json": {"example": "x" * 70_000}}}

    assert endpoints_of({"paths": {"/a": {"post": {"requestBody": body}}}})[0].body == ""


MANY = {f"name-{number}": {"type": "string"} for number in range(20_000)}
LARGE = {
    "example": {"content": {"application/json": {"example": ["x" * 20] * 30_000}}},
    "many-examples": {"content": {"application/json": {"examples": MANY}}},
    "schema-example": {"content": {"application/json": {"schema": {"example": [[1]] * 200_000}}}},
    "default": {"content": {"application/json": {"schema": {"default": ["x" * 800_000]}}}},
    "names": {"content": {"application/json": {"schema": {"enum": [dict.fromkeys(MANY, 1)]}}}},
    "properties": {"content": {"application/json": {"schema": {"allOf": [{"properties": MANY}] * 40}}}},
    "kinds": {"content": MANY},
}


def calls_of(paths: dict[str, Any], components: dict[str, Any]) -> tuple[list[Endpoint], int]:
    """The endpoints of a document, and how many calls it takes to read them, those of builtins included."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = endpoints_of({"paths": paths, "components": components})
    finally:
        sys.setprofile(None)
    return found, calls


@pytest.mark.parametrize("name", LARGE)
def test_large_documents_take_a_bounded_time(name: str) -> None:
    """What 500 endpoints refer to is not read 500 times, however large it is."""
    body = {"$ref": "#/components/requestBodies/Large"}
    paths = {f"/{number}": {"post": {"requestBody": body}} for number in range(MAX_ENDPOINTS)}

    found, calls = calls_of(paths, {"requestBodies": {"Large": LARGE[name]}})
    assert calls < 10_000_000
    assert len(found) == MAX_ENDPOINTS
    assert sum(len(endpoint.body) for endpoint in found) < 5_000_000


def test_long_paths_and_references_take_a_bounded_time() -> None:
    """Neither a path with many parameters nor a long reference is worked off for each endpoint."""
    dangling = {"$ref": "#/" + "a/" * 2000}
    long = {"in": "path", "name": "a", "example": "x" * 100_000}
    paths = {
        "/" + "{a}" * 100_000: {"parameters": [long], "get": {}},
        "/{a}": {"parameters": [long], "get": {}},
        **{f"/{number}": {"get": {"parameters": [dangling] * 1000}} for number in range(500)},
    }

    found, calls = calls_of(paths, {})
    assert calls < 10_000_000
    assert [endpoint.path for endpoint in found[:2]] == ["/0", "/1"]


@pytest.mark.parametrize("depth", [33, 400, 3000])
def test_a_deeply_nested_body_is_shown_as_text(depth: int) -> None:
    body = "[" * depth + "]" * depth

    for snippet in requests_for(Call("POST", "https://example.com/", body)):
        assert body in snippet.code


def test_there_is_a_most() -> None:
    found = endpoints_of({"paths": {f"/{number}": {"get": {}} for number in range(2000)}})

    assert len(found) == MAX_ENDPOINTS


# --- tokens


def test_tokens() -> None:
    tokens = PageTokens(Credentials("me", generate("sk")))
    token = tokens.make("/new", "ci", "7", 1000.0)

    assert tokens.check(token, "/new", "ci", 1000.0 + LIFE_S) == "7"
    for late in (1001.0 + LIFE_S, 1000.0 - 61):
        with pytest.raises(OldToken):
            tokens.check(token, "/new", "ci", late)
    for act, subject in (("/other", "ci"), ("/new", "cj"), ("/newc", "i"), ("/new", "")):
        with pytest.raises(PageProblem, match="bad-token"):
            tokens.check(token, act, subject, 1000.0)
    for place in range(len(token)):
        changed = token[:place] + ("1" if token[place] != "1" else "2") + token[place + 1 :]
        with pytest.raises(PageProblem, match="bad-token"):
            tokens.check(changed, "/new", "ci", 1000.0)


@pytest.mark.parametrize("secret", [generate("sk"), "chosen"], ids=["minted", "chosen"])
def test_tokens_are_bound_to_the_credentials_and_the_pepper(secret: str) -> None:
    caller = Credentials("me", secret)
    token = PageTokens(caller, ["p"]).make("/", "", "", 0)

    assert PageTokens(caller, ["p", "old"]).check(token, "/", "", 0) == ""
    for other in (
        PageTokens(caller),
        PageTokens(caller, ["q"]),
        PageTokens(Credentials("you", secret), ["p"]),
        PageTokens(Credentials("me", f"{secret}x"), ["p"]),
    ):
        with pytest.raises(PageProblem, match="bad-token"):
            other.check(token, "/", "", 0)


# --- charts and activity


def test_charts_escape_and_bound() -> None:
    charts: Any = environment.get_template("_parts.html").module
    chart = charts.columns([0, 1, 1000], '<"&')

    assert 'aria-label="&lt;&#34;&amp;"' in chart
    assert chart.count("<rect") == 2
    assert 'height="2"' in chart  # a small figure is seen
    assert "style" not in chart
    assert charts.bar(0, 10).count('width="0.0"') == 1
    assert 'width="100.0"' in charts.bar(20, 10)
    assert 'width="0.0"' in charts.bar(1, 0)


def test_every_reason_is_explained() -> None:
    known = {reason for reasons in REASONS.values() for reason in reasons}

    assert known == {*_AUDITED, "insufficient_scope", "https_required", "overloaded"}


def test_activity_says_what_it_counts() -> None:
    totals = {"unknown": 1234, "throttled": 5, "<new>": 1}
    seen = Snapshot(utcnow() - timedelta(hours=2), totals, (0,) * 58 + (1, 2))
    markup = render(
        "activity.html",
        request=a_request(),
        writable=True,
        seen=seen,
        groups=reason_groups(totals),
        keys=[],
        place=Place(),
        following=None,
        listed=True,
        recency={},
        problem=None,
    )

    assert "1,234" in markup
    assert "&lt;new&gt;" in markup
    assert "3 in the last hour" in markup
    assert "this one process" in markup
    assert "not counted" in markup
    assert markup.index("Refused (401)") < markup.index("Throttled (429)")


def test_recency() -> None:
    now = utcnow()
    ages: list[float | None] = [0, 0.5, 3, 6.9, 29, 31, None]
    keys = [KeyView("k", last_used_at=None if age is None else now - timedelta(days=age)) for age in ages]

    counted = recency_of([*keys, KeyView("bad", problem="damaged")], now)
    assert [*counted.values()] == [2, 2, 1, 1, 1]


# --- Call API


def test_call_picks_an_endpoint(admin: Visitor) -> None:
    first, other = admin.get("/call").text, admin.get("/call", endpoint="GET /missing").text

    assert '<option value="POST /echo" selected>' in first
    assert "-H &#39;Authorization: Basic YOUR_TOKEN&#39;" in first
    assert "it&#39;&#34;&#39;&#34;&#39;s" in first  # its example, in a shell's quotes
    assert "curl -X GET --compressed &#39;http://127.0.0.1:8000/missing&#39;" in other


def test_call_shows_what_was_typed(admin: Visitor) -> None:
    form = {
        **admin.form("/call"),
        "method": "put",
        "path": "/a b?c=d",
        "body": "x\r\ny",
        "content_type": "text/plain",
    }
    page = admin.post("/call", form)

    assert page.status_code == 200
    assert "curl -X PUT --compressed &#39;http://127.0.0.1:8000/a%20b?c=d&#39;" in page.text
    assert "x\ny" in page.text
    assert 'value="/a b?c=d"' in page.text


@pytest.mark.parametrize(
    ("host", "site", "origin"),
    [
        ("api.example", "none", "https://api.example"),
        ("api.example:8443", "same-origin", "https://api.example:8443"),
        ("api.example", None, "http://api.example"),
        ("127.0.0.1.example", "none", "https://127.0.0.1.example"),
        ("127.0.0.1:8000", "none", "http://127.0.0.1:8000"),
        ("localhost", "none", "http://localhost"),
        ("app.localhost:8000", "none", "http://app.localhost:8000"),
        ("[::1]:8000", "none", "http://[::1]:8000"),
    ],
)
def test_a_request_goes_where_the_browser_went(
    admin: Visitor, host: str, site: str | None, origin: str
) -> None:
    """A server behind a proxy that ends TLS may know http only: pasted, it would send the key in clear."""
    headers = {"Host": host} if site is None else {"Host": host, "Sec-Fetch-Site": site}

    page = admin.request("GET", "/call?endpoint=GET+/missing", headers=headers).text
    assert f"--compressed &#39;{origin}/missing&#39;" in page


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "G T"},
        {"method": "<b>"},
        {"path": "//evil.example/"},
        {"path": "http://evil.example/"},
        {"content_type": "a\r\nb: c"},
    ],
    ids=str,
)
def test_call_says_what_cannot_be_sent(admin: Visitor, wrong: dict[str, str]) -> None:
    form = {**admin.form("/call"), "method": "GET", "path": "/", "content_type": "text/plain", **wrong}
    page = admin.post("/call", form)

    assert page.status_code == 422
    assert 'role="alert"' in page.text
