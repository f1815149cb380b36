"""Annotated boxes as other tools write them: Pascal VOC (XML), YOLO (TXT) and COCO (JSON), into this project's points.

Labels are the 21 names of ``inference.anatomy.BOX_NAMES``, or the seven classes of the RUS boxes (Radius, Ulna,
MCPFirst, MCP, ProximalPhalanx, MiddlePhalanx, DistalPhalanx), whose fingers are ordered by geometry. Boxes belong to
the film that has the name of their file, or of the image that the file names, without folders and ending: a site's
``hand12.dcm`` has its boxes in ``hand12.xml``. In the two other layouts that name is the film's id. What CVAT and Label
Studio export beside the boxes (lists of images, names of labels) is passed over; the eight digits that Label Studio
puts before an image's name count only where no film has them.

Nothing is guessed and nothing dropped in silence: a box far beyond its film's edge, a label or a film that comes twice,
a hand whose boxes are too many or too few and a file without a film are problems, all named at once. A box that is only
just over the edge, as hands draw them, is cut off there and named.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element, ParseError, parse

from inference.anatomy import BOX_NAMES
from inference.errors import FilmError
from training.annotations import RUS_CLASSES, Annotation, Box, add_rus_boxes, is_complete
from training.errors import DataError
from training.sources.files import files_below, plain_name
from training.sources.site import open_film
from training.sources.source import Entry, Source, log_notices, open_image
from training.sources.ultralytics import DATA_FILE, read_data_file

_log = logging.getLogger(__name__)

CLASS_FILES = ("classes.txt", "obj.names")
NAME_FILES = (*CLASS_FILES, DATA_FILE)
YOLO_FIELDS = 5
EDGE_TOLERANCE = 0.05
"""So far beyond its film's edge, as a share of the film's side, a box may reach; it is cut off there and named."""
ROUNDING = 0.003
"""What is less beyond the edge is cut off unnamed: tools round, and count pixels from 0 or 1."""
LISTS_OF_CVAT = "obj.data"
"""Beside CVAT's YOLO texts: says which texts are lists of images."""
NOT_BOXES = frozenset({"labelmap.txt", "notes.json"})
"""What CVAT writes beside VOC's files, and Label Studio beside YOLO's: names of labels again, and no boxes."""
IMAGE_SETS = "ImageSets"
"""VOC's folder of lists of images."""
UPRIGHT_DEG = 0.5
"""A box that is turned by less is upright."""
OTHER_IMAGES = (".bmp", ".tif", ".tiff")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".dcm", ".DCM", "", *OTHER_IMAGES)

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an image that was uploaded."""

_BROKEN = (
    DataError, FilmError, ParseError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, OSError,
)  # fmt: skip

Films = dict[str, list[Entry]]
"""A table's films, by the names of their files."""


LabelledBox = tuple[str, float, float, float, float]


@dataclass(slots=True)
class Sheet:
    """The boxes of one film, (label, x centre, y centre, width, height), 0..1 of the film."""

    names: tuple[str, ...]  # what its film may be called
    extent: tuple[float, float]  # columns and rows of its image
    boxes: list[LabelledBox]
    file: str = ""  # where it was read, for messages


@dataclass(frozen=True, slots=True)
class Boxes:
    """What a folder of boxes holds."""

    annotations: dict[int, Annotation] = field(default_factory=dict)
    """By the film's id."""
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    """What was cut off, in words."""


def read_boxes(folder: Path, source: Source | None = None) -> dict[int, Annotation]:
    """Read all annotations of a folder, whichever of the three forms they have; see :func:`check_boxes`.

    What was cut off is named in the log.

    Raises
    ------
    DataError
        If there is any problem: the message names all of them.
    """
    found = check_boxes(folder, source)
    if found.problems:
        raise DataError("The annotations have problems; mend or remove them:\n  " + "\n  ".join(found.problems))
    log_notices(found.notices)
    return found.annotations


def check_boxes(folder: Path, source: Source | None = None) -> Boxes:
    """Read all annotations of a folder, and name what is wrong with them.

    Parameters
    ----------
    folder
        ``*.xml`` (VOC), ``*.json`` (COCO), or ``*.txt`` with ``classes.txt`` or ``data.yaml`` (YOLO, which does not say
        the shape of its images: they lie beside the texts or in ``images``, or are the films themselves). Films without
        a box, as COCO and YOLO list them, count as not annotated.
    source
        The films that they are of; without it each must be named by an id.
    """
    found, origin, films = Boxes(), dict[int, str](), source.by_stem() if source else None
    for sheet in _sheets(folder, films, found.problems):
        try:
            film, called = _film_of(sheet, films)
        except DataError as error:
            found.problems.append(f"{sheet.file}: {error}")
            continue
        if film in origin:
            found.problems.append(f"{called} has boxes in {origin[film]} and in {sheet.file}: keep one of them.")
            continue
        origin[film], wrong = sheet.file, _wrong(sheet)
        found.problems.extend(f"{called}: {why} ({sheet.file})" for why in wrong)
        if not wrong:
            found.notices.extend(f"{called}: {said} ({sheet.file})" for said in _cut_off(sheet))
            found.annotations[film] = _annotation(film, sheet)
    if not origin and not found.problems:
        found.problems.append(f"{folder} holds no boxes in VOC (*.xml), COCO (*.json) or YOLO (*.txt) form.")
    return found


