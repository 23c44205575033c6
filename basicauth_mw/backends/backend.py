"""``Backend``: minting, hashing and the life of a key, written once over any store."""

from __future__ import annotations

import logging
import random
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, Self

from ..errors import (
    BackendError,
    BackendUnavailable,
    BasicAuthError,
    InvalidKey,
    KeyExists,
    KeyNotFound,
    ReadOnlyBackend,
    UnreadableRecord,
)
from ..keys import audit, lifecycle
from ..keys.credentials import encode_basic
from ..keys.generated_secrets import ID_PREFIX, generate, generate_id
from ..keys.hashing import Hasher
from ..keys.model import Key, Secret, of_version, utcnow, whole_key
from ..keys.records import check_key
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
from ..settings import Settings
from . import BulkStore, Store, UsageStore, Use, dump_key, open_store
from .change_feed import ChangeFeed
from .reader import StoreReader
from .usage import UsageRecorder
from .writes import announce, apply_and_confirm, matches_stored, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from types import EllipsisType

logger = logging.getLogger("basicauth_mw")

PAGE: Final = 500
DAY_S: Final = 86_400

_CHANGE_LIMIT_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.1


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

    @property
    def token(self) -> str:
        """The base64 text after ``Basic``: id and secret in one word."""
        return self.authorization.removeprefix("Basic ")


