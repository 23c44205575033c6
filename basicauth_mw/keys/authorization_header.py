"""The Authorization header and its challenge: RFC 7617, RFC 9110 section 11, RFC 4648 section 4."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass, field

from ..errors import InvalidKey, MalformedCredentials

MAX_HEADER_BYTES = 8192

# RFC 7617 section 2: user-id and password contain no CTL of RFC 5234 appendix B.1.
CONTROL_CHARS = bytes([*range(0x20), 0x7F])

_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")

_CANONICAL_SCHEMES = (b"Basic ", b"basic ", b"BASIC ")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Client ID and secret of an Authorization header, not yet verified.

    Attributes:
        client_id: The part before the first colon; never empty.
        secret: The part after it, which may contain colons; never empty. Hidden in ``repr``.
    """

    client_id: str
    secret: str = field(repr=False)


def parse_basic(value: bytes | str) -> Credentials:
    """Parse the value of an ``Authorization: Basic`` header (RFC 7617 section 2).

    The parser is strict. Only canonical base64 is accepted: padding is required, unused bits must be zero,
    and characters outside the alphabet are errors (RFC 4648 sections 3.2, 3.3 and 3.5). Only the case of the
    scheme and the spaces around the token may vary. Nothing is normalized.

    Args:
        value: The header value as received, including the scheme; at most 8192 bytes. A ``str`` is read as
            latin-1, as in WSGI (PEP 3333).

    Returns:
        Client ID and secret, decoded as UTF-8.

    Raises:
        MalformedCredentials: The value is anything else: another scheme, too long, not canonical base64, not
            UTF-8, without a colon, with an empty part or a control character. No other exception is raised.
            The message is one of a fixed set and contains nothing of the value.

    Example::

        >>> parse_basic("Basic Y2k6c2VjcmV0").client_id
        'ci'
    """
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            raise MalformedCredentials("not latin-1") from None
    if not isinstance(value, bytes):
        raise MalformedCredentials("not text")
    return Credentials(*decode_basic(value))


def decode_basic(value: bytes) -> tuple[str, str]:
    """``parse_basic`` for the request path: client ID and secret."""
    if len(value) > MAX_HEADER_BYTES:
        raise MalformedCredentials("too long")
    value = value.strip(b" \t")  # optional whitespace around a value: RFC 9110 section 5.5
    if value[:6].lower() != b"basic ":  # credentials = auth-scheme 1*SP token68: RFC 9110 section 11.4
        raise MalformedCredentials("wrong scheme")
    token = value[6:].lstrip(b" ")
    try:
        encoded = a2b_base64(token)
    except Base64Error:
        raise MalformedCredentials(_what_is_wrong(token)) from None
    if b2a_base64(encoded, newline=False) != token:
        raise MalformedCredentials(_what_is_wrong(token))
    if len(encoded.translate(None, CONTROL_CHARS)) != len(encoded):
        raise MalformedCredentials("control character")
    try:
        text = encoded.decode()
    except UnicodeDecodeError:
        raise MalformedCredentials("not UTF-8") from None
    client_id, colon, secret = text.partition(":")
    if not colon:
        raise MalformedCredentials("no colon")
    if not client_id or not secret:
        raise MalformedCredentials("empty id or secret")
    return client_id, secret


def _what_is_wrong(token: bytes) -> str:
    """Why a token is not valid base64."""
    if b"," in token:  # repeated headers are joined with commas: RFC 9110 section 5.3
        return "repeated header"
    return "not canonical base64" if len(token) % 4 == 0 and _BASE64.fullmatch(token) else "not base64"


def is_canonical(value: bytes) -> bool:
    """Whether a valid header value has the usual form: ``Basic``, ``basic`` or ``BASIC`` and one space.

    Other forms are valid too, but there are thousands of them for each credential, so they are not cached.
    """
    return value.startswith(_CANONICAL_SCHEMES) and value[6] not in b" \t" and value[-1] not in b" \t"


def encode_basic(client_id: str, secret: str) -> str:
    """Create the value of an ``Authorization: Basic`` header.

    Args:
        client_id: Not empty; no colon and no control characters.
        secret: Not empty; no control characters.

    Returns:
        ``"Basic "`` and the base64 of ``client_id:secret`` in UTF-8.

    Raises:
        InvalidKey: ``parse_basic`` would not return the same pair.

    Example::

        >>> encode_basic("ci", "secret")
        'Basic Y2k6c2VjcmV0'
    """
    if not (isinstance(client_id, str) and isinstance(secret, str)):
        raise InvalidKey("client ID and secret must be strings")
    try:
        encoded = f"{client_id}:{secret}".encode()
    except UnicodeEncodeError:
        raise InvalidKey("client ID and secret must be encodable as UTF-8: no lone surrogates") from None
    value = b"Basic " + b2a_base64(encoded, newline=False)
    try:
        parsed = parse_basic(value)
    except MalformedCredentials as exc:
        raise InvalidKey(f"client ID and secret cannot be sent as Basic credentials: {exc}") from None
    if parsed.client_id != client_id:
        raise InvalidKey("a client ID must not contain a colon: HTTP Basic ends it there")
    return value.decode("ascii")


def challenge(realm: str, *, scheme: str = "Basic") -> str:
    """Create the value of a WWW-Authenticate header (RFC 9110 section 11.6.1).

    Args:
        realm: Any text without control characters.
        scheme: ``Basic``; ``xBasic``, for which browsers open no login dialog; or another scheme, which gets
            no charset (RFC 7617 section 2.1).

    Returns:
        The challenge, with the realm as a quoted-string.
    """
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    charset = ', charset="UTF-8"' if scheme in ("Basic", "xBasic") else ""
    return f'{scheme} realm="{quoted}"{charset}'
