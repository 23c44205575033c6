"""Creating keys: what takes effect immediately and which arguments are rejected."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Principal, encode_basic
from basicauth_mw.errors import InvalidKey, KeyExists
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.backends.life.helpers import (
    AnyClient,
    Outcome,
    bad_fields,
    bad_secrets,
    cursor,
    stored,
)

LATIN = {"client_id": "käse \U0001f511", "secret": "pä$$ wörd \U0001f511"}


def test_a_generated_key_works(backend: Backend, here: AnyClient, elsewhere: AnyClient) -> None:
    expires_at = utcnow() + timedelta(days=90)
    issued = backend.create(
        name="CI für alle",
        scopes=["read", "write"],
        expires_at=expires_at,
        metadata={"team": {"n": [1, "ä"]}},
    )

    assert stored(backend, issued.client_id) == issued.key
    assert (issued.key.expires_at, issued.key.disabled, issued.key.revoked_at) == (expires_at, False, None)
    caller = Principal(
        issued.client_id, "CI für alle", frozenset({"read", "write"}), {"team": {"n": [1, "ä"]}}
    )
    for client in (here, here, elsewhere):  # the second request is a cache hit
        assert client.request(issued.authorization) == Outcome(200, caller)
    assert here.request(encode_basic(issued.client_id, generate("sk"))) == Outcome(401, None)


def test_a_password_works(backend: Backend, here: AnyClient, elsewhere: AnyClient) -> None:
    issued = backend.create(**LATIN)

    assert (issued.client_id, issued.secret) == tuple(LATIN.values())
    for client in (here, here, elsewhere):
        assert client.request(issued.authorization).status == 200
    assert here.request(encode_basic(issued.client_id, "pa$$ word")).status == 401


def test_a_client_id_is_unique(backend: Backend, here: AnyClient, events: Callable[..., Any]) -> None:
    issued = backend.create(client_id="ci", name="first")
    events()
    with pytest.raises(KeyExists):
        backend.create(client_id="ci", name="second")

    assert (stored(backend, "ci").name, events()) == ("first", [])
    assert here.request(issued.authorization).status == 200


BAD_IDS = {
    "empty": "",
    "colon": "a:b",
    "newline": "a\nb",
    "nul": "a\0b",
    "delete": "a\x7f",
    "256-bytes": "a" * 256,
    "128-characters-in-256-bytes": "ä" * 128,
    "lone-surrogate": "\ud800",
    "bytes": b"ci",
    "number": 7,
}


def refuses_to_create(backend: Backend, events: Callable[..., Any], **fields: Any) -> None:
    before = cursor(backend)
    with pytest.raises(InvalidKey) as refused:
        backend.create(**fields)

    assert str(refused.value)
    assert list(backend.iter_keys()) == []
    assert (cursor(backend), events()) == (before, [])


@pytest.mark.proves("B4", "B10")
@pytest.mark.parametrize("client_id", BAD_IDS.values(), ids=BAD_IDS)
def test_a_bad_id_is_refused(backend: Backend, events: Callable[..., Any], client_id: Any) -> None:
    refuses_to_create(backend, events, client_id=client_id)


@pytest.mark.proves("B10")
@bad_secrets
def test_a_bad_secret_is_refused(backend: Backend, events: Callable[..., Any], secret: Any) -> None:
    refuses_to_create(backend, events, secret=secret)


@bad_fields
def test_a_bad_field_is_refused(backend: Backend, events: Callable[..., Any], field: str, value: Any) -> None:
    refuses_to_create(backend, events, **{field: value})


def test_the_longest_key_works(backend: Backend, here: AnyClient) -> None:
    """Every field at its limit."""
    issued = backend.create(
        client_id="ä" * 127 + "a",
        secret="ö" * 512,
        name="\U0001f511" * 200,
        scopes=[f"s{number:03}" + "x" * 251 for number in range(100)],
        metadata={"a": "x" * 4087},
    )
    caller = here.request(issued.authorization).caller

    assert caller is not None
    assert (len(caller.name), len(caller.scopes), len(caller.metadata["a"])) == (200, 100, 4087)
