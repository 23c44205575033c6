"""Endpoints and example bodies from an OpenAPI 3 document. The document may be anybody's: all is bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from urllib.parse import quote, urlencode

from ..keys.validation import check_depth

MAX_ENDPOINTS: Final = 500
_MAX_DEPTH: Final = 8  # of schemas in one another, and of references to references
_MAX_MEMBERS: Final = 40
_MAX_VALUES: Final = 20_000  # made from schemas, in all endpoints
_MAX_TEXT: Final = 2_000_000  # characters of examples, in all endpoints
_MAX_NESTING: Final = 32
_MAX_PATH: Final = 2000
_MAX_BODY: Final = 16_384  # what is longer would not fit into a form, with all its escapes
_LINE: Final = 72

_METHODS: Final = ("get", "post", "put", "patch", "delete", "head", "options")
_PATH: Final = re.compile("/(?!/)")
_PARAMETER: Final = re.compile(r"\{([^{}]*)\}")
_NONE: Final = object()
_BY_TYPE: Final = {"number": 1.5, "boolean": True, "null": None}
_BY_FORMAT: Final = {
    "date-time": "2030-01-31T12:00:00Z",
    "date": "2030-01-31",
    "time": "12:00:00Z",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "user@example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A request that an app takes.

    Attributes:
        path: With examples in place of its parameters, and the query that it needs.
        body: An example; empty: none.
    """

    method: str
    path: str
    title: str = ""
    body: str = ""
    content_type: str = "application/json"

    @property
    def label(self) -> str:
        """What tells it from others."""
        return f"{self.method} {self.path}"


def endpoints_of(document: object, base: str = "") -> list[Endpoint]:
    """All endpoints of a document, in its order; whatever cannot be read is left out.

    Args:
        document: As an app gives it.
        base: Where the paths begin, unless the document says so itself.
    """
    if not isinstance(document, Mapping):
        return []
    root = _root(document, base)
    reader = _Reader(document)
    found: list[Endpoint] = []
    for path, item in _members(document.get("paths")):
        if not _PATH.match(path) or not isinstance(item, Mapping):
            continue
        for method in _METHODS:
            if isinstance(item.get(method), Mapping):
                # Its examples may go in circles, be endless, or have no UTF-8.
                with suppress(TypeError, ValueError, RecursionError):
                    found.append(reader.endpoint(root + path, method, item))
            if len(found) >= MAX_ENDPOINTS:
                return found
    return found


def _root(document: Mapping[str, Any], base: str) -> str:
    """Where the paths begin: the first server, if it is a place on this host; else ``base``."""
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url") if isinstance(first, Mapping) else None
    if isinstance(url, str) and url.startswith("/") and not url.startswith("//"):
        return url.rstrip("/")
    return base


def _members(value: object, most: int | None = None) -> list[tuple[str, Any]]:
    items = islice(value.items(), most) if isinstance(value, Mapping) else ()
    return [(str(name), member) for name, member in items]


def _given(holder: Mapping[str, Any]) -> object:
    """The example, default or choice that somebody wrote down."""
    if "example" in holder:
        return holder["example"]
    examples = holder.get("examples")
    if isinstance(examples, list) and examples:
        return examples[0]
    for _, each in _members(examples, _MAX_MEMBERS):
        if isinstance(each, Mapping) and "value" in each:
            return each["value"]
    for name in ("default", "const"):
        if name in holder:
            return holder[name]
    choices = holder.get("enum")
    return choices[0] if isinstance(choices, list) and choices else _NONE


class _TooLong(ValueError):
    """An example is longer than a body may be, or those of the document are too long together."""


