"""Small plots as inline SVG that take their colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup, escape

MISSING = "–"
THIN_SPACE = "\u202f"
WIDTH = 480
LABEL_WIDTH = 118
RIGHT = 14
RADIUS = 3.4
MAX_POINTS = 400  # of one strip; more would only make the page heavy


def number(value: float | int | None, digits: int = 4) -> str:
    """Format a number with so many significant digits, for reading; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace(",", THIN_SPACE).replace("-", "−")


def count(value: int | None) -> str:
    """Format a whole number with thin spaces between thousands."""
    return MISSING if value is None else f"{value:,}".replace(",", THIN_SPACE)


def duration(seconds: float | None) -> str:
    """Format a time for reading: ``0.42 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class Strip:
    """The values of one row of a strip plot.

    Attributes:
        label: name at the left.
        colour: ``#rrggbb``.
        points: pairs of case_id and value, finite.
    """

    label: str
    colour: str
    points: list[tuple[str, float]]


@dataclass(frozen=True)
class Interval:
    """One row of a dot plot: a mean with its standard deviation.

    Attributes:
        label: name at the left.
        mean: None where withheld.
        sd: None where withheld or undefined.
        n: number of cases, None where withheld.
        pooled: whether this is the row of all sites together.
        earlier: whether the next row shows what it has become; its mark is open.
    """

    label: str
    mean: float | None
    sd: float | None
    n: int | None
    pooled: bool = False
    earlier: bool = False


@dataclass(frozen=True)
class Effect:
    """One row of a forest plot: an estimate with its confidence interval.

    Attributes:
        label: name at the left.
        value: the estimate; None where there is none.
        low: lower end of the interval; None where it is beyond all numbers.
        high: upper end, likewise.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Axis:
    """A horizontal scale from values to pixels."""

    low: float
    high: float
    logarithmic: bool = False
    ticks: list[float] = field(default_factory=list)
    left: float = LABEL_WIDTH
    right: float = WIDTH - RIGHT

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.left + (at - low) / (high - low) * (self.right - self.left)


def linear_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Return round numbers, about `target` of them, that lie in [low, high]."""
    rough = (high - low) / target
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * magnitude >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def axis_for(values: Sequence[float], allow_log: bool = True) -> Axis:
    """Choose a scale for values; logarithmic when all are positive and span a factor over 50."""
    low, high = min(values), max(values)
    if allow_log and low > 0 and high / low > 50:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [10.0**d for d in decades if low / 2 <= 10.0**d <= high * 2]
        return Axis(low / 1.3, high * 1.3, True, ticks)
    pad = 0.06 * (high - low) or max(abs(high) * 0.05, 1e-9)
    low, high = low - pad, high + pad
    return Axis(low, high, False, linear_ticks(low, high))


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return a quantile of sorted values by linear interpolation (Hyndman and Fan's type 7)."""
    at = q * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def opened(height: float, title: str) -> str:
    """Return the beginning of a plot.

    Args:
        height: in the units of its `WIDTH`.
        title: what it shows, for those who do not see it.
    """
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:g}" role="img"'
        f' aria-label="{escape(title)}" preserveAspectRatio="xMidYMid meet">'
    )


def _axis_svg(axis: Axis, top: float, bottom: float) -> list[str]:
    parts = []
    for tick in axis.ticks:
        x = axis(tick)
        if not axis.left - 0.5 <= x <= axis.right + 0.5:
            continue
        parts.append(f'<path class="grid" d="M{x:.1f} {top:g}V{bottom:g}"/>')
        parts.append(tick_text(x, bottom, tick_label(tick)))
    return parts


def _scientific(value: float) -> bool:
    """Return whether a number is too long to be written out in a plot."""
    return value != 0 and not 1e-3 <= abs(value) < 1e5


def tick_label(value: float) -> str:
    """Format a number for a scale."""
    text = f"{value:,.10g}".replace(",", "\u202f")
    if _scientific(value):
        mantissa, exponent = f"{value:.3e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", "−")


def _value(value: float, digits: int, scientific: bool) -> str:
    if scientific:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return number(value, digits)


def _label(text: str, y: float, css: str = "label") -> str:
    short = text if len(text) <= 17 else text[:16] + "…"
    title = f"<title>{escape(text)}</title>" if short != text else ""
    return (
        f'<text class="{css}" x="{LABEL_WIDTH - 10}" y="{y:g}" text-anchor="end"'
        f' dominant-baseline="central">{escape(short)}{title}</text>'
    )


