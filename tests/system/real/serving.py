"""Serve an app that does not know about the middleware, with ``basicauth_mw.serve``.

The scripts beside this module run in other environments, so it imports nothing but the package.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from basicauth_mw import Settings, encode_basic, open_backend
from tests.waiting import free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from basicauth_mw import Backend

E = TypeVar("E", bound=BaseException)

ROOT = Path(__file__).parents[3]
START_LIMIT_S = 240.0  # large apps on a busy machine
UVICORN = ("uvicorn", "basicauth_mw.serve:app", "--port={port}", "--log-level=warning")


@dataclass
class Running:
    """An app that is being served.

    Attributes:
        url: Its address.
        keys: Its store.
        log: The file with the output of the server.
    """

    url: str
    keys: Backend
    log: Path


@contextmanager
def serving(
    app: str, directory: Path, *, command: tuple[str, ...] = UVICORN, store: str = "", **settings: str
) -> Iterator[Running]:
    """Serve an app on a free port of 127.0.0.1, until the block ends.

    Args:
        app: For ``BASICAUTH_APP``.
        directory: Where the server runs; it also has the log, and the keys unless there is a ``store``.
        command: The arguments of ``python -m``.
        store: A backend URL.
        settings: More environment variables.
    """
    port = free_port()
    store = store or f"sqlite:///{directory / 'keys.db'}"
    log = directory / "server.log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    environ |= {"BASICAUTH_APP": app, "BASICAUTH_BACKEND": store, "PYTHONPATH": str(ROOT), **settings}
    with open_backend(store, settings=Settings(), create=True) as keys, log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *(word.format(port=port) for word in command)],
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            wait_until(lambda: listens(port) or server.poll() is not None, START_LIMIT_S)
            assert server.poll() is None, log.read_text()
            yield Running(f"http://127.0.0.1:{port}", keys, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # includes its workers
            server.wait()


@dataclass(frozen=True)
class Key:
    """What a client is given."""

    client_id: str
    secret: str

    @property
    def token(self) -> str:
        """For Bearer, and for a header of its own."""
        return encode_basic(self.client_id, self.secret).removeprefix("Basic ")


def raised_by(call: Callable[[], object], kind: type[E]) -> E:
    """The exception that a call raises; like ``pytest.raises``, which these environments do not have."""
    try:
        call()
    except kind as exc:
        return exc
    raise AssertionError(f"no {kind.__name__}")


def check_life_of_a_key(keys: Backend, use: Callable[[Key], object], refusal: type[Exception]) -> None:
    """Use a key from its creation to its revocation, while the app runs.

    Args:
        keys: The store of the app.
        use: Sends requests with a key, and raises if one is refused.
        refusal: What it raises then.
    """

    def is_refused(key: Key) -> bool:
        try:
            use(key)
        except refusal:
            return True
        return False

    first, other = (keys.create(name=name) for name in ("ci", "other"))
    old = Key(first.client_id, first.secret)
    use(old)
    assert is_refused(Key(old.client_id, other.secret))
    assert is_refused(Key("unknown", other.secret))

    rotated = keys.rotate(old.client_id, overlap_s=3600)
    new = Key(rotated.client_id, rotated.secret)
    use(new)
    use(old)  # until the end of the overlap
    keys.rotate(old.client_id, overlap_s=0)
    wait_until(lambda: is_refused(new))
    wait_until(lambda: is_refused(old))  # one may be cached for 250 ms, and the other not at all

    last = keys.rotate(old.client_id)
    newest = Key(last.client_id, last.secret)
    use(newest)
    keys.revoke(old.client_id)
    wait_until(lambda: is_refused(newest))
    use(Key(other.client_id, other.secret))  # its own key is not affected
