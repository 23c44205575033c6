"""A coverage-guided fuzz test of the parser (atheris, libFuzzer), against the second parser of ``fuzz``.

python -m tests.fuzz.guided [libFuzzer's options] [folder for interesting inputs]
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["basicauth_mw.keys.authorization_header"]):
    from basicauth_mw.keys import authorization_header

from basicauth_mw.errors import MalformedCredentials
from tests.fuzz.fuzz import reference


def play(field: bytes) -> None:
    """Raise if the parsers differ."""
    wanted = reference(field)
    for value in (field, field.decode("latin-1")):
        try:
            parsed = authorization_header.parse_basic(value)
        except MalformedCredentials:
            got = None
        else:
            got = (parsed.client_id, parsed.secret)
        if got != wanted:
            raise AssertionError(f"{field!r} is {got!r}, but {wanted!r} for the reference")


if __name__ == "__main__":
    atheris.Setup(sys.argv, play)
    atheris.Fuzz()
