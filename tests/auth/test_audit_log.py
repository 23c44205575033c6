"""What the audit log says about each refusal, and that no log or response contains a secret."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from basicauth_mw import (
    Backend,
    InsufficientScope,
    Issued,
    Settings,
    encode_basic,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow
from tests.asgi.helpers import App, call, http_scope
from tests.auth.helpers import (
    AUTHORIZATION,
    GOOD,
    WRONG,
    Client,
    Doing,
    basic,
    raising,
)

AUDIT = "basicauth_mw.audit"


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def throttled(app: App, backend: Backend, issued: Issued) -> Client:
    """Three failures a minute."""
    return Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="3/minute")))


# --- the audit log


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [
        record.basicauth  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == AUDIT and record.basicauth["event"].startswith("auth.")  # type: ignore[attr-defined]
    ]


@pytest.mark.proves("O6")
def test_every_refusal_is_logged_with_its_reason(
    app: App, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """Event, claimed ID, reason, address and request ID; missing credentials at DEBUG, others at INFO."""
    caplog.set_level(logging.DEBUG, AUDIT)
    for client_id in ("disabled", "revoked", "expired"):
        made = backend.create(client_id=client_id, secret=issued.secret)
    backend.disable("disabled")
    backend.revoke("revoked")
    ended = replace(made.key, expires_at=utcnow() - timedelta(seconds=1), version=made.key.version + 1)
    assert backend.store.put(ended, made.key.version)
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    expected = [
        (None, "missing", None),
        ("Basic x", "malformed", None),
        (encode_basic("unknown", issued.secret), "unknown", "unknown"),
        (WRONG, "wrong_secret", "ci"),
        (encode_basic("disabled", issued.secret), "disabled", "disabled"),
        (encode_basic("revoked", issued.secret), "revoked", "revoked"),
        (encode_basic("expired", issued.secret), "expired", "expired"),
    ]
    for value, reason, client_id in expected:
        caplog.clear()
        call(middleware, http_scope(value, headers=[(b"x-request-id", b"req-1")]))

        assert events(caplog) == [
            {
                "event": "auth.refused",
                "client_id": client_id,
                "reason": reason,
                "detail": "not base64" if reason == "malformed" else None,
                "scheme": None if reason == "missing" else "basic",
                "address": "192.0.2.1",
                "request_id": "req-1",
                "actor": None,
            }
        ]
        assert caplog.records[0].levelno == (logging.DEBUG if reason == "missing" else logging.INFO)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("Bearer canary", "wrong scheme"),
        ("Basic canary!", "not base64"),
        ("Basic Y2FuYXJ5OmE", "not base64"),
        ("Basic Y2FuYXJ5OmE=,Basic Y2FuYXJ5OmE=", "repeated header"),
        ("Basic Y2FuYXJ5OmF=", "not canonical base64"),
        (basic("canary"), "no colon"),
        (basic("canary:a\n"), "control character"),
        ("Basic Y2FuYXJ5Ov8=", "not UTF-8"),
        (basic("canary:"), "empty id or secret"),
        (basic("canary:" + "x" * 9000), "too long"),
        (basic("c" * 256 + ":a"), "too long"),
        (basic("ci:" + "x" * 1025), "too long"),
        (basic(f"ci:{generate('sk')[:-6]}000000"), "mistyped secret"),
        (basic("ci:wrong"), None),
    ],
    ids=lambda each: "sent" if str(each).startswith(("Basic ", "Bearer ")) else str(each),
)
def test_only_the_log_says_what_was_malformed(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture, value: str, detail: str | None
) -> None:
    """The audit log says what is wrong with a header, in fixed words. The client gets the usual 401."""
    caplog.set_level(logging.INFO, AUDIT)
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(throttle=""))
    wrong = call(middleware, http_scope(WRONG, headers=[(b"x-request-id", b"req-1")]))
    caplog.clear()
    seen = call(middleware, http_scope(value, headers=[(b"x-request-id", b"req-1")]))

    (event,) = events(caplog)
    assert event["detail"] == detail
    assert "canary" not in caplog.text
    assert (seen.status, seen.body, seen.headers) == (wrong.status, wrong.body, wrong.headers)


def test_outages_and_missing_scopes_are_logged(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """With the claimed ID, or the verified one."""
    caplog.set_level(logging.INFO, AUDIT)
    call(
        BasicAuthMiddleware(App(), Doing(raising(OSError())), settings=Settings()), http_scope(AUTHORIZATION)
    )
    app = App({"type": "http.response.debug"}, raises=InsufficientScope())
    call(BasicAuthMiddleware(app, Doing(lambda: GOOD), settings=Settings()), http_scope(AUTHORIZATION))

    assert [(event["reason"], event["client_id"]) for event in events(caplog)] == [
        ("backend_unavailable", "ci"),
        ("insufficient_scope", "ci"),
    ]


def test_allowed_requests_are_not_logged(
    app: App, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """There would be too many."""
    caplog.set_level(logging.DEBUG)
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    caplog.clear()
    call(middleware, http_scope(issued.authorization))

    assert [record for record in caplog.records if record.name.startswith("basicauth_mw")] == []


def test_a_throttled_pair_is_logged_once(throttled: Client, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO, once, not for every request of a flood."""
    caplog.set_level(logging.INFO, AUDIT)
    for _ in range(10):
        throttled.request(WRONG)

    throttled_events = [event for event in events(caplog) if event["event"] == "auth.throttled"]
    assert len(throttled_events) == 1
    assert (
        throttled_events[0]["reason"],
        throttled_events[0]["client_id"],
        throttled_events[0]["address"],
    ) == ("throttled", "ci", "192.0.2.1")
    assert len(events(caplog)) == 4


