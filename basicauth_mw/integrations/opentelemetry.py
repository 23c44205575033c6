"""OpenTelemetry: the caller and the decision as attributes of the current span.

::

    install(app)
    FastAPIInstrumentor.instrument_app(app)
    instrument(app)

The attributes are ``enduser.id``, the client ID of a verified key; ``basicauth.decision``, ``allow`` or
``deny``; and for a refused request ``basicauth.reason``, as in the audit log. They never contain a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from ..auth.discovery import find_all
from ..auth.request_adapters import PRINCIPAL
from ..errors import ConfigurationError
from ._common import require_framework

with require_framework("opentelemetry", "opentelemetry-api"):
    from opentelemetry.trace import get_current_span

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..auth.authenticator import Authenticator
    from ..keys.model import Principal

__all__ = ["instrument"]

CALLER: Final = "enduser.id"
DECISION: Final = "basicauth.decision"
REASON: Final = "basicauth.reason"

_instrumented: Final[WeakSet[Authenticator[Any]]] = WeakSet()


def instrument(*protected: Any) -> None:
    """Add attributes to the span that is current when a request is allowed or refused.

    The span is that of an instrumentation outside the middleware, such as ``FastAPIInstrumentor``,
    ``DjangoInstrumentor``, or the ASGI and WSGI instrumentations. ``FlaskInstrumentor`` creates its span
    inside the middleware: there, allowed requests get the attributes, and refused ones have no span. Requests
    on open paths get no attributes.

    Args:
        *protected: A ``BasicAuthMiddleware``, or an app that has one, as for ``metrics.instrument``.

    Raises:
        ConfigurationError: An argument is not protected, or is already instrumented.
        MissingExtra: opentelemetry-api is not installed.
    """
    authenticators = find_all(protected)
    if any(authenticator in _instrumented for authenticator in authenticators):
        raise ConfigurationError("already instrumented: call instrument() once for each app")
    for authenticator in authenticators:
        authenticator.add_hook(_SpanHook())
        _instrumented.add(authenticator)
    for app in protected:
        if callable(add := getattr(app, "after_request", None)) and hasattr(app, "wsgi_app"):
            add(_after_flask_request)


class _SpanHook:
    """Sets the attributes of the current span; does nothing if there is no span, or it is not sampled."""

    def wrap_cache_get(self, get: Callable[[bytes], Principal | None]) -> Callable[[bytes], Principal | None]:
        def get_and_report(header: bytes) -> Principal | None:
            principal = get(header)
            if principal is not None:
                self.allowed(principal.client_id)
            return principal

        return get_and_report

    def allowed(self, client_id: str) -> None:
        span = get_current_span()
        if span.is_recording():
            span.set_attributes({CALLER: client_id, DECISION: "allow"})

    def refused(self, reason: str) -> None:
        span = get_current_span()
        if span.is_recording():
            span.set_attributes({DECISION: "deny", REASON: reason})


def _after_flask_request(response: Any) -> Any:
    from flask import request

    principal = request.environ.get(PRINCIPAL)
    if principal is not None:
        _SpanHook().allowed(principal.client_id)
    return response
