"""The package itself: its public names, and that nothing is imported before one of them is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import basicauth_mw
from basicauth_mw import errors


def test_type_checkers_see_every_public_name() -> None:
    """The names for type checkers are those at run time, from the same modules."""
    tree = ast.parse(Path(basicauth_mw.__file__).read_text())
    imports = [
        (alias.asname or alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    ]
    assert ("*", "errors") in imports
    modules = dict(imports) | dict.fromkeys(errors.__all__, "errors")
    del modules["*"]

    assert sorted(modules) == basicauth_mw.__all__
    for name, module in modules.items():
        assert getattr(basicauth_mw, name) is getattr(import_module(f"basicauth_mw.{module}"), name)
    assert set(basicauth_mw.__all__) <= set(dir(basicauth_mw))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="'basicauth_mw' has no attribute 'Settigns'"):
        basicauth_mw.Settigns  # noqa: B018


def test_submodules_need_no_import_of_their_own() -> None:
    code = (
        "import sys, basicauth_mw\n"
        "assert [name for name in sys.modules if name.startswith('basicauth_mw.')] == []\n"
        "basicauth_mw.errors.InvalidKey, basicauth_mw.backends.Store, basicauth_mw.keys.model.Key\n"
        "from basicauth_mw import *\n"
        "Backend, Settings, KeyExists\n"
        "assert 'annotations' not in globals()\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
