"""The pages: Jinja templates, and how they show what comes from elsewhere."""

from __future__ import annotations

import unicodedata
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .responses import STYLE, VERSION
from .wording import ADMIN_SCOPE, LIVES, OVERLAPS, TOKEN

if TYPE_CHECKING:
    from datetime import datetime


def visible(text: object) -> str:
    """Foreign text with what cannot be seen written out, such as characters that turn text round."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(
        each
        if each.isprintable() or unicodedata.category(each) == "Zs"
        else each.encode("unicode_escape").decode("ascii")
        for each in plain
    )


def when(moment: datetime | None, never: str = "never", *, only_day: bool = False) -> Markup:
    """A time: UTC as text, and what a script needs to tell it in the reader's zone."""
    if moment is None:
        return Markup('<span class="quiet">{}</span>').format(never)
    utc = moment.astimezone(UTC)
    machine = utc.isoformat(timespec="seconds").replace("+00:00", "Z")
    shown = utc.strftime("%Y-%m-%d %H:%M UTC")
    if only_day:
        markup = Markup('<time class="day" datetime="{}" title="{}">{}</time>')
        return markup.format(machine, shown, utc.strftime("%Y-%m-%d"))
    return Markup('<time datetime="{}">{}</time>').format(machine, shown)


def render(template: str, **context: Any) -> str:
    """A page."""
    return environment.get_template(template).render(**context)


environment: Final = Environment(
    loader=PackageLoader("basicauth_mw.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters.update(visible=visible, when=when)
environment.globals.update(
    ADMIN_SCOPE=ADMIN_SCOPE,
    LIVES=LIVES,
    OVERLAPS=OVERLAPS,
    STYLE=Markup(STYLE),  # noqa: S704 - our own file
    TOKEN=TOKEN,
    VERSION=VERSION,
)