class Backend:
    """Makes, finds and ends keys.

    Args:
        store: A ``Store``, a ``ReadableStore``, or any object with ``get`` or ``aget`` that gives a ``Key``
            or None.
        settings: Peppers, prefix, deadline; None: ``Settings.from_env()``.

    Every method that changes a key takes ``actor``, for the audit log: the client id or the user who does it.
    None: the attribute of that name.

    Attributes:
        actor: Who changes keys where a call does not say it; None: not known.

    Every method that changes a key raises ``ReadOnlyBackend`` over a store that cannot be written,
    ``BackendUnavailable`` over one that cannot be asked, and writes an audit record when it is done.
    """

    def __init__(self, store: Any, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = Settings.from_env()
        self.store = store
        self.actor: str | None = None
        self.hasher = Hasher(
            [pepper.encode() for pepper in settings.pepper],
            volatile=getattr(store, "volatile", False) is True,
        )
        self.ledger = UsageRecorder(store, self.hasher)
        self.feed = ChangeFeed(store)
        weakref.finalize(self, self.ledger.stop).atexit = False  # at exit it is closed, which may wait
        weakref.finalize(self, self.feed.close)
        self._prefix = settings.secret_prefix
        self._reader = StoreReader(
            store, deadline_s=settings.backend_deadline_s, slow_hash_workers=settings.slow_hash_workers
        )

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
            InvalidKey: The id is no text that can be encoded as UTF-8.
            BackendUnavailable: The store cannot be asked within ``backend_deadline_s``.
            UnreadableRecord: The record is damaged.
        """
        ends_at = self._reader.deadline()
        key = self._reader.lookup(check_text(client_id, "a client id"), ends_at)
        if key is None or not isinstance(self.store, UsageStore):
            return key
        return self._reader.ask(partial(self._with_uses, [whole_key(key)]), ends_at)[0]

    async def aget(self, client_id: str) -> Key | None:
        """``get`` for an event loop."""
        ends_at = self._reader.deadline()
        key = await self._reader.alookup(check_text(client_id, "a client id"), ends_at)
        if key is None or not isinstance(self.store, UsageStore):
            return key
        return (await self._reader.aask(partial(self._with_uses, [whole_key(key)]), ends_at))[0]

    def ready(self) -> bool:
        """Whether keys can be looked up, for a readiness probe: asks for one that nobody has.

        Takes no longer than ``backend_deadline_s``, and never raises.
        """
        try:
            self._reader.lookup(generate(ID_PREFIX), self._reader.deadline())
        except Exception:  # the reader has logged it
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
        """Walk over keys in the order of their ids' octets, in constant memory.

        Args:
            prefix: Only ids that start with it.
            after: Only ids behind this one: the last id of a page is the cursor of the next.
            limit: At most so many; None: all.

        Raises:
            InvalidKey: One of them is not what it should be.
            ReadOnlyBackend: The store cannot list its keys.
            UnreadableRecord: One of the records is damaged.
        """
        check_text(prefix, "a prefix")
        check_text(after, "the id to go on behind")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidKey("a limit is a whole number, 0 or more")
        return self._walk(prefix, after, limit)

    def _walk(self, prefix: str, after: str, limit: int | None) -> Iterator[Key]:
        scan = getattr(self.store, "scan", None)
        if scan is None:
            raise ReadOnlyBackend("this backend finds keys by their id only and cannot list them")
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = scan(prefix, after, size)
            yield from self._with_uses(page)
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
        actor: str | None = None,
    ) -> Issued:
        """Make a key.

        Args:
            name: For people; up to 200 characters.
            scopes: Scope tokens (RFC 6749 section 3.3).
            expires_at: When the key ends, timezone-aware; None: never.
            client_id: Up to 255 bytes without a colon; None: one is generated, ``id_`` and 12 characters.
            secret: Up to 1024 octets; None: one is minted. One of another shape than minted ones is
                hashed with Argon2id, and costs that much at every uncached request.
            metadata: A JSON object of up to 4 KiB, for the app.
            actor: Who makes it.

        Raises:
            InvalidKey: One of them is not allowed.
            KeyExists: The client id is taken.
            MissingExtra: A chosen secret, and argon2-cffi is not installed.
        """
        store = self._writable()
        now = utcnow()
        plain = generate(self._prefix) if secret is None else _checked(secret)
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
            encode_basic(client_id, plain)  # refuses what cannot be sent, before anything is hashed
        hashed: tuple[Secret, ...] = ()
        while True:
            key = replace(key, client_id=client_id or generate_id())
            # If it cannot be asked, nothing was written for certain.
            if store.get(key.client_id) is None:
                hashed = hashed or (Secret(self.hasher.hash(plain), created_at=now),)
                key = replace(key, secrets=hashed)
                if write(store, key, None):
                    break
            if client_id is not None:
                raise KeyExists(f"there is a key with the client id {client_id!r} already")
        self._changed("key.created", key.client_id, actor=actor)
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
        """Give a key a new secret. The earlier ones go on working for a while, so that nobody is locked out.

        Args:
            client_id: Whose.
            overlap_s: Seconds, or a ``timedelta``, until the earlier secrets end, unless they end sooner
                anyway; 0: now.
            secret: As for ``create``; None: one is minted. A key holds one chosen secret at a time, so
                another takes its place only without an overlap.
            version: Of the key for which this is meant, so that of two who saw the same one rotates it; None:
                for whatever it is now.
            actor: Who rotates it.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: It was revoked, which is final.
            InvalidKey: The overlap or the secret is not allowed, the key has that secret, or it would have
                more than 8 live ones; or it is of another version by now.
            MissingExtra: A chosen secret, and argon2-cffi is not installed.
        """
        overlap = check_overlap(overlap_s, now=utcnow())
        plain = generate(self._prefix) if secret is None else _checked(secret)
        authorization = encode_basic(check_client_id(client_id), plain)
        new = lifecycle.NewSecret(plain, self.hasher)

        def rotated(key: Key) -> Key:
            if version is not None and key.version != version:
                raise InvalidKey("the key has changed meanwhile: look at it before it is rotated")
            return lifecycle.rotated(key, new, overlap=overlap, now=utcnow())

        key = self._change("key.rotated", client_id, rotated, actor)
        return Issued(client_id, plain, authorization, key)

    def update(
        self,
        client_id: str,
        *,
        name: str | EllipsisType = ...,
        scopes: Iterable[str] | EllipsisType = ...,
        expires_at: datetime | EllipsisType | None = ...,
        metadata: Mapping[str, Any] | EllipsisType | None = ...,
        actor: str | None = None,
    ) -> Key:
        """Change what a key is called, may do, or holds; what is not given stays.

        Args:
            client_id: Whose.
            name: As for ``create``.
            scopes: All that it has from now on.
            expires_at: When it ends; None: never.
            metadata: All that it holds from now on; None: nothing.
            actor: Who changes it.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: It was revoked, which is final.
            InvalidKey: One of them is not allowed.
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

        return self._change("key.updated", client_id, partial(lifecycle.updated, fields=fields), actor)

    def revoke(self, client_id: str, *, actor: str | None = None) -> Key:
        """End a key for good; may be repeated.

        Raises:
            KeyNotFound: There is no such key.
        """
        return self._change("key.revoked", client_id, partial(lifecycle.revoked, now=utcnow()), actor)

    def disable(self, client_id: str, *, actor: str | None = None) -> Key:
        """Refuse a key until it is enabled again; may be repeated.

        Raises:
            KeyNotFound: There is no such key.
        """
        return self._change("key.disabled", client_id, lambda key: replace(key, disabled=True), actor)

    def enable(self, client_id: str, *, actor: str | None = None) -> Key:
        """Take a ``disable`` back; may be repeated.

        Raises:
            KeyNotFound: There is no such key.
            KeyRevoked: It was revoked, which is final.
        """
        return self._change("key.enabled", client_id, lifecycle.enabled, actor)

    def delete(self, client_id: str, *, actor: str | None = None) -> Key:
        """Remove a key and free its id.

        Returns:
            The key as it was; of a record that cannot be read, the client id only.

        Raises:
            KeyNotFound: There is no such key.
        """
        store = self._writable()
        try:
            key = store.get(check_client_id(client_id))
            key = key and whole_key(key)
        except UnreadableRecord:
            key = Key(client_id)
        if key is None:
            announce(store, client_id)
        if key is None or not apply_and_confirm(
            store, client_id, partial(store.delete, client_id), lambda: store.get(client_id) is None
        ):
            raise KeyNotFound(f"there is no key with the client id {client_id!r}")
        self._changed("key.deleted", client_id, actor=actor)
        return key

    # --- bringing keys from elsewhere

    def hash(self, secret: str) -> str:
        """The hash under which this backend stores a secret; see ``hash_secret`` for what it costs.

        Raises:
            InvalidKey: Not a secret that a key may have.
            MissingExtra: A chosen secret, and argon2-cffi is not installed.
        """
        return self.hasher.hash(check_secret(secret))

    def check(self, key: Key) -> None:
        """Make sure that ``add`` would take a key.

        Raises:
            InvalidKey: It would not; says why.
        """
        check_key(key, self.hasher, now=utcnow())

    def add(self, keys: Sequence[Key], *, actor: str | None = None) -> list[BasicAuthError | None]:
        """Store whole keys, hashes included, many at once. Ended and revoked ones may be among them.

        Args:
            keys: Their ``version`` is not kept; their ``last_used_at`` are, as far as the store can.
            actor: Who brings them.

        Returns:
            For each, in order: None: stored; ``KeyExists``: its client id is taken; ``InvalidKey``.

        Raises:
            BackendUnavailable: Not all could be stored, or that cannot be told. Each is stored whole or not
                at all, and all may be given again.
        """
        store = self._writable()
        now = utcnow()
        version = lifecycle.first_version(now)
        outcomes: list[BasicAuthError | None] = [None] * len(keys)
        records: dict[int, Key] = {}
        for index, key in enumerate(keys):
            try:
                check_key(key, self.hasher, now=now)
            except InvalidKey as exc:
                outcomes[index] = exc.with_traceback(None)
            else:
                records[index] = of_version(key, version)
        new = list(records.values())
        written = self._add(store, new, actor)
        for (index, key), done in zip(records.items(), written, strict=True):
            if not done:
                outcomes[index] = KeyExists(f"there is a key with the client id {key.client_id!r} already")
        self._changed(
            "key.imported",
            *(key.client_id for index, key in records.items() if outcomes[index] is None),
            actor=actor,
        )
        if isinstance(store, UsageStore):
            uses = [
                Use(key.client_id, secret.created_at, secret.last_used_at)
                for index, key in records.items()
                for secret in key.secrets
                if secret.last_used_at is not None and outcomes[index] is None
            ]
            with suppress(BackendError):  # the keys are stored, which is what was asked for
                store.record_uses(uses)
        return outcomes

    # --- verifying

    def saw(self, client_id: str, stored: Secret, secret: str) -> None:
        """Take note of a secret that was proved. Called on the request path: touches memory only.

        Args:
            client_id: Whose.
            stored: What is stored of it.
            secret: Itself.
        """
        self.feed.proved()
        self.ledger.saw(client_id, stored, secret)

    # --- ending

    def close(self) -> None:
        """Release connections and threads. A later call opens them anew."""
        self.feed.close()
        self.ledger.close()
        self._reader.close()
        if close := getattr(self.store, "close", None):
            close()

    async def aclose(self) -> None:
        """``close``, and what belongs to the running event loop."""
        from asyncio import to_thread  # a process without an event loop never needs it

        await to_thread(self.ledger.close)  # it may have to wait for the store
        if aclose := getattr(self.store, "aclose", None):
            await aclose()
        self.close()

    # --- inside

    def _writable(self) -> Store:
        if not isinstance(self.store, Store):
            raise ReadOnlyBackend(
                "this backend cannot be changed from here: edit what it reads (env: the variable or file "
                "with its keys), or name one that keeps keys, such as sqlite:///keys.db"
            )
        return self.store

    def _with_uses(self, keys: Sequence[Key]) -> Sequence[Key]:
        """The keys with their last uses; without, if those cannot be read: the key is what was asked for."""
        if not keys or not isinstance(self.store, UsageStore):
            return keys
        uses: dict[str, list[Use]] = {}
        try:
            for use in self.store.last_uses([key.client_id for key in keys]):
                uses.setdefault(use.client_id, []).append(use)
        except Exception as exc:  # after a change, too, which is made and must not look as if it were not
            logger.debug("last uses could not be read (%s)", type(exc).__name__)
        return [_with_uses(key, uses.get(key.client_id, ())) for key in keys]

    def _change(self, event: str, client_id: str, change: Callable[[Key], Key], actor: str | None) -> Key:
        """Read, change, and write if nobody else has in between; else from the start."""
        store = self._writable()
        check_client_id(client_id)
        give_up_at = time.monotonic() + _CHANGE_LIMIT_S
        pause_s = _FIRST_PAUSE_S
        while True:
            key = store.get(client_id)
            if key is None:
                raise KeyNotFound(f"there is no key with the client id {client_id!r}")
            changed = change(key)
            # As they are stored: to Python alone, the 1, 1.0 and true of metadata are equal.
            if dump_key(changed) != dump_key(key):
                changed = replace(changed, version=key.version + 1)
                if not write(store, changed, key):
                    if time.monotonic() > give_up_at:
                        raise BackendUnavailable(f"the key {client_id!r} is changed by others all the time")
                    # Each waits for another while, or the same would lose every time.
                    time.sleep(random.uniform(0, pause_s))  # noqa: S311 - nobody gains by guessing it
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    continue
                self._changed(event, client_id, actor=actor)
            else:
                announce(store, client_id)  # whoever repeats it may have cause to
            return self._with_uses([changed])[0]

    def _add(self, store: Store, keys: Sequence[Key], actor: str | None) -> list[bool]:
        """Write new keys; where the answer is lost, those that were written are told all the same."""
        try:
            return store.add(keys) if isinstance(store, BulkStore) else [store.put(key, None) for key in keys]
        except BackendUnavailable as exc:
            stored = [matches_stored(store, key, None) for key in keys]
            if False not in stored:
                return [done is True for done in stored]
            self._changed("key.imported", *(key.client_id for key in compress(keys, stored)), actor=actor)
            raise BackendUnavailable(f"{stored.count(True)} of {len(keys)} keys were stored: {exc}") from exc

    def _changed(self, event: str, *client_ids: str, actor: str | None) -> None:
        self.feed.tell(*client_ids)
        if audit.is_wanted():
            for client_id in client_ids:
                audit.record(event, client_id=client_id, actor=actor or self.actor)


def _checked(secret: str) -> str:
    check_secret(secret)
    if is_short_password(secret):
        logger.warning(
            "a password of fewer than %d characters can be guessed: without one, a secret is generated",
            SHORT_PASSWORD,
        )
    return secret


def _with_uses(key: Key, uses: Sequence[Use]) -> Key:
    if not uses:
        return key
    at = {use.secret_created_at: use.at for use in uses}
    return replace(
        key,
        last_used_at=max(at.values()),
        secrets=tuple(replace(secret, last_used_at=at.get(secret.created_at)) for secret in key.secrets),
    )


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
