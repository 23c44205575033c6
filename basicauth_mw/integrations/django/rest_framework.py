"""Django REST framework: who the middleware let in, as REST framework's user.

::

    REST_FRAMEWORK = {
        "DEFAULT_AUTHENTICATION_CLASSES": [
            "basicauth_mw.integrations.django.rest_framework.PrincipalAuthentication",
        ],
    }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings

from ...keys.credentials import challenge
from ...keys.model import Principal
from .._common import require_framework

with require_framework("rest_framework", "djangorestframework"):
    from rest_framework.authentication import BaseAuthentication

if TYPE_CHECKING:
    from rest_framework.request import Request

__all__ = ["Caller", "PrincipalAuthentication"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller with an API key, as what REST framework takes for a user: no row of a table, no permissions.

    Attributes:
        principal: Who it is.
    """

    principal: Principal

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    @property
    def pk(self) -> str:
        """The client id; what throttles count by."""
        return self.principal.client_id

    id = pk
    username = pk

    def get_username(self) -> str:
        """The client id."""
        return self.principal.client_id

    def __str__(self) -> str:
        return self.principal.display_name

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """False: a key has scopes."""
        return False

    def has_perms(self, perm_list: object, obj: object = None) -> bool:
        """False: a key has scopes."""
        return False

    def has_module_perms(self, app_label: str) -> bool:
        """False: a key has scopes."""
        return False


class PrincipalAuthentication(BaseAuthentication):
    """Gives a ``Caller`` as ``request.user`` and its ``Principal`` as ``request.auth``.

    The middleware has checked the key already. On an excluded path nobody is authenticated.
    """

    def authenticate(self, request: Request) -> tuple[Caller, Principal] | None:
        """Who is calling; None: the path is open.

        Raises:
            RuntimeError: The middleware has not seen the request.
        """
        principal = getattr(request, "principal", None)
        if not isinstance(principal, Principal):
            raise RuntimeError("no gate has seen this request: add BasicAuthMiddleware to MIDDLEWARE")
        return (Caller(principal), principal) if principal.is_authenticated else None

    def authenticate_header(self, request: Request) -> str:
        """The challenge, which makes REST framework answer 401 where it would answer 403."""
        realm = str(getattr(settings, "BASICAUTH_REALM", None) or "api")
        return challenge(realm).encode().decode("latin-1")
