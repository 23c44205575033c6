"""Shared by the integrations: the error for a missing framework, configuration, and scopes."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigurationError, InvalidKey, MissingExtra
from ..keys.validation import check_scopes
from ..runtime.extras import is_absent
from ..settings import FIELDS, Settings
from ..settings.sources import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger("basicauth_mw")

_BACKEND: Final = f"{ENV_PREFIX}BACKEND"
# Only read from the environment.
_KEYS: Final = (f"{ENV_PREFIX}KEYS", f"{ENV_PREFIX}KEYS_FILE")
_NOT_SETTINGS: Final = (*_KEYS, f"{ENV_PREFIX}APP", f"{ENV_PREFIX}LOG_CONFIG")


class MissingFramework(MissingExtra):
    """The framework that an integration is for is not installed."""

    def __init__(self, module: str, package: str) -> None:
        ConfigurationError.__init__(self, f"{module} is not installed: run  pip install {package}")
        self.module = module
        self.extra = package


@contextmanager
def require_framework(module: str, package: str) -> Iterator[None]:
    """Raise ``MissingFramework`` if importing a framework fails because it is not installed.

    Args:
        module: Its top-level module.
        package: The package to install.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if not is_absent(module, exc):
            raise
        raise MissingFramework(module, package) from exc


def configuration(
    mapping: Mapping[str, Any], framework: str, *, has_backend: bool = False
) -> tuple[Any, Settings]:
    """Read backend and settings from a framework's configuration; the environment is the fallback.

    Args:
        mapping: Its ``BASICAUTH_*`` entries, and others. ``BASICAUTH_BACKEND`` may be a URL, a ``Backend`` or
            a store.
        framework: Named in messages.
        has_backend: Whether the app passes a backend in another way.

    Raises:
        ConfigurationError: Names every problem, such as an entry that looks like a misspelled setting.
    """
    entries = {name: value for name, value in mapping.items() if name.startswith(ENV_PREFIX)}
    backend = None if isinstance(entries.get(_BACKEND), str) else entries.pop(_BACKEND, None)
    for name in _KEYS:
        if name in entries and name not in os.environ:
            raise ConfigurationError(
                f"{name} is not read from {framework}'s configuration: set it in the environment"
            )
    names_of = [(option.env, f"{option.env}_FILE") for option in FIELDS]
    known = {*_NOT_SETTINGS, *(name for names in names_of for name in names)}
    # A setting comes from the environment if the configuration has it under neither name. Unknown variables
    # are checked for misspelled settings.
    configured = {
        name
        for names in names_of
        if any(mapping.get(name) not in (None, "") for name in names) or (has_backend and _BACKEND in names)
        for name in names
    }
    from_env = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(ENV_PREFIX) and name not in configured and name not in _NOT_SETTINGS
    }
    settings = Settings.from_mapping({**entries, **from_env})
    if unknown := [name for name in entries if name not in known]:
        logger.warning("ignored unknown settings in %s's configuration: %s", framework, ", ".join(unknown))
    return backend, settings


def check_scopes_arg(scopes: tuple[object, ...], function: str = "requires") -> tuple[str, ...]:
    """Sort the arguments of ``requires``; raises ``ConfigurationError`` if they are invalid."""
    if not scopes:
        raise ConfigurationError(f"{function}() needs at least one scope")
    try:
        return tuple(sorted(check_scopes(scopes)))  # type: ignore[arg-type]
    except InvalidKey as exc:
        raise ConfigurationError(f"{function}(): {exc}") from None
