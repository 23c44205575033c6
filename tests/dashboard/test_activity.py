"""The page Activity."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.auth.authenticator import _AUDITED
from basicauth_mw.auth.refusal_stats import Snapshot
from basicauth_mw.dashboard.listing import Cursor, KeyPage
from basicauth_mw.dashboard.templates import environment, render_template
from basicauth_mw.keys.model import utcnow
from tests.dashboard.conftest import Visitor, a_request

if TYPE_CHECKING:
    from collections.abc import Callable


def test_charts_escape_titles_and_limit_sizes() -> None:
    charts: Any = environment.get_template("_parts.html").module
    chart = charts.columns([0, 1, 1000], '<"&')

    assert 'aria-label="&lt;&#34;&amp;"' in chart
    assert chart.count("<rect") == 2
    assert 'height="2"' in chart  # small values stay visible
    assert "style" not in chart
    assert charts.bar(0, 10).count('width="0.0"') == 1
    assert 'width="100.0"' in charts.bar(20, 10)
    assert 'width="0.0"' in charts.bar(1, 0)


def activity(totals: dict[str, int]) -> str:
    """Render the page with these refusals, 3 of them in the last hour."""
    return render_template(
        "activity.html",
        request=a_request(),
        writable=True,
        may_create=True,
        refusals=Snapshot(utcnow() - timedelta(hours=2), totals, (0,) * 58 + (1, 2)),
        **KeyPage(Cursor(), [])._asdict(),
        problem=None,
    )


def test_every_reason_is_explained() -> None:
    reasons = {*_AUDITED, "insufficient_scope", "https_required"}
    markup = activity(dict.fromkeys(reasons, 1))

    rows = dict(re.findall(r'<th scope="row"><code>(\w+)</code><span class="under">(.+?)</span>', markup))
    assert rows.keys() == reasons
    assert "Other" not in markup


def test_activity_shows_the_counts() -> None:
    totals = {"unknown": 1234, "throttled": 5, "<new>": 1}
    markup = activity(totals)

    assert "1,234" in markup
    assert "&lt;new&gt;" in markup
    assert "3 in the last hour" in markup
    assert "in this process only" in markup
    assert "not counted" in markup
    assert (
        markup.index("Unauthorized (401)") < markup.index("Too many requests (429)") < markup.index("Other")
    )


def test_refusals_of_all_middlewares_are_counted(visitor: Callable[..., Visitor]) -> None:
    """Including scope errors that the app raises."""
    from basicauth_mw.auth.refusal_stats import refusal_stats
    from basicauth_mw.errors import InsufficientScope
    from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuthMiddleware

    def lacking(_environ: object, _start: object) -> Any:
        raise InsufficientScope("x")

    before = refusal_stats.snapshot().totals
    admin = visitor()
    Visitor(admin.app, admin.kind, None).get("/")
    Visitor(admin.app, admin.kind, encode_basic("unknown", "x")).get("/")
    keys = open_backend("memory:", settings=Settings())
    Visitor(
        WSGIBasicAuthMiddleware(lacking, keys, settings=Settings()), "wsgi", keys.create().authorization
    ).get("/")
    totals = refusal_stats.snapshot().totals

    for reason in ("missing", "unknown", "insufficient_scope"):
        assert totals[reason] == before.get(reason, 0) + 1
        assert f"<code>{reason}</code>" in admin.get("/activity").text
