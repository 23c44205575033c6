"""Requests that no store accepts: any while it has no key, and empty secrets whatever it has."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Key, Secret, Settings, open_backend
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from tests.backends.life.helpers import SHELLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from basicauth_mw import Backend

SETTINGS = Settings(throttle="", backend_deadline_s=5.0)
NOTHING = [Hasher().digest_secret(""), hash_password("")]


@pytest.fixture
def backend(url: str) -> Iterator[Backend]:
    with open_backend(url, settings=SETTINGS, create=True) as backend:
        yield backend


@pytest.fixture(params=SHELLS)
def ask(request: pytest.FixtureRequest, backend: Backend) -> Iterator[Callable[[str], int]]:
    """Send an id and a secret unchanged; return the status."""
    shell = SHELLS[request.param](backend, SETTINGS)
    yield lambda pair: shell.ask("Basic " + b64encode(pair.encode()).decode()).status
    shell.close()


@pytest.mark.proves("X42", "X47")
def test_an_empty_store_refuses_everything(ask: Callable[[str], int]) -> None:
    """There is no key, and nothing that resembles one is accepted."""
    names = ["admin", "root", "demo", "user", "test", "default", "basicauth", "*", "None"]
    for pair in [
        *(f"{name}:{name}" for name in names),
        "admin:password",
        f"id:{generate('sk')}",
        "index:x",
        ":",
        "",
    ]:
        assert ask(pair) == 401


@pytest.mark.proves("X14")
def test_the_hash_of_an_empty_secret_opens_nothing(backend: Backend, ask: Callable[[str], int]) -> None:
    """A row that no command would write, with an empty secret or with none."""
    for number, hashed in enumerate(NOTHING):
        assert backend.store.put(Key(f"empty-{number}", secrets=(Secret(hashed),)), None)
    assert backend.store.put(Key("none"), None)
    good = backend.create(client_id="good")

    for client_id in ("empty-0", "empty-1", "none", "good", ""):
        for secret in ("", "\0", *NOTHING):
            assert ask(f"{client_id}:{secret}") == 401
        assert ask(client_id) == 401
    assert ask(f"good:{good.secret}") == 200
    assert ask(f"none:{good.secret}") == 401
