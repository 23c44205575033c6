"""Prometheus metrics of what gates do; needs the extra ``metrics``.

::

    app = FastAPI()
    install(app)
    instrument(app)

In one process they are read when they are scraped. In prometheus-client's multi-process mode a thread brings
them into its files once a second; each process has one, from its first request that the cache cannot answer.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from .auth.discovery import find_authenticator
from .auth.stats import refusal_stats
from .errors import ConfigurationError
from .runtime.background import Background
from .runtime.extras import require
from .runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from prometheus_client import CollectorRegistry, Histogram
    from prometheus_client.metrics_core import Metric

    from .auth.authenticator import Authenticator
    from .keys.model import Allow

__all__ = ["instrument"]

FLUSH_EVERY_S: Final = 1.0

# Label values are a closed set, and each is there from the start: a rate needs a zero to begin from.
REASONS: Final = (
    *("missing", "malformed", "unknown", "wrong_secret", "expired", "disabled", "revoked"),
    *("https_required", "insufficient_scope", "throttled", "backend_unavailable"),
)

_DECISIONS: Final = ("basicauth_decisions", "Requests let in and refused, and why.")
_HITS: Final = ("basicauth_cache_hits", "Requests whose key was proved before, and remembered.")
_SECONDS: Final = ("basicauth_backend_seconds", "Look-ups of keys that had to wait for the key backend.")
_OPEN: Final = ("basicauth_circuit_open", "1 while requests do not wait for a key backend that is away.")
_flushed: Final[WeakSet[Authenticator[Any]]] = WeakSet()  # gates measured in multi-process mode
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def instrument(*protected: Any, registry: CollectorRegistry | None = None) -> None:
    """Measure what one or several gates do.

    Refusals are counted by the process, whichever of its gates they come from. A request that is let in and
    then refused by ``require_scopes`` counts as both. Excluded paths and preflights are not counted: nothing
    is verified there.

    Args:
        *protected: A ``BasicAuthMiddleware``, or an app that has one: of FastAPI, after ``install``; of
            Flask; of Django, as its server gets it; after ``add_middleware``, one that has started.
        registry: None: prometheus-client's own. In its multi-process mode nothing is registered, as there a
            ``MultiProcessCollector`` reads everything from files.

    Raises:
        ConfigurationError: Something is not protected, or measured already.
        MissingExtra: prometheus-client is not installed.
    """
    client = require("prometheus_client", extra="metrics")
    gates = [_gate_of(each) for each in protected]
    if not gates:
        raise ConfigurationError("instrument() needs what it is to measure: a middleware, or a protected app")
    if any(authenticator.reader.metrics is not None for authenticator in gates):
        raise ConfigurationError("this is measured already: call instrument() once, for all that there is")
    from prometheus_client import values

    if values.ValueClass is values.MutexValue:
        observer = Observer(gates)
        try:
            (client.REGISTRY if registry is None else registry).register(observer)
        except ValueError:
            raise ConfigurationError(
                "this registry has such metrics already: call instrument() once, for all that there is"
            ) from None
    else:
        # Each would write what the process has counted into the same files.
        if any(each.reader.metrics is not None for each in _flushed):
            raise ConfigurationError("in multi-process mode, call instrument() once, for all that there is")
        observer = _Flushing(gates)
        _flushed.update(gates)
    for authenticator in gates:
        authenticator.set_metrics(observer)


def _gate_of(protected: Any) -> Authenticator[Any]:
    authenticator = find_authenticator(protected)
    if authenticator is None:
        raise ConfigurationError(
            f"no gate is to be seen in this {type(protected).__name__}: give instrument() the "
            "BasicAuthMiddleware itself, or a FastAPI app after install()"
        )
    return authenticator


class Tally:
    """Counts without a lock, from any thread. A child process starts anew.

    Attributes:
        add: Counts one.
    """

    __slots__ = ("__weakref__", "_lock", "_looks", "add")

    def __init__(self) -> None:
        self._looks = 0
        self.add: Callable[[], int] = itertools.count().__next__  # one step of the interpreter
        self._lock = threading.Lock()
        after_fork(self._forget)

    def total(self) -> int:
        """How often ``add`` was called; a look is a step as well, and taken off."""
        with self._lock:
            self._looks += 1
            return self.add() + 1 - self._looks

    def _forget(self) -> None:
        self._lock = threading.Lock()
        total = self.total()
        self._looks += total


class Observer:
    """Counts for some gates, and tells a registry.

    Args:
        gates: Which.
    """

    def __init__(self, gates: Iterable[Authenticator[Any]]) -> None:
        self._breakers = [authenticator.reader.breaker for authenticator in gates]
        self._hits = Tally()
        self._proved = Tally()
        self._make()
        after_fork(self._make)

    def _make(self) -> None:
        from prometheus_client import Histogram

        self._seconds: Histogram = Histogram(*_SECONDS, buckets=_BUCKETS, registry=None)

    # --- on the request path

    def counting(self, recall: Callable[[bytes], Allow | None]) -> Callable[[bytes], Allow | None]:
        """See ``reader.MetricsHook``."""
        count = self._hits.add

        def recalled(field: bytes) -> Allow | None:
            allow = recall(field)
            if allow is not None:
                count()
            return allow

        return recalled

    def waiting(self) -> AbstractContextManager[object]:
        """See ``reader.MetricsHook``."""
        return self._timed()

    def admitted(self) -> None:
        """See ``reader.MetricsHook``."""
        self._proved.add()

    def refused(self) -> None:
        """See ``reader.MetricsHook``."""

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.observe(time.perf_counter() - begun)

    # --- read

    def decisions(self) -> dict[tuple[str, str], int]:
        """Decision and reason -> how often, so far and in this process."""
        refused = refusal_stats.snapshot().totals
        return {
            ("allow", "ok"): self._hits.total() + self._proved.total(),
            **{("deny", reason): refused.get(reason, 0) for reason in REASONS},
        }

    @property
    def is_open(self) -> bool:
        """Whether a backend is known to be away."""
        return any(breaker.is_open for breaker in self._breakers)

    def describe(self) -> Iterator[Metric]:
        """What ``CollectorRegistry`` knows another collector of the same by."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """What ``CollectorRegistry`` asks for when it is scraped."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        decisions = CounterMetricFamily(*_DECISIONS, labels=("decision", "reason"))
        for labels, number in self.decisions().items():
            decisions.add_metric(labels, number)
        yield decisions
        yield CounterMetricFamily(*_HITS, value=self._hits.total())
        yield GaugeMetricFamily(*_OPEN, value=self.is_open)
        yield from self._seconds.collect()


