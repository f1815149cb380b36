"""The documents a site may ask for: presentation state, PDF, key objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from conformance.judges import JUDGES, unexplained
from inference.finding import Box, Flag
from inference.shutter import read_shutter
from reports import wording
from reports.document import encoded
from reports.errors import InapplicableKind, VerificationError
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


def _table(first, entries, bits, *, words=True):
    """Return a look-up table, as words (OW) or as numbers (US)."""
    item, values = Dataset(), np.asarray(entries, "<u2")
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", "OW" if words else "US", values.tobytes() if words else values.tolist())
    return item


def _shown(source, cells):
    source.set_original_encoding(is_implicit_vr=False, is_little_endian=True)  # pydicom asks before it reads words
    values = apply_modality_lut(cells, source)
    return apply_voi_lut(values.astype(np.int32) if "VOILUTSequence" in source else values, source)


_CELLS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    "has",
    [
        {"RescaleIntercept": "-1000", "RescaleSlope": "2", "WindowCenter": "1000", "WindowWidth": "900"},
        {"WindowCenter": "2000.5", "WindowWidth": "300", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "2000", "WindowWidth": "0.5", "VOILUTFunction": "LINEAR_EXACT"},
        {"VOILUTSequence": [_table(0, _CELLS.ravel() ** 1.2 // 6, 12)]},
        {
            "VOILUTSequence": [_table(100, _CELLS.ravel()[::-1], 12, words=False)],
            "WindowCenter": "1",
            "WindowWidth": "1",
        },
        {
            "ModalityLUTSequence": [_table(0, _CELLS.ravel()[::-1], 16)],
            "WindowCenter": "1000",
            "WindowWidth": "500",
        },
        {
            "RescaleIntercept": "-2048",
            "RescaleSlope": "1",
            "VOILUTSequence": [_table(-2048, _CELLS.ravel()[::-1], 12)],
        },
    ],
)
def test_marks_show_the_film_in_its_own_greys(dx, estimate, identify, has):
    # What a state lacks is the identity, whatever the film says (PS3.4 N.2).
    dx.BitsStored, dx.PixelRepresentation = 12, 0
    for keyword, value in has.items():
        setattr(dx, keyword, value)
    document = compose_gsps(dx, estimate, identify(dx, "gsps"))
    (item,) = document.SoftcopyVOILUTSequence
    state = Dataset()
    state.BitsStored, state.PixelRepresentation, state.PhotometricInterpretation = 12, 0, "MONOCHROME2"
    state.update({one.tag: one for one in (*document, *item)})
    np.testing.assert_array_equal(_shown(state, _CELLS), _shown(dx, _CELLS))
    assert ("RescaleType" in document) == ("RescaleSlope" in has)


@pytest.mark.parametrize(
    "has",
    [
        {"RescaleIntercept": "-1000", "RescaleSlope": "0"},
        {"RescaleIntercept": "-1000"},
        {"ModalityLUTSequence": [_table(0, [1, 2, 3], 16)], "RescaleIntercept": "5", "RescaleSlope": "1"},
        {"VOILUTSequence": [Dataset()]},
    ],
)
def test_marks_without_what_the_node_cannot_use(dx, estimate, identify, has):
    for keyword, value in has.items():
        setattr(dx, keyword, value)
    for item in has.get("ModalityLUTSequence", ()):
        item.LUTDescriptor = [4096, 0, 16]
    document = compose_gsps(dx, estimate, identify(dx, "gsps"))
    assert not {"RescaleSlope", "ModalityLUTSequence", "SoftcopyVOILUTSequence"} & {one.keyword for one in document}


@pytest.mark.parametrize(
    ("keyword", "sides", "written"),
    [
        ("ImagerPixelSpacing", ["0.2", "0.1"], [2, 1]),
        ("ImagerPixelSpacing", ["0.1000", "0.1001"], [1, 1]),
        ("ImagerPixelSpacing", ["0.1", "7"], [1, 1]),
        ("PixelAspectRatio", ["3", "4"], [3, 4]),
        ("NominalScannedPixelSpacing", ["0.1", "0.2"], [1, 2]),
    ],
)
def test_marks_keep_the_shape_of_pixels(dx, estimate, identify, keyword, sides, written):
    del dx.ImagerPixelSpacing
    setattr(dx, keyword, sides)
    (area,) = compose_gsps(dx, estimate, identify(dx, "gsps")).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == written


@pytest.mark.parametrize(
    ("offset", "day", "time"),
    [
        ("+0800", "20261121", "130709"),
        ("-0630", "20261120", "223709"),
        ("", "20261121", "050709"),
        (None, "20261121", "050709"),
    ],
)
@pytest.mark.parametrize("kind", ["sr", "text", "sc", "gsps", "pdf", "kos"])
def test_times_are_in_the_zone_that_the_document_names(dx, estimate, compose_other, kind, offset, day, time):
    """Given 05:07:09 UTC. The offset that is copied goes for our own dates and times too (PS3.3 C.12.1.1.8)."""
    del dx.TimezoneOffsetFromUTC
    if offset is not None:
        dx.TimezoneOffsetFromUTC = offset
    document = compose_other(kind, dx, estimate)
    own = {"Content", "Series", "InstanceCreation", "PresentationCreation"}
    at = {
        name: (document[f"{name}Date"].value, document[f"{name}Time"].value)
        for name in own
        if f"{name}Date" in document
    }
    assert len(at) == 3
    assert set(at.values()) == {(day, time)}
    if kind == "sc":
        assert (document.DateOfSecondaryCapture, document.TimeOfSecondaryCapture) == (day, time)
    for equipment in document.get("ContributingEquipmentSequence", ()):
        assert equipment.ContributionDateTime == day + time


@pytest.mark.parametrize("kind", ["gsps", "kos", "sc"])
@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_wherever_the_number_is_what_speaks_against_it_is_too(dx, estimate, compose_other, kind, language):
    flags = (Flag("unlike", "The hand looks unlike others."), *estimate.flags)
    document = compose_other(kind, dx, replace(estimate, flags=flags), language)
    if kind == "gsps":
        said = document.GraphicAnnotationSequence[-1].TextObjectSequence[0].UnformattedTextValue
    else:
        said = document.ImageComments if kind == "sc" else children_text(document)
    for part in (wording.bone_age(estimate, language), wording.interval(estimate, language), wording.DISCLAIMER):
        assert "".join(part.split()) in "".join(said.split())  # wherever lines end
    assert said.index(wording.DISCLAIMER) < said.index("! The hand looks unlike others.")
    assert said.rstrip().endswith("! The image was compressed with loss.")


def children_text(document):
    return next(str(item.TextValue) for item in children(document) if item.ValueType == "TEXT")


@pytest.mark.parametrize("language", wording.LANGUAGES)
def test_marks_have_a_line_for_each_sentence_and_never_lose_the_disclaimer(dx, estimate, identify, language):
    """Given more flags than a text may be long. Viewers break a line only where one ends."""
    flags = tuple(Flag(f"f{place}", f"Something number {place} speaks against the result.") for place in range(40))
    finding = replace(estimate, flags=flags)
    document = compose_gsps(dx, finding, identify(dx, "gsps"), language=language)
    verify(document, dx, finding)
    said = document.GraphicAnnotationSequence[-1].TextObjectSequence[0].UnformattedTextValue
    assert len(said) <= 1024
    lines = said.split("\r\n")
    assert max(map(len, lines)) < 120
    assert f"{wording.DISCLAIMER}{'' if language == 'en' else ')'}." in [line.removeprefix("(") for line in lines]
    assert lines[-2].endswith("speaks against the result.")
    assert lines[-1] == ("! More stands in the report." if language == "en" else "! 其余见报告。")


def test_an_image_without_a_size_has_no_marks(cr, refusal, identify):
    del cr.Rows
    with pytest.raises(InapplicableKind):
        compose_gsps(cr, refusal, identify(cr, "gsps"))


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "PALETTE COLOR"])
def test_a_film_in_colour_has_no_marks(cr, estimate, identify, photometric):
    """A state for grey images must refer to none in colour, as highdicom says too."""
    cr.PhotometricInterpretation = photometric
    cr.SamplesPerPixel = 1 if photometric == "PALETTE COLOR" else 3
    with pytest.raises(InapplicableKind):
        compose_gsps(cr, estimate, identify(cr, "gsps"))


def test_a_film_that_does_not_say_its_colours_has_marks(cr, estimate, identify):
    del cr.PhotometricInterpretation
    verify(compose_gsps(cr, estimate, identify(cr, "gsps")), cr, estimate)


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


SHUTTERS = {
    "RECTANGULAR": {
        "ShutterLeftVerticalEdge": 21,
        "ShutterRightVerticalEdge": 480,
        "ShutterUpperHorizontalEdge": 11,
        "ShutterLowerHorizontalEdge": 590,
    },
    "CIRCULAR": {"CenterOfCircularShutter": [300, 250], "RadiusOfCircularShutter": 310},
    "POLYGONAL": {"VerticesOfThePolygonalShutter": [1, 1, 1, 500, 600, 480, 590, 20]},
}
ALL_SHAPES = tuple(SHUTTERS)


def shuttered(source: Dataset, shapes: tuple[str, ...]) -> dict[str, object]:
    """Give a source a shutter of these shapes; return what a state must have of it."""
    attributes = {keyword: value for shape in shapes for keyword, value in SHUTTERS[shape].items()}
    source.ShutterShape = list(shapes)
    for keyword, value in attributes.items():
        setattr(source, keyword, value)
    return attributes


@pytest.mark.parametrize("shapes", [*((shape,) for shape in ALL_SHAPES), ALL_SHAPES[:2], ALL_SHAPES])
@pytest.mark.parametrize("grey", [None, 0, 0x4000, 0xFFFF])
def test_the_states_shutter_is_the_films(dx, estimate, identify, shapes, grey):
    """Given a film that its modality has shuttered, then a viewer that applies the state shows it so, too."""
    attributes = shuttered(dx, shapes)
    if grey is not None:
        dx.ShutterPresentationValue = grey
    document = compose_gsps(dx, estimate, identify(dx, "gsps"))
    verify(document, dx, estimate)
    assert read_shutter(with_size(document, dx)).shapes == shapes
    assert read_shutter(dx) == read_shutter(with_size(document, dx))
    for keyword, value in attributes.items():
        assert document[keyword].value == value
    assert document.ShutterPresentationValue == (grey or 0)  # PS3.3 C.11.12: required beside a shutter


def with_size(document: Dataset, source: Dataset) -> Dataset:
    copy = Dataset()
    copy.update(document)
    copy.Rows, copy.Columns = source.Rows, source.Columns
    return copy


@pytest.mark.parametrize("shape", ["RECTANGULAR", "BITMAP", ""])
def test_a_shutter_that_cannot_be_used_is_not_copied(dx, estimate, identify, shape):
    dx.ShutterShape = shape
    document = compose_gsps(dx, estimate, identify(dx, "gsps"))
    assert not [one.keyword for one in document if "Shutter" in one.keyword]


def test_judges_have_nothing_against_shutters(dx, estimate, identify, require_peer, tmp_path):
    """Given a state with each shape and with all of them, then dciodvfy and dcmpschk say nothing."""
    dicom3tools, dcmtk = require_peer("dicom3tools"), require_peer("dcmtk")
    path = tmp_path / "state.dcm"
    for shapes in (*((shape,) for shape in ALL_SHAPES), ALL_SHAPES):
        shuttered(dx, shapes)
        path.write_bytes(encoded(compose_gsps(dx, estimate, identify(dx, "gsps"))))
        for name, programs in (("dciodvfy", dicom3tools), ("dcmpschk", dcmtk)):
            assert unexplained(name, JUDGES[name].complaints(programs, path)) == [], shapes
    assert "RadiusOfCircularShutter" in dcmread(path)


def with_overlay(source: Dataset, group: int) -> None:
    """Give a source an overlay plane, as modalities put side markers there."""
    for element, vr, value in (
        (0x0010, "US", source.Rows), (0x0011, "US", source.Columns), (0x0040, "CS", "G"), (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1), (0x0102, "US", 0), (0x3000, "OW", bytes(source.Rows * source.Columns // 8)),
    ):  # fmt: skip
        source.add_new((group, element), vr, value)


def test_the_films_own_overlays_stay_shown(dx, estimate, identify, require_peer, tmp_path):
    """Given a film with a side marker as an overlay, then a viewer that applies the state still shows it.

    An overlay that a state does not name is hidden (PS3.3 C.11.7).
    """
    for group in (0x6000, 0x6004):
        with_overlay(dx, group)
    document = compose_gsps(dx, estimate, identify(dx, "gsps"))
    verify(document, dx, estimate)
    layers = [item.GraphicLayer for item in document.GraphicLayerSequence]
    for group in (0x6000, 0x6004):
        assert document[group, 0x1001].value in layers
    assert {one.tag.group for one in document if 0x6000 <= one.tag.group < 0x7000} == {0x6000, 0x6004}
    path = tmp_path / "state.dcm"
    path.write_bytes(encoded(document))
    for name, peer in (("dciodvfy", "dicom3tools"), ("dcmpschk", "dcmtk")):
        assert unexplained(name, JUDGES[name].complaints(require_peer(peer), path)) == []


def test_without_overlays_there_is_no_layer_for_them(dx, estimate, identify):
    dx.add_new((0x6001, 0x0010), "LO", "a private group")
    document = compose_gsps(dx, estimate, identify(dx, "gsps"))
    assert [item.GraphicLayer for item in document.GraphicLayerSequence] == ["REGIONS", "RESULT"]
    assert not [one.tag for one in document if 0x6000 <= one.tag.group < 0x7000]
