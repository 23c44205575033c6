"""Key backends: where keys are kept, and how a URL finds the store.

To write a store, implement ``ReadableStore`` (look-ups only) or ``Store``, and declare the class as an entry
point of the group ``basicauth_mw.backends``, named after its URL scheme; it is called with the URL.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import BasicAuthError, ConfigurationError
from .base import BulkStore, Changes, ReadableStore, Store, UsageStore, Use
from .codec import dump_key, load_key

__all__ = [
    "BulkStore",
    "Changes",
    "ReadableStore",
    "Store",
    "UsageStore",
    "Use",
    "dump_key",
    "load_key",
    "open_store",
]

ENTRY_POINTS = "basicauth_mw.backends"

# Strings, so that no driver is imported before its URL is met.
_BUILT_IN = {
    "env": ".env:EnvStore",
    "memory": ".memory:MemoryStore",
    "sqlite": ".sqlite:SqliteStore",
    "redis": ".redis.store:RedisStore",
    "rediss": ".redis.store:RedisStore",
    "redis+sentinel": ".redis.store:RedisStore",
    "rediss+sentinel": ".redis.store:RedisStore",
    "redis+cluster": ".redis.store:RedisStore",
    "rediss+cluster": ".redis.store:RedisStore",
    "unix": ".redis.store:RedisStore",
}


def open_store(url: str, *, deadline_s: float = 1.0, create: bool = False) -> ReadableStore:
    """Make the store that a URL names. Does no network I/O: it connects on first use.

    Args:
        url: ``scheme:...``; never shown in an error, as it may hold a password.
        deadline_s: Seconds that one look-up may take.
        create: Make a missing SQLite file.

    Raises:
        ConfigurationError: An unknown scheme, or a URL that the store cannot use.
        MissingExtra: Its driver is not installed.
    """
    scheme, colon, _ = url.partition(":")
    scheme = scheme.lower()
    if colon and scheme in _BUILT_IN:
        module, _, name = _BUILT_IN[scheme].partition(":")
        built_in: ReadableStore = getattr(import_module(module, __name__), name)(
            url, deadline_s=deadline_s, create=create
        )
        return built_in
    strangers = _strangers()
    if not colon or scheme not in strangers:
        known = ", ".join(f"{name}:" for name in sorted({*_BUILT_IN, *strangers}))
        raise ConfigurationError(f"the backend is no URL that is known here: it starts with one of {known}")
    try:
        stranger: ReadableStore = strangers[scheme].load()(url)
    except BasicAuthError:
        raise
    except Exception as exc:  # somebody else's code: whatever it raises, its text may hold the URL
        raise ConfigurationError(
            f"the backend {scheme}: cannot be opened ({type(exc).__name__}): see its documentation"
        ) from None
    return stranger


def _strangers() -> dict[str, Any]:
    from importlib.metadata import entry_points  # costs as much as the whole package; needed by few

    return {entry.name.lower(): entry for entry in entry_points(group=ENTRY_POINTS)}
