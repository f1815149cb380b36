"""The terms that films and what was trained on them come under."""

from __future__ import annotations

from pathlib import Path

from training.radiographs import is_project_folder

_RSNA = (
    "RSNA Pediatric Bone Age Challenge 2017 films (Halabi et al., Radiology 2018;290:498-503): non-commercial research "
    "and education only"
)
RSNA_TERMS = f"Trained on the {_RSNA}. Not a medical device."
"""Of the weights this project ships."""
SITE_FILMS = "a site's own films, under the site's own terms"


def terms_of_films(data: Path) -> str:
    """Return the terms of a folder's films, a phrase for people.

    Raises
    ------
    DataError
        If the folder has no layout that is known.
    """
    if not is_project_folder(data):
        from training.sources import open_source  # it reads films into training.radiographs' types

        if "RSNA" not in open_source(data).layout:
            return SITE_FILMS
    return _RSNA


def part_of_films(data: Path, part: str) -> str:
    """Return which films a part of a folder's are, a phrase for people: who put them there.

    Raises
    ------
    DataError
        If the folder has no layout that is known.
    """
    if terms_of_films(data) == SITE_FILMS:
        return f"{part} part of a site's own films"
    return f"{part} part of training/split.csv"


def terms_of_weights(films: str, start: str | None) -> str:
    """Return the terms of weights trained on films of such terms, from weights of such terms (None: from none)."""
    if films == _RSNA and start in (None, RSNA_TERMS):
        return RSNA_TERMS
    own = f"Trained on {'the ' if films == _RSNA else ''}{films}."
    return f"{own} Not a medical device." if start is None else f"{own} Its training began with other weights: {start}"
