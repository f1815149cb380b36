"""``python -m conformance.examples OUT``: every document of the shipped samples, and something to look at.

Of a reading, a refusal and an unknown sex: each document as DICOM (the secondary capture as a picture only, since it is
large), reports as text, and a picture of each. The same command makes the same files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path

from PIL import Image
from pydicom import Dataset, FileDataset, dcmread

from conformance import pictures
from inference.engine import Engine
from inference.film import display_bytes, read_film
from inference.finding import Estimate, Finding
from reports.clinic import Assessment, Prior, assess
from reports.document import encoded
from reports.header import film_size
from reports.identity import KINDS, DocumentIdentity, Kind, device_uid, document_uids
from reports.key_objects import Capture
from reports.kinds import Choices, compose
from reports.overlay import Extras, draw_overlay
from reports.phrases import Language
from reports.read_back import children
from reports.secondary_capture import patient_line

MADE_AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
WRITTEN: tuple[Kind, ...] = ("sr", "text", "gsps", "pdf", "kos")
CASES: tuple[tuple[str, str, str | None, Language], ...] = (
    ("reading", "boy-12.dcm", None, "en"),
    ("reading-zh", "girl-08.dcm", None, "zh"),
    ("sex-unknown", "girl-12.dcm", "", "en"),
    ("refusal", "not-a-hand.dcm", None, "en"),
)
"""Name, sample, the sex to put into its header (None: as it is), language."""


def identify(film: Dataset, finding: Finding, kind: Kind) -> DocumentIdentity:
    """Return what a node would call the document."""
    series_uid, sop_uid = document_uids(film.SOPInstanceUID, finding.model, kind, 1)
    return DocumentIdentity(
        sop_instance_uid=sop_uid,
        series_instance_uid=series_uid,
        series_number=9001 + KINDS.index(kind),
        instance_number=1,
        created_at=MADE_AT,
        device_uid=device_uid("examples"),
        station_name="BONEAGE",
    )


def tree(item: Dataset, depth: int = 0) -> list[str]:
    """Return a content tree as lines of text."""
    lines = []
    for child in children(item):
        name = child.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in child else ""
        lines.append(f"{'  ' * depth}{child.ValueType:9s} {name}{_value(child)}")
        lines += tree(child, depth + 1)
    return lines


def _value(item: Dataset) -> str:
    if item.ValueType == "NUM":
        measured = item.MeasuredValueSequence[0]
        return f" = {measured.NumericValue} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"
    if item.ValueType == "CODE":
        return f" = {item.ConceptCodeSequence[0].CodeMeaning}"
    return f" = {item.TextValue}" if item.ValueType == "TEXT" else ""


def compose_case(
    film: Dataset, finding: Finding, kinds: Iterable[Kind] = WRITTEN, language: Language = "en"
) -> Iterator[tuple[Kind, FileDataset]]:
    """Compose documents of one finding, each as it is asked for."""
    display = display_bytes(read_film(film))
    capture = Capture(*document_uids(film.SOPInstanceUID, finding.model, "sc", 1))
    choices = Choices(assessment=_assess(finding), language=language, name_patient=True, capture=capture)
    for kind in kinds:
        identity = identify(film, finding, kind)
        yield kind, compose(kind, film, finding, identity, display=lambda: display, choices=choices)


def write_case(folder: Path, name: str, film: Dataset, finding: Finding, language: Language) -> None:
    """Write all documents of one finding."""
    extras = Extras(_assess(finding), language, patient_line(film, language))
    display = display_bytes(read_film(film))
    picture = draw_overlay(display, finding, film_size(film), extras)
    Image.fromarray(picture).save(folder / f"{name}-sc.jpg", quality=82)
    for kind, document in compose_case(film, finding, language=language):
        (folder / f"{name}-{kind}.dcm").write_bytes(encoded(document))
        if kind in {"sr", "text", "kos"}:
            lines = tree(document)
            (folder / f"{name}-{kind}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            pictures.page(lines).convert("L").save(folder / f"{name}-{kind}.png", optimize=True)
        elif kind == "gsps":
            pictures.presentation(document, display).save(folder / f"{name}-{kind}.jpg", quality=75)


def read_sample(name: str) -> Dataset:
    """Read one of the films that the node ships."""
    with resources.as_file(resources.files("dicom_node").joinpath("samples", name)) as path:
        return dcmread(path)


def _assess(finding: Finding) -> Assessment | None:
    """Return an assessment with a made-up earlier result, so that there is a course to show."""
    if not isinstance(finding, Estimate) or finding.subject.age_months is None:
        return None
    age = finding.subject.age_months
    prior = Prior(date(2025, 1, 2), age - 14.0, finding.age_months - 11.0, 18.0, "made up for this example")
    return assess(finding, height_cm=140.0, priors=[prior])


def main(argv: list[str] | None = None) -> int:
    """Write all examples; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m conformance.examples", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to write to, made if it is not there")
    folder = parser.parse_args(argv).out
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine.load()
    for name, sample, sex, language in CASES:
        film = read_sample(sample)
        if sex is not None:
            film.PatientSex = sex
        write_case(folder, name, film, engine.interpret(film), language)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
