"""Endpoints and example bodies from an OpenAPI 3 document. Pure, and wary: the document may be anybody's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final
from urllib.parse import quote, urlencode

MAX_ENDPOINTS: Final = 500
_MAX_DEPTH: Final = 8
_MAX_MEMBERS: Final = 40
_MAX_VALUES: Final = 20_000
_MAX_EXAMPLES: Final = 1_000_000  # characters and values, in all examples that are written down
_MAX_NESTING: Final = 32  # of an example that is written down
_MAX_PATH: Final = 2000
_MAX_BODY: Final = 16_384  # what is longer would not fit into a form, with all its escapes
_LINE: Final = 72

_METHODS: Final = ("get", "post", "put", "patch", "delete", "head", "options")
_PATH: Final = re.compile("/(?!/)")
_PARAMETER: Final = re.compile(r"\{([^{}]*)\}")
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
        method: In capitals.
        path: With examples in place of its parameters, and the query that it needs.
        title: What it is called; may be empty.
        body: An example; empty: none.
        content_type: Of the body.
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


class _TooMuch(ValueError):
    """An example is larger than a body may be, or the examples of a document are too large together."""


class _Document:
    """A document, and what may still be made from it: its schemas and examples may be used many times."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self.members = members
        self.values_left = _MAX_VALUES
        self.examples_left = _MAX_EXAMPLES

    def charge(self, value: object) -> None:
        """Count an example and all that is in it, each time that it is used.

        Raises:
            _TooMuch: It is too large. No more of it was read than is allowed.
            ValueError: It is nested too deep.
        """
        most = min(self.examples_left, _MAX_BODY)
        left = _less(most, value, 0)
        self.examples_left -= most - max(left, 0)
        if left < 0:
            raise _TooMuch


def _less(left: int, value: object, depth: int) -> int:
    """What is left of a budget after a value, in characters and values; negative: it is too large."""
    if depth > _MAX_NESTING:
        raise ValueError("an example is nested too deep")
    left -= 1
    if isinstance(value, str):
        left -= len(value)
    elif isinstance(value, int):
        left -= value.bit_length() // 3
    members: Iterable[object] = ()
    if isinstance(value, Mapping):
        members = chain.from_iterable(value.items())
    elif isinstance(value, list | tuple):
        members = value
    for member in members:
        if left < 0:
            break
        left = _less(left, member, depth + 1)
    return left


def endpoints_of(document: object, base: str = "") -> list[Endpoint]:
    """All endpoints of a document, in its order; whatever cannot be read is left out.

    Args:
        document: As an app gives it.
        base: Where the paths begin, unless the document says so itself.
    """
    if not isinstance(document, Mapping):
        return []
    root = _root(document, base)
    whole = _Document(document)
    found: list[Endpoint] = []
    for path, item in _members(document.get("paths")):
        if not _PATH.match(path) or not isinstance(item, Mapping):
            continue
        for method in _METHODS:
            if isinstance(item.get(method), Mapping):
                # Its examples are anybody's: they may go in circles, be endless, or have no UTF-8.
                with suppress(TypeError, ValueError):
                    found.append(_endpoint(whole, root + path, method, item))
            if len(found) >= MAX_ENDPOINTS:
                return found
    return found


def _endpoint(document: _Document, path: str, method: str, item: Mapping[str, Any]) -> Endpoint:
    if len(path.encode()) > _MAX_PATH:
        raise ValueError("the path is too long")
    operation = item[method]
    parameters = {**_parameters(document, item), **_parameters(document, operation)}
    content_type, body = _body(document, operation.get("requestBody"))
    title = operation.get("summary")
    return Endpoint(
        method.upper(),
        _target(document, path, parameters),
        title if isinstance(title, str) else "",
        body if len(body) <= _MAX_BODY else "",
        content_type,
    )


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


