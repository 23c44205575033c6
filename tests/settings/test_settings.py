"""Settings: every field from every source, every problem at once, and no secret anywhere."""

from __future__ import annotations

import dataclasses
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from basicauth_mw.errors import ConfigurationError
from basicauth_mw.settings import FIELDS, Overrides, Settings, SettingsOverrides
from basicauth_mw.settings.sources import read_entry

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [option.name for option in FIELDS]


def row(name: str, *values: object) -> Any:
    return pytest.param(*values, id=name)


# name, default; a text of the environment, and the native value that it means
TABLE: list[tuple[str, Any, str, Any]] = [
    ("backend", "env:", "sqlite:///keys.db", "sqlite:///keys.db"),
    ("realm", "api", "Der Schlüssel", "Der Schlüssel"),
    ("schemes", ("basic",), "bearer,Header:X-API-Key", ("bearer", "header:x-api-key")),
    ("include", (), "/api, /v1/*", ("/api", "/v1/*")),
    ("exclude", (), "/health, /docs/* ,", ("/health", "/docs/*")),
    ("optional", (), "/feed", ("/feed",)),
    ("root_path", None, "/api", "/api"),
    ("allow_preflight", False, "on", True),
    ("require_https", False, "TRUE", True),
    ("strip_authorization", False, "Yes", True),
    ("set_user", True, "off", False),
    ("challenge", "always", "navigations", "navigations"),
    ("map_errors", True, "off", False),
    ("timeout_s", None, "2.5", 2.5),
    ("start_hold_s", 0.05, "0", 0.0),
    ("backend_deadline_s", 1.0, "0.25", 0.25),
    ("cache_ttl_s", 30.0, "0", 0.0),
    ("cache_size", 10_000, "7", 7),
    ("throttle", "20/minute", "5/hour", "5/hour"),
    ("throttle_address", "", "100/minute", "100/minute"),
    ("slow_hash_workers", None, "3", 3),
    ("pepper", (), "new,old", ("new", "old")),
    ("secret_prefix", "sk", "my_app", "my_app"),
]
EVERY_FIELD = pytest.mark.parametrize(
    ("name", "default", "text", "native"), TABLE, ids=[each[0] for each in TABLE]
)


# --- the table


def test_the_fields_are_the_documented_ones() -> None:
    """The table holds every field, with a one-line help and the name of its variable."""
    assert NAMES == [name for name, *_ in TABLE] == [each.name for each in dataclasses.fields(Settings)]
    for option in FIELDS:
        assert option.help
        assert "\n" not in option.help
        assert option.env == f"BASICAUTH_{option.name.upper()}"
        assert option.default == getattr(Settings(), option.name)


@EVERY_FIELD
def test_defaults(name: str, default: Any, text: str, native: Any) -> None:
    """The documented defaults; the number of workers follows the machine."""
    value = getattr(Settings(), name)

    if name == "slow_hash_workers":
        assert 1 <= value <= 4
    else:
        assert value == default
        assert type(value) is type(default)


# --- sources


