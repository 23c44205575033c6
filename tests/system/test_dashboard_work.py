"""Daily work in the dashboard, in Chromium: find a key, edit it, see who changed it, sign out."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from basicauth_mw.dashboard import READ_SCOPE
from tests.system.test_dashboard import Site, visiting
from tests.system.test_dashboard import fastapi_site as fastapi_site  # a fixture here as well
from tests.system.test_dashboard import site as site
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page

    from basicauth_mw import Issued


def find(page: Page, text: str) -> None:
    page.get_by_label("Name or client ID").fill(text)
    page.get_by_role("button", name="Find").click()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_find_edit_rotate_and_see_who_did_it(site: Site, browser: Browser, script: bool) -> None:
    """Among more keys than fit on a page, with and without JavaScript."""
    for number in range(40):
        site.backend.create(client_id=f"partner-{number:02}", name=f"Partner {number}")
    issued = site.backend.create(client_id="partner-99", name="Acme GmbH", scopes=["orders:read"])
    with visiting(browser, site.admin, java_script_enabled=script) as page:
        page.goto(site.keys)
        expect(page.get_by_role("link", name="Acme")).to_have_count(0)
        find(page, "acme")
        expect(page.locator(".keys tbody tr")).to_have_count(1)
        page.get_by_role("link", name="Acme GmbH").click()
        page.get_by_role("link", name="Edit", exact=True).click()
        page.get_by_label("Scopes").fill("orders:read orders:write")
        page.get_by_role("button", name="Save the changes").click()
        expect(page.get_by_role("status").first).to_have_text("The changes were saved.")
        expect(page.locator(".details .scope")).to_have_text(["orders:read", "orders:write"])

        page.get_by_role("link", name="Rotate", exact=True).click()
        page.get_by_role("button", name="Create a new secret").click()
        second = page.locator("#header").inner_text().removeprefix("Authorization: ")
        page.get_by_role("link", name="I have copied it").click()
        expect(page.locator("#secrets ~ table tbody tr")).to_have_count(2)
        rows = page.locator("#history ~ table tbody tr")
        expect(rows).to_have_count(3)
        seen = [row.locator("th, td").all_inner_texts() for row in rows.all()]
        assert [row[:2] for row in seen] == [
            ["rotated", "admin"],
            ["updated", "admin"],
            ["created", "unknown"],
        ]

        page.get_by_role("link", name="End the secret").last.click()
        page.get_by_role("button", name="End the secret").click()
        expect(page.get_by_role("status").first).to_contain_text("The secret was ended")
    wait_until(lambda: site.echo(issued.authorization) == 401)
    assert site.echo(second) == 200


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_two_people_edit_a_key(fastapi_site: Site, browser: Browser, script: bool) -> None:
    site = fastapi_site
    site.backend.create(client_id="ci", name="Acme", scopes=["read"], metadata={"team": "search"})
    with visiting(browser, site.admin, java_script_enabled=script) as page:
        page.goto(f"{site.keys}key/edit?id=ci")
        page.get_by_label("Name").fill("Acme GmbH")
        site.backend.update("ci", scopes=["read", "write"])
        page.get_by_role("button", name="Save the changes").click()
        expect(page.get_by_role("alert")).to_contain_text("The key has changed since the form was opened")
        cells = page.locator("#changed ~ table tbody").locator("th, td")
        expect(cells).to_have_text(["Scopes", "read", "read write"])
        expect(page.get_by_label("Name")).to_have_value("Acme GmbH")
        expect(page.get_by_label("Scopes")).to_have_value("read write")
        page.get_by_label("Metadata").fill('{"team": "ads",\n"n": 1}')
        page.get_by_role("button", name="Save the changes").click()
        expect(page.locator(".head h1")).to_have_text("Acme GmbH")
    key = site.backend.get("ci")
    assert key is not None
    assert (key.scopes, key.metadata) == ({"read", "write"}, {"team": "ads", "n": 1})


def test_a_form_that_is_too_large_loses_nothing(fastapi_site: Site, browser: Browser) -> None:
    """It is not submitted, and can be once it is shorter."""
    site = fastapi_site
    site.backend.create(client_id="ci", name="Acme")
    messages: list[str] = []
    with visiting(browser, site.admin) as page:
        page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.accept()))
        page.goto(f"{site.keys}key/edit?id=ci")
        for text in ("x" * 300_000, f"{'x' * 127}\n" * 2000):  # a line break is sent as six characters
            page.get_by_label("Metadata").fill(text)
            page.get_by_role("button", name="Save the changes").click()
            assert messages.pop() == "Nothing was changed: the form is larger than 256 KiB."
            expect(page.get_by_label("Metadata")).to_have_value(text)
        page.get_by_label("Metadata").fill('{"a": 1}')
        page.get_by_role("button", name="Save the changes").click()
        expect(page.get_by_role("status").first).to_have_text("The changes were saved.")
    assert messages == []


def test_a_reader_has_no_buttons(site: Site, browser: Browser) -> None:
    """Everything can be looked at; the address of a form gives the command that allows it."""
    site.backend.create(client_id="ci", name="Acme")
    reader = site.backend.create(client_id="reader", scopes=[READ_SCOPE])
    with visiting(browser, reader) as page:
        page.goto(site.keys)
        command = f"basicauth-mw keys update reader --scope {READ_SCOPE} --scope basicauth:admin"
        expect(page.get_by_text(command)).to_be_visible()
        find(page, "acme")
        page.get_by_role("link", name="Acme").click()
        expect(page.get_by_role("heading", name="History")).to_be_visible()
        links = [link.get_attribute("href") or "" for link in page.get_by_role("link").all()]
        assert not [link for link in links if re.search(r"/(new|key/[a-z-]+)\b", link)]
        assert page.locator("form").count() == 0
        response = page.goto(f"{site.keys}key/edit?id=ci")
        assert response is not None
        assert response.status == 403
        expect(page.get_by_role("heading", level=1)).to_have_text("Your key has read-only access")


def test_a_revoked_administrator_is_out_within_a_second(site: Site, browser: Browser) -> None:
    """Another process revokes the key while its pages are open."""
    leaver = site.backend.create(client_id="leaver", scopes=["basicauth:admin"])
    with visiting(browser, leaver) as page:
        page.goto(f"{site.keys}new")
        page.get_by_label("Name").fill("backdoor")
        site.backend.revoke("leaver")
        revoked_at = time.monotonic()
        probe = {"Authorization": leaver.authorization}
        wait_until(lambda: site.served.request("GET", "/keys/", headers=probe).status_code == 401)
        assert time.monotonic() - revoked_at < 1
        page.get_by_role("button", name="Create the key").click()
        expect(page.locator("body")).to_contain_text("Unauthorized")
    assert all(key.name != "backdoor" for key in site.backend.iter_keys())


class Prompt:
    """The browser's own dialog for credentials: it is answered with ``keys``, then cancelled."""

    def __init__(self, page: Page) -> None:
        self.keys: list[Issued] = []
        self.opened = 0
        self._session: CDPSession = page.context.new_cdp_session(page)
        self._session.on("Fetch.requestPaused", self._continue)
        self._session.on("Fetch.authRequired", self._answer)
        self._session.send("Fetch.enable", {"handleAuthRequests": True, "patterns": [{"urlPattern": "*"}]})

    def _continue(self, event: dict[str, str]) -> None:
        self._session.send("Fetch.continueRequest", {"requestId": event["requestId"]})

    def _answer(self, event: dict[str, str]) -> None:
        self.opened += 1
        answer = {"response": "CancelAuth"}
        if self.keys:
            key = self.keys.pop(0)
            answer = {"response": "ProvideCredentials", "username": key.client_id, "password": key.secret}
        self._session.send(
            "Fetch.continueWithAuth", {"requestId": event["requestId"], "authChallengeResponse": answer}
        )


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_signing_out_makes_the_browser_forget_the_key(site: Site, browser: Browser, script: bool) -> None:
    other = site.backend.create(client_id="other", scopes=[READ_SCOPE])
    context = browser.new_context(java_script_enabled=script)
    page = context.new_page()
    prompt = Prompt(page)
    heading = page.get_by_role("heading", level=1)
    out = page.get_by_role("main").get_by_role("link", name="Sign out")

    prompt.keys = [site.admin]
    page.goto(site.keys)
    page.goto(site.keys)
    assert prompt.opened == 1  # the browser keeps the key
    page.get_by_role("link", name="Sign out").click()
    expect(heading).to_have_text("Sign out")
    out.click()
    expect(heading).to_have_text("Signed out")
    page.get_by_role("link", name="Sign in again").click()
    expect(page.locator("body")).to_contain_text("Unauthorized")
    assert prompt.opened == 3

    prompt.keys = [site.admin, other]
    page.goto(f"{site.keys}sign-out")
    out.click()
    expect(heading).to_have_text("API Keys")
    expect(page.locator(".user")).to_contain_text("Signed in as other")
    context.close()
