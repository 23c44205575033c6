"""Requests to paste: curl, Python, JavaScript, and the lines that encode a token. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pprint import pformat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from ..rules import check_depth

if TYPE_CHECKING:
    from collections.abc import Iterator

# What stands in for credentials that are not on the screen. Safe in every language's quotes.
TOKEN: Final = "YOUR_TOKEN"  # noqa: S105 - the very opposite
CLIENT_ID: Final = "YOUR_CLIENT_ID"
SECRET: Final = "YOUR_CLIENT_SECRET"  # noqa: S105

_BODILESS: Final = frozenset({"GET", "HEAD"})
_WIDTH: Final = 88
_MAX_DEPTH: Final = 32  # what is nested deeper is shown as text


@dataclass(frozen=True, slots=True)
class Call:
    """A request to be shown.

    Attributes:
        method: ``POST`` and so on.
        url: All of it.
        body: Text; empty: none.
        content_type: Of the body.
        token: Base64 of id and secret, or ``TOKEN``.
    """

    method: str
    url: str
    body: str = ""
    content_type: str = "application/json"
    token: str = TOKEN

    @property
    def sends_body(self) -> bool:
        """Whether a body goes with it: browsers send none with GET and HEAD."""
        return bool(self.body) and self.method not in _BODILESS


class Snippet(NamedTuple):
    """One way to say it.

    Attributes:
        name: ``curl`` and so on.
        title: For people.
        code: To be pasted.
    """

    name: str
    title: str
    code: str


def requests_for(call: Call) -> list[Snippet]:
    """The request in each language."""
    return [
        Snippet("curl", "cURL", curl(call)),
        Snippet("requests", "Python: requests", python(call, "requests")),
        Snippet("httpx", "Python: httpx", python(call, "httpx")),
        Snippet("fetch", "JavaScript: fetch", javascript(call)),
    ]


def encoders_for(client_id: str = CLIENT_ID, secret: str = SECRET) -> list[Snippet]:
    """The lines that make a token of an id and a secret."""
    pair = f"{client_id}:{secret}"
    printed = f"'%s' {_shell(pair)}" if pair.isprintable() else f"'{_octal(pair)}'"
    shell = f"printf {printed} | base64 | tr -d '\\n'"
    python_lines = (
        "from base64 import b64encode\n\n"
        f"client_id, client_secret = {client_id!a}, {secret!a}\n"
        'token = b64encode(f"{client_id}:{client_secret}".encode()).decode()\n'
        'headers = {"Authorization": f"Basic {token}"}'
    )
    script = (
        f"const [clientId, clientSecret] = [{json.dumps(client_id)}, {json.dumps(secret)}];\n"
        "const octets = new TextEncoder().encode(`${clientId}:${clientSecret}`);\n"
        "const token = btoa(String.fromCharCode(...octets));\n"
        "const headers = { Authorization: `Basic ${token}` };"
    )
    return [
        Snippet("encode-shell", "Encode: shell", shell),
        Snippet("encode-python", "Encode: Python", python_lines),
        Snippet("encode-javascript", "Encode: JavaScript", script),
    ]


def curl(call: Call) -> str:
    """For a POSIX shell."""
    # -X HEAD would wait for a body that never comes.
    how = ["--head"] if call.method == "HEAD" else ["-X", call.method]
    if any(character in call.url for character in "[]{}"):
        how.append("--globoff")
    lines = [" ".join(["curl", *how, "--compressed", _shell(call.url)])]
    lines.append(f"-H {_shell(f'Authorization: Basic {call.token}')}")
    if call.sends_body:
        lines.append(f"-H {_shell(f'Content-Type: {call.content_type}')}")
        option = "--data-raw" if call.body.startswith("@") else "-d"  # @ would name a file
        lines.append(f"{option} {_shell(call.body)}")
    return " \\\n  ".join(lines)


def python(call: Call, library: str) -> str:
    """For ``requests`` or ``httpx``, which differ in how a raw body is given."""
    headers = [f'"Authorization": "Basic {call.token}"']
    arguments = [f"{json.dumps(call.method)}", f"{_python(call.url)}"]
    body = ""
    if call.sends_body:
        value = _json(call.body) if call.content_type == "application/json" else _NOT_JSON
        if value is not _NOT_JSON:
            body = f"json={_indented(value)}"
        else:
            headers.append(f'"Content-Type": {_python(call.content_type)}')
            name = "data" if library == "requests" else "content"
            body = f"{name}={_python(call.body)}.encode()"
    arguments.append(f"headers={{{', '.join(headers)}}}")
    if body:
        arguments.append(body)
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return (
        f"import {library}\n\nresponse = {library}.request(\n{lines})\n"
        "print(response.status_code, response.text)"
    )


def javascript(call: Call) -> str:
    """For a browser or Node."""
    headers = [f'Authorization: "Basic {call.token}"']
    if call.sends_body:
        headers.append(f'"Content-Type": {json.dumps(call.content_type)}')
    lines = [f"method: {json.dumps(call.method)},", f"headers: {{ {', '.join(headers)} }},"]
    if call.sends_body:
        lines.append(f"body: {json.dumps(call.body)},")
    inside = "".join(f"  {line}\n" for line in lines)
    return (
        f"const response = await fetch({json.dumps(call.url)}, {{\n{inside}}});\n"
        "console.log(response.status, await response.text());"
    )


_NOT_JSON: Final = object()


def _json(text: str) -> Any:
    try:
        check_depth(text, _MAX_DEPTH)
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _refuse(_name: str) -> NoReturn:
    raise ValueError  # NaN and Infinity, which RFC 8259 does not know


def _indented(value: Any) -> str:
    text = pformat(value, width=_WIDTH, sort_dicts=False)
    return "\n".join(_continued(text))


def _continued(text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n")):
        yield line if number == 0 else f"         {line}"


def _python(text: str) -> str:
    # JSON's escapes are Python's too, but for those of characters beyond the first plane.
    return json.dumps(text) if text.isascii() else repr(text)


def _octal(text: str) -> str:
    """A format of printf for text that cannot be shown, or would turn round what stands beside it."""
    return "".join(
        chr(each) if chr(each).isalnum() and each < 128 else f"\\{each:03o}" for each in text.encode()
    )


def _shell(text: str) -> str:
    quoted = text.replace("'", "'\"'\"'")
    return f"'{quoted}'"