@EVERY_FIELD
def test_from_the_environment(
    name: str, default: Any, text: str, native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field is read from its variable, in os.environ or in a mapping that is passed."""
    monkeypatch.setenv(f"BASICAUTH_{name.upper()}", text)

    for settings in (Settings.from_env(), Settings.from_env({f"BASICAUTH_{name.upper()}": text})):
        assert settings == Settings(**{name: native})
        assert getattr(settings, name) == native
        assert type(getattr(settings, name)) is type(native)


@EVERY_FIELD
def test_from_a_mapping(name: str, default: Any, text: str, native: Any) -> None:
    """A framework's configuration may contain text or native values."""
    entry = f"BASICAUTH_{name.upper()}"

    assert getattr(Settings.from_mapping({entry: text, "DEBUG": True}), name) == native
    assert getattr(Settings.from_mapping({entry: native, "SECRET_KEY": "x"}), name) == native
    assert Settings.from_mapping({entry: None}) == Settings()


@EVERY_FIELD
def test_from_a_file(name: str, default: Any, text: str, native: Any, tmp_path: Path) -> None:
    """``_FILE`` names a file that contains the text; one final newline is removed."""
    path = tmp_path / "value"
    path.write_text(text + "\n", encoding="utf-8")

    assert getattr(Settings.from_env({f"BASICAUTH_{name.upper()}_FILE": str(path)}), name) == native
    assert getattr(Settings.from_mapping({f"BASICAUTH_{name.upper()}_FILE": path}), name) == native


@EVERY_FIELD
def test_a_variable_and_its_file_are_an_error(
    name: str, default: Any, text: str, native: Any, tmp_path: Path
) -> None:
    """Both set the same field: neither wins, and the message names both."""
    path = tmp_path / "value"
    path.write_text(text, encoding="utf-8")
    entry = f"BASICAUTH_{name.upper()}"

    with pytest.raises(ConfigurationError, match=f"{entry} and {entry}_FILE"):
        Settings.from_env({entry: text, f"{entry}_FILE": str(path)})


@EVERY_FIELD
def test_overrides_take_precedence(name: str, default: Any, text: str, native: Any) -> None:
    """Over the environment and over a mapping, as text or native values."""
    entry = f"BASICAUTH_{name.upper()}"
    other = getattr(Settings(), name)

    assert getattr(Settings.from_env({entry: text}, **{name: other}), name) == other
    assert getattr(Settings.from_mapping({entry: text}, **{name: other}), name) == other
    assert getattr(Settings().replace(**{name: text}), name) == native


def test_an_overridden_variable_is_not_validated() -> None:
    """An unused value is not validated."""
    assert Settings.from_env({"BASICAUTH_CACHE_SIZE": "many"}, cache_size=5).cache_size == 5


def test_empty_environment_is_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable at all gives the defaults."""
    for name in NAMES:
        monkeypatch.delenv(f"BASICAUTH_{name.upper()}", raising=False)

    assert Settings.from_env() == Settings.from_env({}) == Settings.from_mapping({}) == Settings()


def test_the_typed_keyword_arguments_are_the_fields() -> None:
    assert set(SettingsOverrides.__annotations__) == set(NAMES)
    assert set(Overrides.__annotations__) == set(NAMES) - {"backend"}  # a separate parameter


@pytest.mark.parametrize(
    ("name", "native"),
    [("exclude", ()), ("timeout_s", None), ("throttle", ""), ("throttle_address", ""), ("pepper", ())],
)
def test_an_empty_variable_disables(name: str, native: Any) -> None:
    """For fields that can be off or None."""
    assert getattr(Settings.from_env({f"BASICAUTH_{name.upper()}": ""}), name) == native


def test_a_mapping_may_have_keys_that_are_not_text() -> None:
    """A third party's mapping may have any keys."""
    assert Settings.from_mapping({1: "x", ("BASICAUTH_REALM",): "y"}) == Settings()  # type: ignore[dict-item]


# --- files


@pytest.mark.parametrize(
    ("data", "text"),
    [
        row("no-newline", b"value", "value"),
        row("newline", b"value\n", "value"),
        row("crlf", b"value\r\n", "value"),
        row("two-newlines", b"value\n\n", "value"),
        row("blanks", b" value \n", "value"),
        row("inner-blank", b"a b", "a b"),
        row("bom", b"\xef\xbb\xbfvalue\r\n", "value"),
        row("bom-and-blanks", b" \xef\xbb\xbf value\t", "value"),
        row("inner-newline", b"a\nb\n", "a\nb"),
        row("empty", b"", ""),
        row("only-newline", b"\n", ""),
        row("utf-8", "ключ\n".encode(), "ключ"),
    ],
)
def test_the_edges_of_a_file_are_stripped(data: bytes, text: str, tmp_path: Path) -> None:
    """Editors, ``echo``, YAML and Windows leave line breaks, spaces and byte order marks there."""
    path = tmp_path / "value"
    path.write_bytes(data)

    for named in (path, str(path)):
        assert read_entry({"X_FILE": named}, "X", multiline=True) == (text, "X_FILE")


def test_unreadable_files_are_problems(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are not UTF-8 are named by their variable, without content."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"canary\xff")

    with pytest.raises(ConfigurationError) as refusal:
        Settings.from_env(
            {
                "BASICAUTH_PEPPER_FILE": str(binary),
                "BASICAUTH_REALM_FILE": str(tmp_path / "missing"),
                "BASICAUTH_BACKEND_FILE": str(tmp_path),
                "BASICAUTH_SECRET_PREFIX_FILE": "missing too",
                "BASICAUTH_INCLUDE_FILE": "a\0b",
                "BASICAUTH_EXCLUDE_FILE": "a\ud800b",
            }
        )

    problems = refusal.value.problems
    assert [problem.partition(":")[0] for problem in problems] == [
        "BASICAUTH_BACKEND_FILE",
        "BASICAUTH_REALM_FILE",
        "BASICAUTH_INCLUDE_FILE",
        "BASICAUTH_EXCLUDE_FILE",
        "BASICAUTH_PEPPER_FILE",
        "BASICAUTH_SECRET_PREFIX_FILE",
    ]
    assert "canary" not in "".join(traceback.format_exception(refusal.value))


# --- misspelled names


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ("BASICAUTH_RELM", "realm"),
        ("BASICAUTH_REALMS", "realm"),
        ("BASICAUTH_CACHE_TTL", "cache_ttl_s"),
        ("BASICAUTH_TIMEOUT", "timeout_s"),
        ("BASICAUTH_BACKEND_URL", "backend"),
        ("BASICAUTH_BACKEND_DEADLINE", "backend_deadline_s"),
        ("BASICAUTH_EXCLUDES", "exclude"),
        ("BASICAUTH_INCLUDED", "include"),
        ("BASICAUTH_OPTIONALS", "optional"),
        ("BASICAUTH_REQUIRE_HTTP", "require_https"),
        ("BASICAUTH_PEPPERS", "pepper"),
        ("BASICAUTH_PEPER_FILE", "pepper"),
        ("BASICAUTH_THROTTLE_ADDRES", "throttle_address"),
        ("BASICAUTH_MAP_ERROR", "map_errors"),
        ("BASICAUTH_Realm", "realm"),
        ("BASICAUTH_require_https", "require_https"),
    ],
)
def test_misspelled_variables_are_errors(entry: str, meant: str) -> None:
    """A misspelled variable would do nothing, so the error names the setting that was meant, and no value."""
    for read in (Settings.from_env, Settings.from_mapping):
        with pytest.raises(ConfigurationError) as refusal:
            read({entry: "canary"})
        assert entry in str(refusal.value)
        assert meant in str(refusal.value)
        assert "canary" not in str(refusal.value)


