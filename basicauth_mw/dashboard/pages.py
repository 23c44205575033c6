"""The pages: from facts to markup. Pure: no store is asked, no clock is read, nothing is sent."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import lifecycle
from ..errors import UnreadableRecord
from . import charts
from .snippets import SECRET, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..backend import Issued
    from ..counts import Seen
    from ..model import Key, Principal
    from .openapi import Endpoint
    from .snippets import Call, Snippet

ADMIN_SCOPE: Final = "basicauth:admin"

# A trail of this length fits into any server's limit for an address; with minted ids it is some 30 pages.
# With short ids its pages count: each is a field, and a query may have only so many.
MAX_TRAIL_OCTETS: Final = 2_000
MAX_TRAIL_PAGES: Final = 50

# What a form offers; what a rotation offers. In seconds.
LIVES: Final = {
    "7d": ("7 days", 7 * 86_400),
    "30d": ("30 days", 30 * 86_400),
    "90d": ("90 days", 90 * 86_400),
    "365d": ("1 year", 365 * 86_400),
}
OVERLAPS: Final = {
    "0": ("none: the old secrets end now", 0),
    "5m": ("5 minutes", 300),
    "1h": ("1 hour", 3_600),
    "24h": ("24 hours", 86_400),
    "7d": ("7 days", 7 * 86_400),
    "30d": ("30 days", 30 * 86_400),
}

# What refusals mean, by decision, in the order in which they are shown.
REASONS: Final = {
    "Refused (401)": {
        "missing": "no credentials: a browser's first request, too",
        "malformed": "not well-formed Basic credentials",
        "unknown": "no key has that client id",
        "wrong_secret": "the secret is not the key's",
        "expired": "the key or the secret has ended",
        "disabled": "the key is disabled",
        "revoked": "the key was revoked",
    },
    "Forbidden (403)": {
        "insufficient_scope": "a right key without a scope that it needs",
        "https_required": "came by plain http",
    },
    "Throttled (429)": {"throttled": "too many failures from one address"},
    "Not checked (503)": {
        "backend_unavailable": "the key store could not be asked",
        "overloaded": "too many slow hashes at once",
    },
}

DONE: Final = {
    "disabled": "The key is disabled: it is refused until it is enabled again.",
    "enabled": "The key is enabled: it works again.",
    "revoked": "The key is revoked. That is final.",
    "deleted": "The key is deleted, and its id is free.",
}


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


def span(length: timedelta) -> str:
    """A duration in one or two words: ``3 days``."""
    seconds = max(0, int(length.total_seconds()))
    for name, size in (("year", 31_536_000), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}" + ("s" if count > 1 else "")
    return "under a minute"


def _query(fields: Mapping[str, str | Sequence[str]]) -> str:
    # A record from elsewhere may hold what has no UTF-8: its link leads to no key, and all others work.
    return urlencode(fields, doseq=True, errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Frame:
    """What all pages have round them.

    Attributes:
        root: Where the dashboard is mounted.
        principal: Who looks at it.
        writable: Whether keys can be changed.
        version: Of the static files.
        now: The time.
    """

    root: str
    principal: Principal
    writable: bool
    version: str
    now: datetime

    def url(self, path: str, **query: str | Sequence[str]) -> str:
        """A link to a page of ours; empty fields are left out."""
        fields = {name: value for name, value in query.items() if value}
        return f"{self.root}{path}" + (f"?{_query(fields)}" if fields else "")

    def static(self, name: str) -> str:
        """A link to a file of ours."""
        return f"{self.root}/static/{name}?v={self.version}"


@dataclass(frozen=True, slots=True)
class SecretView:
    """A secret as pages show it: never its hash."""

    number: int
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    age: str
    left: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as pages show it, or as much of one as can be read.

    Attributes:
        problem: Why it cannot be read; empty: it can.
        secrets: The live ones, newest first.
    """

    client_id: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    state: str = "unreadable"
    metadata: str = ""
    secrets: tuple[SecretView, ...] = ()
    problem: str = ""

    @property
    def label(self) -> str:
        """How a confirmation names it."""
        return f"{self.name} ({self.client_id})" if self.name else self.client_id


