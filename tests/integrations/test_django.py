"""The Django middleware under WSGI and ASGI, its checks, and REST framework."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations import django_site

# isort: split
from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.core.asgi import get_asgi_application
from django.core.cache import caches
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.core.signals import got_request_exception
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path as route
from rest_framework.authentication import BasicAuthentication
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.test import APIRequestFactory
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from basicauth_mw import Backend, ConfigurationError, Issued, Principal, encode_basic
from basicauth_mw.auth.discovery import find_authenticator
from basicauth_mw.auth.request_adapters import environ_key
from basicauth_mw.dashboard import dashboard, wsgi_dashboard
from basicauth_mw.integrations.django import BasicAuthMiddleware, read_configuration, rest_framework
from basicauth_mw.integrations.django.checks import check_deployment, check_settings
from tests.asgi.helpers import call, http_scope
from tests.servers.conftest import ROOT
from tests.wsgi.helpers import call as call_wsgi
from tests.wsgi.helpers import call_validated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest

    Get = Callable[..., Any]

MIDDLEWARE_PATH = django_site.MIDDLEWARE_PATH
CACHED = [
    MIDDLEWARE_PATH,
    *(f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom")),
]


@pytest.fixture(autouse=True)
def _backend(backend: Backend) -> Iterator[None]:
    with override_settings(BASICAUTH_BACKEND=backend):
        yield


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest, issued: Issued) -> Get:
    """Send a request with Django's test client; with the key, unless another header is given."""

    def get(
        path: str,
        authorization: str | None = issued.authorization,
        *,
        lets_out: bool = False,
        **headers: str,
    ) -> Any:
        if authorization is not None:
            headers["authorization"] = authorization
        headers.setdefault("X-Request-ID", "r-1")
        if request.param == "sync":
            return Client(raise_request_exception=lets_out).get(path, headers=headers)
        client = AsyncClient(raise_request_exception=lets_out)
        return asyncio.run(client.get(path, headers=headers))

    return get


def problem(response: Any) -> dict[str, Any]:
    assert response["Content-Type"] == "application/problem+json"
    assert response["Content-Length"] == str(len(response.content))
    assert response["Cache-Control"] == "no-store"
    members: dict[str, Any] = json.loads(response.content)
    assert response["X-Request-ID"] == members["request_id"] == "r-1"
    assert response.status_code == members["status"]
    return members


# --- authentication


@pytest.mark.proves("X34")
def test_everything_is_protected(get: Get, issued: Issued) -> None:
    for path in ("/me", "/async-me", "/nowhere", "/"):
        refused = get(path, None)
        assert problem(refused)["code"] == "missing_credentials"
        assert refused["WWW-Authenticate"] == 'Basic realm="api", charset="UTF-8"'
    assert problem(get("/me", encode_basic("ci", "wrong")))["code"] == "invalid_credentials"

    known = get("/me").json()
    assert (known["id"], known["known"], known["user"]) == ("ci", True, False)
    assert known["authorization"][:2] == ["META", "headers"]
    assert get("/async-me").content == b"ci"
    assert get("/nowhere").status_code == 404


@pytest.mark.proves("X34")
def test_every_route_requires_a_key(get: Get) -> None:
    """Except excluded ones."""
    paths = ["/" + re.sub("<[^>]*>", "x", str(each.pattern)) for each in django_site.urlpatterns]
    is_open = {path for path in paths if get(path, None).status_code != 401}

    assert len(paths) > 10
    assert is_open == {"/open", "/files/x"}


def test_excluded_paths(get: Get) -> None:
    """The principal is anonymous. The path that counts is the one that Django routes."""
    assert get("/open", None).json()["known"] is False
    assert get("/open", encode_basic("ci", "wrong")).json()["id"] == ""
    assert get("/files/a/b", None).content == b"a/b"
    assert get("/files/../me", None).status_code == 401
    assert get("/files/%2e%2e/me", None).status_code == 401
    assert get("/openx", None).status_code == 401


