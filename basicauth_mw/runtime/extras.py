"""Import an optional dependency, or name the extra that installs it."""

from __future__ import annotations

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
    try:
        return import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name != module.partition(".")[0]:
            raise  # something inside it is broken; do not call that "not installed"
        raise MissingExtra(module.partition(".")[0], extra) from exc
