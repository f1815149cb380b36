"""``boneage-node data check FOLDER``: say what films there are and everything that is wrong with them."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from training.annotations import read_annotations
from training.arguments import first_line
from training.detector import POSE_POINTS
from training.errors import DataError
from training.films import films_without_hand
from training.radiographs import PARTS, Grey, Radiograph, is_project_folder, load_half, read_split
from training.sources.boxes import Boxes, check_boxes
from training.sources.source import ANNOTATIONS, Entry, Source, open_source

AGE_GROUP_YEARS = 4
OLDEST_GROUP = 4
"""From 16 to 20 years, the last of which belong to it."""


def main(argv: list[str] | None = None) -> int:
    """Check; returns 0, 1 where there are problems."""
    parser = argparse.ArgumentParser(prog="boneage-node data", description=first_line(__doc__))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="count the films of a folder and name what is wrong with them")
    check.add_argument("folder", type=Path, help="films with their table, in one of the layouts of training/README.md")
    check.add_argument(
        "--annotations", type=Path, help="a folder of boxes in VOC, YOLO or COCO form (default: FOLDER/annotations)"
    )
    check.add_argument(
        "--file-names", action="store_true", help="list the files of images without a reading; they may name patients"
    )
    check.add_argument(
        "--hands", action="store_true", help="look for a hand in each film, and name those that training leaves out"
    )
    arguments = parser.parse_args(argv)
    try:
        source = _open(arguments.folder)
        films, broken = source.read(PARTS if arguments.hands else ())
        problems = source.problems + broken + source.missing_parts()
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(describe(source))
    if arguments.hands:
        _look_for_hands(source, films)
    problems += _check_boxes(arguments.annotations, arguments.folder, source)
    for notice in [*source.notices, *(map(str, source.unlisted) if arguments.file_names else ())]:
        sys.stdout.write(f"? {notice}\n")
    for problem in problems:
        sys.stdout.write(f"! {problem}\n")
    sys.stdout.write(f"{_count(len(problems), 'problem')}")
    sys.stdout.write(
        f", {_count(len(source.notices), 'notice')} of what is left out or doubtful\n" if source.notices else "\n"
    )
    return 1 if problems else 0


def _look_for_hands(source: Source, films: list[Radiograph]) -> None:
    """Say in how many films the detector finds a hand, and note the others."""
    missing = films_without_hand(films)
    sys.stdout.write(f"hands: found in {len(films) - len(missing)} of {len(films)} films\n")
    source.notices += missing


def _check_boxes(given: Path | None, folder: Path, source: Source) -> list[str]:
    """Say how many films have boxes, note what of these is cut off, and return what is wrong with them."""
    boxes, own = given or folder / ANNOTATIONS, is_project_folder(folder)
    if given is None and not boxes.is_dir():
        return []
    if not boxes.is_dir():
        return [f"The folder of annotations {boxes} does not exist."]
    if own and boxes.resolve() == (folder / ANNOTATIONS).resolve():
        found = Boxes(read_annotations(folder))
    else:
        found = check_boxes(boxes, None if own else source)
    usable = sum(len(annotation.points) >= POSE_POINTS for annotation in found.annotations.values())
    sys.stdout.write(f"annotations: {len(found.annotations)} films, {usable} with the {POSE_POINTS} points of a pose\n")
    source.notices += found.notices
    strange = sorted(set(found.annotations) - set(read_split())) if own else ()
    return [*found.problems, *(f"film {film} has boxes and is none of the split's." for film in strange)]


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"


def _open(folder: Path) -> Source:
    """Open a folder; the project's own data folder as well."""
    if not (folder / "rsna2017" / "half.csv").is_file():
        return open_source(folder)
    films = load_half(folder, PARTS, read_split())
    entries = [Entry(film.reading, f"film {film.reading.rsna_id}", partial(_pixels, film)) for film in films]
    return Source("this project's data folder, sharp films", entries)


def _pixels(film: Radiograph) -> Grey:
    return film.pixels


def describe(source: Source) -> str:
    """Return how many films there are of each part, sex and age."""
    lines = [f"{source.layout}: {len(source.entries)} films"]
    for (part, sex), count in sorted(source.counts().items()):
        lines.append(f"  {part:16s} {sex}  {count:6d}")
    years = (int(entry.reading.age_months / 12) for entry in source.entries)
    groups = Counter(min(year // AGE_GROUP_YEARS, OLDEST_GROUP) for year in years)
    for group, count in sorted(groups.items()):
        lines.append(f"  {group * AGE_GROUP_YEARS:2d} to {(group + 1) * AGE_GROUP_YEARS:2d} years   {count:6d}")
    return "\n".join(lines) + "\n"
