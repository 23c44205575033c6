"""Django REST framework: the caller that the middleware verified, as the user of REST framework.

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

from ...auth.schemes import challenges
from ...keys.model import Principal
from .._common import require_framework
from .middleware import read_configuration

with require_framework("rest_framework", "djangorestframework"):
    from rest_framework.authentication import BaseAuthentication

if TYPE_CHECKING:
    from rest_framework.request import Request

__all__ = ["ApiUser", "PrincipalAuthentication"]


@dataclass(frozen=True, slots=True)
class ApiUser:
    """A caller with an API key, as a user object for REST framework. It has no model and no permissions.

    Attributes:
        principal: The principal of the caller.
    """

    principal: Principal

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    @property
    def pk(self) -> str:
        """The client ID, which the throttles of REST framework use."""
        return self.principal.client_id

    id = pk
    username = pk

    def get_username(self) -> str:
        """The client ID."""
        return self.principal.client_id

    def __str__(self) -> str:
        return self.principal.display_name

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """False; keys have scopes instead."""
        return False

    def has_perms(self, perm_list: object, obj: object = None) -> bool:
        """False; keys have scopes instead."""
        return False

    def has_module_perms(self, app_label: str) -> bool:
        """False; keys have scopes instead."""
        return False


class PrincipalAuthentication(BaseAuthentication):
    """Sets ``request.user`` to an ``ApiUser`` and ``request.auth`` to its ``Principal``.

    The middleware has already verified the key. An anonymous request is not authenticated.
    """

    def authenticate(self, request: Request) -> tuple[ApiUser, Principal] | None:
        """The user and the principal; None for an anonymous request.

        Raises:
            RuntimeError: The middleware did not process the request.
        """
        principal = getattr(request, "principal", None)
        if not isinstance(principal, Principal):
            raise RuntimeError("BasicAuthMiddleware did not process this request; add it to MIDDLEWARE")
        return (ApiUser(principal), principal) if principal.is_authenticated else None

    def authenticate_header(self, request: Request) -> str:
        """The challenges. Without one, REST framework would respond with 403 instead of 401."""
        _, ours = read_configuration()
        return ", ".join(challenges(ours.schemes, ours.realm))
