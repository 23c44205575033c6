"""Secrets are compared in constant time, everywhere in the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicauth_mw import Secret
from basicauth_mw.keys.hashing import Hasher, digest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1] / "basicauth_mw"

# Suffixes of the names of such values. Names in upper case are constants, such as the name of a header.
SECRET = re.compile(
    r"(?:^|_)(?:secret|hash|hashed|digest|password|token|mac|authorization|credentials|field)$"
)

# Values of an operator, on the command line or in the environment, are not attacker-controlled.
NOT_CHECKED = {"cli", "env.py"}

# Module, expression, and why the comparison reveals nothing.
HARMLESS = {
    ("authorization_header.py", "b2a_base64(encoded, newline=False) != token"): "both come from the request",
    ("authorization_header.py", "b',' in token"): "from the request, before the lookup",
    ("schemes.py", "found != credentials"): "both come from the request",
    ("digest.py", "hashed.startswith(self._current)"): "scheme, pepper ID and no digest",
    ("formats.py", "hashed.startswith(PASSWORD_SCHEMES)"): "the scheme of a stored hash",
    ("formats.py", "hashed.startswith(prefix)"): "the scheme of an imported hash",
    ("key_lists.py", "secret != secret.lstrip()"): "the whitespace of an entry in an operator's own file",
    ("password.py", "hashed.startswith('$2')"): "the scheme of a stored hash",
    ("usage.py", "each.hash == old_hash"): "both are stored, and the caller is verified",
    ("usage.py", "each.hash != old_hash"): "both are stored, and the caller is verified",
    (
        "lifecycle.py",
        "each.hash not in self._differs_from",
    ): "both are stored, and it is the operator's own command",
}

_BY_CONTENT = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
_METHODS = {"startswith", "endswith", "__eq__", "find", "index"}


def _name(node: ast.AST) -> str:
    """The last name of an operand, without surrounding calls and subscripts."""
    while isinstance(node, ast.Subscript | ast.Call):
        if isinstance(node, ast.Subscript):
            node = node.value
        else:
            node = node.func.value if isinstance(node.func, ast.Attribute) else node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def comparisons(source: str) -> Iterator[str]:
    """Expressions that compare a value with a secret's name byte by byte, up to the first difference."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left, ops, comparators) if any(isinstance(each, _BY_CONTENT) for each in ops):
                operands = [left, *comparators]
            case ast.Call(ast.Attribute(value, method)) if method in _METHODS:
                operands = [value]
            case _:
                continue
        if any(SECRET.search(_name(each)) for each in operands):
            yield ast.unparse(node)


@pytest.mark.proves("X12")
def test_no_secret_is_compared_up_to_the_first_difference() -> None:
    found = {
        (path.name, expression)
        for path in PACKAGE.rglob("*.py")
        if not NOT_CHECKED & set(path.relative_to(PACKAGE).parts)
        for expression in comparisons(path.read_text())
    }

    assert found == HARMLESS.keys()


@pytest.mark.proves("X12")
@pytest.mark.parametrize(
    "planted",
    [
        "secret == stored",
        "if key.hash != hashed: pass",
        "creds.secret.encode() == b'x'",
        "client_secret in known",
        "stored[:len(token)] == token",
        "user == name and password == key.password",
        "stored.hash.startswith(sent)",
        "mac == self._mac(x)",
        "field not in verified",
    ],
)
def test_such_a_comparison_would_be_found(planted: str) -> None:
    assert list(comparisons(planted))


@pytest.mark.proves("X12", "X13")
@given(st.text(max_size=30), st.booleans())
def test_compared_values_have_one_length(secret: str, peppered: bool) -> None:
    """For any input, complete digests are compared."""
    hasher = Hasher([b"pepper"] if peppered else [])
    stored = [Secret(hasher.digest_secret("the right one"))]
    lengths = set()
    compare = digest.compare_digest

    def watching(one: str, other: str) -> bool:
        lengths.add((len(one), len(other)))
        return compare(one, other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "compare_digest", watching)
        assert hasher.verify_digest(secret, stored) is None

    whole = len(stored[0].hash)
    assert (whole, whole) in lengths
    assert all(one == other for one, other in lengths)
