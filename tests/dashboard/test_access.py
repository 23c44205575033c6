"""Access to the dashboard, and what it reveals without access."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Key, Settings, encode_basic, open_backend
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.dashboard import ADMIN_SCOPE, READ_SCOPE
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.generated_secrets import generate
from tests.dashboard.conftest import BASE, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable


STATIC = [
    "/static/dashboard.css",
    "/static/dashboard.js",
    "/static/call.js",
    "/static/icon.svg",
    "/static/x",
    "/static/",
]


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"]


PAGES = ["/", "/new", "/call", "/activity"]


@pytest.fixture
def routes(visitor: Callable[..., Visitor]) -> list[str]:
    """All paths of the dashboard."""
    found = set(visitor().app._app.routes)
    assert {"/", "/new", "/key", "/key/revoke", "/call", "/activity"} < found
    return sorted(found)


@pytest.mark.proves("X46", "X47")
@pytest.mark.parametrize("over", ["its keys", "no keys"])
def test_nothing_works_without_a_key(
    visitor: Callable[..., Visitor], backend: Backend, routes: list[str], over: str
) -> None:
    """No method works without a valid key, even if the store is empty."""
    client_id = backend.create().client_id

    def keys() -> list[object]:
        return [(key.client_id, key.version, key.secrets[0].hash) for key in backend.iter_keys()]

    before = keys()
    anonymous = visitor(keys=None if over == "its keys" else MemoryStore(), authorization="", throttle="")
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
            for anonymous.authorization in fields[: 2 if method not in ("GET", "POST") else None]:
                response = anonymous.request(
                    method, path, headers={"Sec-Fetch-Site": "same-origin", "Origin": BASE}
                )
                assert response.status_code == 401, (method, path, anonymous.authorization)
                assert response.headers["www-authenticate"].startswith("Basic ")
                assert response.headers["cache-control"] == "no-store"
                assert client_id not in response.text
    assert keys() == before


@pytest.mark.proves("X46")
@pytest.mark.parametrize("path", [*PAGES, "/static/dashboard.css", "/nothing", ""])
def test_a_browser_without_a_key_gets_a_page(visitor: Callable[..., Visitor], path: str) -> None:
    response = visitor(authorization="Basic eDp5").get(path)

    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic ")
    assert "basicauth-mw keys create" in response.text
    assert "script-src 'self'" in response.headers["content-security-policy"]
    assert "sha256-" in response.headers["content-security-policy"]


def test_a_program_without_a_key_gets_json(visitor: Callable[..., Visitor]) -> None:
    response = visitor(authorization="Basic eDp5").request("GET", "/", headers={"Accept": "*/*"})

    assert (response.status_code, response.json()["code"]) == (401, "invalid_credentials")


@pytest.mark.proves("X46")
@pytest.mark.parametrize(
    "setting",
    [
        {"include": ("/nothing",)},
        {"exclude": ("/new", "/static/*")},
        {"optional": ("/new", "/static/*")},
        {"allow_preflight": True},
    ],
    ids=str,
)
def test_no_setting_bypasses_authentication(visitor: Callable[..., Visitor], setting: dict[str, Any]) -> None:
    anonymous = visitor(authorization="Basic eDp5", **setting)
    preflight = {"Origin": BASE, "Access-Control-Request-Method": "POST"}

    assert anonymous.get("/new").status_code == 401
    assert anonymous.get("/static/dashboard.js").status_code == 401
    assert anonymous.request("OPTIONS", "/new", headers=preflight).status_code == 401
    anonymous.authorization = None
    assert anonymous.get("/new").status_code == 401


@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
def test_a_key_without_the_scope_gets_the_command(
    visitor: Callable[..., Visitor], backend: Backend, path: str
) -> None:
    response = visitor("read").get(path)

    assert response.status_code == 403
    assert f'basicauth-mw keys create --name "dashboard" --scope {ADMIN_SCOPE}' in response.text
    (me,) = backend.iter_keys()
    assert f"basicauth-mw keys update {me.client_id} --scope read --scope {ADMIN_SCOPE}" in response.text
    assert "www-authenticate" not in response.headers


def test_no_page_suggests_a_command_that_a_read_only_backend_refuses(
    visitor: Callable[..., Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = generate("sk")
    monkeypatch.setenv("BASICAUTH_KEYS", f"x:{secret}")
    fixed = open_backend("env:", settings=Settings())

    for status, given in ((403, secret), (401, "wrong")):
        response = visitor(keys=fixed, authorization=encode_basic("x", given)).get("/")
        assert response.status_code == status
        assert "keys create" not in response.text
        assert "BASICAUTH_KEYS" in response.text
        assert ADMIN_SCOPE in response.text


@pytest.mark.proves("X46")
def test_a_key_without_the_scope_changes_nothing(visitor: Callable[..., Visitor], backend: Backend) -> None:
    form = visitor().form("/new")

    assert visitor("read").post("/new", {**form, "name": "sneaked"}).status_code == 403
    assert [key.name for key in backend.iter_keys()] == ["me", "me"]


@pytest.mark.parametrize("scopes", [(ADMIN_SCOPE,), (READ_SCOPE,), ("read",)], ids=str)
def test_signing_out_refuses_the_key_in_use(visitor: Callable[..., Visitor], scopes: tuple[str, ...]) -> None:
    """Browsers forget credentials that get a 401, and prompt for others."""
    person, other = visitor(*scopes), visitor(*scopes)
    explained = person.get("/sign-out")
    (link,) = re.findall(r'href="(/sign-out\?key=[^"]*)"', explained.text)

    out = person.get(link)
    assert (out.status_code, out.headers["www-authenticate"][:5]) == (401, "Basic")
    assert "<h1>Signed out</h1>" in out.text
    assert "stylesheet" not in out.text  # it would make the browser prompt again
    switched = other.get(link)
    assert (switched.status_code, switched.headers["location"]) == (303, "/")


def test_an_outage_during_authentication_gives_a_page(visitor: Callable[..., Visitor]) -> None:
    class Down:
        def get(self, client_id: str, /) -> None:
            raise BackendUnavailable("down")

    response = visitor(keys=Down()).get("/")

    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert "does not respond" in response.text


def test_a_read_only_backend_has_no_buttons_for_changes(
    visitor: Callable[..., Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEYS", '{"boss": {"secret": "hunter2", "scopes": ["basicauth:admin"]}}')
    keys = open_backend("env:SOME_KEYS", settings=Settings())
    admin = visitor(keys=keys, authorization=encode_basic("boss", "hunter2"))

    for page in (admin.get("/"), admin.get("/key", id="boss")):
        assert page.status_code == 200
        for word in ("Create a key", "/new", "/key/", "<button class="):
            assert word not in page.text
    assert "read-only" in admin.get("/").text
    for path in ("/new", "/key/rotate", "/key/revoke"):
        assert admin.get(path, id="boss").status_code == 404
        assert admin.post(path, {"id": "boss"}).status_code == 404
    assert admin.get("/call").status_code == admin.get("/activity").status_code == 200


def test_a_backend_that_only_looks_up_keys(visitor: Callable[..., Visitor], backend: Backend) -> None:
    issued = backend.create(client_id="boss", scopes=[ADMIN_SCOPE])

    class Finds:
        volatile = True

        def get(self, client_id: str, /) -> Key | None:
            return backend.get(client_id)

    admin = visitor(keys=Finds(), authorization=issued.authorization)

    assert "cannot list" in admin.get("/").text
    assert "cannot list" in admin.get("/activity").text
    assert "boss" in admin.get("/key", id="boss").text


def test_a_reader_sees_everything_and_changes_nothing(
    visitor: Callable[..., Visitor], backend: Backend, routes: list[str]
) -> None:
    """No page has a button that changes a key, and no method of any route changes one."""
    key = backend.create(client_id="ci", name="Acme")
    reader = visitor(READ_SCOPE)

    def keys() -> list[object]:
        return [(each.client_id, each.version) for each in backend.iter_keys()]

    before = keys()
    for path in ("/", "/key?id=ci", "/call", "/activity"):
        page = reader.get(path)
        assert page.status_code == 200, path
        assert "/new" not in page.text
        assert "/key/" not in page.text
    assert "Acme" in reader.get("/").text
    assert "Your key has read-only access" in reader.get("/").text
    assert "basicauth-mw keys create" in reader.get("/").text
    changing = [path for path in routes if path == "/new" or path.startswith("/key/")]
    assert len(changing) > 4
    for path in changing:
        for method in ("GET", "HEAD", "POST"):
            refused = reader.request(
                method, f"{path}?id=ci", headers={"Sec-Fetch-Site": "same-origin", "Origin": BASE}
            )
            assert refused.status_code == 403, (method, path)
            assert ("scope basicauth:admin" in refused.text) is (method != "HEAD")
    assert keys() == before
    assert key.client_id == "ci"


def test_a_reader_who_becomes_an_administrator_sees_the_buttons(
    visitor: Callable[..., Visitor], backend: Backend
) -> None:
    issued = backend.create(client_id="me", scopes=[READ_SCOPE])
    person = visitor(authorization=issued.authorization)
    assert "/new" not in person.get("/").text

    backend.update("me", scopes=[ADMIN_SCOPE])
    assert "/new" in person.get("/").text
    backend.update("me", scopes=["other"])
    assert person.get("/").status_code == 403
