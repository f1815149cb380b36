"""Rendering: modality LUT, VOI, one inversion, padding, odd bits; side, spacing; and headers that hypothesis makes up.

Against pydicom's ``apply_modality_lut`` and ``apply_voi_lut``, scaled to 0..1, wherever pydicom can do it.
Does not cover: transfer syntaxes (test_film_syntaxes) and whether bones really are bright (the engine's guard).
"""

from __future__ import annotations

import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, uid
from pydicom.dataelem import RawDataElement
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.tag import Tag

from conformance.films import PATIENT, draw_pattern, encode, make_film, write
from inference.errors import FilmError, InferenceError, UnreadablePixels, UnsupportedObject
from inference.film import (
    CR_IMAGE,
    DX_FOR_PRESENTATION,
    DX_FOR_PROCESSING,
    SECONDARY_CAPTURE,
    SUPPORTED_SOP_CLASSES,
    Film,
    display_bytes,
    read_film,
    with_square_pixels,
)
from inference.finding import Laterality, RefusalCode


def codes(film: Film) -> list[str]:
    return [flag.code for flag in film.flags]


def make_lut(descriptor, data, vr="US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", list(descriptor))
    item.add_new("LUTData", vr, data)
    item.LUTExplanation = ""
    return item


def render_with_pydicom(film, top: float, bottom: float = 0.0) -> np.ndarray:
    """Return pydicom's rendering of a film, 0..1, where the VOI's output runs from ``bottom`` to ``top``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of VOI LUTs after a rescale
        shown = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film)
    return (shown.astype(np.float64) - bottom) / (top - bottom)


# -- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_windows_equal_pydicoms(bits, signed, function):
    span, low = 2**bits, -(2 ** (bits - 1)) if signed else 0
    film = make_film(
        draw_pattern(bits=bits, signed=signed),
        bits,
        WindowCenter=f"{low + span * 0.45:.6g}",
        WindowWidth=f"{span * 0.6:.6g}",
        VOILUTFunction=function,
    )

    expected = render_with_pydicom(film, low + span - 1, low)
    np.testing.assert_allclose(read_film(film).pixels, expected, atol=1e-6)


@pytest.mark.parametrize(("slope", "intercept"), [("1", "-1024"), ("0.5", "7.25"), ("-1", "4095"), ("-2.5", "0")])
def test_windows_after_a_rescale_equal_pydicoms(slope, intercept):
    film = make_film(RescaleSlope=slope, RescaleIntercept=intercept)
    ends = sorted((float(intercept), 4095 * float(slope) + float(intercept)))
    film.WindowCenter, film.WindowWidth = str(np.mean(ends)), str((ends[1] - ends[0]) * 0.7)

    expected = render_with_pydicom(film, 4095 * float(slope) + float(intercept), float(intercept))
    np.testing.assert_allclose(read_film(film).pixels, expected, atol=1e-6)


@given(
    centre=st.floats(0, 4095, allow_subnormal=False),
    width=st.floats(300, 5000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_any_window_equals_pydicoms(centre, width, function):
    film = make_film(WindowCenter=f"{centre:.8g}", WindowWidth=f"{width:.8g}", VOILUTFunction=function)
    shown = read_film(film)

    if "voi-unusable" not in codes(shown):
        np.testing.assert_allclose(shown.pixels, render_with_pydicom(film, 4095), atol=2e-5)


def test_the_first_of_several_windows_is_used():
    several = make_film(WindowCenter=["1000", "3000"], WindowWidth=["800", "100"])

    np.testing.assert_array_equal(
        read_film(several).pixels, read_film(make_film(WindowCenter="1000", WindowWidth="800")).pixels
    )


def test_a_window_of_width_one_is_a_threshold():
    shown = read_film(make_film(WindowCenter="2000", WindowWidth="1")).pixels

    np.testing.assert_array_equal(shown, (draw_pattern() > 1999).astype(np.float32))


@pytest.mark.parametrize(
    ("centre", "width"),
    [
        ("2000", "0"),
        ("2000", "-400"),
        ("90000", "10"),
        ("-5000", "100"),
        ("2000", None),
        (None, "100"),
        ("nan", "1"),
        ("32768", "65536"),
    ],
)
def test_an_unusable_window_falls_back_to_the_pixels_and_says_so(centre, width):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, for writing what is no DS
        film = make_film(WindowCenter=centre, WindowWidth=width)

    assert codes(read_film(film)) == ["voi-unusable"]
    np.testing.assert_array_equal(read_film(film).pixels, read_film(make_film()).pixels)


def test_an_unknown_voi_function_is_linear_and_flagged():
    film = make_film(WindowCenter="2000", WindowWidth="900", VOILUTFunction="LOGISTIC")

    assert codes(read_film(film)) == ["voi-unusable"]
    film.VOILUTFunction = "LINEAR"
    np.testing.assert_allclose(read_film(film).pixels, render_with_pydicom(film, 4095), atol=1e-6)


def test_without_a_voi_a_few_extreme_pixels_do_not_decide():
    pixels = np.random.default_rng(3).integers(1000, 1400, (200, 200)).astype(np.uint16)
    pixels[0, :20], pixels[1, :20] = 4095, 0  # a burnt-in marker

    shown = read_film(make_film(pixels)).pixels

    assert shown.min() == 0
    assert shown.max() == 1
    assert 0.4 < np.median(shown) < 0.6
    assert codes(read_film(make_film(pixels))) == []


def test_a_film_of_one_value_is_dark_and_no_error():
    assert (read_film(make_film(np.full((50, 40), 77, dtype=np.uint16))).pixels == 0).all()


# -- look-up tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["US", "OW", "implicit", "big endian"])
@pytest.mark.parametrize("depth", [10, 12, 16])  # pydicom indexes tables of 8 bits with 8 bits
def test_voi_luts_equal_pydicoms(depth, packing):
    data = (np.linspace(0, 1, 4096) ** 2 * (2**depth - 1)).astype(np.uint16)
    film = make_film(VOILUTSequence=[make_lut((4096, 0, depth), data.tolist())], WindowCenter="1", WindowWidth="2")
    if packing != "US":
        order = ">" if packing == "big endian" else "<"
        film.VOILUTSequence[0].add_new("LUTData", "OW", data.astype(f"{order}u2").tobytes())
    if packing == "implicit":
        film = dcmread(BytesIO(encode(film, uid.ImplicitVRLittleEndian)))
    if packing == "big endian":
        film = dcmread(BytesIO(encode(film, uid.ExplicitVRBigEndian)))

    np.testing.assert_allclose(read_film(film).pixels, render_with_pydicom(film, 2**depth - 1), atol=1e-6)


@pytest.mark.parametrize("first", [0, 500, -700])
def test_luts_that_start_elsewhere_equal_pydicoms(first):
    data = (np.linspace(0, 1, 900) * 4095).astype(np.uint16).tolist()
    film = make_film(draw_pattern(signed=first < 0), VOILUTSequence=[make_lut((900, first, 12), data)])

    np.testing.assert_allclose(read_film(film).pixels, render_with_pydicom(film, 4095), atol=1e-6)


def test_a_negative_first_value_written_as_unsigned_is_understood():
    data = (np.linspace(0, 1, 900) * 4095).astype(np.uint16).tolist()
    right = make_film(draw_pattern(signed=True), VOILUTSequence=[make_lut((900, -700, 12), data)])
    wrong = make_film(draw_pattern(signed=True), VOILUTSequence=[make_lut((900, 65536 - 700, 12), data)])

    np.testing.assert_array_equal(read_film(wrong).pixels, read_film(right).pixels)


def test_modality_luts_equal_pydicoms():
    data = (np.linspace(1, 0, 4096) ** 3 * 65535).astype(np.uint16).tolist()
    film = make_film(
        ModalityLUTSequence=[make_lut((4096, 0, 16), data)],
        RescaleSlope=None,
        RescaleIntercept=None,
        WindowCenter="20000",
        WindowWidth="30000",
    )

    np.testing.assert_allclose(read_film(film).pixels, render_with_pydicom(film, 65535), atol=1e-6)


def test_a_lut_of_65536_entries_is_written_as_zero():
    data = np.arange(65536).tolist()
    film = make_film(draw_pattern(bits=16), 16, VOILUTSequence=[make_lut((0, 0, 16), data, "US")])

    np.testing.assert_allclose(read_film(film).pixels, draw_pattern(bits=16) / 65535, atol=1e-6)


def test_eight_bit_entries_packed_two_to_a_word():
    data = (np.linspace(0, 1, 4096) * 255).astype(np.uint8)
    film = make_film(VOILUTSequence=[make_lut((4096, 0, 8), data.tobytes(), "OW")])

    np.testing.assert_allclose(read_film(film).pixels, data[draw_pattern()] / 255, atol=1e-6)


def test_a_lut_that_announces_more_bits_than_it_uses_is_not_shown_dark():
    data = np.arange(4096).tolist()
    film = make_film(VOILUTSequence=[make_lut((4096, 0, 16), data)])

    assert read_film(film).pixels.max() == 1


@pytest.mark.parametrize("item", [Dataset(), make_lut((4096, 0, 12), [1, 2, 3]), make_lut((3, 0, 99), [1, 2, 3])])
def test_unusable_luts_fall_back_and_say_so(item):
    assert codes(read_film(make_film(VOILUTSequence=[item]))) == ["voi-unusable"]
    assert codes(read_film(make_film(ModalityLUTSequence=[item]))) == ["modality-lut-unusable"]
    assert codes(read_film(make_film(RescaleSlope="0"))) == ["modality-lut-unusable"]


# -- polarity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photometric", "shape", "sign", "flags"),
    [
        ("MONOCHROME2", None, None, []),
        ("MONOCHROME2", "IDENTITY", -1, []),
        ("MONOCHROME2", "INVERSE", -1, ["polarity-contradictory"]),
        ("MONOCHROME2", "IDENTITY", 1, ["bones-stated-dark"]),
        ("MONOCHROME1", None, None, []),
        ("MONOCHROME1", "INVERSE", 1, []),
        ("MONOCHROME1", "IDENTITY", 1, ["polarity-contradictory"]),
        ("MONOCHROME1", "INVERSE", -1, ["bones-stated-dark"]),
        ("MONOCHROME1", "LIN OD", 1, []),
    ],
)
@pytest.mark.parametrize("window", [None, "1000"])
def test_exactly_one_inversion(photometric, shape, sign, flags, window):
    header = {"WindowCenter": window, "WindowWidth": window}
    plain = read_film(make_film(**header)).pixels

    film = read_film(
        make_film(
            PhotometricInterpretation=photometric,
            PresentationLUTShape=shape,
            PixelIntensityRelationshipSign=sign,
            **header,
        )
    )

    np.testing.assert_allclose(film.pixels, 1 - plain if photometric == "MONOCHROME1" else plain, atol=1e-6)
    assert codes(film) == flags


def test_an_inverting_rescale_is_no_second_inversion():
    """A negative slope turns the values round before they are shown; MONOCHROME1 turns what is shown."""
    film = make_film(
        PhotometricInterpretation="MONOCHROME1",
        PixelIntensityRelationshipSign=None,
        PresentationLUTShape="INVERSE",
        RescaleSlope="-1",
        RescaleIntercept="4095",
        WindowCenter="2048",
        WindowWidth="4096",
    )

    np.testing.assert_allclose(read_film(film).pixels, draw_pattern() / 4095, atol=1e-3)


# -- padding and odd bits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [0, 4095])
def test_padding_is_dark_and_does_not_widen_the_window(photometric, padding):
    pixels = np.random.default_rng(5).integers(1000, 1400, (90, 80)).astype(np.uint16)
    padded = pixels.copy()
    padded[:30] = padding

    film = read_film(make_film(padded, PhotometricInterpretation=photometric, PixelPaddingValue=padding))

    assert (film.pixels[:30] == 0).all()
    assert 0.35 < np.median(film.pixels[30:]) < 0.65


def test_a_padding_range_in_either_order():
    pixels = draw_pattern()
    film = read_film(make_film(pixels, PixelPaddingValue=4095, PixelPaddingRangeLimit=3000))

    assert (film.pixels[pixels >= 3000] == 0).all()
    assert film.pixels[pixels < 3000].max() == 1


def test_padding_of_a_signed_film_written_with_the_wrong_sign():
    pixels = draw_pattern(bits=16, signed=True)
    pixels[:10] = -2000
    film = make_film(pixels, 16)
    film.add_new("PixelPaddingValue", "US", 65536 - 2000)

    assert (read_film(film).pixels[:10] == 0).all()


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless])
def test_stored_bits_at_the_top_of_the_cell(syntax, signed):
    pixels = draw_pattern(bits=12, signed=signed)
    high = make_film((pixels.astype(np.int32) << 4).astype(pixels.dtype), 12, HighBit=15)

    shown = read_film(dcmread(BytesIO(encode(high, syntax))))

    np.testing.assert_array_equal(shown.pixels, read_film(make_film(pixels)).pixels)
    assert codes(shown) == []


@pytest.mark.parametrize("high_bit", [15, 3, 99, 14])
def test_a_high_bit_that_cannot_be_true_is_ignored_and_flagged(high_bit):
    film = read_film(make_film(HighBit=high_bit))

    np.testing.assert_array_equal(film.pixels, read_film(make_film()).pixels)
    assert codes(film) == ["high-bit"]


def test_overlays_in_unused_bits_do_not_show():
    pixels = draw_pattern()
    overlaid = pixels | (np.arange(pixels.size).reshape(pixels.shape) % 2 << 12).astype(np.uint16)

    np.testing.assert_array_equal(read_film(make_film(overlaid)).pixels, read_film(make_film(pixels)).pixels)


def test_pixels_equal_pydicoms_where_unused_bits_are_set():
    pixels = draw_pattern(bits=16)
    film = make_film(pixels, 12, WindowCenter="2048", WindowWidth="4096")

    np.testing.assert_allclose(read_film(film).pixels, render_with_pydicom(film, 4095), atol=1e-6)


# -- what is no film -------------------------------------------------------------------------------------------------


def test_supported_classes():
    assert set(SUPPORTED_SOP_CLASSES) == {CR_IMAGE, DX_FOR_PRESENTATION, DX_FOR_PROCESSING, SECONDARY_CAPTURE}
    for sop_class in {*SUPPORTED_SOP_CLASSES} - {DX_FOR_PROCESSING}:
        assert read_film(make_film(SOPClassUID=sop_class)).pixels.shape == (60, 44)


@pytest.mark.parametrize(
    ("elements", "sentence"),
    [
        ({"SOPClassUID": DX_FOR_PROCESSING}, "for processing"),
        ({"SOPClassUID": uid.CTImageStorage}, "Only CR, DX"),
        ({"SOPClassUID": None}, "Only CR, DX"),
        ({"NumberOfFrames": "2"}, "single-frame"),
        ({"NumberOfFrames": "0"}, "single-frame"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "greyscale or RGB"),
        ({"SamplesPerPixel": 2}, "greyscale or RGB"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "8 to 16 bits"),
        ({"BitsStored": 1}, "8 to 16 bits"),
    ],
)
def test_unsupported_objects(elements, sentence):
    with pytest.raises(UnsupportedObject, match=sentence) as refusal:
        read_film(make_film(**elements))
    assert refusal.value.refusal is RefusalCode.UNSUPPORTED_OBJECT
    assert refusal.value.remedy


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelData"])
def test_missing_pixel_attributes_are_unreadable(keyword):
    with pytest.raises(UnreadablePixels, match=keyword) as refusal:
        read_film(make_film(**{keyword: None}))
    assert refusal.value.refusal is RefusalCode.UNREADABLE_PIXELS


def test_more_bits_stored_than_allocated_is_unreadable():
    with pytest.raises(UnreadablePixels, match="impossible"):
        read_film(make_film(draw_pattern(bits=8), 8, BitsStored=12))


def test_one_frame_said_aloud_is_a_film():
    assert read_film(make_film(NumberOfFrames="1")).pixels.shape == (60, 44)


def test_every_error_has_a_code_of_its_own():
    def walk(kind):
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in walk(child))]

    kinds = walk(InferenceError)
    assert len({kind.code for kind in kinds}) == len(kinds)


# -- colour ----------------------------------------------------------------------------------------------------------


def make_colour(pixels: np.ndarray, photometric: str = "RGB"):
    film = make_film(pixels, 8, SOPClassUID=SECONDARY_CAPTURE, PresentationLUTShape=None)
    film.SamplesPerPixel, film.PhotometricInterpretation, film.PlanarConfiguration = 3, photometric, 0
    return film


def test_grey_in_rgb_is_converted_and_flagged():
    grey = draw_pattern(bits=8)
    film = read_film(make_colour(np.stack([grey] * 3, axis=2)))

    np.testing.assert_array_equal(film.pixels, read_film(make_film(grey, 8)).pixels)
    assert codes(film) == ["colour-converted"]


def test_grey_in_ybr_is_converted():
    grey = draw_pattern(bits=8)
    neutral = np.full_like(grey, 128)
    film = read_film(make_colour(np.stack([grey, neutral, neutral], axis=2), "YBR_FULL"))

    np.testing.assert_allclose(film.pixels, read_film(make_film(grey, 8)).pixels, atol=0.01)


def test_a_few_coloured_pixels_are_a_marker_but_a_coloured_image_is_no_film():
    grey = np.stack([np.tile(np.arange(100, dtype=np.uint8), (100, 1))] * 3, axis=2)
    grey[:5, :10] = (255, 0, 0)
    assert read_film(make_colour(grey)).pixels.shape == (100, 100)

    grey[:50] = (255, 0, 0)
    with pytest.raises(UnsupportedObject, match="colour"):
        read_film(make_colour(grey))


# -- side and spacing ------------------------------------------------------------------------------------------------


def make_modifier(value: str, scheme: str) -> list[Dataset]:
    region, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, "side"
    region.AnatomicRegionModifierSequence = [code]
    return [region]


@pytest.mark.parametrize(
    ("elements", "side", "source", "flags"),
    [
        ({"ImageLaterality": "R"}, "R", "ImageLaterality", []),
        ({"ImageLaterality": "L "}, "L", "ImageLaterality", []),
        ({"ImageLaterality": None, "Laterality": "R"}, "R", "Laterality (0020,0060)", []),
        ({"ImageLaterality": "U", "Laterality": "R"}, "R", "Laterality (0020,0060)", []),
        ({"ImageLaterality": None, "AnatomicRegionSequence": ("7771000", "SCT")}, "L", "anatomic", []),
        ({"ImageLaterality": None, "AnatomicRegionSequence": ("G-A100", "SRT")}, "R", "anatomic", []),
        ({"ImageLaterality": None, "AnatomicRegionSequence": ("G-A100", "99X")}, "U", "no element", []),
        ({"ImageLaterality": None}, "U", "no element", []),
        ({"ImageLaterality": ""}, "U", "no element", []),
        ({"ImageLaterality": "B"}, "U", "both", ["both-hands-stated"]),
        ({"ImageLaterality": "L", "Laterality": "R"}, "U", "contradict", ["laterality-contradictory"]),
        ({"AnatomicRegionSequence": ("24028007", "SCT")}, "U", "contradict", ["laterality-contradictory"]),
    ],
)
def test_laterality(elements, side, source, flags):
    if "AnatomicRegionSequence" in elements:
        elements = {**elements, "AnatomicRegionSequence": make_modifier(*elements["AnatomicRegionSequence"])}
    film = read_film(dcmread(BytesIO(write(make_film(**elements)))))

    assert film.laterality is Laterality(side)
    assert source in film.laterality_source
    assert codes(film) == flags


@pytest.mark.parametrize(
    ("elements", "spacing", "flags"),
    [
        ({}, (0.15, 0.15), []),
        ({"PixelSpacing": ["0.1", "0.1"]}, (0.15, 0.15), []),
        ({"ImagerPixelSpacing": None, "PixelSpacing": ["0.1", "0.1"]}, (0.1, 0.1), []),
        ({"ImagerPixelSpacing": ["0.2", "0.1"]}, (0.2, 0.1), ["pixels-not-square"]),
        ({"ImagerPixelSpacing": ["0", "0"]}, None, []),
        ({"ImagerPixelSpacing": ["0.1"]}, None, []),
        ({"ImagerPixelSpacing": None}, None, []),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": ["2", "1"]}, None, ["pixels-not-square"]),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": ["1", "1"]}, None, []),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": ["0", "1"]}, None, []),
        ({"PixelAspectRatio": ["2", "1"]}, (0.15, 0.15), []),
    ],
)
def test_spacing(elements, spacing, flags):
    film = read_film(make_film(**elements))

    assert film.spacing_mm == spacing
    assert film.pixel_aspect == (2.0 if flags else 1.0)
    assert codes(film) == flags


def test_square_pixels():
    image = np.arange(12 * 8, dtype=np.uint8).reshape(12, 8)

    tall, steps = with_square_pixels(image, 4.0)
    same, unit = with_square_pixels(image, 1.0)

    assert tall.shape == (24, 4)
    assert steps == (2.0, 0.5)
    assert same is image
    assert unit == (1.0, 1.0)


def test_display_bytes_span_the_film():
    film = read_film(make_film())

    shown = display_bytes(film)

    assert shown.dtype == np.uint8
    assert (shown.min(), shown.max()) == (0, 255)
    np.testing.assert_allclose(shown / 255, film.pixels, atol=0.5 / 255 + 1e-6)


# -- display shutter -------------------------------------------------------------------------------------------------

EDGES = {
    "ShutterLeftVerticalEdge": 11,
    "ShutterRightVerticalEdge": 34,
    "ShutterUpperHorizontalEdge": 6,
    "ShutterLowerHorizontalEdge": 55,
}
WINDOW = {"WindowCenter": "2048", "WindowWidth": "4096"}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "grey"), [(None, 0.0), (0, 0.0), (0x8000, 0x8000 / 0xFFFF), (0xFFFF, 1.0)])
def test_what_a_shutter_hides_has_its_grey(photometric, value, grey):
    """Given a shutter, then its part of the film is as without one, the rest as a viewer shows it: in P-Values."""
    header = {"PhotometricInterpretation": photometric, **WINDOW}
    whole = read_film(make_film(**header)).pixels
    film = read_film(make_film(**header, ShutterShape="RECTANGULAR", ShutterPresentationValue=value, **EDGES))
    inside = np.zeros(whole.shape, dtype=bool)
    inside[5:55, 10:34] = True
    assert np.array_equal(film.pixels[inside], whole[inside])
    assert film.pixels[~inside] == pytest.approx(grey, abs=1e-6)
    assert not [code for code in codes(film) if "shutter" in code]


def test_what_a_shutter_hides_sets_no_window():
    """Given a white field around a hand and no window, then the hand has all the greys where a shutter hides it."""
    pixels = np.full((60, 44), 4095, dtype=np.uint16)
    pixels[5:55, 10:34] = np.linspace(200, 1200, 50 * 24).reshape(50, 24)
    bare = {"WindowCenter": None, "WindowWidth": None}
    open_, shut = (
        read_film(make_film(pixels, **bare, **more)) for more in ({}, {"ShutterShape": "RECTANGULAR", **EDGES})
    )
    assert open_.pixels[5:55, 10:34].max() < 0.3
    assert np.ptp(shut.pixels[5:55, 10:34]) == pytest.approx(1.0)


def test_a_shutter_that_cannot_be_used_is_said():
    film = read_film(make_film(ShutterShape="CIRCULAR", **WINDOW))
    assert codes(film) == ["shutter-unusable"]
    assert np.array_equal(film.pixels, read_film(make_film(**WINDOW)).pixels)


def test_a_shutter_that_hides_most_of_a_film_is_said():
    small = EDGES | {"ShutterLowerHorizontalEdge": 20}
    assert codes(read_film(make_film(ShutterShape="RECTANGULAR", **small, **WINDOW))) == ["shutter-hides-most"]


# -- made-up headers -------------------------------------------------------------------------------------------------

KEYWORDS = (
    "WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept", "ImageLaterality",
    "Laterality", "ImagerPixelSpacing", "PixelSpacing", "NumberOfFrames", "PhotometricInterpretation",
    "PresentationLUTShape", "LossyImageCompression", "SOPClassUID", "LUTData", "ModalityLUTSequence", "VOILUTSequence",
    "AnatomicRegionSequence", "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter",
)  # fmt: skip
BINARY_KEYWORDS = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelIntensityRelationshipSign", "PlanarConfiguration",
    "ShutterPresentationValue",
)  # fmt: skip
VRS = {
    "WindowCenter": "DS",
    "WindowWidth": "DS",
    "RescaleSlope": "DS",
    "RescaleIntercept": "DS",
    "NumberOfFrames": "IS",
}


def put_raw(ds: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """Put an element into a data set as if it had just been read from a file."""
    tag = Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)


@given(
    texts=st.dictionaries(
        st.sampled_from(KEYWORDS),
        st.one_of(
            st.binary(max_size=20),
            st.from_regex(rb"\A-?[0-9.\\eE+ ]{0,16}\Z"),
            st.just(PATIENT["PatientName"].encode()),
        ),
        max_size=5,
    ),
    words=st.dictionaries(st.sampled_from(BINARY_KEYWORDS), st.binary(max_size=6), max_size=2),
)
@pytest.mark.filterwarnings("ignore")  # pydicom's, for values its VRs do not allow
def test_any_header_gives_a_film_or_a_refusal(texts, words):
    film = dcmread(BytesIO(write(make_film())))
    for keyword, value in texts.items():
        put_raw(film, keyword, VRS.get(keyword, "SQ" if keyword.endswith("Sequence") else "CS"), value)
    for keyword, value in words.items():
        put_raw(film, keyword, "US", value)

    try:
        shown = read_film(film)
    except FilmError as error:
        said = str(error)
    else:
        assert shown.pixels.dtype == np.float32
        assert shown.pixels.shape == (film.Rows, film.Columns)
        assert np.isfinite(shown.pixels).all()
        assert 0 <= shown.pixels.min() <= shown.pixels.max() <= 1
        said = f"{shown.flags} {shown.laterality_source}"
    assert PATIENT["PatientName"] not in said


def test_binary_values_are_read_whatever_their_number():
    film = dcmread(BytesIO(write(make_film())))
    put_raw(film, "PixelPaddingValue", "US", struct.pack("<HH", 1, 2))

    np.testing.assert_array_equal(read_film(film).pixels, read_film(make_film()).pixels)


def test_rendering_a_large_film_is_one_look_up_per_pixel(benchmark):
    """Not timed against a limit; shows the cost beside the other benchmarks."""
    film = make_film(draw_pattern(2500, 2000), WindowCenter="2000", WindowWidth="3000")

    benchmark.pedantic(read_film, (film,), rounds=3, warmup_rounds=1)

    assert read_film(film).pixels.shape == (2500, 2000)