@pytest.mark.parametrize("kind", ["refused", "throttled"])
def test_the_id_that_is_logged_is_the_id_that_was_sent(
    throttled: Client, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """It is the request ID of the response, which a user can quote."""
    caplog.set_level(logging.INFO, AUDIT)
    for _ in range(3 if kind == "throttled" else 0):
        throttled.request(WRONG)
    seen = throttled.request(WRONG)

    assert events(caplog)[-1]["event"] == f"auth.{kind}"
    assert events(caplog)[-1]["request_id"] == seen.headers["x-request-id"] == seen.problem["request_id"]


@pytest.mark.proves("O6")
@pytest.mark.parametrize(
    "hostile",
    [
        "a\u2028b",
        "a\u202eb",
        "a\x85b",
        "a\u200bb",
        "\ufeffx",
        "x" * 255,
        "é" * 127,
        "\U0001f600\u0301" * 30,
        "a%sb%(x)d",
    ],
    ids=ascii,
)
def test_a_hostile_id_cannot_forge_the_log(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture, hostile: str
) -> None:
    """One line of printable characters, of bounded length."""
    caplog.set_level(logging.INFO, AUDIT)
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    call(middleware, http_scope(basic(f"{hostile}:x")))

    (record,) = [record for record in caplog.records if record.name == AUDIT]
    claimed = record.basicauth["client_id"]  # type: ignore[attr-defined]
    assert claimed.isprintable()
    assert len(claimed) <= 255
    assert record.getMessage().isprintable()
    if hostile.isprintable():
        assert claimed == hostile


@pytest.mark.proves("O6", "X43")
@pytest.mark.parametrize(
    "secret",
    [generate("sk"), generate("my_app"), f"sk_{'A' * 49}"],
    ids=["generated", "other-prefix", "mistyped"],
)
def test_a_secret_in_the_place_of_the_id_is_not_logged(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture, secret: str
) -> None:
    """Some users swap ID and secret: ``curl -u SECRET:ID``."""
    caplog.set_level(logging.INFO, AUDIT)
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    call(middleware, http_scope(basic(f"{secret}:ci")))

    (record,) = [record for record in caplog.records if record.name == AUDIT]
    assert record.basicauth["client_id"] == f"{secret.rpartition('_')[0]}_..."  # type: ignore[attr-defined]
    assert secret[5:20] not in record.getMessage()


# --- secrets stay inside the process


def spellings(canary: str) -> list[str]:
    """The encodings in which a secret may appear: plain, base64 at any offset, percent-encoded, reversed."""
    found = [canary, canary[::-1]]
    for before in ("", "x", "xx"):
        token = b64encode(f"{before}{canary}".encode()).decode()
        found.append(token[4:-4])
    return found


@pytest.mark.proves("O6", "X43")
def test_no_secret_is_exposed(
    backend: Backend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a log record of any level, a ``repr``, a response or the text of a traceback."""
    caplog.set_level(logging.DEBUG)
    canary = generate("sk")
    password = "canary-password-by-a-person"
    issued = backend.create(client_id="canary", secret=canary)
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)

    boom = RuntimeError("boom")
    down = Doing(raising(RuntimeError(f"cannot send {canary} {password} to the store")))
    texts: list[object] = [issued, issued.key, backend]
    for each, store in (
        (App(), backend),
        (App({"type": "http.response.debug"}, raises=boom), backend),
        (App(), down),
    ):
        middleware = BasicAuthMiddleware(
            each, store, settings=Settings(pepper=(canary, password), throttle="2/minute", timeout_s=5)
        )
        texts += [
            middleware,
            middleware._authenticator,
            middleware._authenticator.settings,
            middleware._authenticator.backend,
            middleware._authenticator.__dict__,
        ]
        for field in (
            issued.authorization,
            issued.authorization + "!",
            encode_basic("other", canary),
            basic(f"canary:{password}"),
            basic(f"canary:{canary}x"),
            basic(f"{canary}"),
            "Bearer " + canary,
            *[basic(f"canary:{password}")] * 3,
        ):
            seen = call(middleware, http_scope(field))
            texts += seen.messages
            if seen.raised is not None:
                texts += traceback.TracebackException.from_exception(seen.raised).format()
    formatter = logging.Formatter("%(message)s %(exc_text)s")
    texts += [formatter.format(record) + repr(record.__dict__) for record in caplog.records]
    texts.append(output.getvalue())
    text = "\n".join(part if isinstance(part, str) else repr(part) for part in texts)

    assert "backend_unavailable" in text
    assert [found for secret in (canary, password) for found in spellings(secret) if found in text] == []


@pytest.mark.proves("X43")
def test_a_password_in_a_url_is_in_no_repr(app: App) -> None:
    """Users print the settings first when something does not work."""
    settings = Settings(backend="redis://user:canary@192.0.2.1/0", pepper=("canary",))
    middleware = BasicAuthMiddleware(app, settings=settings)

    for thing in (
        settings,
        middleware,
        middleware._authenticator,
        middleware._authenticator.backend,
        middleware._authenticator.backend.store,
    ):
        assert "canary" not in repr(thing)
