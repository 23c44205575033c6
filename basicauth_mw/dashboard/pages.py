"""The pages: from facts to markup. Pure: no store is asked, no clock is read, nothing is sent."""

from __future__ import annotations

import unicodedata
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from . import charts
from .snippets import SECRET, TOKEN
from .views import recency_of, view_of
from .wording import ADMIN_SCOPE, DONE, LIVES, OVERLAPS, REASONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ..backend import Issued
    from ..counts import Seen
    from .views import CallView, Frame, KeyView, Place
    from .wording import Act


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


def when(moment: datetime | None, never: str = "never") -> Markup:
    """A time: UTC as text, and what a script needs to tell it in the reader's zone."""
    if moment is None:
        return Markup('<span class="quiet">{}</span>').format(never)
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="seconds").replace("+00:00", "Z"), utc.strftime("%Y-%m-%d %H:%M UTC")
    )


def day(moment: datetime | None) -> Markup:
    """A time where the day will do; all of it stands beside."""
    if moment is None:
        return when(moment)
    utc = moment.astimezone(UTC)
    return Markup('<time class="day" datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="seconds").replace("+00:00", "Z"),
        utc.strftime("%Y-%m-%d %H:%M UTC"),
        utc.strftime("%Y-%m-%d"),
    )


def keys_page(
    frame: Frame, place: Place, keys: Sequence[KeyView], *, more: bool, done: str = "", named: str = ""
) -> str:
    """The list. ``more``: there are keys behind it; ``done``: what was just done, to the key ``named``."""
    return _render(
        "keys.html",
        frame,
        place=place,
        keys=keys,
        following=place.next(keys[-1].client_id) if more and keys else None,
        previous=place.previous(),
        done=DONE.get(done, ""),
        named=named,
    )


def unlisted_page(frame: Frame) -> str:
    """In place of the list, where a store finds keys by their id only."""
    return _render("unlisted.html", frame)


def key_page(frame: Frame, key: KeyView, *, done: str = "", problem: tuple[str, str] | None = None) -> str:
    """One key, its live secrets, and what can be done. ``problem``: title and advice."""
    return _render("one_key.html", frame, key=key, done=DONE.get(done, ""), problem=problem)


def create_page(
    frame: Frame,
    token: str,
    values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    problem: tuple[str, str] | None = None,
) -> str:
    """The form for a new key, with what was typed and what is wrong with it."""
    given = {"name": "", "scopes": "", "expires": "90d", "until": "", "client_id": "", **(values or {})}
    return _render(
        "new.html",
        frame,
        token=token,
        values=given,
        errors=errors or {},
        problem=problem,
        lives=LIVES,
    )


def rotate_page(
    frame: Frame,
    key: KeyView,
    token: str,
    overlap: str = "24h",
    error: str = "",
    problem: tuple[str, str] | None = None,
) -> str:
    """The form for another secret."""
    return _render(
        "rotate.html",
        frame,
        key=key,
        token=token,
        overlap=overlap,
        error=error,
        problem=problem,
        overlaps=OVERLAPS,
    )


def confirm_page(
    frame: Frame, act: Act, key: KeyView, token: str, problem: tuple[str, str] | None = None
) -> str:
    """Asks whether that key is meant."""
    return _render("confirm.html", frame, act=act, key=key, token=token, problem=problem)


def issued_page(frame: Frame, issued: Issued, call: CallView, *, rotated: bool) -> str:
    """Shows a new secret, this once."""
    return _render(
        "issued.html",
        frame,
        issued=issued,
        key=view_of(issued.key, frame.now),
        token=issued.token,
        view=call,
        rotated=rotated,
    )


def call_page(frame: Frame, view: CallView, problem: tuple[str, str] | None = None) -> str:
    """Requests to try."""
    return _render("call.html", frame, view=view, problem=problem)


def activity_page(
    frame: Frame, seen: Seen, place: Place, keys: Sequence[KeyView], *, more: bool, listed: bool = True
) -> str:
    """What was used, and what was refused."""
    total = sum(seen.totals.values())
    groups = [
        (
            title,
            [
                (reason, says, seen.totals[reason])
                for reason, says in reasons.items()
                if reason in seen.totals
            ],
        )
        for title, reasons in REASONS.items()
    ]
    known = {reason for reasons in REASONS.values() for reason in reasons}
    others = [(reason, "", count) for reason, count in sorted(seen.totals.items()) if reason not in known]
    return _render(
        "activity.html",
        frame,
        seen=seen,
        total=total,
        groups=[(title, rows) for title, rows in [*groups, ("Other", others)] if rows],
        top=max(seen.totals.values(), default=0),
        chart=charts.columns(
            seen.minutes, f"Refusals in each of the last 60 minutes: {sum(seen.minutes)} in all"
        ),
        in_hour=sum(seen.minutes),
        recency=recency_of(keys, frame.now),
        place=place,
        keys=keys,
        following=place.next(keys[-1].client_id) if more and keys else None,
        previous=place.previous(),
        listed=listed,
    )


def forbidden_page(frame: Frame) -> str:
    """For a right key without the scope: says how to get one with it."""
    return _render("forbidden.html", frame, scope=ADMIN_SCOPE)


def problem_page(frame: Frame, title: str, advice: str, links: Sequence[tuple[str, str]] = ()) -> str:
    """Something was not done. ``links``: text and address of where to go on."""
    return _render("problem.html", frame, title=title, advice=advice, links=links)


def gate_page(
    status: int, phrase: str, detail: str, code: str, request_id: str, style: str, *, writable: bool
) -> str:
    """In place of the gate's own JSON answer, for a browser. Stands alone: nobody is signed in."""
    return _environment.get_template("gate.html").render(
        status=status,
        phrase=phrase,
        detail=detail,
        code=code,
        request_id=request_id,
        style=Markup(style),  # noqa: S704 - our own file
        scope=ADMIN_SCOPE,
        writable=writable,
    )


def _render(template: str, frame: Frame, **facts: Any) -> str:
    return _environment.get_template(template).render(frame=frame, **facts)


_environment: Final = Environment(
    loader=PackageLoader("basicauth_mw.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(visible=visible, when=when, day=day)
_environment.globals.update(bar=charts.bar, TOKEN=TOKEN, SECRET=SECRET, ADMIN_SCOPE=ADMIN_SCOPE)
