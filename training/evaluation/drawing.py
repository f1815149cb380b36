"""Small figures as inline SVG: axes, points, lines, bands and bars. No script, no font, no picture from elsewhere.

Text, axes and grid take the page's own colour (``currentColor``), so a figure fits a light and a dark page and prints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

WIDTH, HEIGHT = 480.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 14.0, 46.0
COLOURS = ("#2b6cb0", "#c2410c", "#2f855a", "#6b46c1", "#b7791f", "#0e7490")
"""Told apart with the common colour-vision deficiencies, on white and on black."""

_FILE_STYLE = (
    "svg { color: #222; font: 12px system-ui, sans-serif; } text { fill: currentColor; } "
    ".grid { stroke: currentColor; stroke-opacity: .13; } .frame { stroke: currentColor; fill: none; }"
)

Points = Iterable[tuple[float, float]]


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return round numbers between two ends: steps of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 10) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Write a tick: no trailing zeros, a true minus sign."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


class Plot:
    """One figure; data coordinates in, SVG out by :meth:`svg`.

    Parameters
    ----------
    x, y
        Ranges of the axes.
    x_label, y_label
        Their titles, with units.
    title
        Read out by screen readers.
    x_ticks, y_ticks
        Places of ticks; round numbers by default.
    names
        Names in place of x numbers: name i stands at x = i.
    legend_below
        Put the legend into the lower right corner, for curves that rise.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        x_label: str,
        y_label: str,
        title: str,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        legend_below: bool = False,
    ) -> None:
        self.x, self.y, self.title = x, y, title
        self._legend_below = legend_below
        self._parts: list[str] = []
        self._legend: list[tuple[str, str]] = []
        self._axes(x_label, y_label, x_ticks, y_ticks, names)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (min(max(y, self.y[0]), self.y[1]) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def _axes(
        self,
        x_label: str,
        y_label: str,
        x_ticks: Sequence[float] | None,
        y_ticks: Sequence[float] | None,
        names: Sequence[str] | None,
    ) -> None:
        places = [float(i) for i in range(len(names))] if names else (x_ticks or ticks(*self.x))
        for i, at in enumerate(places):
            x, foot = self._place(at, self.y[0])
            if not names:
                self._parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{foot:.1f}"/>')
            self._text(x, foot + 16, names[i] if names else number(at))
        for at in y_ticks or ticks(*self.y):
            left, y = self._place(self.x[0], at)
            self._parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{WIDTH - RIGHT}"/>')
            self._text(left - 6, y + 4, number(at), anchor="end")
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label)
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self._parts.append(
            f'<text transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
        )

    def _text(self, x: float, y: float, words: str, anchor: str = "middle") -> None:
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    def _path(self, points: Points) -> str:
        places = (self._place(x, y) for x, y in points)
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)

    def points(self, points: Points, colour: str, name: str = "") -> Plot:
        """Add one dot per point."""
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in (self._place(*point) for point in points)
        )
        self._parts.append(f'<g fill="{colour}" fill-opacity="0.65">{dots}</g>')
        return self.named(name, colour)

    def line(self, points: Points, colour: str = "currentColor", name: str = "", *, dashed: bool = False) -> Plot:
        """Add a line through the points."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(f'<path d="{self._path(points)}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        return self.named(name, colour)

    def level(self, y: float, colour: str = "currentColor", name: str = "", *, dashed: bool = True) -> Plot:
        """Add a horizontal line over the whole width."""
        return self.line([(self.x[0], y), (self.x[1], y)], colour, name, dashed=dashed)

    def band(self, lower: Points, upper: Points, colour: str, name: str = "") -> Plot:
        """Fill what lies between two lines."""
        outline = [*lower, *list(upper)[::-1]]
        self._parts.append(f'<path d="{self._path(outline)}Z" fill="{colour}" fill-opacity="0.15"/>')
        return self.named(name, colour)

    def bar(self, x: float, y: float, width: float, colour: str, *, base: float | None = None) -> Plot:
        """Add a bar centred at x, from the base (by default the axis) to y."""
        left, top = self._place(x - width / 2, y)
        right, foot = self._place(x + width / 2, self.y[0] if base is None else base)
        self._parts.append(
            f'<rect x="{left:.1f}" y="{min(top, foot):.1f}" width="{right - left:.1f}" '
            f'height="{abs(foot - top):.1f}" fill="{colour}" fill-opacity="0.75"/>'
        )
        return self

    def whisker(self, x: float, low: float, high: float) -> Plot:
        """Add a vertical error bar."""
        (across, foot), (_, top) = self._place(x, low), self._place(x, high)
        self._parts.append(
            f'<path d="M{across:.1f} {foot:.1f}V{top:.1f}M{across - 4:.1f} {foot:.1f}h8M{across - 4:.1f} {top:.1f}h8" '
            'stroke="currentColor" stroke-width="1.2" fill="none"/>'
        )
        return self

    def label(self, x: float, y: float, words: str) -> Plot:
        """Write words just above a point."""
        across, up = self._place(x, y)
        self._text(across, up - 5, words)
        return self

    def named(self, name: str, colour: str) -> Plot:
        """Enter a colour into the legend."""
        if name:
            self._legend.append((name, colour))
        return self

    def file(self) -> str:
        """Return the figure as an SVG file of its own: black on white, so that it reads on a page of any colour."""
        opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH:g}" height="{2 * HEIGHT:g}" '
        paper = f'<style>{_FILE_STYLE}</style><rect width="{WIDTH:g}" height="{HEIGHT:g}" fill="#fff"/>'
        head, rest = self.svg().removeprefix("<svg ").split(">", 1)
        return f"{opening}{head}>{paper}{rest}\n"

    def svg(self) -> str:
        """Return the figure as one ``<svg>`` element."""
        longest = max((len(name) for name, _ in self._legend), default=0)
        left, top = LEFT + 8, TOP + 5
        if self._legend_below:
            left, top = WIDTH - RIGHT - 24 - 6.5 * longest, HEIGHT - BOTTOM - 4 - 16.0 * len(self._legend)
        legend = "".join(
            f'<rect x="{left:.1f}" y="{top + 16 * i:.1f}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{left + 15:.1f}" y="{top + 9 + 16 * i:.1f}">{escape(name)}</text>'
            for i, (name, colour) in enumerate(self._legend)
        )
        return (
            f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(self.title, quote=True)}">'
            f"<title>{escape(self.title)}</title>{''.join(self._parts)}"
            f'<path class="frame" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>{legend}</svg>'
        )