@pytest.mark.proves("X29")
@pytest.mark.parametrize("handler", ["wsgi", "asgi"])
def test_the_raw_path_is_checked(handler: str) -> None:
    """A path that is encoded twice, or that the server has decoded, is not excluded."""
    if handler == "wsgi":
        app = WSGIHandler()
        good = call_validated(app, path="/files/a", RAW_URI="/files/a?x=1")
        odd = [
            call_validated(app, path="/files/a/b", RAW_URI="/files/a%2Fb"),
            call_validated(app, path="/files/\xff"),
        ]
    else:
        asgi = get_asgi_application()
        good = call(asgi, http_scope(path="/files/a", raw_path=b"/files/a?x=1"))
        odd = [call(asgi, {**http_scope(path="/files/a/b"), "raw_path": b"/files/a%2Fb"})]

    assert good.status == 200
    assert [each.status for each in odd] == [401] * len(odd)


@pytest.mark.proves("X30")
def test_a_mount_point_is_removed_from_the_path(issued: Issued) -> None:
    mounted = call_validated(WSGIHandler(), path="/open", SCRIPT_NAME="/v1")
    asgi = call(get_asgi_application(), http_scope(path="/v1/open", root_path="/v1"))
    outside = call(get_asgi_application(), http_scope(path="/v1open", root_path="/v1"))

    assert (mounted.status, asgi.status, outside.status) == (200, 200, 401)


@pytest.mark.parametrize("handler", ["wsgi", "asgi"])
def test_two_headers_are_refused(handler: str, issued: Issued) -> None:
    field = issued.authorization
    if handler == "wsgi":
        seen: Any = call_validated(WSGIHandler(), f"{field}, {field}", path="/me")
    else:
        seen = call(
            get_asgi_application(),
            http_scope(field, path="/me", headers=[(b"authorization", field.encode())]),
        )

    assert seen.status == 401


def test_bytes_outside_ascii_are_kept(backend: Backend, get: Get) -> None:
    """UTF-8 in the credentials, and in the realm of the challenge."""
    assert get("/me", backend.create(client_id="\u3042").authorization).json()["id"] == "\u3042"
    with override_settings(BASICAUTH_REALM="\u3042"):
        refused = call_validated(WSGIHandler(), path="/me")
        asgi = call(get_asgi_application(), http_scope(path="/me"))

    expected = 'Basic realm="\u3042", charset="UTF-8"'.encode().decode("latin-1")
    assert refused.named["WWW-Authenticate"] == asgi.headers["WWW-Authenticate"] == expected


def test_head(issued: Issued) -> None:
    response = call_validated(WSGIHandler(), path="/me", REQUEST_METHOD="HEAD")

    assert (response.status, response.body) == (401, b"")
    assert int(response.named["Content-Length"]) > 0


def test_plain_http_can_be_refused(get: Get) -> None:
    """``SECURE_PROXY_SSL_HEADER`` counts."""
    with override_settings(
        BASICAUTH_REQUIRE_HTTPS=True, SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")
    ):
        assert problem(get("/me"))["code"] == "https_required"
        assert get("/me", **{"X-Forwarded-Proto": "https"}).status_code == 200


def test_preflights(issued: Issued) -> None:
    headers = {"Origin": "https://a", "Access-Control-Request-Method": "GET"}
    with override_settings(BASICAUTH_ALLOW_PREFLIGHT=True):
        assert Client().options("/me", headers=headers).json()["known"] is False
        assert Client().options("/me").status_code == 401


def test_failures_are_throttled_by_address(issued: Issued) -> None:
    with override_settings(BASICAUTH_THROTTLE="2/minute"):
        client = Client()
        wrong = {"authorization": encode_basic("ci", "wrong")}
        right = {"authorization": issued.authorization}
        statuses = [client.get("/me", headers=wrong).status_code for _ in range(3)]
        blocked = client.get("/me", headers=right)
        elsewhere = client.get(
            "/me", headers={"authorization": issued.authorization}, REMOTE_ADDR="192.0.2.9"
        )

    assert statuses == [401, 401, 429]
    assert (blocked.status_code, blocked["Retry-After"].isdecimal()) == (429, True)
    assert elsewhere.status_code == 200


def test_the_header_can_be_removed(get: Get) -> None:
    """Everywhere a view may read it, even after a middleware has read it."""
    with override_settings(BASICAUTH_STRIP_AUTHORIZATION=True):
        assert get("/me").json()["authorization"] == []
        with override_settings(MIDDLEWARE=["tests.integrations.test_django.looks", MIDDLEWARE_PATH]):
            assert get("/me").json()["authorization"] == []