def strip_plot(title: str, strips: Sequence[Strip]) -> Markup:
    """Draw each strip's values as points on a box of quartiles and median, all on one scale.

    Points that would overlap are moved apart vertically, always the same way. Beyond
    `MAX_POINTS`, evenly spaced ones of the sorted values are drawn; the box counts all.

    Args:
        title: what the plot shows, for those who do not see it.
        strips: the rows, each with at least one value.
    """
    row = 46
    axis = axis_for([value for strip in strips for _, value in strip.points])
    bottom = 6 + row * len(strips)
    parts = [opened(bottom + 22, title), *_axis_svg(axis, 6, bottom)]
    for position, strip in enumerate(strips):
        middle = 6 + row * (position + 0.5)
        points = sorted(strip.points, key=lambda point: (point[1], point[0]))
        values = [value for _, value in points]
        parts.append(_label(strip.label, middle - 8))
        parts.append(
            f'<text class="n" x="{LABEL_WIDTH - 10}" y="{middle + 13:g}" text-anchor="end">'
            f"n = {len(values)}</text>"
        )
        if len(values) >= 4:
            low, median, high = (axis(quantile(values, q)) for q in (0.25, 0.5, 0.75))
            parts.append(
                f'<rect class="box" x="{low:.1f}" y="{middle - 15:g}" width="{high - low:.1f}"'
                f' height="30" rx="2"/><path class="median" d="M{median:.1f} {middle - 15:g}v30"/>'
            )
        if len(points) > MAX_POINTS:
            step = (len(points) - 1) / (MAX_POINTS - 1)
            points = [points[round(index * step)] for index in range(MAX_POINTS)]
        parts.append(f'<g class="points" fill="{strip.colour}">')
        for (case, value), offset in zip(
            points, _spread([axis(value) for _, value in points]), strict=True
        ):
            parts.append(
                f'<circle cx="{axis(value):.1f}" cy="{middle + offset:.1f}" r="{RADIUS}"'
                f' data-case="{escape(case)}"><title>{escape(case)}: {number(value)}</title>'
                "</circle>"
            )
        parts.append("</g>")
    parts.append("</svg>")
    return Markup("".join(parts))


def _spread(centres: Sequence[float]) -> list[float]:
    """Return vertical offsets that keep points at ascending pixels from covering each other."""
    lanes = [0.0, -6.0, 6.0, -12.0, 12.0]
    free_from = [-math.inf] * len(lanes)
    offsets = []
    for centre in centres:
        lane = next(
            (i for i, start in enumerate(free_from) if centre >= start),
            min(range(len(lanes)), key=lambda i: free_from[i]),
        )
        free_from[lane] = centre + 2 * RADIUS
        offsets.append(lanes[lane])
    return offsets


def dot_plot(title: str, rows: Sequence[Interval]) -> Markup | None:
    """Draw mean ± standard deviation of each row on one scale, the pooled row as a diamond.

    The numbers stand at the right.

    A withheld row keeps its place and says so.

    Returns:
        None where no row has a mean.
    """
    ends = [
        row.mean + sign * (row.sd or 0.0)
        for row in rows
        if row.mean is not None
        for sign in (-1, 1)
    ]
    if not ends:
        return None
    height = 25
    axis = replace(axis_for(ends, allow_log=False), right=WIDTH - 112.0)
    bottom = 4 + height * len(rows)
    parts = [opened(bottom + 20, title), *_axis_svg(axis, 4, bottom)]
    for position, row in enumerate(rows):
        y = 4 + height * (position + 0.5)
        css = "label pooled" if row.pooled else "label"
        parts.append(_label(row.label, y, css))
        if row.mean is None:
            parts.append(
                f'<text class="withheld" x="{axis.left + 4:g}" y="{y:g}"'
                ' dominant-baseline="central">withheld</text>'
            )
            continue
        x = axis(row.mean)
        mark = "pooled" if row.pooled else "site"
        mark += " earlier" if row.earlier else ""
        parts.append(f'<g class="{mark}">')
        if row.sd is not None:
            left, right = axis(row.mean - row.sd), axis(row.mean + row.sd)
            parts.append(
                f'<path class="whisker" d="M{left:.1f} {y:g}H{right:.1f}'
                f'M{left:.1f} {y - 4:g}v8M{right:.1f} {y - 4:g}v8"/>'
            )
        if row.pooled:
            parts.append(f'<path class="dot" d="M{x - 6.5:.1f} {y:g}l6.5 -6.5 6.5 6.5 -6.5 6.5z"/>')
        else:
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:g}" r="4.5"/>')
        long = _scientific(row.mean)
        sd = "" if row.sd is None else f" ± {_value(row.sd, 2, long)}"
        parts.append(
            f'</g><text class="{"value pooled" if row.pooled else "value"}" x="{WIDTH - 2}"'
            f' y="{y:g}" text-anchor="end" dominant-baseline="central">'
            f"{_value(row.mean, 3, long)}{sd}</text>"
        )
    parts.append("</svg>")
    return Markup("".join(parts))


FARTHEST = 1e6
"""How far from 1 a ratio is drawn; what lies beyond is cut at the end of its scale."""


