"""Requests to paste: curl, Python, JavaScript, and the lines that encode a token."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pprint import pformat
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..rules import check_depth
from .wording import CLIENT_ID, SECRET, TOKEN

if TYPE_CHECKING:
    from typing import Any

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
