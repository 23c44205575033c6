"""``Backend`` creates, finds and ends keys, over any store.

It validates input, generates and hashes secrets, and applies the life cycle; ``writes.py`` does the compare
and swap, ``reader.py`` the lookups within a deadline, and ``change_feed.py`` and ``usage.py`` run in the
background.
"""

from __future__ import annotations

import logging
import weakref
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from ..errors import (
    BackendError,
    BasicAuthError,
    InvalidKey,
    KeyExists,
    KeyNotFound,
    ReadOnlyBackend,
    UnreadableRecord,
)
from ..keys import audit, lifecycle
from ..keys.authorization_header import encode_basic
from ..keys.filters import KeyFilter
from ..keys.generated_secrets import ID_PREFIX, generate, generate_id
from ..keys.hashing import Hasher
from ..keys.imported_keys import check_change, check_key
from ..keys.model import Change, Key, Secret, utcnow, with_version
from ..keys.validation import (
    SHORT_PASSWORD,
    check_client_id,
    check_expires_at,
    check_metadata,
    check_name,
    check_new_client_id,
    check_overlap,
    check_scopes,
    check_secret,
    check_text,
    is_short_password,
)
from ..runtime.tracebacks import without_frames
from ..settings import Settings
from . import HistoryStore, Store, UsageStore, open_store
from .change_feed import ChangeFeed
from .codec import as_key
from .reader import StoreReader
from .search import Page, search
from .usage import UsageRecorder, attach_last_used, uses_of
from .writes import add_confirmed, announce, apply_and_confirm, change_key, put_confirmed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from types import EllipsisType

    from .codec import StoredSecret

logger = logging.getLogger("basicauth_mw")

PAGE_SIZE: Final = 500
_FIRST_PAGE_SIZE: Final = 64  # pages double: many callers need only the first keys
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Issued:
    """A new secret in clear, which is not stored and cannot be shown again.

    Attributes:
        client_id: ID of the key.
        secret: The secret. Hidden in ``repr``.
        authorization: Value of the ``Authorization`` header. Hidden in ``repr``.
        key: The stored key.
    """

    client_id: str
    secret: str = field(repr=False)
    authorization: str = field(repr=False)
    key: Key

    @property
    def token(self) -> str:
        """The base64 text after ``Basic``: the id and the secret in one word."""
        return self.authorization.removeprefix("Basic ")


