"""Settings: one frozen value, and the table of its fields that everything else is made from.

The environment reader, the command line's help and the table in the README all read ``FIELDS``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypedDict

from .errors import ConfigurationError
from .exclude import problem_with_entry, problem_with_root_path
from .minting import ID_PREFIX, is_prefix
from .throttle import parse_rate

if TYPE_CHECKING:
    from typing import Unpack

ENV_PREFIX: Final = "BASICAUTH_"
MAX_SECONDS: Final = 366 * 86400  # what every clock and timer here can take

# A BOM and whitespace around a value are never intended: editors, echo, YAML and Windows add them.
_EDGES: Final = re.compile(r"\A[\s\ufeff]+|[\s\ufeff]+\Z")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EMPTY_MEANS_OFF: Final = frozenset({"throttle", "throttle_address"})  # whatever the default is

# Names with the prefix that are read elsewhere, and so are no misspelt fields.
_NOT_FIELDS = frozenset({"KEYS", "KEYS_FILE", "APP"})


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table of settings.

    Attributes:
        name: The field of ``Settings``.
        kind: ``text``, ``url``, ``switch``, ``seconds`` (``seconds0``: or zero, ``seconds?``: or none),
            ``path?`` (or none), ``count``, ``list`` or ``secrets``.
        default: What it is when nothing is said.
        help: One line.
    """

    name: str
    kind: str
    default: Any
    help: str

    @property
    def env(self) -> str:
        """The environment variable it is read from; with ``_FILE`` behind it, one that names a file."""
        return ENV_PREFIX + self.name.upper()


class Overrides(TypedDict, total=False):
    """The keyword arguments of a middleware, for type checkers: every field of ``Settings`` but ``backend``.

    Each takes the field's own type, or the text that the environment would hold.
    """

    realm: str
    exclude: Iterable[str]
    root_path: str | None
    allow_preflight: bool | str
    require_https: bool | str
    strip_authorization: bool | str
    set_user: bool | str
    challenge: str
    map_errors: bool | str
    timeout_s: float | str | None
    start_hold_s: float | str
    backend_deadline_s: float | str
    cache_ttl_s: float | str
    cache_size: int | str
    throttle: str
    throttle_address: str
    slow_hash_workers: int | str
    pepper: Sequence[str]
    secret_prefix: str


class SettingsOverrides(Overrides, total=False):
    """Every field of ``Settings``, for type checkers."""

    backend: str


