"""One way to every kind of document: what a kind is called, and which function writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from inference.finding import Finding
from reports.clinic import Assessment
from reports.encapsulated_pdf import compose_pdf
from reports.header import film_size, pixel_shape
from reports.identity import DocumentIdentity, Kind
from reports.key_objects import Capture, compose_kos
from reports.overlay import Extras, draw_overlay
from reports.phrases import Language
from reports.presentation_state import compose_gsps
from reports.secondary_capture import compose_sc, patient_line
from reports.structured_report import CORNERSTONE_RECTANGLE, compose_sr
from reports.text_report import compose_text_sr

Display = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Choices:
    """What a site chose, and what is known beside the finding; each kind takes of it what concerns it."""

    preliminary: bool = True
    assessment: Assessment | None = None
    language: Language = "en"
    name_patient: bool = False
    capture: Capture | None = None
    """The secondary capture of the same finding, where there is one."""


def compose(
    kind: Kind,
    source: Dataset,
    finding: Finding,
    identity: DocumentIdentity,
    *,
    display: Callable[[], Display | None],
    choices: Choices = Choices(),
) -> FileDataset:
    """Compose one document; see the function of its kind.

    Parameters
    ----------
    display
        Decodes the film, bones bright; asked only by the kinds that show it. It returns None where that fails.

    Raises
    ------
    ReportError
        The document cannot be made from this source.
    """
    language, assessment = choices.language, choices.assessment
    if kind == "gsps":
        return compose_gsps(source, finding, identity, language=language)
    if kind == "kos":
        return compose_kos(source, finding, identity, capture=choices.capture, language=language)
    if kind == "pdf":
        extras = Extras(assessment, language, patient_line(source, choices.language) if choices.name_patient else None)
        picture = draw_overlay(display(), finding, film_size(source), extras, pixel=pixel_shape(source))
        return compose_pdf(source, finding, picture, identity, language=language)
    if kind == "sc":
        return compose_sc(
            source,
            finding,
            display(),
            identity,
            assessment=assessment,
            language=language,
            name_patient=choices.name_patient,
        )
    if kind == "text":
        return compose_text_sr(
            source, finding, identity, preliminary=choices.preliminary, assessment=assessment, language=language
        )
    return compose_sr(
        source,
        finding,
        identity,
        preliminary=choices.preliminary,
        assessment=assessment,
        language=language,
        three_dimensional=kind == "sr",
        tracking_identifier=CORNERSTONE_RECTANGLE if kind == "sr-cornerstone" else None,
    )
