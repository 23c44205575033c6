"""The exception hierarchy: what clients and programs may rely on, and that no internal detail is revealed."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import errors
from basicauth_mw.errors import (
    BackendError,
    BackendUnavailable,
    BasicAuthError,
    ConfigurationError,
    HttpsRequired,
    InsufficientScope,
    InvalidCredentials,
    InvalidKey,
    KeyExists,
    KeyNotFound,
    KeyRevoked,
    MalformedCredentials,
    MissingCredentials,
    MissingExtra,
    Overloaded,
    ReadOnlyBackend,
    Rejected,
    Throttled,
    UnreadableRecord,
)
from basicauth_mw.runtime.extras import require

if TYPE_CHECKING:
    from pathlib import Path

TABLE: list[tuple[type[BasicAuthError], type[BaseException], str, int | None]] = [
    (BasicAuthError, Exception, "internal_error", None),
    (Rejected, BasicAuthError, "internal_error", None),
    (MissingCredentials, Rejected, "missing_credentials", 401),
    (MalformedCredentials, Rejected, "invalid_credentials", 401),
    (InvalidCredentials, Rejected, "invalid_credentials", 401),
    (HttpsRequired, Rejected, "https_required", 403),
    (InsufficientScope, Rejected, "insufficient_scope", 403),
    (Throttled, Rejected, "throttled", 429),
    (BackendError, BasicAuthError, "internal_error", None),
    (BackendUnavailable, BackendError, "backend_unavailable", 503),
    (UnreadableRecord, BackendUnavailable, "backend_unavailable", 503),
    (Overloaded, BackendError, "overloaded", 503),
    (ReadOnlyBackend, BackendError, "read_only_backend", None),
    (KeyExists, BasicAuthError, "key_exists", None),
    (KeyNotFound, BasicAuthError, "key_not_found", None),
    (KeyRevoked, BasicAuthError, "key_revoked", None),
    (InvalidKey, BasicAuthError, "invalid_key", None),
    (InvalidKey, ValueError, "invalid_key", None),
    (ConfigurationError, BasicAuthError, "configuration_error", None),
    (ConfigurationError, ValueError, "configuration_error", None),
    (MissingExtra, ConfigurationError, "missing_extra", None),
    (MissingExtra, ImportError, "missing_extra", None),
]


@pytest.mark.parametrize(
    ("kind", "parent", "code", "status"),
    TABLE,
    ids=[f"{kind.__name__}-{parent.__name__}" for kind, parent, *_ in TABLE],
)
def test_the_tree(
    kind: type[BasicAuthError], parent: type[BaseException], code: str, status: int | None
) -> None:
    """Class, parent, code and status of every error are stable."""
    assert issubclass(kind, parent)
    assert kind.code == code
    assert kind.status == status
    assert kind.detail


def test_the_table_lists_every_error() -> None:
    """So does __all__."""
    defined = {
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BasicAuthError)
    }

    assert defined == {kind for kind, *_ in TABLE}
    assert {kind.__name__ for kind in defined} == set(errors.__all__)


def test_malformed_and_invalid_look_the_same_to_a_client() -> None:
    """The response does not say whether the header could be parsed."""
    for name in ("code", "status", "detail"):
        assert getattr(MalformedCredentials, name) == getattr(InvalidCredentials, name)


def test_messages_are_for_the_operator_only() -> None:
    """The constructor's text never becomes the client's."""
    for kind in (InvalidCredentials, BackendUnavailable, UnreadableRecord, Overloaded):
        assert str(kind("redis.internal:6379 refused")) == "redis.internal:6379 refused"
        assert "redis" not in kind("redis.internal:6379 refused").detail


def test_configuration_error_keeps_its_problems() -> None:
    """One problem or many, in order."""
    assert ConfigurationError("one").problems == ("one",)
    assert str(ConfigurationError("one")) == "one"
    assert ConfigurationError(iter(["one", "two"])).problems == ("one", "two")
    assert str(ConfigurationError(["one", "two"])) == "2 problems:\n  one\n  two"


def test_throttled_has_the_time_to_wait() -> None:
    """At least one second, also by default."""
    assert Throttled().retry_after_s == 1
    assert Throttled("too many", retry_after_s=30).retry_after_s == 30
    assert str(Throttled("too many", retry_after_s=30)) == "too many"


def test_missing_extra_shows_the_pip_command() -> None:
    """And the attribute with the name of the extra."""
    error = MissingExtra("redis", "redis")

    assert "pip install 'basicauth_mw[redis]'" in str(error)
    assert error.extra == "redis"
    assert error.problems == (str(error),)


@pytest.mark.parametrize(
    "error",
    [
        InvalidCredentials("wrong secret"),
        BackendUnavailable("refused"),
        Throttled("too many", retry_after_s=30),
        ConfigurationError(["one", "two"]),
        MissingExtra("redis", "redis"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_copied_and_pickled(error: BasicAuthError) -> None:
    """A worker process can pass an error to its parent."""
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)


# --- optional dependencies


def test_require_imports_an_installed_module() -> None:
    """Also by dotted name."""
    assert require("json", extra="x") is sys.modules["json"]
    assert require("json.decoder", extra="x") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_module_here", "no_such_module_here.part"])
def test_require_names_the_extra(module: str) -> None:
    """A missing module is named by its top package, with the pip command."""
    with pytest.raises(MissingExtra, match=r"^no_such_module_here is not installed.*basicauth_mw\[cli\]"):
        require(module, extra="cli")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        pytest.param("import no_such_module_here", ModuleNotFoundError, id="its-own-dependency"),
        pytest.param("1 / 0", ZeroDivisionError, id="broken"),
    ],
)
def test_require_does_not_hide_a_broken_module(
    source: str, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error inside an installed module does not become "not installed"."""
    (tmp_path / "broken_module_here.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(kind) as refusal:
        require("broken_module_here", extra="cli")
    assert not isinstance(refusal.value, MissingExtra)
