"""For the tests of an app behind the gate: send a key, or do without one.

``basicauth_mw.testing.fixtures`` has pytest fixtures. Nothing here is for production: ``authenticated_as``
works in a running test, and nowhere else.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ..auth.discovery import find_authenticator
from ..errors import ConfigurationError
from ..keys.credentials import encode_basic
from ..keys.model import Allow, Deny, Principal
from ..keys.validation import check_client_id, check_metadata, check_name, check_scopes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType
    from unittest import TestCase

    from ..auth.verifier import PendingVerification
    from ..keys.model import Decision

__all__ = ["BasicAuth", "authenticated_as"]

logger = logging.getLogger("basicauth_mw")


_PYTEST: Final = "PYTEST_CURRENT_TEST"  # pytest's own variable, with the name of the running test


class _HasHeaders(Protocol):
    @property
    def headers(self) -> Any: ...


Request = TypeVar("Request", bound=_HasHeaders)


class BasicAuth:
    """A key as ``auth=`` for httpx, requests and their like: in UTF-8, which requests' own is not.

    Args:
        client_id: Not empty, no colon, no control character.
        secret: Not empty, no control character.

    Raises:
        InvalidKey: The pair cannot be sent.
    """

    def __init__(self, client_id: str, secret: str) -> None:
        self.client_id = client_id
        self._authorization = encode_basic(client_id, secret)

    def __call__(self, request: Request) -> Request:
        """Add the key to a request that is about to be sent."""
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
    """Let requests without credentials into one app, as a caller of your choice, inside a ``with`` block.

    Nothing else changes: credentials that are sent are checked, an excluded path is anonymous, plain http is
    refused where https is required.

    It holds in the process and the test, of pytest or unittest, in which it was switched on. Left on by
    accident, it lets nobody in: every request fails, and says whose it was. One block inside another for the
    same app is an error.

    Args:
        app: The app as it is served, or its test client; for Django the latter.
        client_id: Of the ``Principal`` that the app sees.
        name: As for ``Backend.create``.
        scopes: As for ``Backend.create``.
        metadata: As for ``Backend.create``.

    Yields:
        That principal.

    Raises:
        RuntimeError: No test is running in this process, or it is on for this app already.
        ConfigurationError: The app has no gate.
        InvalidKey: No key could be like that.
    """
    owner = _running_test()
    if owner is None or (_PYTEST in os.environ and not any(map(_is_pytest, _frames()))):
        raise RuntimeError("authenticated_as works in a running test of pytest or unittest only")
    principal = Principal(
        check_client_id(client_id), check_name(name), check_scopes(scopes), check_metadata(metadata)
    )
    authenticator = find_authenticator(app, build=True)
    if authenticator is None:
        raise ConfigurationError(
            f"no gate was found round or in {type(app).__name__}: give the app that has it"
        )
    undecorated = authenticator.decide

    def decide(request: Any) -> Decision | PendingVerification:
        if _running_test() != owner:
            raise RuntimeError(f"authenticated_as was left on by {owner[1]}: it holds in that test only")
        decision = undecorated(request)
        if isinstance(decision, Deny) and decision.reason == "missing":
            return Allow(principal)
        return decision

    # On the one gate, over its method. Only one can be there, whoever else tries.
    if vars(authenticator).setdefault("decide", decide) is not decide:
        raise RuntimeError("authenticated_as is on for this app already")
    logger.warning("for a test, requests without credentials are let in as %r", client_id)
    try:
        yield principal
    finally:
        vars(authenticator).pop("decide")


def _running_test() -> tuple[int, str] | None:
    """The process, and the test that pytest says is running, without its phase, or else that of unittest."""
    if (test := os.environ.get(_PYTEST)) is not None:
        return os.getpid(), test.rpartition(" (")[0]
    case = next(filter(None, map(_unittest_case, _frames())), None)
    return None if case is None else (os.getpid(), case.id())


def _frames() -> Iterator[FrameType]:
    """What is being executed, in all threads: a test may use some."""
    for innermost in sys._current_frames().values():  # noqa: SLF001 - the one way to see them all
        frame: FrameType | None = innermost
        while frame is not None:
            yield frame
            frame = frame.f_back


def _is_pytest(frame: FrameType) -> bool:
    """Whether it is pytest that runs a test: its variable alone is inherited by every child process."""
    return frame.f_globals.get("__name__") == "_pytest.runner"


def _unittest_case(frame: FrameType) -> TestCase | None:
    """The test that unittest runs here."""
    if frame.f_globals.get("__name__") != "unittest.case" or frame.f_code.co_name != "run":
        return None
    case: TestCase = frame.f_locals["self"]
    return case