def forest_plot(title: str, rows: Sequence[Effect], logarithmic: bool = False) -> Markup | None:
    """Draw each estimate with its interval on one scale, with a line where there is no effect.

    The numbers stand at the right. An interval that goes on beyond the scale ends with it.

    Args:
        title: what the plot shows, for those who do not see it.
        rows: from top to bottom.
        logarithmic: whether the estimates are ratios, of which 1 is no effect, else 0.

    Returns:
        None where no row has an estimate.
    """
    if all(row.value is None for row in rows):
        return None
    none, ends = (1.0, _ratios(rows)) if logarithmic else (0.0, _ends(rows))
    axis = _ratio_axis([*ends, none]) if logarithmic else axis_for([*ends, none], allow_log=False)
    axis = replace(axis, right=WIDTH - 150.0)
    height = 25
    bottom = 4 + height * len(rows)
    at = axis(none)
    parts = [
        opened(bottom + 20, title),
        *_axis_svg(axis, 4, bottom),
        f'<path class="axis" d="M{at:.1f} 4V{bottom:g}"/>',
    ]
    for position, row in enumerate(rows):
        y = 4 + height * (position + 0.5)
        parts.append(_label(row.label, y))
        if row.value is None:
            continue
        left, x, right = (
            axis(min(max(end, axis.low), axis.high))
            for end in (
                axis.low if row.low is None else row.low,
                row.value,
                axis.high if row.high is None else row.high,
            )
        )
        long = _scientific(row.value)
        low, high = (_value(v, 3, long) if v is not None else MISSING for v in (row.low, row.high))
        parts.append(
            f'<g class="site"><path class="whisker" d="M{left:.1f} {y:g}H{right:.1f}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y:g}" r="4.5"/></g>'
            f'<text class="value" x="{WIDTH - 2}" y="{y:g}" text-anchor="end"'
            f' dominant-baseline="central">{_value(row.value, 3, long)} ({low}, {high})</text>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def _ends(rows: Sequence[Effect]) -> list[float]:
    return [end for row in rows for end in (row.low, row.value, row.high) if end is not None]


def _ratios(rows: Sequence[Effect]) -> list[float]:
    """Return the ends of ratios, no farther from 1 than is drawn."""
    return [min(max(end, 1 / FARTHEST), FARTHEST) for end in _ends(rows)]


def _ratio_axis(values: Sequence[float]) -> Axis:
    """Choose a logarithmic scale for ratios; decades where they span a factor over 100."""
    low, high = min(values) / 1.15, max(values) * 1.15
    steps = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return Axis(low, high, True, [tick for tick in ticks if low <= tick <= high])


def histogram_plot(
    title: str,
    edges: Sequence[float],
    counts: Sequence[int | None],
    under: int | None = 0,
    over: int | None = 0,
) -> Markup:
    """Draw counts between fixed edges; a withheld count is a hatched column of no set height.

    Bars stand side by side at equal widths with the edges written between them, so that edges at
    unequal distances stay legible. The columns below and above the edges appear where they hold
    something.

    Args:
        title: what the plot shows, for those who do not see it.
        edges: k + 1 rising edges.
        counts: k counts, None where withheld.
        under: count below the first edge.
        over: count above the last edge.
    """
    before, after = [under] if under != 0 else [], [over] if over != 0 else []
    columns = [*before, *counts, *after]
    left, right, top, height = 14, WIDTH - 14, 20, 128
    peak = max((value for value in columns if value is not None), default=0) or 1
    step = (right - left) / len(columns)
    bottom = top + height
    parts = [opened(bottom + 22, title), f'<path class="axis" d="M{left} {bottom}H{right}"/>']
    for index, value in enumerate(columns):
        x = left + index * step
        centre = x + step / 2
        if value is None:
            parts.append(
                f'<rect class="hatched" x="{x + 2:.1f}" y="{top + height / 2:.1f}"'
                f' width="{step - 4:.1f}" height="{height / 2:.1f}"/>'
            )
            turn = f' transform="rotate(-90 {centre:.1f} {bottom - 8})"' if step < 54 else ""
            at = (bottom - 8, "start") if turn else (top + height / 2 - 6, "middle")
            parts.append(
                f'<text class="withheld" x="{centre:.1f}" y="{at[0]:.1f}" text-anchor="{at[1]}"'
                f' dominant-baseline="{"central" if turn else "auto"}"{turn}>withheld</text>'
            )
            continue
        tall = height * value / peak
        parts.append(
            f'<rect class="bar" x="{x + 2:.1f}" y="{bottom - tall:.1f}" width="{step - 4:.1f}"'
            f' height="{tall:.1f}"/><text class="n" x="{centre:.1f}"'
            f' y="{bottom - tall - 5:.1f}" text-anchor="middle">{value}</text>'
        )
    first = left + len(before) * step
    for index in range(0, len(edges), math.ceil(len(edges) / 12)):
        parts.append(tick_text(first + index * step, bottom, tick_label(edges[index])))
    if before:
        parts.append(tick_text(left + step / 2, bottom, "below"))
    if after:
        parts.append(tick_text(right - step / 2, bottom, "above"))
    parts.append("</svg>")
    return Markup("".join(parts))


def tick_text(x: float, bottom: float, text: str) -> str:
    """Return a text below a scale."""
    return f'<text class="tick" x="{x:.1f}" y="{bottom + 14:g}" text-anchor="middle">{text}</text>'
