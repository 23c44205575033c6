"""The package itself: its public names are all there, and nothing is loaded before one of them is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import basicauth_mw


def test_every_public_name_is_what_type_checkers_see() -> None:
    """The same names, from the same modules, to both."""
    tree = ast.parse(Path(basicauth_mw.__file__).read_text())
    seen = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }

    assert sorted(seen) == sorted(basicauth_mw.__all__)
    assert {name: home for home, names in basicauth_mw._PUBLIC.items() for name in names} == seen
    for name, home in seen.items():
        assert getattr(basicauth_mw, name) is getattr(import_module(f"basicauth_mw.{home}"), name)
    assert set(basicauth_mw.__all__) <= set(dir(basicauth_mw))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'basicauth_mw' has no attribute 'Settigns'"):
        basicauth_mw.Settigns  # noqa: B018


def test_modules_need_no_import_of_their_own() -> None:
    code = (
        "import sys, basicauth_mw\n"
        "assert [name for name in sys.modules if name.startswith('basicauth_mw.')] == []\n"
        "basicauth_mw.errors.InvalidKey, basicauth_mw.backends.Store, basicauth_mw.keys.model.Key\n"
        "from basicauth_mw import *\n"
        "Backend, Settings\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
