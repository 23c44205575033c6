"""What the integrations share: a clear word on a missing framework, and their settings and scopes."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigurationError, InvalidKey, MissingExtra
from ..keys.validation import check_scopes
from ..settings import FIELDS, Settings
from ..settings.sources import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger("basicauth_mw")

_BACKEND: Final = f"{ENV_PREFIX}BACKEND"
# Read from the environment whatever a framework's configuration says.
_KEYS: Final = (f"{ENV_PREFIX}KEYS", f"{ENV_PREFIX}KEYS_FILE")
_ELSEWHERE: Final = (*_KEYS, f"{ENV_PREFIX}APP", f"{ENV_PREFIX}LOG_CONFIG")


class MissingFramework(MissingExtra):
    """The framework that an integration is for is not installed."""

    def __init__(self, module: str, package: str) -> None:
        ConfigurationError.__init__(self, f"{module} is not installed: run  pip install {package}")
        self.module = module
        self.extra = package


@contextmanager
def needs(module: str, package: str) -> Iterator[None]:
    """Say what to install where an import of a framework fails.

    Args:
        module: Its top-level module.
        package: What brings it.

    Raises:
        MissingFramework: It is not installed. An error inside an installed one is raised as it is.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name != module:
            raise
        raise MissingFramework(module, package) from exc


def configuration(
    mapping: Mapping[str, Any], framework: str, *, has_backend: bool = False
) -> tuple[Any, Settings]:
    """Backend and settings from a framework's configuration, with the environment as a fallback.

    Args:
        mapping: Its ``BASICAUTH_*`` entries, and any others. ``BASICAUTH_BACKEND`` may hold a URL, or an
            object such as ``open_backend`` gives.
        framework: Whose it is, for the log.
        has_backend: Whether a backend was given in another way.

    Raises:
        ConfigurationError: Names every problem; an unknown entry that is nearly a setting is one.
    """
    entries = {name: value for name, value in mapping.items() if name.startswith(ENV_PREFIX)}
    backend = entries.get(_BACKEND)
    if backend is not None and not isinstance(backend, str):
        del entries[_BACKEND]
    else:
        backend = None
    for name in _KEYS:
        if name in entries and name not in os.environ:
            raise ConfigurationError(
                f"{name} is in {framework}'s configuration, where it is not read: put it into the environment"
            )
    spellings = [(option.env, f"{option.env}_FILE") for option in FIELDS]
    # The environment is the fallback for settings that the configuration lacks.
    from_env = {
        name: os.environ[name]
        for names in spellings
        if not any(mapping.get(name) not in (None, "") for name in names)
        and not (has_backend and names[0] == _BACKEND)
        for name in names
        if name in os.environ
    }
    known = {*_ELSEWHERE, *(name for names in spellings for name in names)}
    # Any other entry may be a misspelt setting.
    from_env |= {
        name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX) and name not in known
    }
    settings = Settings.from_mapping({**entries, **from_env})
    if strange := [name for name in entries if name not in known]:
        logger.warning("%s: in %s's configuration, but no setting: ignored", ", ".join(strange), framework)
    return backend, settings


def needed(scopes: tuple[object, ...]) -> tuple[str, ...]:
    """The scopes that a route asks for.

    Raises:
        ConfigurationError: There is none, or one that no key can have.
    """
    if not scopes:
        raise ConfigurationError("requires() needs a scope: every key could do what is asked for anyway")
    try:
        return tuple(sorted(check_scopes(scopes)))  # type: ignore[arg-type]
    except InvalidKey as exc:
        raise ConfigurationError(f"requires(): {exc}") from None
