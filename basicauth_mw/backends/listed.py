"""Code shared by the stores that keep keys in the memory of the process: ``env:``, ``file:``, ``memory:``."""

from __future__ import annotations

from heapq import nsmallest
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ..errors import InvalidKey, MissingExtra
from ..keys.hashing import Hasher, is_password_hash, looks_hashed
from ..keys.key_lists import fingerprint, key_of
from ..keys.model import utcnow
from ..keys.validation import SHORT_PASSWORD, is_short_password
from .base import StoreWarning
from .codec import dump_key, has_version, load_for_lookup, load_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..keys.key_lists import Entry
    from ..keys.model import Key
    from .codec import StoredRecord

V = TypeVar("V")

_HASHER = Hasher(volatile=True)


class KeyList:
    """The entries of a list, and what they change. Keys are kept as text, which needs a third of the memory.

    Args:
        known: The earlier records, by client ID. That of an unchanged entry is kept.

    Attributes:
        ids: The client IDs in the list.
        changed: The records of keys that are new or differ, by client ID.
        problems: The invalid entries, as place and reason.
        short_passwords: How many passwords are short.
        has_plaintext: Whether any secret is not hashed.
        has_password_hashes: Whether any key has a password hash.
    """

    def __init__(self, known: Mapping[str, str] = MappingProxyType({})) -> None:
        self.ids: set[str] = set()
        self.changed: dict[str, str] = {}
        self.problems: list[tuple[str, str]] = []
        self.short_passwords = 0
        self.has_plaintext = False
        self.has_password_hashes = False
        self._known = known
        self._now = utcnow()

    def add(self, entry: Entry) -> None:
        """Add an entry. Raises ``MissingExtra`` for a password hash that cannot be verified here."""
        place, client_id, fields = entry
        try:
            if isinstance(fields, InvalidKey):
                raise fields
            record = self._known.get(client_id)
            if record is None or not has_version(record, client_id, fingerprint(fields)):
                record = dump_key(key_of(client_id, fields, _HASHER, self._now))
                self.changed[client_id] = record
            if client_id in self.ids:
                raise InvalidKey("the client ID occurs twice")
        except MissingExtra:
            raise
        except ValueError as exc:  # its text never contains a value
            self.problems.append((place, str(exc)))
            return
        self.ids.add(client_id)
        secret = fields if isinstance(fields, str) else fields["secret"]
        if looks_hashed(secret):
            self.has_password_hashes |= is_password_hash(secret)
        else:
            self.has_plaintext = True
            self.short_passwords += is_short_password(secret)


class ListedStore:
    """Looks keys up in a list.

    Args:
        source: Where the list comes from, for messages.
    """

    volatile: ClassVar[bool] = True

    def __init__(self, source: str) -> None:
        self._source = source
        self._records: dict[str, str] = {}
        self._short_passwords = 0

    def get(self, client_id: str, /) -> Key | None:
        record = self._records.get(client_id)
        return None if record is None else load_key(record, client_id)

    def get_record(self, client_id: str, /) -> StoredRecord | None:
        return load_for_lookup(self._records.get(client_id), client_id)

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        page = page_of(self._records, prefix, after, limit)
        return [load_key(record, client_id) for client_id, record in page]

    def warnings(self) -> list[StoreWarning]:
        """Passwords that are too short."""
        count = self._short_passwords
        message = f"passwords of fewer than {SHORT_PASSWORD} characters in {self._source}: {count}"
        remedy = "use long random secrets, such as those that basicauth-mw keys create generates"
        return [StoreWarning("short_password", message, remedy)] if count else []


def page_of(values: Mapping[str, V], prefix: str, after: str, limit: int) -> list[tuple[str, V]]:
    """The items that ``Store.scan`` returns, of a mapping by client ID."""
    values = dict(values)  # a copy: the thread of ``file:`` may remove keys meanwhile
    # Strings are ordered by code point, which is the order of their UTF-8 bytes.
    ids = (each for each in values if each > after and each.startswith(prefix))
    return [(client_id, values[client_id]) for client_id in nsmallest(limit, ids)]
