"""What the integrations share: a clear word on a missing framework, and their settings and scopes."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigurationError, InvalidKey, MissingExtra
from ..rules import check_scopes
from ..settings import ENV_PREFIX, FIELDS, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger("basicauth_mw")

_KEYS: Final = f"{ENV_PREFIX}KEYS"


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


def configuration(mapping: Mapping[str, Any], framework: str) -> tuple[Any, Settings]:
    """Backend and settings out of a framework's own configuration. The environment is not read.

    Args:
        mapping: Its ``BASICAUTH_*`` entries, and any others. ``BASICAUTH_BACKEND`` may hold a URL, or an
            object such as ``open_backend`` gives.
        framework: Whose it is, for the log.

    Raises:
        ConfigurationError: Names every problem; an unknown entry that is nearly a setting is one.
    """
    entries = {name: value for name, value in mapping.items() if name.startswith(ENV_PREFIX)}
    backend = entries.get(f"{ENV_PREFIX}BACKEND")
    if backend is not None and not isinstance(backend, str):
        del entries[f"{ENV_PREFIX}BACKEND"]
    else:
        backend = None
    if _KEYS in entries and _KEYS not in os.environ:
        raise ConfigurationError(
            f"{_KEYS} is in {framework}'s configuration, where it is not read: put it into the environment"
        )
    # Somebody may rely on a setting there that makes the gate stricter.
    if names := [option.env for option in FIELDS if option.env in os.environ and option.env not in mapping]:
        logger.warning(
            "%s: in the environment, where it is not read: put it into %s's configuration",
            ", ".join(names),
            framework,
        )
    return backend, Settings.from_mapping(entries)


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