@pytest.mark.parametrize(
    "entry",
    [
        "BASICAUTH_KEYS",
        "BASICAUTH_KEYS_FILE",
        "BASICAUTH_APP",
        "BASICAUTH_SERVICE_HOST",  # Kubernetes sets these for a service called basicauth
        "BASICAUTH_PORT_8000_TCP_ADDR",
        "BASICAUTH_PORT",
        "BASICAUTH_",
        "BASICAUTH_COLOUR",
        "BASICAUTHREALM",
        "basicauth_relm",
        "MY_BASICAUTH_RELM",
    ],
)
def test_other_variables_are_ignored(entry: str) -> None:
    """A name that resembles no setting belongs to another program."""
    assert Settings.from_env({entry: "x"}) == Settings()


@pytest.mark.parametrize(
    ("name", "meant"), [("relm", "realm"), ("cache_ttl", "cache_ttl_s"), ("Realm", "realm")]
)
def test_an_unknown_override_lists_similar_names(name: str, meant: str) -> None:
    """The error names similar settings, and no value."""
    for call in (Settings().replace, lambda **given: Settings.from_env({}, **given)):
        with pytest.raises(ConfigurationError, match=f"{name}.*did you mean {meant}") as refusal:
            call(**{name: "canary"})
        assert "canary" not in str(refusal.value)
    with pytest.raises(ConfigurationError, match=r"unknown setting 'colour'$"):
        Settings.from_env({}, colour="red")


