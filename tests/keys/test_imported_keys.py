"""Imported keys: every rule, and that errors show nothing of the key."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from basicauth_mw.errors import InvalidKey
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import MAX_ACTIVE_SECRETS, MAX_SECRETS, Hasher
from basicauth_mw.keys.imported_keys import check_key
from basicauth_mw.keys.model import Key, Secret

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001
# Before the year 1 and after the year 9999, in UTC.
EARLY = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
LATE = datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))
LAST = datetime.max.replace(tzinfo=UTC)
CENTURY = timedelta(days=36_525)
US = timedelta(microseconds=1)
HASHER = Hasher([b"new", b"old"])
SALT = "c2FsdHNhbHRzYWx0"
BCRYPT = "$2b$12$" + "A" * 21 + "." + "A" * 31


def digest(number: int = 0, *, salt: str = SALT, hasher: Hasher = HASHER, **fields: Any) -> Secret:
    made = NOW - timedelta(days=1) + timedelta(seconds=number)
    return Secret(hasher.digest_secret(generate("sk"), salt=salt), created_at=made, **fields)


def password(number: int = 0) -> Secret:
    return Secret(BCRYPT, created_at=NOW - timedelta(days=2) + timedelta(seconds=number))


GOOD = Key("canary", created_at=NOW, secrets=(digest(),))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(GOOD, id="generated"),
        pytest.param(replace(GOOD, secrets=()), id="no-secret"),
        pytest.param(replace(GOOD, created_at=NOW + CENTURY), id="made-by-a-clock-that-is-wrong"),
        pytest.param(replace(GOOD, expires_at=LAST, last_used_at=LAST), id="ends-last"),
        pytest.param(replace(GOOD, expires_at=NOW - timedelta(days=9), revoked_at=NOW), id="ended"),
        pytest.param(replace(GOOD, secrets=(digest(), password())), id="generated-and-password"),
        pytest.param(replace(GOOD, secrets=tuple(map(digest, range(MAX_ACTIVE_SECRETS)))), id="eight"),
        pytest.param(
            replace(GOOD, secrets=tuple(digest(number, expires_at=NOW) for number in range(MAX_SECRETS))),
            id="sixteen",
        ),
        pytest.param(
            replace(
                GOOD,
                secrets=(
                    digest(),
                    digest(1, hasher=Hasher([b"old"])),
                    digest(2, hasher=Hasher()),
                ),
            ),
            id="each-pepper",
        ),
    ],
)
def test_valid_keys(key: Key) -> None:
    check_key(key, HASHER, now=NOW)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        pytest.param("text", "must be a Key", id="no-key"),
        pytest.param(replace(GOOD, client_id="canary:1"), "must not contain a colon", id="id"),
        pytest.param(replace(GOOD, name="canary\n"), "control", id="name"),
        pytest.param(replace(GOOD, scopes=frozenset({"canary 1"})), "scope", id="scope"),
        pytest.param(replace(GOOD, metadata={"canary": object()}), "metadata", id="metadata"),
        pytest.param(replace(GOOD, disabled=1), "disabled", id="disabled"),
        pytest.param(replace(GOOD, created_at=NAIVE), "timezone", id="created"),
        pytest.param(replace(GOOD, created_at=None), "timezone", id="not-created"),
        pytest.param(replace(GOOD, expires_at=NAIVE), "timezone", id="expires"),
        pytest.param(replace(GOOD, revoked_at=NAIVE), "timezone", id="revoked"),
        pytest.param(replace(GOOD, last_used_at=NAIVE), "timezone", id="used"),
        pytest.param(replace(GOOD, created_at=EARLY), "out of range", id="created-early"),
        pytest.param(replace(GOOD, created_at=NOW + CENTURY + US), "a century from now", id="made-far-ahead"),
        pytest.param(
            replace(GOOD, secrets=(replace(digest(), created_at=LAST),)),
            "a century from now",
            id="made-last",
        ),
        pytest.param(replace(GOOD, expires_at=LATE), "out of range", id="expires-late"),
        pytest.param(replace(GOOD, last_used_at=LATE), "out of range", id="used-late"),
        pytest.param(replace(GOOD, secrets=(digest(expires_at=LATE),)), "out of range", id="secret-late"),
        pytest.param(replace(GOOD, secrets=("canary",)), "must be a Secret", id="no-secret"),
        pytest.param(replace(GOOD, secrets=(Secret(b"canary"),)), "must be a Secret", id="bytes"),
        pytest.param(replace(GOOD, secrets=(digest(expires_at=NAIVE),)), "timezone", id="secret-expires"),
        pytest.param(replace(GOOD, secrets=(digest(last_used_at=NAIVE),)), "timezone", id="secret-used"),
        pytest.param(replace(GOOD, secrets=(Secret("canary"),)), "not a supported hash", id="plain"),
        pytest.param(replace(GOOD, secrets=(Secret("$apr1$canary"),)), "Apache MD5", id="weak"),
        pytest.param(replace(GOOD, secrets=(digest(hasher=Hasher([b"?"])),)), "pepper", id="pepper"),
        pytest.param(replace(GOOD, secrets=(digest(), digest())), "same created_at", id="same-time"),
        pytest.param(
            replace(GOOD, secrets=tuple(map(digest, range(MAX_ACTIVE_SECRETS + 1)))),
            "at most 8 active",
            id="nine",
        ),
        pytest.param(
            replace(
                GOOD,
                secrets=tuple(digest(number, expires_at=NOW) for number in range(MAX_SECRETS + 1)),
            ),
            "at most 16 secrets",
            id="seventeen",
        ),
        pytest.param(replace(GOOD, secrets=(password(), password(1))), "at most one", id="two-passwords"),
        pytest.param(
            replace(GOOD, secrets=(digest(), digest(1, salt="B" * 16))),
            "share one salt",
            id="two-salts",
        ),
    ],
)
def test_invalid_keys(key: Any, why: str) -> None:
    with pytest.raises(InvalidKey, match=why) as raised:
        check_key(key, HASHER, now=NOW)
    assert "canary" not in str(raised.value)
