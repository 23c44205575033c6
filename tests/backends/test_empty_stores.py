"""Requests that no store accepts: all requests while it is empty, and empty secrets always."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Key, Secret, Settings, open_backend
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from tests.backends.life.helpers import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from basicauth_mw import Backend

SETTINGS = Settings(throttle="", backend_deadline_s=5.0)
NOTHING = [Hasher().digest_secret(""), hash_password("")]


@pytest.fixture
def backend(url: str) -> Iterator[Backend]:
    with open_backend(url, settings=SETTINGS, create=True) as backend:
        yield backend


@pytest.fixture(params=CLIENTS)
def status_of(request: pytest.FixtureRequest, backend: Backend) -> Iterator[Callable[[str], int]]:
    """Send an ID and a secret unchanged; return the status."""
    client = CLIENTS[request.param](backend, SETTINGS)
    yield lambda pair: client.request("Basic " + b64encode(pair.encode()).decode()).status
    client.close()


@pytest.mark.proves("X42", "X47")
def test_an_empty_store_refuses_everything(status_of: Callable[[str], int]) -> None:
    """Without keys, nothing is accepted."""
    names = ["admin", "root", "demo", "user", "test", "default", "basicauth", "*", "None"]
    for pair in [
        *(f"{name}:{name}" for name in names),
        "admin:password",
        f"id:{generate('sk')}",
        "index:x",
        ":",
        "",
    ]:
        assert status_of(pair) == 401


@pytest.mark.proves("X14")
def test_the_hash_of_an_empty_secret_is_never_accepted(
    backend: Backend, status_of: Callable[[str], int]
) -> None:
    """A row that no command writes, with an empty secret or without secrets."""
    for number, hashed in enumerate(NOTHING):
        assert backend.store.put(Key(f"empty-{number}", secrets=(Secret(hashed),)), None)
    assert backend.store.put(Key("none"), None)
    good = backend.create(client_id="good")

    for client_id in ("empty-0", "empty-1", "none", "good", ""):
        for secret in ("", "\0", *NOTHING):
            assert status_of(f"{client_id}:{secret}") == 401
        assert status_of(client_id) == 401
    assert status_of(f"good:{good.secret}") == 200
    assert status_of(f"none:{good.secret}") == 401
