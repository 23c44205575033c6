"""Helpers for testing a protected app: send a key, or bypass authentication.

``basicauth_mw.testing.fixtures`` has pytest fixtures. None of this is for production: ``authenticated_as``
works only while a test runs.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..auth.discovery import find_authenticator
from ..errors import ConfigurationError
from ..keys.authorization_header import encode_basic
from ..keys.model import ANONYMOUS, Deny, Principal
from ..keys.validation import check_client_id, check_metadata, check_name, check_scopes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType

    from ..auth.verifier import PendingVerification
    from ..keys.model import Decision

__all__ = ["BasicAuth", "authenticated_as"]

logger = logging.getLogger("basicauth_mw")


class _HasHeaders(Protocol):
    @property
    def headers(self) -> Any: ...


Request = TypeVar("Request", bound=_HasHeaders)


class BasicAuth:
    """A key as ``auth=`` for httpx, requests and similar clients.

    Encodes the key as UTF-8, unlike the ``auth=`` of requests itself.

    Args:
        client_id: Not empty, no colon, no control character.
        secret: Not empty, no control character.

    Raises:
        InvalidKey: The client ID or the secret is not allowed.
    """

    def __init__(self, client_id: str, secret: str) -> None:
        self.client_id = client_id
        self._authorization = encode_basic(client_id, secret)

    def __call__(self, request: Request) -> Request:
        """Add the Authorization header to a request."""
        request.headers["Authorization"] = self._authorization
        return request

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client_id!r}, ...)"


@contextmanager
def authenticated_as(
    app: Any,
    client_id: str = "test",
    *,
    name: str = "",
    scopes: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[Principal]:
    """Accept requests without credentials to one app, as the given caller, inside a ``with`` block.

    Everything else works as usual: credentials in a request are verified, open paths are anonymous, and
    ``require_https`` applies.

    The bypass is bound to the process and to the pytest or unittest test that enables it. If it is still
    enabled after that test, every request to the app fails with an error that names the test. It cannot be
    nested for the same app.

    Args:
        app: The app as it is served, or its test client; for Django the test client.
        client_id: Client ID of the principal.
        name: As for ``Backend.create``.
        scopes: As for ``Backend.create``.
        metadata: As for ``Backend.create``.

    Yields:
        The principal that the app sees.

    Raises:
        RuntimeError: No test is running in this process, or the bypass is already enabled for this app.
        ConfigurationError: The app has no ``BasicAuthMiddleware``.
        InvalidKey: An argument is not allowed in a key.
    """
    owner = _running_test()
    if owner is None:
        raise RuntimeError("authenticated_as works only inside a running test of pytest or unittest")
    principal = Principal(
        check_client_id(client_id), check_name(name), check_scopes(scopes), check_metadata(metadata)
    )
    authenticator = find_authenticator(app, build=True)
    if authenticator is None:
        raise ConfigurationError(
            f"found no BasicAuthMiddleware in this {type(app).__name__}: pass the app as it is served"
        )
    original = authenticator.decide

    def decide(request: Any) -> Decision | PendingVerification:
        if _running_test() != owner:
            raise RuntimeError(
                f"authenticated_as was not exited by {owner[1]}; it is valid in that test only"
            )
        decision = original(request)
        if isinstance(decision, Deny) and decision.reason == "missing":
            return principal
        if decision is ANONYMOUS and authenticator.is_optional(request):
            return principal
        return decision

    # setdefault is atomic: if two threads enable the bypass at the same time, one fails.
    if vars(authenticator).setdefault("decide", decide) is not decide:
        raise RuntimeError("authenticated_as is already active for this app")
    logger.warning("test only: requests without credentials are accepted as %r", client_id)
    try:
        yield principal
    finally:
        vars(authenticator).pop("decide")


def _running_test() -> tuple[int, str] | None:
    """The process ID and the name of the test that runs in this process."""
    frames = list(_all_frames())
    test = os.environ.get("PYTEST_CURRENT_TEST")
    # The variable does not suffice, because every child process inherits it.
    if test is not None and any(frame.f_globals.get("__name__") == "_pytest.runner" for frame in frames):
        return os.getpid(), test.rpartition(" (")[0]  # without the phase, such as setup
    for frame in frames:
        if frame.f_globals.get("__name__") == "unittest.case" and frame.f_code.co_name == "run":
            return os.getpid(), frame.f_locals["self"].id()
    return None


def _all_frames() -> Iterator[FrameType]:
    """The frames of all threads, since the app under test may run in another thread than the test."""
    # CPython 3.11.7, for example, can deadlock if the garbage collector runs during this call (gh-106883).
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        current = sys._current_frames()  # noqa: SLF001 - there is no public way
    finally:
        if was_enabled:
            gc.enable()
    for innermost in current.values():
        frame: FrameType | None = innermost
        while frame is not None:
            yield frame
            frame = frame.f_back
