"""The growth chart of the secondary capture: bone age against chronological age, in the reference's own range.

The mean and two standard deviations of the named reference, earlier results as a track, this result with its interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from PIL import Image, ImageDraw

from inference.finding import Estimate
from reports import lettering
from reports.clinic import Assessment, GrowthChart
from reports.palette import AMBER, CYAN, GREY, GRID, PANEL, RANGE, WHITE

SAMPLING = 2
"""Lines are drawn so many times larger and brought down: Pillow's have jagged edges."""
FONT_SIZE, SMALLEST_TITLE = 18, 12
EDGES = (46, 32, 14, 36)
"""Pixels left of, above, right of and below the field of the chart."""
YEARS_AROUND = 3
"""Years of chronological and bone age shown beyond this result and the earlier ones."""
FEWEST_YEARS = 6
LAST_YEAR = 20
"""The chart ends here, unless there is something to show beyond."""


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a pair of ages (months) lies in the picture (pixels, enlarged)."""

    size: tuple[int, int]
    years: tuple[int, int]

    def at(self, age_months: float, bone_age_months: float) -> tuple[float, float]:
        left, top, right, bottom = (edge * SAMPLING for edge in EDGES)
        width, height = (side * SAMPLING for side in self.size)
        first, last = (year * 12 for year in self.years)
        x = left + (age_months - first) / (last - first) * (width - left - right)
        y = height - bottom - (bone_age_months - first) / (last - first) * (height - top - bottom)
        return x, y


def draw_chart(estimate: Estimate, assessment: Assessment, size: tuple[int, int], title: str) -> Image.Image | None:
    """Draw the chart.

    Parameters
    ----------
    estimate
        This result; it needs a chronological age to have a place.
    assessment
        With the reference's curves and the earlier results.
    size
        (width, height) in pixels.
    title
        What stands above: the reference's name.

    Returns
    -------
    PIL.Image.Image or None
        None where the chronological age or the curves are missing.
    """
    ages, chart = estimate.subject.ages_months, assessment.chart
    if ages is None or chart is None:
        return None
    field = _Field(size, _years(estimate, assessment, ages))
    picture = Image.new("RGB", (size[0] * SAMPLING, size[1] * SAMPLING), PANEL)
    draw = ImageDraw.Draw(picture)
    _draw_grid(draw, field)
    _draw_reference(picture, chart, field)
    _draw_track(draw, estimate, assessment, field, ages)
    picture = picture.reduce(SAMPLING)
    _write(picture, field, title)
    return picture


def _years(estimate: Estimate, assessment: Assessment, ages: tuple[float, float]) -> tuple[int, int]:
    """Return the first and the last year shown: what there is to show, and some years around it."""
    shown = [*ages, estimate.age_months, *(prior.bone_age_months for prior in assessment.track)]
    shown += [prior.chronological_age_months for prior in assessment.track]
    low, high = min(*shown, estimate.interval_low_months), max(*shown, estimate.interval_high_months)
    first = max(0, min(floor(min(shown) / 12) - YEARS_AROUND, floor(low / 12)))
    last = max(ceil(max(shown) / 12) + YEARS_AROUND, first + FEWEST_YEARS)
    return first, max(min(last, LAST_YEAR), ceil(high / 12))


def _draw_grid(draw: ImageDraw.ImageDraw, field: _Field) -> None:
    first, last = field.years
    for year in range(first, last + 1):
        heavy = GREY if year == first else GRID
        draw.line([field.at(year * 12, first * 12), field.at(year * 12, last * 12)], heavy, SAMPLING)
        draw.line([field.at(first * 12, year * 12), field.at(last * 12, year * 12)], heavy, SAMPLING)


def _draw_reference(picture: Image.Image, chart: GrowthChart, field: _Field) -> None:
    """Draw the range of two standard deviations as a band and the mean as a line, inside the field only."""
    ages = np.asarray(chart.ages_months)
    first, last = (year * 12 for year in field.years)
    shown = (
        np.linspace(max(first, ages[0]), min(last, ages[-1]), 120) if ages[0] < last and ages[-1] > first else ages[:0]
    )
    if not len(shown):
        return
    low, mean, high = (
        np.clip(np.interp(shown, ages, curve), first, last) for curve in (chart.low, chart.mean, chart.high)
    )
    draw = ImageDraw.Draw(picture)
    forth = [field.at(age, bone) for age, bone in zip(shown, high, strict=True)]
    back = [field.at(age, bone) for age, bone in zip(shown[::-1], low[::-1], strict=True)]
    draw.polygon([*forth, *back], RANGE)
    for curve, width in ((low, 1), (mean, 2), (high, 1)):
        points = [field.at(age, bone) for age, bone in zip(shown, curve, strict=True)]
        draw.line(points, GREY, width * SAMPLING, joint="curve")


def _draw_track(
    draw: ImageDraw.ImageDraw, estimate: Estimate, assessment: Assessment, field: _Field, ages: tuple[float, float]
) -> None:
    """Draw earlier results and this one, joined in the order of time; this one with its interval.

    Each lies at the middle of what its chronological age can mean, with that as a line to both sides.
    """
    age = sum(ages) / 2
    here = field.at(age, estimate.age_months)
    earlier = []
    for prior in assessment.track:
        first, last = prior.chronological_age_months, prior.chronological_age_months + prior.age_span_months
        earlier.append(field.at((first + last) / 2, prior.bone_age_months))
        _draw_span(draw, field, (first, last), prior.bone_age_months, AMBER)
    _draw_span(draw, field, ages, estimate.age_months, CYAN)
    if earlier:
        draw.line([*earlier, here], AMBER, SAMPLING)
    for x, y in earlier:
        _dot(draw, x, y, 4, AMBER)
    draw.line(
        [field.at(age, estimate.interval_low_months), field.at(age, estimate.interval_high_months)],
        CYAN,
        3 * SAMPLING,
    )
    _dot(draw, *here, 7, WHITE)


def _draw_span(
    draw: ImageDraw.ImageDraw,
    field: _Field,
    ages: tuple[float, float],
    bone_age_months: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw the chronological ages that a bone age may belong to, where they are more than one."""
    if ages[1] > ages[0]:
        draw.line([field.at(age, bone_age_months) for age in ages], colour, 3 * SAMPLING)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: int, colour: tuple[int, int, int]) -> None:
    reach = radius * SAMPLING
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), colour)


def _write(picture: Image.Image, field: _Field, title: str) -> None:
    """Write the title and the years along both axes."""
    draw = ImageDraw.Draw(picture)
    room = field.size[0] - EDGES[0]
    fitting = (size for size in range(FONT_SIZE, SMALLEST_TITLE, -1) if lettering.width(title, size) <= room)
    lettering.draw(draw, (EDGES[0], 4), title, GREY, next(fitting, SMALLEST_TITLE))
    first, last = field.years
    step = 1 if last - first <= 10 else 2
    for year in range(first, last + 1, step):
        x, y = (place / SAMPLING for place in field.at(year * 12, first * 12))
        lettering.draw(draw, (x, y + 14), str(year), GREY, FONT_SIZE, "mm")
        x, y = (place / SAMPLING for place in field.at(first * 12, year * 12))
        lettering.draw(draw, (x - 8, y), str(year), GREY, FONT_SIZE, "rm")
