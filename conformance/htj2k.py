"""One small picture in High-Throughput JPEG 2000 (ISO 15444-15), for which there is no encoder among our parts.

Both streams were written once with OpenJPH: 48 rows, 40 columns, 16 bits unsigned.
"""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt
from pydicom import uid

from conformance.films import make_film, write_encapsulated

SYNTAXES = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
"""The transfer syntaxes of HTJ2K. The reversible stream has one resolution order only, and serves for all three."""

REVERSIBLE = base64.b64decode(
    """
/0//UQApQAAAAAAoAAAAMAAAAAAAAAAAAAAAKAAAADAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJ
CQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAABBkAAf+TwAArAFHui/g593MBAWOUAMAAE8AAE4C5mqsDC3QA4Q73AKI0
AMAAFZAABah//sw55585A5kBtQB/f/9++/ujLGWU/QChC8whAPm5AMAAF1sAAF1In8/Pz+fz+aik0ufz8/PJJ598opJKn8/PzyeffPKJSir9H/
Bf/guUHwAAMbwA3/f7fd/3fd/3/X7f933f94X+F/pf6H+h/wX9AGZ8gMd/+suEH+QxvgDAABe9QAAXtwDnPM8555xzzjnnnDhBkOA5z3POOeec
c845J04QJHjO85xzzjnnnHPOiRMECZ7zPOecc84555xz4gRBguc8zznnnHPOOeecOEGQ4DnPc84555xzzjknThAk+ATvXr9Zed69frLzvXr9Ze
d69frLzvXr9ZcgWJDGJDGxAnfv3d3d3d3d3d3dvXd3d3d3d3d3d/fe3d3d3d3d3d3de3d3d3d3d3d3d+/d3d3d3d3d3V3QcUHHBR0XdFzQcUHH
BR0XdFzQcUHHACAQhABBCEAGP1+vX6y/X69frL9fr1+sv1+vX6y+GoxqMbQCwAAv1NgABfo0yUySJEmSJEmSJEmSJElCAhxcMpMkSZIkSZIkSZ
IkSZKQAAeXzCRJkiRJkiRJkiRJkiQkwMElM0mSJEmSJEmSJEmSJAkJcHDJTJIkSZIkSZIkSZIkSUICHFwykyRJkiRJkiRJkiRJkpAAB5fMJEmS
JEmSJEmSJEmSJCTAwSUzSZIkSZIkSZIkSZIkCQlwcMlMkiRJkiRJkiRJkiRJQgIcXDKTJEmSJEmSJEmSJEmSkAAHl8wkSZIkSZIkSZIkSZIkJM
DBJTNJkiRJkiRJkiRJkiQJCXBwAGdr9ev16/Xr9ZfO1+vX69fr1+svna/Xr9ev16/WXztfr1+vX69frL52v16/Xr9ev1l87X69fr1+vX6y+dr9
ev16/Xr9ZfO1+vX69fr1+svna/Xr9ev16/WXztfr1+vX69frL52v16/Xr9ev1lwisbMbMbMbMbgHtVVVVVVVVVVVVdVWVVVVVVVVVVVVW1VVVV
VVVVVVVW1VVVVVVVVVVVW1VVVVVVVVVVVV1VZVVVVVVVVVVVVbVVVVVVVVVVVVbVVVVVVVVVVVVbVVVVVVVVVVVVXVVlVVVVVVVVVVVVtVVVVV
VVVVVVUBQwFDAUMBQwFDAUMBQwFDAUMBQwFDAUMBQwFDAUMBQwFDAUMBQwHDeCEACCIQAIIhAAgiEACCIQAMf16/Xr9ev16/WX9ev16/Xr9ev1
l/Xr9ev16/Xr9Zf16/Xr9ev16/WX9ev16/Xr9ev1l/Xr9ev16/Xr9Zf16/Xr9ev16/WX9ev16/Xr9ev1l/Xr9ev16/Xr9Zf16/Xr9ev16/WXox
qMajGoxqMbEI/9k=
"""
)
"""The picture without loss."""

IRREVERSIBLE = base64.b64decode(
    """
/0//UQApQAAAAAAoAAAAMAAAAAAAAAAAAAAAKAAAADAAAAAAAAAAAAABDwEB/1AACAACAAAAJ/9SAAwAAgABAAUEBEAA/1wAIyKcXZw3nDecEp
RJlEmUMYyIjIiMnIUhhSGFjXz2fPZ8mf9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/kAAKAAAAAAGtAAH/k8AACuBT5vQSdCqgvR/9A0G0AMAA
CogAAThrck3+A4t0AId8yADCNADAABWQAAWmM2aceuqMUwOZAbUApYlLJ5Ymal1rrQChC8whAPm5AMAALqoAAXQgmZnHIxBIJPTpy2QejwABEi
XSpy+TeTwCBEiUSJ++H/Af/gOQHwAAWZwA7dIu7dIu7XJGxzN0PKPjjI5n6PgAIH5CAU3QBC/k0L0AwABdtAAF2ABtC2E0UipbC2E0UipbC2E0
UipbC2E0UipbC2E0UipbC2E0UipvkoHkoHkoHkoHkoHEFYBJkgEfHx8fHx8fHx8fGcoMygwlQ5mhZCgzlAxlhpKh/B/QCFMQgKdMQgKboAZqta
rQswHAAL0eAAXoIN2UIGynBGE7JQjbKUHYTgnCdkoQtlOCsJ0ShO2UIGynBGE7JQjbKUH4fP9BJX8lfyV/JX8lfyV/JX8lfyV/JX8lfgCtC34B
mSRJkiRJkqSIhVhEEYsoYhFFLKKIRRSxiCIWUcQiilhEEQP/c8AAKdMAAKdMAAKdMAAKdMAAKbvrXrXrXrXqPwH/2Q==
"""
)
"""The picture with loss: no pixel is further than 4 from its value."""


def draw_picture() -> npt.NDArray[np.uint16]:
    """Draw what the streams hold, shape (48, 40)."""
    y, x = np.mgrid[0:48, 0:40]
    picture: npt.NDArray[np.uint16] = (((y - 24) ** 2 * 3 + (x - 20) ** 2 * 5) % 4096).astype(np.uint16)
    return picture


def encode_film(transfer_syntax: str) -> bytes:
    """Return the Part 10 file of a film of this picture."""
    return write_encapsulated(make_film(draw_picture(), 16), transfer_syntax, REVERSIBLE)
