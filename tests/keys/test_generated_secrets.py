"""Generated values: their form is stable for secret scanners, and typing errors are detected."""

from __future__ import annotations

import re
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicauth_mw.keys.generated_secrets import (
    ALPHABET,
    ID_PREFIX,
    PATTERN,
    SecretShape,
    classify,
    generate,
    is_prefix,
)

PREFIXES = ["sk", "id", "a", "Z9", "my_app", "a_b_c_d", "x" * 32, "0"]
NOT_PREFIXES = ["", "_", "a_", "_a", "a__b", "a-b", "a b", "a.b", "é", "a\n", "٣", "x" * 33]

# These must be recognized by all releases.
GOLDEN = [
    "sk_00000000000000000000000000000000000000000004LPos6",
    "my_app_aZ0aZ0aZ0aZ0aZ0aZ0aZ0aZ0aZ0aZ0aZ0aZ0aZ0aZ0a3oqYrZ",
]


def number(digits: str) -> int:
    """The value of base62 digits, most significant first."""
    value = 0
    for digit in digits:
        value = value * 62 + ALPHABET.index(digit)
    return value


@pytest.mark.proves("O2")
@pytest.mark.parametrize("prefix", PREFIXES)
def test_generated_values_have_the_documented_form(prefix: str) -> None:
    """Prefix, 43 base62 digits of a 256-bit number, and 6 digits of the CRC-32 of both."""
    value = generate(prefix)

    assert re.fullmatch(PATTERN, value)
    assert re.fullmatch(r"[A-Za-z0-9_]+", value)
    assert value.startswith(f"{prefix}_")
    assert len(value) == len(prefix) + 1 + 43 + 6
    assert number(value[-49:-6]) < 2**256
    assert number(value[-6:]) == crc32(value[:-6].encode())
    assert classify(value) is SecretShape.GENERATED


@pytest.mark.proves("O2")
def test_generated_values_are_unique() -> None:
    """All values have random bits, including the highest ones."""
    bits = [number(generate("sk")[-49:-6]) for _ in range(400)]

    assert len(set(bits)) == 400
    assert max(bits) >= 2**254  # fails by chance once in 4 ** 400 times
    assert min(bits) < 2**255


@pytest.mark.parametrize("value", GOLDEN)
def test_values_of_earlier_releases_are_recognized(value: str) -> None:
    """The form never changes."""
    assert classify(value) is SecretShape.GENERATED
    assert re.fullmatch(PATTERN, value)


def test_generated_ids_have_the_same_form() -> None:
    """With another prefix."""
    assert ID_PREFIX == "id"
    assert classify(generate(ID_PREFIX)) is SecretShape.GENERATED


def test_any_single_change_is_detected() -> None:
    """No value with one replaced character has a valid checksum."""
    value = generate("my_app")

    for place, right in enumerate(value):
        for wrong in ALPHABET + "_-.: \n\0é٣\ud800":
            if wrong != right:
                changed = value[:place] + wrong + value[place + 1 :]
                assert classify(changed) is not SecretShape.GENERATED, (place, wrong)


def test_a_wrong_digit_gives_a_bad_checksum() -> None:
    """A mistyped digit after the prefix keeps the shape, so the secret is refused without a lookup."""
    value = generate("sk")

    for place in range(len("sk_"), len(value)):
        wrong = "a" if value[place] != "a" else "b"
        assert classify(value[:place] + wrong + value[place + 1 :]) is SecretShape.BAD_CHECKSUM


def test_swapped_neighbors_are_detected() -> None:
    """Swapping two neighbors breaks the checksum."""
    value = generate("sk")

    for place in range(len(value) - 1):
        swapped = value[:place] + value[place + 1] + value[place] + value[place + 2 :]
        assert swapped == value or classify(swapped) is not SecretShape.GENERATED


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda value: value[:-1], id="cut"),
        pytest.param(lambda value: value[1:], id="beheaded"),
        pytest.param(lambda value: value + "0", id="longer"),
        pytest.param(lambda value: value + "\n", id="newline"),
        pytest.param(lambda value: " " + value, id="blank-before"),
        pytest.param(lambda value: value.swapcase(), id="other-case"),
        pytest.param(lambda value: value.replace("sk_", ""), id="no-prefix"),
        pytest.param(lambda value: value.replace("sk_", "_"), id="empty-prefix"),
        pytest.param(lambda value: value.replace("sk_", "pk_"), id="other-prefix"),
        pytest.param(lambda value: value.replace("_", "-"), id="other-separator"),
        pytest.param(lambda value: value * 2, id="twice"),
    ],
)
def test_edited_values_are_not_recognized(spoil: object) -> None:
    """A truncated, padded or edited value is not a generated one."""
    assert callable(spoil)
    assert classify(spoil(generate("sk"))) is not SecretShape.GENERATED


@pytest.mark.parametrize(
    "value",
    [
        "",
        "_",
        "secret",
        "p@55w0rd",
        "sk_",
        "sk_short",
        "_" * 50,
        "a" * 49,
        "_" + "a" * 49,
        "sk_" + "é" * 49,
        "\ud800",
    ],
    ids=ascii,
)
def test_passwords_have_another_shape(value: str) -> None:
    """A password has no checksum to be wrong."""
    assert classify(value) is SecretShape.OTHER


@pytest.mark.parametrize("prefix", PREFIXES)
def test_valid_prefixes(prefix: str) -> None:
    """Up to 32 ASCII letters and digits, words joined by one underscore."""
    assert is_prefix(prefix)


@pytest.mark.parametrize("prefix", NOT_PREFIXES, ids=ascii)
def test_invalid_prefixes(prefix: str) -> None:
    """A value with such a prefix is not recognized either."""
    assert not is_prefix(prefix)
    assert classify(f"{prefix}_{'0' * 49}") is SecretShape.OTHER


@given(st.one_of(st.text(), st.from_regex(PATTERN, fullmatch=True)))
def test_any_text_has_one_shape(value: str) -> None:
    """A generated value matches PATTERN and has a valid checksum."""
    shape = classify(value)

    assert isinstance(shape, SecretShape)
    if shape is SecretShape.GENERATED:
        assert re.fullmatch(PATTERN, value)
        assert number(value[-6:]) == crc32(value[:-6].encode())
    if shape is SecretShape.BAD_CHECKSUM:
        assert re.fullmatch(PATTERN, value)
