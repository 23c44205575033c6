"""A signal handler that raises during an operation, as Ctrl-C and timeouts do: the store works as before."""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends import LastUse, Store, open_store
from basicauth_mw.keys.model import Key, Secret, utcnow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = utcnow().replace(microsecond=0)
STAYS = Key("stays", secrets=(Secret("$2b$12$" + "A" * 53, NOW),), version=1)
INTERRUPTED = ("basicauth_mw/backends/", "site-packages/redis/")


class Interrupt(BaseException):
    pass


def interrupt_after(number: int, work: Callable[[], object]) -> bool:
    """Raise after a call of a C function, where the interpreter runs signal handlers; False: it ended before.

    Args:
        number: Which call, from 1.
        work: What to interrupt.
    """
    returned = 0

    def count(frame: Any, event: str, _function: object) -> None:
        nonlocal returned
        if event == "c_return" and any(part in frame.f_code.co_filename for part in INTERRUPTED):
            returned += 1
            if returned == number:
                sys.setprofile(None)
                raise Interrupt

    sys.setprofile(count)
    try:
        work()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def change(store: Any, key: Key) -> bool:
    """Replace a key, or create it."""
    stored = store.get(key.client_id)
    return bool(store.put(key, None) if stored is None else store.put(next_version(stored), stored.version))


def next_version(key: Key) -> Key:
    return replace(key, version=key.version + 1)


WORK: dict[str, Callable[[Any], object]] = {
    "get": lambda store: store.get("stays"),
    "get-unknown": lambda store: store.get("unknown"),
    "change": lambda store: change(store, Key("changed", version=1)),
    "delete": lambda store: store.delete("changed"),
    "add": lambda store: store.add([Key("changed", version=1), Key("added", version=1)]),
    "scan": lambda store: store.scan("", "", 9),
    "changes": lambda store: store.changes(None),
    "record-uses": lambda store: store.record_uses([LastUse("stays", NOW, NOW)]),
}


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'keys.db'}"
    return str(request.getfixturevalue(f"{request.param}_url"))


# What was interrupted may have left a socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("work", "is_new"), [*((work, False) for work in WORK), ("get", True), ("change", True)]
)
def test_an_interrupt_at_any_time(url: str, work: str, *, is_new: bool) -> None:
    """Nothing stays locked, and no reply is left for another lookup."""
    opened: Any = open_store(url, create=True)
    with closing(opened) as store, closing(open_store(url)) as other:  # type: ignore[type-var]
        assert isinstance(other, Store)
        assert store.put(STAYS, None)
        # Both parts of a change on a new connection have a case of their own, which interrupts at every call.
        step = 3 if is_new and work == "change" else 1
        for number in itertools.count(1, step):
            if is_new:
                store.close()
            if not interrupt_after(number, lambda: WORK[work](store)):
                break
            begin = time.monotonic()
            assert store.get("unknown") is None
            assert store.get("stays") == STAYS
            assert change(store, Key("mine", version=1))
            assert change(other, Key("theirs", version=1))
            assert "stays" in [key.client_id for key in store.scan("", "", 9)]
            assert time.monotonic() - begin < 4  # a lock that is never released takes 5 s
        assert number > 3 * step
