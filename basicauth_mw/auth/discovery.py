"""Find the middleware inside an app; used by metrics, testing, and integrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigurationError
from .authenticator import Authenticator
from .frameworks import iter_wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTENSION: Final = "basicauth_mw"  # the key of the middleware in the ``extensions`` of a Flask app


def find_authenticator(app: object, *, build: bool = False) -> Authenticator[Any] | None:
    """Return the outermost middleware's authenticator in ``app``, or None.

    Args:
        app: An app, a wrapper around one, or an authenticator.
        build: As for ``iter_wrapped``. Without it, middleware that was added with Starlette's
            ``add_middleware`` is not found before the app has started, as it does not exist yet.
    """
    for layer in iter_wrapped(app, build=build):
        extensions = getattr(layer, "extensions", None)
        kept = extensions.get(EXTENSION) if isinstance(extensions, dict) else None
        for each in (layer, getattr(layer, "authenticator", None), getattr(kept, "authenticator", None)):
            if isinstance(each, Authenticator):
                return each
    return None


def find_all(protected: Sequence[object]) -> list[Authenticator[Any]]:
    """Return the authenticator of each argument of an ``instrument`` function.

    Raises:
        ConfigurationError: There are none, or one is not protected.
    """
    found = []
    for app in protected:
        authenticator = find_authenticator(app)
        if authenticator is None:
            raise ConfigurationError(
                f"found no BasicAuthMiddleware in this {type(app).__name__}: pass the middleware itself to "
                "instrument(), or a FastAPI app after install()"
            )
        found.append(authenticator)
    if not found:
        raise ConfigurationError("instrument() needs at least one middleware or protected app")
    return found


# Layers that serve some paths themselves, subclasses included: those of python-socketio and python-engineio
# (and so of Flask-SocketIO), of Werkzeug, and WhiteNoise.
_SERVES_ITSELF: Final = {
    *("WSGIApp", "DispatcherMiddleware", "SharedDataMiddleware", "DebuggedApplication"),
    "WhiteNoise",
}


def entry_of(app: object) -> object | None:
    """The Flask app whose ``wsgi_app`` an app wraps, or None."""
    owners = (getattr(layer, "__self__", None) for layer in iter_wrapped(app))
    return next((owner for owner in owners if hasattr(owner, "wsgi_app")), None)


def open_layers(entry: object, middleware: object) -> list[str]:
    """Find layers outside a middleware that serve some paths themselves, without a key.

    Args:
        entry: The Flask app whose ``wsgi_app`` was replaced by the middleware and by the layers.
        middleware: The middleware, where the search ends.

    Returns:
        Names of classes, from the outside in; none if the middleware is not found.
    """
    found: list[str] = []
    for layer in iter_wrapped(getattr(entry, "wsgi_app", None)):
        if layer is middleware:
            return found
        if {each.__name__ for each in type(layer).__mro__} & _SERVES_ITSELF:
            mounts = getattr(layer, "mounts", None)
            if not isinstance(mounts, dict) or any(
                find_authenticator(app) is None for app in mounts.values()
            ):
                found.append(type(layer).__name__)
    return []
