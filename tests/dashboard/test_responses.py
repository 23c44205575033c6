"""Headers, links, static files, unknown paths and methods."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw import Backend
    from tests.dashboard.conftest import Visitor


PAGES = ["/", "/new", "/call", "/activity"]


@pytest.mark.proves("X49")
@pytest.mark.parametrize("root", ["", "/keys", "//evil.example", "/\\evil.example", "/a b"])
def test_no_link_or_redirect_leads_to_another_host(
    visitor: Callable[..., Visitor], backend: Backend, root: str
) -> None:
    """The mount point may come from the path, and the path from a hostile link."""
    admin = visitor(root=root)
    backend.create(client_id="ci")
    redirects = [
        admin.request("GET", "/sign-out?key=another", headers={"Host": "evil.example"}),
        admin.post("/key/disable", admin.form("/key/disable", id="ci")),
    ]
    page = admin.request("GET", "/new", headers={"Host": "evil.example"}).text

    assert [response.status_code for response in redirects] == [303, 303]
    links = [response.headers["location"] for response in redirects]
    links += re.findall(r'(?:href|action|src)="([^"]*)"', page)
    assert len(links) > 5
    for link in links:
        assert re.match(r"/(?![/\\])|#|\?", link), link


@pytest.mark.proves("X49")
def test_an_invalid_host_header_is_not_repeated(admin: Visitor) -> None:
    page = admin.request("GET", "/call", headers={"Host": "evil.example/<script>"})

    assert page.status_code == 200
    assert "evil" not in page.text


@pytest.mark.proves("X48")
@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
def test_every_page_has_the_security_headers(admin: Visitor, path: str) -> None:
    response = admin.get(path)

    policy = response.headers["content-security-policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ):
        assert part in policy.split("; ")
    assert "unsafe" not in policy
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert int(response.headers["content-length"]) == len(response.content)
    for inline in ("<style", "style=", "<script>", " onclick", "javascript:", "http://www", "https://"):
        assert inline not in response.text


def test_static_files_are_cached_by_version(admin: Visitor) -> None:
    page = admin.get("/").text
    address = page.partition('rel="stylesheet" href="')[2].partition('"')[0]

    versioned, plain = admin.get(address), admin.get("/static/dashboard.css")

    assert versioned.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert plain.headers["cache-control"] == "no-store"
    assert versioned.headers["content-type"].startswith("text/css")
    for name in ("app.py", "../pages.py", "..%2fpages.py", "nothing.js", ""):
        assert admin.get(f"/static/{name}").status_code == 404
    assert admin.request("POST", "/static/dashboard.css").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/key", 404, None),
        ("GET", "/key/explode", 404, None),
        ("POST", "/", 405, "GET, HEAD"),
        ("PUT", "/new", 405, "GET, HEAD, POST"),
        ("DELETE", "/key", 405, "GET, HEAD"),
        ("POST", "/activity", 405, "GET, HEAD"),
    ],
)
def test_unknown_pages_and_methods(
    admin: Visitor, method: str, path: str, status: int, allowed: str | None
) -> None:
    response = admin.request(method, path, headers={"Sec-Fetch-Site": "same-origin"})

    assert response.status_code == status
    assert response.headers.get("allow") == allowed
    assert 'href="/"' in response.text


def test_head_is_get_without_a_body(admin: Visitor) -> None:
    for path in ("/", "/static/dashboard.css"):
        response = admin.request("HEAD", path)
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) > 0


@pytest.mark.proves("X49")
def test_links_start_with_the_mount_point(visitor: Callable[..., Visitor]) -> None:
    """All links, forms and files, whatever the mount point is called."""
    admin = visitor(root="/a b/keys")

    if admin.kind == "asgi":  # httpx sends no empty path to WSGI
        assert admin.get("").headers["location"] == "/a%20b/keys/"
    page = admin.get("/").text
    links = [part.partition('"')[0] for part in page.split('href="')[1:]]
    assert links
    assert all(link.startswith(("/a%20b/keys/", "#")) for link in links)


@pytest.mark.parametrize("query", ["text=%ff", "&".join(["x=1"] * 100)])
def test_an_invalid_query_gives_400(admin: Visitor, query: str) -> None:
    assert admin.request("GET", f"/?{query}").status_code == 400
