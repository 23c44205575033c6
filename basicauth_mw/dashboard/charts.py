"""Small charts as SVG markup: no script, no style of their own; the figures stand beside them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEIGHT: Final = 48
_STEP: Final = 8
_GAP: Final = 2


def columns(values: Sequence[int], title: str) -> Markup:
    """One column a value, all of one colour; a value above 0 is never drawn as nothing."""
    top = max(1, *values)
    width = _STEP * len(values)
    drawn = []
    for place, value in enumerate(values):
        height = 0 if value <= 0 else max(2, round(_HEIGHT * value / top))
        if height:
            drawn.append(
                f'<rect x="{place * _STEP}" y="{_HEIGHT - height}" '
                f'width="{_STEP - _GAP}" height="{height}" rx="1"/>'
            )
    base = f'<path class="base" d="M0 {_HEIGHT + 0.5}H{width}"/>'
    return Markup(
        '<svg class="columns" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(width, _HEIGHT + 1, title, Markup("".join(drawn) + base))  # noqa: S704


def bar(value: float, top: float) -> Markup:
    """One bar, as long as ``value`` is of ``top``; it adds to a figure that stands beside it."""
    width = 0.0 if value <= 0 or top <= 0 else max(1.5, min(100.0, 100 * value / top))
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="8"/><rect width="{:.1f}" height="8"/></svg>'
    ).format(width)
