"""Prometheus metrics of the middleware; needs the extra ``metrics``.

Everything except cache hits is recorded directly. For a cache hit, two calls of ``Counter.inc`` would nearly
double the cost of the middleware. So hits are counted by ``itertools.count``, whose step is atomic and needs
no lock, and are added to the counters when these are collected. In multi-process mode, where
prometheus-client reads files instead, a thread adds them once a second.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from .auth.discovery import find_all
from .errors import ConfigurationError
from .runtime.background import BackgroundThread
from .runtime.extras import require
from .runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from .auth.authenticator import Authenticator
    from .keys.model import Principal

__all__ = ["instrument"]

FLUSH_INTERVAL_S: Final = 1.0

# A closed set. Every label value exists from the start, because a rate needs a zero to begin from.
REASONS: Final = (
    *("missing", "malformed", "unknown", "wrong_secret", "expired", "disabled", "revoked"),
    *("https_required", "insufficient_scope", "throttled", "backend_unavailable"),
)
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def instrument(*protected: Any, registry: CollectorRegistry | None = None) -> None:
    """Record Prometheus metrics for one or more protected apps.

    A request that is authenticated and then refused by ``require_scopes`` counts as both. Anonymous requests,
    on open or optional paths, are not counted, because no credentials are verified for them.

    Args:
        *protected: A ``BasicAuthMiddleware``, or an app that has one: a FastAPI app after ``install``, a
            Flask app, a Django handler, or after ``add_middleware`` a Starlette app that has started.
        registry: None: prometheus-client's default registry. In its multi-process mode nothing is registered:
            a ``MultiProcessCollector`` reads the metrics from files.

    Raises:
        ConfigurationError: An argument is not protected, or is already instrumented.
        MissingExtra: prometheus-client is not installed.
    """
    client = require("prometheus_client", extra="metrics")
    from prometheus_client import values

    authenticators = find_all(protected)
    if any(authenticator.reader.metrics is not None for authenticator in authenticators):
        raise ConfigurationError("already instrumented: call instrument() once, with all apps")
    multiprocess = values.ValueClass is not values.MutexValue
    if multiprocess and _multiprocess_hooks:  # two hooks would overwrite each other's values in the files
        raise ConfigurationError("in multi-process mode, call instrument() once, with all apps")
    hook = PrometheusHook(authenticators, multiprocess=multiprocess)
    if multiprocess:
        _multiprocess_hooks.add(hook)
    else:
        try:
            (client.REGISTRY if registry is None else registry).register(hook)
        except ValueError:
            raise ConfigurationError(
                "this registry already has these metrics: call instrument() once, with all apps"
            ) from None
    for authenticator in authenticators:
        authenticator.reader.metrics = hook
        authenticator.add_hook(hook)


class PrometheusHook:
    """The ``MetricsHook`` of some authenticators, which is also a collector of a ``CollectorRegistry``."""

    def __init__(self, authenticators: Iterable[Authenticator[Any]], *, multiprocess: bool) -> None:
        authenticators = list(authenticators)
        self._breakers = [authenticator.reader.breaker for authenticator in authenticators]
        self._stores = [authenticator.backend.store for authenticator in authenticators]
        self._multiprocess = multiprocess
        self._flusher = BackgroundThread("metrics", self._flush_periodically)
        self._count_hit = itertools.count().__next__
        self._flushed = 0
        self._lock = threading.Lock()
        self._create_metrics()
        after_fork(self._reset_in_child)

    def _create_metrics(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._decisions = Counter(
            "basicauth_decisions", "Allowed and refused requests.", ("decision", "reason"), registry=None
        )
        self._allowed = self._decisions.labels("allow", "ok")
        for reason in REASONS:
            self._decisions.labels("deny", reason)
        self._hits = Counter("basicauth_cache_hits", "Requests allowed from the cache.", registry=None)
        self._backend_seconds = Histogram(
            "basicauth_backend_seconds",
            "Duration of key lookups that had to wait for the key backend.",
            buckets=_BUCKETS,
            registry=None,
        )
        self._circuit_open = Gauge(
            "basicauth_circuit_open",
            "1 while requests are refused without a lookup because the key backend is unavailable.",
            registry=None,
            multiprocess_mode="livemax",
        )
        self._stale = Gauge(
            "basicauth_keys_stale",
            "1 while the file with the keys is missing or invalid.",
            registry=None,
            multiprocess_mode="livemax",
        )

    def _reset_in_child(self) -> None:
        self._lock = threading.Lock()
        self._flushed = self._count_hit() + 1
        if not self._multiprocess:  # there, prometheus-client gives the child separate files
            self._create_metrics()

    # --- on the request path

    def wrap_cache_get(self, get: Callable[[bytes], Principal | None]) -> Callable[[bytes], Principal | None]:
        count_hit = self._count_hit

        def get_and_count(header: bytes) -> Principal | None:
            principal = get(header)
            if principal is not None:
                count_hit()
            return principal

        return get_and_count

    def time_lookup(self) -> AbstractContextManager[object]:
        return self._backend_seconds.time()

    def allowed(self, _client_id: str, /) -> None:
        self._allowed.inc()
        self._start_flusher()

    def refused(self, reason: str) -> None:
        self._decisions.labels("deny", reason).inc()
        self._start_flusher()

    # --- collecting

    def flush(self) -> None:
        """Add the cache hits since the last flush to the counters, and update the gauges."""
        with self._lock:
            count = self._count_hit()  # this call is a step of the counter as well
            hits, self._flushed = count - self._flushed, count + 1
            self._allowed.inc(hits)
            self._hits.inc(hits)
            self._circuit_open.set(any(breaker.is_open for breaker in self._breakers))
            self._stale.set(any(getattr(store, "is_stale", False) for store in self._stores))

    def describe(self) -> Iterator[Metric]:
        """Called by ``CollectorRegistry`` to detect duplicates."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Called by ``CollectorRegistry`` on each scrape."""
        self.flush()
        gauges = (self._circuit_open, self._stale)
        for metric in (self._decisions, self._hits, self._backend_seconds, *gauges):
            yield from metric.collect()

    def _start_flusher(self) -> None:
        if self._multiprocess:
            self._flusher.start()

    def _flush_periodically(self, stopping: threading.Event) -> None:
        while not stopping.wait(FLUSH_INTERVAL_S):
            self.flush()


_multiprocess_hooks: Final[WeakSet[PrometheusHook]] = WeakSet()
