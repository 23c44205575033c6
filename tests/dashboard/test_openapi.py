"""Endpoints and examples from OpenAPI documents."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from basicauth_mw.dashboard.openapi import MAX_ENDPOINTS, Endpoint, endpoints_of


def document(**operation: Any) -> dict[str, Any]:
    return {"paths": {"/x": {"post": operation}}}


def example_of(schema: Any, **components: Any) -> str:
    body = {"content": {"application/json": {"schema": schema}}}
    (endpoint,) = endpoints_of({**document(requestBody=body), "components": {"schemas": components}})
    return endpoint.body


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, ""),
        ({"type": "integer", "minimum": 5}, ""),
        ({"type": "object"}, ""),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, ""),
        ({"properties": {"a": {"default": 3}, "b": {"const": 4}, "c": {}, "d": 7}}, '{"a": 3, "b": 4}'),
        ({"properties": {"a": {"$ref": "#/components/schemas/A"}}}, '{"a": {"text": "it"}}'),
        ({"enum": ["red", "blue"]}, '"red"'),
        ({"enum": []}, ""),
        ({"example": {"a": 1}, "properties": {"b": {"default": 3}}}, '{"a": 1}'),
        ({"example": False}, "false"),
        ({"examples": ["one", "two"]}, '"one"'),
        ({"examples": {"no value": {}}, "default": 2}, "2"),
        ({"default": None}, ""),
        ({"$ref": "#/components/schemas/A"}, '{"text": "it"}'),
        ({"$ref": "#/components/schemas/a~1b"}, "1"),
        ({"$ref": "#/nowhere"}, ""),
        ({"$ref": "#/components/schemas/A/example/text/x"}, ""),
        ({"$ref": "https://elsewhere.example/"}, ""),
        ({"$ref": "#/components/schemas/Self"}, ""),
        (7, ""),
    ],
    ids=str,
)
def test_examples_of_schemas(schema: Any, expected: str) -> None:
    """Only values from the document are used."""
    components = {
        "A": {"type": "object", "example": {"text": "it"}},
        "a/b": {"default": 1},
        "Self": {"$ref": "#/components/schemas/Self"},
    }
    assert example_of(schema, **components) == expected


def test_parameters_titles_content_types_and_servers() -> None:
    given = {
        "servers": [{"url": "/api/"}],
        "paths": {
            "/items/{number}/{name}/{other}": {
                "parameters": [
                    {"in": "path", "name": "number", "schema": {"type": "integer", "examples": [1]}},
                    {"$ref": "#/components/parameters/Name"},
                ],
                "get": {
                    "summary": "Look",
                    "parameters": [
                        {"in": "query", "name": "q", "required": True, "example": "a b"},
                        {"in": "query", "name": "left out"},
                        {"in": "query", "name": "n", "required": True, "schema": {"type": "boolean"}},
                    ],
                },
                "put": {"requestBody": {"content": {"text/plain": {"example": "words"}}}},
                "patch": {
                    "requestBody": {
                        "content": {
                            "application/x-www-form-urlencoded": {"examples": {"x": {"value": {"a": "b c"}}}}
                        }
                    }
                },
                "delete": {"summary": 7, "requestBody": {"content": {"text/csv": 7}}},
                "trace": {},
            },
            "no-slash": {"get": {}},
            "/nothing": 7,
        },
        "components": {"parameters": {"Name": {"in": "path", "name": "name", "example": "a/b"}}},
    }
    path = "/api/items/1/a%2Fb/{other}"
    assert endpoints_of(given) == [
        Endpoint("GET", f"{path}?q=a+b&n=", "Look"),
        Endpoint("PUT", path, "", "words", "text/plain"),
        Endpoint("PATCH", path, "", "a=b+c", "application/x-www-form-urlencoded"),
        Endpoint("DELETE", path, "", "", "text/csv"),
    ]


@pytest.mark.parametrize(
    "given", [None, 7, [], {}, {"paths": 7}, {"paths": []}, {"paths": {"/": {"get": 7}}}, {"paths": {7: {}}}]
)
def test_invalid_documents_have_no_endpoints(given: Any) -> None:
    assert endpoints_of(given) == []


@pytest.mark.parametrize(
    "servers", [7, [], [7], [{}], [{"url": "https://elsewhere"}], [{"url": "//elsewhere"}]]
)
def test_servers_on_other_hosts_are_ignored(servers: Any) -> None:
    assert endpoints_of({"paths": {"/x": {"get": {}}}, "servers": servers})[0].path == "/x"


def test_paths_start_with_the_root_path_or_the_server() -> None:
    """Unless the document says otherwise."""
    paths = {"paths": {"/x": {"get": {}}}}

    assert endpoints_of(paths, "/api")[0].path == "/api/x"
    assert endpoints_of({**paths, "servers": [{"url": "/other"}]}, "/api")[0].path == "/other/x"


CIRCULAR: dict[str, Any] = {}
CIRCULAR["self"] = CIRCULAR


DEEP: dict[str, Any] = {}
for _ in range(3000):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "given",
    [
        {"example": CIRCULAR},
        {"example": DEEP},
        {"example": {("a", 1): 2}},
        {"example": 10**5000},
        {"schema": {"type": "integer", "default": 10**5000}},
    ],
    ids=["circular", "deep", "not-json", "huge", "huge-default"],
)
def test_an_endpoint_with_a_broken_example_is_skipped(given: dict[str, Any]) -> None:
    """Other endpoints are kept."""
    body = {"content": {"application/json": given}}

    found = endpoints_of({"paths": {"/a": {"post": {"requestBody": body}}, "/b": {"get": {}}}})
    assert [endpoint.label for endpoint in found] == ["GET /b"]


@pytest.mark.parametrize(
    "path",
    [
        {"/\ud800": {"get": {}}},
        {"//elsewhere": {"get": {}}},
        {"/{a}": {"get": {"parameters": [{"in": "path", "name": "a", "example": "\ud800"}]}}},
        {"/": {"get": {"parameters": [{"in": "query", "name": "a", "required": True, "example": "\ud800"}]}}},
    ],
    ids=["surrogate", "host", "parameter", "query"],
)
def test_invalid_paths_are_skipped(path: dict[str, Any]) -> None:
    assert endpoints_of({"paths": {**path, "/b": {"get": {}}}}) == [Endpoint("GET", "/b")]


def test_an_example_that_is_too_long_for_a_form_is_skipped() -> None:
    body = {"content": {"application/json": {"example": "x" * 70_000}}}

    assert endpoints_of({"paths": {"/a": {"post": {"requestBody": body}}}})[0].body == ""


MANY = {f"name-{number}": {"type": "string"} for number in range(20_000)}


LARGE = {
    "example": {"content": {"application/json": {"example": ["x" * 20] * 30_000}}},
    "many-examples": {"content": {"application/json": {"examples": MANY}}},
    "schema-example": {"content": {"application/json": {"schema": {"example": [[1]] * 50_000}}}},
    "default": {"content": {"application/json": {"schema": {"default": ["x" * 800_000]}}}},
    "names": {"content": {"application/json": {"schema": {"enum": [dict.fromkeys(MANY, 1)]}}}},
    "properties": {
        "content": {
            "application/json": {"schema": {"properties": {name: {"example": "x" * 800} for name in MANY}}}
        }
    },
    "kinds": {"content": MANY},
}


def count_calls(paths: dict[str, Any], components: dict[str, Any]) -> tuple[list[Endpoint], int]:
    """The endpoints of a document, and the number of calls, of builtins too, to read them."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = endpoints_of({"paths": paths, "components": components})
    finally:
        sys.setprofile(None)
    return found, calls