def _sheets(folder: Path, films: Films | None, problems: list[str]) -> Iterator[Sheet]:
    """Read the files one after the other; one that is broken is a problem. Films without a box are left out."""
    readers: tuple[tuple[Callable[[Path], list[Sheet]], list[Path]], ...] = (
        (_read_voc, _files(folder, ".xml")),
        (_read_coco, _files(folder, ".json")),
        (partial(_read_yolo, folder=folder, films=films, names_in=cache(_names_in)), _yolo_files(folder)),
    )
    for reader, files in readers:
        for file in files:
            name = file.relative_to(folder).as_posix()
            try:
                yield from (replace(sheet, file=name) for sheet in reader(file) if sheet.boxes)
            except _BROKEN as error:
                said = isinstance(error, DataError | FilmError)
                problems.append(f"{name}: {error if said else f'cannot be read ({type(error).__name__})'}")


def _film_of(sheet: Sheet, films: Films | None) -> tuple[int, str]:
    """Return the film's id and what messages call it."""
    if films is not None:
        entry = _entry_of(sheet, films)
        return entry.reading.rsna_id, entry.name
    numbers = {int(name) for name in (*sheet.names, *_as_uploaded(sheet)) if name.isdecimal()}
    if len(numbers) != 1:
        raise DataError("its name must be the film's id, and no other than that of the image that it names.")
    return min(numbers), f"film {min(numbers)}"


def _as_uploaded(sheet: Sheet) -> tuple[str, ...]:
    """Return what the images were called before they were uploaded to Label Studio."""
    return tuple(_UPLOADED.sub("", name, count=1) for name in sheet.names if _UPLOADED.match(name))


def _entry_of(sheet: Sheet, films: Films) -> Entry:
    numbers = tuple(str(int(name)) for name in sheet.names if name.isdecimal())  # "0012", where there is only a 12
    likely = (sheet.names, numbers, _as_uploaded(sheet))
    names = next((known for names in likely if (known := [name for name in names if name in films])), [])
    found = {entry.reading.rsna_id: entry for name in names for entry in films[name]}
    if not found:
        raise DataError("no film in the table has its name, or that of the image that it names.")
    if len(found) > 1:
        called = ", ".join(entry.name for entry in found.values())
        raise DataError(f"it may belong to any of {called}; give each film's file a name of its own.")
    return next(iter(found.values()))


def _wrong(sheet: Sheet) -> list[str]:
    counts = Counter(label for label, *_ in sheet.boxes)
    named, classes = set(counts) & set(BOX_NAMES), set(counts) & set(RUS_CLASSES)
    wrong = [f"the label {label!r} is not known" for label in sorted(set(counts) - named - classes)]
    wrong += [why for box in sheet.boxes if (why := _wrong_place(box, sheet.extent))]
    wrong += [f"the label {label!r} stands {counts[label]} times" for label in sorted(named) if counts[label] > 1]
    if named and classes:
        return [*wrong, "it has labels of both kinds, names of bones and classes: keep one kind"]
    off = [
        f"{counts[label]} of {label} (not {count})" for label, count in RUS_CLASSES.items() if counts[label] != count
    ]
    if classes and off:
        wrong.append(
            f"fingers cannot be told apart with {', '.join(off)}; complete them, or label bones by their names"
        )
    return wrong


def _wrong_place(box: LabelledBox, extent: tuple[float, float]) -> str:
    """Say what is wrong with where a box lies; "" of one that has an area on its film and is at most just over it."""
    _, x, y, width, height = box
    if not (width > 0 and height > 0 and math.isfinite(x + y + width + height)):
        return f"a box {_named(box, extent)} is none: it has no area"
    _, *cut = _clipped(box)
    if _over(box)[0] > EDGE_TOLERANCE or min(cut[2:]) <= 0:
        return f"a box {_named(box, extent)} lies outside the film: it reaches {_how_far(box, extent)}"
    return ""


