"""Reading all keys, and going on after a record that cannot be read."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Backend, Key, Settings
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.backends.search import iter_records
from basicauth_mw.errors import UnreadableRecord

if TYPE_CHECKING:
    from collections.abc import Callable

IDS = [f"k{number:03}" for number in range(300)]


class Store(MemoryStore):
    """A page of it fails if it has a damaged record, which ``then`` may change after the first failure."""

    def __init__(self, then: Callable[[Store], object]) -> None:
        super().__init__()
        self.damaged: set[str] = set()
        self.scans = 0
        self._then = then

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        self.scans += 1
        page = super().scan(prefix, after, limit)
        for key in page:
            if key.client_id in self.damaged:
                self._then(self)
                raise UnreadableRecord("damaged", client_id=key.client_id)
        return page


def read(store: Store, limit: int | None = None) -> list[str]:
    """The IDs, with an exclamation mark after those whose record cannot be read."""
    backend = Backend(store, settings=Settings())
    backend.add([Key(client_id) for client_id in IDS])
    store.damaged = {"k070"}
    found = islice(iter_records(backend, limit=limit), len(IDS) + 1)
    return [f"{each.client_id}!" if isinstance(each, UnreadableRecord) else each.client_id for each in found]


@pytest.mark.parametrize("limit", [None, 0, 1, 70, 71, 72, 299, 300])
@pytest.mark.parametrize(
    ("then", "expected"),
    [
        pytest.param(lambda _store: None, [*IDS[:70], "k070!", *IDS[71:]], id="stays"),
        pytest.param(lambda store: store.damaged.clear(), IDS, id="repaired"),
        pytest.param(lambda store: store.delete("k070"), [*IDS[:70], *IDS[71:]], id="deleted"),
    ],
)
def test_every_other_key_is_read_once(
    then: Callable[[Store], object], expected: list[str], limit: int | None
) -> None:
    """A damaged record counts as no key. Only the keys before it are read one by one."""
    store = Store(then)

    found = read(store, limit)

    keys = [each for each in found if not each.endswith("!")]
    assert found == expected[: len(found)]
    assert len(keys) == len([each for each in expected if not each.endswith("!")][:limit])
    assert store.scans < 90
