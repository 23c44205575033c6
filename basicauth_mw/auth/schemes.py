"""Read the credentials of a request by the enabled schemes, and make the challenges for a 401.

The token of a key is the base64 text that follows ``Basic`` in its Authorization header. The other schemes
carry the same token: ``Authorization: Bearer <token>`` (RFC 6750 section 2.1), or a separate header. So
credentials of any scheme are read as the Basic credentials with that token, and all schemes share one parser,
one cache and one verifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ..keys.authorization_header import MAX_HEADER_BYTES, challenge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .request_adapters import RequestAdapter

R = TypeVar("R")

BASIC_ONLY: Final = ("basic",)
_HEADER: Final = "header:"
_AUTHORIZATION: Final = "authorization"
_NAMES: Final = {"basic": "Basic", "bearer": "Bearer"}
_BASE64: Final = "base64(client_id:client_secret)"
_OTHER_SCHEME: Final = b"-"  # not Basic credentials, so the parser refuses it


def credential_headers(schemes: Sequence[str]) -> tuple[str, ...]:
    """The headers that the schemes read, by their lower-case names."""
    headers = tuple(scheme.removeprefix(_HEADER) for scheme in schemes if scheme.startswith(_HEADER))
    return headers if len(headers) == len(schemes) else (_AUTHORIZATION, *headers)


def auth_type(scheme: str | None) -> str:
    """The name of a scheme for ``AUTH_TYPE`` (RFC 3875 section 4.1.1)."""
    return _NAMES.get(scheme or "", "ApiKey")


def challenges(schemes: Sequence[str], realm: str, *, opens_dialog: bool = True) -> tuple[str, ...]:
    """The values of the WWW-Authenticate headers of a 401, in the order of the schemes, as latin-1.

    Args:
        schemes: As in the setting.
        realm: As in the setting.
        opens_dialog: Whether a browser may ask for a user name and a password.
    """
    names = [_NAMES[scheme] for scheme in schemes if scheme in _NAMES]
    if not opens_dialog:
        names = ["xBasic" if name == "Basic" else name for name in names]
    # A 401 must have a challenge (RFC 9110 section 15.5.2), and no scheme is registered for a header.
    return tuple(challenge(realm, scheme=name).encode().decode("latin-1") for name in names or ["ApiKey"])


def instructions(schemes: Sequence[str]) -> str:
    """How to send a key, for the response to a request without one."""
    prefixes = (
        f"Authorization: {_NAMES[scheme]}" if scheme in _NAMES else f"{scheme.removeprefix(_HEADER)}:"
        for scheme in schemes
    )
    return f"Send an API key: {' or '.join(f'{each} {_BASE64}' for each in prefixes)}."


class CredentialReader(Generic[R]):
    """Reads the credentials of a request as the value of a Basic Authorization header.

    Args:
        adapter: How to read a header.
        schemes: As in the setting.
    """

    def __init__(self, adapter: RequestAdapter[R], schemes: Sequence[str]) -> None:
        self._adapter = adapter
        self._schemes = schemes
        self._headers = credential_headers(schemes)

    def read(self, request: R) -> bytes | None:
        """The Basic credentials with the token that was sent; None if the request has no credentials.

        A request that has different credentials, or a scheme that is not enabled, gets a value that the
        parser refuses.
        """
        found: bytes | None = None
        for _, credentials in self._sent(request):
            if found and credentials and found != credentials:
                return b"%b, %b" % (found, credentials)  # as if one header was repeated
            found = found or credentials
        return found

    def scheme(self, request: R) -> str | None:
        """The scheme of the first credentials in a request; None if there is none, or it is not enabled."""
        return next((scheme for scheme, credentials in self._sent(request) if credentials), None)

    def _sent(self, request: R) -> Iterator[tuple[str | None, bytes]]:
        """The scheme and the Basic credentials of each header; these are empty if the header is."""
        for header in self._headers:
            sent = self._adapter.credential_header(request, header)
            if sent is None:
                continue
            value = sent.strip(b" \t")
            if not value:
                yield None, b""
            elif len(sent) > MAX_HEADER_BYTES:
                yield None, sent
            elif header != _AUTHORIZATION:
                yield _HEADER + header, b"Basic " + value
            else:
                name, _, token = value.partition(b" ")
                scheme = name.lower().decode("latin-1")
                if scheme in _NAMES and scheme in self._schemes:
                    yield scheme, b"Basic " + token.lstrip(b" ")
                else:
                    yield None, _OTHER_SCHEME