def _cut_off(sheet: Sheet) -> list[str]:
    """Cut the boxes off at the edges of their film; return what was cut off beyond rounding."""
    before, sheet.boxes = sheet.boxes, [_clipped(box) for box in sheet.boxes]
    return [
        f"the box {_named(box, sheet.extent)} reaches {_how_far(box, sheet.extent)}, where it is cut off"
        for box in before
        if _over(box)[0] > ROUNDING
    ]


def _edges(box: LabelledBox) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom, 0..1 of the film."""
    _, x, y, width, height = box
    return x - width / 2, x + width / 2, y - height / 2, y + height / 2


def _over(box: LabelledBox) -> tuple[float, str]:
    """Return how far a box reaches beyond its film's edge, as a share of the film's side, and which edge."""
    left, right, top, bottom = _edges(box)
    return max((-left, "left"), (right - 1, "right"), (-top, "upper"), (bottom - 1, "lower"))


def _clipped(box: LabelledBox) -> LabelledBox:
    """Return the part of a box that is on its film; without one, a side is 0 or less."""
    if _over(box)[0] <= 0:
        return box
    left, right, top, bottom = _edges(box)
    left, right, top, bottom = max(left, 0.0), min(right, 1.0), max(top, 0.0), min(bottom, 1.0)
    return box[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _named(box: LabelledBox, extent: tuple[float, float]) -> str:
    """Return a box's label and place, in pixels as the tool that drew it has them."""
    (left, right, top, bottom), (columns, rows) = _edges(box), extent
    place = f"x {left * columns:.0f} to {right * columns:.0f}, y {top * rows:.0f} to {bottom * rows:.0f}"
    return f"{box[0]!r} at {place} of {columns:.0f} x {rows:.0f} pixels"


def _how_far(box: LabelledBox, extent: tuple[float, float]) -> str:
    share, edge = _over(box)
    side = extent[0] if edge in {"left", "right"} else extent[1]
    return f"{share * side:.0f} pixels ({share:.1%} of the side) over the {edge} edge"


def _annotation(film: int, sheet: Sheet) -> Annotation:
    annotation = Annotation(film, sheet.extent[0] / sheet.extent[1])
    classes: dict[str, list[Box]] = defaultdict(list)
    for label, x, y, width, height in sheet.boxes:
        if label in BOX_NAMES:
            annotation.points[label], annotation.sizes[label] = (x, y), (width, height)
        else:
            classes[label].append(((x, y), (width, height)))
    if is_complete(classes):
        add_rus_boxes(annotation, classes)
    return annotation


def _extent(columns: float, rows: float) -> tuple[float, float]:
    if not (0 < columns < math.inf and 0 < rows < math.inf):
        raise DataError("the size that it gives of its image must be above 0.")
    return columns, rows


