"""Key backends: stores, and how a URL selects one.

To write a store, implement ``ReadableStore`` (lookups only) or ``Store``; ``base.py`` describes both, and the
optional members. Declare the class as an entry point in the group ``basicauth_mw.backends``, named after its
URL scheme. It is called with the URL.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import BasicAuthError, ConfigurationError
from ..keys.model import Change
from ..runtime.tracebacks import without_frames
from .base import (
    BulkStore,
    Changes,
    FailureStore,
    HistoryStore,
    LastUse,
    ReadableStore,
    Store,
    StoreWarning,
    UsageStore,
)
from .codec import dump_key, load_key

__all__ = [
    "BulkStore",
    "Change",
    "Changes",
    "FailureStore",
    "HistoryStore",
    "ReadableStore",
    "Store",
    "StoreWarning",
    "UsageStore",
    "LastUse",
    "dump_key",
    "load_key",
    "open_store",
]

ENTRY_POINTS = "basicauth_mw.backends"

# Strings, so that a driver is imported only when its URL is used.
_BUILT_IN = {
    "env": ".env:EnvStore",
    "file": ".file:FileStore",
    "memory": ".memory:MemoryStore",
    "sqlite": ".sqlite.store:SqliteStore",
    "redis": ".redis.store:RedisStore",
    "rediss": ".redis.store:RedisStore",
    "redis+sentinel": ".redis.store:RedisStore",
    "rediss+sentinel": ".redis.store:RedisStore",
    "redis+cluster": ".redis.store:RedisStore",
    "rediss+cluster": ".redis.store:RedisStore",
    "unix": ".redis.store:RedisStore",
    "postgresql": ".postgres.store:PostgresStore",
    "postgres": ".postgres.store:PostgresStore",
}


@without_frames
def open_store(url: str, *, deadline_s: float = 1.0, create: bool = False) -> ReadableStore:
    """Open the store that a URL names. It connects on first use.

    Args:
        url: ``scheme:...``; never shown in an error, as it may contain a password.
        deadline_s: Seconds that one lookup may take.
        create: Create a missing SQLite file, or missing tables in Postgres.

    Raises:
        ConfigurationError: The scheme is unknown, or the store rejects the URL.
        MissingExtra: The driver is not installed.
    """
    scheme, colon, _ = url.partition(":")
    scheme = scheme.lower()
    if colon and scheme in _BUILT_IN:
        module, _, name = _BUILT_IN[scheme].partition(":")
        built_in: ReadableStore = getattr(import_module(module, __name__), name)(
            url, deadline_s=deadline_s, create=create
        )
        return built_in
    third_party = _third_party()
    if not colon or scheme not in third_party:
        known = ", ".join(sorted({*_BUILT_IN, *third_party}))
        # The scheme is not shown: the text may be a secret that was set by mistake.
        raise ConfigurationError(
            f"unsupported backend URL; its scheme must be one of {known}, as in sqlite:///keys.db"
        )
    try:
        store: ReadableStore = third_party[scheme].load()(url)
    except BasicAuthError:
        raise
    except Exception as exc:  # the text of a third party's exception may contain the URL
        raise ConfigurationError(
            f"the backend {scheme}: cannot be opened ({type(exc).__name__}): see its documentation"
        ) from None
    return store


def _third_party() -> dict[str, Any]:
    from importlib.metadata import entry_points  # takes as long to import as the whole package

    return {entry.name.lower(): entry for entry in entry_points(group=ENTRY_POINTS)}