# --- kinds


@pytest.mark.parametrize(
    ("value", "switch"),
    [
        *((text, True) for text in ("1", "true", "yes", "on", "TRUE", "True", "yEs", "ON", " on ", True, 1)),
        *((text, False) for text in ("0", "false", "no", "off", "FALSE", "No", "oFF", "off\n", False, 0)),
    ],
    ids=repr,
)
def test_switches(value: Any, switch: bool) -> None:
    """Four words for each state, in any case."""
    assert Settings(require_https=value).require_https is switch


BAD_VALUES = [
    *(row(f"switch-{value!r}", "require_https", value) for value in ("", "2", "y", "enable", None, 2, [])),
    *(row(f"{name}-huge", name, 10**400) for name in ("timeout_s", "backend_deadline_s", "cache_ttl_s")),
    *(
        row(f"{name}-{value!r}", name, value)
        for name in ("timeout_s", "backend_deadline_s")
        for value in (
            "0",
            "-1",
            "nan",
            "inf",
            "1e400",
            "soon",
            "1 s",
            0,
            -0.0,
            -1,
            True,
            [],
            {},
            float("nan"),
        )
    ),
    *(row(f"backend_deadline_s-{value!r}", "backend_deadline_s", value) for value in ("", None)),
    *(row(f"cache_ttl_s-{value!r}", "cache_ttl_s", value) for value in ("", "-1", "nan", None, False)),
    *(
        row(f"{name}-{value!r}"[:30], name, value)
        for name in ("cache_size", "slow_hash_workers")
        for value in ("", "0", "-1", "1.5", "many", 0, -1, 1.0, True, None, [], "9" * 5000, float("inf"))
    ),
    *(row(f"list-{value!r}", "exclude", value) for value in (1, None, [1], ["/a", None], b"/a")),
    *(
        row(f"{name}-{value}", name, value)
        for name in ("include", "exclude", "optional")
        for value in ("health", "*", "/a/../b", "/a*", "/a//b", "/a?b")
    ),
    row("exclude-all", "exclude", "/*"),
    row("optional-all", "optional", "/*"),
    *(
        row(f"realm-{value!r}", "realm", value)
        for value in ("a\r\nb", "a\0", "\x1f", "\x7f", "\x85", "\ud800", None)
    ),
    *(row(f"challenge-{value!r}", "challenge", value) for value in ("", "never", "Always", None)),
    *(row(f"backend-{value!r}", "backend", value) for value in ("", " ", None, 1)),
    *(
        row(f"prefix-{value!r}"[:30], "secret_prefix", value)
        for value in ("", "a-b", "a__b", "_", "é", "x" * 33, "id")
    ),
    *(
        row(f"{name}-{value!r}", name, value)
        for name in ("throttle", "throttle_address")
        for value in (
            "20",
            "0/minute",
            "-1/minute",
            "20/week",
            "20 per minute",
            "1.5/minute",
            "/minute",
            "20/m\u0131nute",
            None,
        )
    ),
    *(
        row(f"pepper-{value!r}", "pepper", value)
        for value in (1, None, [""], ["a", ""], [b"a"], b"a", "a\udcff")
    ),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_is_reported_by_the_name_of_its_field(name: str, value: Any) -> None:
    """From every source."""
    for make in (
        lambda: Settings(**{name: value}),
        lambda: Settings().replace(**{name: value}),
        lambda: Settings.from_env({}, **{name: value}),
    ):
        with pytest.raises(ConfigurationError) as refusal:
            make()
        assert [problem.partition(":")[0] for problem in refusal.value.problems] == [name]


def test_lists_become_tuples() -> None:
    """Any list of texts is accepted; one text is split at commas, and spaces and empty parts are removed."""
    for given_ in (["/a", "/b"], ("/a", "/b"), iter(["/a", "/b"]), "/a,/b", " /a , ,/b,"):
        assert Settings(exclude=given_).exclude == ("/a", "/b")  # type: ignore[arg-type]


def test_peppers_keep_their_order() -> None:
    """The newest is first."""
    assert (
        Settings(pepper=["b", "a"]).pepper
        == Settings.from_env({"BASICAUTH_PEPPER": "b,a"}).pepper
        == ("b", "a")
    )  # type: ignore[arg-type]


_NATIVE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3),
    st.sampled_from(["on", "5", "20/minute", "/a/*", "navigations"]),
)


