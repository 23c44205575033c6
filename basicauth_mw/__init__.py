"""API keys over HTTP Basic for any ASGI or WSGI app.

The middleware is ``basicauth_mw.asgi.BasicAuthMiddleware`` or ``basicauth_mw.wsgi.BasicAuthMiddleware``.
"""

from .backend import Backend as Backend
from .backend import Issued as Issued
from .backend import open_backend as open_backend
from .credentials import Credentials as Credentials
from .credentials import encode_basic as encode_basic
from .credentials import parse_basic as parse_basic
from .errors import BasicAuthError as BasicAuthError
from .errors import ConfigurationError as ConfigurationError
from .errors import InsufficientScope as InsufficientScope
from .hashing import hash_secret as hash_secret
from .model import Key as Key
from .model import Principal as Principal
from .model import Secret as Secret
from .scopes import require_scopes as require_scopes
from .settings import Settings as Settings

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "BasicAuthError",
    "ConfigurationError",
    "Credentials",
    "InsufficientScope",
    "Issued",
    "Key",
    "Principal",
    "Secret",
    "Settings",
    "encode_basic",
    "hash_secret",
    "open_backend",
    "parse_basic",
    "require_scopes",
]