def _read_voc(file: Path) -> list[Sheet]:
    root = parse(file).getroot()  # noqa: S314 - a site's own files; expat itself stops entity bombs
    columns, rows = _extent(*(float(_text(root, f"size/{side}")) for side in ("width", "height")))
    boxes = []
    for item in root.iter("object"):
        x0, y0, x1, y1 = (float(_text(item, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
        label = _text(item, "name")
        turns = (part.findtext("value") for part in item.iter("attribute") if part.findtext("name") == "rotation")
        _refuse_turned(label, next(turns, None), "")
        boxes.append((label, (x0 + x1) / 2 / columns, (y0 + y1) / 2 / rows, (x1 - x0) / columns, (y1 - y0) / rows))
    names = tuple(plain_name(name) for name in ((root.findtext("filename") or "").strip(), file.name) if name)
    return [Sheet(names, (columns, rows), boxes)]


def _refuse_turned(label: str, degrees: float | str | None, where: str) -> None:
    """Refuse a box that CVAT exports with its rotation: the numbers are those of the box before it was turned."""
    turned = float(degrees or 0) % 180
    if min(turned, 180 - turned) > UPRIGHT_DEG:
        raise DataError(f"the box {label!r}{where} is turned by {float(degrees or 0):g} degrees: draw it upright.")


def _text(element: Element, path: str) -> str:
    found = element.findtext(path)
    if found is None:
        raise DataError(f"there is no {path} in it.")
    return found.strip()


def _read_coco(file: Path) -> list[Sheet]:
    table = json.loads(file.read_text("utf-8-sig"))
    if not isinstance(table, dict) or not {"images", "categories", "annotations"} <= set(table):
        raise DataError("it is no COCO file: it lacks images, categories or annotations.")
    labels = {category["id"]: str(category["name"]) for category in table["categories"]}
    sheets: dict[object, Sheet] = {}
    extents: dict[object, tuple[float, float]] = {}
    for image in table["images"]:
        if image["id"] in sheets:
            raise DataError(f"two of its images have the id {image['id']}.")
        columns, rows = extents[image["id"]] = _extent(float(image["width"]), float(image["height"]))
        sheets[image["id"]] = Sheet((plain_name(str(image["file_name"])),), (columns, rows), [])
    for item in table["annotations"]:
        (columns, rows), (x, y, width, height) = extents[item["image_id"]], map(float, item["bbox"])
        place = ((x + width / 2) / columns, (y + height / 2) / rows, width / columns, height / rows)
        label, sheet = labels[item["category_id"]], sheets[item["image_id"]]
        _refuse_turned(label, (item.get("attributes") or {}).get("rotation"), f" in the image {sheet.names[0]}")
        sheet.boxes.append((label, *place))
    return list(sheets.values())


def _yolo_files(folder: Path) -> list[Path]:
    """Return the texts that hold boxes: neither names of classes nor the lists of images that another file names."""
    lists: set[Path] = set()
    for path in files_below(folder):
        if path.name == DATA_FILE:
            with suppress(DataError):  # said of every text whose classes it has
                lists |= read_data_file(path).lists
        elif path.name == LISTS_OF_CVAT:
            lists |= _lists_of_cvat(path)
    texts = (path for path in _files(folder, ".txt") if path.name not in CLASS_FILES)
    return [path for path in texts if path.resolve() not in lists]


def _lists_of_cvat(path: Path) -> set[Path]:
    """Return the lists of images that lines as ``train = data/train.txt`` name; CVAT leaves them beside the file."""
    lines = (line.partition("=") for line in path.read_text("utf-8", errors="replace").splitlines())
    named = [value.strip() for key, _, value in lines if key.strip() in {"train", "valid", "test"}]
    return {(path.parent / name).resolve() for value in named for name in (value, PureWindowsPath(value).name)}


def _files(folder: Path, ending: str) -> list[Path]:
    """Return the files below a folder that have an ending, in capitals or not, and may hold boxes."""
    return sorted(
        path
        for path in files_below(folder)
        if path.suffix.lower() == ending
        and path.name not in NOT_BOXES
        and IMAGE_SETS not in path.relative_to(folder).parts
    )


def _read_yolo(file: Path, folder: Path, films: Films | None, names_in: Callable[[Path], list[str]]) -> list[Sheet]:
    lines = [line.split() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    sheet = Sheet((plain_name(file.name),), (1.0, 1.0), [])
    if not lines:
        return []
    labels = _class_names(file, folder, names_in)
    for parts in lines:
        if len(parts) != YOLO_FIELDS:
            raise DataError("a line needs a class and four numbers, as a box has; polygons are not read.")
        number, (x, y, width, height) = int(parts[0]), map(float, parts[1:])
        if not 0 <= number < len(labels):
            raise DataError(f"its class {number} is none of the {len(labels)} that have a name.")
        sheet.boxes.append((labels[number], x, y, width, height))
    rows, columns = _shape_of(file, folder, sheet, films)
    sheet.extent = (columns, rows)
    return [sheet]


def _class_names(file: Path, folder: Path, names_in: Callable[[Path], list[str]]) -> list[str]:
    """Return the classes of the files that lie nearest above a text, in the folder or, for its parts, one above."""
    above = [at for at in file.parents if at == folder or folder in at.parents]
    for at in (*above, folder.parent):
        found = {path.name: names_in(path) for path in (at / name for name in NAME_FILES) if path.is_file()}
        if len({tuple(names) for names in found.values()}) > 1:
            raise DataError(f"{' and '.join(found)} name different classes: keep one of them.")
        if found:
            return next(iter(found.values()))
    raise DataError(f"there is no {CLASS_FILES[0]} or {DATA_FILE} beside it.")


def _names_in(path: Path) -> list[str]:
    if path.name == DATA_FILE:
        return list(read_data_file(path).names)
    return [line.strip() for line in path.read_text("utf-8-sig").rstrip().splitlines()]


def _shape_of(file: Path, folder: Path, sheet: Sheet, films: Films | None) -> tuple[int, int]:
    """Return rows and columns of the image beside a text, in ``images``, or of the film itself."""
    beside = (file.parent, file.parent / "images", file.parent.parent / "images")
    inner = ("images" if part == "labels" else part for part in file.parent.relative_to(folder).parts)
    for at in (*beside, folder.joinpath(*inner)):
        for ending in IMAGE_ENDINGS:
            path = at / (file.stem + ending)
            if path.is_file():
                rows, columns = (open_image if ending in OTHER_IMAGES else open_film)(path).shape
                return rows, columns
    if films is None:
        raise DataError("its image is not beside it, so that its shape is not known.")
    rows, columns = _entry_of(sheet, films).open().shape
    return rows, columns
