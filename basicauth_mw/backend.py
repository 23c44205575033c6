"""``Backend``: minting, hashing and the life of a key, written once over any store."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from . import audit
from .backends import Store, open_store
from .credentials import encode_basic
from .drive import Performer
from .errors import (
    BackendUnavailable,
    KeyExists,
    KeyNotFound,
    KeyRevoked,
    ReadOnlyBackend,
    UnreadableRecord,
)
from .hashing import PROCESS_PEPPER, Hasher, hash_slow
from .minting import ID_PREFIX, Shape, mint, recognise
from .model import Key, Secret, utcnow
from .rules import check_client_id, check_expires_at, check_metadata, check_name, check_scopes, check_secret
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

PAGE: Final = 500
_TRIES: Final = 50


@dataclass(frozen=True, slots=True)
class Issued:
    """A new secret. It is shown here and never again.

    Attributes:
        client_id: Public half of the credential.
        secret: The other half, in clear. Hidden in ``repr``.
        authorization: The value of an Authorization field. Hidden in ``repr``.
        key: What was stored.
    """

    client_id: str
    secret: str = field(repr=False)
    authorization: str = field(repr=False)
    key: Key


class Backend:
    """Makes, finds and ends keys.

    Args:
        store: A ``Store``, a ``ReadableStore``, or any object with ``get`` or ``aget`` that gives a ``Key``
            or None.
        settings: Peppers, prefix, deadline; None: ``Settings.from_env()``.

    Every method that changes a key raises ``ReadOnlyBackend`` over a store that cannot be written,
    ``BackendUnavailable`` over one that cannot be asked, and writes an audit record when it is done.
    """

    def __init__(self, store: Any, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = Settings.from_env()
        self.store = store
        # What never leaves this process may be kept as a digest under a key that never does either.
        self._volatile = getattr(store, "volatile", False) is True
        process = [PROCESS_PEPPER] if self._volatile else []
        self.hasher = Hasher([*process, *(pepper.encode() for pepper in settings.pepper)])
        self._prefix = settings.secret_prefix
        self._performer = Performer(
            store, deadline_s=settings.backend_deadline_s, slow_hash_workers=settings.slow_hash_workers
        )
        self._listeners: list[weakref.WeakMethod[Callable[[str], None]]] = []

    def __repr__(self) -> str:
        return f"<Backend over {type(self.store).__name__}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --- finding

    def get(self, client_id: str) -> Key | None:
        """Look one key up.

        Returns:
            The key, or None for an unknown id.

        Raises:
            BackendUnavailable: The store cannot be asked within ``backend_deadline_s``.
            UnreadableRecord: The record is damaged.
        """
        return self._performer.lookup(client_id, self._performer.deadline())

    async def aget(self, client_id: str) -> Key | None:
        """``get`` for an event loop."""
        return await self._performer.alookup(client_id, self._performer.deadline())

    def iter_keys(self, prefix: str = "", after: str = "", limit: int | None = None) -> Iterator[Key]:
        """Walk over keys in the order of their ids' octets, in constant memory.

        Args:
            prefix: Only ids that start with it.
            after: Only ids behind this one: the last id of a page is the cursor of the next.
            limit: At most so many; None: all.
        """
        scan = getattr(self.store, "scan", None)
        if scan is None:
            raise ReadOnlyBackend("this backend finds keys by their id only and cannot list them")
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = scan(prefix, after, size)
            yield from page
            if len(page) < size:
                return
            after = page[-1].client_id
            left = None if left is None else left - size

    # --- changing

    def create(
        self,
        *,
        name: str = "",
        scopes: Iterable[str] = (),
        expires_at: datetime | None = None,
        client_id: str | None = None,
        secret: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Issued:
        """Make a key.

        Args:
            name: For people; up to 200 characters.
            scopes: Scope tokens (RFC 6749 section 3.3).
            expires_at: When the key ends, timezone-aware; None: never.
            client_id: Up to 255 octets without a colon; None: one is minted.
            secret: Up to 1024 octets; None: one is minted. One of another shape than minted ones is
                hashed with Argon2id, and costs that much at every uncached request.
            metadata: A JSON object of up to 4 KiB, for the app.

        Raises:
            InvalidKey: One of them is not allowed.
            KeyExists: The client id is taken.
            MissingExtra: A chosen secret, and argon2-cffi is not installed.
        """
        now = utcnow()
        client_id = mint(ID_PREFIX) if client_id is None else check_client_id(client_id)
        plain = mint(self._prefix) if secret is None else check_secret(secret)
        key = Key(
            client_id=client_id,
            name=check_name(name),
            scopes=check_scopes(scopes),
            created_at=now,
            expires_at=check_expires_at(expires_at, now=now),
            metadata=check_metadata(metadata),
            # Versions of a client id that was deleted and made again must not meet those of the old one.
            version=int(now.timestamp() * 1_000_000),
        )
        authorization = encode_basic(client_id, plain)
        store = self._writable()
        key = replace(key, secrets=(Secret(self._hash(plain), created_at=now),))
        if not store.put(key, None):
            raise KeyExists(f"there is a key with the client id {client_id!r} already")
        self._changed("key.created", client_id)
        return Issued(client_id, plain, authorization, key)

    def revoke(self, client_id: str) -> Key:
        """End a key for good; may be repeated.

        Raises:
            KeyNotFound: There is no such key.
        """

        def revoked(key: Key) -> Key:
            return key if key.revoked_at else replace(key, revoked_at=utcnow())

        return self._change("key.revoked", client_id, revoked)

    def disable(self, client_id: str) -> Key:
        """Refuse a key until it is enabled again; may be repeated.

        Raises:
            KeyNotFound: There is no such key.
        """
        return self._change("key.disabled", client_id, lambda key: replace(key, disabled=True))

    def enable(self, client_id: str) -> Key:
        """Take a ``disable`` back; may be repeated.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: It was revoked, which is final.
        """

        def enabled(key: Key) -> Key:
            if key.revoked_at:
                raise KeyRevoked(f"the key {client_id!r} was revoked, which is final")
            return replace(key, disabled=False)

        return self._change("key.enabled", client_id, enabled)

    def delete(self, client_id: str) -> Key:
        """Remove a key and free its id.

        Returns:
            The key as it was; of a record that cannot be read, the client id only.

        Raises:
            KeyNotFound: There is no such key.
        """
        store = self._writable()
        try:
            key = store.get(check_client_id(client_id))
        except UnreadableRecord:
            key = Key(client_id)
        if key is None or not store.delete(client_id):
            raise KeyNotFound(f"there is no key with the client id {client_id!r}")
        self._changed("key.deleted", client_id)
        return key

    # --- ending

    def close(self) -> None:
        """Release connections and threads. A later call opens them anew."""
        self._performer.close()
        if close := getattr(self.store, "close", None):
            close()

    async def aclose(self) -> None:
        """``close``, and what belongs to the running event loop."""
        if aclose := getattr(self.store, "aclose", None):
            await aclose()
        self.close()

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Have a method called with the client id of every key that is changed through this object.

        It is held weakly: the object it belongs to may end before this one.
        """
        self._listeners = [known for known in self._listeners if known() is not None]
        self._listeners.append(weakref.WeakMethod(listener))

    # --- inside

    def _writable(self) -> Store:
        if not isinstance(self.store, Store):
            raise ReadOnlyBackend("this backend cannot be changed from here: edit what it reads")
        return self.store

    def _hash(self, secret: str) -> str:
        if self._volatile or recognise(secret) is Shape.MINTED:
            return self.hasher.hash_fast(secret)
        return hash_slow(secret)

    def _change(self, event: str, client_id: str, change: Callable[[Key], Key]) -> Key:
        """Read, change, and write if nobody else has in between; else from the start."""
        store = self._writable()
        check_client_id(client_id)
        for _ in range(_TRIES):
            key = store.get(client_id)
            if key is None:
                raise KeyNotFound(f"there is no key with the client id {client_id!r}")
            changed = change(key)
            if changed == key:
                return key
            changed = replace(changed, version=key.version + 1)
            if store.put(changed, key.version):
                self._changed(event, client_id)
                return changed
        raise BackendUnavailable(f"the key {client_id!r} is being changed by others all the time")

    def _changed(self, event: str, client_id: str) -> None:
        for known in self._listeners:
            if (listener := known()) is not None:
                listener(client_id)
        audit.record(event, client_id=client_id)


def open_backend(
    url: str | None = None, *, settings: Settings | None = None, create: bool = False
) -> Backend:
    """Open the key backend that a URL names. Nothing is connected before it is first used.

    Args:
        url: None: the one that the settings name.
        settings: None: ``Settings.from_env()``.
        create: Make a missing SQLite file, readable by its owner only.

    Raises:
        ConfigurationError: The URL or the settings cannot be used.
    """
    if settings is None:
        settings = Settings.from_env()
    store = open_store(
        settings.backend if url is None else url, deadline_s=settings.backend_deadline_s, create=create
    )
    return Backend(store, settings=settings)
