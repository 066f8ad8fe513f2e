"""Lines over steps and over time as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from jipflow.plots import (
    RIGHT,
    WIDTH,
    Axis,
    axis_for,
    linear_ticks,
    opened,
    tick_label,
    tick_text,
)

LEGEND, ROW, LETTER = 4, 16, 7.0
"""Most names in a row of a legend, the height of a row, and the width of a letter."""


@dataclass(frozen=True)
class Curve:
    """One line of a curve plot.

    Attributes:
        label: its name in the legend.
        colour: ``#rrggbb``.
        values: one a step, from step 1; None where there is none, which leaves a gap.
    """

    label: str
    colour: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Steps:
    """One line of a step plot, which begins at 0 with 1.

    Attributes:
        label: its name in the legend.
        colour: ``#rrggbb``, or a variable of the page's style sheet.
        edges: at which it falls, rising.
        values: from each edge on, between 0 and 1.
        bands: ends of an interval around each value, None where there is none; or none at all.
    """

    label: str
    colour: str
    edges: Sequence[float]
    values: Sequence[float]
    bands: Sequence[tuple[float | None, float | None]]


def curve_plot(title: str, curves: Sequence[Curve]) -> Markup:
    """Draw values over steps as lines with a legend, all on one scale.

    Args:
        title: what the plot shows, for those who do not see it.
        curves: at least one, with at least one value between them.
    """
    left, right, top, bottom = 46, WIDTH - RIGHT, 24, 168
    known = [value for curve in curves for value in curve.values if value is not None]
    scale = axis_for(known, allow_log=False)
    upward = replace(scale, left=bottom, right=top)
    steps = max(len(curve.values) for curve in curves)
    # One step alone would have no width.
    across = Axis(1, max(steps, 2), left=left, right=right)
    parts = [opened(bottom + 22, title)]
    for tick in scale.ticks:
        y = upward(tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y:.1f}" text-anchor="end"'
            f' dominant-baseline="central">{tick_label(tick)}</text>'
        )
    for tick in linear_ticks(1, max(steps, 2)):
        if tick == round(tick):
            parts.append(tick_text(across(tick), bottom, tick_label(tick)))
    for curve in curves:
        path, pen = [], "M"
        for step, value in enumerate(curve.values, 1):
            if value is None:
                pen = "M"
                continue
            path.append(f"{pen}{across(step):.1f} {upward(value):.1f}")
            pen = "L"
        parts.append(_line("".join(path), curve.colour))
    parts += _legend(curves, left, right)
    parts.append("</svg>")
    return Markup("".join(parts))


def step_plot(title: str, curves: Sequence[Steps], end: float) -> Markup:
    """Draw shares that fall at edges as steps from 0 to 1 with a legend and pale bands.

    Args:
        title: what the plot shows, for those who do not see it.
        curves: at least one; one without edges is in the legend only.
        end: last edge of the scale.
    """
    left, right = 46, WIDTH - RIGHT
    top = 24 + ROW * ((len(curves) - 1) // _in_a_row(curves, right - left))
    bottom = top + 164
    upward = Axis(0, 1, left=bottom, right=top)
    across = Axis(0, end, left=left, right=right)
    parts = [opened(bottom + 22, title)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = upward(share)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y:.1f}" text-anchor="end"'
            f' dominant-baseline="central">{share:.0%}</text>'
        )
    parts += [tick_text(across(tick), bottom, tick_label(tick)) for tick in linear_ticks(0, end)]
    for curve in curves:
        ends = zip(curve.edges, curve.edges[1:], curve.bands, strict=False)
        for start, stop, (low, high) in ends:
            if low is not None and high is not None:
                x, y = across(start), upward(high)
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{across(stop) - x:.1f}"'
                    f' height="{upward(low) - y:.1f}" fill="{curve.colour}" fill-opacity="0.1"/>'
                )
    for curve in curves:
        steps = zip(curve.edges, curve.values, strict=True)
        path = "".join(f"H{across(edge):.1f}V{upward(value):.1f}" for edge, value in steps)
        parts.append(_line(f"M{left} {upward(1):.1f}{path}", curve.colour))
    parts += _legend(curves, left, right)
    parts.append("</svg>")
    return Markup("".join(parts))


def _line(path: str, colour: str) -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def _in_a_row(curves: Sequence[Curve | Steps], width: float) -> int:
    """Return how many names of curves stand side by side."""
    widest = 26 + LETTER * max(len(curve.label) for curve in curves)
    return max(1, min(LEGEND, int(width / widest)))


def _legend(curves: Sequence[Curve | Steps], left: float, right: float) -> Iterator[str]:
    """Yield the names of curves, in rows from the top."""
    fit = _in_a_row(curves, right - left)
    width = (right - left) / min(len(curves), fit)
    for place, curve in enumerate(curves):
        row, column = divmod(place, fit)
        x, y = left + column * width, 9 + row * ROW
        yield (
            f'<path d="M{x:.1f} {y}h14" stroke="{curve.colour}" stroke-width="3"/>'
            f'<text class="label" x="{x + 19:.1f}" y="{y}" dominant-baseline="central">'
            f"{escape(curve.label)}</text>"
        )
