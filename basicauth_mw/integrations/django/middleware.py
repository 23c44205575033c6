"""The gate as a Django middleware, for WSGI and ASGI alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...asgi import BasicAuthMiddleware as ASGIMiddleware
from ...auth.authenticator import Authenticator
from ...auth.problems import is_refusal
from ...auth.verifier import PendingVerification
from ...keys.model import Deny, Principal
from ...wsgi import WSGIRequest
from .._common import configuration, require_framework

with require_framework("django", "django"):
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.conf import settings
    from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
    from django.core.signals import got_request_exception
    from django.http import Http404, HttpResponse
    from django.http.multipartparser import MultiPartParserError
    from django.urls import get_resolver, get_urlconf
    from django.utils.log import log_response
    from django.views.defaults import server_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from ...auth.problems import Response
    from ...keys.model import Allow, Decision
    from ...settings import Settings

# What Django answers by itself with a 4xx: an answer like any other.
_ANSWERS = (Http404, PermissionDenied, BadRequest, SuspiciousOperation, MultiPartParserError)


def configured() -> tuple[Any, Settings]:
    """Backend and settings out of ``settings.BASICAUTH_*``.

    Raises:
        ConfigurationError: Names every problem.
    """
    names = [name for name in dir(settings) if name.startswith("BASICAUTH_")]
    return configuration({name: getattr(settings, name) for name in names}, "Django")


def wrap_asgi(application: Any) -> ASGIMiddleware:
    """Protect an ASGI application that serves more than Django, such as a ``ProtocolTypeRouter`` of Channels.

    Django's own middleware sees only http requests. Together with it, each http request is verified twice,
    the second time from the cache. ``scope["user"]`` is left to Channels' ``AuthMiddlewareStack``; consumers
    find the caller in ``scope["basicauth_mw.principal"]``. With ``strip_authorization`` the header is
    removed for websockets here, and for views by Django's middleware.

    Args:
        application: What ``ASGI_APPLICATION`` would name otherwise.

    Raises:
        ConfigurationError: Names every problem of ``settings.BASICAUTH_*``.
    """
    backend, ours = configured()
    if ours.strip_authorization:
        application = _WithoutHeader(application)
    # The header has to reach the middleware of Django, which removes it for the views.
    return ASGIMiddleware(application, backend, settings=ours, set_user=False, strip_authorization=False)


class _WithoutHeader:
    """Hides the Authorization header from websockets, which Django's middleware does not see."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != b"authorization"]
        await self.application(scope, receive, send)


class DjangoRequest:
    """Reads a Django request, whichever server it came by."""

    @staticmethod
    def authorization(request: HttpRequest) -> bytes | None:
        return WSGIRequest.authorization(request.META)  # under ASGI Django joins several by a comma

    @staticmethod
    def header(request: HttpRequest, name: str) -> str | None:
        return WSGIRequest.header(request.META, name)

    @staticmethod
    def address(request: HttpRequest) -> str:
        return WSGIRequest.address(request.META)

    @staticmethod
    def scheme(request: HttpRequest) -> str:
        return str(request.scheme)  # as SECURE_PROXY_SSL_HEADER has it

    @staticmethod
    def method(request: HttpRequest) -> str:
        return str(request.method or "")

    @staticmethod
    def path(request: HttpRequest) -> tuple[str, str | None, bytes]:
        # What Django's resolver gets, below the script name; octets that are no UTF-8 stay encoded in it.
        scope = getattr(request, "scope", None)
        if scope is None:
            return request.path_info, None, WSGIRequest.path(request.META)[2]
        return request.path_info, None, (scope.get("raw_path") or b"").partition(b"?")[0]


class BasicAuthMiddleware:
    """Lets requests with a valid API key through, and answers all others.

    A view finds the caller as ``request.principal``, a ``Principal`` that is anonymous on an excluded path;
    ``request.user`` is left alone. What a view raises becomes a JSON problem, unless Django answers it
    itself (``Http404`` and the like), the project has a ``handler500``, or ``DEBUG`` is on.

    ``REMOTE_USER`` and ``AUTH_TYPE`` are removed from ``request.META``, unless ``set_user`` is off.

    The settings are ``settings.BASICAUTH_*``; ``timeout_s`` has no effect here.

    Raises:
        ConfigurationError: When Django loads its middleware, which it does before the first request.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.authenticator: Authenticator[HttpRequest] = Authenticator(DjangoRequest(), *configured(), {})
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._acall(request)
        decision = self.authenticator.decide(request)
        if isinstance(decision, PendingVerification):
            decision = self.authenticator.verify(decision)
        response: HttpResponseBase = self._refused(request, decision) or self.get_response(request)
        return response

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        decision = self.authenticator.decide(request)
        if isinstance(decision, PendingVerification):
            decision = await self.authenticator.averify(decision)
        response: HttpResponseBase = self._refused(request, decision) or await self.get_response(request)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer for a view that raised; None: Django shall.

        What is told to Django's signal and its log is what Django would have told them.
        """
        routine = is_refusal(exception)
        if not self.authenticator.settings.map_errors or not (routine or _is_ours(exception)):
            return None
        principal: Principal | None = getattr(request, "principal", None)
        client_id = None if principal is None else principal.client_id
        answer = self.authenticator.answer_exception(request, exception, client_id=client_id, traceback=False)
        response = _response(request, answer)
        if not routine:
            got_request_exception.send(sender=None, request=request)
            log_response(
                "%s: %s", answer.phrase, request.path, response=response, request=request, exception=exception
            )
        return response

    def _refused(self, request: HttpRequest, decision: Decision) -> HttpResponse | None:
        """The answer to who is not let in; who is gets known to the view."""
        if isinstance(decision, Deny):
            return _response(request, self.authenticator.refuse(request, decision))
        self._admit(request, decision)
        return None

    def _admit(self, request: HttpRequest, allow: Allow) -> None:
        request.principal = allow.principal  # type: ignore[attr-defined]
        if self.authenticator.settings.set_user:
            # They were set without a key being checked, and RemoteUserMiddleware would trust them.
            for name in ("REMOTE_USER", "AUTH_TYPE"):
                request.META.pop(name, None)
        if self.authenticator.settings.strip_authorization:
            request.META.pop("HTTP_AUTHORIZATION", None)
            vars(request).pop("headers", None)  # made of META, and kept
            if (scope := getattr(request, "scope", None)) is not None:
                kept = [pair for pair in scope["headers"] if pair[0].lower() != b"authorization"]
                request.scope = {**scope, "headers": kept}  # type: ignore[attr-defined]


def _is_ours(exception: Exception) -> bool:
    """Whether Django would make its plain 500 of an exception."""
    if isinstance(exception, _ANSWERS) or settings.DEBUG or settings.DEBUG_PROPAGATE_EXCEPTIONS:
        return False
    return get_resolver(get_urlconf()).resolve_error_handler(500) is server_error


def _response(request: HttpRequest, answer: Response) -> HttpResponse:
    body = b"" if request.method == "HEAD" else answer.body
    return HttpResponse(body, status=answer.status, reason=answer.phrase, headers=dict(answer.headers))
