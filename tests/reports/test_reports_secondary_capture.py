"""The secondary capture and its picture. Not covered: how the text looks (see a picture of the demo)."""

from __future__ import annotations

import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileMetaDataset

from inference.finding import Box, Flag, Laterality
from reports import lettering, overlay, wording
from reports.document import encoded
from reports.overlay import FILM_LONG_SIDE, draw_overlay
from reports.secondary_capture import compose_sc
from reports.verify import verify


def test_attributes(dx, estimate, display, identify):
    document = compose_sc(dx, estimate, display, identify(dx, "sc"))

    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert list(document.ImageType) == ["DERIVED", "SECONDARY"]
    assert document.ConversionType == "WSD"
    assert document.BurnedInAnnotation == "YES"
    assert document.Modality == "OT"
    assert (document.PhotometricInterpretation, document.SamplesPerPixel, document.BitsStored) == ("RGB", 3, 8)
    assert (document.BodyPartExamined, document.ImageLaterality) == ("HAND", "L")
    assert list(document.PatientOrientation) == ["R", "F"]
    assert document.SeriesNumber == 9002
    assert document.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert "PixelSpacing" not in document
    (source,) = document.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == dx.SOPInstanceUID
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    verify(document, dx, estimate)


def test_a_side_nobody_knows_is_left_empty(cr, refusal, display, identify):
    document = compose_sc(cr, refusal, display, identify(cr, "sc"))

    assert document["Laterality"].is_empty
    assert "ImageLaterality" not in document
    assert "BodyPartExamined" not in document
    assert document["PatientOrientation"].is_empty


@pytest.mark.parametrize(
    ("stated", "syntax", "written"),
    [
        ("00", None, "00"),
        ("01", None, "01"),
        (None, "1.2.840.10008.1.2.4.50", "01"),
        ("00", "1.2.840.10008.1.2.4.50", "01"),
        (None, "1.2.840.10008.1.2.4.91", None),
        (None, None, None),
    ],
)
def test_losses_stay_on_record(stated, syntax, written, cr, refusal, display, identify):
    if stated:
        cr.LossyImageCompression = stated
        cr.LossyImageCompressionRatio = "8.5"
        cr.LossyImageCompressionMethod = "ISO_10918_1"
    if syntax:
        cr.file_meta = FileMetaDataset()
        cr.file_meta.TransferSyntaxUID = syntax
    document = compose_sc(cr, refusal, display, identify(cr, "sc"))

    assert document.get("LossyImageCompression") == written
    if stated == "01":
        assert (document.LossyImageCompressionRatio, document.LossyImageCompressionMethod) == (8.5, "ISO_10918_1")


def test_the_same_work_gives_the_same_bytes(dx, estimate, display, identify):
    first, second = (encoded(compose_sc(copy.deepcopy(dx), estimate, display, identify(dx, "sc"))) for _ in range(2))

    assert first == second


def test_the_source_is_left_alone(dx, estimate, display, identify):
    before = copy.deepcopy(dx)
    compose_sc(dx, estimate, display, identify(dx, "sc"))

    assert dx == before


