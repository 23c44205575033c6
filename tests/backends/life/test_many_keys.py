"""Keys are listed page by page, and added many at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from basicauth_mw import Backend, Key, Secret, encode_basic
from basicauth_mw.errors import InvalidKey, KeyExists
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from basicauth_mw.keys.model import utcnow
from tests.backends.life.helpers import (
    PAST,
    AnyClient,
    Deployment,
    bcrypt_of,
    imported,
    stored,
)


def test_keys_are_listed_page_by_page(backend: Backend) -> None:
    """Ordered by the bytes of the IDs; with a prefix, a cursor and a limit; more than one page."""
    ids = sorted(
        [f"job-{number}" for number in range(1100)] + ["a", "Z", "ä", "job", "\U0001f511"], key=str.encode
    )
    made = [Key(client_id, secrets=(Secret(backend.hash(generate("sk"))),)) for client_id in reversed(ids)]
    assert backend.add(made) == [None] * len(ids)

    def listed(**options: Any) -> list[str]:
        return [key.client_id for key in backend.iter_keys(**options)]

    jobs = [client_id for client_id in ids if client_id.startswith("job-")]
    assert listed() == ids
    assert listed(prefix="job-") == jobs
    assert listed(prefix="job-", after=jobs[600]) == jobs[601:]
    assert listed(prefix="job-", after=jobs[2], limit=501) == jobs[3:504]
    assert listed(prefix="job-", after="zzz") == []
    assert listed(prefix="unknown") == []
    assert listed(limit=0) == []
    assert listed(after=ids[-1]) == []
    paged: list[str] = []
    while page := listed(after=paged[-1] if paged else "", limit=300):
        paged += page
    assert paged == ids
    assert next(backend.iter_keys(prefix="job-7", limit=1)) == stored(backend, "job-7")


def test_complete_keys_are_added(deployment: Deployment, backend: Backend, here: AnyClient) -> None:
    """Unchanged, with their last-used times; expired and revoked keys too."""
    if deployment.url == "memory:":
        hasher = backend.hasher
    else:
        hasher = Hasher()
    generated, password = generate("sk"), "a password"
    made = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    used = datetime(2021, 1, 2, 3, 4, tzinfo=UTC)
    keys = [
        Key("live", "näme", frozenset({"s"}), created_at=made, metadata={"a": [1]}, last_used_at=used),
        Key("ended", expires_at=PAST, created_at=made),
        Key("revoked", revoked_at=PAST, created_at=made),
        Key("disabled", disabled=True, created_at=made),
    ]
    secrets = (
        Secret(hasher.hash(generated), made, last_used_at=used),
        Secret(hash_password(password), made + timedelta(seconds=1), utcnow() + timedelta(days=1)),
    )
    keys = [replace(key, secrets=secrets) for key in keys]
    keys[1:] = [replace(key, last_used_at=used) for key in keys[1:]]

    assert backend.add(keys) == [None] * 4
    assert {key.client_id: key for key in backend.iter_keys()} == {key.client_id: key for key in keys}
    for secret in (generated, password):
        statuses = [here.request(encode_basic(key.client_id, secret)).status for key in keys]
        assert statuses == [200, 401, 401, 401]


def test_each_added_key_has_its_own_outcome(backend: Backend, here: AnyClient) -> None:
    taken = backend.create(client_id="taken", name="first")

    def key(client_id: str, **fields: Any) -> Key:
        return replace(imported(client_id, Hasher().hash(generate("sk"))), **fields)

    keys = [
        key("a"),
        key("taken"),
        key("b:c"),
        key("twice", name="first"),
        key("twice", name="second"),
        key("naive", created_at=datetime(2020, 1, 1)),  # noqa: DTZ001
        key("pepper", secrets=(Secret(Hasher([b"unknown"]).hash(generate("sk"))),)),
        key("two-passwords", secrets=imported("x", bcrypt_of("a"), bcrypt_of("b")).secrets),
        key("nine", secrets=imported("x", *[Hasher().digest_secret("x", salt="A" * 16)] * 9).secrets),
        key("z"),
    ]
    outcomes = backend.add(keys)

    kinds = [type(outcome) for outcome in outcomes]
    none = type(None)
    assert kinds == [none, KeyExists, InvalidKey, none, KeyExists, *[InvalidKey] * 4, none]
    assert [key.client_id for key in backend.iter_keys()] == ["a", "taken", "twice", "z"]
    assert (stored(backend, "taken"), stored(backend, "twice").name) == (taken.key, "first")
    assert here.request(taken.authorization).status == 200
    assert backend.add([]) == []
