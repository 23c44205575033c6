"""Every door of the dashboard is shut, in both its forms and over any store; and none leads elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import encode_basic
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.keys.generated_secrets import generate
from tests.dashboard.conftest import BASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw import Backend
    from tests.dashboard.conftest import Visitor

STATIC = [
    "/static/dashboard.css",
    "/static/dashboard.js",
    "/static/call.js",
    "/static/icon.svg",
    "/static/x",
    "/static/",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"]


@pytest.fixture
def routes(visitor: Callable[..., Visitor]) -> list[str]:
    """All that there are, as the dashboard has them."""
    found = {route.path for route in visitor().app._site.routes}
    assert {"/", "/new", "/key", "/key/revoke", "/call", "/activity"} < found
    return sorted(found)


@pytest.mark.proves("X46", "X47")
@pytest.mark.parametrize("over", ["its keys", "no keys"])
def test_nothing_is_shown_or_done_without_a_key(
    visitor: Callable[..., Visitor], backend: Backend, routes: list[str], over: str
) -> None:
    """By no method, with none and with any but the right one; an empty store has none that could be."""
    client_id = backend.create().client_id

    def keys() -> list[object]:
        return [(key.client_id, key.version, key.secrets[0].hash) for key in backend.iter_keys()]

    before = keys()
    nobody = visitor(over=None if over == "its keys" else MemoryStore(), authorization="", throttle="")
    fields = [
        None,
        "",
        encode_basic("admin", "admin"),
        encode_basic(client_id, generate("sk")),
        "Basic Og==",
        "Bearer x",
    ]

    for path in [*routes, *STATIC, "/nothing"]:
        for method in METHODS:
            for nobody.authorization in fields[: 2 if method not in ("GET", "POST") else None]:
                answer = nobody.request(
                    method, path, headers={"Sec-Fetch-Site": "same-origin", "Origin": BASE}
                )
                assert answer.status_code == 401, (method, path, nobody.authorization)
                assert answer.headers["www-authenticate"].startswith("Basic ")
                assert answer.headers["cache-control"] == "no-store"
                assert client_id not in answer.text
    assert keys() == before


@pytest.mark.proves("X49")
@pytest.mark.parametrize("root", ["", "/keys", "//evil.example", "/\\evil.example", "/a b"])
def test_no_link_and_no_redirect_leads_elsewhere(
    visitor: Callable[..., Visitor], backend: Backend, root: str
) -> None:
    """The mount point may come from the path, and that from whoever made a link to here."""
    admin = visitor(root=root)
    backend.create(client_id="ci")
    redirects = [
        admin.request("GET", "/switch", headers={"Host": "evil.example"}),
        admin.post("/key/disable", admin.form("/key/disable", id="ci")),
    ]
    page = admin.request("GET", "/new", headers={"Host": "evil.example"}).text

    assert [answer.status_code for answer in redirects] == [303, 303]
    links = [answer.headers["location"] for answer in redirects]
    links += re.findall(r'(?:href|action|src)="([^"]*)"', page)
    assert len(links) > 5
    for link in links:
        assert re.match(r"/(?![/\\])|#|\?", link), link