def film_on(picture: np.ndarray, display: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the film lies on the picture, and the film as it would be without anything drawn on it."""
    rows, columns = display.shape
    scale = FILM_LONG_SIDE / max(rows, columns)
    width, height = round(columns * scale), round(rows * scale)
    left = (picture.shape[1] - width) // 2
    plain = cv2.resize(display, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture[:height, left : left + width], plain


def test_a_refused_film_is_shown_as_it_is(display, refusal):
    """Given nothing to draw, then the film has not one pixel of text on it, and the strip lies below."""
    shown, plain = film_on(draw_overlay(display, refusal), display)

    assert np.array_equal(shown, np.repeat(plain[..., None], 3, axis=2))


def test_nothing_but_lines_covers_the_film(display, estimate):
    """Given 18 regions, then what differs from the film is on boxes or leaders: thin, and never the text's white."""
    shown, plain = film_on(draw_overlay(display, estimate), display)
    changed = np.any(shown != plain[..., None], axis=2)
    thick = cv2.erode(changed.astype(np.uint8), np.ones((7, 7), np.uint8))

    assert changed.any()
    assert not thick.any()
    assert not np.all(shown == overlay.WHITE, axis=2).any()


def test_boxes_stand_where_the_finding_says(display, estimate):
    """Golden geometry: 500 x 600 becomes 850 x 1020, so that source pixel (x, y) lies at 1.7 times that."""
    finding = replace(estimate, hand=Box(100, 150, 400, 450), rois=())
    picture = draw_overlay(display, finding)
    left = (picture.shape[1] - 850) // 2
    box = np.all(picture[:1020] == overlay.HAND, axis=2)
    ys, xs = np.nonzero(box)

    assert (xs.min() - left, xs.max() - left, ys.min(), ys.max()) == (170, 679, 255, 764)


def test_a_display_made_smaller_keeps_the_boxes_in_place(display, estimate):
    smaller = cv2.resize(display, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    finding = replace(estimate, hand=Box(100, 150, 400, 450), rois=())

    whole, small = (
        np.all(draw_overlay(film, finding, (600, 500)) == overlay.HAND, axis=2) for film in (display, smaller)
    )
    assert np.array_equal(np.argwhere(whole)[0], np.argwhere(small)[0])


def test_a_film_nobody_can_decode_gets_words_in_its_place(cr, refusal, identify):
    document = compose_sc(cr, refusal, None, identify(cr, "sc"))

    verify(document, cr, refusal)
    assert np.all(document.pixel_array == overlay.GREY, axis=2).any()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 12), st.sampled_from(Laterality))
@example(1020, 1, 2, Laterality.LEFT)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_film_becomes_a_picture_a_screen_shows(estimate, rows, columns, flags, side):
    display = np.full((rows, columns), 128, np.uint8)
    finding = replace(
        estimate,
        laterality=side,
        flags=tuple(
            Flag(f"f{i}", f"Flag number {i}, with a sentence as long as they are in practice.") for i in range(flags)
        ),
    )
    picture = draw_overlay(display, finding, (600, 500))

    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert 256 <= picture.shape[0] <= 1520 + 62 * max(0, flags - 2)
    assert 900 <= picture.shape[1] <= 1600


def test_text_stays_in_letters_the_fonts_have():
    assert (
        overlay._wrapped([overlay.Line("Müller\u2013 90 % ± 山\x07\U0010fffd")], 600)[0].text
        == "Müller\u2013 90 % ± 山?"
    )


def test_long_sentences_are_broken_inside_the_strip():
    line = overlay.Line("word " * 80)
    parts = overlay._wrapped([line], 600)

    assert len(parts) > 1
    assert " ".join(part.text for part in parts) == line.text.strip()
    assert all(lettering.width(part.text, part.size) <= 600 for part in parts)


@pytest.mark.parametrize(
    ("age", "text"), [(0, "0 y 0 mo"), (11.6, "1 y 0 mo"), (132.46, "11 y 0 mo"), (-3, "-0 y 3 mo"), (-0.2, "0 y 0 mo")]
)
def test_years_and_months(age, text):
    assert wording.years_and_months(age) == text


def test_the_estimate_in_words(estimate):
    assert wording.conclusion(estimate) == (
        "Bone age 11 y 0 mo (132.5 months), 90 % interval 10 y 0 mo to 12 y 1 mo (120.1 to 144.9 months). "
        "Hand read: left. Sex used: male, from PatientSex (0010,0040). "
        "Chronological age 10 y 8 mo (128.0 months), from PatientBirthDate and AcquisitionDate. "
        "Bone age is 4.5 months ahead of chronological age."
    )


def test_what_is_not_known_is_said(estimate):
    subject = replace(estimate.subject, age_months=None, age_source="PatientBirthDate (0010,0030) is missing")
    text = wording.conclusion(replace(estimate, subject=subject, laterality=Laterality.UNKNOWN, hands_found=2))

    assert "Chronological age: not known (PatientBirthDate (0010,0030) is missing)" in text
    assert "Hand read: side not known, one of 2 on the film" in text
    assert "ahead" not in text


