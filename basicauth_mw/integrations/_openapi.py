"""Adds authentication to an OpenAPI document. Repeating this does not change the result."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

from ..auth.path_rules import PathRules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..auth.path_rules import Access
    from ..settings import Settings

    JsonObject = dict[str, Any]

BASIC: Final = "HTTPBasic"
DESCRIPTION: Final = "An API key: its client ID as the user name, its secret as the password."
_BASE64_DESCRIPTION: Final = (
    "The token of an API key: the base64 text of its client ID, a colon and its secret."
)

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_PROBLEM: Final = "BasicAuthProblem"
_VALIDATION: Final = "BasicAuthValidationProblem"
_DESCRIPTIONS: Final = {
    401: "No API key, or one that was not accepted.",
    403: "The API key lacks a required scope, or the request was sent over plain HTTP.",
    429: "Too many failed attempts.",
    500: "The server could not handle the request.",
    503: "API keys cannot be verified at the moment.",
    504: "The server did not respond in time.",
}
_EXAMPLE: Final = {
    "type": "about:blank",
    "title": "Unauthorized",
    "status": 401,
    "detail": "The credentials were not accepted.",
    "code": "invalid_credentials",
    "request_id": "5f0c6a1e9b3d7a2400000001",
}
_TYPES: Final = {name: {"type": "integer" if name == "status" else "string"} for name in _EXAMPLE}
_LOCATION: Final = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}
_FIELD_ERROR: Final = {
    "type": "object",
    "required": ["loc", "msg", "type"],
    "properties": {"loc": _LOCATION, "msg": {"type": "string"}, "type": {"type": "string"}},
}


def add_security(document: JsonObject, settings: Settings, *, validation_status: int | None) -> None:
    """Add the security schemes, and to each operation its requirements and the middleware's responses.

    Responses that an operation declares itself are unchanged. An operation on an open path needs no key, and
    only gets the responses to exceptions of the app. On an optional path, it also accepts requests without a
    key, unless it requires scopes.

    Args:
        document: Changed in place.
        settings: Those of the middleware.
        validation_status: Status of responses to validation errors; None: they are the framework's own.
    """
    components: JsonObject = document.setdefault("components", {})
    schemes = security_schemes(settings.schemes)
    documented: JsonObject = components.setdefault("securitySchemes", {})
    ours = set(schemes)
    if documented.get(BASIC, {}).get("description") == DESCRIPTION:  # FastAPI adds it for CurrentPrincipal
        ours.add(BASIC)
        del documented[BASIC]
    documented.update(schemes)
    schemas: JsonObject = components.setdefault("schemas", {})
    responses: JsonObject = components.setdefault("responses", {})
    examples = {name: {**kind, "example": _EXAMPLE[name]} for name, kind in _TYPES.items()}
    schemas[_PROBLEM] = _schema("Problem", examples)
    statuses = _statuses(settings)
    responses.update(
        {f"BasicAuth{status}": _response(_DESCRIPTIONS[status], _PROBLEM) for status in statuses}
    )
    if validation_status is not None:
        errors = {"errors": {"type": "array", "items": _FIELD_ERROR}}
        schemas[_VALIDATION] = _schema("Validation problem", _TYPES | errors)
        responses[_VALIDATION] = _response("The request is not valid.", _VALIDATION)
    rules = PathRules.from_settings(settings)
    has_scopes = not str(document.get("openapi", "")).startswith("3.0")  # 3.0 allows them for OAuth only
    for path, item in document.get("paths", {}).items():
        access = rules.access(path)
        for operation in (item[method] for method in _METHODS if method in item):
            _require_key(operation, list(schemes), ours, access, has_scopes=has_scopes)
            if validation_status is not None:
                _replace_422(operation, validation_status)
            declared: JsonObject = operation.setdefault("responses", {})
            for status in statuses:
                if access != "open" or status in (500, 504):
                    declared.setdefault(str(status), {"$ref": f"#/components/responses/BasicAuth{status}"})
    if validation_status is not None:
        for name in ("HTTPValidationError", "ValidationError"):
            if f'"#/components/schemas/{name}"' not in json.dumps(document):
                schemas.pop(name, None)


def _statuses(settings: Settings) -> list[int]:
    return [
        401,
        403,
        *([429] if settings.throttle or settings.throttle_address else []),
        *([500] if settings.map_errors else []),
        503,
        *([504] if settings.map_errors or settings.timeout_s is not None else []),
    ]


def security_schemes(schemes: Iterable[str]) -> dict[str, JsonObject]:
    """The Security Scheme Object of each entry of the ``schemes`` setting, by its name."""
    found: dict[str, JsonObject] = {}
    for scheme in schemes:
        if scheme == "basic":
            found[BASIC] = {"type": "http", "scheme": "basic", "description": DESCRIPTION}
        elif scheme == "bearer":
            found["HTTPBearer"] = {"type": "http", "scheme": "bearer", "description": _BASE64_DESCRIPTION}
        else:
            name = scheme.partition(":")[2]
            found[name] = {"type": "apiKey", "in": "header", "name": name, "description": _BASE64_DESCRIPTION}
    return found


def _require_key(
    operation: JsonObject, schemes: list[str], ours: set[str], access: Access, *, has_scopes: bool
) -> None:
    """Add our schemes to every alternative of an operation's security; remove them on an open path."""
    declared: list[JsonObject] = operation.get("security", [])
    others: list[JsonObject] = []
    for each in declared:
        rest = {name: scopes for name, scopes in each.items() if name not in ours}
        if rest and rest not in others:
            others.append(rest)
    if access == "open":
        if others or "security" in operation:
            operation["security"] = others
        return
    scopes = sorted({scope for each in declared for name in ours for scope in each.get(name, ())})
    shown = scopes if has_scopes else []
    with_key = [{**rest, name: shown} for rest in others or [{}] for name in schemes]
    without_key = (others or [{}]) if access == "optional" and not scopes else []
    operation["security"] = [*with_key, *without_key]


def _replace_422(operation: JsonObject, status: int) -> None:
    """Replace FastAPI's own response to a validation error with ours."""
    responses: JsonObject = operation.get("responses", {})
    content = responses.get("422", {}).get("content", {})
    ref = content.get("application/json", {}).get("schema", {}).get("$ref")
    if ref == "#/components/schemas/HTTPValidationError":
        del responses["422"]
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{_VALIDATION}"})


def _response(description: str, schema: str) -> JsonObject:
    content = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _schema(title: str, properties: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "title": title,
        "description": "Problem details, RFC 9457.",
        "required": list(properties),
        "properties": deepcopy(properties),
    }