@pytest.mark.parametrize("handler", ["wsgi", "asgi"])
@pytest.mark.parametrize("strips", [False, True])
def test_a_key_in_another_scheme(handler: str, strips: bool, issued: Issued) -> None:
    """The view sees the headers of enabled schemes, unless they are removed."""
    seen: list[list[str]] = []

    class Urls:
        urlpatterns = (route("", lambda request: _note_headers(request, seen)),)

    schemes = {"BASICAUTH_SCHEMES": "bearer,header:x-api-key", "BASICAUTH_STRIP_AUTHORIZATION": strips}
    with override_settings(ROOT_URLCONF=Urls, **schemes):
        for name, value in (("Authorization", f"Bearer {issued.token}"), ("X-API-Key", issued.token)):
            if handler == "asgi":
                headers = [(name.lower().encode(), value.encode())]
                status = call(get_asgi_application(), http_scope(headers=headers)).status
                refused = call(get_asgi_application(), http_scope()).headers["WWW-Authenticate"]
            else:
                environ = {environ_key(name): value}
                status = call_validated(WSGIHandler(), **environ).status
                refused = call_validated(WSGIHandler()).named["WWW-Authenticate"]
            assert status == 200
            assert refused == 'Bearer realm="api"'

    assert seen == [[], []] if strips else [["Authorization"], ["X-Api-Key"]]


def _note_headers(request: HttpRequest, seen: list[list[str]]) -> HttpResponse:
    seen.append([name for name in ("Authorization", "X-Api-Key") if name in request.headers])
    return HttpResponse()


@pytest.mark.parametrize("handler", ["wsgi", "asgi"])
def test_challenges_are_joined_in_one_header(handler: str) -> None:
    """Django sends each header once; RFC 9110 section 11.6.1 allows a list."""
    with override_settings(BASICAUTH_SCHEMES="bearer,basic"):
        if handler == "asgi":
            challenges = call(get_asgi_application(), http_scope()).headers["WWW-Authenticate"]
        else:
            challenges = call_validated(WSGIHandler()).named["WWW-Authenticate"]

    assert challenges == 'Bearer realm="api", Basic realm="api", charset="UTF-8"'


