"""Import an optional dependency, or name the extra that installs it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from ..errors import MissingExtra


def require(module: str, *, extra: str) -> Any:
    """Import ``module``.

    Args:
        module: Dotted name of the optional dependency.
        extra: The extra of this package that installs it.

    Returns:
        The module.

    Raises:
        MissingExtra: It is not installed. An error inside an installed module is raised as it is.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as exc:
        if not is_absent(package, exc):
            raise
        raise MissingExtra(package, extra) from exc


def is_absent(package: str, exc: ModuleNotFoundError) -> bool:
    """Whether an import failed because ``package`` is not installed, and not because it is broken."""
    return (exc.name or "").partition(".")[0] == package and sys.modules.get(package) is None
