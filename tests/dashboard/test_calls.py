"""Call API: code samples, and the page."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64encode
from typing import Any

import pytest

from basicauth_mw.dashboard.calls import RequestDraft
from basicauth_mw.dashboard.templates import render_template
from tests.dashboard.conftest import BASE, Visitor

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


def code_of(draft: RequestDraft, name: str) -> str:
    return render_template(f"snippets/{name}.txt", draft=draft)


@pytest.mark.parametrize("text", NASTY)
def test_curl_sends_the_request(text: str) -> None:
    """Check the arguments that a shell passes to curl."""
    body = json.dumps({"text": text}, ensure_ascii=False, indent=2)
    code = code_of(RequestDraft("POST", f"{BASE}/echo", body, token="dG9rZW4="), "curl")
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


@pytest.mark.parametrize(
    ("scheme", "header", "value"),
    [("bearer", "Authorization", "Bearer dG9rZW4="), ("header:x-api-key", "x-api-key", "dG9rZW4=")],
)
def test_code_samples_use_the_scheme_of_the_app(scheme: str, header: str, value: str) -> None:
    draft = RequestDraft("GET", BASE, scheme=scheme, token="dG9rZW4=")
    name = header if header.isalpha() else f'"{header}"'

    assert f"-H '{header}: {value}'" in code_of(draft, "curl")
    assert f'headers={{"{header}": "{value}"}}' in code_of(draft, "httpx")
    assert f'headers: {{ {name}: "{value}" }}' in code_of(draft, "fetch")
    prefix = value.removesuffix("dG9rZW4=")
    assert f'headers = {{"{header}": f"{prefix}{{token}}"}}' in code_of(draft, "encode-python")
    assert f"headers = {{ {name}: `{prefix}${{token}}` }}" in code_of(draft, "encode-javascript")


def test_curl_options_for_special_requests() -> None:
    raw = RequestDraft("POST", f"{BASE}/a[1]{{b}}", "@name", "text/plain")

    assert "--data-raw '@name'" in code_of(raw, "curl")
    assert "--globoff" in code_of(raw, "curl")
    assert code_of(RequestDraft("HEAD", BASE), "curl").startswith("curl --head --compressed")
    assert "-d" not in code_of(RequestDraft("GET", BASE, "body"), "curl")


@pytest.mark.parametrize("library", ["requests", "httpx"])
@pytest.mark.parametrize(
    "text", [*NASTY, None, True, 1.5, [1, {"a": None}], {"deep": {"er": list(range(99))}}]
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_python_sends_the_request(library: str, text: object, kind: str) -> None:
    body = json.dumps({"value": text}, ensure_ascii=False)
    code = code_of(RequestDraft("PUT", f"{BASE}/x?y=\u20ac", body, kind, token="dG9rZW4="), library)
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
def test_a_body_that_is_not_json_is_sent_as_text(body: str) -> None:
    code = code_of(RequestDraft("POST", BASE, body), "httpx")

    assert "content=" in code or body == '""'
    compile(code, "snippet", "exec")


@pytest.mark.parametrize("depth", [33, 400, 3000])
def test_a_deeply_nested_body_is_shown_as_text(depth: int) -> None:
    body = "[" * depth + "]" * depth

    for name in ("curl", "requests", "httpx", "fetch"):
        assert body in code_of(RequestDraft("POST", "https://example.com/", body), name)


@pytest.mark.parametrize("text", NASTY)
def test_javascript_sends_the_request(text: str) -> None:
    body = json.dumps({"text": text}, ensure_ascii=False)
    code = code_of(RequestDraft("POST", f"{BASE}/echo", body, token="dG9rZW4="), "fetch")

    assert f"body: {json.dumps(body)}," in code
    assert '"Basic dG9rZW4="' in code
    assert "body" not in code_of(RequestDraft("GET", BASE, body), "fetch")


@pytest.mark.parametrize(
    ("client_id", "secret"), [("ci", "sk_1"), *((text, text) for text in NASTY), ("\u202e", "x")]
)
def test_encoders_make_the_token(client_id: str, secret: str) -> None:
    draft = RequestDraft("GET", BASE, client_id=client_id, secret=secret)
    shell, python, script = (code_of(draft, f"encode-{name}") for name in ("shell", "python", "javascript"))
    expected = b64encode(f"{client_id}:{secret}".encode()).decode()
    names: dict[str, Any] = {}

    exec(python, names)
    assert names["headers"] == {"Authorization": f"Basic {expected}"}
    printed = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert printed == expected
    assert "\u202e" not in shell + python + script
    if node := shutil.which("node"):
        code = script + "\nprocess.stdout.write(token);"
        assert (
            subprocess.run([node, "-e", code], capture_output=True, text=True, check=True).stdout == expected
        )


def test_the_page_shows_an_endpoint(admin: Visitor) -> None:
    first, other = admin.get("/call").text, admin.get("/call", endpoint="GET /missing").text

    assert '<option value="POST /echo" selected>' in first
    assert "-H &#39;Authorization: Basic YOUR_TOKEN&#39;" in first
    assert "it&#39;&#34;&#39;&#34;&#39;s" in first  # its example, in a shell's quotes
    assert "curl -X GET --compressed &#39;http://127.0.0.1:8000/missing&#39;" in other


def test_the_page_keeps_the_form_values(admin: Visitor) -> None:
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
def test_code_samples_use_the_origin_of_the_browser(
    admin: Visitor, host: str, site: str | None, origin: str
) -> None:
    """Behind a proxy that terminates TLS, http would send the key unencrypted."""
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
def test_invalid_requests_give_an_error(admin: Visitor, wrong: dict[str, str]) -> None:
    form = {**admin.form("/call"), "method": "GET", "path": "/", "content_type": "text/plain", **wrong}
    page = admin.post("/call", form)

    assert page.status_code == 422
    assert 'role="alert"' in page.text
