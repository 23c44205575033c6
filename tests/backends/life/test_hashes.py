"""Stored hashes: imported ones, new parameters, peppers."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, encode_basic
from basicauth_mw.errors import InvalidKey
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.backends.life.helpers import (
    Deployment,
    Outcome,
    bcrypt_of,
    beyond_memory,
    ends_of,
    imported,
    stored,
)


def hash_of(backend: Backend, client_id: str) -> str:
    return stored(backend, client_id).secrets[0].hash


@pytest.mark.proves("O1", "X4")
def test_an_imported_bcrypt_hash_is_replaced(
    deployment: Deployment, kind: str, events: Callable[..., Any]
) -> None:
    """After the first successful login, never after a wrong one; the password stays the same."""
    backend = deployment.open()
    authenticator = deployment.serve(kind, backend, cache_ttl_s=0)
    old = bcrypt_of("pä$$ wörd")
    assert backend.add([imported("moved", old)]) == [None]
    key = stored(backend, "moved")
    right, wrong = encode_basic("moved", "pä$$ wörd"), encode_basic("moved", "pä$$ word")
    events()

    assert authenticator.request(wrong).status == 401
    backend.usage.close()
    assert hash_of(backend, "moved") == old

    assert authenticator.request(right).status == 200
    wait_until(lambda: hash_of(backend, "moved") != old)
    better = hash_of(backend, "moved")
    assert not Hasher().needs_rehash(better) or deployment.url == "memory:"
    assert better.startswith("$bamw1$" if deployment.url == "memory:" else "$argon2id$v=19$m=19456,t=2,p=1$")
    found = stored(backend, "moved")
    assert replace(found, last_used_at=None, secrets=()) == replace(key, secrets=())
    assert found.secrets[0].created_at == key.secrets[0].created_at
    assert [event["event"] for event in events()] == ["auth.refused"]
    assert authenticator.request(right).status == 200
    assert authenticator.request(wrong).status == 401
    backend.usage.close()
    assert hash_of(backend, "moved") == better, "the hash is replaced only once"


@pytest.mark.proves("X4")
@beyond_memory
def test_an_argon2id_hash_with_other_parameters_is_replaced(deployment: Deployment, kind: str) -> None:
    from argon2 import PasswordHasher

    backend = deployment.open()
    authenticator = deployment.serve(kind, backend)
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("a password")
    assert backend.add([imported("moved", weak)]) == [None]

    assert authenticator.request(encode_basic("moved", "a password")).status == 200
    wait_until(lambda: hash_of(backend, "moved").startswith("$argon2id$v=19$m=19456,t=2,p=1$"))
    assert authenticator.request(encode_basic("moved", "a password")).status == 200


@beyond_memory
def test_a_generated_secret_is_hashed_again_after_a_new_pepper(deployment: Deployment, kind: str) -> None:
    """With both peppers configured every client works; keys used since then no longer need the older one."""
    before = deployment.open(pepper=("old",))
    used, unused = before.create(client_id="ci"), before.rotate("ci")
    between = deployment.open(pepper=("new", "old"))
    authenticator = deployment.serve(kind, between, cache_ttl_s=0)
    key = stored(between, "ci")

    assert authenticator.request(encode_basic("ci", generate("sk"))).status == 401
    between.usage.close()
    assert stored(between, "ci") == key
    assert authenticator.request(used.authorization).status == 200
    wait_until(lambda: hash_of(between, "ci") != key.secrets[0].hash)
    assert stored(between, "ci").secrets[1] == key.secrets[1]
    assert [authenticator.request(issued.authorization).status for issued in (used, unused)] == [200, 200]
    wait_until(lambda: stored(between, "ci").secrets[1].hash != key.secrets[1].hash)

    authenticator = deployment.serve(kind, deployment.open(pepper=("new",)))
    assert [authenticator.request(issued.authorization).status for issued in (used, unused)] == [200, 200]
    assert ends_of(stored(between, "ci")) == ends_of(key)


@beyond_memory
def test_a_missing_pepper_is_an_outage(
    deployment: Deployment, kind: str, caplog: pytest.LogCaptureFixture, events: Callable[..., Any]
) -> None:
    """Keys that need the pepper get a 503 and one error log, never a 401; other keys work."""
    issued = deployment.open(pepper=("old",)).create(client_id="ci")
    plain = deployment.open().create(client_id="plain")
    after = deployment.open(pepper=("new",))
    authenticator = deployment.serve(kind, after)
    events()

    for authorization in (issued.authorization, encode_basic("ci", generate("sk")), issued.authorization):
        assert authenticator.request(authorization) == Outcome(503, None)
    (said,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert said.name == "basicauth_mw"
    assert "'ci'" in said.getMessage()
    assert "pepper" in said.getMessage()
    assert {event["reason"] for event in events()} == {"backend_unavailable"}
    assert authenticator.request(plain.authorization).status == 200, (
        "this key was created before there was a pepper"
    )
    assert authenticator.request(after.create(client_id="new").authorization).status == 200


WEAK = {
    "$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00": "apr1",
    "$1$lZL6V.ci$eIMz/iKDkbtys/uU7LEK00": "MD5",
    "$5$rounds=5000$toolongsaltstrin$Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGsh": "SHA-256-crypt",
    "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJu": "SHA-512-crypt",
    "{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=": "SHA-1",
    "{SSHA}0c0blFTXXNuAMHECS4uxrj3ZieMoWImr": "SHA-1",
    "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7": "yescrypt",
    "$2x$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW": "2x",
    "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$IMit9qkFULCMA/ViizL57cnTLOa5DiVM9eMwpAvPwr4": "Argon2i",
    "pbkdf2_sha256$600000$salt$xUUB7xkkLOsnF3QmYgNSHgoJ3Yp5Vd7qvLWYhKTXC1k=": "PBKDF2",
    "rrvv0uvSvmBb2": "not a supported hash",  # DES crypt, and plain text looks no different
    "5f4dcc3b5aa765d61d8327deb882cf99": "not a supported hash",
    "": "not a supported hash",
}


@pytest.mark.parametrize("hashed", WEAK)
def test_weak_hashes_are_refused_by_name(backend: Backend, events: Callable[..., Any], hashed: str) -> None:
    """The error names the scheme but never shows the hash; the other keys are stored."""
    good = [imported(client_id, Hasher().hash(generate("sk"))) for client_id in ("before", "after")]
    with pytest.raises(InvalidKey, match=WEAK[hashed]):
        backend.check(imported("weak", hashed))
    outcomes = backend.add([good[0], imported("weak", hashed), good[1]])

    assert (outcomes[0], outcomes[2]) == (None, None)
    assert isinstance(outcomes[1], InvalidKey)
    assert WEAK[hashed] in str(outcomes[1])
    assert not hashed or hashed not in str(outcomes[1])
    assert backend.get("weak") is None
    assert [event["client_id"] for event in events()] == ["before", "after"]
