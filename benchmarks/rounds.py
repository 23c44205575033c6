"""Interleaved measurements, for machines whose speed changes: many short rounds, in a rotating order.

The clock is the CPU time of the thread, so that other processes matter less; for what waits, real time. Only
ratios within one round are meaningful. Absolute times are printed to give an impression.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count as numbers
from statistics import median, quantiles
from typing import NamedTuple

Call = Callable[[], Awaitable[None]]
Times = dict[str, list[float]]

AT_ONCE = 32  # calls in one iteration of a busy event loop
SAMPLE_S = 0.01  # longest sample, so that a slow variant does not stretch the rounds of all


class Spread(NamedTuple):
    """Quartiles."""

    low: float
    middle: float
    high: float

    def text(self, form: str = ".2f") -> str:
        return f"{self.middle:{form}} ({self.low:{form}}..{self.high:{form}})"


def spread(figures: Sequence[float]) -> Spread:
    """Quartiles of at least one figure."""
    if len(figures) == 1:
        return Spread(figures[0], figures[0], figures[0])
    low, _, high = quantiles(figures, n=4)
    return Spread(low, median(figures), high)


async def measure(
    variants: dict[str, Call],
    *,
    rounds: int,
    calls: int,
    clock: Callable[[], float] = time.thread_time,
) -> Times:
    """Time every variant once per round.

    Args:
        variants: What to await, by name.
        rounds: Number of rounds; one more is run first, and ignored.
        calls: How often each variant is awaited in a round; slow ones less often, so that a sample takes at
            most ``SAMPLE_S``.
        clock: Seconds: ``time.perf_counter`` for what waits for another process.

    Returns:
        By name, seconds per call for each round.
    """
    times: Times = {name: [] for name in variants}
    names = list(variants)
    counts = {name: await _calls(variants[name], calls, clock) for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + 1):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                call, count = variants[name], counts[name]
                begin = clock()
                for _ in range(count):
                    await call()
                if number:
                    times[name].append((clock() - begin) / count)
            gc.collect(0)
    finally:
        gc.enable()
    return times


async def _calls(call: Call, most: int, clock: Callable[[], float]) -> int:
    """How many calls fit into a sample, by the fastest of five."""
    taken = []
    for _ in range(5):
        begin = clock()
        await call()
        taken.append(clock() - begin)
    return max(1, min(most, int(SAMPLE_S / max(min(taken), 1e-9))))


def alone(function: Callable[..., Awaitable[object]], arguments: Sequence[object]) -> Call:
    """A call with the next argument."""
    turn = numbers()

    async def call() -> None:
        await function(arguments[next(turn) % len(arguments)])

    return call


def together(function: Callable[..., Awaitable[object]], arguments: Sequence[object]) -> Call:
    """``AT_ONCE`` calls at once, with the next arguments."""
    turn = numbers(step=AT_ONCE)

    async def call() -> None:
        start = next(turn) % (len(arguments) - AT_ONCE)
        await asyncio.gather(*map(function, arguments[start : start + AT_ONCE]))

    return call


def added(times: Times, name: str, base: str) -> list[float]:
    """What ``name`` adds to ``base``, by round."""
    return [mine - bare for mine, bare in zip(times[name], times[base], strict=True)]


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """Ratios by round, without rounds in which the divisor was lost in noise."""
    return [mine / theirs for mine, theirs in zip(these, those, strict=True) if theirs > 0]


def us(figures: Sequence[float]) -> str:
    """The median of seconds, in microseconds."""
    return f"{median(figures) * 1e6:,.2f}"
