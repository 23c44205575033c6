"""The work of a request, counted: equal for all equivalent refusals, and none for a cached verification."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest

from basicauth_mw import Key, Secret, Settings, encode_basic, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends import passwords, reader
from basicauth_mw.keys import hashing
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import digest, password
from basicauth_mw.keys.model import utcnow
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIMiddleware
from tests.asgi.helpers import App, call, exchange, http_scope
from tests.wsgi import helpers as wsgi_helpers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from basicauth_mw import Backend

GENERATED = generate("sk")
PASSWORD = "correct horse battery staple"
AT_ONCE = 50
LIMIT_S = 10.0
SETTINGS = Settings(throttle="", slow_hash_workers=8, backend_deadline_s=LIMIT_S)

LOOKED_UP = Counter(lookups=1, digests=1, comparisons=hashing.MAX_ACTIVE_SECRETS)
ONE_PASSWORD_HASH = LOOKED_UP + Counter(password_hashes=1)
NOTHING: Counter[str] = Counter()


class Work:
    """Counts the calls that take time and could depend on what is found; they still run."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self.threads: set[int] = set()
        self.held: threading.Event | None = None

    def counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._done.append(name)
            if name == "password_hashes":
                self.threads.add(threading.get_ident())
                assert self.held is None or self.held.wait(LIMIT_S)
            return function(*args, **kwargs)

        return counted

    def since(self) -> Counter[str]:
        """The calls since it was last called."""
        done, self._done = self._done, []
        return Counter(done)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Argon2id is real, with cheap parameters, because it is counted and not timed."""
    monkeypatch.setattr(password, "ARGON2_MEMORY_KIB", 8)
    monkeypatch.setattr(password, "ARGON2_TIME_COST", 1)
    monkeypatch.setattr(password, "_dummy_hash", None)
    work = Work()
    for owner, attribute, name in (
        (digest, "blake2b", "digests"),
        (digest, "compare_digest", "comparisons"),
        (password, "hash_password", "made"),
        (passwords, "verify_password", "password_hashes"),
        (reader.StoreReader, "_check_found", "lookups"),
    ):
        monkeypatch.setattr(owner, attribute, work.counting(name, getattr(owner, attribute)))
    return work


@pytest.fixture(params=["sqlite", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, work: Work) -> Iterator[Backend]:
    """A key of every kind. Revoked, disabled and expired keys have valid secrets of both kinds."""
    url = (
        f"sqlite:///{tmp_path}/keys.db"
        if request.param == "sqlite"
        else str(request.getfixturevalue("redis_url"))
    )
    with open_backend(url, settings=SETTINGS, create=True) as backend:
        for client_id in ("revoked", "disabled", "expired"):
            backend.create(client_id=client_id, secret=GENERATED)
            backend.rotate(client_id, secret=PASSWORD)
        backend.revoke("revoked")
        backend.disable("disabled")
        key: Key = backend.store.get("expired")
        ended = replace(key, expires_at=utcnow() - timedelta(seconds=1), version=key.version + 1)
        assert backend.store.put(ended, key.version)
        backend.create(client_id="generated")
        backend.create(client_id="password", secret="another password")
        backend.create(client_id="eight")
        for _ in range(hashing.MAX_ACTIVE_SECRETS - 1):
            backend.rotate("eight")
        assert backend.store.put(Key("no secret"), None)
        imported = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
        assert backend.store.put(Key("bcrypt", secrets=(Secret(imported),)), None)
        backend.create(client_id="right", secret=GENERATED)
        backend.rotate("right", secret=PASSWORD)
        yield backend


REFUSED = (
    "unknown",
    "generated",
    "password",
    "eight",
    "no secret",
    "bcrypt",
    "revoked",
    "disabled",
    "expired",
)


@pytest.fixture(params=["asgi", "wsgi"])
def send(request: pytest.FixtureRequest, backend: Backend) -> Iterator[Callable[[str], int]]:
    """Send a request to a middleware; return the status."""
    if request.param == "wsgi":
        wsgi = WSGIMiddleware(lambda _environ, start: start("200 OK", []) and [], backend, settings=SETTINGS)
        yield lambda authorization: wsgi_helpers.call(wsgi, authorization).status
    else:
        asgi = BasicAuthMiddleware(App(), backend, settings=SETTINGS)
        with asyncio.Runner() as loop:
            yield lambda field: loop.run(exchange(asgi, http_scope(field))).status
            loop.run(backend.aclose())


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        pytest.param(GENERATED, LOOKED_UP, id="generated"),
        pytest.param(generate("other"), LOOKED_UP, id="generated with another prefix"),
        pytest.param(PASSWORD, ONE_PASSWORD_HASH, id="password"),
        pytest.param("x", ONE_PASSWORD_HASH, id="one letter"),
        pytest.param("x" * 72 + "y", ONE_PASSWORD_HASH, id="73 bytes"),
        pytest.param("x" * 200, ONE_PASSWORD_HASH, id="200 bytes"),
        pytest.param("é" * 512, ONE_PASSWORD_HASH, id="the longest"),
        pytest.param("x" * 1025, NOTHING, id="too long"),
        pytest.param("x" * 65_536, NOTHING, id="64 KiB"),
        pytest.param(GENERATED[:-1] + ("a" if GENERATED[-1] != "a" else "b"), NOTHING, id="mistyped"),
    ],
)
@pytest.mark.proves("O4", "X1", "X3", "X6", "X7", "X8", "X11")
def test_a_refusal_is_the_same_work_whatever_is_found(
    send: Callable[[str], int], work: Work, secret: str, expected: Counter[str]
) -> None:
    """One lookup and one digest, one password hash for a password, and no work if it is too long."""
    # By hand, because encode_basic refuses a secret that is too long.
    fields = {
        client_id: "Basic " + b64encode(f"{client_id}:{secret}".encode()).decode() for client_id in REFUSED
    }
    send(encode_basic("unknown", PASSWORD))  # creates the decoy
    work.since()
    done = {}
    for client_id, field in fields.items():
        assert send(field) == 401
        done[client_id] = work.since()

    assert done == dict.fromkeys(REFUSED, expected)


@pytest.mark.parametrize("secret", [GENERATED, PASSWORD], ids=["generated", "password"])
def test_a_custom_store_may_return_keys_of_memory(work: Work, secret: str) -> None:
    """After the first of them, an unknown ID costs the same digests."""

    class Custom:
        def get(self, client_id: str) -> Key | None:
            return memory.get(client_id)

        def has_password_hashes(self) -> bool:
            return False

    with open_backend("memory:", settings=SETTINGS) as memory:
        issued = memory.create(client_id="known", secret=secret)
        asgi = BasicAuthMiddleware(App(), Custom(), settings=SETTINGS)
        done = []
        for authorization, status in (
            (issued.authorization, 200),
            (encode_basic("known", generate("sk")), 401),
            (encode_basic("unknown", generate("sk")), 401),
        ):
            work.since()
            assert call(asgi, http_scope(authorization)).status == status
            done.append(work.since())

    assert done[1] == done[2]


@pytest.mark.proves("X1", "X7")
@pytest.mark.parametrize("client_id", REFUSED)
def test_the_first_request_of_a_process_reveals_nothing_either(
    send: Callable[[str], int], work: Work, client_id: str
) -> None:
    """The first request always creates the decoy, even if it is not needed."""
    work.since()
    assert send(encode_basic(client_id, PASSWORD)) == 401
    assert work.since() == ONE_PASSWORD_HASH + Counter(made=1)


@pytest.mark.proves("X3")
@pytest.mark.parametrize("secret", [GENERATED, PASSWORD], ids=["generated", "password"])
def test_concurrent_refusals_are_the_same_work_whatever_is_found(
    backend: Backend, work: Work, secret: str
) -> None:
    """Fifty equal requests share the same work, and fifty different ones share none, known ID or not."""
    different = [generate("sk") if secret == GENERATED else f"guess {number}" for number in range(AT_ONCE)]
    bursts = {"equal": [secret] * AT_ONCE, "different": different}
    middleware = BasicAuthMiddleware(App(), backend, settings=SETTINGS)

    async def main() -> dict[str, set[tuple[tuple[str, int], ...]]]:
        await exchange(middleware, http_scope(encode_basic("unknown", PASSWORD)))
        done: dict[str, set[tuple[tuple[str, int], ...]]] = {}
        for name, sent in bursts.items():
            for client_id in REFUSED:
                work.since()
                exchanges = [exchange(middleware, http_scope(encode_basic(client_id, each))) for each in sent]
                assert {seen.status for seen in await asyncio.gather(*exchanges)} == {401}
                done.setdefault(name, set()).add(tuple(sorted(work.since().items())))
        await backend.aclose()
        return done

    done = asyncio.run(main())
    assert [len(kinds) for kinds in done.values()] == [1, 1]
    expected = LOOKED_UP if secret == GENERATED else ONE_PASSWORD_HASH
    assert dict(*done["different"]) == {name: number * AT_ONCE for name, number in expected.items()}
    if secret == PASSWORD:
        assert dict(*done["equal"])["password_hashes"] == 1


@pytest.mark.proves("X16", "X17")
@pytest.mark.parametrize("secret", [GENERATED, PASSWORD], ids=["generated", "password"])
def test_a_cached_credential_costs_no_hash_and_authenticates_no_other(
    send: Callable[[str], int], work: Work, secret: str
) -> None:
    """Until it is invalidated; every other secret of that ID is verified in full."""
    assert send(encode_basic("right", secret)) == 200
    work.since()

    assert send(encode_basic("right", secret)) == 200
    assert work.since() == NOTHING
    for wrong in (secret[:-1], secret + "x", "x", generate("sk"), PASSWORD.upper()):
        assert send(encode_basic("right", wrong)) == 401
        assert send(encode_basic("password", secret)) == 401
    assert send(encode_basic("right", secret)) == 200


@pytest.mark.proves("X17", "X18")
def test_a_password_hash_delays_no_other_request(backend: Backend, work: Work) -> None:
    """It never runs on the event loop, which sends other responses meanwhile."""
    middleware = BasicAuthMiddleware(App(), backend, settings=SETTINGS)
    work.held = threading.Event()

    async def main() -> None:
        async with asyncio.timeout(LIMIT_S):
            slow = [
                asyncio.create_task(
                    exchange(middleware, http_scope(encode_basic("password", f"guess {number}")))
                )
                for number in range(AT_ONCE)
            ]
            while work.since()["password_hashes"] == 0:
                await asyncio.sleep(0.001)
            for _ in range(3):
                assert (
                    await exchange(middleware, http_scope(encode_basic("right", GENERATED)))
                ).status == 200
                assert (
                    await exchange(middleware, http_scope(encode_basic("right", generate("sk"))))
                ).status == 401
            assert not any(task.done() for task in slow)
            assert work.held is not None
            work.held.set()
            assert {seen.status for seen in await asyncio.gather(*slow)} == {401}
        await backend.aclose()

    asyncio.run(main())
    assert 1 <= len(work.threads) <= SETTINGS.slow_hash_workers
    assert threading.get_ident() not in work.threads


class Name(bytes):
    """A header's name that counts how often it is read."""

    looks = 0

    def __len__(self) -> int:
        Name.looks += 1
        return super().__len__()

    def lower(self) -> bytes:
        Name.looks += 1
        return super().lower()


@pytest.mark.proves("X52")
@pytest.mark.parametrize(
    "name", [b"x-%020d", b"x-%011d", b"authorization"], ids=["other", "as long", "the same"]
)
@pytest.mark.parametrize("strip", [False, True])
def test_many_headers_are_read_a_fixed_number_of_times(name: bytes, *, strip: bool) -> None:
    """A hundred or ten thousand: each is read equally often."""
    middleware = BasicAuthMiddleware(
        App(),
        "memory:",
        settings=SETTINGS.replace(
            strip_authorization=strip, allow_preflight=True, challenge="navigations", exclude=("/open",)
        ),
    )
    looks = {}
    for path in ("/", "/open"):
        for many in (100, 1000, 10_000):
            fields = [(Name(name % number if b"%" in name else name), b"x") for number in range(many)]
            Name.looks = 0
            seen = call(middleware, http_scope(method="OPTIONS", path=path, headers=fields))
            assert seen.status == (200 if path == "/open" else 401)
            looks[path, many] = Name.looks / many

    for path in ("/", "/open"):
        least, *_, most = sorted(each for (requested, _), each in looks.items() if requested == path)
        assert most - least < 0.1
        assert (path == "/") <= most <= 12
