"""Django: a middleware, system checks, keys in the admin, and an authentication class for REST framework.

::

    INSTALLED_APPS = [..., "basicauth_mw.integrations.django"]      # for checks and admin
    MIDDLEWARE = ["basicauth_mw.integrations.django.BasicAuthMiddleware", ...]
    BASICAUTH_BACKEND = "sqlite:////var/lib/keys/keys.db"
"""

from .middleware import BasicAuthMiddleware as BasicAuthMiddleware
from .middleware import read_configuration as read_configuration
from .middleware import wrap_asgi as wrap_asgi

__all__ = ["BasicAuthMiddleware", "read_configuration", "wrap_asgi"]
