"""The URLs of a project with a handler500."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpResponse

from tests.integrations.django_site import urlpatterns as urlpatterns

if TYPE_CHECKING:
    from django.http import HttpRequest


def handler500(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("mine", status=500)
