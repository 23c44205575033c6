"""Decide on each request, for all middlewares: ``Authenticator``.

``decide`` returns immediately what needs no I/O: an open path, a cached key, a throttled client, or a
malformed header, which the verifier's parser refuses. Anything else is a ``PendingVerification``, which
``verify`` or ``averify`` completes. A middleware then calls the app, or sends the ``refusal_response``.
"""

from __future__ import annotations

import logging
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ..backends import FailureStore
from ..backends.reader import StoreReader
from ..backends.shared_failures import SharedFailures
from ..errors import (
    BasicAuthError,
    HttpsRequired,
    InsufficientScope,
    MalformedCredentials,
    MissingCredentials,
    Throttled,
    UnreadableRecord,
)
from ..keys import audit
from ..keys.authorization_header import decode_basic
from ..keys.generated_secrets import ID_PREFIX, generate
from ..keys.model import ANONYMOUS, Decision, Deny
from .cache import VerificationCache
from .configuration import resolve
from .path_rules import PathRules, open_folders
from .problems import TIMEOUT, Problem, Response, is_refusal, render, request_id_of, to_problem, unwrap_group
from .refusal_stats import refusal_stats
from .runner import arun, run
from .schemes import BASIC_ONLY, CredentialReader, challenges, credential_headers, instructions
from .throttle import FailureThrottle
from .verifier import INVALID, MALFORMED, PendingVerification, Verifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..backends.reader import DecisionHook
    from ..keys.model import Principal
    from ..settings import Overrides, Settings
    from .path_rules import Access
    from .request_adapters import RequestAdapter

R = TypeVar("R")

logger = logging.getLogger("basicauth_mw")

# Refusals that count as failures of the client; an outage or a missing header does not.
_COUNTED: Final = frozenset({"malformed", "unknown", "wrong_secret", "expired", "disabled", "revoked"})
_AUDITED: Final = _COUNTED | {"missing", "throttled", "backend_unavailable"}
_UNREADABLE_LOG_S: Final = 60.0

_HTTPS_REQUIRED: Final = Deny(HttpsRequired(), "https_required")


