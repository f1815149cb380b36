"""Make the sample DICOM files that ship with the node: nobody's hands.

``python -m training.samples --data DIR --out dicom_node/samples``. At least 24 films of one sex within 6 months of an
age are carried onto their mean shape by thin-plate splines through the detected landmarks and averaged: shape and
texture are means, and no film can be taken out of them again. The non-hand is the mean of the chests among the
negatives.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import uuid
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)
from scipy.interpolate import RBFInterpolator

from inference.bundle import DETECTOR, open_bundle
from inference.errors import InferenceError
from inference.finding import Sex
from inference.pose import fit_pose, template_points
from inference.torch_backend import TorchLocator
from training.arguments import plain
from training.errors import DataError, TrainingError, exit_code
from training.radiographs import Radiograph, load_half, load_negatives, load_small
from training.storage import make_folder

_log = logging.getLogger(__name__)

ROWS, COLUMNS = 1000, 800
BITS = 12
LEAST_FILMS, MOST_FILMS = 24, 40
WITHIN_MONTHS = 6.0
AGES_MONTHS = (51.0, 96.0, 144.0, 180.0)
_NAMESPACE = uuid.UUID("6f0c6a34-52f5-4f43-9d27-2f7a4d0d5b11")
_STUDY_DATE = date(2026, 3, 2)
_SYNTAXES = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1)

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """What goes into one sample's header."""

    name: str
    sex: Sex
    age_months: float
    transfer_syntax: UID
    hand: bool = True


def choose(films: list[Radiograph], sex: Sex, age_months: float) -> list[Radiograph]:
    """Take the films of one sex nearest in age, sharp (large) ones first.

    Raises
    ------
    DataError
        If fewer than LEAST_FILMS lie within WITHIN_MONTHS.
    """
    near = [f for f in films if f.reading.sex is sex and abs(f.reading.age_months - age_months) <= WITHIN_MONTHS]
    near.sort(key=lambda f: (f.pixels.shape[0] < 300, abs(f.reading.age_months - age_months), f.reading.rsna_id))
    if len(near) < LEAST_FILMS:
        raise DataError(
            f"Only {len(near)} films of sex {sex.value} near {age_months:.0f} months; {LEAST_FILMS} are needed."
        )
    sharp = [film for film in near if film.pixels.shape[0] >= 300]
    return (sharp if len(sharp) >= LEAST_FILMS else near)[:MOST_FILMS]


def composite(films: list[Radiograph], locator: TorchLocator) -> npt.NDArray[np.float32]:
    """Average films on their mean shape; returns (ROWS, COLUMNS) of 0..1, bones bright, a left hand upright."""
    shapes, images = [], []
    for film in films:
        hands, image, _ = locator.locate(film.pixels)
        if hands and hands[0].landmarks.scores.min() > 0.15:
            shapes.append(hands[0].landmarks.points)
            images.append(image)
    if len(images) < LEAST_FILMS:
        raise DataError(f"Only {len(images)} of the films show every landmark; {LEAST_FILMS} are needed.")
    mean = np.mean([fit_pose(template_points(), shape).to_template(shape) for shape in shapes], axis=0)
    extent = np.array([COLUMNS, ROWS * 0.94])
    target = (mean - (0.5, 0.0)) * extent[1] + (COLUMNS / 2, ROWS * 0.02)
    stack = np.sort(
        np.stack([_warp(image, shape, target) for shape, image in zip(shapes, images, strict=True)]), axis=0
    )
    quarter = len(stack) // 4
    # The mean of the middle half: a side marker or a technician's initials stand elsewhere on each film and fall out.
    texture = stack[quarter : len(stack) - quarter].mean(axis=0)
    blurred = cv2.GaussianBlur(texture, (0, 0), 3)
    sharp = texture + 0.8 * (texture - blurred)
    low, high = np.percentile(sharp, (1, 99.8))
    return np.asarray(np.clip((sharp - low) / (high - low), 0, 1), dtype=np.float32)


