"""What all integrations share."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.errors import ConfigurationError, MissingExtra
from basicauth_mw.integrations._common import MissingFramework, configuration, needed, needs

if TYPE_CHECKING:
    from pathlib import Path

FRAMEWORKS = {
    "basicauth_mw.integrations.fastapi": ("fastapi", "fastapi"),
    "basicauth_mw.integrations.flask": ("flask", "flask"),
    "basicauth_mw.integrations.django": ("django", "django"),
    "basicauth_mw.integrations.django.rest_framework": ("rest_framework", "djangorestframework"),
}

# As if a package were not installed.
WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
"""


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_a_missing_framework_says_what_to_install(module: str) -> None:
    framework, package = FRAMEWORKS[module]
    code = (
        f"{WITHOUT.format(module=framework)}"
        f"try:\n    import {module}\n"
        "except ImportError as exc:\n    print(type(exc).__name__, exc.module, exc, sep='|')"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    expected = f"MissingFramework|{framework}|{framework} is not installed: run  pip install {package}\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_a_framework_that_is_broken_inside_is_not_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match="other") as caught, needs("fastapi", "fastapi"):
        raise ModuleNotFoundError("other", name="other")

    assert not isinstance(caught.value, MissingExtra)


def test_the_error_survives_pickling() -> None:
    error = MissingFramework("rest_framework", "djangorestframework")

    again = pickle.loads(pickle.dumps(error))

    assert (str(again), again.module, again.code) == (str(error), "rest_framework", "missing_extra")


def test_the_environment_says_what_the_configuration_does_not(
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


def test_a_file_in_the_environment_and_a_value_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each spelling of a setting counts as the setting."""
    (tmp_path / "realm").write_text("from a file\n")
    monkeypatch.setenv("BASICAUTH_REALM_FILE", str(tmp_path / "realm"))
    assert configuration({}, "Flask")[1].realm == "from a file"
    assert configuration({"BASICAUTH_REALM": "mine"}, "Flask")[1].realm == "mine"
    monkeypatch.setenv("BASICAUTH_REALM", "environment")
    assert configuration({"BASICAUTH_REALM_FILE": str(tmp_path / "realm")}, "Flask")[1].realm == "from a file"


def test_a_backend_that_is_given_goes_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_BACKEND", "no url")
    assert configuration({}, "Flask", has_backend=True)[1].backend == "env:"


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_REALMS", "x")
    with pytest.raises(ConfigurationError, match="BASICAUTH_REALMS: did you mean realm"):
        configuration({}, "Flask")


def test_what_is_no_setting_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """It may be an entry of the app's own, and so is no error."""
    known = {"BASICAUTH_REALM": "x", "BASICAUTH_APP": "a:b", "BASICAUTH_LOG_CONFIG": "x"}
    configuration({**known, "BASICAUTH_USERS": "x", "BASICAUTH_COLOUR": 1}, "Flask")

    assert [record.getMessage() for record in caplog.records] == [
        "BASICAUTH_USERS, BASICAUTH_COLOUR: in Flask's configuration, but no setting: ignored"
    ]


@pytest.mark.parametrize("name", ["BASICAUTH_KEYS", "BASICAUTH_KEYS_FILE"])
def test_keys_in_a_configuration_would_not_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are an error, unless the whole environment was copied there."""
    keys = {name: "demo:p@55w0rd"}

    with pytest.raises(ConfigurationError, match="put it into the environment") as caught:
        configuration(keys, "Flask")

    assert "p@55w0rd" not in str(caught.value)
    monkeypatch.setenv(name, "demo:p@55w0rd")
    assert configuration(keys, "Flask")[0] is None


def test_a_configuration_may_hold_a_backend() -> None:
    store = object()

    backend, settings = configuration({"BASICAUTH_BACKEND": store}, "Flask")

    assert backend is store
    assert settings.backend == "env:"
    assert configuration({"BASICAUTH_BACKEND": "memory:"}, "Flask")[1].backend == "memory:"


def test_a_misspelt_entry_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="BASICAUTH_REALMS: did you mean realm"):
        configuration({"BASICAUTH_REALMS": "x"}, "Flask")


@pytest.mark.parametrize("scopes", [(), ("read write",), ("",), (["read"],), (1,), ('"',)])
def test_scopes_that_no_key_can_have_are_an_error(scopes: tuple[object, ...]) -> None:
    with pytest.raises(ConfigurationError):
        needed(scopes)


def test_scopes_are_put_in_order() -> None:
    assert needed(("write", "read", "write")) == ("read", "write")