def _option(kind: str, default: Any, help: str) -> Any:  # noqa: A002 - the table's word for it
    hidden = kind in ("secrets", "url")  # a URL may hold a password
    return field(default=default, repr=not hidden, metadata={"kind": kind, "help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a gate behaves. Durations are seconds and say so in their names.

    Every field takes its native type or the text that the environment would hold.

    Raises:
        ConfigurationError: Names every problem at once, and no value that may be a secret.
    """

    backend: str = _option("url", "env:", "Where the keys are: the URL of a key backend.")
    realm: str = _option("text", "api", "Shown to the client in the challenge.")
    exclude: tuple[str, ...] = _option(
        "list", (), "Paths that are open: exact, or everything under an entry that ends in /*."
    )
    root_path: str | None = _option(
        "path?", None, "What an ASGI app is mounted under, as in uvicorn --root-path; for exclude."
    )
    allow_preflight: bool = _option(
        "switch",
        False,
        "Let CORS preflight requests reach the app without a key; its OPTIONS handlers run for anyone.",
    )
    require_https: bool = _option("switch", False, "Refuse requests that came by plain http.")
    strip_authorization: bool = _option("switch", False, "Hide the Authorization field from the app.")
    set_user: bool = _option(
        "switch", True, 'Set `scope["user"]` and `scope["auth"]`, or `REMOTE_USER` and `AUTH_TYPE`.'
    )
    challenge: str = _option(
        "text", "always", "always, or navigations: no password dialog for a browser's fetch and XHR."
    )
    map_errors: bool = _option("switch", True, "Turn uncaught exceptions of the app into JSON answers.")
    timeout_s: float | None = _option(
        "seconds?", None, "Longest wait for the start of the app's response (ASGI); empty: for ever."
    )
    start_hold_s: float = _option(
        "seconds0",
        0.05,
        "How long a response start is held back, to be replaced if the app raises (ASGI); 0: not at all.",
    )
    backend_deadline_s: float = _option("seconds", 1.0, "Longest wait for the key backend, all in all.")
    cache_ttl_s: float = _option(
        "seconds0", 30.0, "Longest that a good answer is reused; 0: the backend is asked every time."
    )
    cache_size: int = _option("count", 10_000, "Most good answers kept.")
    throttle: str = _option(
        "text", "20/minute", "Failures allowed per address and client id before 429; empty: no limit."
    )
    throttle_address: str = _option("text", "", "Failures allowed per address alone; empty: no limit.")
    slow_hash_workers: int = _option(
        "count", min(4, os.cpu_count() or 1), "Slow password hashes checked at a time."
    )
    pepper: tuple[str, ...] = _option(
        "secrets", (), "Key for the hashes of minted secrets; several to change it, newest first."
    )
    secret_prefix: str = _option("text", "sk", "What minted secrets start with.")

    def __post_init__(self) -> None:
        problems = []
        for option in FIELDS:
            try:
                value = _PARSERS[option.kind](getattr(self, option.name))
                _CHECKS.get(option.name, _anything)(value)
                object.__setattr__(self, option.name, value)
            except ValueError as exc:
                problems.append(f"{option.name}: {exc}")
        if problems:
            raise ConfigurationError(problems)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, **overrides: Unpack[SettingsOverrides]
    ) -> Settings:
        """Read ``BASICAUTH_<NAME>``, or the file that ``BASICAUTH_<NAME>_FILE`` names.

        Args:
            environ: Read this instead of ``os.environ``.
            **overrides: Fields that go before the environment.

        Raises:
            ConfigurationError: Names every problem; an unknown entry that is nearly a field is one.
        """
        return cls._read(os.environ if environ is None else environ, overrides)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], **overrides: Unpack[SettingsOverrides]) -> Settings:
        """Read the ``BASICAUTH_<NAME>`` entries of a Flask config, Django settings or the like.

        Args:
            mapping: Values may be text or native types; None counts as not given.
            **overrides: Fields that go before the mapping.

        Raises:
            ConfigurationError: As ``from_env``.
        """
        return cls._read({name: value for name, value in mapping.items() if value is not None}, overrides)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> dict[str, Any]:
        """How pydantic takes a value for a field of this type: an instance, or a mapping of its fields.

        A plain description, so that nothing of pydantic has to be imported; it makes lists and switches mean
        in somebody's settings class what they mean here.
        """

        def validate(value: object) -> Settings:
            if isinstance(value, cls):
                return value
            if not isinstance(value, Mapping):
                raise ConfigurationError("must be Settings, or a mapping of its fields")
            texts, problems = {}, []
            for name, text in value.items():  # from the environment, as a rule
                try:
                    texts[name] = _checked_text(_without_edges(text), name, has_lines=False)
                except ValueError as exc:
                    problems.append(str(exc))
            return cls._build({}, texts, problems)

        return {"type": "function-plain", "function": {"type": "no-info", "function": validate}}

    def replace(self, **overrides: Unpack[SettingsOverrides]) -> Settings:
        """A copy with some fields changed.

        Raises:
            ConfigurationError: An unknown field, with the near misses, or a bad value.
        """
        return self._build({option.name: getattr(self, option.name) for option in FIELDS}, overrides, [])

    @classmethod
    def _read(cls, source: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
        values: dict[str, Any] = {}
        problems: list[str] = []
        origins: dict[str, str] = {}
        for option in FIELDS:
            try:
                found = read_entry(source, option.env)
                if found is None or (found[0] == "" and option.name not in _EMPTY_MEANS_OFF):
                    continue
                values[option.name], origins[option.name] = found
            except ValueError as exc:
                problems.append(str(exc))
        problems += _misspelt(source)
        return cls._build(values, overrides, problems, origins)

    @classmethod
    def _build(
        cls,
        values: dict[str, Any],
        overrides: Mapping[str, Any],
        problems: list[str],
        origins: Mapping[str, str] = MappingProxyType({}),
    ) -> Settings:
        names = [option.name for option in FIELDS]
        problems += [
            f"unknown setting {name!r}{_did_you_mean(name, names)}" for name in overrides if name not in names
        ]
        known = {name: value for name, value in overrides.items() if name in names}
        try:
            settings = cls(**{**values, **known})
        except ConfigurationError as exc:
            for problem in exc.problems:  # each begins with the name of its field
                name, colon, text = problem.partition(":")
                problems.append((name if name in known else origins.get(name, name)) + colon + text)
        if problems:
            raise ConfigurationError(problems)
        return settings


def read_entry(source: Mapping[str, Any], name: str, *, has_lines: bool = False) -> tuple[Any, str] | None:
    """Find a value in the environment or a mapping, under its name or in the file that ``<name>_FILE`` names.

    A byte order mark, whitespace and line breaks are stripped from both ends of text. An empty entry counts
    as unset if the other one is set.

    Args:
        source: The environment, or a mapping like it. A value that is no text is taken as it is.
        name: Such as ``BASICAUTH_BACKEND``.
        has_lines: Whether line breaks inside the value are allowed.

    Returns:
        The value, and the entry that it is from; None: there is none.

    Raises:
        ValueError: Both are set, the file cannot be read, or the text is in quotes or holds a control
            character. It names the entry and shows nothing of the value.
    """
    file_name = f"{name}_FILE"
    value, file = (_without_edges(source.get(each)) for each in (name, file_name))
    if file is None or file == "":
        return None if value is None else (_checked_text(value, name, has_lines=has_lines), name)
    if value is not None and value != "":
        raise ValueError(f"{name} and {file_name} are both set: drop one")
    try:
        return _checked_text(read_secret_file(file), file_name, has_lines=has_lines), file_name
    except _FileError as exc:
        raise ValueError(f"{file_name}: {exc}") from None


def _without_edges(value: Any) -> Any:
    return _EDGES.sub("", value) if isinstance(value, str) else value


def _checked_text(value: Any, entry: str, *, has_lines: bool) -> Any:
    if not isinstance(value, str):
        return value
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        raise ValueError(
            f"{entry} is wrapped in quotes, which a shell removes and docker --env-file keeps: drop them"
        )
    if not has_lines and _CONTROLS.search(value):
        raise ValueError(f"{entry} holds a line break or another control character: remove it")
    return value


class _FileError(ValueError):
    """A file cannot be read."""


def read_secret_file(path: object) -> str:
    """Read a value that a file holds, without a byte order mark and white space at its ends.

    Raises:
        ValueError: It cannot be read, or is not UTF-8. Says why without the content.
    """
    from pathlib import Path  # most processes read no file, and it takes a tenth of the import

    try:
        text = Path(str(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise _FileError(
            f"the file it names cannot be read ({reason}): check the path and its mode"
        ) from None
    return _EDGES.sub("", text)


def _misspelt(source: Mapping[str, Any]) -> Iterator[str]:
    names = [option.name for option in FIELDS]
    known = {*(name.upper() for name in names), *(f"{name.upper()}_FILE" for name in names), *_NOT_FIELDS}
    for entry in source:
        if not isinstance(entry, str) or not entry.startswith(ENV_PREFIX):
            continue
        name = entry.removeprefix(ENV_PREFIX)
        if name not in known and (hint := _did_you_mean(name.lower().removesuffix("_file"), names)):
            yield f"unknown setting {entry}{hint}"


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches  # only ever needed to phrase an error

    near = get_close_matches(name, names, cutoff=0.75)
    hints = " or ".join(f"{each} ({ENV_PREFIX}{each.upper()})" for each in near)
    return f": did you mean {hints}?" if near else ""


# --- one parser a kind: native type or text in, native type out, ValueError without the value

_SWITCHES = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    switch = _SWITCHES.get(str(value).strip().lower())
    if switch is None:
        raise ValueError("must be one of 1/0, true/false, yes/no, on/off")
    return switch


def _number(value: object) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _seconds(value: object) -> float:
    seconds = _number(value)
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"must be a number of seconds, more than 0 and at most {MAX_SECONDS}")
    return seconds


def _seconds_or_zero(value: object) -> float:
    seconds = _number(value)
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"must be a number of seconds from 0 to {MAX_SECONDS}")
    return seconds


def _seconds_or_none(value: object) -> float | None:
    return None if value is None or value == "" else _seconds(value)


def _path_or_none(value: object) -> str | None:
    if value is None or value == "":
        return None
    path = _text(value)
    if problem := problem_with_root_path(path):
        raise ValueError(problem)
    return path


def _count(value: object) -> int:
    try:
        count = 0 if isinstance(value, bool | float) else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(count)


def _list(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        if (listed := _json_list(value)) is not None:
            return listed
        return tuple(entry for part in value.split(",") if (entry := part.strip()))
    if not isinstance(value, Iterable):
        raise ValueError("must be a list of texts, or one text with commas")
    entries = tuple(value)
    if not all(isinstance(entry, str) for entry in entries):
        raise ValueError("must be a list of texts, or one text with commas")
    return entries


def _json_list(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON list, as pydantic-settings writes one; None: it is not a list."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    from json import loads  # few are written like that

    try:
        listed = loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(listed) if all(isinstance(each, str) for each in listed) else None


def _secrets(value: object) -> tuple[str, ...]:
    if isinstance(value, frozenset | set):
        raise ValueError("must be a list: its order matters")
    entries = _list(value)
    if not all(entries):
        raise ValueError("must not hold an empty secret")
    if not all(_is_utf8(entry) for entry in entries):
        raise ValueError("must be encodable as UTF-8")
    return entries


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "url": _text,
    "switch": _switch,
    "seconds": _seconds,
    "seconds0": _seconds_or_zero,
    "seconds?": _seconds_or_none,
    "path?": _path_or_none,
    "count": _count,
    "list": _list,
    "secrets": _secrets,
}


# --- what one field allows beyond its kind


def _anything(_value: object) -> None:
    pass


def _check_realm(realm: str) -> None:
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in realm):
        raise ValueError("must not hold control characters, line breaks included")
    if not _is_utf8(realm):
        raise ValueError("must be encodable as UTF-8")


def _check_exclude(entries: tuple[str, ...]) -> None:
    problems = [f"{entry!r} {problem}" for entry in entries if (problem := problem_with_entry(entry))]
    if problems:
        raise ValueError("; ".join(problems))


def _check_challenge(challenge: str) -> None:
    if challenge not in ("always", "navigations"):
        raise ValueError("must be always or navigations")


def _check_backend(url: str) -> None:
    if not url.strip():
        raise ValueError("is empty: name a key backend, such as env: or sqlite:///keys.db")


def _check_prefix(prefix: str) -> None:
    if not is_prefix(prefix):
        raise ValueError("must be 1 to 32 of A-Z a-z 0-9, words joined by _")
    if prefix == ID_PREFIX:  # such a secret looks like a client id, which is shown and logged
        raise ValueError("must not be 'id', the prefix of client ids")


def _check_rate(rate: str) -> None:
    parse_rate(rate)


_CHECKS: dict[str, Callable[[Any], None]] = {
    "realm": _check_realm,
    "exclude": _check_exclude,
    "challenge": _check_challenge,
    "backend": _check_backend,
    "secret_prefix": _check_prefix,
    "throttle": _check_rate,
    "throttle_address": _check_rate,
}

FIELDS: tuple[Option, ...] = tuple(
    Option(each.name, each.metadata["kind"], each.default, each.metadata["help"]) for each in fields(Settings)
)