def view_of(key: Key | UnreadableRecord, now: datetime) -> KeyView:
    """What of a key may be shown."""
    if isinstance(key, UnreadableRecord):
        return KeyView(key.client_id or "", problem=str(key))
    live = sorted(
        (each for each in key.secrets if lifecycle.is_live(each, now)),
        key=lambda each: each.created_at,
        reverse=True,
    )
    secrets = tuple(
        SecretView(
            len(live) - place,
            each.created_at,
            each.expires_at,
            each.last_used_at,
            span(now - each.created_at),
            span(each.expires_at - now) if each.expires_at else "",
        )
        for place, each in enumerate(live)
    )
    return KeyView(
        client_id=key.client_id,
        name=key.name,
        scopes=tuple(sorted(key.scopes)),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
        state=lifecycle.state_of(key, now),
        metadata=json.dumps(dict(key.metadata), ensure_ascii=False, default=str) if key.metadata else "",
        secrets=secrets,
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the list of keys a page is. Stores scan forwards only, so the way back is kept in the link.

    Attributes:
        prefix: Of the ids that are listed.
        after: The page begins behind this id.
        trail: Where the pages before it began, oldest first; bounded, and the oldest goes first.
    """

    prefix: str = ""
    after: str = ""
    trail: tuple[str, ...] = ()

    def query(self) -> dict[str, str | Sequence[str]]:
        """As fields of a link. A page that began at the start leaves ``-`` in the trail."""
        return {"prefix": self.prefix, "after": self.after, "back": [f"-{each}" for each in self.trail]}

    def next(self, last: str) -> Place:
        """The page behind the one that ends with ``last``."""
        trail = [*self.trail, self.after]
        del trail[:-MAX_TRAIL_PAGES]
        while trail and sum(len(_query({"back": f"-{each}"})) + 1 for each in trail) > MAX_TRAIL_OCTETS:
            del trail[0]
        return Place(self.prefix, last, tuple(trail))

    def previous(self) -> Place | None:
        """The page before this one, or else the first; None: this is the first."""
        if self.trail:
            return Place(self.prefix, self.trail[-1], self.trail[:-1])
        return Place(self.prefix) if self.after else None


@dataclass(frozen=True, slots=True)
class CallView:
    """The part of a page that tries requests.

    Attributes:
        endpoints: To pick from; empty: there is no document, and a field takes the path.
        picked: The label of one of them; empty: none.
        call: The request that is shown.
        path: Of it, as in the field.
        snippets: It in every language.
        encoders: The lines that encode a token.
        token: For its form.
        issued: The credentials are on the screen.
    """

    endpoints: Sequence[Endpoint]
    picked: str
    call: Call
    path: str
    snippets: Sequence[Snippet]
    encoders: Sequence[Snippet]
    token: str
    issued: Issued | None = None
    client_id: str = ""


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


@dataclass(frozen=True, slots=True)
class Act:
    """What a confirmation asks for.

    Attributes:
        name: ``disable``, ``enable``, ``revoke`` or ``delete``.
        done: As ``DONE`` has it.
        title: The question's verb.
        says: What will be.
        states: In which states it can be done.
        dangerous: It cannot be taken back.
    """

    name: str
    done: str
    title: str
    says: str
    states: frozenset[str]
    dangerous: bool = False


_ANY: Final = frozenset({"active", "disabled", "expired", "revoked"})
ACTS: Final = {
    act.name: act
    for act in (
        Act(
            "disable",
            "disabled",
            "Disable",
            "Every request with it is refused, within 250 ms, until you enable it again.",
            frozenset({"active", "expired"}),
        ),
        Act("enable", "enabled", "Enable", "Its live secrets work again at once.", frozenset({"disabled"})),
        Act(
            "revoke",
            "revoked",
            "Revoke",
            "Every request with it is refused, within 250 ms, for good. The key stays in the list.",
            _ANY - {"revoked"},
            dangerous=True,
        ),
        Act(
            "delete",
            "deleted",
            "Delete",
            "It leaves the list with all that is known of it, and its id is free for another key.",
            _ANY | {"unreadable"},
            dangerous=True,
        ),
    )
}


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
        token=issued.authorization.removeprefix("Basic "),
        view=call,
        rotated=rotated,
    )


def call_page(frame: Frame, view: CallView, problem: tuple[str, str] | None = None) -> str:
    """Requests to try."""
    return _render("call.html", frame, view=view, problem=problem)


@dataclass(frozen=True, slots=True)
class Recency:
    """How long ago keys were used: a row of the overview."""

    name: str
    count: int


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


def recency_of(keys: Iterable[KeyView], now: datetime) -> list[Recency]:
    """How many keys were used last today, this week, and so on."""
    names = ["within a day", "within 7 days", "within 30 days", "longer ago", "never seen"]
    counts = [0] * len(names)
    for key in keys:
        if key.problem:
            continue
        if key.last_used_at is None:
            counts[4] += 1
        else:
            age = (now - key.last_used_at).days
            counts[0 if age < 1 else 1 if age < 7 else 2 if age < 30 else 3] += 1
    return [Recency(name, count) for name, count in zip(names, counts, strict=True)]


def forbidden_page(frame: Frame) -> str:
    """For a right key without the scope: says how to get one with it."""
    return _render("forbidden.html", frame, scope=ADMIN_SCOPE)


def problem_page(frame: Frame, title: str, advice: str, links: Sequence[tuple[str, str]] = ()) -> str:
    """Something was not done. ``links``: text and address of where to go on."""
    return _render("problem.html", frame, title=title, advice=advice, links=links)


def gate_page(status: int, phrase: str, detail: str, code: str, request_id: str, style: str) -> str:
    """In place of the gate's own JSON answer, for a browser. Stands alone: nobody is signed in."""
    return _environment.get_template("gate.html").render(
        status=status,
        phrase=phrase,
        detail=detail,
        code=code,
        request_id=request_id,
        style=Markup(style),  # noqa: S704 - our own file
        scope=ADMIN_SCOPE,
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
