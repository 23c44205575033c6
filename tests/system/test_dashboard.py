"""The dashboard in Chromium, end to end."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.backends import LastUse
from basicauth_mw.dashboard import ADMIN_SCOPE, READ_SCOPE
from basicauth_mw.keys.generated_secrets import generate, generate_id
from basicauth_mw.keys.model import Key, Secret, utcnow
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

    from basicauth_mw import Backend, Issued
    from tests.servers.conftest import Served

SHOTS = Path(__file__).parents[2] / ".make" / "screenshots"
WIDTHS = (1280, 360)
SCHEMES = ("light", "dark")


class Site:
    """A server with an app and the dashboard, the backend that it uses, and the key of an administrator."""

    def __init__(self, served: Served, backend: Backend, admin: Issued) -> None:
        self.served, self.backend, self.admin = served, backend, admin
        self.origin = f"http://127.0.0.1:{served.port}"
        self.keys = f"{self.origin}/keys/"

    def echo(self, authorization: str) -> int:
        """Return the status of a request to the app."""
        response = self.served.request(
            "POST", "/echo", json={"text": "x"}, headers={"Authorization": authorization}
        )
        return response.status_code


@pytest.fixture(params=["fastapi-sqlite", "flask-redis"])
def site(request: pytest.FixtureRequest, serve: Callable[..., Served], tmp_path: Path) -> Iterator[Site]:
    """FastAPI with SQLite, and Flask with Redis."""
    if request.param == "fastapi-sqlite":
        name, url = "fastapi-dashboard", f"sqlite:///{tmp_path}/keys.db"
    else:
        name, url = "flask-dashboard", request.getfixturevalue("redis_url")
    with open_backend(url, settings=Settings(), create=True) as backend:
        admin = backend.create(client_id="admin", name="Ada Admin", scopes=[ADMIN_SCOPE])
        yield Site(serve(name, BASICAUTH_BACKEND=url), backend, admin)


@pytest.fixture
def fastapi_site(serve: Callable[..., Served], tmp_path: Path) -> Iterator[Site]:
    """FastAPI with SQLite."""
    url = f"sqlite:///{tmp_path}/keys.db"
    with open_backend(url, settings=Settings(), create=True) as backend:
        admin = backend.create(client_id="admin", name="Ada Admin", scopes=[ADMIN_SCOPE])
        yield Site(serve("fastapi-dashboard", BASICAUTH_BACKEND=url), backend, admin)


@contextmanager
def visiting(browser: Browser, issued: Issued, **options: Any) -> Iterator[Page]:
    """A page of a browser that is signed in; fails on script errors and policy violations."""
    credentials = {"username": issued.client_id, "password": issued.secret}
    context: BrowserContext = browser.new_context(http_credentials=credentials, **options)
    context.set_default_timeout(20_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    problems: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if "Content Security Policy" in message.text else None,
    )
    yield page
    assert problems == []
    context.close()


def send(page: Page, credentials: str = "key") -> str:
    """Press Send and return the status that the page shows."""
    page.locator(f"input[name=as][value={credentials}]").check()
    page.get_by_role("button", name="Send", exact=True).click()
    status = page.locator("#result [data-status]")
    expect(status).to_be_visible()
    return str(status.get_attribute("data-status"))


def test_the_life_of_a_key(site: Site, browser: Browser) -> None:
    """Sign in, create, copy, send: 200. Rotate: both secrets work until the overlap ends. Revoke: 401."""
    with visiting(browser, site.admin) as page:
        page.goto(site.keys)
        page.get_by_role("link", name="Create a key").click()
        page.get_by_label("Name").fill("Nightly build")
        page.get_by_label("Scopes").fill("read write")
        page.get_by_label("Expires").select_option("90d")
        page.get_by_role("button", name="Create the key").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Nightly build was created")

        shown = page.locator("#secret").inner_text()
        client_id = page.locator("#client-id").inner_text()
        first = encode_basic(client_id, shown)
        page.get_by_role("button", name="Copy the secret").click()
        expect(page.get_by_role("button", name="Copy the secret")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == shown
        page.get_by_role("button", name="Copy the header").click()
        expect(page.get_by_role("button", name="Copy the header")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == f"Authorization: {first}"

        page.get_by_label("Method").select_option("POST")
        page.get_by_label("Path").fill("/echo")
        page.get_by_label("Body").fill('{"text": "hello"}')
        expect(page.locator("#curl")).to_contain_text('-d \'{"text": "hello"}\'')
        curl = page.locator("#curl").inner_text()
        assert curl.startswith(f"curl -X POST --compressed '{site.origin}/echo'")
        assert f"-H 'Authorization: {first}'" in curl
        assert send(page) == "200"
        expect(page.locator("#result pre")).to_contain_text(client_id)
        assert send(page, "wrong") == "401"
        assert send(page, "none") == "401"
        assert send(page) == "200"
        assert shown not in page.url

        page.get_by_role("link", name="I have copied it").click()
        page.get_by_role("link", name="Rotate").click()
        page.get_by_label("Overlap").select_option("other")
        page.get_by_label("Custom duration").fill("15s")
        page.get_by_role("button", name="Create a new secret").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("New secret for")
        second = page.locator("#header").inner_text().removeprefix("Authorization: ")
        assert second != first
        assert (site.echo(first), site.echo(second)) == (200, 200)
        page.get_by_label("Method").select_option("POST")
        page.get_by_label("Path").fill("/echo")
        page.get_by_label("Body").fill('{"text": "hello"}')
        assert send(page) == "200"
        wait_until(lambda: site.echo(first) == 401, limit_s=40)
        assert site.echo(second) == 200

        other = page.context.new_page()
        other.goto(f"{site.keys}key?id={client_id}")
        other.get_by_role("link", name="Revoke").click()
        expect(other.get_by_role("heading", level=1)).to_have_text("Revoke Nightly build?")
        other.get_by_role("button", name="Revoke Nightly build").click()
        expect(other.locator(".head .state")).to_have_text("revoked")
        wait_until(lambda: site.echo(second) == 401)
        assert send(page) == "401"
        assert shown not in site.served.log.read_text()


def test_back_and_reload_neither_show_the_secret_nor_create_another(site: Site, browser: Browser) -> None:
    for script in (True, False):
        with visiting(browser, site.admin, java_script_enabled=script) as page:
            before = len(list(site.backend.iter_keys()))
            page.goto(f"{site.keys}new")
            page.get_by_role("button", name="Create the key").click()
            secret = page.locator("#secret").inner_text()
            assert len(list(site.backend.iter_keys())) == before + 1
            page.reload()
            assert secret not in page.content()
            page.goto(site.keys)
            page.go_back()
            assert secret not in page.content()
            page.go_back()
            assert secret not in page.content()
            page.go_forward()
            assert secret not in page.content()
            assert len(list(site.backend.iter_keys())) == before + 1


@pytest.mark.proves("X45")
def test_a_form_of_another_site_is_refused(fastapi_site: Site, browser: Browser) -> None:
    """The browser sends the credentials with it, but even a valid token does not help."""
    site = fastapi_site
    elsewhere = f"http://localhost:{site.served.port}/"  # another origin
    with visiting(browser, site.admin) as page:
        page.goto(f"{site.keys}new")
        token = page.locator("input[name=csrf_token]").first.get_attribute("value")
        form = (
            f'<form method="post" action="{site.keys}new"><input name="csrf_token" value="{token}">'
            '<input name="name" value="sneaked"><input name="expires" value="never">'
            "<button>Win</button></form>"
        )
        page.route(elsewhere, lambda route: route.fulfill(body=form, content_type="text/html"))
        page.goto(elsewhere)
        with page.expect_navigation() as arrived:
            page.get_by_role("button", name="Win").click()
        assert arrived.value.status == 403
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_text("The request did not come from this dashboard")
        assert [key.client_id for key in site.backend.iter_keys()] == ["admin"]

        frame = f'<iframe src="{site.keys}"></iframe>'
        page.unroute(elsewhere)
        page.route(elsewhere, lambda route: route.fulfill(body=frame, content_type="text/html"))
        page.goto(elsewhere)
        assert "API Keys" not in page.frames[-1].content()


def test_without_javascript(site: Site, browser: Browser) -> None:
    """Everything works except copying and sending."""
    with visiting(browser, site.admin, java_script_enabled=False) as page:
        page.goto(f"{site.keys}new")
        page.get_by_label("Name").fill("plain")
        page.get_by_label("Expires").select_option("until")
        page.get_by_label("Custom time (UTC)").fill("2999-01-31T12:00")
        page.get_by_role("button", name="Create the key").click()
        client_id = page.locator("#client-id").inner_text()
        assert page.locator("#secret").inner_text() in b64decode(page.locator("#token").inner_text()).decode()
        assert page.get_by_role("button", name="Copy").count() == 0
        assert page.get_by_role("button", name="Send").count() == 0
        page.goto(f"{site.keys}key?id={client_id}")
        expect(page.locator("main")).to_contain_text("2999-01-31 12:00 UTC")
        for act, state in (("Disable", "disabled"), ("Enable", "active"), ("Revoke", "revoked")):
            page.get_by_role("link", name=act, exact=True).click()
            page.get_by_role("button", name=f"{act} plain").click()
            expect(page.locator(".head .state")).to_have_text(state)
        page.get_by_role("link", name="Call API").click()
        page.get_by_label("Path").fill("/echo?x=1")
        page.get_by_role("button", name="Update the code samples").click()
        expect(page.locator("#curl")).to_contain_text(f"{site.origin}/echo?x=1")


def test_by_keyboard_alone(fastapi_site: Site, browser: Browser) -> None:
    """From the list to a revoked key, with a visible focus all the way."""
    with visiting(browser, fastapi_site.admin) as page:
        page.goto(fastapi_site.keys)
        keys = page.keyboard
        keys.press("Tab")
        assert focused(page) == "Skip to content"
        keys.press("Enter")
        tab_to(page, "text")
        keys.type("ada")
        keys.press("Enter")
        expect(page.locator(".keys tbody tr")).to_have_count(1)
        tab_to(page, "Create a key")
        keys.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Create a key")
        tab_to(page, "name")
        keys.type("By hand")
        tab_to(page, "Create the key")
        keys.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("By hand was created")
        tab_to(page, "Copy the secret")
        keys.press("Enter")
        expect(page.locator("#announcements")).to_have_text("Copied the secret")
        tab_to(page, "endpoint")
        keys.type("GET /teapot")
        expect(page.locator("#curl")).to_contain_text("/teapot")
        tab_to(page, "Send")
        keys.press("Enter")
        expect(page.locator("#result [data-status]")).to_have_attribute("data-status", "418")
        page.keyboard.press("Home")
        tab_to(page, "I have copied it: go to the key", back=True)
        keys.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("By hand")
        tab_to(page, "Edit")
        keys.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Edit By hand")
        tab_to(page, "metadata")
        keys.type('{"n": 1}')
        tab_to(page, "Save the changes")
        keys.press("Enter")
        expect(page.get_by_role("status").first).to_have_text("The changes were saved.")
        tab_to(page, "Revoke")
        keys.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Revoke By hand?")
        tab_to(page, "Revoke By hand")
        keys.press("Enter")
        expect(page.locator(".head .state")).to_have_text("revoked")


def focused(page: Page) -> str:
    """Return the label, text or ID of the focused element, and check that its focus is visible."""
    name, outline = page.evaluate(
        """() => {
            const at = document.activeElement;
            const own = at.tagName === "INPUT" || at.tagName === "SELECT" || at.tagName === "TEXTAREA";
            if (at === document.body) return ["", "none"];
            const name = own ? at.id || at.name : at.getAttribute("aria-label") || at.textContent.trim();
            return [name, at.matches(":focus-visible") ? getComputedStyle(at).outlineStyle : "none"];
        }"""
    )
    assert outline != "none" or name == "" or page.evaluate("document.activeElement.id") == "main", name
    return str(name)


def tab_to(page: Page, name: str, *, back: bool = False) -> None:
    for _ in range(60):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if focused(page) == name:
            return
    raise AssertionError(f"{name} cannot be reached")


def test_times_are_local_with_utc_as_title(fastapi_site: Site, browser: Browser) -> None:
    with visiting(browser, fastapi_site.admin, timezone_id="Asia/Tokyo", locale="en-GB") as page:
        fastapi_site.backend.update("admin", expires_at=utcnow().replace(year=2998, month=7, day=1, hour=20))
        page.goto(fastapi_site.keys)
        time = page.locator("td[data-label=Expires] time")
        assert time.inner_text() == "2 Jul 2998"
        assert re.fullmatch(r"2998-07-01 20:\d\d UTC", time.get_attribute("title") or "")
        page.get_by_role("link", name="Ada Admin").click()
        expect(page.get_by_text(re.compile(r"^2 Jul 2998, 05:\d\d$"))).to_be_visible()


def test_custom_status_codes_and_own_credentials(fastapi_site: Site, browser: Browser) -> None:
    """Call API: endpoints of the document, placeholders, and a key that the user enters."""
    site = fastapi_site
    with visiting(browser, site.admin) as page:
        page.goto(f"{site.keys}call")
        expect(page.locator("#curl")).to_contain_text("Authorization: Basic YOUR_TOKEN")
        labels = page.locator("#endpoint option").all_inner_texts()
        assert labels == [
            "POST /echo - Say it back",
            "GET /teapot - An unusual status",
            "GET /items/1 - Look one up",
        ]
        assert json.loads(page.get_by_label("Body").input_value()) == {"text": "hello"}
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator("#call-problem")).to_contain_text("Enter the client ID")
        page.get_by_label("Client ID").fill("admin")
        page.get_by_label("Secret", exact=True).fill(site.admin.secret)
        expect(page.locator("#curl")).to_contain_text(site.admin.authorization)
        assert send(page) == "200"
        page.get_by_label("Endpoint").select_option("GET /teapot")
        expect(page.locator("#curl")).to_contain_text("/teapot")
        expect(page.locator("#curl")).to_contain_text(site.admin.authorization)
        assert send(page) == "418"
        assert send(page, "none") == "401"
        assert site.admin.secret not in page.url
        for path, problem in (
            ("//elsewhere.example/", "leads to another host"),
            ("//", "is not valid"),
        ):
            page.get_by_label("Path").fill(path)
            expect(page.locator("#call-problem")).to_contain_text("one slash")
            page.get_by_role("button", name="Send", exact=True).click()
            expect(page.locator("#call-problem")).to_contain_text(problem)
            page.get_by_label("Path").fill("/teapot")
            expect(page.locator("#call-problem")).to_be_empty()


def prepare(site: Site) -> None:
    """Create keys as a team might have them, and use them."""
    backend, now = site.backend, utcnow()
    made = [
        # ID, name, scopes, days old, days to live
        ("billing-export", "Billing export", "invoices:read reports:read", 212, None),
        ("ci-nightly", "CI, nightly build", "read write", 10, 80),
        ("data-lake", "Data lake import", "events:write", 97, None),
        ("grafana", "Grafana", "metrics:read", 340, None),
        (generate_id(), "Mobile app, staging", "profile read write", 3, 27),
        ("legacy-portal", "Legacy portal", "read", 801, None),
        ("partner-acme", "Partner: ACME GmbH & Söhne", "orders:read orders:write", 64, 301),
        ("trial-2025", "Trial account", "read", 40, -10),
    ]
    keys = []
    for client_id, name, scopes, old, left in made:
        created = now - timedelta(days=old)
        keys.append(
            Key(
                client_id,
                name,
                frozenset(scopes.split()),
                created_at=created,
                expires_at=None if left is None else now + timedelta(days=left),
                secrets=(Secret(backend.hash(generate("sk")), created_at=created),),
            )
        )
    assert backend.add(keys, actor="deploy") == [None] * len(keys)
    backend.rotate("billing-export", overlap_s=6 * 3600, actor="admin")
    backend.disable("data-lake", actor="admin")
    backend.revoke("legacy-portal", actor="ops")
    ages = {
        "billing-export": 0.01,
        "ci-nightly": 0.4,
        "grafana": 0.001,
        "partner-acme": 4,
        "legacy-portal": 20,
    }
    uses = []
    for client_id, age in ages.items():
        key = backend.get(client_id)
        assert key is not None
        uses += [LastUse(client_id, secret.created_at, now - timedelta(days=age)) for secret in key.secrets]
    backend.store.record_uses(uses)
    for client_id, secret, times in (("grafana", "wrong", 7), ("unknown", "x", 12), ("data-lake", "x", 3)):
        for _ in range(times):
            site.echo(encode_basic(client_id, secret))
    for _ in range(4):
        assert httpx.get(f"{site.origin}/echo").status_code == 401


def shots(page: Page, name: str) -> None:
    """Take screenshots in two widths and both color schemes; check overflow and accessibility."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png", full_page=True)
            content = page.evaluate("document.documentElement.scrollWidth")
            assert content <= width, f"{name} is {content} wide at {width}"
            found = [
                f"{each['id']}: {node['html'][:200]}"
                for each in Axe().run(page).response["violations"]
                for node in each["nodes"]
            ]
            assert found == [], f"{name} {width} {scheme}"


