"""Names and IDs from a store reach terminals and pages only as visible text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicauth_mw.keys.escaping import escape_control


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        pytest.param("ci server", "ci server", id="plain"),
        pytest.param("D\u00fcsseldorf \u65e5\u672c", "D\u00fcsseldorf \u65e5\u672c", id="any-script"),
        pytest.param("no\u00a0break", "no\u00a0break", id="space"),
        pytest.param("\x1b[2J", "\\x1b[2J", id="terminal"),
        pytest.param("a\nb\r\x00", "a\\nb\\r\\x00", id="line-break"),
        pytest.param("\u202egnp.exe", "\\u202egnp.exe", id="bidirectional"),
        pytest.param("\u200b\ufeff", "\\u200b\\ufeff", id="zero-width"),
        pytest.param("\ud800", "\\ud800", id="surrogate"),
    ],
)
def test_invisible_characters_are_escaped(text: str, escaped: str) -> None:
    assert escape_control(text) == escaped


@given(st.text())
def test_any_text_becomes_visible(text: str) -> None:
    """Visible text is unchanged."""
    escaped = escape_control(text)

    assert all(each.isprintable() or unicodedata.category(each) == "Zs" for each in escaped)
    assert escape_control(escaped) == escaped
