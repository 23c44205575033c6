"""The data types of the package, as frozen classes."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - at run time for readers of the annotations
from dataclasses import FrozenInstanceError, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..errors import BasicAuthError


def utcnow() -> datetime:
    """The current time, timezone-aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Secret:
    """One stored secret of a key. All times are timezone-aware, in UTC.

    Attributes:
        hash: The result of ``hash_secret``, or an imported Argon2id or bcrypt hash. Hidden in ``repr``.
        created_at: When the secret was created; identifies it within its key.
        expires_at: When the secret expires; None means never.
        last_used_at: When the secret was last used, to the minute, best effort; None if no use is known.
    """

    hash: str = field(repr=False)
    created_at: datetime = field(default_factory=utcnow)
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One client with its scopes and secrets. All times are timezone-aware, in UTC.

    Attributes:
        client_id: Public ID; 1 to 255 bytes of UTF-8, no colon, no control characters.
        name: Display name; up to 200 characters.
        scopes: Up to 100 scope tokens of RFC 6749 section 3.3.
        created_at: When the key was created.
        expires_at: When the key expires with all its secrets; None means never.
        revoked_at: When the key was revoked, which is final; None if it is not revoked.
        disabled: Whether the key is refused until it is enabled again.
        last_used_at: The latest ``last_used_at`` of its secrets.
        metadata: A JSON object; up to 4 KiB encoded.
        secrets: At most 8 active secrets, 16 including expired ones.
        version: Increases with every stored change; stores compare and swap on it.

    Example::

        Key("ci", name="CI server", secrets=(Secret(hash_secret(secret)),))
    """

    client_id: str
    name: str = ""
    scopes: frozenset[str] = frozenset()
    created_at: datetime = field(default_factory=utcnow)
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    disabled: bool = False
    last_used_at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    secrets: tuple[Secret, ...] = ()
    version: int = field(default=0, repr=False, compare=False)

    if TYPE_CHECKING:  # the generated __init__, but with any iterable as scopes and secrets

        def __init__(
            self,
            client_id: str,
            name: str = "",
            scopes: Iterable[str] = (),
            created_at: datetime = ...,
            expires_at: datetime | None = None,
            revoked_at: datetime | None = None,
            disabled: bool = False,
            last_used_at: datetime | None = None,
            metadata: Mapping[str, Any] = ...,
            secrets: Iterable[Secret] = (),
            version: int = 0,
        ) -> None: ...

    def __post_init__(self) -> None:
        # A third-party store may pass any iterable; the rest of the package relies on these two types.
        if type(self.scopes) is not frozenset:
            object.__setattr__(self, "scopes", frozenset(self.scopes))
        if type(self.secrets) is not tuple:
            object.__setattr__(self, "secrets", tuple(self.secrets))


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a key, as its history records it.

    Attributes:
        event: As in the audit log: ``key.created``, ``key.rotated``, and so on.
        actor: Who made it; None if unknown.
        time: When; timezone-aware, in UTC.
    """

    event: str
    actor: str | None
    time: datetime


def with_version(key: Key, version: int) -> Key:
    """The same key with another version; much faster than ``replace``."""
    # fmt: off
    return Key(
        key.client_id, key.name, key.scopes, key.created_at, key.expires_at, key.revoked_at, key.disabled,
        key.last_used_at, key.metadata, key.secrets, version,
    )
    # fmt: on


class ReadOnlyDict(dict[str, Any]):
    """The metadata of a principal: requests share it, so none may change it for the others."""

    __slots__ = ()

    def _refuse(self, *_arguments: Any, **_members: Any) -> Any:
        raise TypeError("the metadata of a principal is read-only: make a copy with dict()")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[ReadOnlyDict], tuple[dict[str, Any]]]:
        return ReadOnlyDict, (dict(self),)  # not member by member


_NO_METADATA: Final = ReadOnlyDict()


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller, as the app sees it.

    Has the attributes of a Starlette user: ``is_authenticated``, ``display_name``, ``identity``.

    Attributes:
        client_id: ID of the key; empty only for the anonymous principal.
        name: The name of the key.
        scopes: The scopes of the key.
        metadata: The metadata of the key, read-only. Requests share it, so do not change its values either.

    Example::

        principal = scope["user"]  # WSGI: environ["basicauth_mw.principal"]
        if principal.is_authenticated:
            print(principal.display_name)
    """

    client_id: str
    name: str = ""
    scopes: frozenset[str] = frozenset()
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NO_METADATA, hash=False)

    def __post_init__(self) -> None:
        if type(self.metadata) is not ReadOnlyDict:
            metadata = ReadOnlyDict(self.metadata) if self.metadata else _NO_METADATA
            object.__setattr__(self, "metadata", metadata)

    @classmethod
    def anonymous(cls) -> Principal:
        """The principal of a request without verified credentials."""
        return ANONYMOUS

    @property
    def is_authenticated(self) -> bool:
        """Whether credentials were verified."""
        return self.client_id != ""

    @property
    def display_name(self) -> str:
        """The name, or the client ID if there is no name."""
        return self.name or self.client_id

    @property
    def identity(self) -> str:
        """The client ID."""
        return self.client_id


def _refuse_to_change(self: object, name: str, _value: object = None) -> None:
    raise FrozenInstanceError(f"cannot assign to {name!r}: {type(self).__name__} is immutable")


# With frozen and slots together, dataclasses raise TypeError for a name that is not a field
# (https://github.com/python/cpython/issues/90562).
for _frozen in (Secret, Key, Change, Principal):
    _frozen.__setattr__ = _frozen.__delattr__ = _refuse_to_change  # type: ignore[method-assign]

ANONYMOUS = Principal("")


class Deny(NamedTuple):
    """The middleware responds with an error.

    Attributes:
        error: The error for the client: its ``status``, ``code`` and ``detail``.
        reason: The reason for the audit log; one of a fixed set.
        client_id: The ID that the client sent, if it could be read.
        first_refusal: False if the audit log already has this refusal, so that a flood is logged once.
        detail: Why the credentials were malformed, for the audit log; one of a fixed set.
    """

    error: BasicAuthError
    reason: str
    client_id: str | None = None
    first_refusal: bool = True
    detail: str | None = None


Decision = Principal | Deny
