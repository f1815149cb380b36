"""Annotated boxes as other tools write them: Pascal VOC (XML), YOLO (TXT) and COCO (JSON), into this project's points.

Labels are the 21 names of ``inference.anatomy.BOX_NAMES``, or the seven classes of the RUS boxes (Radius, Ulna,
MCPFirst, MCP, ProximalPhalanx, MiddlePhalanx, DistalPhalanx), whose fingers are ordered by geometry. A file belongs to
the film whose id its name, or its image's name, is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, parse

from inference.anatomy import BOX_NAMES
from training.annotations import RUS_CLASSES, Annotation, Box, add_rus_boxes, is_complete
from training.errors import DataError

CLASS_FILES = ("classes.txt", "obj.names")
YOLO_FIELDS = 5


@dataclass(slots=True)
class Sheet:
    """The boxes of one film: columns / rows, and (label, x centre, y centre, width, height), 0..1 of the film."""

    aspect: float
    boxes: list[tuple[str, float, float, float, float]]


def read_boxes(folder: Path) -> dict[int, Annotation]:
    """Read all annotations of a folder, whichever of the three forms they have.

    Parameters
    ----------
    folder
        ``*.xml`` (VOC), ``*.json`` (COCO), or ``*.txt`` with ``classes.txt`` (YOLO, whose images must lie beside the
        texts or in ``images``, since it does not say their size).

    Raises
    ------
    DataError
        A file is broken, a label is not known, or a box lies outside its film: each is named, all at once.
    """
    sheets: dict[int, Sheet] = {}
    problems: list[str] = []
    for reader, files in (
        (_read_voc, sorted(folder.rglob("*.xml"))),
        (_read_coco, sorted(folder.rglob("*.json"))),
        (_read_yolo, _yolo_files(folder)),
    ):
        for file in files:
            try:
                sheets |= reader(file)
            except (DataError, ParseError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
                why = str(error) if isinstance(error, DataError) else f"cannot be read ({type(error).__name__})"
                problems.append(f"{file.name}: {why}")
    problems += [f"film {film}: {why}" for film, sheet in sorted(sheets.items()) for why in _wrong(sheet)]
    if problems:
        raise DataError("The annotations have problems; mend or remove them:\n  " + "\n  ".join(problems))
    return {film: annotation for film, sheet in sheets.items() if (annotation := _annotation(film, sheet)) is not None}


def _wrong(sheet: Sheet) -> list[str]:
    known = {*BOX_NAMES, *RUS_CLASSES}
    unknown = sorted({label for label, *_ in sheet.boxes} - known)
    outside = [
        label
        for label, x, y, width, height in sheet.boxes
        if min(width, height) <= 0 or not (0 <= x <= 1 and 0 <= y <= 1)
    ]
    return [*(f"the label {label!r} is not known" for label in unknown), *(f"a box {one!r} is none" for one in outside)]


def _annotation(film: int, sheet: Sheet) -> Annotation | None:
    """Return the points; None where the fingers cannot be told apart, for a box too many or too few."""
    annotation = Annotation(film, sheet.aspect)
    classes: dict[str, list[Box]] = defaultdict(list)
    for label, x, y, width, height in sheet.boxes:
        if label in BOX_NAMES:
            annotation.points[label], annotation.sizes[label] = (x, y), (width, height)
        else:
            classes[label].append(((x, y), (width, height)))
    if classes and not is_complete(classes):
        return None
    if classes:
        add_rus_boxes(annotation, classes)
    return annotation


def _film_of(name: str) -> int:
    stem = Path(name).stem
    if not stem.isdecimal():
        raise DataError("its name must be the film's id.")
    return int(stem)


def _read_voc(file: Path) -> dict[int, Sheet]:
    root = parse(file).getroot()  # noqa: S314 - a site's own files; expat itself stops entity bombs
    columns, rows = (float(_text(root, f"size/{side}")) for side in ("width", "height"))
    boxes = []
    for item in root.iter("object"):
        x0, y0, x1, y1 = (float(_text(item, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
        label = _text(item, "name")
        boxes.append((label, (x0 + x1) / 2 / columns, (y0 + y1) / 2 / rows, (x1 - x0) / columns, (y1 - y0) / rows))
    return {_film_of(root.findtext("filename") or file.name): Sheet(columns / rows, boxes)}


def _text(element: Element, path: str) -> str:
    found = element.findtext(path)
    if found is None:
        raise DataError(f"there is no {path} in it.")
    return found.strip()


def _read_coco(file: Path) -> dict[int, Sheet]:
    table = json.loads(file.read_text("utf-8"))
    labels = {category["id"]: str(category["name"]) for category in table["categories"]}
    films = {image["id"]: image for image in table["images"]}
    sheets = {key: Sheet(float(image["width"]) / float(image["height"]), []) for key, image in films.items()}
    for item in table["annotations"]:
        image, (x, y, width, height) = films[item["image_id"]], map(float, item["bbox"])
        columns, rows = float(image["width"]), float(image["height"])
        place = ((x + width / 2) / columns, (y + height / 2) / rows, width / columns, height / rows)
        sheets[item["image_id"]].boxes.append((labels[item["category_id"]], *place))
    return {_film_of(films[key]["file_name"]): sheet for key, sheet in sheets.items()}


def _yolo_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.txt") if path.name not in CLASS_FILES)


def _read_yolo(file: Path) -> dict[int, Sheet]:
    from training.sources.source import open_image

    classes = next((path for at in file.parents[:2] for name in CLASS_FILES if (path := at / name).is_file()), None)
    if classes is None:
        raise DataError(f"there is no {CLASS_FILES[0]} beside it.")
    labels = classes.read_text("utf-8").split()
    places = (file.parent, file.parent / "images", file.parent.parent / "images")
    image = next((path for at in places for path in at.glob(f"{file.stem}.*") if path.suffix != ".txt"), None)
    if image is None:
        raise DataError("its image is not beside it, so that its shape is not known.")
    rows, columns = open_image(image).shape
    boxes = []
    for line in file.read_text("utf-8").splitlines():
        parts = line.split()
        if len(parts) < YOLO_FIELDS:
            raise DataError("a line needs a class and four numbers.")
        x, y, width, height = map(float, parts[1:YOLO_FIELDS])
        boxes.append((labels[int(parts[0])] if int(parts[0]) < len(labels) else parts[0], x, y, width, height))
    return {_film_of(file.name): Sheet(columns / rows, boxes)}