def _parameters(document: _Document, holder: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    listed = holder.get("parameters")
    found = {}
    for each in listed[:_MAX_MEMBERS] if isinstance(listed, list) else []:
        parameter = _resolved(document, each)
        found[str(parameter.get("in")), str(parameter.get("name"))] = parameter
    return found


def _target(document: _Document, path: str, parameters: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    def filled(match: re.Match[str]) -> str:
        example = _parameter_example(document, parameters.get(("path", match[1]), {}))
        if len(example) > _MAX_PATH:
            raise ValueError("the example of a parameter is too long")
        return quote(example, safe="")

    query = [
        (name, _parameter_example(document, parameter))
        for (place, name), parameter in parameters.items()
        if place == "query" and parameter.get("required") is True
    ]
    return _PARAMETER.sub(filled, path) + (f"?{urlencode(query)}" if query else "")


def _parameter_example(document: _Document, parameter: Mapping[str, Any]) -> str:
    value = _given(document, parameter)
    if value is _NONE:
        value = _example(document, parameter.get("schema"), 0)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _body(document: _Document, body: object) -> tuple[str, str]:
    """Content type and example of a request body."""
    content = _resolved(document, body).get("content")
    kinds = dict(_members(content, _MAX_MEMBERS))
    if not kinds:
        return "application/json", ""
    kind = "application/json" if "application/json" in kinds else next(iter(kinds))
    media = kinds[kind] if isinstance(kinds[kind], Mapping) else {}
    try:
        value = _given(document, media)
        if value is _NONE:
            value = _example(document, media.get("schema"), 0)
    except _TooMuch:
        return kind, ""
    if kind == "application/x-www-form-urlencoded" and isinstance(value, Mapping):
        return kind, urlencode(value)
    if isinstance(value, str) and kind != "application/json":
        return kind, value
    text = json.dumps(value, ensure_ascii=False, default=str)
    return kind, text if len(text) <= _LINE else json.dumps(value, ensure_ascii=False, indent=2, default=str)


_NONE: Final = object()


def _given(document: _Document, holder: Mapping[str, Any]) -> object:
    """The example that somebody wrote down."""
    value = _written(holder)
    if value is not _NONE:
        document.charge(value)
    return value


def _written(holder: Mapping[str, Any]) -> object:
    if "example" in holder:
        return holder["example"]
    examples = holder.get("examples")
    if isinstance(examples, list) and examples:
        return examples[0]
    for _, each in _members(examples, _MAX_MEMBERS):
        if isinstance(each, Mapping) and "value" in each:
            return each["value"]
    return _NONE


def _resolved(document: _Document, value: object) -> Mapping[str, Any]:
    """A value, or what it refers to within the document."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(value, Mapping):
            return {}
        reference = value.get("$ref")
        if not isinstance(reference, str):
            return value
        value = _at(document, reference)
    return {}


def _at(document: _Document, reference: str) -> object:
    place: object = document.members
    if not reference.startswith("#/") or len(reference) > _MAX_PATH:
        return None
    for name in reference[2:].split("/"):
        if not isinstance(place, Mapping):
            return None
        place = place.get(name.replace("~1", "/").replace("~0", "~"))
    return place


def _example(document: _Document, schema: object, depth: int) -> object:
    """A value that a schema allows, as far as one can be made without solving puzzles."""
    schema = _resolved(document, schema)
    value = _given(document, schema)
    if value is not _NONE:
        return value
    for name in ("default", "const"):
        if name in schema:
            document.charge(schema[name])
            return schema[name]
    if isinstance(choices := schema.get("enum"), list) and choices:
        document.charge(choices[0])
        return choices[0]
    document.values_left -= 1
    if depth >= _MAX_DEPTH or document.values_left < 0:
        return None
    for name in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(name), list) and options:
            return _example(document, options[0], depth + 1)
    if isinstance(parts := schema.get("allOf"), list):
        merged: dict[str, Any] = {}
        for part in parts[:_MAX_MEMBERS]:
            value = _example(document, part, depth + 1)
            if isinstance(value, Mapping):
                merged.update(value)
        return merged
    return _of_type(document, schema, depth)


def _of_type(document: _Document, schema: Mapping[str, Any], depth: int) -> object:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or "properties" in schema:
        return {
            name: _example(document, member, depth + 1)
            for name, member in _members(schema.get("properties"), _MAX_MEMBERS)
        }
    if kind == "array":
        return [_example(document, schema["items"], depth + 1)] if "items" in schema else []
    if kind == "integer":
        lowest = schema.get("minimum", 1)
        document.charge(lowest)
        return lowest if isinstance(lowest, int) else 1
    if kind == "number":
        return 1.5
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    return _BY_FORMAT.get(str(schema.get("format")), "text")