def looks(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """A middleware that reads headers."""

    def middleware(request: HttpRequest) -> Any:
        assert "Authorization" in request.headers
        return get_response(request)

    return middleware


def users_of_server(request: Any) -> HttpResponse:
    names = ("REMOTE_USER", "AUTH_TYPE", "HTTP_REMOTE_USER")
    return JsonResponse({name: request.META[name] for name in names if name in request.META})


urlpatterns = [
    route("closed", users_of_server),
    route("open", users_of_server),
    route("open-api", api_view()(authentication_classes([])(permission_classes([])(users_of_server)))),
]


@pytest.mark.parametrize("where", ["/closed", "/open", "/open-api"])
@pytest.mark.parametrize("sets_user", [True, False])
def test_a_remote_user_of_the_server_is_removed(issued: Issued, where: str, sets_user: bool) -> None:
    """From every request, also to an excluded path, unless ``set_user`` is off."""
    theirs = {"REMOTE_USER": "root", "AUTH_TYPE": "Negotiate"}
    header = {"HTTP_REMOTE_USER": "root"}  # a request header, not the variable
    fields = {"authorization": issued.authorization, "Remote-User": "root"}
    with override_settings(
        ROOT_URLCONF=__name__, BASICAUTH_SET_USER=sets_user, BASICAUTH_EXCLUDE=["/open", "/open-api"]
    ):
        environ: Any = theirs
        assert Client().get(where, headers=fields, **environ).json() == (
            header if sets_user else {**theirs, **header}
        )
        response = asyncio.run(AsyncClient().get(where, headers=fields))
        assert response.json() == header


def test_remote_user_middleware_before_the_middleware() -> None:
    """The check needs django.contrib.auth, so it runs in a project that has it."""
    program = (
        "from tests.integrations import channels_site\n"
        "from basicauth_mw.integrations.django.checks import check_settings\n"
        "from django.conf import settings\n"
        "ours, *rest = settings.MIDDLEWARE\n"
        "remote = 'django.contrib.auth.middleware.PersistentRemoteUserMiddleware'\n"
        "for settings.MIDDLEWARE in ([ours, *rest, remote], [*rest, remote, ours]):\n"
        "    print([message.id for message in check_settings()])\n"
    )
    env = {**os.environ, "BASICAUTH_KEYS": "ci:p@55w0rd"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["[]", "['basicauth_mw.W010']"], done.stderr


def test_an_unavailable_store_is_a_503(get: Get) -> None:
    class Down:
        def get(self, _client_id: str) -> None:
            raise OSError

    with override_settings(BASICAUTH_BACKEND=Down()):
        assert problem(get("/me"))["code"] == "backend_unavailable"


def test_it_is_async_in_an_async_stack() -> None:
    """A request to an async view uses no thread."""

    async def respond(_request: HttpRequest) -> Any:
        return None

    assert iscoroutinefunction(BasicAuthMiddleware(respond))
    assert not iscoroutinefunction(BasicAuthMiddleware(lambda _request: None))


# --- exceptions in views


@pytest.mark.parametrize("path", ["/scoped", "/async-scoped"])
def test_a_missing_scope(get: Get, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is not an error: no signal, no traceback."""
    caplog.set_level(logging.INFO)

    refused = get(path, lets_out=True)

    assert problem(refused)["code"] == "insufficient_scope"
    (audit,) = [record for record in caplog.records if record.name == "basicauth_mw.audit"]
    assert audit.basicauth["client_id"] == "ci"  # type: ignore[attr-defined]
    assert all(not record.exc_info for record in caplog.records)


@pytest.mark.parametrize("prefix", ["/raises", "/async-raises"])
def test_an_exception_becomes_json(get: Get, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Django's signal and log record are sent as without the middleware."""
    heard: list[Any] = []

    def receiver(**_more: Any) -> None:
        heard.append(sys.exc_info()[1])

    got_request_exception.connect(receiver)
    try:
        failed = get(f"{prefix}/boom")
        late = get(f"{prefix}/timeout")
    finally:
        got_request_exception.disconnect(receiver)

    assert problem(failed)["code"] == "internal_error"
    assert b"inside" not in failed.content
    assert problem(late)["code"] == "timeout"
    assert [type(exc) for exc in heard] == [django_site.Boom, TimeoutError]
    logged = [record for record in caplog.records if record.name == "django.request"]
    assert [(record.getMessage(), record.exc_info[0]) for record in logged if record.exc_info] == [
        (f"Internal Server Error: {prefix}/boom", django_site.Boom),
        (f"Gateway Timeout: {prefix}/timeout", TimeoutError),
    ]
    assert len(logged) == 2


@pytest.mark.parametrize("prefix", ["/raises", "/async-raises"])
def test_the_test_client_raises_the_exception(get: Get, prefix: str) -> None:
    with pytest.raises(django_site.Boom):
        get(f"{prefix}/boom", lets_out=True)


def test_responses_of_django_to_exceptions_are_kept(get: Get) -> None:
    statuses = {what: get(f"/raises/{what}").status_code for what in ("missing", "denied", "suspicious")}
    types = {get(f"/raises/{what}")["Content-Type"].partition(";")[0] for what in statuses}

    assert statuses == {"missing": 404, "denied": 403, "suspicious": 400}
    assert types == {"text/html"}
    assert get("/broken").content == b"mine"


@pytest.mark.parametrize(
    ("settings", "body"),
    [
        ({"ROOT_URLCONF": "tests.integrations.django_site_500"}, b"mine"),
        ({"DEBUG": True}, b"Boom"),
        ({"BASICAUTH_MAP_ERRORS": False}, b"<h1>Server Error (500)</h1>"),
    ],
    ids=["handler500", "debug", "map_errors-off"],
)
def test_the_projects_own_500_takes_precedence(get: Get, settings: dict[str, Any], body: bytes) -> None:
    with override_settings(**settings):
        failed = get("/raises/boom")

    assert failed.status_code == 500
    assert body in failed.content
    assert failed["Content-Type"].partition(";")[0] != "application/problem+json"


def test_an_exception_before_authentication_has_no_client_id() -> None:
    authenticator = BasicAuthMiddleware(lambda _request: None)

    response = authenticator.process_exception(RequestFactory().get("/"), ValueError())

    assert response is not None
    assert response.status_code == 500


# --- configuration


def test_an_invalid_configuration_prevents_startup() -> None:
    with override_settings(BASICAUTH_REALMS="x", BASICAUTH_REALM="a\nb"):
        with pytest.raises(ConfigurationError) as caught:
            WSGIHandler()
        with pytest.raises(ConfigurationError):
            get_asgi_application()

    assert len(caught.value.problems) == 2


def test_a_url(get: Get) -> None:
    with override_settings(BASICAUTH_BACKEND="memory:"):
        assert get("/me").status_code == 401


class Derived(BasicAuthMiddleware):
    """A project's own subclass."""


def found(messages: Any) -> list[str]:
    return [str(message.id).rpartition(".")[2] for message in messages]


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({}, []),
        ({"BASICAUTH_REALMS": "x", "BASICAUTH_THROTTLE": "much"}, ["E001", "E001"]),
        ({"BASICAUTH_BACKEND": "nonsense://x"}, ["E001"]),
        ({"BASICAUTH_BACKEND": "env:"}, ["E001"]),
        ({"BASICAUTH_TIMEOUT_S": 3}, ["W002"]),
        ({"MIDDLEWARE": []}, ["W001"]),
        ({"MIDDLEWARE": [MIDDLEWARE_PATH, MIDDLEWARE_PATH]}, ["E002"]),
        ({"MIDDLEWARE": ["django.middleware.cache.FetchFromCacheMiddleware", MIDDLEWARE_PATH]}, ["E003"]),
        ({"MIDDLEWARE": CACHED}, []),
        ({"MIDDLEWARE": CACHED, "BASICAUTH_STRIP_AUTHORIZATION": True}, ["W004"]),
        ({"MIDDLEWARE": [f"{__name__}.Derived"]}, []),
        ({"MIDDLEWARE": ["not_there.Middleware", "basicauth_mw.wsgi.BasicAuthMiddleware"]}, ["W001"]),
    ],
)
def test_checks(settings: dict[str, Any], ids: list[str]) -> None:
    with override_settings(**settings):
        assert found(check_settings()) == ids


class OwnBasicAuthentication(BasicAuthentication):
    """A subclass of a project."""


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({}, ["W005"]),
        (
            {"REST_FRAMEWORK": {"DEFAULT_AUTHENTICATION_CLASSES": [f"{__name__}.OwnBasicAuthentication"]}},
            ["W005"],
        ),
        ({"BASICAUTH_STRIP_AUTHORIZATION": True}, []),
        ({"INSTALLED_APPS": ["basicauth_mw.integrations.django"]}, []),
    ],
    ids=["default", "derived", "stripped", "not-installed"],
)
def test_rest_frameworks_own_authentication_is_warned_about(settings: dict[str, Any], ids: list[str]) -> None:
    """Its default class looks for a user with the client ID, and so refuses every key."""
    with override_settings(**{"REST_FRAMEWORK": {}, **settings}):
        assert found(check_settings()) == ids


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({}, ["W003"]),
        ({"BASICAUTH_REQUIRE_HTTPS": True}, []),
        ({"SECURE_SSL_REDIRECT": True}, []),
        ({"BASICAUTH_REALM": "a\nb"}, []),
    ],
)
def test_checks_for_deployment(settings: dict[str, Any], ids: list[str]) -> None:
    with override_settings(**settings):
        assert found(check_deployment()) == ids


