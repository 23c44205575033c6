"""The Authorization field and its challenge: RFC 7617, RFC 9110 section 11, RFC 4648 section 4."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass, field

from ..errors import InvalidKey, MalformedCredentials

MAX_FIELD_OCTETS = 8192

# RFC 7617 section 2: user-id and password hold no CTL of RFC 5234 appendix B.1.
CONTROLS = bytes([*range(0x20), 0x7F])

_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")

_USUAL = (b"Basic ", b"basic ", b"BASIC ")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one Authorization field said; nothing about whether it is true.

    Attributes:
        client_id: Before the first colon; never empty.
        secret: After it, colons included; never empty. Hidden in ``repr``.
    """

    client_id: str
    secret: str = field(repr=False)


def parse_basic(value: bytes | str) -> Credentials:
    """Decode the value of one ``Authorization: Basic`` field (RFC 7617 section 2).

    A credential has exactly one spelling, up to the case of the scheme and the spaces around the token:
    padding is required, bits behind it must be zero, nothing outside the alphabet is skipped
    (RFC 4648 sections 3.2, 3.3 and 3.5). Nothing is normalised.

    Args:
        value: The field value as received, scheme included, at most ``MAX_FIELD_OCTETS`` octets. A ``str``
            is taken as latin-1 code points, as WSGI hands it over (PEP 3333).

    Returns:
        Client id and secret, decoded as UTF-8.

    Raises:
        MalformedCredentials: Anything else: another scheme, too long, not canonical base64, not UTF-8, no
            colon, an empty half, a control character. Nothing else is raised, whatever the value. Its text
            is one of a fixed set and holds nothing of the value.
    """
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            raise MalformedCredentials("not octets") from None
    return Credentials(*split_basic(value))


def split_basic(value: bytes) -> tuple[str, str]:
    """``parse_basic`` for the request path: client id and secret."""
    if len(value) > MAX_FIELD_OCTETS:
        raise MalformedCredentials("too long")
    value = value.strip(b" \t")  # optional white space round a field value: RFC 9110 section 5.5
    if value[:6].lower() != b"basic ":  # credentials = auth-scheme 1*SP token68: RFC 9110 section 11.4
        raise MalformedCredentials("wrong scheme")
    token = value[6:].lstrip(b" ")
    try:
        octets = a2b_base64(token)
    except Base64Error:
        raise MalformedCredentials(_what_is_wrong(token)) from None
    if b2a_base64(octets, newline=False) != token:
        raise MalformedCredentials(_what_is_wrong(token))
    if len(octets.translate(None, CONTROLS)) != len(octets):
        raise MalformedCredentials("control character")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise MalformedCredentials("not UTF-8") from None
    client_id, colon, secret = text.partition(":")
    if not colon:
        raise MalformedCredentials("no colon")
    if not client_id or not secret:
        raise MalformedCredentials("empty id or secret")
    return client_id, secret


def _what_is_wrong(token: bytes) -> str:
    """Say why a token is not valid base64."""
    if b"," in token:  # how several fields arrive as one: RFC 9110 section 5.3
        return "repeated header"
    return "not canonical base64" if len(token) % 4 == 0 and _BASE64.fullmatch(token) else "not base64"


def is_usual_spelling(value: bytes) -> bool:
    """Whether a well-formed field value is spelt as programs do: the scheme in one of three cases, one space.

    Other spellings of a credential are as good, but there are thousands, and nothing should be kept for each.
    """
    return value.startswith(_USUAL) and value[6:] == value[6:].strip(b" \t")


def encode_basic(client_id: str, secret: str) -> str:
    """Make the value of an Authorization field.

    Args:
        client_id: Not empty, no colon, no control character.
        secret: Not empty, no control character.

    Returns:
        ``"Basic "`` and the base64 of ``client_id:secret`` in UTF-8.

    Raises:
        InvalidKey: The pair would not parse back to itself.
    """
    if not (isinstance(client_id, str) and isinstance(secret, str)):
        raise InvalidKey("client id and secret are text")
    try:
        octets = f"{client_id}:{secret}".encode()
    except UnicodeEncodeError:
        raise InvalidKey("client id and secret must be encodable as UTF-8: no lone surrogates") from None
    value = b"Basic " + b2a_base64(octets, newline=False)
    try:
        parsed = parse_basic(value)
    except MalformedCredentials as exc:
        raise InvalidKey(f"client id and secret cannot be sent as Basic credentials: {exc}") from None
    if parsed.client_id != client_id:
        raise InvalidKey("a client id holds no colon: it would end there")
    return value.decode("ascii")


def challenge(realm: str, *, scheme: str = "Basic") -> str:
    """Make the value of a WWW-Authenticate field (RFC 7617 section 2, RFC 9110 section 11.6.1).

    Args:
        realm: Any text without control characters.
        scheme: ``Basic``, or a name that browsers do not know and so open no dialog for.

    Returns:
        The challenge, with the realm as a quoted-string.
    """
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    return f'{scheme} realm="{quoted}", charset="UTF-8"'
