"""The Authorization header: a strict parser, one canonical form of each credential, and the challenge."""

from __future__ import annotations

import dataclasses
import re
import traceback
from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from basicauth_mw import Principal, require_scopes
from basicauth_mw.errors import InsufficientScope, InvalidKey, MalformedCredentials
from basicauth_mw.keys.authorization_header import (
    MAX_HEADER_BYTES,
    Credentials,
    challenge,
    encode_basic,
    is_canonical,
    parse_basic,
)

CONTROLS = [*range(0x20), 0x7F]


def basic(pair: bytes | str) -> bytes:
    """The canonical header value of a pair, made without the code under test."""
    return b"Basic " + b64encode(pair.encode() if isinstance(pair, str) else pair)


def row(name: str, *values: object, marks: pytest.MarkDecorator | None = None) -> object:
    return pytest.param(*values, id=name, marks=marks or ())


H3 = pytest.mark.proves("H3")
H4 = pytest.mark.proves("H4")
H5 = pytest.mark.proves("H5")
H8 = pytest.mark.proves("H8")
H9 = pytest.mark.proves("H9")
H10 = pytest.mark.proves("H10")
B2 = pytest.mark.proves("B2")
B3 = pytest.mark.proves("B3")
B4 = pytest.mark.proves("B4")
B5 = pytest.mark.proves("B5")
B6 = pytest.mark.proves("B6")
B10 = pytest.mark.proves("B10")
B11 = pytest.mark.proves("B11")
O3 = pytest.mark.proves("O3")


# --- what is accepted

DEMO = b64encode(b"demo:p@55w0rd")