@pytest.mark.parametrize(("strips", "seen"), [(False, 2), (True, 1)])
def test_a_page_cache_needs_the_header(backend: Backend, strips: bool, seen: int) -> None:
    """To distinguish callers; the check W004 warns about this."""
    callers = [backend.create().authorization for _ in range(2)]
    caches["default"].clear()
    with override_settings(MIDDLEWARE=CACHED, BASICAUTH_STRIP_AUTHORIZATION=strips):
        client = Client()
        responses = {client.get("/me", headers={"authorization": each}).json()["id"] for each in callers}

    assert len(responses) == seen


def test_manage_py_check_runs_the_checks() -> None:
    """With the tag ``security``, and those for deployment only with ``--deploy``."""
    out, err = io.StringIO(), io.StringIO()
    with override_settings(BASICAUTH_REALMS="x"), pytest.raises(SystemCheckError, match="did you mean realm"):
        call_command("check", "--tag", "security", stdout=out, stderr=err)
    call_command("check", stdout=out, stderr=err)
    assert "W003" not in err.getvalue()
    call_command("check", "--deploy", "--tag", "security", stdout=out, stderr=err)
    assert "basicauth_mw.W003" in err.getvalue()


def test_the_authenticator_is_found_in_the_handlers() -> None:
    """They are what ``instrument`` gets."""
    for app in (get_wsgi_application(), get_asgi_application()):
        authenticator = find_authenticator(app)
        assert authenticator is not None
        assert not authenticator.owns_backend


