"""Interleaved measuring for machines whose speed moves: many short rounds, the order turned each time.

Only ratios taken within one round mean anything; absolute times are printed to give a feeling.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from statistics import median, quantiles

Call = Callable[[], Awaitable[None]]


async def measure(variants: dict[str, Call], *, rounds: int, calls: int) -> dict[str, list[float]]:
    """Time every variant once a round.

    Args:
        variants: What to await, by name.
        rounds: How many rounds; the first is thrown away.
        calls: How often each variant is awaited in a round.

    Returns:
        By name, seconds per call, one figure a round.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + 1):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                call = variants[name]
                begin = time.perf_counter()
                for _ in range(calls):
                    await call()
                if number:
                    times[name].append((time.perf_counter() - begin) / calls)
    finally:
        gc.enable()
    return times


def added_ratio(
    times: dict[str, list[float]], name: str, *, base: str, unit: str
) -> tuple[float, float, float]:
    """What ``name`` adds to ``base``, as a multiple of what ``unit`` adds: lower quartile, median, upper."""
    ratios = [
        (mine - bare) / (theirs - bare)
        for mine, bare, theirs in zip(times[name], times[base], times[unit], strict=True)
        if theirs > bare
    ]
    low, _, high = quantiles(ratios, n=4)
    return low, median(ratios), high