ACCEPTED = [
    row("rfc7617-example", b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin", "open sesame"),
    row("rfc7617-utf8", b"Basic dGVzdDoxMjPCow==", "test", "123\u00a3"),
    row("scheme-lower", b"basic " + DEMO, "demo", "p@55w0rd", marks=H3),
    row("scheme-upper", b"BASIC " + DEMO, "demo", "p@55w0rd", marks=H3),
    row("scheme-mixed", b"bAsIc " + DEMO, "demo", "p@55w0rd", marks=H3),
    row("spaces-1", b"Basic " + DEMO, "demo", "p@55w0rd", marks=H4),
    row("spaces-2", b"Basic  " + DEMO, "demo", "p@55w0rd", marks=H4),
    row("spaces-40", b"Basic" + b" " * 40 + DEMO, "demo", "p@55w0rd", marks=H4),
    row("outer-space-before", b" Basic " + DEMO, "demo", "p@55w0rd", marks=H9),
    row("outer-space-after", b"Basic " + DEMO + b"  ", "demo", "p@55w0rd", marks=H9),
    row("outer-tab-before", b"\tBasic " + DEMO, "demo", "p@55w0rd", marks=H9),
    row("outer-tab-after", b"Basic " + DEMO + b"\t", "demo", "p@55w0rd", marks=H9),
    row("outer-mixed", b" \t Basic " + DEMO + b"\t \t", "demo", "p@55w0rd", marks=H9),
    row("padding-none", basic("a:b"), "a", "b"),
    row("padding-one", basic("a:bcde"[:5]), "a", "bcd"),
    row("padding-two", basic("a:bc"), "a", "bc"),
    row("alphabet-plus-slash", b"Basic Pj4+OmE/Pz8=", ">>>", "a???", marks=H5),
    row("colon-in-secret", basic("a:b:c"), "a", "b:c", marks=B4),
    row("colon-first-in-secret", basic("a::b"), "a", ":b", marks=B4),
    row("colon-is-secret", basic("a::"), "a", ":", marks=B4),
    row("colon-fullwidth-in-id", basic("a\uff1ab:c"), "a\uff1ab", "c", marks=B4),
    row("blank-secret", basic("a: "), "a", " "),
    row("blank-id", basic(" :b"), " ", "b"),
    row("blanks-kept", basic(" a : b "), " a ", " b "),
    row("one-byte-parts", basic("a:b"), "a", "b"),
    row(
        "id-greek",
        basic("\u03ba\u03bb\u03b5\u03b9\u03b4\u03af:\u03bc\u03c5\u03c3\u03c4\u03b9\u03ba\u03cc"),
        "κλειδί",
        "μυστικό",
        marks=B5,
    ),
    row("id-chinese", basic("\u5bc6\u94a5:\u79d8\u5bc6"), "密钥", "秘密", marks=B5),
    row("astral", basic("\U0001f511:\U0001f510"), "\U0001f511", "\U0001f510", marks=B5),
    row("nfc-stays-nfc", basic("\u00e9:x"), "\u00e9", "x", marks=B6),
    row("nfd-stays-nfd", basic("e\u0301:x"), "e\u0301", "x", marks=B6),
    row("fullwidth-stays", basic("\uff41:\uff42"), "\uff41", "\uff42", marks=B6),
    row("bom-stays", basic("\ufeffa:b"), "\ufeffa", "b"),
    row("nbsp-stays", basic("a\u00a0:\u00a0b"), "a\u00a0", "\u00a0b"),
    row("c1-is-no-ctl", basic("a\u0085:b\u009f"), "a\u0085", "b\u009f"),
    row("replacement-character-itself", basic("\ufffd:\ufffd"), "\ufffd", "\ufffd"),
    row("noncharacter", basic("\uffff:\U0010ffff"), "\uffff", "\U0010ffff"),
    row("high-edge-of-ascii", basic("!~:~!"), "!~", "~!"),
]


@pytest.mark.proves("X27")
@pytest.mark.parametrize(("value", "client_id", "secret"), ACCEPTED)
def test_well_formed_credentials(value: bytes, client_id: str, secret: str) -> None:
    """Read exactly, from bytes and from latin-1 text alike."""
    assert parse_basic(value) == Credentials(client_id, secret)
    assert parse_basic(value.decode("latin-1")) == Credentials(client_id, secret)


@pytest.mark.proves("O3", "X11")
def test_the_maximum_length() -> None:
    """8192 bytes are accepted and 8193 are not, including spaces."""
    token = b64encode(b"a:" + b"b" * 6136)
    longest = b"Basic" + b" " * (MAX_HEADER_BYTES - 5 - len(token)) + token
    assert MAX_HEADER_BYTES == 8192
    assert len(longest) == 8192

    assert parse_basic(longest).secret == "b" * 6136
    with pytest.raises(MalformedCredentials):
        parse_basic(longest.replace(b" ", b"  ", 1))


# --- what is refused

REFUSED = [
    row("nothing", b""),
    row("blank", b" \t "),
    row("scheme-alone", b"Basic"),
    row("scheme-and-space", b"Basic "),
    row("scheme-glued", b"Basic" + DEMO),
    row("scheme-bearer", b"Bearer " + DEMO),
    row("scheme-digest", b'Digest username="demo"'),
    row("scheme-proxy", b"Proxy-Basic " + DEMO),
    row("scheme-xbasic", b"xBasic " + DEMO),
    row("scheme-basic2", b"Basic2 " + DEMO),
    row("scheme-quoted", b'"Basic" ' + DEMO),
    row("scheme-missing", DEMO),
    row("scheme-dotless-i", "Bas\u0131c ".encode() + DEMO),
    row("field-name-inside", b"Authorization: Basic " + DEMO),
    row("scheme-twice", b"Basic Basic " + DEMO),
    row("sep-tab", b"Basic\t" + DEMO, marks=H4),
    row("sep-space-tab", b"Basic \t" + DEMO, marks=H4),
    row("sep-nbsp", b"Basic\xa0" + DEMO, marks=H4),
    row("sep-nbsp-utf8", b"Basic\xc2\xa0" + DEMO, marks=H4),
    row("sep-nel", b"Basic\x85" + DEMO, marks=H4),
    row("sep-vt", b"Basic\x0b" + DEMO, marks=H4),
    row("sep-ff", b"Basic\x0c" + DEMO, marks=H4),
    row("sep-lf", b"Basic\n" + DEMO, marks=H10),
    row("sep-cr", b"Basic\r" + DEMO, marks=H10),
    row("sep-nul", b"Basic\x00" + DEMO, marks=H10),
    *(row(f"sep-{byte:02x}", b"Basic" + bytes([byte]) + DEMO, marks=H4) for byte in range(0x1C, 0x20)),
    row("sep-space-vt", b"Basic \x0b" + DEMO, marks=H4),
    row("sep-colon", b"Basic: " + DEMO, marks=H4),
    row("sep-equals", b"Basic=" + DEMO, marks=H4),
    row("outer-lf-after", b"Basic " + DEMO + b"\n", marks=H10),
    row("outer-crlf-after", b"Basic " + DEMO + b"\r\n", marks=H10),
    row("outer-nul-after", b"Basic " + DEMO + b"\x00", marks=H10),
    row("outer-vt-before", b"\x0bBasic " + DEMO),
    row("outer-nbsp-before", b"\xa0Basic " + DEMO),
    row("token-space-inside", b"Basic " + DEMO[:4] + b" " + DEMO[4:]),
    row("token-tab-inside", b"Basic " + DEMO[:4] + b"\t" + DEMO[4:]),
    row("token-lf-inside", b"Basic " + DEMO[:4] + b"\n" + DEMO[4:], marks=H10),
    row("token-nul-inside", b"Basic " + DEMO[:4] + b"\x00" + DEMO[4:], marks=H10),
    row("token-junk-inside", b"Basic " + DEMO[:4] + b"!" + DEMO[4:], marks=H5),
    row("token-junk-before", b"Basic *" + DEMO, marks=H5),
    row("token-junk-after", b"Basic " + DEMO + b"*", marks=H5),
    row("token-high-byte", b"Basic " + DEMO[:4] + b"\xff" + DEMO[4:]),
    row("token-quoted", b'Basic "' + DEMO + b'"'),
    row("token-percent", b"Basic " + DEMO.replace(b"=", b"%3D")),
    row("token-plain-pair", b"Basic demo:p@55w0rd"),
    row("token-auth-param", b"Basic token=" + DEMO, marks=H5),
    row("token-then-auth-param", b"Basic " + DEMO + b', charset="UTF-8"', marks=H5),
    row("token-only-padding", b"Basic ===="),
    row("token-one-digit", b"Basic Z"),
    row("padding-missing", b"Basic " + DEMO.rstrip(b"="), marks=B11),
    row("padding-one-missing", b"Basic " + DEMO[:-1], marks=B11),
    row("padding-extra", b"Basic " + DEMO + b"=", marks=B11),
    row("padding-where-none-belongs", b"Basic " + b64encode(b"a:b") + b"====", marks=B11),
    row("padding-in-the-middle", b"Basic " + b64encode(b"a:") + b64encode(b"b"), marks=B11),
    row("padding-then-more", b"Basic " + b64encode(b"a:bc") + b64encode(b"xyz"), marks=B11),
    row("trailing-bits-of-two", b"Basic YTpiYx==", marks=B11),  # canonical: YTpiYw==
    row("trailing-bits-of-four", b"Basic YTpiY2R=", marks=B11),  # canonical: YTpiY2Q=
    row("url-safe-dash", b"Basic " + urlsafe_b64encode(b">>>:a???"), marks=H5),
    row("url-safe-underscore", b"Basic " + urlsafe_b64encode(b"???:a???"), marks=H5),
    row("token68-tilde", b"Basic YTpi~AAA", marks=H5),
    row("token68-dot", b"Basic YTpi.AAA", marks=H5),
    row("empty-token-decodes-to-nothing", b"Basic    "),
    row("no-colon", basic("demo"), marks=B4),
    row("no-colon-fullwidth", basic("demo\uff1asecret")),
    row("empty-id", basic(":secret"), marks=B10),
    row("empty-secret", basic("demo:"), marks=B10),
    row("empty-both", basic(":"), marks=B10),
    row("empty-id-colons", basic("::"), marks=B10),
    row("utf8-latin1-pound", basic(b"test:123\xa3"), marks=B2),
    row("utf8-lone-continuation", basic(b"a:\x80"), marks=B2),
    row("utf8-cut", basic(b"a:\xe2\x82"), marks=B2),
    row("utf8-ff", basic(b"a:\xff"), marks=B2),
    row("utf8-utf16", basic("a:b".encode("utf-16")), marks=B2),
    row("utf8-overlong-colon", basic(b"a\xc0\xbab:c"), marks=B2),
    row("utf8-overlong-colon-alone", basic(b"a\xc0\xbab"), marks=B2),
    row("utf8-overlong-nul", basic(b"a:b\xc0\x80"), marks=B2),
    row("utf8-overlong-slash", basic(b"a:\xe0\x80\xaf"), marks=B2),
    row("utf8-surrogate", basic(b"a:\xed\xa0\x80"), marks=B2),
    row("utf8-surrogate-pair", basic(b"a:\xed\xa0\xbd\xed\xb4\x91"), marks=B2),
    row("utf8-above-10ffff", basic(b"a:\xf4\x90\x80\x80"), marks=B2),
    *(row(f"ctl-id-{byte:02x}", basic(bytes([97, byte, 98]) + b":c"), marks=B3) for byte in CONTROLS),
    *(row(f"ctl-secret-{byte:02x}", basic(b"a:b" + bytes([byte]) + b"c"), marks=B3) for byte in CONTROLS),
    row("ctl-nul-truncates", basic(b"demo:p@55w0rd\x00junk"), marks=B3),
    row("ctl-at-the-end", basic(b"demo:p@55w0rd\n"), marks=B3),
    row("joined-same", b"Basic " + DEMO + b", Basic " + DEMO, marks=H8),
    row("joined-no-space", b"Basic " + DEMO + b",Basic " + DEMO, marks=H8),
    row("joined-other", b"Basic " + DEMO + b", Bearer abc", marks=H8),
    row("joined-semicolon", b"Basic " + DEMO + b"; Basic " + DEMO, marks=H8),
    row("joined-unpadded", basic("a:b") + b", " + basic("a:b"), marks=H8),
    row("joined-empty-after", b"Basic " + DEMO + b",", marks=H8),
    row("joined-empty-before", b", Basic " + DEMO, marks=H8),
    row("two-tokens", b"Basic " + DEMO + b" " + DEMO, marks=H8),
    row("too-long-spaces", b"Basic " + b" " * MAX_HEADER_BYTES + DEMO, marks=O3),
    row("too-long-outer-blanks", b"Basic " + DEMO + b" " * MAX_HEADER_BYTES, marks=O3),
    row("too-long-secret", basic(b"a:" + b"b" * 6200), marks=O3),
    row("too-long-megabyte", basic(b"a:" + b"b" * 1_000_000), marks=O3),
]


@pytest.mark.proves("X11", "X19", "X21", "X22", "X25", "X26")
@pytest.mark.parametrize("value", REFUSED)
def test_malformed_credentials(value: bytes) -> None:
    """Anything but one canonical credential is malformed, as bytes and as latin-1 text alike."""
    with pytest.raises(MalformedCredentials):
        parse_basic(value)
    with pytest.raises(MalformedCredentials):
        parse_basic(value.decode("latin-1"))


@pytest.mark.proves("W1", "X19")
@pytest.mark.parametrize(
    "value",
    [
        row("above-latin-1", "Basic \u0100"),
        row("non-latin-pair", "Basic \u5bc6:\u94a5"),
        row("lone-surrogate", "Basic " + DEMO.decode() + "\udcff"),
        row("fullwidth-token", "Basic " + "".join(chr(0xFEE0 + byte) for byte in DEMO)),
        row("kelvin-sign", "Bas\u212ac " + DEMO.decode()),
        row("em-space", "Basic\u2003" + DEMO.decode()),
    ],
)
def test_text_outside_latin_1_is_malformed(value: str) -> None:
    """It is not a UnicodeEncodeError (PEP 3333)."""
    with pytest.raises(MalformedCredentials):
        parse_basic(value)


@pytest.mark.parametrize("value", [None, 1, [], memoryview(b"Basic YTpi")])
def test_what_is_not_text_is_malformed(value: Any) -> None:
    """An app may pass on the value of an absent header."""
    with pytest.raises(MalformedCredentials):
        parse_basic(value)


@pytest.mark.parametrize(
    "value",
    [
        row("not-utf8", basic(b"canary-id:canary-secret\xff")),
        row("control", basic(b"canary-id:canary-secret\x01")),
        row("junk", basic(b"canary-id:canary-secret") + b"!"),
        row("no-colon", basic(b"canary-secret")),
    ],
)
def test_an_error_shows_nothing_of_the_header(value: bytes) -> None:
    """Neither the message nor the traceback contains the value, decoded or encoded."""
    with pytest.raises(MalformedCredentials) as refusal:
        parse_basic(value)

    printed = "".join(traceback.format_exception(refusal.value)) + repr(refusal.value)
    assert "canary" not in printed
    assert b64encode(b"canary-").decode()[:8] not in printed


# --- properties

_SCHEMES = st.sampled_from(
    [b"Basic ", b"basic ", b"Basic  ", b" Basic ", b"Basic\t", b"Basic", b"Bearer ", b""]
)
_TOKENS = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(b64encode),
    st.binary(max_size=40).map(lambda data: b64encode(b"a:" + data)),
    st.text(st.sampled_from("YTpiMDAwQ+/-_= \t,=\n"), max_size=16).map(str.encode),
)
FIELDS = st.one_of(
    st.binary(max_size=80),
    st.tuples(_SCHEMES, _TOKENS, st.sampled_from([b"", b" ", b"\t", b"=", b"\n", b", Basic YTpi"])).map(
        b"".join
    ),
)
LEGAL = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(byte) for byte in CONTROLS]),
    min_size=1,
    max_size=60,
)
LEGAL_IDS = LEGAL.filter(lambda text: ":" not in text)


