"""Concurrent changes of one key: none is lost."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.errors import InvalidKey, KeyExists, KeyNotFound, KeyRevoked
from basicauth_mw.keys.hashing import MAX_ACTIVE_SECRETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw import Backend, Issued, Key

from tests.backends.life.helpers import (
    Deployment,
    at_once,
    beyond_memory,
    stored,
)

ROOT = Path(__file__).parents[3]


def interrupt(backend: Backend, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call ``act`` once between the read and the write of a change."""
    read = backend.store.get
    acts = iter([act])

    def get(client_id: str, /) -> Key | None:
        key: Key | None = read(client_id)
        for each in acts:
            each()
        return key

    monkeypatch.setattr(backend.store, "get", get)


WRITES: dict[str, tuple[Callable[[Backend], object], Callable[[Key], bool]]] = {
    "rotate": (lambda backend: backend.rotate("ci"), lambda key: len(key.secrets) == 2),
    "rotate-to-password": (
        lambda backend: backend.rotate("ci", secret="a password"),
        lambda key: len(key.secrets) == 2,
    ),
    "update": (lambda backend: backend.update("ci", scopes=["new"]), lambda key: key.scopes == {"new"}),
    "disable": (lambda backend: backend.disable("ci"), lambda key: key.disabled),
    "revoke": (lambda backend: backend.revoke("ci"), lambda key: key.revoked_at is not None),
}


every_write = pytest.mark.parametrize(("write", "is_done"), WRITES.values(), ids=WRITES)


@every_write
def test_a_concurrent_change_is_not_lost(
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Backend], object],
    is_done: Callable[[Key], bool],
) -> None:
    """Both changes are kept."""
    first, second = deployment.open(), deployment.open()
    first.create(client_id="ci", metadata={"n": 1})
    interrupt(first, monkeypatch, lambda: second.update("ci", name="between", metadata={"n": 2}))

    write(first)

    key = stored(second, "ci")
    assert is_done(key)
    assert (key.name, key.metadata) == ("between", {"n": 2})


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda backend: backend.revoke("ci"), KeyRevoked),
        (lambda backend: backend.delete("ci"), KeyNotFound),
        (lambda backend: [backend.rotate("ci") for _ in range(MAX_ACTIVE_SECRETS - 1)], InvalidKey),
    ],
    ids=["revoked", "deleted", "eight-secrets"],
)
def test_a_change_respects_a_concurrent_change(
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Backend], object],
    error: type[Exception],
) -> None:
    first, second = deployment.open(), deployment.open()
    first.create(client_id="ci")
    interrupt(first, monkeypatch, lambda: act(second))
    with pytest.raises(error):
        first.rotate("ci")

    key = second.get("ci")
    assert key is None or (key.revoked_at is not None) == (len(key.secrets) == 1)


def test_threads_lose_no_change(backend: Backend, deployment: Deployment) -> None:
    """Three threads each change their own field, one disables, three rotate: no change is undone."""
    backend.create(client_id="ci")
    issued: list[Issued] = []

    def write(field: str, values: list[Any]) -> None:
        own = deployment.open()
        for value in values:
            own.update("ci", **{field: value})
            assert getattr(stored(own, "ci"), field) == value

    def switch() -> None:
        own = deployment.open()
        for disabled in [False, True] * 10:
            own.disable("ci") if disabled else own.enable("ci")
            assert stored(own, "ci").disabled is disabled

    def rotate() -> None:
        own = deployment.open()
        issued.extend(own.rotate("ci", overlap_s=3600) for _ in range(2))

    at_once(
        [
            lambda: write("name", [f"name-{number}" for number in range(20)]),
            lambda: write("scopes", [frozenset({f"scope-{number}"}) for number in range(20)]),
            lambda: write("metadata", [{"n": number} for number in range(20)]),
            switch,
            *[rotate] * 3,
        ]
    )

    key = stored(backend, "ci")
    assert (key.name, key.scopes, key.metadata) == ("name-19", {"scope-19"}, {"n": 19})
    assert key.disabled
    backend.enable("ci")
    authenticator = deployment.serve("wsgi", backend)
    assert [authenticator.request(each.authorization).status for each in issued] == [200] * 6


def test_one_of_many_concurrent_creations_succeeds(deployment: Deployment) -> None:
    made: list[Issued] = []
    refused: list[KeyExists] = []

    def create(own: Backend) -> None:
        try:
            made.append(own.create(client_id="same"))
        except KeyExists as exc:
            refused.append(exc)

    backends = [deployment.open() for _ in range(8)]
    at_once([lambda own=own: create(own) for own in backends])

    assert (len(made), len(refused)) == (1, 7)
    assert stored(backends[0], "same") == made[0].key


# A process that waits for a line, then rotates the key and changes one of its fields repeatedly.
WRITER = """
import sys
from basicauth_mw import Settings, open_backend
url, number = sys.argv[1:]
fields = {
    "0": lambda n: {"name": str(n)},
    "1": lambda n: {"scopes": [str(n)]},
    "2": lambda n: {"metadata": {"n": n}},
}
with open_backend(url, settings=Settings(backend_deadline_s=10.0)) as backend:
    backend.get("ci")
    print("ready", flush=True)
    sys.stdin.readline()
    print(backend.rotate("ci", overlap_s=3600).authorization)
    backend.create(client_id=f"own-{number}")
    for n in range(25 if number in fields else 0):
        backend.update("ci", **fields[number](n))
"""


@beyond_memory
def test_processes_lose_no_change(deployment: Deployment, backend: Backend) -> None:
    """Seven processes rotate one key at the same time: all eight secrets work."""
    first = backend.create(client_id="ci")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, deployment.url, str(number)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(MAX_ACTIVE_SECRETS - 1)
        ]
        for writer in writers:
            stack.callback(writer.kill)
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        new = [writer.communicate(timeout=60)[0].strip() for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * len(writers)

    authenticator = deployment.serve("wsgi", backend)
    assert [authenticator.request(authorization).status for authorization in (first.authorization, *new)] == [
        200
    ] * 8
    key = stored(backend, "ci")
    assert (key.name, key.scopes, key.metadata) == ("24", {"24"}, {"n": 24})
    assert [key.client_id for key in backend.iter_keys(prefix="own-")] == [f"own-{n}" for n in range(7)]
