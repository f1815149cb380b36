"""``python -m training.sexes``: how well a method notices a wrong PatientSex, and from which confidence it says so.

Each film is read by its right sex and by the other one. With the right sex an alarm is false; with the other one it is
wanted where the age moves by more than LEAST_MONTHS. The threshold is the smallest at which the share of false alarms
stays under FALSE_ALARMS also for a film that was not among those measured (the count of one more film is added, as in
conformal prediction). ``--write`` puts it into the bundle's ``calibration.json``: measure it on the validation part,
and report on the test part with ``--logit``.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inference.engine import Engine
from inference.errors import InferenceError
from inference.finding import Sex
from inference.method import DEFAULT_METHOD
from inference.named_ensemble import calibration_path
from inference.sex_alarm import LEAST_MONTHS, SexAlarm, against, other
from training.arguments import add_part, add_threads, first_line
from training.bundle_intervals import refuse_others, weights_of
from training.errors import DataError, TrainingError, exit_code
from training.evaluation.figures import clean
from training.evaluation.output import check_outputs, told_at_last, write_output
from training.evaluation.reading import film_of
from training.radiographs import Radiograph, load_half
from training.storage import check_writable, write_text

FALSE_ALARMS = 0.10
"""Largest share of films with the right sex that may raise the alarm: with half as many, half the wrong ones pass."""
LEAST_FILMS = 30
"""So many intervals need as well; of fewer films no threshold keeps what it promises."""
LEAST_LOGIT = 0.4
"""No alarm under a confidence of 60 %."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network says of one film: the right sex, log odds of male, months by the right and by the other sex."""

    sex: Sex
    male_logit: float
    age_months: float
    other_age_months: float

    @property
    def moves(self) -> bool:
        """Whether the age hangs on the sex."""
        return abs(self.other_age_months - self.age_months) > LEAST_MONTHS


@dataclass(frozen=True, slots=True)
class Rates:
    """How often the alarm comes."""

    logit: float
    films: int
    right_sex_rate: float  # own estimate of the sex is right
    false_alarm_rate: float  # alarms with the right sex, of all films
    moved: int  # films whose age the other sex moves by more than LEAST_MONTHS
    noticed_rate: float  # alarms with the other sex, of those films


def ask(engine: Engine, films: list[Radiograph]) -> list[Answer]:
    """Read films by both sexes; refused ones are left out.

    Raises
    ------
    DataError
        If the method does not estimate the sex, or reads none of the films.
    """
    answers = []
    for film in films:
        readings, sex = engine.read_both_sexes(film_of(film.pixels)), film.reading.sex
        if readings is None:
            continue
        logit = readings[sex].male_logit
        if logit is None:
            raise DataError(f"The method {engine.identity.method!r} does not estimate the sex, so it has no alarm.")
        answers.append(Answer(sex, logit, readings[sex].age_months, readings[other(sex)].age_months))
    if not answers:
        raise DataError("None of these films is read; there is nothing to measure.")
    return answers


def choose_logit(answers: list[Answer], share: float = FALSE_ALARMS) -> float:
    """Return the smallest threshold with at most ``share * (films + 1) - 1`` false alarms, rounded up to 0.001."""
    wrong = sorted((against(one.male_logit, one.sex) for one in answers if one.moves), reverse=True)
    allowed = max(math.floor(share * (len(answers) + 1)) - 1, 0)
    over = wrong[allowed] if len(wrong) > allowed else 0.0
    return max(LEAST_LOGIT, math.floor(over * 1000 + 1) / 1000)


def rates(answers: list[Answer], logit: float) -> Rates:
    """Count alarms with the right and with the other sex."""
    alarm = SexAlarm(logit)
    moved = [one for one in answers if one.moves]
    false = sum(alarm.contradicts(one.male_logit, one.sex) for one in moved)
    noticed = sum(alarm.contradicts(one.male_logit, other(one.sex)) for one in moved)
    right = sum(against(one.male_logit, one.sex) < 0 for one in answers)
    return Rates(
        logit,
        len(answers),
        right / len(answers),
        false / len(answers),
        len(moved),
        noticed / len(moved) if moved else float("nan"),
    )


def write_alarm(path: Path, found: Rates, part: str) -> None:
    """Put the alarm into a ``calibration.json`` that exists."""
    table: dict[str, Any] = json.loads(path.read_text())
    table["sex_alarm"] = clean(asdict(found) | {"part": part})
    write_text(path, json.dumps(table, indent=2) + "\n")


def print_rates(found: Rates) -> None:
    """Print the rates, one a line."""
    for key, value in asdict(found).items():
        print(f"{key}: {value:.4g}")  # noqa: T201 - a command's answer


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="python -m training.sexes", description=first_line(__doc__))
    parser.add_argument("--data", type=Path, required=True, help="the data folder (rsna2017/)")
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"whose bundle (default {DEFAULT_METHOD})")
    add_part(parser, "validation")
    parser.add_argument("--logit", type=float, help="report this threshold instead of choosing one")
    parser.add_argument("--write", action="store_true", help="put the threshold into the bundle's calibration.json")
    parser.add_argument("--json", type=Path, help="also write the rates there")
    add_threads(parser)
    return parser


def _measure(arguments: argparse.Namespace) -> None:
    path = calibration_path(arguments.method)
    check_outputs(arguments.json)
    if arguments.write and not path.is_file():
        raise DataError(f"{arguments.method} has no intervals of its own yet; run boneage-node calibrate first.")
    if arguments.write:
        check_writable(path.parent)
    weights = weights_of(arguments.method)
    engine = Engine.load(arguments.method, threads=arguments.threads)
    answers = ask(engine, load_half(arguments.data, [arguments.part]))
    if arguments.write and len(answers) < LEAST_FILMS:
        raise DataError(f"An alarm needs {LEAST_FILMS} films that are read; there are {len(answers)}. Add films.")
    found = rates(answers, arguments.logit if arguments.logit is not None else choose_logit(answers))
    kept = clean(asdict(found) | {"part": arguments.part})
    with told_at_last(lambda: print_rates(found)):
        if arguments.write:
            refuse_others(arguments.method, weights)
            write_alarm(path, found, arguments.part)
        write_output(arguments.json, lambda: json.dumps(kept, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0, 1 when the model cannot be opened, 2 when the data or the output cannot be used."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.write and (arguments.part == "test" or arguments.logit is not None):
        parser.error("--write takes a threshold chosen on train or validation films")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _measure(arguments)
    except (TrainingError, InferenceError) as error:
        return exit_code(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
