"""Colours of the secondary capture: light on dark, told apart in grey as well."""

from __future__ import annotations

Colour = tuple[int, int, int]

PANEL: Colour = (18, 22, 27)
GRID: Colour = (38, 44, 51)
RANGE: Colour = (40, 62, 74)
WHITE: Colour = (240, 243, 246)
GREY: Colour = (168, 178, 188)
CYAN: Colour = (86, 200, 235)
AMBER: Colour = (247, 181, 75)
BANNER: Colour = (122, 30, 34)
HAND: Colour = (150, 160, 170)
