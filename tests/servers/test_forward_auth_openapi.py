"""docs/forward_auth.openapi.yaml describes the responses of the real service, and no others."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import yaml

from basicauth_mw import __version__, encode_basic, open_backend
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.servers.conftest import Served

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "docs" / "forward_auth.openapi.yaml").read_text()
)
OF_THE_SERVER = {"date", "server", "content-length", "content-type"}


def resolve(node: dict[str, Any]) -> Any:
    """What a reference refers to."""
    if "$ref" not in node:
        return node
    found: Any = DOCUMENT
    for name in node["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def check(documented: dict[str, Any], response: httpx.Response) -> None:
    """The response has exactly the headers and the body that the document has for its status."""
    described = resolve(documented[str(response.status_code)])
    headers = {name.lower(): resolve(each) for name, each in described.get("headers", {}).items()}
    assert headers.keys() == response.headers.keys() - OF_THE_SERVER
    for name, header in headers.items():
        assert header["required"]
        jsonschema.validate(response.headers[name], header["schema"])
    if "content" not in described:
        assert response.content == b""
        return
    ((media_type, content),) = described["content"].items()
    assert response.headers["content-type"] == media_type
    body = response.json()
    assert body["status"] == response.status_code
    jsonschema.validate(body, resolve(content["schema"]), jsonschema.Draft202012Validator)


def test_the_document_is_openapi() -> None:
    schema = json.loads((files("drf_spectacular") / "validation" / "openapi_3_1_schema.json").read_text())
    jsonschema.validate(DOCUMENT, schema)
    assert DOCUMENT["info"]["version"] == __version__


def test_the_service_responds_as_documented(serve: Callable[..., Served], tmp_path: Path) -> None:
    """Each path gives each of its documented responses, with every scheme."""
    url = f"sqlite:///{tmp_path}/keys.db"
    with open_backend(url, create=True) as backend:
        issued = backend.create(client_id="cí", scopes=["write", "read"])
    schemes = {"BASICAUTH_SCHEMES": "basic,bearer,header:X-API-Key"}
    running = serve("key-service", BASICAUTH_BACKEND=url, BASICAUTH_THROTTLE="1/hour", **schemes)
    https = serve("key-service", BASICAUTH_BACKEND=url, BASICAUTH_REQUIRE_HTTPS="on")
    down = serve("key-service", BASICAUTH_BACKEND=f"redis://127.0.0.1:{free_port()}/0", **schemes)
    valid = {"Authorization": issued.authorization}
    seen: dict[str, set[str]] = {}

    def expect(
        status: int, path: str, served: Served, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        documented = DOCUMENT["paths"][path]["get"]["responses"]
        response = served.request("GET", path.format(path="any/path"), headers=headers)
        assert response.status_code == status
        check(documented, response)
        seen.setdefault(path, set()).add(str(status))
        return response

    for number, path in enumerate(("/", "/check", "/check/{path}")):
        for headers in (valid, {"Authorization": f"Bearer {issued.token}"}, {"X-API-Key": issued.token}):
            allowed = expect(200, path, running, headers)
            assert (allowed.headers["x-auth-client-id"], allowed.headers["x-auth-scopes"]) == (
                "c%C3%AD",
                "read write",
            )
        expect(401, path, running)
        wrong = {"Authorization": encode_basic(f"client-{number}", "wrong")}
        expect(401, path, running, wrong)
        expect(429, path, running, wrong)
        expect(403, path, https, valid)
        expect(503, path, down, valid)
    expect(204, "/health", down)
    expect(204, "/ready", running)
    expect(503, "/ready", down)

    assert seen == {path: set(item["get"]["responses"]) for path, item in DOCUMENT["paths"].items()}
    other = running.request("GET", "/other", headers=valid)
    assert (other.status_code, other.json()["code"]) == (404, "not_found")


def test_every_scheme_is_documented() -> None:
    """Every operation but the probes accepts each of the schemes."""
    assert [name for each in DOCUMENT["security"] for name in each] == [
        *DOCUMENT["components"]["securitySchemes"]
    ]
    public = {path for path, item in DOCUMENT["paths"].items() if item["get"].get("security") == []}
    assert public == {"/health", "/ready"}
