"""API keys over HTTP Basic for any ASGI or WSGI app.

The middleware is ``basicauth_mw.asgi.BasicAuthMiddleware`` or ``basicauth_mw.wsgi.BasicAuthMiddleware``.
"""

# As in typing, which is not loaded for it: the command line comes through here before it can see to Ctrl-C.
# For the same reason each public name is imported when it is first used.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from .backends.backend import Backend as Backend
    from .backends.backend import Issued as Issued
    from .backends.backend import open_backend as open_backend
    from .errors import BackendError as BackendError
    from .errors import BackendUnavailable as BackendUnavailable
    from .errors import BasicAuthError as BasicAuthError
    from .errors import ConfigurationError as ConfigurationError
    from .errors import HttpsRequired as HttpsRequired
    from .errors import InsufficientScope as InsufficientScope
    from .errors import InvalidCredentials as InvalidCredentials
    from .errors import InvalidKey as InvalidKey
    from .errors import KeyExists as KeyExists
    from .errors import KeyNotFound as KeyNotFound
    from .errors import KeyRevoked as KeyRevoked
    from .errors import MalformedCredentials as MalformedCredentials
    from .errors import MissingCredentials as MissingCredentials
    from .errors import MissingExtra as MissingExtra
    from .errors import Overloaded as Overloaded
    from .errors import ReadOnlyBackend as ReadOnlyBackend
    from .errors import Rejected as Rejected
    from .errors import Throttled as Throttled
    from .errors import UnreadableRecord as UnreadableRecord
    from .keys.credentials import Credentials as Credentials
    from .keys.credentials import encode_basic as encode_basic
    from .keys.credentials import parse_basic as parse_basic
    from .keys.hashing import hash_secret as hash_secret
    from .keys.model import Key as Key
    from .keys.model import Principal as Principal
    from .keys.model import Secret as Secret
    from .keys.scopes import require_scopes as require_scopes
    from .settings import Settings as Settings

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "BackendError",
    "BackendUnavailable",
    "BasicAuthError",
    "ConfigurationError",
    "Credentials",
    "HttpsRequired",
    "InsufficientScope",
    "InvalidCredentials",
    "InvalidKey",
    "Issued",
    "Key",
    "KeyExists",
    "KeyNotFound",
    "KeyRevoked",
    "MalformedCredentials",
    "MissingCredentials",
    "MissingExtra",
    "Overloaded",
    "Principal",
    "ReadOnlyBackend",
    "Rejected",
    "Secret",
    "Settings",
    "Throttled",
    "UnreadableRecord",
    "encode_basic",
    "hash_secret",
    "open_backend",
    "parse_basic",
    "require_scopes",
]

_PUBLIC = {
    "backends.backend": ("Backend", "Issued", "open_backend"),
    "keys.credentials": ("Credentials", "encode_basic", "parse_basic"),
    "errors": (
        "BackendError",
        "BackendUnavailable",
        "BasicAuthError",
        "ConfigurationError",
        "HttpsRequired",
        "InsufficientScope",
        "InvalidCredentials",
        "InvalidKey",
        "KeyExists",
        "KeyNotFound",
        "KeyRevoked",
        "MalformedCredentials",
        "MissingCredentials",
        "MissingExtra",
        "Overloaded",
        "ReadOnlyBackend",
        "Rejected",
        "Throttled",
        "UnreadableRecord",
    ),
    "keys.hashing": ("hash_secret",),
    "keys.model": ("Key", "Principal", "Secret"),
    "keys.scopes": ("require_scopes",),
    "settings": ("Settings",),
}

if not TYPE_CHECKING:  # pragma: no branch - who checks types is to see which names there are not

    def __getattr__(name):
        from importlib import import_module

        if name in ("backends", "errors", "settings"):
            return import_module(f".{name}", __name__)
        for module, names in _PUBLIC.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