def test_the_app_config() -> None:
    config = apps.get_app_config("basicauth_mw")

    assert config.name == "basicauth_mw.integrations.django"
    assert [model._meta.managed for model in config.get_models()] == [False]  # no table


# --- REST framework


def test_rest_framework_gets_the_caller(get: Get, backend: Backend) -> None:
    """As a user that its throttles accept."""
    named = backend.create(client_id="bare")

    assert get("/api").json() == {"user": "CI", "pk": "ci", "scopes": ["read"]}
    assert get("/api", named.authorization).json()["user"] == "bare"
    assert get("/api", None).status_code == 401


def test_rest_framework_accepts_posts(issued: Issued) -> None:
    """No CSRF token is required, because there is no session."""
    client = Client(enforce_csrf_checks=True)
    response = client.post("/api", {}, headers={"authorization": issued.authorization})

    assert response.status_code == 200


def test_rest_framework_sends_its_own_401_on_an_excluded_path(get: Get) -> None:
    with override_settings(BASICAUTH_EXCLUDE=["/api"], BASICAUTH_REALM="\u3042"):
        refused = get("/api", None)

    assert refused.status_code == 401
    assert refused["Content-Type"] == "application/json"
    assert refused["WWW-Authenticate"].encode("latin-1") == 'Basic realm="\u3042", charset="UTF-8"'.encode()


def test_rest_framework_sends_the_challenge_of_each_scheme(get: Get) -> None:
    with override_settings(BASICAUTH_EXCLUDE=["/api"], BASICAUTH_SCHEMES="bearer,basic"):
        refused = get("/api", None)

    assert refused["WWW-Authenticate"] == 'Bearer realm="api", Basic realm="api", charset="UTF-8"'


def test_rest_framework_and_scopes(get: Get) -> None:
    assert problem(get("/api-scoped"))["code"] == "insufficient_scope"


@pytest.mark.proves("X41")
def test_rest_framework_without_the_middleware() -> None:
    with pytest.raises(RuntimeError, match="BasicAuthMiddleware did not process this request"):
        django_site.api(APIRequestFactory().get("/api"))


def test_an_api_user_has_no_permissions() -> None:
    caller = rest_framework.ApiUser(Principal("ci"))

    assert (caller.pk, caller.id, caller.username, caller.get_username()) == ("ci",) * 4
    assert (caller.is_authenticated, caller.is_active) == (True, True)
    assert (caller.is_anonymous, caller.is_staff, caller.is_superuser) == (False, False, False)
    assert (caller.has_perm("x"), caller.has_perms(["x"]), caller.has_module_perms("x")) == (False,) * 3


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_the_dashboard_beside_django(kind: str, backend: Backend, issued: Issued) -> None:
    """It uses Django's settings: the same keys, and the realm."""
    admin = backend.create(scopes=["basicauth:admin"]).authorization
    requests = [(admin, "/keys/"), (issued.authorization, "/keys/"), (None, "/keys/")]
    requests.append((issued.authorization, "/me"))
    with override_settings(BASICAUTH_REALM="partners"):
        opened, ours = read_configuration()
        if kind == "wsgi":
            app = DispatcherMiddleware(WSGIHandler(), {"/keys": wsgi_dashboard(opened, settings=ours)})
            over_wsgi = [call_wsgi(app, authorization, path=path) for authorization, path in requests]
            found = [(page.status, dict(page.headers), page.body) for page in over_wsgi]
        else:
            asgi = Starlette(
                routes=[
                    Mount("/keys", dashboard(opened, settings=ours)),
                    Mount("/", get_asgi_application()),
                ]
            )
            over_asgi = [call(asgi, http_scope(authorization, path=path)) for authorization, path in requests]
            found = [(page.status, page.headers, page.body) for page in over_asgi]

    assert [status for status, _, _ in found] == [200, 403, 401, 200]
    assert b"ci" in found[0][2]
    challenges = [value for name, value in found[2][1].items() if name.lower() == "www-authenticate"]
    assert challenges == ['Basic realm="partners", charset="UTF-8"']