class Backend:
    """Creates, finds and ends keys.

    Every method that changes a key takes ``actor``: who makes the change, for the audit log, as a client ID
    or a user name; None means ``Backend.actor``. Each of them raises ``ReadOnlyBackend`` if the store cannot
    be written, raises ``BackendUnavailable`` if it cannot be reached, and writes an audit record.

    Args:
        store: A ``Store``, a ``ReadableStore``, or any object with ``get`` or ``aget`` that returns a ``Key``
            or None.
        settings: Pepper, secret prefix and deadline; None reads ``Settings.from_env()``.

    Attributes:
        store: The store.
        actor: Who makes changes when a call does not say it; None if unknown.

    Example::

        with open_backend("sqlite:///keys.db", create=True) as backend:
            issued = backend.create(name="ci", scopes=["read"])
            print(issued.client_id, issued.secret)
            backend.revoke(issued.client_id)
    """

    def __init__(self, store: Any, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = Settings.from_env()
        self.store = store
        self.actor: str | None = None
        if hasattr(store, "keeps_s"):
            store.keeps_s = settings.cache_ttl_s
        self.hasher = Hasher(
            [pepper.encode() for pepper in settings.pepper],
            volatile=getattr(store, "volatile", False) is True,
        )
        self.usage = UsageRecorder(store, self.hasher)
        self.feed = ChangeFeed(store)
        weakref.finalize(self, self.usage.stop).atexit = False  # at exit it is closed, which may wait
        weakref.finalize(self, self.feed.close)
        self._prefix = settings.secret_prefix
        self._reader = StoreReader(
            store, deadline_s=settings.backend_deadline_s, slow_hash_workers=settings.slow_hash_workers
        )
        weakref.finalize(self, self._reader.close)

    def __repr__(self) -> str:
        return f"<Backend over {type(self.store).__name__}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --- find

    def get(self, client_id: str) -> Key | None:
        """Look up one key.

        Returns:
            The key, or None for an unknown id.

        Raises:
            InvalidKey: The id cannot be encoded as UTF-8.
            BackendUnavailable: The store does not respond within ``backend_deadline_s`` seconds.
            UnreadableRecord: The record is damaged.
        """
        ends_at = self._reader.deadline()
        key = as_key(self._reader.lookup(check_text(client_id, "a client ID"), ends_at))
        if key is None or not isinstance(self.store, UsageStore):
            return key
        return self._reader.call(partial(attach_last_used, self.store, [key]), ends_at)[0]

    async def aget(self, client_id: str) -> Key | None:
        """``get`` for an event loop."""
        ends_at = self._reader.deadline()
        key = as_key(await self._reader.alookup(check_text(client_id, "a client ID"), ends_at))
        if key is None or not isinstance(self.store, UsageStore):
            return key
        call = partial(attach_last_used, self.store, [key])
        return (await self._reader.acall(call, ends_at))[0]

    def ready(self) -> bool:
        """Whether keys can be looked up, for a readiness probe.

        Looks up an unknown id. Takes at most ``backend_deadline_s`` seconds and never raises.
        """
        try:
            self._reader.lookup(generate(ID_PREFIX), self._reader.deadline())
        except Exception:  # logged by the reader
            return False
        return True

    async def aready(self) -> bool:
        """``ready`` for an event loop."""
        try:
            await self._reader.alookup(generate(ID_PREFIX), self._reader.deadline())
        except Exception:
            return False
        return True

    def iter_keys(self, prefix: str = "", after: str = "", limit: int | None = None) -> Iterator[Key]:
        """Iterate over keys in the order of their ids' UTF-8 bytes, in constant memory.

        Args:
            prefix: Only ids that start with it.
            after: Only ids after this one, such as the last id of the previous page.
            limit: Maximum number of keys; None for all.

        Raises:
            InvalidKey: An argument is invalid.
            ReadOnlyBackend: The store cannot list its keys.
            UnreadableRecord: A record is damaged.
        """
        check_text(prefix, "a prefix")
        check_text(after, "the id to continue after")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidKey("a limit must be a whole number of at least 0")
        return self._scan(prefix, after, limit)

    def search(
        self,
        text: str = "",
        *,
        state: str | None = None,
        scope: str | None = None,
        after: str = "",
        limit: int = 50,
    ) -> Page:
        """Find keys, in the order of their ids' UTF-8 bytes.

        One call looks at 10,000 keys at most, so it always returns soon. Continue with ``after=page.next``. A
        SQLite file has an index for texts and scopes of three characters or more, and for all states but
        ``active``, ``never-used`` and ``unused``; for texts, it is used if it leads to 4000 keys at most.

        Args:
            text: Part of the name or of the client ID, in any case.
            state: ``active``, ``expired``, ``disabled``, ``revoked``, ``expiring`` (active, and ends within
                30 days), ``never-used``, or ``unused`` (active, and not used for 90 days); None for any.
            scope: A scope that the key has; None for any.
            after: Only ids after this one.
            limit: Maximum number of keys; at least 1.

        Returns:
            The keys, where to continue, and whether all keys after ``after`` were looked at.

        Raises:
            InvalidKey: An argument is invalid.
            ReadOnlyBackend: The store cannot list its keys.
        """
        check_text(text, "a text to search for")
        check_text(after, "the id to continue after")
        if type(limit) is not int or limit < 1:
            raise InvalidKey("a limit must be a whole number of at least 1")
        wanted = KeyFilter(text, state, scope)
        return search(self, wanted, after=after, limit=limit, now=utcnow())

    def history(self, client_id: str) -> list[Change]:
        """Return the last changes of a key, 50 at most, from the newest to the oldest.

        Upgraded hashes and last-used times are no changes. Deleting a key deletes its history.

        Returns:
            The changes; empty if the store keeps none.

        Raises:
            KeyNotFound: There is no such key.
        """
        (found,) = self.histories([check_text(client_id, "a client ID")])
        if not found and self.get(client_id) is None:
            raise _not_found(client_id)
        return found

    def histories(self, client_ids: Sequence[str]) -> list[list[Change]]:
        """``history`` for many IDs, in order; empty for an unknown one."""
        if not isinstance(self.store, HistoryStore):
            return [[] for _ in client_ids]
        return [list(each) for each in self.store.history(client_ids)] if client_ids else []

    def _scan(self, prefix: str, after: str, limit: int | None) -> Iterator[Key]:
        scan = getattr(self.store, "scan", None)
        if scan is None:
            raise ReadOnlyBackend("this backend can look up keys by id but cannot list them")
        left = limit
        size = _FIRST_PAGE_SIZE // 2
        while left is None or left > 0:
            size = min(2 * size, PAGE_SIZE, PAGE_SIZE if left is None else left)
            page = scan(prefix, after, size)
            yield from attach_last_used(self.store, page)
            if len(page) < size:
                return
            after = page[-1].client_id
            left = None if left is None else left - size

    # --- change

    def create(
        self,
        *,
        name: str = "",
        scopes: Iterable[str] = (),
        expires_at: datetime | None = None,
        client_id: str | None = None,
        secret: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> Issued:
        """Create a key.

        Args:
            name: For people; at most 200 characters.
            scopes: Scope tokens (RFC 6749 section 3.3).
            expires_at: When the key expires, timezone-aware; None for never.
            client_id: At most 255 bytes, without a colon; None generates one, ``id_`` and 12 characters.
            secret: At most 1024 bytes; None generates one. Any other secret counts as a password and is
                hashed with Argon2id, which every uncached request pays for.
            metadata: A JSON object of at most 4 KiB, for the app.
            actor: Who creates it.

        Raises:
            InvalidKey: An argument is invalid.
            KeyExists: The client ID is taken.
            MissingExtra: The secret is a password, and argon2-cffi is not installed.
        """
        store = self._writable()
        change = self._made("key.created", actor)
        now = change.time
        plain = self.generate_secret() if secret is None else _checked(secret)
        key = Key(
            client_id="" if client_id is None else check_new_client_id(client_id),
            name=check_name(name),
            scopes=check_scopes(scopes),
            created_at=now,
            expires_at=check_expires_at(expires_at, now=now),
            metadata=check_metadata(metadata),
            version=lifecycle.first_version(now),
        )
        if client_id is not None:
            encode_basic(client_id, plain)  # raises if it cannot be sent, before anything is hashed
        hashed: tuple[Secret, ...] = ()
        while True:
            key = replace(key, client_id=client_id or generate_id())
            # Read first: if the store is down, nothing was written for certain.
            if store.get(key.client_id) is None:
                hashed = hashed or (Secret(self.hasher.hash(plain), created_at=now),)
                key = replace(key, secrets=hashed)
                if put_confirmed(store, key, None, [change]):
                    break
            if client_id is not None:
                raise KeyExists(f"there is already a key with the client ID {client_id!r}")
        self._notify(change, [key.client_id])
        return Issued(key.client_id, plain, encode_basic(key.client_id, plain), key)

    def rotate(
        self,
        client_id: str,
        *,
        overlap_s: float | timedelta = DAY_S,
        secret: str | None = None,
        version: int | None = None,
        actor: str | None = None,
    ) -> Issued:
        """Add a new secret to a key. Earlier secrets keep working for a while, so that no client is locked
        out.

        Args:
            client_id: ID of the key.
            overlap_s: Seconds, or a ``timedelta``, until earlier secrets expire, unless they expire sooner; 0
                ends them now.
            secret: As for ``create``. A key has one password at a time, so a new one needs an overlap of 0.
            version: ``Key.version`` that must be stored now, so that only one of two people who look at the
                same key rotates it; None for any.
            actor: Who rotates it.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: The key is revoked, which is final.
            InvalidKey: An argument is invalid, the key already has this secret, it would have more than 8
                active ones, or it has another version.
            MissingExtra: The secret is a password, and argon2-cffi is not installed.
        """
        overlap = check_overlap(overlap_s, now=utcnow())
        plain = self.generate_secret() if secret is None else _checked(secret)
        authorization = encode_basic(check_client_id(client_id), plain)
        new = lifecycle.NewSecret(plain, self.hasher)

        def rotated(key: Key) -> Key:
            return lifecycle.rotated(key, new, overlap=overlap, now=utcnow())

        key = self._change("key.rotated", client_id, rotated, actor, version)
        return Issued(client_id, plain, authorization, key)

    def update(
        self,
        client_id: str,
        *,
        name: str | EllipsisType = ...,
        scopes: Iterable[str] | EllipsisType = ...,
        expires_at: datetime | EllipsisType | None = ...,
        metadata: Mapping[str, Any] | EllipsisType | None = ...,
        version: int | None = None,
        actor: str | None = None,
    ) -> Key:
        """Change fields of a key. Omitted fields are unchanged.

        Args:
            client_id: ID of the key.
            name: As for ``create``.
            scopes: Replaces all scopes.
            expires_at: When the key expires, timezone-aware; None for never.
            metadata: Replaces all metadata; None removes it.
            version: ``Key.version`` that must be stored now, so that a form does not undo the change of
                somebody else; None for any.
            actor: Who changes it.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: The key is revoked, which is final.
            InvalidKey: An argument is invalid, or the key has another version.
        """
        fields: dict[str, Any] = {}
        if name is not ...:
            fields["name"] = check_name(name)
        if scopes is not ...:
            fields["scopes"] = check_scopes(scopes)
        if expires_at is not ...:
            fields["expires_at"] = check_expires_at(expires_at, now=utcnow())
        if metadata is not ...:
            fields["metadata"] = check_metadata(metadata)

        return self._change(
            "key.updated", client_id, partial(lifecycle.updated, fields=fields), actor, version
        )

    def end_secret(self, client_id: str, created_at: datetime, *, actor: str | None = None) -> Key:
        """End one secret of a key now, such as the old one before its overlap ends. Idempotent.

        Args:
            client_id: ID of the key.
            created_at: ``created_at`` of the secret.
            actor: Who ends it.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: The key is revoked, which is final.
            InvalidKey: The key has no such secret.
        """
        change = partial(lifecycle.secret_ended, created_at=created_at, now=utcnow())
        return self._change("key.updated", client_id, change, actor)

    def revoke(self, client_id: str, *, actor: str | None = None) -> Key:
        """End a key for good. Idempotent.

        Raises:
            KeyNotFound: There is no such key.
        """
        return self._change("key.revoked", client_id, partial(lifecycle.revoked, now=utcnow()), actor)

    def disable(self, client_id: str, *, actor: str | None = None) -> Key:
        """Refuse a key until it is enabled again. Idempotent.

        Raises:
            KeyNotFound: There is no such key.
        """
        return self._change("key.disabled", client_id, lambda key: replace(key, disabled=True), actor)

    def enable(self, client_id: str, *, actor: str | None = None) -> Key:
        """Accept a disabled key again. Idempotent.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: The key is revoked, which is final.
        """
        return self._change("key.enabled", client_id, lifecycle.enabled, actor)

    def delete(self, client_id: str, *, actor: str | None = None) -> Key:
        """Remove a key and free its id.

        Returns:
            The deleted key; only its client ID if the record was damaged.

        Raises:
            KeyNotFound: There is no such key.
        """
        store = self._writable()
        try:
            key = store.get(check_client_id(client_id))
        except UnreadableRecord:
            key = Key(client_id)
        if key is None:
            announce(store, client_id)
        if key is None or not apply_and_confirm(
            store, client_id, partial(store.delete, client_id), lambda: store.get(client_id) is None
        ):
            raise _not_found(client_id)
        self._notify(self._made("key.deleted", actor), [client_id])
        return key

    # --- import

    def hash(self, secret: str) -> str:
        """Return the hash under which this backend stores a secret; see ``hash_secret`` for what it costs.

        Raises:
            InvalidKey: The secret is invalid.
            MissingExtra: The secret is a password, and argon2-cffi is not installed.
        """
        return self.hasher.hash(check_secret(secret))

    def generate_secret(self) -> str:
        """Return a new secret, which is not stored."""
        return generate(self._prefix)

    def check(self, key: Key, history: Iterable[Change] = ()) -> None:
        """Check that ``add`` would accept a key with its history.

        Raises:
            InvalidKey: It would not; the message says why.
        """
        check_key(key, self.hasher, now=utcnow())
        for change in history:
            check_change(change)

    def add(
        self,
        keys: Sequence[Key],
        *,
        histories: Sequence[Sequence[Change]] = (),
        actor: str | None = None,
    ) -> list[BasicAuthError | None]:
        """Store whole keys with their hashes, many at once. Expired and revoked keys are accepted.

        Args:
            keys: Their ``version`` is replaced; their ``last_used_at`` are stored if the store can.
            histories: For each key, in order, its earlier changes, from the newest to the oldest. A key
                without any starts with ``key.imported``.
            actor: Who imports them.

        Returns:
            For each key, in order: None if it was stored, ``KeyExists`` if its client ID is taken, or
            ``InvalidKey``.

        Raises:
            BackendUnavailable: Not all could be stored, or that cannot be known. Each key is stored whole or
                not at all, and all can be added again.
        """
        store = self._writable()
        change = self._made("key.imported", actor)
        now = change.time
        version = lifecycle.first_version(now)
        outcomes: list[BasicAuthError | None] = [None] * len(keys)
        records: dict[int, Key] = {}
        changes: list[list[Change]] = []
        for index, (key, history) in enumerate(zip(keys, histories or [()] * len(keys), strict=True)):
            try:
                check_key(key, self.hasher, now=now)
                checked = [check_change(each) for each in history]
            except InvalidKey as exc:
                outcomes[index] = exc.with_traceback(None)
            else:
                records[index] = with_version(key, version)
                changes.append(checked or [change])

        def notify(imported: Iterable[Key]) -> None:
            self._notify(change, [key.client_id for key in imported])

        written = add_confirmed(store, list(records.values()), changes, notify)
        for (index, key), done in zip(records.items(), written, strict=True):
            if not done:
                outcomes[index] = KeyExists(f"there is already a key with the client ID {key.client_id!r}")
        added = [key for index, key in records.items() if outcomes[index] is None]
        notify(added)
        if isinstance(store, UsageStore):
            with suppress(BackendError):  # the keys are stored, which is what matters
                store.record_uses(uses_of(added))
        return outcomes

    # --- verify

    def on_verified(self, client_id: str, matched: StoredSecret, secret: str) -> None:
        """Record a verified secret. Called on the request path: touches memory only.

        Args:
            client_id: ID of the key.
            matched: The stored secret that matched.
            secret: The secret in clear.
        """
        self.feed.mark_active()
        self.usage.record_use(client_id, matched, secret)

    # --- close

    def close(self) -> None:
        """Close connections and stop threads. A later call opens them again."""
        self.feed.close()
        self.usage.close()
        self._reader.close()
        if close := getattr(self.store, "close", None):
            close()

    async def aclose(self) -> None:
        """``close``, including the connections of the running event loop."""
        from asyncio import to_thread  # not needed without an event loop

        try:
            await to_thread(self.usage.close)  # it may wait for the store
            if aclose := getattr(self.store, "aclose", None):
                await aclose()
        finally:
            self.close()

    def _writable(self) -> Store:
        if not isinstance(self.store, Store):
            raise ReadOnlyBackend(
                "this backend is read-only: edit the file or variable that has its keys, or "
                "use a backend that stores keys, such as sqlite:///keys.db"
            )
        return self.store

    def _change(
        self,
        event: str,
        client_id: str,
        change: Callable[[Key], Key],
        actor: str | None,
        version: int | None = None,
    ) -> Key:
        def checked(key: Key) -> Key:
            if version is not None and key.version != version:
                raise InvalidKey("the key has changed since it was read: read it again before you change it")
            return change(key)

        made = self._made(event, actor)
        key, was_changed = change_key(self._writable(), check_client_id(client_id), checked, [made])
        if was_changed:
            self._notify(made, [client_id])
        return attach_last_used(self.store, [key])[0]

    def _made(self, event: str, actor: str | None) -> Change:
        return Change(event, audit.sanitize(actor or self.actor), utcnow())

    def _notify(self, change: Change, client_ids: Sequence[str]) -> None:
        """Invalidate changed keys in the caches of this process, and write audit records."""
        self.feed.invalidate(*client_ids)
        if audit.is_enabled():
            for client_id in client_ids:
                audit.record(change.event, client_id=client_id, actor=change.actor)


def _not_found(client_id: str) -> KeyNotFound:
    return KeyNotFound(f"there is no key with the client ID {client_id!r}")


def _checked(secret: str) -> str:
    check_secret(secret)
    if is_short_password(secret):
        logger.warning(
            "a password of fewer than %d characters can be guessed: omit it to generate a secret",
            SHORT_PASSWORD,
        )
    return secret


@without_frames
def open_backend(
    url: str | None = None, *, settings: Settings | None = None, create: bool = False
) -> Backend:
    """Open a key backend. It connects on first use.

    Args:
        url: Backend URL, such as ``sqlite:///keys.db``; None uses the ``backend`` setting.
        settings: None reads ``Settings.from_env()``.
        create: Create a missing SQLite file, readable by its owner only, or missing tables in Postgres.

    Raises:
        ConfigurationError: The URL or a setting is invalid.
    """
    if settings is None:
        settings = Settings.from_env()
    store = open_store(
        settings.backend if url is None else url, deadline_s=settings.backend_deadline_s, create=create
    )
    return Backend(store, settings=settings)
