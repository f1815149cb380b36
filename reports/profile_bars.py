"""The stage profile of the secondary capture: a bar for each bone, as full as the bone is mature."""

from __future__ import annotations

from PIL import Image, ImageDraw

from inference.finding import BoneProfile
from reports import lettering, wording
from reports.palette import CYAN, GREY, GRID, PANEL, WHITE
from reports.phrases import Language

FONT_SIZE = 16
ROW = 22
COLUMNS = 2
BAR = (62, 84)
"""Where a bar begins in its column, and how long it is, in pixels."""


def draw_profile(profile: BoneProfile, width: int, language: Language) -> Image.Image:
    """Draw the profile, so many pixels wide: its heading, which says that nobody read the stages, and the bones."""
    rows = -(-len(profile.bones) // COLUMNS)
    heading = lettering.wrapped(wording.profile_title(profile, language), FONT_SIZE, width)
    picture = Image.new("RGB", (width, (rows + len(heading)) * ROW + 6), PANEL)
    draw = ImageDraw.Draw(picture)
    for place, line in enumerate(heading):
        lettering.draw(draw, (0, 2 + place * ROW), line, GREY, FONT_SIZE)
    start, length = BAR
    for place, bone in enumerate(profile.bones):
        left, middle = (place // rows) * (width // COLUMNS), (place % rows + len(heading)) * ROW + ROW // 2 + 6
        lettering.draw(draw, (left, middle), wording.region(bone.name, language), WHITE, FONT_SIZE, "lm")
        bar = (left + start, middle - 5, left + start + length, middle + 5)
        draw.rectangle(bar, GRID)
        filled = round(length * bone.stage / bone.last_stage)
        if filled:
            draw.rectangle((bar[0], bar[1], bar[0] + filled, bar[3]), CYAN)
        lettering.draw(draw, (bar[2] + 8, middle), f"{bone.stage}/{bone.last_stage}", GREY, FONT_SIZE, "lm")
    return picture