class _Reader:
    """Reads the endpoints of one document, whose schemas and examples may be used many times."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._values_left = _MAX_VALUES
        self._text_left = _MAX_TEXT

    def endpoint(self, path: str, method: str, item: Mapping[str, Any]) -> Endpoint:
        if len(path.encode()) > _MAX_PATH:
            raise ValueError("the path is too long")
        operation = item[method]
        parameters = {**self._parameters(item), **self._parameters(operation)}
        content_type, body = self._body(operation.get("requestBody"))
        title = operation.get("summary")
        return Endpoint(
            method.upper(),
            self._target(path, parameters),
            title if isinstance(title, str) else "",
            body if len(body) <= _MAX_BODY else "",
            content_type,
        )

    def _parameters(self, holder: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
        listed = holder.get("parameters")
        resolved = [
            self._resolve(each) for each in (listed if isinstance(listed, list) else [])[:_MAX_MEMBERS]
        ]
        return {(str(each.get("in")), str(each.get("name"))): each for each in resolved}

    def _target(self, path: str, parameters: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
        def filled(match: re.Match[str]) -> str:
            example = self._text(self._value(parameters.get(("path", match[1]), {})))
            if len(example) > _MAX_PATH:
                raise ValueError("the example of a parameter is too long")
            return quote(example, safe="")

        query = [
            (name, self._text(self._value(parameter)))
            for (place, name), parameter in parameters.items()
            if place == "query" and parameter.get("required") is True
        ]
        return _PARAMETER.sub(filled, path) + (f"?{urlencode(query)}" if query else "")

    def _body(self, body: object) -> tuple[str, str]:
        """Content type and example of a request body."""
        kinds = dict(_members(self._resolve(body).get("content"), _MAX_MEMBERS))
        if not kinds:
            return "application/json", ""
        kind = "application/json" if "application/json" in kinds else next(iter(kinds))
        value = self._value(kinds[kind] if isinstance(kinds[kind], Mapping) else {})
        try:
            text = self._text(value, is_json=kind == "application/json")
        except _TooLong:
            return kind, ""
        if kind == "application/x-www-form-urlencoded" and isinstance(value, Mapping):
            return kind, urlencode(value)
        if isinstance(value, str) or len(text) <= _LINE:
            return kind, text
        return kind, json.dumps(value, ensure_ascii=False, indent=2, default=str)

    def _text(self, value: object, *, is_json: bool = False) -> str:
        """A value as text: a string as it is, unless ``is_json``, and all else as JSON.

        Raises:
            _TooLong: No more of it was read than is allowed.
            ValueError: It cannot be written as JSON.
            RecursionError: It is nested too deep.
        """
        most = min(self._text_left, _MAX_BODY)
        if isinstance(value, str) and not is_json:
            chunks = iter([value])
        else:
            chunks = json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)
        text = ""
        for chunk in chunks:
            self._text_left -= len(chunk)
            text += chunk
            if len(text) > most:
                raise _TooLong
        if not isinstance(value, str):
            check_depth(text, _MAX_NESTING)
        return text

    def _value(self, holder: Mapping[str, Any]) -> object:
        """The example of a parameter or of a body."""
        value = _given(holder)
        return self._example(holder.get("schema"), 0) if value is _NONE else value

    def _resolve(self, value: object) -> Mapping[str, Any]:
        """A value, or what it refers to within the document."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(value, Mapping):
                return {}
            reference = value.get("$ref")
            if not isinstance(reference, str):
                return value
            if not reference.startswith("#/") or len(reference) > _MAX_PATH:
                return {}
            value = self._document
            for name in reference[2:].split("/"):
                value = (
                    value.get(name.replace("~1", "/").replace("~0", "~"))
                    if isinstance(value, Mapping)
                    else None
                )
        return {}

    def _example(self, schema: object, depth: int) -> object:
        """A value that a schema allows, as far as one can be made without solving puzzles."""
        schema = self._resolve(schema)
        value = _given(schema)
        if value is not _NONE:
            return value
        self._values_left -= 1
        if depth >= _MAX_DEPTH or self._values_left < 0:
            return None
        for name in ("anyOf", "oneOf"):
            if isinstance(options := schema.get(name), list) and options:
                return self._example(options[0], depth + 1)
        if isinstance(parts := schema.get("allOf"), list):
            made = [self._example(part, depth + 1) for part in parts[:_MAX_MEMBERS]]
            return {
                name: member for each in made if isinstance(each, Mapping) for name, member in each.items()
            }
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        if kind == "object" or "properties" in schema:
            members = _members(schema.get("properties"), _MAX_MEMBERS)
            return {name: self._example(member, depth + 1) for name, member in members}
        if kind == "array":
            return [self._example(schema["items"], depth + 1)] if "items" in schema else []
        if kind == "integer":
            lowest = schema.get("minimum")
            return lowest if isinstance(lowest, int) else 1
        if isinstance(kind, str) and kind in _BY_TYPE:
            return _BY_TYPE[kind]
        return _BY_FORMAT.get(str(schema.get("format")), "text")