@pytest.mark.proves("B3", "B10", "X14", "X19", "X25")
@given(st.one_of(FIELDS, st.text(max_size=60), st.text(max_size=30).map("Basic ".__add__)))
@example(b"Basic \xff")
@example("Basic \ud800")
def test_any_input_gives_credentials_or_malformed_credentials(value: bytes | str) -> None:
    """Any value gives usable credentials or MalformedCredentials, and nothing else."""
    try:
        credentials = parse_basic(value)
    except MalformedCredentials:
        return
    assert type(credentials) is Credentials
    assert credentials.client_id
    assert credentials.secret
    assert ":" not in credentials.client_id
    assert not {ord(character) for character in credentials.client_id + credentials.secret} & set(CONTROLS)


@given(FIELDS)
def test_bytes_and_latin_1_text_give_the_same_result(value: bytes) -> None:
    """ASGI passes bytes, WSGI latin-1 text."""

    def outcome(field: bytes | str) -> Credentials | None:
        try:
            return parse_basic(field)
        except MalformedCredentials:
            return None

    assert outcome(value) == outcome(value.decode("latin-1"))


@pytest.mark.proves("H4", "H5", "B11", "X21")
@given(FIELDS)
@example(b" \tbASIC   " + DEMO + b" \t")
def test_credentials_have_one_canonical_form(value: bytes) -> None:
    """Only what encode_basic writes is accepted, up to the case of the scheme and spaces around the token."""
    try:
        credentials = parse_basic(value)
    except MalformedCredentials:
        return
    form = re.fullmatch(rb"[ \t]*[Bb][Aa][Ss][Ii][Cc] +([^ \t]+)[ \t]*", value)
    assert form is not None
    assert b"Basic " + form[1] == encode_basic(credentials.client_id, credentials.secret).encode()


