"""The middleware for Django, under WSGI and ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...asgi import BasicAuthMiddleware as ASGIMiddleware
from ...auth.authenticator import Authenticator
from ...auth.problems import is_refusal
from ...auth.request_adapters import WSGIRequest, environ_key
from ...auth.schemes import credential_headers
from ...auth.verifier import PendingVerification
from ...keys.model import Principal
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
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from ...auth.problems import Response
    from ...keys.model import Decision
    from ...settings import Settings

# Django itself responds to these exceptions, with a 4xx.
_HANDLED_BY_DJANGO = (Http404, PermissionDenied, BadRequest, SuspiciousOperation, MultiPartParserError)


def read_configuration() -> tuple[Any, Settings]:
    """Read ``settings.BASICAUTH_*``, and the environment for what is not there.

    Returns:
        The backend object of ``BASICAUTH_BACKEND``, or None if it is a URL; and the settings. Both are
        arguments of ``wsgi_dashboard`` and of any middleware.

    Raises:
        ConfigurationError: Lists every problem.
    """
    names = [name for name in dir(settings) if name.startswith("BASICAUTH_")]
    return configuration({name: getattr(settings, name) for name in names}, "Django")


def build_authenticator() -> Authenticator[HttpRequest]:
    """Create an authenticator with the configuration from ``settings.BASICAUTH_*``."""
    return Authenticator(DjangoRequest(), *read_configuration(), {})


def wrap_asgi(application: Any) -> ASGIMiddleware:
    """Protect an ASGI application that serves more than Django, such as a ``ProtocolTypeRouter`` of Channels.

    Django's own middleware processes only http requests. If both are used, each http request is verified
    twice, the second time from the cache. ``scope["user"]`` is left to Channels' ``AuthMiddlewareStack``;
    consumers find the caller in ``scope["basicauth_mw.principal"]``. With ``strip_authorization``, this
    middleware removes the header for websockets, and Django's middleware removes it for views.

    Args:
        application: The application that ``ASGI_APPLICATION`` would otherwise name.

    Raises:
        ConfigurationError: Lists every problem of ``settings.BASICAUTH_*``.
    """
    backend, ours = read_configuration()
    if ours.strip_authorization:
        application = _StripFromWebsockets(application, credential_headers(ours.schemes))
    # Django's middleware still needs the header, and removes it for the views.
    return ASGIMiddleware(application, backend, settings=ours, set_user=False, strip_authorization=False)


class _StripFromWebsockets:
    """Removes the credentials from websocket handshakes."""

    def __init__(self, application: Any, headers: Sequence[str]) -> None:
        self.application = application
        self._headers = headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            scope["headers"] = _without(self._headers, scope["headers"])
        await self.application(scope, receive, send)


class DjangoRequest:
    """Reads a Django request, under WSGI or ASGI."""

    @staticmethod
    def authorization(request: HttpRequest) -> bytes | None:
        return WSGIRequest.authorization(request.META)  # under ASGI, Django joins several with a comma

    @staticmethod
    def credential_header(request: HttpRequest, name: str) -> bytes | None:
        return WSGIRequest.credential_header(request.META, name)

    @staticmethod
    def header(request: HttpRequest, name: str) -> str | None:
        return WSGIRequest.header(request.META, name)

    @staticmethod
    def address(request: HttpRequest) -> str:
        return WSGIRequest.address(request.META)

    @staticmethod
    def scheme(request: HttpRequest) -> str:
        return str(request.scheme)  # takes SECURE_PROXY_SSL_HEADER into account

    @staticmethod
    def method(request: HttpRequest) -> str:
        return str(request.method or "")

    @staticmethod
    def path(request: HttpRequest) -> tuple[str, str | None, bytes]:
        # path_info is what Django's resolver uses: without the script name; bytes that are not UTF-8 stay
        # percent-encoded in it.
        scope = getattr(request, "scope", None)
        if scope is None:
            return request.path_info, None, WSGIRequest.path(request.META)[2]
        return request.path_info, None, (scope.get("raw_path") or b"").partition(b"?")[0]


class BasicAuthMiddleware:
    """Requires a valid API key for every request.

    A view finds the caller in ``request.principal``, a ``Principal`` that is anonymous on an open path, and
    on an optional path without a key. ``request.user`` is not changed. If a view raises an exception, the
    response is a JSON problem, unless Django handles the exception itself (``Http404`` and others), the
    project has a ``handler500``, or ``DEBUG`` is on.

    ``REMOTE_USER`` and ``AUTH_TYPE`` are removed from ``request.META``, unless ``set_user`` is off.

    The settings are ``settings.BASICAUTH_*``; ``timeout_s`` has no effect here.

    Raises:
        ConfigurationError: The configuration is invalid. Raised when Django loads its middleware, before the
            first request.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.authenticator = build_authenticator()
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._acall(request)
        decision = self.authenticator.decide(request)
        if isinstance(decision, PendingVerification):
            decision = self.authenticator.verify(decision)
        response: HttpResponseBase = self._apply(request, decision) or self.get_response(request)
        return response

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        decision = self.authenticator.decide(request)
        if isinstance(decision, PendingVerification):
            decision = await self.authenticator.averify(decision)
        response: HttpResponseBase = self._apply(request, decision) or await self.get_response(request)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """The response to an exception in a view; None: leave it to Django.

        Sends the signal and the log record that Django would send.
        """
        refusal = is_refusal(exception)
        if not self.authenticator.settings.map_errors or not (refusal or _is_plain_500(exception)):
            return None
        client_id = getattr(getattr(request, "principal", None), "client_id", None)
        problem = self.authenticator.exception_response(
            request, exception, client_id=client_id, log_traceback=False
        )
        response = _to_django(request, problem)
        if not refusal:
            got_request_exception.send(sender=None, request=request)
            log_response(
                "%s: %s",
                problem.phrase,
                request.path,
                response=response,
                request=request,
                exception=exception,
            )
        return response

    def _apply(self, request: HttpRequest, decision: Decision) -> HttpResponse | None:
        """The response to a refused request; None after the request of a caller is prepared for the view."""
        if not isinstance(decision, Principal):
            return _to_django(request, self.authenticator.refusal_response(request, decision))
        request.principal = decision  # type: ignore[attr-defined]
        request.basicauth_authenticator = self.authenticator  # type: ignore[attr-defined]
        if self.authenticator.settings.set_user:
            # They do not come from a verified key, and RemoteUserMiddleware would trust them.
            for name in ("REMOTE_USER", "AUTH_TYPE"):
                request.META.pop(name, None)
        if self.authenticator.settings.strip_authorization:
            names = self.authenticator.credential_headers
            for name in names:
                request.META.pop(environ_key(name), None)
            vars(request).pop("headers", None)  # a cached property made from META
            if (scope := getattr(request, "scope", None)) is not None:
                headers = _without(names, scope["headers"])
                request.scope = {**scope, "headers": headers}  # type: ignore[attr-defined]
        return None


def _without(names: Sequence[str], headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0].lower().decode("latin-1") not in names]


def _is_plain_500(exception: Exception) -> bool:
    """Whether Django would respond to an exception with its default 500."""
    if isinstance(exception, _HANDLED_BY_DJANGO) or settings.DEBUG or settings.DEBUG_PROPAGATE_EXCEPTIONS:
        return False
    return get_resolver(get_urlconf()).resolve_error_handler(500) is server_error


def _to_django(request: HttpRequest, response: Response) -> HttpResponse:
    body = b"" if request.method == "HEAD" else response.body
    headers: dict[str, str] = {}
    for name, value in response.headers:  # Django sends each header once; a list of challenges may be joined
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return HttpResponse(body, status=response.status, reason=response.phrase, headers=headers)
