"""Requests to try: which one was asked for, and it in curl, Python and JavaScript, to be pasted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pprint import pformat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..keys.validation import check_depth
from .openapi import Endpoint
from .problems import PageProblem
from .wording import CLIENT_ID, SECRET, TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..backends.backend import Issued

_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_CONTENT_TYPE: Final = re.compile(r"[\x20-\x7e]{1,200}")
_IN_URLS: Final = "/?:@!$&'()*+,;=-._~%[]"
_BODILESS: Final = frozenset({"GET", "HEAD"})
_WIDTH: Final = 88
_MAX_DEPTH: Final = 32  # what is nested deeper is shown as text


@dataclass(frozen=True, slots=True)
class Call:
    """A request to be shown.

    Attributes:
        body: Text; empty: none.
        token: Base64 of id and secret, or ``TOKEN``. Hidden in ``repr``.
    """

    method: str
    url: str
    body: str = ""
    content_type: str = "application/json"
    token: str = field(default=TOKEN, repr=False)

    @property
    def sends_body(self) -> bool:
        """Whether a body goes with it: browsers send none with GET and HEAD."""
        return bool(self.body) and self.method not in _BODILESS

    @property
    def has_globs(self) -> bool:
        """Whether curl would take the URL for several."""
        return any(character in self.url for character in "[]{}")


class Snippet(NamedTuple):
    """One way to say it: a name, a title for people, and what is to be pasted."""

    name: str
    title: str
    code: str


def check_typed(typed: Mapping[str, str]) -> None:
    """Make sure that what was typed makes a request to this host.

    Raises:
        PageProblem: It does not.
    """
    method, path, content_type = typed["method"], typed["path"], typed["content_type"]
    advice = ""
    if method and not _METHOD.fullmatch(method):
        advice = "Give a method in letters, such as GET or POST."
    elif path and (not path.startswith("/") or path.startswith("//")):
        advice = "Give a path on this host that begins with one slash, such as /items?page=2."
    elif content_type and not _CONTENT_TYPE.fullmatch(content_type):
        advice = "Give a content type such as application/json."
    if advice:
        raise PageProblem(422, "no-call", advice)


def call_context(
    typed: Mapping[str, str], endpoints: Sequence[Endpoint], origin: str, base: str, issued: Issued | None
) -> dict[str, Any]:
    """What ``_call.html`` shows. It never fails: a new secret may stand beside it, this once.

    Args:
        typed: By field of the form; what is missing or empty is as the endpoint has it.
        endpoints: To pick from; none: there is no document, and a field takes the path.
        origin: Of the app.
        base: Where its paths begin.
        issued: The credentials, while they are on the screen.
    """
    endpoint = next((each for each in endpoints if each.label == typed.get("endpoint")), None)
    if endpoint is None and "path" not in typed:
        endpoint = next(iter(endpoints), None)
    endpoint = endpoint or Endpoint("GET", f"{base}/")
    path = typed.get("path") or endpoint.path
    client_id = issued.client_id if issued else typed.get("id", "")
    call = Call(
        typed.get("method") or endpoint.method,
        f"{origin}{quote(path, safe=_IN_URLS)}",
        typed["body"].replace("\r\n", "\n") if "body" in typed else endpoint.body,
        typed.get("content_type") or endpoint.content_type,
        issued.token if issued else TOKEN,
    )
    return {
        "endpoints": endpoints,
        "picked": endpoint.label if endpoint in endpoints else "",
        "call": call,
        "path": path,
        "snippets": requests_for(call),
        "encoders": encoders_for(client_id or CLIENT_ID, issued.secret if issued else SECRET),
        "issued": issued,
        "client_id": client_id,
    }


def requests_for(call: Call) -> list[Snippet]:
    """The request in each language."""
    value = _python_value(call.body) if call.sends_body and call.content_type == "application/json" else ""
    return [
        Snippet("curl", "cURL", _render("curl", call=call)),
        *(
            Snippet(library, f"Python: {library}", _render("python", call=call, library=library, value=value))
            for library in ("requests", "httpx")
        ),
        Snippet("fetch", "JavaScript: fetch", _render("fetch", call=call)),
    ]


def encoders_for(client_id: str = CLIENT_ID, secret: str = SECRET) -> list[Snippet]:
    """The lines that make a token of an id and a secret."""
    return [
        Snippet(name, f"Encode: {title}", _render(name, client_id=client_id, secret=secret))
        for name, title in (
            ("encode-shell", "shell"),
            ("encode-python", "Python"),
            ("encode-javascript", "JavaScript"),
        )
    ]


def _render(name: str, **context: Any) -> str:
    return _environment.get_template(f"{name}.txt").render(**context)


def _python_value(body: str) -> str:
    """JSON as a Python expression, indented as an argument; empty: it is no JSON."""
    try:
        check_depth(body, _MAX_DEPTH)
        value = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return ""
    return pformat(value, width=_WIDTH, sort_dicts=False).replace("\n", "\n         ")


def _refuse(_name: str) -> NoReturn:
    raise ValueError  # NaN and Infinity, which RFC 8259 does not know


def _python(text: str) -> str:
    # JSON's escapes are Python's too, but for those of characters beyond the first plane.
    return json.dumps(text) if text.isascii() else repr(text)


def _shell(text: str) -> str:
    quoted = text.replace("'", "'\"'\"'")
    return f"'{quoted}'"


def _printf(text: str) -> str:
    """Arguments of printf; text that cannot be shown, or would turn round what follows, as octal escapes."""
    if text.isprintable():
        return f"'%s' {_shell(text)}"
    octets = (chr(each) if chr(each).isalnum() and each < 128 else f"\\{each:03o}" for each in text.encode())
    return f"'{''.join(octets)}'"


_environment: Final = Environment(
    loader=PackageLoader("basicauth_mw.dashboard", "templates/snippets"),
    autoescape=False,  # noqa: S701 - each language has a quoting of its own; a page escapes all of it
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(ascii=ascii, json=json.dumps, printf=_printf, python=_python, shell=_shell)