@given(st.dictionaries(st.sampled_from(NAMES), _NATIVE, max_size=5))
@example({"cache_ttl_s": 10**400})
def test_any_values_give_settings_or_configuration_error(values: dict[str, Any]) -> None:
    """Whatever the values are, the result is equal settings or a ConfigurationError."""
    try:
        settings = Settings(**values)
    except ConfigurationError:
        return
    assert Settings(**{name: getattr(settings, name) for name in NAMES}) == settings
    assert settings.replace() == settings


# --- problems


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    """Five problems give five messages, each with a remedy."""
    with pytest.raises(ConfigurationError) as refusal:
        Settings.from_env(
            {
                "BASICAUTH_CACHE_SIZE": "many",
                "BASICAUTH_EXCLUDE": "/*,health",
                "BASICAUTH_REALM_FILE": str(tmp_path / "missing"),
                "BASICAUTH_RELM": "x",
                "BASICAUTH_THROTTLE": "5",
                "BASICAUTH_THROTTLE_FILE": "x",
            },
            chalenge="always",
            timeout_s="soon",
        )

    text = str(refusal.value)
    assert len(refusal.value.problems) == 7
    for name in (
        "BASICAUTH_CACHE_SIZE: ",
        "BASICAUTH_EXCLUDE: ",
        "REALM_FILE",
        "RELM",
        "THROTTLE_FILE",
        "chalenge",
        "timeout_s",
    ):
        assert name in text
    assert isinstance(refusal.value, ValueError)


EDGES = ["\n", "\r\n", "\r", " ", "\t", "\ufeff", "\ufeff \n", " \ufeff"]


