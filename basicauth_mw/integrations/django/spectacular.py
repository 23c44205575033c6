"""drf-spectacular: the security schemes of the middleware in the schema, with the scopes of ``HasScopes``.

The Django app imports this module if drf-spectacular is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.settings import spectacular_settings
from rest_framework.permissions import AND

from ...auth.path_rules import PathRules
from .._openapi import security_schemes
from .middleware import read_configuration

if TYPE_CHECKING:
    from drf_spectacular.openapi import AutoSchema


class PrincipalAuthenticationScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Documents ``PrincipalAuthentication`` by the setting ``BASICAUTH_SCHEMES``."""

    target_class = "basicauth_mw.integrations.django.rest_framework.PrincipalAuthentication"

    @property
    def name(self) -> list[str]:  # type: ignore[override]
        """The names of the security schemes."""
        return list(self._schemes())

    def get_security_definition(self, auto_schema: AutoSchema) -> list[dict[str, Any]]:
        """The Security Scheme Objects."""
        return list(self._schemes().values())

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[Any]]]:
        """One alternative for each scheme; from OpenAPI 3.1 on with the scopes that the view requires.

        None on an open path. Where a key is optional, drf-spectacular adds the alternative without one by the
        permissions of the view.
        """
        _, ours = read_configuration()
        if PathRules.from_settings(ours).access(auto_schema.path) == "open":
            return []
        required: set[str] = set().union(*map(_required_scopes, auto_schema.view.get_permissions()))
        has_scopes = not str(spectacular_settings.OAS_VERSION).startswith("3.0")
        return [{name: sorted(required) if has_scopes else []} for name in self.name]

    def _schemes(self) -> dict[str, dict[str, Any]]:
        return security_schemes(read_configuration()[1].schemes)


def _required_scopes(permission: Any) -> set[str]:
    """The scopes that a permission always requires; those of ``|`` and ``~`` cannot be documented."""
    if isinstance(permission, AND):
        both: Any = permission  # its operands are not typed
        return _required_scopes(both.op1) | _required_scopes(both.op2)
    return set(getattr(permission, "required_scopes", ()))
