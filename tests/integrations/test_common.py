"""Missing frameworks, configuration and scopes, for all integrations."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.errors import ConfigurationError, MissingExtra
from basicauth_mw.integrations._common import (
    MissingFramework,
    check_scopes_arg,
    configuration,
    require_framework,
)

if TYPE_CHECKING:
    from pathlib import Path

FRAMEWORKS = {
    "basicauth_mw.integrations.fastapi": ("fastapi", "fastapi"),
    "basicauth_mw.integrations.flask": ("flask", "flask"),
    "basicauth_mw.integrations.django": ("django", "django"),
    "basicauth_mw.integrations.django.rest_framework": ("rest_framework", "djangorestframework"),
}


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_a_missing_framework_says_what_to_install(module: str) -> None:
    framework, package = FRAMEWORKS[module]
    code = (
        f"import sys; sys.modules[{framework!r}] = None\n"
        f"try:\n    import {module}\n"
        "except ImportError as exc:\n    print(type(exc).__name__, exc.module, exc, sep='|')"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    expected = f"MissingFramework|{framework}|{framework} is not installed: run  pip install {package}\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_an_import_error_inside_a_framework_is_raised() -> None:
    with pytest.raises(ModuleNotFoundError, match="other") as caught, require_framework("fastapi", "fastapi"):
        raise ModuleNotFoundError("other", name="other")

    assert not isinstance(caught.value, MissingExtra)


def test_the_error_can_be_pickled() -> None:
    error = MissingFramework("rest_framework", "djangorestframework")

    again = pickle.loads(pickle.dumps(error))

    assert (str(again), again.module, again.code) == (str(error), "rest_framework", "missing_extra")


def test_the_environment_is_the_fallback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BASICAUTH_REQUIRE_HTTPS", "1")
    monkeypatch.setenv("BASICAUTH_REALM", "environment")
    monkeypatch.setenv("BASICAUTH_BACKEND", "memory:")

    backend, settings = configuration(
        {"BASICAUTH_REALM": "mine", "BASICAUTH_BACKEND": None, "OTHER": 1}, "Flask"
    )

    assert (backend, settings.realm, settings.require_https) == (None, "mine", True)
    assert settings.backend == "memory:"
    assert caplog.records == []


def test_a_value_in_the_configuration_overrides_a_file_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And vice versa: both names stand for one setting."""
    (tmp_path / "realm").write_text("from a file\n")
    monkeypatch.setenv("BASICAUTH_REALM_FILE", str(tmp_path / "realm"))
    assert configuration({}, "Flask")[1].realm == "from a file"
    assert configuration({"BASICAUTH_REALM": "mine"}, "Flask")[1].realm == "mine"
    monkeypatch.setenv("BASICAUTH_REALM", "environment")
    assert configuration({"BASICAUTH_REALM_FILE": str(tmp_path / "realm")}, "Flask")[1].realm == "from a file"


def test_a_backend_of_the_app_overrides_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_BACKEND", "no url")
    assert configuration({}, "Flask", has_backend=True)[1].backend == "env:"


def test_a_misspelled_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_REALMS", "x")
    with pytest.raises(ConfigurationError, match="BASICAUTH_REALMS: did you mean realm"):
        configuration({}, "Flask")


def test_unknown_entries_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """They may be entries of the app itself, so they are not errors."""
    known = {"BASICAUTH_REALM": "x", "BASICAUTH_APP": "a:b", "BASICAUTH_LOG_CONFIG": "x"}
    configuration({**known, "BASICAUTH_USERS": "x", "BASICAUTH_COLOUR": 1}, "Flask")

    assert [record.getMessage() for record in caplog.records] == [
        "ignored unknown settings in Flask's configuration: BASICAUTH_USERS, BASICAUTH_COLOUR"
    ]


@pytest.mark.parametrize("name", ["BASICAUTH_KEYS", "BASICAUTH_KEYS_FILE"])
def test_keys_in_a_configuration_are_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except if the whole environment was copied there."""
    keys = {name: "demo:p@55w0rd"}

    with pytest.raises(ConfigurationError, match="set it in the environment") as caught:
        configuration(keys, "Flask")

    assert "p@55w0rd" not in str(caught.value)
    monkeypatch.setenv(name, "demo:p@55w0rd")
    assert configuration(keys, "Flask")[0] is None


def test_a_configuration_can_contain_a_backend() -> None:
    store = object()

    backend, settings = configuration({"BASICAUTH_BACKEND": store}, "Flask")

    assert backend is store
    assert settings.backend == "env:"
    assert configuration({"BASICAUTH_BACKEND": "memory:"}, "Flask")[1].backend == "memory:"


def test_a_misspelled_entry_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="BASICAUTH_REALMS: did you mean realm"):
        configuration({"BASICAUTH_REALMS": "x"}, "Flask")


@pytest.mark.parametrize("scopes", [(), ("read write",), ("",), (["read"],), (1,), ('"',)])
def test_invalid_scopes_are_an_error(scopes: tuple[object, ...]) -> None:
    with pytest.raises(ConfigurationError):
        check_scopes_arg(scopes)


def test_scopes_are_sorted() -> None:
    assert check_scopes_arg(("write", "read", "write")) == ("read", "write")
