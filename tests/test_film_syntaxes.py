"""Every transfer syntax with a free decoder: round trips against the native film, and streams that lie or are cut off.

Does not cover: JPEG 2000 streams with several tiles or quality layers, JPEG-LS near-lossless of signed pixels (the
standard codes them unsigned, so a loss around zero wraps), and other encoders' dialects beyond pydicom's own files.
"""

from __future__ import annotations

import logging
import re
import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame

from conformance import htj2k
from conformance.films import LOSSLESS, draw_pattern, encode, make_film, write, write_encapsulated
from inference.errors import CutOff, UnreadablePixels, UnsupportedObject
from inference.film import SUPPORTED_TRANSFER_SYNTAXES, Film, read_film
from inference.finding import RefusalCode
from inference.pixels import DECODERS, MAX_PIXELS, Layout, decode, read_layout
from inference.subject import read_subject

ENCAPSULATED = [syntax for syntax in LOSSLESS if syntax.is_encapsulated]
HTJ2K = list(htj2k.SYNTAXES)


def read(file: bytes) -> Film:
    return read_film(dcmread(BytesIO(file)))


def codes(film: Film) -> set[str]:
    return {flag.code for flag in film.flags}


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_lossless_syntaxes_return_every_pixel(syntax, bits, signed):
    pixels = draw_pattern(bits=bits, signed=signed)
    film = make_film(pixels, bits)

    ds = dcmread(BytesIO(encode(film, syntax)))

    assert ds.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(decode(ds, read_layout(ds)), pixels)
    np.testing.assert_array_equal(read_film(ds).pixels, read_film(film).pixels)
    assert "lossy-compression" not in codes(read_film(ds))


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("shape", [(33, 47), (32, 65), (65, 33)])  # openjpeg encodes nothing smaller than 32
def test_odd_shapes(syntax, shape):
    pixels = np.random.default_rng(7).integers(0, 4096, shape).astype(np.uint16)
    film = make_film(pixels, 12)

    assert read(encode(film, syntax)).pixels.shape == shape
    np.testing.assert_array_equal(read(encode(film, syntax)).pixels, read_film(film).pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_ls_near_lossless_stays_near_and_is_flagged(bits):
    pixels = draw_pattern(bits=bits)
    ds = dcmread(BytesIO(encode(make_film(pixels, bits), uid.JPEGLSNearLossless, near=3)))

    assert np.abs(decode(ds, read_layout(ds)).astype(int) - pixels).max() <= 3
    assert "lossy-compression" in codes(read_film(ds))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_2000_lossy_stays_close_and_is_flagged(bits):
    film = make_film(None, bits)

    lossy = read(encode(film, uid.JPEG2000))

    assert np.abs(lossy.pixels - read_film(film).pixels).mean() < 0.02
    assert "lossy-compression" in codes(lossy)


def test_jpeg_baseline_stays_close_and_is_flagged():
    film = make_film(None, 8)

    lossy = read(encode(film, uid.JPEGBaseline8Bit))

    assert np.abs(lossy.pixels - read_film(film).pixels).mean() < 0.02
    assert "lossy-compression" in codes(lossy)


def test_a_film_that_was_lossy_once_is_flagged_for_ever():
    assert "lossy-compression" in codes(read_film(make_film(LossyImageCompression="01")))


@pytest.mark.parametrize("syntax", HTJ2K, ids=lambda syntax: syntax.keyword)
def test_htj2k_reversible(syntax):
    film = make_film(htj2k.draw_picture(), 16)

    ds = dcmread(BytesIO(write_encapsulated(film, syntax, htj2k.REVERSIBLE)))

    np.testing.assert_array_equal(decode(ds, read_layout(ds)), htj2k.draw_picture())


def test_htj2k_irreversible():
    ds = dcmread(BytesIO(write_encapsulated(make_film(htj2k.draw_picture(), 16), uid.HTJ2K, htj2k.IRREVERSIBLE)))

    assert np.abs(decode(ds, read_layout(ds)).astype(int) - htj2k.draw_picture()).max() <= 4
    assert "lossy-compression" in codes(read_film(ds))


def test_a_codestream_of_more_precision_than_bits_stored_is_believed():
    """OpenJPH writes 16 bits whatever BitsStored says; masking to BitsStored would be right only by luck."""
    film = make_film(htj2k.draw_picture(), 12)

    ds = dcmread(BytesIO(write_encapsulated(film, uid.HTJ2KLossless, htj2k.REVERSIBLE)))

    np.testing.assert_array_equal(read_film(ds).pixels, read_film(film).pixels)


def test_every_syntax_is_decoded_by_one_named_plugin_that_is_installed():
    from pydicom.pixels.decoders.base import get_decoder

    for syntax, plugin in DECODERS.items():
        assert (plugin in get_decoder(syntax).available_plugins) if plugin else not uid.UID(syntax).is_encapsulated
    assert set(SUPPORTED_TRANSFER_SYNTAXES) == set(DECODERS)
    assert set(LOSSLESS) | set(HTJ2K) < set(SUPPORTED_TRANSFER_SYNTAXES)


def test_jpeg_extended_has_no_free_decoder_and_says_so():
    ds = dcmread(get_testdata_file("JPEG-lossy.dcm"))
    ds.SOPClassUID = uid.ComputedRadiographyImageStorage
    assert ds.file_meta.TransferSyntaxUID == uid.JPEGExtended12Bit

    with pytest.raises(UnsupportedObject, match=r"no free decoder .* JPEG Extended"):
        read_film(ds)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.3.4", "Prüfling^Ähnlich"])
def test_other_transfer_syntaxes_are_refused_without_quoting_strangers(syntax):
    film = make_film()
    film.file_meta = type(film.file_meta)()
    film.file_meta.add_new(0x00020010, "UI", syntax) if syntax.isascii() else film.file_meta.add_new(
        0x00020010, "LO", syntax
    )

    with pytest.raises(UnsupportedObject, match="transfer syntax") as refusal:
        read_film(film)
    assert "1.2.3.4" not in str(refusal.value)
    assert "Prüfling" not in str(refusal.value)


def test_an_object_without_file_meta_is_unreadable():
    film = make_film()
    film.file_meta = None

    with pytest.raises(UnreadablePixels, match="transfer syntax"):
        read_film(film)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_foreign_encoders_agree_with_the_native_original(name):
    native, other = dcmread(get_testdata_file("MR_small.dcm")), dcmread(get_testdata_file(name))
    for ds in (native, other):
        ds.SOPClassUID = uid.ComputedRadiographyImageStorage

    np.testing.assert_array_equal(read_film(other).pixels, read_film(native).pixels)


@pytest.mark.parametrize("syntax", [*ENCAPSULATED, *HTJ2K], ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.97])
def test_cut_off_streams_are_unreadable(syntax, kept, caplog):
    caplog.set_level(logging.CRITICAL, "pydicom")
    frame, film = stream_of(syntax)

    with pytest.raises(UnreadablePixels):
        read(write_encapsulated(film, syntax, frame[: max(2, int(len(frame) * kept) // 2 * 2)]))


def stream_of(syntax):
    """Return a compressed frame and the film it belongs to."""
    if syntax in HTJ2K:
        return htj2k.REVERSIBLE, make_film(htj2k.draw_picture(), 16)
    film = make_film()
    return get_frame(dcmread(BytesIO(encode(film, syntax))).PixelData, 0, number_of_frames=1), film


@pytest.mark.parametrize("syntax", [*ENCAPSULATED, *HTJ2K], ids=lambda syntax: syntax.keyword)
def test_a_stream_of_another_size_than_the_header_is_unreadable(syntax):
    frame, film = stream_of(syntax)
    film.Rows += 4
    film.PixelData += b"\0" * 2 * 4 * film.Columns

    with pytest.raises(UnreadablePixels):
        read(write_encapsulated(film, syntax, frame))


@pytest.mark.parametrize("syntax", [s for s in ENCAPSULATED if s != uid.RLELossless], ids=lambda syntax: syntax.keyword)
def test_a_stream_of_more_bits_than_the_cells_hold_is_unreadable(syntax):
    frame, _ = stream_of(syntax)

    with pytest.raises(UnreadablePixels, match="BitsAllocated is 8"):
        read(write_encapsulated(make_film(draw_pattern(bits=8), 8), syntax, frame))


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
def test_damaged_streams_never_escape_as_another_error(syntax, caplog):
    caplog.set_level(logging.CRITICAL, "pydicom")
    frame, film = stream_of(syntax)
    rng = np.random.default_rng(11)
    for _ in range(20):
        damaged = bytearray(frame)
        for place in rng.integers(len(frame) // 8, len(frame) - 4, 5):
            damaged[place] = int(rng.integers(256))
        try:
            assert read(write_encapsulated(film, syntax, bytes(damaged))).pixels.shape == (film.Rows, film.Columns)
        except UnreadablePixels:
            continue


BROKEN_HEADS = {
    "a table's marker is none": (b"\xff\xc4", b"\x7f\xc4"),
    "a table is empty": (b"\xff\xc4\x00\x1e", b"\xff\xc4\x00\x02"),
    "a table's marker is another": (b"\xff\xc4", b"\xff\xfe"),
    "a table has more codes than there is room for": (b"\xff\xc4\x00\x1e\x00\x00", b"\xff\xc4\x00\x1e\x00\x09"),
    "a scan names a table that is not there": (b"\xff\xda\x00\x08\x01\x01\x00", b"\xff\xda\x00\x08\x01\x01\x10"),
}


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1], ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("name", BROKEN_HEADS)
def test_a_lossless_stream_without_its_huffman_table_never_reaches_gdcm(syntax, name):
    """Given a stream of which a byte or two are wrong, where gdcm would end the process, then it is unreadable."""
    frame, film = stream_of(syntax)
    table = frame.find(b"\xff\xc4")
    assert frame[table + 2 : table + 4] == struct.pack(">H", 19 + sum(frame[table + 5 : table + 21]))
    before, after = BROKEN_HEADS[name]
    length = frame[table + 2 : table + 4]
    before, after = (part.replace(b"\xc4\x00\x1e", b"\xc4" + length) for part in (before, after))
    assert before in frame

    with pytest.raises(UnreadablePixels, match=r"damaged|lacks a table"):
        read(write_encapsulated(film, syntax, frame.replace(before, after, 1)))


def baseline(pixels, **options):
    """Return 8-bit pixels, grey or RGB, as a JPEG stream."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


def wrapped(frame, pixels):
    """Return a film whose pixel data is a JPEG stream."""
    film = make_film(np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[:, :, 1]), 8)
    if pixels.ndim == 3:
        film.SamplesPerPixel, film.PhotometricInterpretation, film.PlanarConfiguration = 3, "YBR_FULL_422", 0
    return write_encapsulated(film, uid.JPEGBaseline8Bit, frame)


PICTURE = draw_pattern(220, 300, bits=8)
GREYS = {
    "noise": np.random.default_rng(3).integers(0, 256, (90, 70), dtype=np.uint8),
    "white below": np.vstack([PICTURE, np.full((600, 300), 255, np.uint8)]),
    "grey": np.full((400, 300), 128, np.uint8),
    "colour": np.repeat(PICTURE[:, :, None], 3, axis=2),
}
RESTARTS = {"no restarts": {}, "rows": {"restart_marker_rows": 1}, "blocks": {"restart_marker_blocks": 7}}
DAMAGE = {
    "zeros": lambda data: data[:600] + bytes(400) + data[1000:],
    "lost": lambda data: data[:600] + data[1000:],
    "twice": lambda data: data[:1000] + data[600:],
}


@pytest.mark.parametrize("restarts", RESTARTS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_baseline_stream_with_a_hole_is_unreadable(damage, restarts):
    """Given a stream whose middle is not whole, which libjpeg decodes in silence, then it is refused."""
    noise = np.random.default_rng(5).integers(0, 256, (220, 300), dtype=np.uint8)
    frame = baseline(noise, quality=90, **RESTARTS[restarts])
    start = frame.find(b"\xff\xda") + 10
    damaged = frame[:start] + DAMAGE[damage](frame[start:])
    Image.open(BytesIO(damaged)).load()  # libjpeg says nothing

    with pytest.raises(UnreadablePixels, match="damaged: part of the film is missing or was changed"):
        read(wrapped(damaged, noise))


@pytest.mark.parametrize("restarts", RESTARTS)
@pytest.mark.parametrize("quality", [10, 75, 100])
@pytest.mark.parametrize("picture", GREYS)
def test_sound_baseline_streams_are_read(picture, quality, restarts):
    pixels = GREYS[picture]

    assert (
        read(wrapped(baseline(pixels, quality=quality, **RESTARTS[restarts]), pixels)).pixels.shape == pixels.shape[:2]
    )


ODD_STREAMS = {
    "progressive": lambda: baseline(PICTURE, progressive=True),
    "comment": lambda: baseline(PICTURE, comment=b"\xff\xda\xff\xd0"),
    "fill bytes before the end": lambda: baseline(PICTURE)[:-2] + b"\xff\xff\xff\xd9",
    "comment after the scan": lambda: baseline(PICTURE)[:-2] + b"\xff\xfe\x00\x04ab\xff\xd9",
    "a few bytes left over": lambda: baseline(PICTURE)[:-2] + b"\0\0\xff\xd9",
    "fill bytes before a restart": lambda: re.sub(
        rb"\xff([\xd0-\xd7])", b"\xff\xff\\1", baseline(PICTURE, restart_marker_rows=1)
    ),
    "fill bytes before the scan": lambda: baseline(PICTURE).replace(b"\xff\xda\x00\x08", b"\xff\xff\xff\xda\x00\x08"),
}


@pytest.mark.parametrize("name", ODD_STREAMS)
def test_odd_but_legal_baseline_streams_are_read(name):
    assert read(wrapped(ODD_STREAMS[name](), PICTURE)).pixels.shape == PICTURE.shape


def test_native_pixels_that_are_cut_off_are_unreadable():
    film = make_film()
    film.PixelData = film.PixelData[:-2]

    with pytest.raises(CutOff, match="cut off: it has 5278 of the 5280 bytes"):
        read_film(film)


@pytest.mark.parametrize(
    "syntax", [s for s in LOSSLESS if s != uid.DeflatedExplicitVRLittleEndian], ids=lambda syntax: syntax.keyword
)
@pytest.mark.filterwarnings("ignore")  # pydicom's, of the end and of a character set that is cut
def test_an_object_says_that_it_is_cut_off_wherever_it_is(syntax, caplog):
    """Given a file that ends anywhere in its data set, also between two elements, then the reason is no other."""
    caplog.set_level(logging.CRITICAL, "pydicom")
    file = encode(make_film(), syntax)
    start, sentences = 144 + int.from_bytes(file[140:144], "little"), set()
    for end in range(start, len(file) - 16, 2):
        try:
            ds = dcmread(BytesIO(file[:end]))
        except struct.error:
            continue  # within the head of an element: for who reads the file
        read_subject(ds)  # as the engine does first; must not touch what is told from
        with pytest.raises(CutOff, match="cut off") as refusal:
            read_film(ds)
        assert refusal.value.refusal is RefusalCode.UNREADABLE_PIXELS
        assert "Send the object again" in refusal.value.remedy
        sentences.add(str(refusal.value).partition(":")[0])
    assert {"The object is cut off", "The object ends before its PixelData"} <= sentences


def test_an_object_that_lacks_only_one_attribute_is_not_called_cut_off():
    with pytest.raises(UnreadablePixels, match="no usable Rows") as refusal:
        read_film(make_film(Rows=None))
    assert not isinstance(refusal.value, CutOff)


def test_subsampled_colours_are_not_called_cut_off():
    """Given native YBR_FULL_422, whose pairs of pixels share their colours, then two thirds of the bytes are all."""
    layout = Layout(uid.ExplicitVRLittleEndian, 4, 4, 3, "YBR_FULL_422", 8, 8, 7, signed=False)
    ds = make_film(PixelData=bytes(32), PhotometricInterpretation="YBR_FULL_422", Rows=4, Columns=4)
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PlanarConfiguration = 3, 8, 8, 7, 0
    assert decode(ds, layout).shape == (4, 4, 3)
    ds.PixelData = bytes(30)
    with pytest.raises(CutOff, match="30 of the 32 bytes"):
        decode(ds, layout)


def test_native_pixels_with_padding_after_them_are_read():
    film = make_film()
    film.PixelData += b"\0" * 64

    np.testing.assert_array_equal(read_film(film).pixels, read_film(make_film()).pixels)


def test_a_film_without_pixel_data_is_unreadable():
    with pytest.raises(UnreadablePixels, match="PixelData"):
        read_film(make_film(PixelData=None))


def test_absurd_sizes_are_refused_before_anything_is_allocated():
    film = make_film(Rows=65535, Columns=65535)
    assert film.Rows * film.Columns > MAX_PIXELS

    with pytest.raises(UnsupportedObject, match="pixels"):
        read_film(film)


def test_a_fragmented_frame_is_joined():
    frame, film = stream_of(uid.JPEGLSLossless)
    half = len(frame) // 4 * 2
    items = b"".join(
        struct.pack("<HHL", 0xFFFE, 0xE000, len(part)) + part for part in (b"", frame[:half], frame[half:])
    )
    ds = dcmread(BytesIO(write_encapsulated(film, uid.JPEGLSLossless, frame)))
    ds.PixelData = items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)

    np.testing.assert_array_equal(read(write(ds)).pixels, read_film(film).pixels)