@pytest.mark.parametrize("name", LARGE)
def test_large_documents_take_bounded_time(name: str) -> None:
    """A large example that 500 endpoints refer to is not read 500 times."""
    body = {"$ref": "#/components/requestBodies/Large"}
    paths = {f"/{number}": {"post": {"requestBody": body}} for number in range(MAX_ENDPOINTS)}

    found, calls = count_calls(paths, {"requestBodies": {"Large": LARGE[name]}})
    assert calls < 10_000_000
    assert len(found) == MAX_ENDPOINTS
    assert sum(len(endpoint.body) for endpoint in found) < 5_000_000


def test_long_paths_and_references_take_bounded_time() -> None:
    """Long paths with many parameters and long references are skipped."""
    dangling = [{"$ref": "#/" + "a/" * length} for length in (100, 900, 2000)]
    long = {"in": "path", "name": "a", "example": "x" * 100_000}
    paths = {
        "/" + "{a}" * 100_000: {"parameters": [long], "get": {}},
        "/{a}": {"parameters": [long], "get": {}},
        **{f"/{number}": {"get": {"parameters": dangling * 1000}} for number in range(500)},
    }

    found, calls = count_calls(paths, {})
    assert calls < 10_000_000
    assert [endpoint.path for endpoint in found[:2]] == ["/0", "/1"]


def test_the_number_of_endpoints_is_limited() -> None:
    found = endpoints_of({"paths": {f"/{number}": {"get": {}} for number in range(2000)}})

    assert len(found) == MAX_ENDPOINTS