def _warp(image: npt.NDArray[np.uint8], shape: Float, target: Float) -> npt.NDArray[np.float32]:
    """Carry a film onto target landmarks by a thin-plate spline; returns 0..1, 0 outside the film."""
    step = 20
    grid_y, grid_x = np.mgrid[0 : ROWS + step : step, 0 : COLUMNS + step : step].astype(np.float64)
    spline = RBFInterpolator(target, shape, kernel="thin_plate_spline", smoothing=2.0)
    coarse = spline(np.column_stack([grid_x.ravel(), grid_y.ravel()])).reshape(*grid_x.shape, 2)
    size = (grid_x.shape[1] * step, grid_x.shape[0] * step)
    matrix = np.array([[1 / step, 0, 0], [0, 1 / step, 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(coarse.astype(np.float32), matrix, size, flags=flags)[:ROWS, :COLUMNS]
    map_x, map_y = np.ascontiguousarray(fine[..., 0]) - 0.5, np.ascontiguousarray(fine[..., 1]) - 0.5
    low, high = np.percentile(image, (5, 99.5))
    grey = np.clip((image.astype(np.float32) - low) / max(high - low, 1), 0, 1)
    warped = cv2.remap(grey, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(warped, dtype=np.float32)


def middle_mean(images: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Average the middle half of each pixel's values: a side marker, elsewhere on each film, falls out."""
    stack = np.sort(np.stack(images), axis=0)
    quarter = len(stack) // 4
    return np.asarray(stack[quarter : len(stack) - quarter].mean(axis=0), dtype=np.float32)


def mean_chest(negatives: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """Average the negatives, each stretched to one size; returns (ROWS, COLUMNS) of 0..1."""
    stack = [cv2.resize(image, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA).astype(np.float32) for image in negatives]
    mean = middle_mean(stack)
    return np.asarray((mean - mean.min()) / (mean.max() - mean.min()), dtype=np.float32)


def _uid(*parts: str) -> UID:
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}")


def make_object(sample: Sample, pixels: npt.NDArray[np.float32]) -> FileDataset:
    """Wrap an image of 0..1 as a DX Image for presentation (PS3.3 A.26) with the header a hospital would send."""
    stored = np.rint(pixels * (2**BITS - 1)).astype(np.uint16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid(sample.name, "instance")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(f"{sample.name}.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    _write_patient_and_study(ds, sample)
    _write_series_and_image(ds, sample)
    ds.Rows, ds.Columns = stored.shape
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    return _compress(ds, sample.transfer_syntax)


def _write_patient_and_study(ds: Dataset, sample: Sample) -> None:
    born = _STUDY_DATE - timedelta(days=round(sample.age_months * 30.4375))
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"SAMPLE^{sample.name.upper()}"
    ds.PatientID = f"SAMPLE-{sample.name.upper()}"
    ds.IssuerOfPatientID = "BONEAGE-NODE-SAMPLES"
    ds.PatientBirthDate, ds.PatientSex = born.strftime("%Y%m%d"), sample.sex.value
    ds.StudyInstanceUID = _uid(sample.name, "study")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = _STUDY_DATE.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "093000"
    ds.StudyID, ds.AccessionNumber = "1", f"SMP{sample.name.upper()[:12]}"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Composite of many radiographs, no person"


def _coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _write_series_and_image(ds: Dataset, sample: Sample) -> None:
    ds.SOPClassUID, ds.SOPInstanceUID = DigitalXRayImageStorageForPresentation, _uid(sample.name, "instance")
    ds.SeriesInstanceUID = _uid(sample.name, "series")
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "DX", 1, 1
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.Manufacturer, ds.ManufacturerModelName = "boneage-node", "composite sample"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "0", "0.1.0"
    ds.BodyPartExamined = "HAND" if sample.hand else "CHEST"
    ds.AnatomicRegionSequence = [
        _coded("85562004", "SCT", "Hand") if sample.hand else _coded("51185008", "SCT", "Chest")
    ]
    ds.ViewPosition = "PA"
    ds.PatientOrientation = ["R", "F"] if not sample.hand else ["L", "F"]
    ds.ViewCodeSequence = [_coded("272479007", "SCT", "postero-anterior")]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    ds.ImageLaterality = "L" if sample.hand else "U"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.DerivationDescription = "Mean shape and texture of at least 24 radiographs"
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation = "NO"
    ds.ImagerPixelSpacing = [0.2, 0.2]
    ds.DetectorType = "DIRECT"
    ds.PositionerType = "NONE"
    ds.AcquisitionContextSequence = []
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "IDENTITY"
    ds.WindowCenter, ds.WindowWidth = str(2 ** (BITS - 1)), str(2**BITS)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, BITS, BITS - 1, 0


def _compress(ds: FileDataset, syntax: UID) -> FileDataset:
    """Return the object in a compressed syntax; python-gdcm is the one free encoder of JPEG Lossless."""
    if syntax != JPEGLosslessSV1:
        ds.compress(syntax, generate_instance_uid=False)
        return ds
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.dcm"), Path(folder, "target.dcm")
        ds.save_as(source)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(source))
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        if not reader.Read():
            raise DataError("gdcm could not read the composite.")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise DataError("gdcm could not encode the composite as JPEG Lossless.")
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(target))
        if not writer.Write():
            raise DataError("gdcm could not write the composite.")
        # gdcm adds attributes and UIDs of its own: only the stream is taken over.
        ds.PixelData = dcmread(target).PixelData
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    return ds


def _make(data: Path, out: Path) -> None:
    make_folder(out)
    locator = TorchLocator(open_bundle(DETECTOR), torch.device("cpu"))
    films = load_half(data, ["train"]) + load_small(data, ["pretrain"])
    for age_months, syntax in zip(AGES_MONTHS, _SYNTAXES, strict=True):
        for sex in Sex:
            word = "boy" if sex is Sex.MALE else "girl"
            sample = Sample(f"{word}-{age_months / 12:02.0f}", sex, age_months, syntax)
            chosen = choose(films, sex, age_months)
            make_object(sample, composite(chosen, locator)).save_as(
                out / f"{sample.name}.dcm", enforce_file_format=True
            )
            _log.info("%s from %d films", sample.name, len(chosen))
    chest = Sample("not-a-hand", Sex.FEMALE, 144.0, JPEGLSLossless, hand=False)
    make_object(chest, mean_chest(load_negatives(data))).save_as(out / "not-a-hand.dcm", enforce_file_format=True)


def main(argv: list[str] | None = None) -> int:
    """Make the samples; returns 0, 1 without a detector, 2 when the data cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.samples", description=plain(__doc__))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _make(arguments.data, arguments.out)
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
