"""``env:``: keys from an environment variable, or from a file that one names. Read once, never written."""

from __future__ import annotations

import os
import re
from typing import Final

from ..errors import ConfigurationError, InvalidKey
from ..keys.key_lists import entries_in_text
from ..settings.sources import read_entry
from .listed import KeyList, ListedStore

DEFAULT_NAME: Final = "BASICAUTH_KEYS"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvStore(ListedStore):
    """Holds the keys that one variable lists, as digests keyed for this process.

    The variable holds a JSON object, ``{"id": "secret", "id2": {...}}``, in which an object may have
    ``secret``, ``name``, ``scopes`` (a list) and ``expires_at`` (RFC 3339, with a zone); or ``id:secret``
    pairs, one a line, or separated by commas if there is only one line. A secret may be a hash (Argon2id,
    bcrypt), except in pairs separated by commas.

    Args:
        url: ``env:``, or ``env:NAME`` for another variable. ``NAME_FILE`` may name a file instead.
        deadline_s: Unused: a lookup never waits.
        create: Unused.

    Raises:
        ConfigurationError: There is no key, or an entry is invalid. Entries are named by number, not by
            value.
    """

    def __init__(self, url: str = "env:", *, deadline_s: float = 1.0, create: bool = False) -> None:
        name = url.partition(":")[2] or DEFAULT_NAME
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                "env: must be followed by the name of an environment variable, or by nothing"
            )
        super().__init__(name)
        hint = f"; {name}_FILE is read once: file:/path is a backend that reads a file again when it changes"
        if not os.environ.get(f"{name}_FILE"):
            hint = ""
        listed = KeyList()
        try:
            found = read_entry(os.environ, name, multiline=True)
            for entry in entries_in_text("" if found is None else str(found[0])):
                listed.add(entry)
        except InvalidKey as exc:
            raise ConfigurationError(f"{name} {exc}{hint}") from None
        except ValueError as exc:
            raise ConfigurationError(f"{exc}{hint}") from None
        if listed.problems:
            raise ConfigurationError(
                [f"{name}, {place}: {reason}{hint}" for place, reason in listed.problems]
            )
        if not listed.ids:
            if found is None and name == DEFAULT_NAME:
                raise ConfigurationError(
                    "no keys are configured: set BASICAUTH_BACKEND to where they are, such as "
                    f"sqlite:///keys.db, or set {name} to id:secret; to import an app without any key, as "
                    "tests do, set BASICAUTH_BACKEND=memory:"
                )
            raise ConfigurationError(
                f"{name} contains no key: set it to id:secret, or use a backend that stores keys, such as "
                "BASICAUTH_BACKEND=sqlite:///keys.db"
            )
        self._records = listed.changed
        self._short_passwords = listed.short_passwords
        self._has_password_hashes = listed.has_password_hashes

    get_record_nowait = ListedStore.get_record

    def has_password_hashes(self) -> bool:
        return self._has_password_hashes