class _Flushing(Observer):
    """Brings what it counts into the files of prometheus-client's multi-process mode.

    The histogram is there already: who waits for a store can wait for that.
    """

    def __init__(self, gates: Iterable[Authenticator[Any]]) -> None:
        from prometheus_client import Counter, Gauge

        self._decisions_total = Counter(*_DECISIONS, ("decision", "reason"), registry=None)
        self._hits_total = Counter(*_HITS, registry=None)
        self._open = Gauge(*_OPEN, registry=None, multiprocess_mode="livemax")
        super().__init__(gates)
        self._background = Background("metrics", self._serve)
        self._start()
        after_fork(self._start)

    def _start(self) -> None:
        self._flushed: dict[tuple[str, str], int] = {}
        self._flushed_hits = 0
        self._lock = threading.Lock()

    def _make(self) -> None:
        if not hasattr(self, "_seconds"):  # its files are those of whoever uses it
            super()._make()

    def admitted(self) -> None:
        super().admitted()
        self._background.start()

    def refused(self) -> None:
        self._background.start()

    def flush(self) -> None:
        """Bring what was counted since the last time into the files."""
        with self._lock:
            decisions, hits = self.decisions(), self._hits.total()
            for labels, number in decisions.items():
                self._decisions_total.labels(*labels).inc(number - self._flushed.get(labels, 0))
            self._hits_total.inc(hits - self._flushed_hits)
            self._flushed, self._flushed_hits = decisions, hits
            self._open.set(self.is_open)

    def _serve(self, closing: threading.Event) -> None:
        ends = False
        while not ends:
            self.flush()
            ends = closing.wait(FLUSH_EVERY_S)