@pytest.mark.proves("B5", "X2", "X27")
@given(LEGAL_IDS, LEGAL)
@example("a", ":")
@example("\ufeff", "\u0080")
def test_every_valid_pair_round_trips(client_id: str, secret: str) -> None:
    """Every valid pair is parsed back unchanged, character for character."""
    assert parse_basic(encode_basic(client_id, secret)) == Credentials(client_id, secret)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_pair_is_encoded_or_invalid(client_id: str, secret: str) -> None:
    """encode_basic returns a value that parses to the same pair, or raises InvalidKey, and nothing else."""
    try:
        value = encode_basic(client_id, secret)
    except InvalidKey:
        return
    assert parse_basic(value) == Credentials(client_id, secret)


# --- encoding


def test_encode_basic_documented_example() -> None:
    """The value in the documentation is correct."""
    assert encode_basic("demo", "p@55w0rd") == "Basic ZGVtbzpwQDU1dzByZA=="


@pytest.mark.parametrize(
    ("client_id", "secret"),
    [
        row("empty-id", "", "secret"),
        row("empty-secret", "demo", ""),
        row("empty-both", "", ""),
        row("colon-in-id", "de:mo", "secret"),
        row("colon-ends-id", "demo:", "secret"),
        row("colon-is-id", ":", "secret"),
        row("nul-in-id", "de\0mo", "secret"),
        row("newline-in-secret", "demo", "sec\nret"),
        row("del-in-secret", "demo", "sec\x7fret"),
        row("surrogate-in-id", "\ud800", "secret"),
        row("surrogate-in-secret", "demo", "canary\udcff"),
        row("too-long", "demo", "x" * 6200),
        row("bytes-as-id", b"demo", "canary"),
        row("bytes-as-secret", "demo", b"canary"),
        row("no-secret", "demo", None),
        row("number-as-id", 1, "canary"),
    ],
)
def test_encode_basic_refuses_what_parse_basic_refuses(client_id: str, secret: str) -> None:
    """InvalidKey, whose message does not contain the secret."""
    with pytest.raises(InvalidKey) as refusal:
        encode_basic(client_id, secret)
    assert "canary" not in "".join(traceback.format_exception(refusal.value))


