"""Interleaved measuring for machines whose speed moves: many short rounds, the order turned each time.

Only ratios taken within one round mean anything; absolute times are printed to give a feeling.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median, quantiles
from typing import NamedTuple

Call = Callable[[], Awaitable[None]]
Times = dict[str, list[float]]

SAMPLE_S = 0.01  # longest sample: a slow variant must not stretch the round that all share


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


async def measure(variants: dict[str, Call], *, rounds: int, calls: int) -> Times:
    """Time every variant once a round.

    Args:
        variants: What to await, by name.
        rounds: How many rounds; one more is made first and thrown away.
        calls: How often each variant is awaited in a round; a slow one less often, so that its sample takes
            no longer than ``SAMPLE_S``.

    Returns:
        By name, seconds per call, one figure a round.
    """
    times: Times = {name: [] for name in variants}
    names = list(variants)
    counts = {name: await _calls(variants[name], calls) for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + 1):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                call, count = variants[name], counts[name]
                begin = time.perf_counter()
                for _ in range(count):
                    await call()
                if number:
                    times[name].append((time.perf_counter() - begin) / count)
            gc.collect(0)
    finally:
        gc.enable()
    return times


async def _calls(call: Call, most: int) -> int:
    """How many calls fit into a sample, as far as a few of them tell."""
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - begin)
    return max(1, min(most, int(SAMPLE_S / min(taken))))


def added(times: Times, name: str, base: str) -> list[float]:
    """What ``name`` adds to ``base``, round by round."""
    return [mine - bare for mine, bare in zip(times[name], times[base], strict=True)]


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """Round by round; rounds in which the divisor drowned in noise are left out."""
    return [mine / theirs for mine, theirs in zip(these, those, strict=True) if theirs > 0]


def us(figures: Sequence[float]) -> str:
    """The median of seconds, in microseconds."""
    return f"{median(figures) * 1e6:,.2f}"
