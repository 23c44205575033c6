"""Whether a caller may do what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InsufficientScope

if TYPE_CHECKING:
    from .model import Principal


def require_scopes(principal: Principal | None, *scopes: str) -> None:
    """Make sure that the caller has every one of ``scopes``.

    Args:
        principal: ``scope["user"]`` or ``environ["basicauth_mw.principal"]``; None has no scope.
        *scopes: What is needed.

    Raises:
        InsufficientScope: One is missing. Uncaught, it becomes a 403 answer.
    """
    held = principal.scopes if principal is not None else frozenset()
    if not held.issuperset(scopes):
        missing = set(scopes) - held
        raise InsufficientScope("the key lacks a scope: " + " ".join(sorted(missing)), scopes=missing)
