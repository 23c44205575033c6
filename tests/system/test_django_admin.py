"""API keys in Django's admin in Chromium, end to end, with the project in examples/."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from basicauth_mw import Settings, encode_basic, open_backend
from tests.servers.conftest import ROOT, kill_group
from tests.system.conftest import _QUIET
from tests.waiting import free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserType, Page

    from basicauth_mw import Backend

SHOTS = ROOT / ".make" / "screenshots"
PASSWORD = "only-for-this-test"
CHECKED = {"include": [["#content"]], "exclude": [[".datetime"]]}  # Django's date fields have no labels
OURS = ("issued", "rotate", "end-secret")  # pages with templates of ours
VIEWS = ((1280, "light"), (1280, "dark"), (360, "light"))


class Project:
    """The example with its own databases, served by ``runserver``."""

    def __init__(self, folder: Path, url: str, backend: Backend) -> None:
        self.backend = backend
        self.database = folder / "django.db"
        self.log = folder / "django.log"
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.keys = f"{self.origin}/admin/basicauth_mw/apikey/"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
        self._environment = {
            **inherited,
            "BASICAUTH_BACKEND": url,
            "BASICAUTH_BACKEND_DEADLINE_S": "10",  # a busy machine must not fail a test
            "DJANGO_DATABASE": str(self.database),
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        }

    def manage(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of ``manage.py``."""
        command = [sys.executable, "examples/django_admin.py", *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def execute(self, statement: str) -> None:
        """Change Django's database."""
        with closing(sqlite3.connect(self.database, timeout=30)) as connection, connection:
            connection.execute(statement)

    def stored(self) -> str:
        """Everything that Django stored."""
        with closing(sqlite3.connect(self.database, timeout=30)) as connection:
            return "\n".join(connection.iterdump())

    def hello(self, authorization: str) -> int:
        """Call the API."""
        headers = {"Authorization": authorization}
        return httpx.get(f"{self.origin}/api/hello", headers=headers, trust_env=False).status_code


@pytest.fixture(params=["sqlite", "redis"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """The project with a superuser and a user with view permission only, over each kind of store."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/keys.db" if sqlite else str(request.getfixturevalue("redis_url"))
    with open_backend(url, settings=Settings(), create=True) as backend:
        project = Project(tmp_path, url, backend)
        for command in (
            ["migrate"],
            ["createsuperuser", "--no-input", "--username=grace", "--email=grace@example.com"],
            ["createsuperuser", "--no-input", "--username=rita", "--email=rita@example.com"],
        ):
            assert project.manage(*command).wait(60) == 0, project.log.read_text()
        project.execute("UPDATE auth_user SET is_superuser = 0 WHERE username = 'rita'")
        project.execute(
            "INSERT INTO auth_user_user_permissions (user_id, permission_id) SELECT auth_user.id, "
            "auth_permission.id FROM auth_user, auth_permission WHERE username = 'rita' AND codename = "
            "'view_apikey'"
        )
        process = project.manage("runserver", "--noreload", f"127.0.0.1:{project.port}")
        try:
            wait_until(lambda: listens(project.port) or process.poll() is not None)
            assert process.poll() is None, project.log.read_text()
            yield project
        finally:
            kill_group(process.pid)
            process.wait(20)
        assert "Internal Server Error" not in project.log.read_text()


@pytest.fixture(scope="module")
def caching_browser(browser: Browser) -> Iterator[Browser]:
    """Chromium with the cache for "back", which Playwright would turn off."""
    chromium: BrowserType = browser.browser_type
    opened = chromium.launch(
        executable_path=shutil.which("chromium"),
        args=[*_QUIET, "--no-sandbox", "--disable-gpu"],
        ignore_default_args=["--disable-back-forward-cache"],
    )
    yield opened
    opened.close()


@contextmanager
def signed_in(browser: Browser, project: Project, name: str) -> Iterator[Page]:
    """A page of a user who has signed in to Django; fails on script errors."""
    context = browser.new_context(locale="en-GB")
    context.set_default_timeout(20_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(project.keys)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Select API key")).to_be_visible()
    yield page
    assert problems == []
    context.close()


def shots(page: Page, name: str) -> None:
    """Take screenshots, and check the accessibility of the part that is ours."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    for width, scheme in VIEWS:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        # The admin's style sheet changes the colors of links gradually.
        page.evaluate("Promise.all(document.getAnimations().map(each => each.finished))")
        page.screenshot(path=SHOTS / f"django-{name}-{width}-{scheme}.png", full_page=True)
        found = [
            f"{each['id']}: {node['html'][:200]}"
            for each in Axe().run(page, context=CHECKED).response["violations"]
            for node in each["nodes"]
            if each["impact"] in ("serious", "critical")
        ]
        assert found == [], f"{name} {width} {scheme}"
        if name in OURS:
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} {width}"
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(color_scheme="light")


def message(page: Page) -> str:
    """The message that the admin shows."""
    return page.locator(".messagelist li").inner_text()


def test_the_life_of_a_key(project: Project, caching_browser: Browser) -> None:
    """Create, find, edit, rotate, disable, enable, revoke and delete a key, and see who did it."""
    for number in range(3):
        project.backend.create(client_id=f"other-{number}", name=f"Other {number}", scopes=["metrics:read"])
    with signed_in(caching_browser, project, "grace") as page:
        page.get_by_role("link", name="Add API key").click()
        client_id = page.get_by_label("Client ID").input_value()
        page.get_by_label("Name").fill("Partner: ACME GmbH")
        page.get_by_label("Scopes").fill("orders:read orders:write")
        shots(page, "add")
        page.get_by_role("button", name="Save").click()
        secret = page.locator("[data-secret]").first.inner_text()
        first = encode_basic(client_id, secret)
        assert page.locator("[data-secret]").last.inner_text() == first.removeprefix("Basic ")
        shots(page, "issued")
        assert project.hello(first) == 200

        page.get_by_role("link", name="I have copied it").click()
        expect(page.get_by_role("heading", name="Change API key")).to_be_visible()
        page.go_back()
        assert secret not in page.content()

        page.goto(project.keys)
        page.locator("#searchbar").fill("acme")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#result_list tbody tr")).to_have_count(1)
        shots(page, "list")
        page.get_by_role("link", name="Partner: ACME GmbH").click()
        page.get_by_label("Scopes").fill("orders:read")
        shots(page, "change")
        page.get_by_role("button", name="Save", exact=True).click()
        assert "was changed successfully" in message(page)
        assert page.locator("#searchbar").input_value() == "acme"  # back in the same list

        page.get_by_role("link", name="Partner: ACME GmbH").first.click()
        page.get_by_role("link", name="Rotate").click()
        page.get_by_label("Overlap").select_option("1 hour")
        shots(page, "rotate")
        page.get_by_role("button", name="Rotate Partner: ACME GmbH").click()
        second = encode_basic(client_id, page.locator("[data-secret]").first.inner_text())
        assert (project.hello(first), project.hello(second)) == (200, 200)
        page.reload()  # of the page that replaced the secret
        expect(page.get_by_role("heading", name="Change API key")).to_be_visible()

        page.get_by_role("link", name="End secret").click()
        page.get_by_role("group", name="Secret").get_by_role("radio").first.check()
        shots(page, "end-secret")
        page.get_by_role("button", name="End secret of Partner: ACME GmbH").click()
        assert message(page) == "The API key “Partner: ACME GmbH” was changed: a secret was ended."
        assert (project.hello(first), project.hello(second)) == (401, 200)

        for action, status in (("Disable", 401), ("Enable", 200), ("Revoke", 401)):
            page.get_by_role("link", name=action).click()
            page.get_by_role("button", name=f"{action} Partner: ACME GmbH").click()
            assert message(page) == f"The API key “Partner: ACME GmbH” was {action.lower()}d."
            assert project.hello(second) == status
        shots(page, "revoked")
        expect(page.get_by_role("link", name="Rotate")).to_have_count(0)
        page.get_by_role("link", name="History").click()
        rows = page.locator("#change-history tbody tr")
        expect(rows).to_have_count(7)
        assert all("grace" in row for row in rows.all_inner_texts())
        expect(page.get_by_role("cell", name="key.rotated")).to_be_visible()
        shots(page, "history")
        page.go_back()
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("button", name="Yes").click()
        assert "was deleted successfully" in message(page)
        assert project.backend.get(client_id) is None
        assert secret not in project.stored()
        assert secret not in project.log.read_text()


def test_a_secret_is_not_in_the_cache_for_back(project: Project, caching_browser: Browser) -> None:
    """Whichever way one leaves the page with a secret: back does not show it."""
    project.backend.create(client_id="ci")
    with signed_in(caching_browser, project, "grace") as page:
        page.goto(f"{project.keys}ci/rotate/")
        page.get_by_role("button", name="Rotate ci").click()
        secret = page.locator("[data-secret]").first.inner_text()
        page.wait_for_url("**/ci/change/")  # its entry in the history was replaced
        page.goto(f"{project.origin}/static/admin/css/base.css")
        page.go_back()
        assert secret not in page.content()
        assert page.url == f"{project.keys}ci/change/"


def test_a_reader_and_a_user_who_is_removed(project: Project, browser: Browser) -> None:
    """A reader has no buttons, and a superuser who is deactivated is out with the next request."""
    project.backend.create(client_id="ci")
    with signed_in(browser, project, "rita") as page:
        expect(page.get_by_role("link", name="Add API key")).to_have_count(0)
        page.get_by_role("link", name="ci").first.click()
        expect(page.get_by_role("heading", name="View API key")).to_be_visible()
        for name in ("Rotate", "End secret", "Disable", "Enable", "Revoke", "Delete"):
            expect(page.get_by_role("link", name=name)).to_have_count(0)
        expect(page.get_by_role("button", name="Save")).to_have_count(0)
        assert page.goto(f"{project.keys}ci/rotate/").status == 403  # type: ignore[union-attr]
    with signed_in(browser, project, "grace") as page:
        page.goto(f"{project.keys}ci/revoke/")
        project.execute("UPDATE auth_user SET is_active = 0 WHERE username = 'grace'")
        page.get_by_role("button", name="Revoke ci").click()
        expect(page.get_by_label("Password")).to_be_visible()
    key = project.backend.get("ci")
    assert key is not None
    assert key.revoked_at is None
