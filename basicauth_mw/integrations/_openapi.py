"""What a gate adds to an OpenAPI document. Pure, and may be done to the same document again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ..auth.excluded_paths import ExcludedPaths
from ..auth.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..settings import Settings

    Members = dict[str, Any]

SCHEME: Final = "HTTPBasic"
DESCRIPTION: Final = "An API key: its client id as the user name, its secret as the password."

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_PROBLEM: Final = "BasicAuthProblem"
_VALIDATION: Final = "BasicAuthValidationProblem"
_WHEN: Final = {
    401: "No API key, or one that was not accepted.",
    403: "The API key lacks a required scope, or the request came by plain http.",
    429: "Too many failed attempts.",
    500: "The server could not handle the request.",
    503: "API keys cannot be checked at the moment.",
    504: "The server did not answer in time.",
}
_EXAMPLES: Final = {
    "type": "about:blank",
    "title": "Unauthorized",
    "status": 401,
    "detail": "The credentials were not accepted.",
    "code": "invalid_credentials",
    "request_id": "5f0c6a1e9b3d7a2400000001",
}
_FIELD_ERROR: Final = {
    "type": "object",
    "required": ["loc", "msg", "type"],
    "properties": {
        "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        "msg": {"type": "string"},
        "type": {"type": "string"},
    },
}


def document(schema: Members, settings: Settings, *, validation_status: int | None) -> None:
    """Add the security scheme, and to each operation what it needs and what the gate may answer.

    An operation's own responses are left as they are. One that is open needs no key, and gets only the
    answers that come from the app's exceptions.

    Args:
        schema: Changed in place.
        settings: Those of the gate.
        validation_status: What a validation error is answered with; None: it is left to the framework.
    """
    components: Members = schema.setdefault("components", {})
    schemes: Members = components.setdefault("securitySchemes", {})
    schemes[SCHEME] = {"type": "http", "scheme": "basic", "description": DESCRIPTION}
    schemas: Members = components.setdefault("schemas", {})
    schemas[_PROBLEM] = _problem_schema()
    responses: Members = components.setdefault("responses", {})
    answers = _answers(settings)
    responses.update({_response_name(status): _response(_WHEN[status], _PROBLEM) for status in answers})
    if validation_status is not None:
        schemas[_VALIDATION] = _validation_schema()
        responses[_VALIDATION] = _response("The request does not fit.", _VALIDATION)
    exclude = ExcludedPaths(settings.exclude)
    takes_scopes = not str(schema.get("openapi", "")).startswith("3.0")  # there they are for OAuth only
    for path, operation in _operations(schema):
        is_open = exclude.is_open(path)
        _require(operation, is_open=is_open, takes_scopes=takes_scopes)
        if validation_status is not None:
            _replace_422(operation, validation_status)
        given: Members = operation.setdefault("responses", {})
        for status in answers:
            if not (is_open and status < 500) and not (is_open and status == 503):
                given.setdefault(str(status), {"$ref": f"#/components/responses/{_response_name(status)}"})
    for name in ("HTTPValidationError", "ValidationError") if validation_status is not None else ():
        if f'"#/components/schemas/{name}"' not in json.dumps(schema):
            schemas.pop(name, None)


def _answers(settings: Settings) -> list[int]:
    """The statuses that a gate may answer with."""
    return [
        401,
        403,
        *([429] if settings.throttle or settings.throttle_address else []),
        *([500] if settings.map_errors else []),
        503,
        *([504] if settings.map_errors or settings.timeout_s is not None else []),
    ]


def _operations(schema: Members) -> Iterator[tuple[str, Members]]:
    for path, item in schema.get("paths", {}).items():
        for method in _METHODS:
            if method in item:
                yield path, item[method]


def _require(operation: Members, *, is_open: bool, takes_scopes: bool) -> None:
    """Make every alternative of an operation's security ask for a key as well; or none of an open one's."""
    given: list[Members] = operation.get("security", [])
    others = [rest for each in given if (rest := {k: v for k, v in each.items() if k != SCHEME})]
    if is_open:
        if others or "security" in operation:
            operation["security"] = others
        return
    scopes = sorted({scope for each in given for scope in each.get(SCHEME, ())}) if takes_scopes else []
    operation["security"] = [{**rest, SCHEME: scopes} for rest in others or [{}]]


def _replace_422(operation: Members, status: int) -> None:
    """Put our answer to a validation error in the place of FastAPI's own."""
    responses: Members = operation.get("responses", {})
    content = responses.get("422", {}).get("content", {})
    ref = content.get("application/json", {}).get("schema", {}).get("$ref")
    if ref == "#/components/schemas/HTTPValidationError":
        del responses["422"]
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{_VALIDATION}"})


def _response_name(status: int) -> str:
    return f"BasicAuth{status}"


def _response(description: str, schema: str) -> Members:
    content = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _problem_schema() -> Members:
    properties: Members = {
        name: {"type": "integer" if name == "status" else "string", "example": example}
        for name, example in _EXAMPLES.items()
    }
    return {
        "type": "object",
        "title": "Problem",
        "description": "Problem details, RFC 9457.",
        "required": list(properties),
        "properties": properties,
    }


def _validation_schema() -> Members:
    schema = _problem_schema()
    schema["title"] = "Validation problem"
    schema["properties"] = {
        **{name: {"type": each["type"]} for name, each in schema["properties"].items()},
        "errors": {"type": "array", "items": _FIELD_ERROR},
    }
    schema["required"] = list(schema["properties"])
    return schema


def validation_problem(status: int) -> Problem:
    """What a validation error is to the client, but for the errors themselves."""
    return Problem(status, "validation_error", "The request does not fit what this resource takes.")