@pytest.mark.parametrize("edge", EDGES, ids=repr)
@pytest.mark.parametrize("name", [each[0] for each in TABLE])
def test_the_edges_of_a_value_are_stripped(name: str, edge: str) -> None:
    """In every source."""
    text = next(each[2] for each in TABLE if each[0] == name)
    env = f"BASICAUTH_{name.upper()}"
    for read in (Settings.from_env, Settings.from_mapping):
        assert read({env: f"{edge}{text}{edge}"}) == read({env: text})
        assert read({env: text, f"{env}_FILE": edge}) == read({env: text})
        if name not in ("throttle", "throttle_address"):
            assert read({env: edge}) == Settings()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a\nb", "BASICAUTH_REALM contains a line break or another control character"),
        ("a\x00b", "BASICAUTH_REALM contains a line break or another control character"),
        ("'canary'", "BASICAUTH_REALM is wrapped in quotes"),
        ('"canary"', "BASICAUTH_REALM is wrapped in quotes"),
    ],
    ids=["line-break", "nul", "quotes", "double-quotes"],
)
def test_a_control_character_inside_a_value_is_an_error(value: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Settings.from_env({"BASICAUTH_REALM": value})
    assert said in str(refusal.value)
    assert "canary" not in str(refusal.value)
    path = tmp_path / "realm"
    path.write_text(value)
    with pytest.raises(ConfigurationError, match=r"BASICAUTH_REALM_FILE (contains|is wrapped)"):
        Settings.from_env({"BASICAUTH_REALM_FILE": str(path)})


def test_an_empty_throttle_is_off() -> None:
    assert Settings.from_env({"BASICAUTH_THROTTLE": " "}).throttle == ""


def test_errors_name_the_setting_as_it_was_set(tmp_path: Path) -> None:
    """By the variable, the file's variable, or the keyword."""
    path = tmp_path / "value"
    path.write_text("soon")
    for problem, read in (
        ("BASICAUTH_TIMEOUT_S: must be", lambda: Settings.from_env({"BASICAUTH_TIMEOUT_S": "0"})),
        (
            "BASICAUTH_TIMEOUT_S_FILE: must be",
            lambda: Settings.from_env({"BASICAUTH_TIMEOUT_S_FILE": str(path)}),
        ),
        ("timeout_s: must be", lambda: Settings.from_env({"BASICAUTH_TIMEOUT_S": "1"}, timeout_s=0)),
        ("timeout_s: must be", lambda: Settings(timeout_s=0)),
    ):
        with pytest.raises(ConfigurationError) as refusal:
            read()
        (text,) = refusal.value.problems
        assert text.startswith(problem)
        assert text.endswith("a number of seconds, more than 0 and at most 31622400")


@pytest.mark.parametrize(
    ("text", "entries"),
    [('["/health", "/docs/*"]', ("/health", "/docs/*")), ("[]", ()), ("/a,/b", ("/a", "/b"))],
)
def test_a_list_may_be_json(text: str, entries: tuple[str, ...]) -> None:
    """As pydantic-settings and compose files write it."""
    assert Settings.from_env({"BASICAUTH_EXCLUDE": text}).exclude == entries


CANARY = "c4n4ry"


@pytest.mark.parametrize(
    "values",
    [
        row("alone", {"pepper": CANARY, "cache_size": "many"}),
        row("bad-list", {"pepper": [CANARY, 5]}),
        row("bad-entry", {"pepper": [CANARY, ""]}),
        row("bytes", {"pepper": CANARY.encode()}),
        row("no-utf-8", {"pepper": CANARY + "\udcff"}),
        row(
            "in-another-field",
            {"cache_size": CANARY, "challenge": CANARY, "throttle": CANARY, "timeout_s": CANARY},
        ),
        row("in-the-realm", {"realm": CANARY + "\n"}),
        row("in-the-prefix", {"secret_prefix": CANARY + "-"}),
        row("in-a-switch", {"map_errors": CANARY}),
        row("in-an-unknown-field", {"peppers": CANARY}),
    ],
)
def test_no_message_contains_a_value(values: dict[str, Any]) -> None:
    """A value in the wrong field may be a secret: messages and tracebacks name fields only."""
    with pytest.raises(ConfigurationError) as refusal:
        Settings.from_env({}, **values)
    assert CANARY not in "".join(traceback.format_exception(refusal.value))
    assert CANARY not in repr(refusal.value)


@pytest.mark.parametrize(
    "settings",
    [
        row("pepper", Settings(pepper=CANARY)),  # type: ignore[arg-type]
        row("peppers", Settings(pepper=("x", CANARY))),
        row("backend-password", Settings(backend=f"redis://user:{CANARY}@localhost/0")),
    ],
)
def test_repr_shows_no_secret(settings: Settings) -> None:
    """Settings can be printed and logged: the pepper and the password of a backend URL are hidden."""
    assert "realm='api'" in repr(settings)
    for shown in (repr(settings), str(settings), f"{settings}", repr({"auth": settings})):
        assert CANARY not in shown


# --- a value


def test_settings_are_frozen_values() -> None:
    """Equal content is equal, as text or as native values; nothing can be changed or added."""
    settings = Settings(realm="x", exclude="/a", pepper="p")  # type: ignore[arg-type]

    assert settings == Settings(realm="x", exclude=("/a",), pepper=("p",))
    assert hash(settings) == hash(Settings(realm="x", exclude=("/a",), pepper=("p",)))
    assert settings != Settings(realm="x", exclude=("/a",), pepper=("q",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.realm = "y"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        settings.colour = "red"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        Settings("env:")  # type: ignore[misc]


def test_replace_returns_a_copy() -> None:
    """The original is unchanged."""
    settings = Settings(realm="x", pepper=("p",))

    assert settings.replace(cache_size="5") == Settings(realm="x", pepper=("p",), cache_size=5)
    assert settings.cache_size == 10_000


# --- nested in pydantic-settings


class AppSettings(BaseSettings):
    """What the README shows."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", hide_input_in_errors=True)

    auth: Settings = Settings()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        row("nothing", {}, {}),
        row("text", {"AUTH__REALM": "x"}, {"realm": "x"}),
        row("switch", {"AUTH__REQUIRE_HTTPS": "on"}, {"require_https": True}),
        row("seconds", {"AUTH__TIMEOUT_S": "2.5"}, {"timeout_s": 2.5}),
        row("count", {"AUTH__CACHE_SIZE": "5"}, {"cache_size": 5}),
        row("list", {"AUTH__EXCLUDE": "/health,/docs/*"}, {"exclude": ("/health", "/docs/*")}),
        row("secrets", {"AUTH__PEPPER": "new,old"}, {"pepper": ("new", "old")}),
        row(
            "object",
            {"AUTH": '{"realm": "x", "exclude": ["/health"], "cache_ttl_s": 0, "pepper": ["p"]}'},
            {"realm": "x", "exclude": ("/health",), "cache_ttl_s": 0.0, "pepper": ("p",)},
        ),
        row("both", {"AUTH": '{"realm": "x"}', "AUTH__CACHE_SIZE": "5"}, {"realm": "x", "cache_size": 5}),
        row("carriage-return", {"AUTH__BACKEND": "sqlite:///k.db\r"}, {"backend": "sqlite:///k.db"}),
        row("bom", {"AUTH__REALM": "\ufeffx\n"}, {"realm": "x"}),
    ],
)
def test_nests_in_pydantic_settings(
    environ: dict[str, str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every field can be set through a third party's settings class, in the text of our variables."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)

    auth = AppSettings().auth

    assert isinstance(auth, Settings)
    assert auth == Settings(**expected)


def test_pydantic_accepts_an_instance() -> None:
    """It is used unchanged."""
    settings = Settings(realm="x")

    assert AppSettings(auth=settings).auth == settings
    assert AppSettings.model_json_schema()["properties"]["auth"]["type"] == "object"


@pytest.mark.parametrize(
    "environ",
    [
        row("bad-value", {"AUTH__REALM": "a\nb"}),
        row("bad-count", {"AUTH__CACHE_SIZE": "0"}),
        row("quotes", {"AUTH__PEPPER": f'"{CANARY}"'}),
        row("control", {"AUTH__BACKEND": f"redis://:{CANARY}\r\n@h"}),
        row("unknown", {"AUTH__RELM": "x"}),
        row("object", {"AUTH": '{"exclude": ["/*"], "pepper": ["' + CANARY + '"]}'}),
        row("secret", {"AUTH": '{"pepper": ["' + CANARY + '", ""]}'}),
    ],
)
def test_pydantic_reports_our_problems(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value is pydantic's ValidationError, without the pepper if inputs are hidden."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)

    with pytest.raises(ValidationError) as refusal:
        AppSettings()
    assert CANARY not in str(refusal.value)
