"""Forms: CSRF tokens, cross-site requests, size and encoding, double submission."""

from __future__ import annotations

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from basicauth_mw import Backend, Credentials, Settings
from basicauth_mw.dashboard import ADMIN_SCOPE, dashboard, request, wsgi_dashboard
from basicauth_mw.dashboard.csrf import LIFETIME_S, CsrfTokens
from basicauth_mw.dashboard.problems import FormProblem, PageProblem
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow
from tests.dashboard.conftest import BASE, Visitor, hidden

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_token_is_bound_to_action_key_and_time() -> None:
    tokens = CsrfTokens(Credentials("me", generate("sk")))
    token = tokens.make("/new", "ci", "7", 1000.0)

    assert tokens.check(token, "/new", "ci", 1000.0 + LIFETIME_S) == "7"
    for late in (1001.0 + LIFETIME_S, 1000.0 - 61):
        with pytest.raises(FormProblem, match="expired-token"):
            tokens.check(token, "/new", "ci", late)
    for act, subject in (("/other", "ci"), ("/new", "cj"), ("/newc", "i"), ("/new", "")):
        with pytest.raises(PageProblem, match="bad-token"):
            tokens.check(token, act, subject, 1000.0)
    for place in range(len(token)):
        changed = token[:place] + ("1" if token[place] != "1" else "2") + token[place + 1 :]
        with pytest.raises(PageProblem, match="bad-token"):
            tokens.check(changed, "/new", "ci", 1000.0)


@pytest.mark.parametrize("secret", [generate("sk"), "password"], ids=["generated", "password"])
def test_a_token_is_bound_to_credentials_and_pepper(secret: str) -> None:
    caller = Credentials("me", secret)
    token = CsrfTokens(caller, ["p"]).make("/", "", "", 0)

    assert CsrfTokens(caller, ["p", "old"]).check(token, "/", "", 0) == ""
    for other in (
        CsrfTokens(caller),
        CsrfTokens(caller, ["q"]),
        CsrfTokens(Credentials("you", secret), ["p"]),
        CsrfTokens(Credentials("me", f"{secret}x"), ["p"]),
    ):
        with pytest.raises(PageProblem, match="bad-token"):
            other.check(token, "/", "", 0)


@pytest.mark.proves("X45")
def test_a_form_without_a_valid_token_is_refused(admin: Visitor, backend: Backend) -> None:
    form = {**admin.form("/new"), "name": "made", "expires": "never"}
    for token in ("", "x", "0..0", form["csrf_token"][:-1], form["csrf_token"].replace(".", "..", 1), "é"):
        assert admin.post("/new", {**form, "csrf_token": token}).status_code == 403
    assert len(list(backend.iter_keys())) == 1

    assert admin.post("/new", form).status_code == 200


@pytest.mark.proves("X45")
def test_a_token_is_valid_for_one_form_one_key_and_one_user(
    visitor: Callable[..., Visitor], backend: Backend
) -> None:
    admin, other = visitor(), visitor()
    for client_id in ("a", "b"):
        backend.create(client_id=client_id)
    form = admin.form("/key/disable", id="a")

    assert other.post("/key/disable", form).status_code == 403
    assert admin.post("/key/revoke", form).status_code == 403
    assert admin.post("/key/disable", {**form, "id": "b"}).status_code == 403
    assert [key.disabled for key in backend.iter_keys()] == [False] * 4
    assert admin.post("/key/disable", form).status_code == 303
    assert backend.get("a").disabled  # type: ignore[union-attr]


def test_tokens_work_in_every_process_and_expire_with_the_secret(
    visitor: Callable[..., Visitor], backend: Backend
) -> None:
    """One worker renders the page, another handles the form. Rotating the secret invalidates its tokens."""
    issued = backend.create(client_id="boss", scopes=[ADMIN_SCOPE])
    first, second = (visitor(authorization=issued.authorization) for _ in range(2))

    assert second.post("/new", {**first.form("/new"), "expires": "never"}).status_code == 200
    renewed = visitor(authorization=backend.rotate("boss").authorization)
    assert renewed.post("/new", {**first.form("/new"), "expires": "never"}).status_code == 403


def test_tokens_work_for_users_with_a_password(visitor: Callable[..., Visitor], backend: Backend) -> None:
    issued = backend.create(client_id="boss", scopes=[ADMIN_SCOPE], secret="correct horse")
    admin = visitor(authorization=issued.authorization, pepper=("p",))

    assert admin.create(name="made").status_code == 200


