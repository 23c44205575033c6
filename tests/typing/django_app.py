"""Django and Django REST framework."""

from typing import assert_type

from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import BaseAuthentication

from basicauth_mw import Principal, require_scopes
from basicauth_mw.integrations.django import BasicAuthMiddleware
from basicauth_mw.integrations.django.rest_framework import ApiUser, PrincipalAuthentication
from basicauth_mw.metrics import instrument


class KeyedRequest(HttpRequest):
    principal: Principal


def reports(request: KeyedRequest) -> HttpResponse:
    require_scopes(request.principal, "reports:read")
    assert_type(request.principal.client_id, str)
    return HttpResponse(request.principal.name)


class OwnMiddleware(BasicAuthMiddleware):
    def process_view(self, request: HttpRequest, *args: object) -> None: ...


classes: list[type[BaseAuthentication]] = [PrincipalAuthentication]
assert_type(ApiUser(Principal("ci")).principal, Principal)
instrument(get_wsgi_application())