class Authenticator(Generic[R]):
    """Decides on the requests of one middleware.

    Args:
        adapter: How to read a request.
        backend: A ``Backend``, a store, a URL, or None for ``settings.backend``.
        settings: None means ``Settings.from_env()``.
        overrides: Fields of ``Settings``, which take precedence over everything else.
        root_path: The mount point that the app itself declares; used if the setting is empty.

    Raises:
        ConfigurationError: Names every problem.
    """

    def __init__(
        self,
        adapter: RequestAdapter[R],
        backend: Any,
        settings: Settings | None,
        overrides: Overrides,
        *,
        root_path: str | None = None,
    ) -> None:
        self.settings, self.backend, self.owns_backend = resolve(backend, settings, overrides)
        settings = self.settings
        self._adapter = adapter
        self._credentials = CredentialReader(adapter, settings.schemes)
        self._authorization = (
            adapter.authorization if settings.schemes == BASIC_ONLY else self._credentials.read
        )
        self.credential_headers = credential_headers(settings.schemes)
        missing = MissingCredentials()
        missing.detail = instructions(settings.schemes)
        self._missing = Deny(missing, "missing")
        # Made once, since most refusals are one of these errors.
        self._problems: dict[BasicAuthError, Problem] = {
            error: to_problem(error) for error in (missing, INVALID, MALFORMED)
        }
        self.reader = StoreReader(
            self.backend.store,
            deadline_s=settings.backend_deadline_s,
            slow_hash_workers=settings.slow_hash_workers,
            feed=self.backend.feed,
            caches=bool(settings.cache_ttl_s),
        )
        self._cache = VerificationCache(settings.cache_ttl_s, settings.cache_size)
        self._cached: Callable[[bytes], Principal | None] = self._cache.get
        self._verifier = Verifier(
            self.backend.hasher,
            self._cache,
            has_password_hashes=self.reader.has_password_hashes,
            on_verified=self.backend.on_verified,
        )
        self.backend.usage.add_hit_source(self._cache.drain_hits)
        self.backend.feed.subscribe(self._cache, keeps_s=settings.cache_ttl_s)
        self._paths = PathRules.from_settings(settings, root_path)
        self._has_rules = self._paths.has_open or settings.require_https or settings.allow_preflight
        self._throttle = FailureThrottle(settings.throttle, settings.throttle_address)
        self._shared_failures: SharedFailures | None = None
        store = self.backend.store
        if self._throttle.enabled and isinstance(store, FailureStore):
            self._shared_failures = SharedFailures(store, self._throttle, self._throttle.share())
            weakref.finalize(self, self._shared_failures.stop)
        self._warned_no_address = self._warned_of_root_path = False
        self._unreadable_logged_at = float("-inf")
        self.challenges = challenges(settings.schemes, settings.realm)
        self._quiet_challenges = challenges(settings.schemes, settings.realm, opens_dialog=False)
        weakref.finalize(self, self.reader.close)  # also at exit
        if self.owns_backend:
            weakref.finalize(self, self.backend.close)
        for rule in self._paths.describe():
            logger.info("%s", rule)
        for entry, folder in open_folders(settings.include):
            logger.warning(
                "include has %r, which leaves the paths below it open; add %r to protect them", entry, folder
            )

    # --- before the app

    def decide(self, request: R) -> Decision | PendingVerification:
        """Decide on a request immediately if that needs no I/O, else return the verification to complete."""
        if self._has_rules and (decision := self._exempt_or_https(request)) is not None:
            return decision
        header = self._authorization(request)
        if header is None:
            return ANONYMOUS if self.is_optional(request) else self._missing
        throttling = self._throttle.active
        if not throttling and (principal := self._cached(header)) is not None:
            return principal
        if not header.strip(b" \t"):
            return self._missing  # some servers pass on an empty value for a header that they could not read
        if throttling:
            if (decision := self._throttled(request, header)) is not None:
                return decision
            if (principal := self._cached(header)) is not None:
                return principal
        return self._verifier.parse(header)

    def is_optional(self, request: R) -> bool:
        """Whether a request without credentials may reach the app as anonymous."""
        return self._paths.has_optional and self._access(request) == "optional"

    def scheme(self, request: R) -> str | None:
        """The scheme of the credentials in a request, as in the setting; None if there are none."""
        return self._credentials.scheme(request)

    def verify(self, pending: PendingVerification) -> Decision:
        """Complete what ``decide`` has returned. Blocks for the backend and for a password hash."""
        return run(pending, self.reader)

    def averify(self, pending: PendingVerification) -> Awaitable[Decision]:
        """``verify`` for an event loop. Suspends only if it has to wait."""
        return arun(pending, self.reader)

    def refusal_response(self, request: R, deny: Deny) -> Response:
        """The response to a refused request; counts and logs the refusal."""
        request_id = request_id_of(self._adapter.header(request, "x-request-id"))
        reason = deny.reason
        self._count_refusal(reason)
        if reason in _COUNTED and self._throttle.enabled:
            self._count_failure(request, deny.client_id)
        if deny.first_refusal and reason in _AUDITED and audit.is_enabled(reason):
            audit.record(
                "auth.throttled" if reason == "throttled" else "auth.refused",
                client_id=deny.client_id,
                reason=reason,
                detail=deny.detail,
                scheme=self.scheme(request),
                address=self._adapter.address(request) or None,
                request_id=request_id,
            )
        if isinstance(deny.error, UnreadableRecord):
            self._log_unreadable(deny, request_id)
        problem = self._problems.get(deny.error) or to_problem(deny.error)
        return self._render(request, problem, request_id)

    def _count_refusal(self, reason: str) -> None:
        refusal_stats.count(reason)
        for hook in self.reader.hooks:
            hook.refused(reason)

    def _exempt_or_https(self, request: R) -> Decision | None:
        """The decision if no credentials are needed, or if they must not be read over plain HTTP."""
        adapter, settings = self._adapter, self.settings
        if self._paths.has_open and self._access(request) == "open":
            return ANONYMOUS
        # A real CORS preflight (Fetch standard, section 3.3.2), not any OPTIONS.
        if (
            settings.allow_preflight
            and adapter.method(request) == "OPTIONS"
            and adapter.header(request, "origin") is not None
            and adapter.header(request, "access-control-request-method") is not None
        ):
            return ANONYMOUS
        if settings.require_https and adapter.scheme(request) not in ("https", "wss"):
            return _HTTPS_REQUIRED
        return None

    def _access(self, request: R) -> Access:
        path, root, raw = self._adapter.path(request)
        if root and self._paths.root_path is None and not self._warned_of_root_path:
            self._warned_of_root_path = True
            logger.warning(
                "the server mounts the app under %r, and routers disagree about the path that is left: "
                "every path needs credentials there; set root_path (BASICAUTH_ROOT_PATH) to it",
                audit.sanitize(root),
            )
        return self._paths.access(path, root=root, raw=raw)

    # --- throttling

    def _throttled(self, request: R, header: bytes) -> Decision | None:
        address = self._adapter.address(request)
        if not address:
            return None
        try:
            client_id, _ = decode_basic(header)
        except MalformedCredentials:
            client_id = None
        blocked = self._throttle.check(address, client_id)
        if blocked is None:
            return None
        if blocked.is_shared and (principal := self._cached(header)) is not None:
            return principal
        error = Throttled(retry_after_s=blocked.retry_after_s)
        first_refusal = self._throttle.take_first_refusal(blocked)
        return Deny(error, "throttled", client_id, first_refusal=first_refusal)

    def _count_failure(self, request: R, client_id: str | None) -> None:
        if address := self._adapter.address(request):
            self._throttle.record(address, client_id)
            if self._shared_failures is not None:
                self._shared_failures.wake()
        elif not self._warned_no_address:
            self._warned_no_address = True
            logger.warning(
                "the server does not report the client's address: failures are not throttled (on a Unix "
                "socket, let the proxy send X-Forwarded-For and the server read it)"
            )

    # --- after the app

    def exception_response(
        self, request: R, exc: BaseException, *, client_id: str | None, log_traceback: bool
    ) -> Response:
        """The response to an exception of the app; logs it.

        If paths are ``optional``, an anonymous caller who lacks a scope gets the 401 for missing credentials.

        Args:
            request: The request as it came in.
            exc: What the app raised before it sent anything.
            client_id: The verified caller; None or empty if there is none.
            log_traceback: Whether the exception ends here, so that no server will log its traceback.
        """
        is_insufficient = isinstance(unwrap_group(exc), InsufficientScope)
        if is_insufficient and not client_id and self._paths.has_optional:
            return self.refusal_response(request, self._missing)
        request_id = self.request_id(request)
        if is_insufficient:
            self._count_refusal("insufficient_scope")
            audit.record(
                "auth.refused",
                client_id=client_id or None,
                reason="insufficient_scope",
                address=self._adapter.address(request) or None,
                request_id=request_id,
            )
        elif not is_refusal(exc):
            # An exception that is re-raised is reported by the server or an error monitor. This only adds the
            # request ID, and is no error: monitors make an event of each error that is logged.
            logger.log(
                logging.ERROR if log_traceback else logging.WARNING,
                "the app raised %s request_id=%s",
                type(exc).__name__,
                request_id,
                exc_info=exc if log_traceback else None,
            )
        return self._render(request, to_problem(exc), request_id)

    def timeout_response(self, request: R, timeout_s: float) -> Response:
        """The response if the app started none within ``timeout_s`` seconds; logs it."""
        request_id = self.request_id(request)
        logger.error("the app did not start its response within %g s request_id=%s", timeout_s, request_id)
        return self._render(request, TIMEOUT, request_id)

    def request_id(self, request: R) -> str:
        """The ID for the response and the log."""
        return request_id_of(self._adapter.header(request, "x-request-id"))

    def challenges_for(self, request: R) -> tuple[str, ...]:
        """The values of the WWW-Authenticate headers of a 401."""
        if self.settings.challenge == "navigations":
            # Fetch Metadata: only a navigation may open the browser's password dialog.
            mode = self._adapter.header(request, "sec-fetch-mode")
            if mode is not None and mode != "navigate":
                return self._quiet_challenges
        return self.challenges

    def _render(self, request: R, problem: Problem, request_id: str) -> Response:
        return render(problem, request_id=request_id, challenges=self.challenges_for(request))

    # --- life cycle

    def add_hook(self, hook: DecisionHook) -> None:
        """Let a hook observe all decisions from now on."""
        self.reader.hooks += (hook,)
        self._cached = hook.wrap_cache_get(self._cached)

    async def warm_up(self) -> None:
        """Open the store's connections. A store that is down is logged; the first request tries it again."""
        with suppress(BasicAuthError):  # logged by the reader
            await self.reader.alookup(generate(ID_PREFIX), self.reader.deadline())

    async def aclose(self) -> None:
        """Close what this object has opened; a failure is logged and does not stop a shutdown."""
        self.reader.close()
        if self._shared_failures is not None:
            self._shared_failures.stop()
        if self.owns_backend:
            try:
                await self.backend.aclose()
            except Exception:
                logger.exception("the key backend failed to close")

    def _log_unreadable(self, deny: Deny, request_id: str) -> None:
        now = time.monotonic()
        if now >= self._unreadable_logged_at + _UNREADABLE_LOG_S:
            self._unreadable_logged_at = now
            logger.error(
                "the key of %r cannot be read: %s request_id=%s (logged at most once a minute)",
                audit.sanitize(deny.client_id),
                deny.error,
                request_id,
            )
