"""Makes the dashboard, as an ASGI app and as a WSGI app."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..backends.backend import Backend, open_backend
from ..errors import ConfigurationError
from ..settings import Settings
from .asgi import ASGIDashboard
from .site import Site
from .wsgi import WSGIDashboard

if TYPE_CHECKING:
    from typing import Unpack

    from ..settings import Overrides
    from .views import Document

_App = TypeVar("_App", ASGIDashboard, WSGIDashboard)

# Those of an app's settings that would let somebody past the gate, or take away what forms are bound to.
_FIXED: Final[Overrides] = {
    "exclude": (),
    "allow_preflight": False,
    "strip_authorization": False,
    "challenge": "always",
    "map_errors": True,
    "timeout_s": None,
}


def dashboard(
    backend: Any = None,
    *,
    settings: Settings | None = None,
    openapi: Document = None,
    **overrides: Unpack[Overrides],
) -> ASGIDashboard:
    """Make the dashboard as an ASGI app: ``app.mount("/keys", dashboard(backend=...))``.

    It is behind a gate of its own, over the same keys, and open to those with the scope ``basicauth:admin``
    only. Settings that would open it (``exclude`` and the like) do nothing here.

    Args:
        backend: Where the keys are: a URL, what ``open_backend`` gives, or a store; None:
            ``settings.backend``.
        settings: None: ``Settings.from_env()``.
        openapi: The OpenAPI document of the app that the keys are for, or what gives it; None: that of the
            FastAPI app in which it is mounted, if it is.
        **overrides: Any field of ``Settings``.

    Raises:
        ConfigurationError: Names everything that is wrong, and no secret.

    .. versionadded:: 0.1
    """
    return _made(ASGIDashboard, backend, settings, openapi, overrides)


def wsgi_dashboard(
    backend: Any = None,
    *,
    settings: Settings | None = None,
    openapi: Document = None,
    **overrides: Unpack[Overrides],
) -> WSGIDashboard:
    """Make the dashboard as a WSGI app, for Werkzeug's ``DispatcherMiddleware`` or any other.

    It takes what ``dashboard`` takes; without ``openapi`` there is no document.

    Raises:
        ConfigurationError: Names everything that is wrong, and no secret.

    .. versionadded:: 0.1
    """
    return _made(WSGIDashboard, backend, settings, openapi, overrides)


def _made(
    make: type[_App], backend: Any, settings: Settings | None, openapi: Document, overrides: Overrides
) -> _App:
    resolved = Settings.from_env(**overrides) if settings is None else settings.replace(**overrides)
    resolved = resolved.replace(**_FIXED)
    is_opened_here = backend is None or isinstance(backend, str)
    if is_opened_here:
        backend = open_backend(backend, settings=resolved)
    elif not isinstance(backend, Backend):
        if isinstance(backend, type) or not hasattr(backend, "get"):
            raise ConfigurationError("backend is a URL, or an object with get: see open_backend")
        backend = Backend(backend, settings=resolved)
    app = make(Site(backend, resolved, openapi), backend, resolved)
    if is_opened_here:
        weakref.finalize(app, backend.close)
    return app
