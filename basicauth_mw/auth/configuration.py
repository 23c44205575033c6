"""Resolve the settings and the backend of a middleware, and report all problems in one error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..backends import open_store
from ..backends.backend import Backend
from ..errors import ConfigurationError
from ..runtime.tracebacks import without_frames
from ..settings import Settings
from ..settings.sources import ENV_PREFIX

if TYPE_CHECKING:
    from ..settings import Overrides


@without_frames
def resolve(backend: Any, settings: Settings | None, overrides: Overrides) -> tuple[Settings, Backend, bool]:
    """Make the settings and the backend from arguments of ``Authenticator``.

    Returns:
        Settings, backend, and whether the backend was opened here.

    Raises:
        ConfigurationError: Names every problem.
    """
    problems: list[str] = []
    resolved = None
    if not (settings is None or isinstance(settings, Settings)):
        raise ConfigurationError("settings must be a Settings: use Settings.from_mapping for a mapping")
    try:
        resolved = Settings.from_env(**overrides) if settings is None else settings.replace(**overrides)
    except ConfigurationError as exc:
        problems += exc.problems
    if backend is None:
        fallback = settings or resolved
        backend = fallback.backend if fallback else os.environ.get(f"{ENV_PREFIX}BACKEND", "env:")
    owned = isinstance(backend, str)
    # An empty URL in invalid settings is among the problems already.
    if isinstance(backend, str) and (backend or resolved):
        try:
            backend = open_store(backend, deadline_s=resolved.backend_deadline_s if resolved else 1.0)
        except ConfigurationError as exc:
            if not problems:
                raise
            problems += exc.problems
    elif isinstance(backend, type) or not (hasattr(backend, "get") or hasattr(backend, "aget")):
        problems.append("backend must be a URL, or an object with get or aget: see open_backend")
    if problems or resolved is None:
        raise ConfigurationError(problems)
    if not isinstance(backend, Backend):
        backend = Backend(backend, settings=resolved)
    return resolved, backend, owned
