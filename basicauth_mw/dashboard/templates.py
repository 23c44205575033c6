"""The Jinja environment, with filters that show untrusted text and quote text in code samples."""

from __future__ import annotations

import json
import shlex
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from ..keys.escaping import escape_control
from .responses import STYLE, VERSION
from .strings import ADMIN_SCOPE, LIFETIMES, OVERLAPS, READ_SCOPE, STATES, TOKEN

if TYPE_CHECKING:
    from datetime import timedelta


def _escape_control(text: object) -> str:
    return escape_control(str(text))


def humanize(duration: timedelta) -> str:
    """Show the largest unit of a duration: ``3 days``."""
    seconds = int(duration.total_seconds())
    for name, size in (("year", 31_536_000), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}" + ("s" if count > 1 else "")
    return "under a minute"


def _python(text: str) -> str:
    # JSON's escapes are Python's too, except for characters outside the Basic Multilingual Plane.
    return json.dumps(text) if text.isascii() else repr(text)


def _shell(text: str) -> str:
    quoted = text.replace("'", "'\"'\"'")
    return f"'{quoted}'"


def _printf(text: str) -> str:
    """Quote text as arguments of printf; text with unprintable characters becomes octal escapes."""
    if text.isprintable():
        return f"'%s' {_shell(text)}"
    escaped = (chr(each) if chr(each).isalnum() and each < 128 else f"\\{each:03o}" for each in text.encode())
    return f"'{''.join(escaped)}'"


def render_template(template: str, **context: Any) -> str:
    return environment.get_template(template).render(**context)


environment: Final = Environment(
    loader=PackageLoader("basicauth_mw.dashboard"),
    autoescape=select_autoescape(["html"]),  # code samples (.txt) quote for their own language
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters.update(
    ascii=ascii,
    escape_control=_escape_control,
    humanize=humanize,
    json=json.dumps,
    json_text=partial(json.dumps, ensure_ascii=False, default=str),
    printf=_printf,
    python=_python,
    shell=_shell,
    word=shlex.quote,
)
environment.globals.update(
    ADMIN_SCOPE=ADMIN_SCOPE,
    READ_SCOPE=READ_SCOPE,
    LIFETIMES=LIFETIMES,
    OVERLAPS=OVERLAPS,
    render=render_template,  # returns text that pages must escape, so not Jinja's include
    STATES=STATES,
    STYLE=Markup(STYLE),  # noqa: S704 - our own file
    TOKEN=TOKEN,
    UTC=UTC,
    VERSION=VERSION,
)
