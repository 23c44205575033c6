"""``Backend`` creates, changes and ends keys, over any store; ``readable.py`` has what finds them.

It validates input, generates and hashes secrets, and applies the life cycle; ``writes.py`` does the compare
and swap.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..errors import (
    BackendError,
    BasicAuthError,
    InvalidKey,
    KeyExists,
    ReadOnlyBackend,
    UnreadableRecord,
)
from ..keys import audit, lifecycle
from ..keys.authorization_header import encode_basic
from ..keys.generated_secrets import generate, generate_id
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
    is_short_password,
)
from ..runtime.tracebacks import without_frames
from ..settings import Settings
from . import Store, UsageStore, open_store
from .readable import ReadableBackend
from .usage import attach_last_used, uses_of
from .writes import add_confirmed, announce, apply_and_confirm, change_key, not_found, put_confirmed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta
    from types import EllipsisType

logger = logging.getLogger("basicauth_mw")

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Issued:
    """A new secret in plain text, which is not stored and cannot be shown again.

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
        """The base64 text after ``Basic``: that of the client ID, a colon and the secret."""
        return self.authorization.removeprefix("Basic ")


class Backend(ReadableBackend):
    """Creates, finds and ends keys.

    Every method that changes a key takes ``actor``: who makes the change, for the audit log, as a client ID
    or a user name; None means ``Backend.actor``. All but ``create``, ``add`` and ``delete`` take ``version``:
    the ``Key.version`` that must be stored now, so that a form does not undo a change that it does not show;
    None for any. If another version is stored, they raise ``InvalidKey``, and nothing is changed.

    Each of them raises ``ReadOnlyBackend`` if the store cannot be written, raises ``BackendUnavailable`` if
    it cannot be reached, and writes an audit record.

    Args:
        store: A ``Store``, a ``ReadableStore``, or any object with ``get`` or ``aget`` that returns a ``Key``
            or None.
        settings: Pepper, secret prefix and deadline; None reads ``Settings.from_env()``.

    Attributes:
        store: The store.
        actor: Who makes changes, unless a call passes ``actor``; None if unknown.

    Example::

        with open_backend("sqlite:///keys.db", create=True) as backend:
            issued = backend.create(name="ci", scopes=["read"])
            print(issued.client_id, issued.secret)
            backend.revoke(issued.client_id)
    """

    actor: str | None = None

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
            name: A description; at most 200 characters.
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
        """Add a new secret to a key. Earlier secrets work until the overlap ends, so that no client is
        locked out.

        Args:
            client_id: ID of the key.
            overlap_s: Seconds, or a ``timedelta``, until earlier secrets expire, unless they expire sooner; 0
                ends them now.
            secret: As for ``create``. A key has one password at a time, so a new one needs an overlap of 0.
            version: ``Key.version`` that must be stored now, so that only one of two users who see the same
                key rotates it; None for any.
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
            version: ``Key.version`` that must be stored now, so that a form does not undo a change that it
                does not show; None for any.
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

    def end_secret(
        self, client_id: str, created_at: datetime, *, version: int | None = None, actor: str | None = None
    ) -> Key:
        """End one secret of a key now, such as the old one before its overlap ends. Idempotent.

        Args:
            client_id: ID of the key.
            created_at: ``created_at`` of the secret.
            version: As for ``update``.
            actor: Who ends it.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: The key is revoked, which is final.
            InvalidKey: The key has no such secret, or another version.
        """
        change = partial(lifecycle.secret_ended, created_at=created_at, now=utcnow())
        return self._change("key.updated", client_id, change, actor, version)

    def revoke(self, client_id: str, *, version: int | None = None, actor: str | None = None) -> Key:
        """Revoke a key permanently. Idempotent.

        Raises:
            KeyNotFound: There is no such key.
            InvalidKey: The key has another version.
        """
        change = partial(lifecycle.revoked, now=utcnow())
        return self._change("key.revoked", client_id, change, actor, version)

    def disable(self, client_id: str, *, version: int | None = None, actor: str | None = None) -> Key:
        """Refuse a key until it is enabled again. Idempotent.

        Raises:
            KeyNotFound: There is no such key.
            InvalidKey: The key has another version.
        """
        return self._change(
            "key.disabled", client_id, lambda key: replace(key, disabled=True), actor, version
        )

    def enable(self, client_id: str, *, version: int | None = None, actor: str | None = None) -> Key:
        """Accept a disabled key again. Idempotent.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: The key is revoked, which is final.
            InvalidKey: The key has another version.
        """
        return self._change("key.enabled", client_id, lifecycle.enabled, actor, version)

    def delete(self, client_id: str, *, actor: str | None = None) -> Key:
        """Remove a key and free its ID.

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
            raise not_found(client_id)
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
        """Store many complete keys with their hashes. Expired and revoked keys are accepted.

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
