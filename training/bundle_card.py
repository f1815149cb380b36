"""What a model card says that no person types: hashes of the weights, terms of other films, weights newer than it."""

from __future__ import annotations

import json
import re
import textwrap
from datetime import UTC, datetime
from pathlib import Path

from training.storage import write_text
from training.terms import RSNA_TERMS

_HASHES = re.compile(r"(<!-- sha256 -->\n).*?(<!-- /sha256 -->)", re.DOTALL)
_TERMS = re.compile(r"<!-- terms -->\n.*?<!-- /terms -->", re.DOTALL)
_TYPED_TERMS = re.compile(r"\*\*Data and terms\.\*\*.*?(?=\n\n|\s*\Z)", re.DOTALL)
"""The paragraph of the cards that are shipped."""
_OTHER_FILMS = (
    "Where this card speaks of split, training and limits, it means the weights this project ships, unless somebody "
    "has written it anew since."
)
_STALE = re.compile(r"<!-- stale -->\n.*?<!-- /stale -->\n\n", re.DOTALL)


def card_of(bundle: Path) -> Path:
    """Return where a bundle's card lies."""
    return bundle / "docs" / "README.md"


def fill_metadata(card: Path) -> None:
    """Write what ``configs/metadata.json`` says into a card: hashes, and the terms of other films than RSNA's.

    Hashes go between ``<!-- sha256 -->`` and ``<!-- /sha256 -->``, if it has that. Terms replace the paragraph that
    begins with "Data and terms"; RSNA's stay as somebody typed them. A document that is no bundle's card stays as it
    is.
    """
    metadata = card.resolve().parents[1] / "configs" / "metadata.json"
    if not metadata.is_file():
        return
    described = json.loads(metadata.read_text())
    hashes: dict[str, str] = described["weights_sha256"]
    table = "".join(f"| `{name}` | `{sha256}` |\n" for name, sha256 in hashes.items())
    lines = f"| file | SHA-256 |\n|---|---|\n{table}"
    text = _HASHES.sub(lambda found: f"{found[1]}{lines}{found[2]}", card.read_text())
    write_text(card, _with_terms(text, described.get("data_terms", RSNA_TERMS)))


def _with_terms(text: str, terms: str) -> str:
    """Return a card's text with the terms of its weights; the words of a person stay where these are RSNA's."""
    other = terms != RSNA_TERMS
    if not other and not _TERMS.search(text):
        return text
    words = f"**Data and terms.** {terms} {_OTHER_FILMS}" if other else f"**Data and terms.** {terms}"
    block = f"<!-- terms -->\n{textwrap.fill(words, 118, break_on_hyphens=False)}\n<!-- /terms -->"
    for place in (_TERMS, _TYPED_TERMS):
        if place.search(text):
            return place.sub(lambda _: block, text, count=1)
    title, _, rest = text.partition("\n\n")
    return f"{title}\n\n{block}\n\n{rest}"


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
    write_text(card, f"{title}\n\n{mark}{rest}")
    fill_metadata(card)


def without_mark(text: str) -> str:
    """Return a card's text without what :func:`mark_stale` put there."""
    return _STALE.sub("", text)
