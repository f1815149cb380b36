"""``boneage-node data check FOLDER``: say what films there are and everything that is wrong with them."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from training.errors import DataError
from training.radiographs import PARTS, Grey, Radiograph, load_half, read_split
from training.sources.boxes import read_boxes
from training.sources.source import Entry, Source, open_source

AGE_GROUP_YEARS = 4


def main(argv: list[str] | None = None) -> int:
    """Check; returns 0, 1 where there are problems."""
    parser = argparse.ArgumentParser(prog="boneage-node data", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="count the films of a folder and name what is wrong with them")
    check.add_argument("folder", type=Path, help="films with their table, in one of the layouts of training/README.md")
    check.add_argument(
        "--annotations", type=Path, help="a folder of boxes in VOC, YOLO or COCO form, to be checked too"
    )
    arguments = parser.parse_args(argv)
    try:
        source = _open(arguments.folder)
        problems = source.problems + source.read(PARTS)[1]
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(describe(source))
    if arguments.annotations is not None:
        try:
            boxes = read_boxes(arguments.annotations)
            known = {entry.reading.rsna_id for entry in source.entries}
            sys.stdout.write(f"annotations: {len(boxes)} films, {len(known & set(boxes))} of them in the folder\n")
        except DataError as error:
            problems.append(str(error))
    for problem in problems:
        sys.stdout.write(f"! {problem}\n")
    sys.stdout.write(f"{len(problems)} problems\n" if problems else "no problems\n")
    return 1 if problems else 0


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
    groups = Counter(int(entry.reading.age_months / 12) // AGE_GROUP_YEARS for entry in source.entries)
    for group, count in sorted(groups.items()):
        lines.append(f"  {group * AGE_GROUP_YEARS:2d} to {(group + 1) * AGE_GROUP_YEARS:2d} years   {count:6d}")
    return "\n".join(lines) + "\n"