@pytest.mark.parametrize("sides", [("1", "1"), ("0.2", "0.1"), ("0.1", "0.3"), ("0.1", "0.101")])
def test_a_film_is_shown_with_square_pixels(dx, refusal, identify, sides):
    """Given pixels that are not square, then the hand is not squeezed: the picture has no spacing to tell it by."""
    dx.ImagerPixelSpacing = list(sides)
    bright = np.full((dx.Rows, dx.Columns), 250, np.uint8)
    document = compose_sc(dx, refusal, bright, identify(dx, "sc"))
    verify(document, dx, refusal)
    film = (document.pixel_array == 250).all(axis=2)
    high, wide = film[:, document.Columns // 2].sum(), film[10].sum()
    assert high / wide == pytest.approx(600 * float(sides[0]) / (500 * float(sides[1])), rel=0.011)
    assert max(high, wide) == FILM_LONG_SIDE


def test_boxes_lie_where_the_film_is_not_square(dx, estimate, identify):
    dx.ImagerPixelSpacing = ["0.2", "0.1"]
    hand = replace(estimate, hand=Box(0.0, 0.0, 500.0, 600.0), rois=())
    bright = np.full((dx.Rows, dx.Columns), 250, np.uint8)
    shown = compose_sc(dx, hand, bright, identify(dx, "sc")).pixel_array
    plain = draw_overlay(bright, replace(hand, hand=Box(0.0, 0.0, 1.0, 1.0)), pixel=(2, 1))
    rows, columns = np.nonzero((shown[:FILM_LONG_SIDE] != plain[:FILM_LONG_SIDE]).any(axis=2))
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (1020, 425)


def test_what_lies_outside_the_film_is_not_drawn(estimate, display):
    """Given a hand tight in its film, whose regions reach beyond it, then margins have names in them and no boxes."""
    first, second, *others = estimate.rois
    beyond = replace(first, box=Box(-70.0, 100.0, 40.0, 190.0)), replace(second, box=Box(450.0, 500.0, 560.0, 700.0))
    inside = replace(first, box=Box(0.0, 100.0, 40.0, 190.0)), replace(second, box=Box(450.0, 500.0, 500.0, 600.0))
    drawn, wanted = (
        draw_overlay(display, replace(estimate, rois=(*rois, *others), hand=hand))
        for rois, hand in ((beyond, Box(-50.0, 5.0, 560.0, 590.0)), (inside, Box(0.0, 5.0, 500.0, 590.0)))
    )
    np.testing.assert_array_equal(drawn, wanted)


def test_a_region_that_lies_beside_the_film_is_not_named(estimate, display):
    first, *others = estimate.rois
    away = draw_overlay(display, replace(estimate, rois=(replace(first, box=Box(-90.0, 1.0, -20.0, 60.0)), *others)))
    without = draw_overlay(display, replace(estimate, rois=tuple(others)))
    np.testing.assert_array_equal(away[:FILM_LONG_SIDE], without[:FILM_LONG_SIDE])


def test_names_beside_a_low_film_stand_inside_the_picture(estimate):
    """Given a film four times as wide as high, then names stand close together and none is cut off above."""
    boxes = [Box(10.0 + 20 * place, 10.0 + 4 * place, 40.0 + 20 * place, 25.0 + 4 * place) for place in range(18)]
    rois = tuple(replace(roi, box=box) for roi, box in zip(estimate.rois, boxes, strict=True))
    low = replace(estimate, rois=rois, hand=Box(1.0, 1.0, 399.0, 99.0))
    placement = overlay.Placement(2.0, 2.0, 200, 200, 1200, 200)
    labels = overlay._labels([(roi.name, overlay.CYAN, placement.placed(roi.box)) for roi in low.rois], placement)
    assert len(labels) == 18
    for on_left in (True, False):
        heights = sorted(label.y for label in labels if label.on_left is on_left)
        assert heights[0] >= 200 / 9 / 2 - 1
        assert heights[-1] <= 200 - 200 / 9 / 2 + 1
        assert min(np.diff(heights)) >= 200 / 9 - 1
