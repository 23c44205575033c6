"""Scopes as permissions of REST framework, and its OpenAPI document by drf-spectacular."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations import django_site

# isort: split
from django.test import Client, override_settings
from django.urls import path as route
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.settings import spectacular_settings
from rest_framework.permissions import SAFE_METHODS, AllowAny, BasePermission, IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from basicauth_mw import Backend, ConfigurationError
from basicauth_mw.integrations.django.rest_framework import HasScopes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rest_framework.request import Request

assert django_site


TOKEN = "The token of an API key: the base64 text of its client ID, a colon and its secret."


class IsRead(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.method in SAFE_METHODS


def view_with(*permissions: Any) -> Any:
    class View(APIView):
        permission_classes = permissions
        schema = AutoSchema()

        def get(self, request: Request) -> Response:
            """Read it."""
            self.check_object_permissions(request, "an object")
            return Response("read")

        def post(self, _request: Request) -> Response:
            """Write it."""
            return Response("written")

    return View.as_view()


class Urls:
    urlpatterns = (
        route("one", view_with(HasScopes("read"))),
        route("both", view_with(HasScopes("read", "write"))),
        route("either", view_with(HasScopes("write") | IsRead)),
        route("not", view_with(IsAuthenticated & ~HasScopes("write"))),
        route("optional", view_with(HasScopes("read"))),
        route("anyone", view_with(AllowAny)),
        route("joined", view_with(HasScopes("read") & (HasScopes("write") & IsRead))),
    )


@pytest.fixture
def authorization(backend: Backend) -> Iterator[str]:
    issued = backend.create(client_id="reader", scopes=["read"])
    with override_settings(
        BASICAUTH_BACKEND=backend, ROOT_URLCONF=Urls, BASICAUTH_OPTIONAL=["/optional"], ALLOWED_HOSTS=["*"]
    ):
        yield issued.authorization


def send(method: str, path: str, authorization: str | None) -> Any:
    headers = {} if authorization is None else {"authorization": authorization}
    return getattr(Client(), method)(path, headers=headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/one", 200),
        ("get", "/both", 403),
        ("get", "/either", 200),
        ("post", "/either", 403),
        ("get", "/not", 200),
        ("get", "/optional", 200),
        ("get", "/joined", 403),
    ],
)
def test_scopes_as_permissions(method: str, path: str, status: int, authorization: str) -> None:
    assert send(method, path, authorization).status_code == status


def test_the_403_names_the_scopes(authorization: str) -> None:
    response = send("get", "/both", authorization)

    assert response.json() == {"detail": "The API key lacks a scope that is required: read write."}


def test_an_anonymous_caller_gets_a_401(authorization: str) -> None:
    response = send("get", "/optional", None)

    assert response.status_code == 401
    assert response["WWW-Authenticate"] == 'Basic realm="api", charset="UTF-8"'


@pytest.mark.parametrize(("mode", "scheme"), [("cors", "xBasic"), ("navigate", "Basic"), (None, "Basic")])
def test_the_challenge_opens_no_dialog_for_scripts(authorization: str, mode: str | None, scheme: str) -> None:
    headers = {} if mode is None else {"sec-fetch-mode": mode}
    with override_settings(BASICAUTH_CHALLENGE="navigations"):
        response = Client().get("/optional", headers=headers)

    assert (response.status_code, response["WWW-Authenticate"].partition(" ")[0]) == (401, scheme)


@pytest.mark.parametrize("scopes", [(), ("two words",), ("",)])
def test_invalid_scopes(scopes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"^HasScopes\(\)"):
        HasScopes(*scopes)


@pytest.mark.parametrize(("version", "scopes"), [("3.0.3", []), ("3.1.1", ["read", "write"])])
def test_the_document(version: str, scopes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectacular_settings, "OAS_VERSION", version)
    with override_settings(BASICAUTH_SCHEMES="bearer,header:x-api-key"):
        document = SchemaGenerator(patterns=list(Urls.urlpatterns)).get_schema(request=None, public=True)

    assert document["components"]["securitySchemes"] == {
        "HTTPBearer": {
            "type": "http",
            "scheme": "bearer",
            "description": TOKEN,
        },
        "x-api-key": {
            "type": "apiKey",
            "in": "header",
            "name": "x-api-key",
            "description": TOKEN,
        },
    }
    for path in ("/both", "/joined"):
        assert document["paths"][path]["get"]["security"] == [{"HTTPBearer": scopes}, {"x-api-key": scopes}]
    assert document["paths"]["/anyone"]["get"]["security"] == [
        {"HTTPBearer": []},
        {"x-api-key": []},
        {},
    ]


def test_the_document_knows_which_paths_need_a_key() -> None:
    """An open path has no security. On an optional one, the permissions of the view decide."""
    views = {
        "open/": AllowAny,
        "optional/anyone": AllowAny,
        "optional/caller": IsAuthenticated,
        "other": AllowAny,
    }
    patterns = [route(path, view_with(permission)) for path, permission in views.items()]
    with override_settings(
        BASICAUTH_INCLUDE=["/open/*", "/optional/*"],
        BASICAUTH_EXCLUDE=["/open/"],
        BASICAUTH_OPTIONAL=["/optional/*"],
    ):
        paths = SchemaGenerator(patterns=patterns).get_schema(request=None, public=True)["paths"]

    found = {path: item["get"].get("security", []) for path, item in paths.items()}
    assert found == {
        "/open/": [{}],
        "/optional/anyone": [{"HTTPBasic": []}, {}],
        "/optional/caller": [{"HTTPBasic": []}],
        "/other": [{}],
    }