# --- the value


def test_repr_hides_the_secret() -> None:
    """Printing the credentials never shows the secret."""
    credentials = Credentials("demo", "canary")

    assert "demo" in repr(credentials)
    for shown in (repr(credentials), str(credentials), f"{credentials}", repr([credentials])):
        assert "canary" not in shown


@pytest.mark.proves("X41", "X42")
def test_parsed_credentials_are_not_a_principal() -> None:
    """Parsed credentials are not verified: they are not a principal, and are not accepted as one."""
    read = parse_basic(encode_basic("ci", "whatever"))

    assert not isinstance(read, Principal)
    for name in ("scopes", "is_authenticated", "identity", "display_name", "metadata"):
        assert not hasattr(read, name)
    for scopes in ([], ["read"]):
        with pytest.raises(AttributeError):
            require_scopes(read, *scopes)  # type: ignore[arg-type]
    assert not Principal.anonymous().is_authenticated
    with pytest.raises(InsufficientScope):
        require_scopes(None, "read")


def test_credentials_are_immutable_values() -> None:
    """They compare by content and cannot be changed."""
    credentials = Credentials("demo", "secret")

    assert credentials == Credentials("demo", "secret")
    assert credentials != Credentials("demo", "other")
    assert hash(credentials) == hash(Credentials("demo", "secret"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        credentials.secret = "other"  # type: ignore[misc]


# --- the challenge


def read_challenge(field: str) -> tuple[str, dict[str, str]]:
    """Read one challenge with quoted parameters as RFC 9110 sections 5.6.4 and 11.3 say."""
    scheme, _, rest = field.partition(" ")
    parameters: dict[str, str] = {}
    while rest:
        form = re.match(r'([a-z]+)="((?:[^"\\]|\\.)*)"(?:, |\Z)', rest)
        assert form is not None, rest
        assert form[1] not in parameters
        parameters[form[1]] = re.sub(r"\\(.)", r"\1", form[2])
        rest = rest[form.end() :]
    return scheme, parameters


@pytest.mark.proves("H6")
@pytest.mark.parametrize(
    ("realm", "field"),
    [
        row("plain", "api", 'Basic realm="api", charset="UTF-8"'),
        row("empty", "", 'Basic realm="", charset="UTF-8"'),
        row("quote", 'a"b', r'Basic realm="a\"b", charset="UTF-8"'),
        row("backslash", "a\\b", r'Basic realm="a\\b", charset="UTF-8"'),
        row("both", '\\"', r'Basic realm="\\\"", charset="UTF-8"'),
        row(
            "looks-like-more",
            'x", charset="latin-1',
            r'Basic realm="x\", charset=\"latin-1", charset="UTF-8"',
        ),
    ],
)
def test_challenge_quotes_the_realm(realm: str, field: str) -> None:
    """The realm is a quoted-string: no realm can end it, or add a parameter."""
    assert challenge(realm) == field


@pytest.mark.proves("H7", "B1", "B2")
@given(st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cc", "Cs"])))
@example('"')
@example("\\")
@example('\\", realm="x')
def test_every_realm_round_trips(realm: str) -> None:
    """A parser of quoted strings reads the same realm, and each parameter once."""
    assert read_challenge(challenge(realm)) == ("Basic", {"realm": realm, "charset": "UTF-8"})


@pytest.mark.proves("H7")
def test_challenge_with_another_scheme() -> None:
    """Only the scheme changes."""
    assert read_challenge(challenge("api", scheme="xBasic")) == (
        "xBasic",
        {"realm": "api", "charset": "UTF-8"},
    )


@pytest.mark.parametrize(
    ("value", "usual"),
    [
        row("usual", b"Basic YTpi", True),
        row("lower", b"basic YTpi", True),
        row("upper", b"BASIC YTpi", True),
        row("letters-at-the-ends", b"Basic XzpX", True),
        row("mixed", b"bASIC YTpi", False),
        row("two-spaces", b"Basic  YTpi", False),
        row("space-before", b" Basic YTpi", False),
        row("space-after", b"Basic YTpi ", False),
        row("tab-after", b"Basic YTpi\t", False),
    ],
)
def test_is_canonical(value: bytes, usual: bool) -> None:
    """Every form is accepted, but only the usual ones are cached."""
    assert parse_basic(value) == (Credentials("_", "W") if b"X" in value else Credentials("a", "b"))
    assert is_canonical(value) is usual
