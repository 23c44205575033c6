"""The charts, drawn from the series of the benchmarks; see ``Outcome.series``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")  # draws into files only
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

OURS, FLOOR, PEER, BARE = "#1f6f8b", "#99a8b2", "#d8a15d", "#c3ccd2"
_MICROSECONDS = "microseconds (log scale)"


def alternatives(per_cpu_s: dict[str, dict[str, float]], path: Path) -> None:
    """Requests per CPU second of whole stacks, for valid and wrong credentials."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 8), sharey=True)
    names = list(reversed(per_cpu_s))
    for axes, kind in ((left, "valid"), (right, "wrong")):
        figures = [per_cpu_s[name].get(kind, 0) for name in names]
        colours = [OURS if "basicauth_mw" in name else BARE if "no auth" in name else PEER for name in names]
        drawn = axes.barh(range(len(names)), figures, 0.7, color=colours)
        axes.bar_label(drawn, [f"{each:,.0f}" if each else "" for each in figures], padding=3, fontsize=8)
        axes.set_title(f"{kind} credentials")
        axes.set_xscale("log")
        axes.set_xlabel("requests per CPU second (log scale)")
        axes.margins(x=0.2)
    left.set_yticks(range(len(names)), [name.replace("*", "") for name in names], fontsize=8)
    _save(figure, path)


def cost(valid: dict[str, float], refused: dict[str, dict[str, float]], path: Path) -> None:
    """Cost per request with each package: added for valid credentials, whole for refused ones."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6))
    names = sorted(valid, key=valid.__getitem__, reverse=True)
    _bars(left, names, [valid[name] for name in names], [_colour(name) for name in names])
    left.set_title("valid, cached credentials: added")
    kinds = {"wrong": 0.2, "missing": -0.2}
    for kind, shift in kinds.items():
        figures = [refused[kind][name] for name in names]
        places = [place + shift for place in range(len(names))]
        alpha = 1 if kind == "wrong" else 0.55
        drawn = right.barh(places, figures, 0.38, color=[_colour(name) for name in names], alpha=alpha)
        right.bar_label(drawn, [f"{kind} {each:,.1f}" for each in figures], padding=3, fontsize=8)
    right.set_yticks(range(len(names)), [""] * len(names))
    right.set_title("refused: the whole request")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel(_MICROSECONDS)
        axes.margins(x=0.25)
    _save(figure, path)


def keys(series: dict[str, dict[str, float]], path: Path) -> None:
    """Cost by the number of keys."""
    figure, axes = plt.subplots(figsize=(8, 4.8))
    styles = {
        "check": ("uncached check, keys in SQLite", OURS, "o-"),
        "SELECT": ("bare SELECT on the same file", FLOOR, "s--"),
        "cached": ("hit with so many cached keys (added to the app)", PEER, "^-"),
    }
    for name, (label, colour, style) in styles.items():
        points = {int(size): figure_ for size, figure_ in series[name].items()}
        axes.plot(list(points), list(points.values()), style, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("keys (log scale)")
    axes.set_ylabel(_MICROSECONDS)
    axes.set_ylim(bottom=0.8)  # room for the legend
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
    axes.set_title("Cost of a request by the number of keys")
    _save(figure, path)


def uvicorn(rates: dict[str, list[float]], path: Path) -> None:
    """Requests per second of one core, bare and wrapped."""
    figure, axes = plt.subplots(figsize=(8, 4.8))
    for shift, place, label, colour in ((-0.2, 0, "bare", BARE), (0.2, 1, "wrapped", OURS)):
        places = [index + shift for index in range(len(rates))]
        figures = [pair[place] for pair in rates.values()]
        drawn = axes.bar(places, figures, 0.38, color=colour, label=label)
        axes.bar_label(drawn, [f"{each:,.0f}" for each in figures], fontsize=8)
    axes.set_xticks(range(len(rates)), [f"{name} app" if name == "bare" else name for name in rates])
    axes.set_ylabel("requests per CPU second of the server")
    axes.legend()
    axes.set_title("Under uvicorn, valid credentials, both servers on one core")
    _save(figure, path)


def revoke(series: dict[str, list[float]], limit_ms: float, path: Path) -> None:
    """From revoke to refusal, each worker, as a distribution."""
    figure, axes = plt.subplots(figsize=(8, 4.8))
    for name, latencies in series.items():
        ordered = sorted(latencies)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        axes.step(ordered, shares, where="post", label=name)
    axes.axvline(limit_ms, color="#b03a2e", linestyle="--", label=f"goal: {limit_ms:g} ms for 99 %")
    axes.axhline(0.99, color="#b03a2e", linestyle=":", linewidth=0.8)
    axes.set_xlim(0, limit_ms * 1.15)
    axes.set_xlabel("milliseconds from the call of revoke to a worker's first refusal")
    axes.set_ylabel("share of workers")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title("Revoke to refusal, four workers")
    _save(figure, path)


def _colour(name: str) -> str:
    return OURS if name.startswith("basicauth_mw") else FLOOR if name.startswith("floor") else PEER


def _bars(axes: Any, names: list[str], figures: list[float], colours: list[str]) -> None:
    drawn = axes.barh(range(len(names)), figures, 0.7, color=colours)
    axes.bar_label(drawn, [f"{each:,.1f}" for each in figures], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
