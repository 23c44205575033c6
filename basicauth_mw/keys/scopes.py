"""Authorization by scopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InsufficientScope

if TYPE_CHECKING:
    from .model import Principal


def require_scopes(principal: Principal | None, *scopes: str) -> None:
    """Raise an error unless the caller has all of the scopes.

    Args:
        principal: ``scope["user"]`` or ``environ["basicauth_mw.principal"]``; None has no scopes.
        *scopes: The required scopes.

    Raises:
        InsufficientScope: A scope is missing. If the app does not catch it, the response is a 403; for an
            anonymous caller on an optional path, a 401 with a challenge.

    Example::

        require_scopes(request.user, "orders:read")
    """
    held = principal.scopes if principal is not None else frozenset()
    if not held.issuperset(scopes):
        missing = set(scopes) - held
        raise InsufficientScope("the key lacks a scope: " + " ".join(sorted(missing)), scopes=missing)
