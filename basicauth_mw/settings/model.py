"""``Settings`` and the table of its fields, ``FIELDS``.

To add a setting, add a field to ``Settings`` and its type to ``Overrides``. The environment reader, the
command line's help and the table in the documentation read ``FIELDS``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypedDict

from ..errors import ConfigurationError
from ..runtime.tracebacks import without_frames
from .parsers import (
    PARSERS,
    check_backend,
    check_challenge,
    check_paths,
    check_realm,
    check_secret_prefix,
    parse_rate,
)
from .sources import ENV_PREFIX, check_value, did_you_mean, misspelled, read_entry, strip_edges

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack


@dataclass(frozen=True, slots=True)
class SettingField:
    """One row of the table of settings.

    Attributes:
        name: The field of ``Settings``.
        kind: The name of its parser in ``PARSERS``.
        default: The default value.
        help: One line.
        check: Raises ``ValueError`` for a parsed value that is not valid; None accepts all.
    """

    name: str
    kind: str
    default: Any
    help: str
    check: Callable[[Any], object] | None

    @property
    def env(self) -> str:
        """The environment variable; with ``_FILE`` appended, the one that names a file."""
        return ENV_PREFIX + self.name.upper()


class Overrides(TypedDict, total=False):
    """The keyword arguments of a middleware, for type checkers: every field of ``Settings`` but ``backend``.

    Each takes the field's own type, or the text that the environment would hold.
    """

    realm: str
    schemes: Iterable[str]
    include: Iterable[str]
    exclude: Iterable[str]
    optional: Iterable[str]
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


def _setting(
    kind: str,
    default: Any,
    help: str,  # noqa: A002 - the table's word for it
    check: Callable[[Any], object] | None = None,
) -> Any:
    hidden = kind in ("secrets", "url")  # a URL may hold a password
    return field(default=default, repr=not hidden, metadata={"kind": kind, "help": help, "check": check})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration of a middleware. Durations are in seconds and have names that end in ``_s``.

    Every field takes its native type, or the text that the environment would hold.

    Raises:
        ConfigurationError: Lists every problem, without any value that may be a secret.
    """

    backend: str = _setting("url", "env:", "URL of the key backend.", check_backend)
    realm: str = _setting("text", "api", "Realm in the challenge of a 401 response.", check_realm)
    schemes: tuple[str, ...] = _setting(
        "schemes", ("basic",), "How clients may send a key: basic, bearer, header:<name>, or several."
    )
    include: tuple[str, ...] = _setting(
        "list",
        (),
        "Paths that need credentials: /path, or /folder/* for everything below; empty protects every path.",
        partial(check_paths, opens=False),
    )
    exclude: tuple[str, ...] = _setting(
        "list",
        (),
        "Paths that need no credentials: exact, or everything below an entry that ends in /*.",
        partial(check_paths, opens=True),
    )
    optional: tuple[str, ...] = _setting(
        "list",
        (),
        "Paths that also work without credentials, which are verified if sent; entries as for exclude.",
        partial(check_paths, opens=True),
    )
    root_path: str | None = _setting(
        "optional_path",
        None,
        "Path that an ASGI app is mounted under, as in uvicorn --root-path; entries of path lists omit it.",
    )
    allow_preflight: bool = _setting(
        "switch",
        False,
        "Let CORS preflight requests reach the app without credentials; its OPTIONS handlers run for anyone.",
    )
    require_https: bool = _setting("switch", False, "Refuse requests over plain HTTP.")
    strip_authorization: bool = _setting(
        "switch", False, "Remove the Authorization header before the app is called."
    )
    set_user: bool = _setting(
        "switch", True, 'Set `scope["user"]` and `scope["auth"]`, or `REMOTE_USER` and `AUTH_TYPE`.'
    )
    challenge: str = _setting(
        "text",
        "always",
        "always, or navigations: no password dialog for a browser's fetch and XHR.",
        check_challenge,
    )
    map_errors: bool = _setting(
        "switch", True, "Turn uncaught exceptions of the app into JSON error responses."
    )
    timeout_s: float | None = _setting(
        "optional_seconds",
        None,
        "Seconds until the app must start its response (ASGI); empty disables the timeout.",
    )
    start_hold_s: float = _setting(
        "seconds_or_zero",
        0.05,
        "Seconds that a response start is held, so that an error can replace it (ASGI); 0 disables this.",
    )
    backend_deadline_s: float = _setting(
        "seconds", 1.0, "Seconds that all backend calls of one request may take."
    )
    cache_ttl_s: float = _setting(
        "seconds_or_zero", 30.0, "Seconds that a successful verification is cached; 0 disables the cache."
    )
    cache_size: int = _setting("count", 10_000, "Maximum number of cached verifications.")
    throttle: str = _setting(
        "rate",
        "20/minute",
        "Failures per address and client ID before a 429; empty disables the limit.",
        parse_rate,
    )
    throttle_address: str = _setting(
        "rate", "", "Failures per address, whatever the client ID; empty disables the limit.", parse_rate
    )
    slow_hash_workers: int = _setting(
        "count", min(4, os.cpu_count() or 1), "Maximum number of passwords verified at the same time."
    )
    pepper: tuple[str, ...] = _setting(
        "secrets",
        (),
        "Secret key for digests of generated secrets; list several to rotate it, newest first.",
    )
    secret_prefix: str = _setting("text", "sk", "Prefix of generated secrets.", check_secret_prefix)

    def __post_init__(self) -> None:
        problems = []
        for setting in FIELDS:
            try:
                value = PARSERS[setting.kind](getattr(self, setting.name))
                if setting.check:
                    setting.check(value)
                object.__setattr__(self, setting.name, value)
            except ValueError as exc:
                problems.append(f"{setting.name}: {exc}")
        if problems:
            raise ConfigurationError(problems)

    @classmethod
    @without_frames
    def from_env(
        cls, environ: Mapping[str, str] | None = None, **overrides: Unpack[SettingsOverrides]
    ) -> Settings:
        """Read ``BASICAUTH_<NAME>``, or the file that ``BASICAUTH_<NAME>_FILE`` names.

        Args:
            environ: Read this instead of ``os.environ``.
            **overrides: Fields that take precedence over the environment.

        Raises:
            ConfigurationError: Lists every problem. An unknown entry that resembles a setting is one.
        """
        return cls.from_mapping(os.environ if environ is None else environ, **overrides)

    @classmethod
    @without_frames
    def from_mapping(cls, mapping: Mapping[str, Any], **overrides: Unpack[SettingsOverrides]) -> Settings:
        """Read the ``BASICAUTH_<NAME>`` entries of a Flask config, Django settings or the like.

        Args:
            mapping: Values are text or native types; None counts as unset.
            **overrides: Fields that take precedence over the mapping.

        Raises:
            ConfigurationError: As ``from_env``.
        """
        source = {name: value for name, value in mapping.items() if value is not None}
        values: dict[str, Any] = {}
        problems: list[str] = []
        origins: dict[str, str] = {}
        for setting in FIELDS:
            try:
                found = read_entry(source, setting.env)
                # An empty text means unset, but an empty rate means no limit.
                if found is None or (found[0] == "" and setting.kind != "rate"):
                    continue
                values[setting.name], origins[setting.name] = found
            except ValueError as exc:
                problems.append(str(exc))
        problems += misspelled(source, [setting.name for setting in FIELDS])
        return cls._build(values, overrides, problems, origins)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> dict[str, Any]:
        """Let pydantic accept an instance, or a mapping of fields, for a field of this type.

        The schema is a plain dict, so that pydantic is not imported. Lists and switches are parsed here, so
        they mean the same in a pydantic-settings class.
        """

        def validate(value: object) -> Settings:
            if isinstance(value, cls):
                return value
            if not isinstance(value, Mapping):
                raise ConfigurationError("must be Settings, or a mapping of its fields")
            texts, problems = {}, []
            for name, text in value.items():  # usually read from the environment
                try:
                    texts[name] = check_value(strip_edges(text), name, multiline=False)
                except ValueError as exc:
                    problems.append(str(exc))
            return cls._build({}, texts, problems)

        return {"type": "function-plain", "function": {"type": "no-info", "function": validate}}

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: object, _handler: object) -> dict[str, Any]:
        """For a JSON schema of the class that Settings nest in."""
        return {"type": "object"}

    @without_frames
    def replace(self, **overrides: Unpack[SettingsOverrides]) -> Settings:
        """A copy with some fields changed.

        Raises:
            ConfigurationError: An unknown field, with similar names, or a bad value.
        """
        return self._build({setting.name: getattr(self, setting.name) for setting in FIELDS}, overrides, [])

    @classmethod
    def _build(
        cls,
        values: dict[str, Any],
        overrides: Mapping[str, Any],
        problems: list[str],
        origins: Mapping[str, str] = MappingProxyType({}),
    ) -> Settings:
        names = [setting.name for setting in FIELDS]
        problems += [
            f"unknown setting {name!r}{did_you_mean(name, names)}" for name in overrides if name not in names
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


FIELDS: Final[tuple[SettingField, ...]] = tuple(
    SettingField(each.name, default=each.default, **each.metadata) for each in fields(Settings)
)
