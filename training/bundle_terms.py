"""The terms of a bundle's weights, file by file: a site may train one network of several on films of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from inference import familiarity
from training.terms import RSNA_TERMS

BY_FILE = "data_terms_by_file"
"""Key of ``metadata.json``, where the files of a bundle do not all have RSNA's terms."""
_AGE_NETWORKS = "model"
"""With this, names of age networks begin."""


def terms_by_file(before: Mapping[str, Any], files: Iterable[str], new: Mapping[str, str]) -> dict[str, str]:
    """Return the terms of each weight file.

    Parameters
    ----------
    before
        The metadata as they were; ``data_terms`` alone are those of the age networks.
    files
        The weight files of the bundle. What describes familiar hands is none: it follows the network that it describes.
    new
        The terms of those that were written just now.
    """
    of_ages = before.get("data_terms", RSNA_TERMS)
    known: dict[str, str] = before.get(BY_FILE, {})
    return {
        file: new.get(file) or known.get(file) or (of_ages if file.startswith(_AGE_NETWORKS) else RSNA_TERMS)
        for file in files
        if file != familiarity.FILE
    }


def described(by_file: Mapping[str, str]) -> dict[str, Any]:
    """Return what metadata say of terms: one text for people, and each file's where they are not all RSNA's."""
    texts = set(by_file.values()) or {RSNA_TERMS}
    words = " ".join(f"{file}: {terms}" for file, terms in by_file.items()) if len(texts) > 1 else texts.pop()
    return {"data_terms": words} | ({} if words == RSNA_TERMS else {BY_FILE: dict(by_file)})


def are_own(by_file: Mapping[str, str]) -> bool:
    """Whether an age network among the files has other terms than RSNA's."""
    return any(terms != RSNA_TERMS for file, terms in by_file.items() if file.startswith(_AGE_NETWORKS))
