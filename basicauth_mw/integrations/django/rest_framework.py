"""Django REST framework: the caller that the middleware verified, as the user of REST framework, and scopes.

::

    REST_FRAMEWORK = {
        "DEFAULT_AUTHENTICATION_CLASSES": [
            "basicauth_mw.integrations.django.rest_framework.PrincipalAuthentication",
        ],
    }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...keys.model import Principal
from .._common import check_scopes_arg, require_framework

with require_framework("rest_framework", "djangorestframework"):
    from rest_framework.authentication import BaseAuthentication
    from rest_framework.permissions import BasePermission

if TYPE_CHECKING:
    from rest_framework.request import Request
    from rest_framework.views import APIView

    from ...auth.authenticator import Authenticator

__all__ = ["ApiUser", "HasScopes", "PrincipalAuthentication"]


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

    def has_perm(self, perm: object, obj: object = None) -> bool:
        """False; keys have scopes instead."""
        return False

    has_perms = has_module_perms = has_perm


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
        proxy: Any = request  # of Django's request
        authenticator: Authenticator[Any] = proxy.basicauth_authenticator
        return ", ".join(authenticator.challenges_for(request))


def HasScopes(*scopes: str) -> type[BasePermission]:  # noqa: N802 - it makes a class
    """Make a permission class that requires all ``scopes``.

    ::

        class Reports(APIView):
            permission_classes = [HasScopes("reports:read")]

    It can be combined with others by ``&``, ``|`` and ``~``. A caller that lacks a scope gets a 403 from REST
    framework, and an anonymous one a 401.

    Raises:
        ConfigurationError: There is no scope, or an invalid one.
    """
    required = check_scopes_arg(scopes, "HasScopes")
    message = f"The API key lacks a scope that is required: {' '.join(required)}."
    return type(
        "HasScopes",
        (_HasScopes,),
        {"required_scopes": required, "message": message, "__module__": __name__},
    )


class _HasScopes(BasePermission):
    required_scopes: tuple[str, ...] = ()
    code = "insufficient_scope"

    def has_permission(self, request: Request, view: APIView) -> bool:
        principal = getattr(request, "principal", None)
        return isinstance(principal, Principal) and principal.scopes.issuperset(self.required_scopes)

    def has_object_permission(self, request: Request, view: APIView, obj: object) -> bool:
        # Without it, every object would be allowed: wrong in ``~HasScopes(...)``.
        return self.has_permission(request, view)
