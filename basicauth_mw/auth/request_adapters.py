"""Read what the decision needs from a request: an ASGI scope, or a WSGI environ.

Both adapters read headers strictly. A repeated header counts as absent. Repeated Authorization headers are
joined by a comma, which makes them malformed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    Scope = MutableMapping[str, Any]
    Environ = dict[str, Any]

R_contra = TypeVar("R_contra", contravariant=True)

PRINCIPAL: Final = "basicauth_mw.principal"  # where the app finds the caller, in the scope or environ
AUTHORIZATION: Final = b"authorization"


class RequestAdapter(Protocol[R_contra]):
    """How ``Authenticator`` reads one kind of request."""

    def authorization(self, request: R_contra) -> bytes | None:
        """The value of the Authorization header; None if it is absent."""
        ...

    def credential_header(self, request: R_contra, name: str) -> bytes | None:
        """The value of a header that may hold credentials, by its lower-case name; None if it is absent."""
        ...

    def header(self, request: R_contra, name: str) -> str | None:
        """Another header by its lower-case name, as latin-1; None if it is absent or repeated."""
        ...

    def address(self, request: R_contra) -> str:
        """The client's address as the server reports it; empty if it does not."""
        ...

    def scheme(self, request: R_contra) -> str:
        """``http``, ``https``, ``ws`` or ``wss``."""
        ...

    def method(self, request: R_contra) -> str:
        """The request method; empty for a websocket."""
        ...

    def path(self, request: R_contra) -> tuple[str, str | None, bytes]:
        """The decoded path, the mount point that it may include (None: it never does), the path as sent."""
        ...


class ASGIRequest:
    """Reads an ASGI scope of type http or websocket."""

    @staticmethod
    def authorization(request: Scope) -> bytes | None:
        found: bytes | None = None
        for name, value in request["headers"]:
            # ASGI servers should send names in lower case, and some do not.
            if len(name) == 13 and (name == AUTHORIZATION or name.lower() == AUTHORIZATION):
                if found is not None:
                    return b"%b, %b" % (found, value)
                found = value
        return found

    @staticmethod
    def credential_header(request: Scope, name: str) -> bytes | None:
        wanted = name.encode()
        length = len(wanted)  # compared first, as that is cheaper
        found = [
            value for sent, value in request["headers"] if len(sent) == length and sent.lower() == wanted
        ]
        return b", ".join(found) if found else None

    @staticmethod
    def header(request: Scope, name: str) -> str | None:
        wanted = name.encode()
        length = len(wanted)
        found: bytes | None = None
        for sent, value in request["headers"]:
            if len(sent) == length and sent.lower() == wanted:
                if found is not None:
                    return None
                found = value
        # WSGI servers join repeated headers with a comma, and no header that is read here contains one.
        return None if found is None or b"," in found else found.decode("latin-1")

    @staticmethod
    def address(request: Scope) -> str:
        client = request.get("client")
        return str(client[0]) if client and client[0] else ""

    @staticmethod
    def scheme(request: Scope) -> str:
        return str(request.get("scheme", "http"))

    @staticmethod
    def method(request: Scope) -> str:
        return str(request.get("method", ""))

    @staticmethod
    def path(request: Scope) -> tuple[str, str | None, bytes]:
        raw = request.get("raw_path") or b""
        return request["path"], request.get("root_path") or "", raw.partition(b"?")[0]


def environ_key(name: str) -> str:
    """The key of a header in a WSGI environ (RFC 3875 section 4.1.18)."""
    return "HTTP_" + name.upper().replace("-", "_")


class WSGIRequest:
    """Reads a WSGI environ, whose text is bytes decoded as latin-1 (PEP 3333, "Unicode Issues")."""

    @staticmethod
    def authorization(request: Environ) -> bytes | None:
        value: str | None = request.get("HTTP_AUTHORIZATION")
        # A server may break PEP 3333; a question mark is never part of credentials.
        return None if value is None else value.encode("latin-1", "replace")

    @staticmethod
    def credential_header(request: Environ, name: str) -> bytes | None:
        value: str | None = request.get(environ_key(name))
        return None if value is None else value.encode("latin-1", "replace")

    @staticmethod
    def header(request: Environ, name: str) -> str | None:
        value: str | None = request.get(environ_key(name))
        return None if value is None or "," in value else value  # a comma: as for ASGI

    @staticmethod
    def address(request: Environ) -> str:
        return str(request.get("REMOTE_ADDR") or "")

    @staticmethod
    def scheme(request: Environ) -> str:
        return str(request.get("wsgi.url_scheme", "http"))

    @staticmethod
    def method(request: Environ) -> str:
        return str(request.get("REQUEST_METHOD", ""))

    @staticmethod
    def path(request: Environ) -> tuple[str, str | None, bytes]:
        # PATH_INFO never includes the mount point. Only some servers report the path as sent.
        path = request.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
        raw = str(request.get("RAW_URI") or request.get("REQUEST_URI") or "")
        return path, None, raw.partition("?")[0].encode("utf-8", "replace")