def test_an_expired_form_is_shown_again_with_its_values(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is changed until it is submitted again."""
    backend.create(client_id="ci")
    pages = {
        "/new": ({**admin.form("/new"), "name": "typed", "expires": "never"}, "typed"),
        "/key/rotate": ({**admin.form("/key/rotate", id="ci"), "overlap": "1h"}, 'value="1h" selected'),
        "/key/revoke": (admin.form("/key/revoke", id="ci"), "Revoke ci"),
        "/call": ({**admin.form("/call"), "method": "PUT", "path": "/typed"}, "/typed"),
    }
    before = backend.get("ci")
    now = utcnow()
    monkeypatch.setattr(request, "utcnow", lambda: now + timedelta(seconds=3601))

    for path, (form, typed) in pages.items():
        response = admin.post(path, form)
        assert response.status_code == 403, path
        assert "more than an hour" in response.text
        assert typed in response.text
        assert backend.get("ci") == before
        again = {**form, **hidden(response.text)}
        assert again["csrf_token"] != form["csrf_token"]
        assert admin.post(path, again).status_code in (200, 303), path
        before = backend.get("ci")
    assert "typed" in [key.name for key in backend.iter_keys()]
    monkeypatch.setattr(request, "utcnow", lambda: now - timedelta(seconds=3601))
    assert admin.post("/new", pages["/new"][0]).status_code == 403  # from the future


@pytest.mark.proves("X45")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200),  # the effect of no-referrer
        ({"Origin": BASE}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": BASE}, 403),
        ({"Origin": "http://127.0.0.1:8001"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "ftp://127.0.0.1:8000"}, 403),
        ({"Origin": ""}, 403),
        ({}, 403),
    ],
    ids=str,
)
def test_a_form_from_another_origin_is_refused(
    admin: Visitor, backend: Backend, headers: dict[str, str], status: int
) -> None:
    """A valid token does not help a form that another site submits."""
    form = {**admin.form("/new"), "name": "made", "expires": "never"}

    response = admin.request("POST", "/new", headers=headers, data=form)

    assert response.status_code == status
    assert (len(list(backend.iter_keys())) == 2) == (status == 200)
    if status == 403:
        assert "Nothing was changed" in response.text


def test_a_form_that_is_too_large_is_refused(admin: Visitor, backend: Backend) -> None:
    response = admin.create(name="x" * 300_000)

    assert response.status_code == 413
    assert "256 KiB" in response.text
    assert "256 * 1024" in admin.get("/static/dashboard.js").text  # which does not submit such a form
    assert len(list(backend.iter_keys())) == 1


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b'{"name": "x"}', "application/json", 415),
        (b"name=x", "text/plain", 415),
        (b"name=x", "", 415),
        (b"name=%ff", "application/x-www-form-urlencoded", 400),
        (b"name=\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"x=1" for _ in range(100)), "application/x-www-form-urlencoded", 400),
        (b"", "application/x-www-form-urlencoded; charset=utf-8", 403),
    ],
)
def test_an_invalid_form_is_refused(
    admin: Visitor, backend: Backend, content: bytes, content_type: str, status: int
) -> None:
    headers = {"Sec-Fetch-Site": "same-origin", "Content-Type": content_type}
    response = admin.request("POST", "/new", headers=headers, content=content)

    assert response.status_code == status
    assert "Nothing was changed" in response.text
    assert len(list(backend.iter_keys())) == 1


def test_an_incomplete_form_is_not_processed(backend: Backend) -> None:
    """The client disconnects before the end of the body."""
    admin = backend.create(scopes=[ADMIN_SCOPE])
    app = dashboard(backend, settings=Settings())
    form = Visitor(app, "asgi", admin.authorization).form("/new")
    body = f"csrf_token={form['csrf_token']}&expires=never&name=half".encode()
    messages = [{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}]
    fields = {
        "authorization": admin.authorization,
        "sec-fetch-site": "same-origin",
        "content-type": "application/x-www-form-urlencoded",
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/new",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }
    sent: list[object] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: object) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent == []

    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/new",
        "HTTP_AUTHORIZATION": admin.authorization,
        "HTTP_SEC_FETCH_SITE": "same-origin",
        "CONTENT_TYPE": fields["content-type"],
        "CONTENT_LENGTH": str(len(body) + 1),
        "wsgi.input": io.BytesIO(body),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
    }
    statuses: list[str] = []
    b"".join(wsgi_dashboard(backend, settings=Settings())(environ, lambda status, _: statuses.append(status)))
    assert statuses == ["403 Forbidden"]
    assert len(list(backend.iter_keys())) == 1


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"wsgi.input_terminated": True}, "200 OK"),
        ({"wsgi.input_terminated": True, "padding": 300_000}, "413 Request Entity Too Large"),
        ({}, "403 Forbidden"),
        ({"CONTENT_LENGTH": "many"}, "403 Forbidden"),
        ({"CONTENT_LENGTH": "99999999999999999999"}, "413 Request Entity Too Large"),
    ],
    ids=str,
)
def test_wsgi_bodies(backend: Backend, given: dict[str, Any], status: str) -> None:
    """With a length, terminated by the server, or without a known length."""
    admin = backend.create(scopes=[ADMIN_SCOPE])
    app = wsgi_dashboard(backend, settings=Settings())
    form = Visitor(app, "wsgi", admin.authorization).form("/new")
    body = urlencode({**form, "expires": "never", "name": "x" * given.pop("padding", 1)}).encode()
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/new",
        "HTTP_AUTHORIZATION": admin.authorization,
        "HTTP_SEC_FETCH_SITE": "same-origin",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "wsgi.input": io.BytesIO(body),
        **given,
    }
    b"".join(app(environ, lambda status, _: statuses.append(status)))

    assert [each.partition(" ")[0] for each in statuses] == [status.partition(" ")[0]]


@pytest.mark.parametrize(
    ("path", "query", "typed"),
    [("/new", {}, {"expires": "never"}), ("/key/rotate", {"id": "me"}, {"overlap": "24h"})],
    ids=["create", "rotate"],
)
def test_concurrent_submissions_of_a_form_change_one_thing(
    visitor: Callable[..., Visitor], backend: Backend, path: str, query: dict[str, str], typed: dict[str, str]
) -> None:
    """After a double click, even across workers, one secret is shown and no other exists."""
    me = backend.create(client_id="me", scopes=[ADMIN_SCOPE]).authorization
    workers = [visitor(authorization=me) for _ in range(2)]
    form = {**workers[0].form(path, **query), **typed}
    both = threading.Barrier(2, timeout=20)

    def send(worker: Visitor) -> int:
        both.wait()
        return worker.post(path, form).status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(send, workers)) == [200, 409]
    assert sum(len(key.secrets) for key in backend.iter_keys()) == 2
