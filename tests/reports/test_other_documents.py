"""The documents a site may ask for: presentation state, PDF, key objects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference.finding import Box
from reports import wording
from reports.document import encoded
from reports.errors import UnplaceableFinding, VerificationError
from reports.key_objects import compose_kos
from reports.presentation_state import compose_gsps
from reports.read_back import children
from reports.verify import verify

KINDS = ("gsps", "pdf", "kos")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["dx", "cr"])
@pytest.mark.parametrize("finding", ["estimate", "refusal", "sex_unknown"])
@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_they_verify_and_repeat(request, compose_other, kind, source, finding, language):
    header, found = (request.getfixturevalue(name) for name in (source, finding))
    first, second = (compose_other(kind, header, found, language) for _ in range(2))
    verify(first, header, found)
    assert encoded(first) == encoded(second)
    assert first.StudyInstanceUID == header.StudyInstanceUID
    assert first.SeriesInstanceUID != header.SeriesInstanceUID


@pytest.mark.parametrize("kind", ["gsps", "kos"])
def test_another_finding_is_noticed(dx, estimate, compose_other, kind):
    document = compose_other(kind, dx, estimate)
    with pytest.raises(VerificationError, match="result"):
        verify(document, dx, replace(estimate, age_months=100.0))


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_is_noticed(dx, estimate, compose_other, kind):
    document = compose_other(kind, dx, estimate)
    dx.SOPInstanceUID = "1.2.999"
    with pytest.raises(VerificationError, match="references"):
        verify(document, dx, estimate)


def test_marks_are_boxes_on_the_image_in_two_layers(dx, estimate, identify):
    outside = replace(estimate, hand=Box(-20.0, -10.0, 700.0, 590.0))
    document = compose_gsps(dx, outside, identify(dx, "gsps"))
    regions, result = document.GraphicAnnotationSequence
    assert [layer.GraphicLayer for layer in document.GraphicLayerSequence] == ["REGIONS", "RESULT"]
    assert len(regions.GraphicObjectSequence) == len(estimate.rois) + 1
    assert list(regions.GraphicObjectSequence[-1].GraphicData[:4]) == [0, 0, 500, 0]
    assert "Bone age 11 y 0 mo" in result.TextObjectSequence[0].UnformattedTextValue


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "IDENTITY")])
def test_polarity_and_the_first_window(dx, estimate, identify, photometric, shape):
    dx.PhotometricInterpretation = photometric
    dx.WindowCenter, dx.WindowWidth = ["2048", "1000"], ["4096", "500"]
    document = compose_gsps(dx, estimate, identify(dx, "gsps"))
    assert document.PresentationLUTShape == shape
    (window,) = document.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (2048, 4096)


def test_an_image_without_a_size_has_no_marks(cr, refusal, identify):
    del cr.Rows
    with pytest.raises(UnplaceableFinding):
        compose_gsps(cr, refusal, identify(cr, "gsps"))


def test_the_page_is_a_pdf_of_an_even_length(dx, estimate, compose_other):
    document = compose_other("pdf", dx, estimate)
    page = document.EncapsulatedDocument
    assert len(page) % 2 == 0
    assert page[: document.EncapsulatedDocumentLength].rstrip().endswith(b"%%EOF")


def test_the_selection_names_capture_and_film(dx, estimate, compose_other):
    images = [item for item in children(compose_other("kos", dx, estimate)) if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images] == ["1.2.3.4", dx.SOPInstanceUID]
    assert not any("ConceptNameCodeSequence" in item for item in images)


def test_without_a_capture_the_film_alone(dx, estimate, identify):
    document = compose_kos(dx, estimate, identify(dx, "kos"))
    verify(document, dx, estimate)
    assert len(document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence) == 1
