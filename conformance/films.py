"""Synthetic films: a believable header around any pixels, in every transfer syntax there is a free encoder for.

Used by tests and benchmarks. Nobody's hand: the default picture is a smooth pattern, and the identity is invented.
"""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import FileDataset, dcmread, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
"""Transfer syntaxes that hold pixels as they are."""

LOSSLESS = (
    *NATIVE,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
)
"""Transfer syntaxes :func:`encode` writes without loss. HTJ2K has a free decoder, but no encoder among our parts."""

PATIENT = {"PatientName": "Prüfling^Ähnlich", "PatientID": "ZZ-4711-0815", "PatientBirthDate": "20140317"}
"""The invented identity of every synthetic film, and what must never be found in a log."""

_GDCM_SYNTAXES = {
    uid.JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    uid.JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
}


def draw_pattern(rows: int = 60, columns: int = 44, bits: int = 12, *, signed: bool = False) -> npt.NDArray[np.integer]:
    """Draw a smooth pattern with an isolated bright and dark pixel that uses all ``bits``, shape (rows, columns)."""
    y, x = np.mgrid[0:rows, 0:columns]
    wave = np.sin(y / rows * 7) * np.cos(x / columns * 5) * 0.5 + 0.5
    values = np.rint(wave * (2**bits - 1)).astype(np.int64)
    values[1, 2], values[3, 4] = 2**bits - 1, 0
    if signed:
        values -= 2 ** (bits - 1)
    size = 8 if bits <= 8 else 16
    pixels: npt.NDArray[np.integer] = values.astype(f"{'i' if signed else 'u'}{size // 8}")
    return pixels


def make_film(pixels: npt.NDArray[np.integer] | None = None, bits_stored: int = 12, **elements: Any) -> FileDataset:
    """Make a DX film for presentation, Explicit VR Little Endian, around pixels of shape (rows, columns).

    ``elements`` are DICOM keywords that replace what is there, or remove it where they are None.
    """
    array = draw_pattern(bits=bits_stored) if pixels is None else pixels
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    _describe(ds)
    ds.Rows, ds.Columns = array.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = array.itemsize * 8, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    ds.add_new("PixelData", "OW" if array.itemsize == 2 else "OB", data + b"\0" * (len(data) % 2))
    for keyword, value in elements.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID")
    return ds


def _describe(ds: FileDataset) -> None:
    """Fill in the patient, study, series and DX attributes."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (uid.generate_uid() for _ in range(3))
    for keyword, value in PATIENT.items():
        setattr(ds, keyword, value)
    ds.PatientSex, ds.StudyID, ds.AccessionNumber = "F", "1", ""
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240917"
    ds.StudyTime = ds.ContentTime = "101112"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition, ds.ImageLaterality = "DX", "HAND", "PA", "L"
    ds.ImageType, ds.SeriesNumber, ds.InstanceNumber = ["ORIGINAL", "PRIMARY"], 1, 1
    ds.ReferringPhysicianName, ds.Manufacturer = "", "boneage-node tests"
    ds.PatientOrientation, ds.BurnedInAnnotation = ["R", "F"], "NO"
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape, ds.LossyImageCompression = "IDENTITY", "00"
    ds.ImagerPixelSpacing = ["0.15", "0.15"]


def encode(film: FileDataset, transfer_syntax: str, *, near: int = 2) -> bytes:
    """Return the Part 10 file of an Explicit VR Little Endian film in another transfer syntax.

    Lossy JPEG-LS keeps every pixel within ``near`` of its value; JPEG 2000 keeps a tenth of the bytes; JPEG baseline
    has quality 95 and needs 8 bits.
    """
    if transfer_syntax in _GDCM_SYNTAXES:
        return _encode_with_gdcm(film, _GDCM_SYNTAXES[uid.UID(transfer_syntax)])
    ds = dcmread(BytesIO(write(film)))
    if transfer_syntax == uid.ExplicitVRBigEndian:
        return _encode_big_endian(ds)
    if transfer_syntax in NATIVE:
        ds.file_meta.TransferSyntaxUID = uid.UID(transfer_syntax)
        return write(ds)
    if transfer_syntax == uid.JPEGBaseline8Bit:
        stream = BytesIO()
        Image.fromarray(ds.pixel_array).save(stream, "JPEG", quality=95)
        return write_encapsulated(ds, transfer_syntax, stream.getvalue())
    options: dict[str, Any] = {"encoding_plugin": _PLUGINS[uid.UID(transfer_syntax)]}
    if transfer_syntax == uid.JPEGLSNearLossless:
        options["jls_error"] = near
    if transfer_syntax == uid.JPEG2000:
        options["j2k_cr"] = [10]
    ds.compress(transfer_syntax, generate_instance_uid=False, **options)
    return write(ds)


_PLUGINS = {
    uid.RLELossless: "pydicom",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
}


def write_encapsulated(film: FileDataset, transfer_syntax: str, frame: bytes) -> bytes:
    """Return the Part 10 file of a film whose one frame is that compressed stream."""
    ds = dcmread(BytesIO(write(film)))
    ds.file_meta.TransferSyntaxUID = uid.UID(transfer_syntax)
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    return write(ds)


def write(ds: FileDataset) -> bytes:
    """Return the Part 10 file of a data set in the transfer syntax of its file meta information."""
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _encode_big_endian(ds: FileDataset) -> bytes:
    """Return a Part 10 file in the retired big endian syntax, which pydicom writes only when forced."""
    for _ in ds.iterall():
        pass  # elements that were never touched would be written in the byte order they were read in
    if ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    stream = BytesIO()
    dcmwrite(stream, ds, implicit_vr=False, little_endian=False, force_encoding=True)
    return stream.getvalue()


def _encode_with_gdcm(film: FileDataset, syntax: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.dcm"), Path(folder, "target.dcm")
        source.write_bytes(write(film))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        writer = gdcm.ImageWriter()
        if not reader.Read():
            raise ValueError("gdcm cannot read the film.")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise ValueError("gdcm cannot encode the film.")
        encoded = dcmread(BytesIO(write(film)))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(target))
        if not writer.Write():
            raise ValueError("gdcm cannot write the film.")
        # gdcm adds derivation attributes and its own UIDs: only the stream is wanted.
        written = dcmread(target)
        encoded.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
        encoded.PixelData = written.PixelData
        encoded["PixelData"].VR = "OB"
        return write(encoded)
