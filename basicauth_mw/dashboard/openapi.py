"""The endpoints of an OpenAPI 3 document, with the examples that it gives.

No values are invented: a path parameter without an example stays ``{name}``, and a body without one is empty.
The document is not trusted: the work and the memory that it may take are bounded.
"""

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
_MAX_REFERENCES: Final = 8  # one after another
_MAX_REFERENCE: Final = 300
_MAX_MEMBERS: Final = 40
_MAX_TEXT: Final = 2_000_000  # characters of all examples together
_MAX_NESTING: Final = 32
_MAX_PATH: Final = 2000
_MAX_BODY: Final = 16_384  # a longer one, escaped, would not fit into a form
_LINE: Final = 72

_METHODS: Final = ("get", "post", "put", "patch", "delete", "head", "options")
_PATH: Final = re.compile("/(?!/)")
_PARAMETER: Final = re.compile(r"\{([^{}]*)\}")
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An operation; ``path`` includes required query parameters, ``body`` is an example or empty."""

    method: str
    path: str
    title: str = ""
    body: str = ""
    content_type: str = _JSON

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"


def endpoints_of(document: object, base: str = "") -> list[Endpoint]:
    """Return the endpoints that can be read; ``base``: root path, unless the document gives one."""
    if not isinstance(document, Mapping):
        return []
    root = _root_path(document, base)
    reader = _Reader(document)
    found: list[Endpoint] = []
    for path, item in _members(document.get("paths")):
        if not _PATH.match(path) or not isinstance(item, Mapping):
            continue
        for method in _METHODS:
            if isinstance(item.get(method), Mapping):
                # An example may refer to itself, have no end, or not be valid UTF-8.
                with suppress(TypeError, ValueError, RecursionError):
                    found.append(reader.endpoint(root + path, method, item))
            if len(found) >= MAX_ENDPOINTS:
                return found
    return found


def _root_path(document: Mapping[str, Any], base: str) -> str:
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url") if isinstance(first, Mapping) else None
    if isinstance(url, str) and url.startswith("/") and not url.startswith("//"):
        return url.rstrip("/")
    return base


def _members(value: object, limit: int | None = None) -> list[tuple[str, Any]]:
    items = islice(value.items(), limit) if isinstance(value, Mapping) else ()
    return [(str(name), member) for name, member in items]


def _first_example(holder: Mapping[str, Any]) -> object:
    """The first example, default or allowed value of a parameter, a media type or a schema; None: none."""
    examples = holder.get("examples")
    if isinstance(examples, Mapping):  # OpenAPI names them, JSON Schema lists them
        members = _members(examples, _MAX_MEMBERS)
        examples = [each["value"] for _, each in members if isinstance(each, Mapping) and "value" in each]
    example, default, const, choices = (holder.get(name) for name in ("example", "default", "const", "enum"))
    for values in ([example], examples, [default], [const], choices):
        if isinstance(values, list) and values and values[0] is not None:
            return values[0]
    return None


class _TooLongError(ValueError):
    """An example is too long, or all examples of the document together are."""


class _Reader:
    """Reads the endpoints of one document, which may refer to the same examples many times."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
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
        parameters = listed[:_MAX_MEMBERS] if isinstance(listed, list) else []
        resolved = [self._resolve(each) for each in parameters]
        return {(str(each.get("in")), str(each.get("name"))): each for each in resolved}

    def _target(self, path: str, parameters: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
        def fill_in(match: re.Match[str]) -> str:
            value = self._example(parameters.get(("path", match[1]), {}))
            text = self._text(value)
            if len(text) > _MAX_PATH:
                raise ValueError("the example of a parameter is too long")
            return match[0] if value is None else quote(text, safe="")

        query = [
            (name, self._text(self._example(parameter)))
            for (place, name), parameter in parameters.items()
            if place == "query" and parameter.get("required") is True
        ]
        return _PARAMETER.sub(fill_in, path) + (f"?{urlencode(query)}" if query else "")

    def _body(self, body: object) -> tuple[str, str]:
        """Content type and example of a request body."""
        types = dict(_members(self._resolve(body).get("content"), _MAX_MEMBERS))
        content_type = _JSON if _JSON in types else next(iter(types), _JSON)
        media_type = types.get(content_type)
        value = self._example(media_type if isinstance(media_type, Mapping) else {})
        try:
            text = self._text(value, is_json=content_type == _JSON)
        except _TooLongError:
            return content_type, ""
        if content_type == "application/x-www-form-urlencoded" and isinstance(value, Mapping):
            return content_type, urlencode(value)
        if value is None or isinstance(value, str) or len(text) <= _LINE:
            return content_type, text
        return content_type, json.dumps(value, ensure_ascii=False, indent=2, default=str)

    def _example(self, holder: Mapping[str, Any]) -> object:
        """The example of a parameter or a media type, or else of its schema; None: none."""
        schema = self._resolve(holder.get("schema"))
        value = _first_example(holder)
        value = _first_example(schema) if value is None else value
        if value is not None:
            return value
        properties = _members(schema.get("properties"), _MAX_MEMBERS)
        examples = {name: _first_example(self._resolve(each)) for name, each in properties}
        return {name: value for name, value in examples.items() if value is not None} or None

    def _text(self, value: object, *, is_json: bool = False) -> str:
        """A value as JSON, reading no more than is allowed; a string as it is, unless ``is_json``."""
        limit = min(self._text_left, _MAX_BODY)
        if value is None:
            return ""
        if isinstance(value, str) and not is_json:
            chunks = iter([value])
        else:
            chunks = json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)
        text = ""
        for chunk in chunks:
            self._text_left -= len(chunk)
            text += chunk
            if len(text) > limit:
                raise _TooLongError
        if not isinstance(value, str):
            check_depth(text, _MAX_NESTING)
        return text

    def _resolve(self, value: object) -> Mapping[str, Any]:
        """A mapping, or the one that it refers to within the document; empty if there is none."""
        for _ in range(_MAX_REFERENCES):
            if not isinstance(value, Mapping):
                return {}
            reference = value.get("$ref")
            if not isinstance(reference, str):
                return value
            if not reference.startswith("#/") or len(reference) > _MAX_REFERENCE:
                return {}
            value = self._document
            for name in reference[2:].split("/"):
                if not isinstance(value, Mapping):
                    return {}
                value = value.get(name.replace("~1", "/").replace("~0", "~"))
        return {}
