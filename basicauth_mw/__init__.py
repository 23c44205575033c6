"""API keys for any ASGI or WSGI app.

The middleware is ``basicauth_mw.asgi.BasicAuthMiddleware`` or ``basicauth_mw.wsgi.BasicAuthMiddleware``.
"""

# Every public name is imported on first use: the command line imports this package before it can handle
# Ctrl-C, so nothing that takes time may be loaded here, not even typing, which defines this constant.
TYPE_CHECKING = False

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .backends.backend import Backend as Backend
    from .backends.backend import Issued as Issued
    from .backends.backend import open_backend as open_backend
    from .backends.search import Page as Page
    from .errors import *  # noqa: F403
    from .keys.authorization_header import Credentials as Credentials
    from .keys.authorization_header import encode_basic as encode_basic
    from .keys.authorization_header import parse_basic as parse_basic
    from .keys.hashing import hash_secret as hash_secret
    from .keys.model import Change as Change
    from .keys.model import Key as Key
    from .keys.model import Principal as Principal
    from .keys.model import Secret as Secret
    from .keys.scopes import require_scopes as require_scopes
    from .settings import Settings as Settings
else:
    _MODULES = {
        "backends.backend": ("Backend", "Issued", "open_backend"),
        "backends.search": ("Page",),
        "keys.authorization_header": ("Credentials", "encode_basic", "parse_basic"),
        "keys.hashing": ("hash_secret",),
        "keys.model": ("Change", "Key", "Principal", "Secret"),
        "keys.scopes": ("require_scopes",),
        "settings": ("Settings",),
    }

    def __getattr__(name):
        from importlib import import_module

        if name in ("backends", "errors", "settings"):
            return import_module(f".{name}", __name__)
        modules = {**_MODULES, "errors": import_module(".errors", __name__).__all__}
        if name == "__all__":
            return sorted(public for names in modules.values() for public in names)
        for module, names in modules.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})