def test_screenshots_and_accessibility(fastapi_site: Site, browser: Browser) -> None:
    """Screenshots of every page in .make/screenshots; axe-core finds nothing."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    prepare(fastapi_site)
    root = fastapi_site.keys
    with visiting(browser, fastapi_site.admin, timezone_id="Europe/Berlin", locale="en-GB") as page:
        for name, path in (
            ("keys", ""),
            ("found", "?text=e&scope=read"),
            ("none", "?text=zzz"),
            ("key", "key?id=billing-export"),
            ("expired", "key?id=trial-2025"),
            ("edit", "key/edit?id=partner-acme"),
            ("revoked", "key?id=legacy-portal"),
            ("rotate", "key/rotate?id=billing-export"),
            ("revoke", "key/revoke?id=partner-acme"),
            ("sign-out", "sign-out"),
            ("activity", "activity"),
            ("call", "call"),
            ("nothing", "nothing"),
            ("new", "new"),
        ):
            page.goto(root + path)
            shots(page, name)
        page.get_by_label("Name").fill("Nightly build")
        page.get_by_label("Scopes").fill('re"d')
        page.get_by_role("button", name="Create the key").click()
        expect(page.get_by_text("The key was not created")).to_be_visible()
        shots(page, "error")
        page.goto(f"{root}key?id=billing-export")
        page.get_by_role("link", name="End the secret").last.click()
        shots(page, "end-secret")
        page.goto(f"{root}key/edit?id=ci-nightly")
        page.get_by_label("Name").fill("CI")
        changes: dict[str, Any] = {
            "scopes": ["read", "write", "deploy"],
            "metadata": {"team": "build", "since": 2024},
        }
        fastapi_site.backend.update("ci-nightly", **changes, actor="ops")
        page.get_by_role("button", name="Save the changes").click()
        shots(page, "conflict")
        page.get_by_role("button", name="Save the changes").click()
        shots(page, "saved")
        page.goto(f"{root}new")
        page.get_by_label("Name").fill("Nightly build")
        page.get_by_label("Scopes").fill("read")
        page.get_by_role("button", name="Create the key").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("was created")
        assert send(page) == "200"
        shots(page, "issued")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 1280, "height": 960})
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=SHOTS / "issued-top.png")
    for name, scopes in (("reader", [READ_SCOPE]), ("forbidden", ["read"])):
        with visiting(browser, fastapi_site.backend.create(client_id=name, scopes=scopes)) as page:
            page.goto(root)
            shots(page, name)
            if name == "reader":
                page.goto(f"{root}key?id=ci-nightly")
                shots(page, "reader-key")
            page.goto(f"{root}sign-out?key={name}")
            shots(page, "signed-out")
