"""The 18 regions of interest of the global-local method: 13 RUS bones and five carpal regions, by name and order.

Hui et al. 2022 do not list their 18 ROIs; these are ours: the 13 RUS bones of TW3 and five regions of the carpus, which
gives the "8 ROIs in the wrist" the paper speaks of (radius, ulna, first metacarpal base and the five).
"""

from __future__ import annotations

RUS_NAMES: tuple[str, ...] = (
    "radius", "ulna", "MC1", "MC3", "MC5", "PP1", "PP3", "PP5", "MP3", "MP5", "DP1", "DP3", "DP5",
)  # fmt: skip
"""The 13 bones of TW3 RUS and RUS-CHN, in the order their scores are tabulated."""

CARPAL_NAMES: tuple[str, ...] = (
    "capitate-hamate", "triquetrum-lunate", "scaphoid", "trapezium-trapezoid", "carpus",
)  # fmt: skip
"""The five carpal regions."""

ROI_NAMES: tuple[str, ...] = RUS_NAMES + CARPAL_NAMES
"""All 18, in the channel order of the fusion network's local input."""

BOX_NAMES: tuple[str, ...] = (
    "radius", "ulna", "MC1", "MC2", "MC3", "MC4", "MC5",
    "PP1", "PP2", "PP3", "PP4", "PP5", "MP2", "MP3", "MP4", "MP5", "DP1", "DP2", "DP3", "DP4", "DP5",
)  # fmt: skip
"""The 21 epiphyseal regions that the landmark detector finds, thumb (1) to little finger (5)."""

JOINT_NAMES: tuple[str, ...] = (
    "J-MCP1", "J-MCP2", "J-MCP3", "J-MCP4", "J-MCP5", "J-IP1", "J-PIP2", "J-PIP3", "J-PIP4", "J-PIP5",
    "J-DIP2", "J-DIP3", "J-DIP4", "J-DIP5", "J-radius", "J-ulna", "J-carpus", "CMC1",
    "TIP1", "TIP2", "TIP3", "TIP4", "TIP5",
)  # fmt: skip
"""Further points the detector learns from: joints, carpus, finger tips."""

POINT_NAMES: tuple[str, ...] = BOX_NAMES + JOINT_NAMES
"""Channel order of the landmark detector's heat maps."""
