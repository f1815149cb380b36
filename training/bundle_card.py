"""What a model card says that no person types: the hashes of the weights, and that weights are newer than the card."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

_HASHES = re.compile(r"(<!-- sha256 -->\n).*?(<!-- /sha256 -->)", re.DOTALL)
_STALE = re.compile(r"<!-- stale -->\n.*?<!-- /stale -->\n\n", re.DOTALL)


def card_of(bundle: Path) -> Path:
    """Return where a bundle's card lies."""
    return bundle / "docs" / "README.md"


def fill_hashes(card: Path) -> None:
    """Write the hashes of ``configs/metadata.json`` between ``<!-- sha256 -->`` and ``<!-- /sha256 -->``, if it has it.

    A document that is no bundle's card stays as it is.
    """
    metadata = card.resolve().parents[1] / "configs" / "metadata.json"
    if not metadata.is_file():
        return
    hashes: dict[str, str] = json.loads(metadata.read_text())["weights_sha256"]
    table = "".join(f"| `{name}` | `{sha256}` |\n" for name, sha256 in hashes.items())
    lines = f"| file | SHA-256 |\n|---|---|\n{table}"
    card.write_text(_HASHES.sub(lambda found: f"{found[1]}{lines}{found[2]}", card.read_text()))


def mark_stale(card: Path) -> None:
    """Say below a card's title that its weights are others now, and name these."""
    title, _, rest = without_mark(card.read_text()).partition("\n\n")
    mark = (
        "<!-- stale -->\n"
        f"> **The weights are newer than this card**: exported on {datetime.now(UTC):%Y-%m-%d}. Training, split,\n"
        "> figures and limits below are of the weights before. Write them anew; `python -m training.card` puts the\n"
        "> figures in and takes this mark away.\n"
        "<!-- /stale -->\n\n"
    )
    card.write_text(f"{title}\n\n{mark}{rest}")
    fill_hashes(card)


def without_mark(text: str) -> str:
    """Return a card's text without what :func:`mark_stale` put there."""
    return _STALE.sub("", text)
