"""The frozen values that everything else passes around."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - at run time for who reads the annotations
from dataclasses import FrozenInstanceError, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..errors import BasicAuthError


def utcnow() -> datetime:
    """The time, timezone-aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of a key, as it is stored. All times are timezone-aware UTC.

    Attributes:
        hash: As ``hash_secret`` makes it, or an imported ``$argon2id$`` or bcrypt hash. Hidden in ``repr``.
        created_at: When it was made.
        expires_at: From when on it is refused; None: never.
        last_used_at: To the minute, best effort; None: never seen.
    """

    hash: str = field(repr=False)
    created_at: datetime = field(default_factory=utcnow)
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One client: who it is, what it may do, and the secrets that prove it. All times are UTC.

    Attributes:
        client_id: Public; up to 255 octets of UTF-8, no colon, no control character.
        name: For people; up to 200 characters.
        scopes: Scope tokens of RFC 6749 section 3.3.
        created_at: When the key was made.
        expires_at: From when on every secret of it is refused; None: never.
        revoked_at: When it was revoked, which is final; None: it was not.
        disabled: Refused until it is enabled again.
        last_used_at: The latest of its secrets' ``last_used_at``.
        metadata: JSON values, up to 4 KiB encoded.
        secrets: At most 8 live ones, and 16 in all.
        version: Grows with every stored change; what a store compares and swaps on.
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

    if TYPE_CHECKING:  # the one that there is, but for what it takes as scopes and secrets

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
        # Whoever writes a store may hand over any iterable; everybody else may rely on these two types.
        if type(self.scopes) is not frozenset:
            object.__setattr__(self, "scopes", frozenset(self.scopes))
        if type(self.secrets) is not tuple:
            object.__setattr__(self, "secrets", tuple(self.secrets))


def with_version(key: Key, version: int) -> Key:
    """The same key with another version; in a fraction of the time that ``replace`` takes."""
    # fmt: off
    return Key(
        key.client_id, key.name, key.scopes, key.created_at, key.expires_at, key.revoked_at, key.disabled,
        key.last_used_at, key.metadata, key.secrets, version,
    )
    # fmt: on


@dataclass(frozen=True, slots=True)
class Principal:
    """Who the caller is, as the app sees it.

    Has what Starlette expects of a user: ``is_authenticated``, ``display_name``, ``identity``.

    Attributes:
        client_id: Empty for the anonymous principal, and for no other.
        name: The key's name.
        scopes: The key's scopes.
        metadata: The key's metadata; shared between requests, so do not change it.
    """

    client_id: str
    name: str = ""
    scopes: frozenset[str] = frozenset()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def anonymous(cls) -> Principal:
        """The principal of a request on which nothing was verified."""
        return _ANONYMOUS

    @property
    def is_authenticated(self) -> bool:
        """Whether a credential was verified."""
        return self.client_id != ""

    @property
    def display_name(self) -> str:
        """The name, or the client id where there is none."""
        return self.name or self.client_id

    @property
    def identity(self) -> str:
        """The client id."""
        return self.client_id


def _refuse_to_change(self: object, name: str, _value: object = None) -> None:
    raise FrozenInstanceError(f"cannot assign to {name!r}: {type(self).__name__} is immutable")


# What dataclasses makes of frozen and slots together raises TypeError for a name that is no field
# (https://github.com/python/cpython/issues/90562).
for _frozen in (Secret, Key, Principal):
    _frozen.__setattr__ = _frozen.__delattr__ = _refuse_to_change  # type: ignore[method-assign]

_ANONYMOUS = Principal("")


class Allow(NamedTuple):
    """The request may reach the app.

    Attributes:
        principal: Who it is.
    """

    principal: Principal


class Deny(NamedTuple):
    """The request is answered by us.

    Attributes:
        error: What the client is told: its ``status``, ``code`` and ``detail``.
        reason: What the audit log is told, one of a closed set.
        client_id: The id that was claimed, if one could be read.
        first_refusal: False: the audit log has had it, and need not have it for every request of a flood.
        detail: For the audit log, which mistake made the credentials malformed, one of a closed set.
    """

    error: BasicAuthError
    reason: str
    client_id: str | None = None
    first_refusal: bool = True
    detail: str | None = None


Decision = Allow | Deny

ANONYMOUS = Allow(_ANONYMOUS)
