"""``boneage-node experiment``: list experiments, pack one, run it on a machine without internet, take its results home.

The experiments lie in ``training/experiments`` as files: a recipe with changes, a prediction and a cost. What came out
of them stands in ``training/EXPERIMENTS.md``, by hand.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load

from inference.method import open_method
from inference.torch_backend import OnDevice
from training.ages import estimate
from training.arguments import first_line, positive_int, seed_number
from training.errors import RecipeError, RunError, TimeUp, TrainingError
from training.export import save_weights
from training.films import AgeFilms
from training.fit import read_curve
from training.machine import is_leading, join
from training.pace import RESERVE_S, check_time, fit_to_deadline
from training.pack import check_new, joined, read_about_pack, read_pack, split_file, write_pack
from training.recipe import Recipe, in_words, known_keys_only, read_recipe
from training.run import check_run, read_about, read_run
from training.shipped import SHIPPED
from training.storage import check_writable, make_folder, save_state, write_text
from training.summary import NAME as SUMMARY
from training.summary import write_summary
from training.terms import RSNA_TERMS
from training.train import (
    DONE,
    SEED,
    TIME_UP,
    WRONG_USAGE,
    Job,
    Start,
    about_of,
    add_machine_options,
    carry_out,
    make_fresh_net,
    make_job,
    read_assignment,
    terms_of_run,
)

_log = logging.getLogger(__name__)

PIECE_MB, LEAST_PIECE_MB, MOST_PIECE_MB = 30.0, 1.0, 59.0
RESULT_BYTES = 15_000_000
_AS_PACKED: Mapping[str, Any] = MappingProxyType({})
_PLANNED = "planned_s"
"""In ``run.json``: seconds that each phase may take."""
_START, _WEIGHTS, _FIGURES = "start.safetensors", "weights.safetensors", "figures.json"


class Experiment(BaseModel):
    """One experiment of an age method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int | None = None
    """Its number in ``EXPERIMENTS.md``; None of one that has been run there."""
    title: str
    predicts: str
    costs: str
    recipe: str
    """A shipped recipe."""
    method: dict[str, Any] = Field(default_factory=dict)
    """Changes of the recipe's method, in the recipe and in the phases that have the key."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Changes of each phase."""
    init: bool = False
    """Start from the shipped weights."""
    imagenet: bool = False
    """Start from ImageNet weights, whose file is named when packing."""
    hand_rows: int = Field(gt=0)
    """Height in pixels that the hand's window keeps in a pack."""

    def plan(self) -> Recipe:
        """Return the recipe with the changes.

        Raises
        ------
        RecipeError
            If a change is of nothing that a recipe or its method has.
        """
        content = read_recipe(self.recipe).model_dump(mode="json")
        content["method"] |= self.method
        content["phases"] = [phase | self.changes for phase in content["phases"]]
        try:
            return known_keys_only(Recipe.model_validate(content))
        except ValidationError as error:
            raise RecipeError(f"The experiment {self.title!r} cannot be used: {in_words(error)}.") from error


def experiments() -> dict[str, Experiment]:
    """Return this package's experiments by name, best first.

    Raises
    ------
    RecipeError
        If a file cannot be used.
    """
    folder = Path(str(resources.files("training").joinpath("experiments")))
    found = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            found[path.stem] = Experiment.model_validate(tomllib.loads(path.read_text()))
        except ValidationError as error:
            raise RecipeError(f"The experiment {path} cannot be used: {in_words(error)}.") from error
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"The experiment {path} is no TOML: {error}.") from error
    return dict(sorted(found.items(), key=lambda item: (item[1].rank or math.inf, item[0])))


def print_experiments() -> None:
    """Print what there is to run, best first; behind these what has been run, without a number."""
    for name, experiment in experiments().items():
        print(f"{experiment.rank or '-'}. {name}: {experiment.title}")  # noqa: T201 - a command's answer
        print(f"   predicts: {experiment.predicts}")  # noqa: T201
        print(f"   costs: {experiment.costs}")  # noqa: T201


def pack(name: str, data: Path, out: Path, *, cache: Path | None, imagenet: Path | None, piece_mb: float) -> list[Path]:
    """Write an experiment's pack; returns its pieces.

    Raises
    ------
    RunError
        If there is no such experiment, its ImageNet weights are not named or none, or no piece may have such a size.
    DataError
        If the folder is not empty, or the data cannot be used.
    """
    known = experiments()
    if name not in known:
        raise RunError(f"There is no experiment {name!r}; there are {', '.join(known)}.")
    if not LEAST_PIECE_MB <= piece_mb <= MOST_PIECE_MB:
        raise RunError(f"Pieces are of {LEAST_PIECE_MB:.0f} to {MOST_PIECE_MB:.0f} MB; give such a --piece-mb.")
    experiment = known[name]
    if experiment.imagenet and imagenet is None:
        raise RunError(f"{name} starts from ImageNet weights; name their file with --imagenet.")
    check_new(out)
    recipe, weights = experiment.plan(), imagenet if experiment.imagenet else None
    Start(SHIPPED if experiment.init else None, weights).apply(recipe.target, make_fresh_net(recipe))
    films = AgeFilms.load(data, cache)
    terms = terms_of_run(recipe.target, data, SHIPPED if experiment.init else None)
    return write_experiment(name, experiment, films, out, imagenet=weights, piece_mb=piece_mb, terms=terms)


def write_experiment(
    name: str,
    experiment: Experiment,
    films: AgeFilms,
    out: Path,
    *,
    imagenet: Path | None = None,
    piece_mb: float,
    terms: str = RSNA_TERMS,
) -> list[Path]:
    """Write films, recipe and starting weights of an experiment; returns the pieces."""
    recipe = experiment.plan()
    about: dict[str, Any] = {
        "experiment": name,
        "title": experiment.title,
        "recipe": recipe.model_dump(mode="json"),
        "packed_from_sha256": films.sha256(),
        "data_terms": terms,
        "start": "shipped" if experiment.init else imagenet.name if imagenet else None,
    }
    pieces = write_pack(out, films, experiment.hand_rows, about, round(piece_mb * 1e6))
    if about["start"]:
        torch.manual_seed(SEED)  # of the layers that ImageNet's weights do not fill
        net = make_fresh_net(recipe)
        start = Start(SHIPPED if experiment.init else None, imagenet)
        save_weights(start.apply(recipe.target, net).state_dict(), out / _START)
        pieces += split_file(out / _START, round(piece_mb * 1e6))
    return pieces


def run(
    folder: Path,
    job: Job,
    out: Path,
    *,
    fit: bool = False,
    epochs: int | None = None,
    method: Mapping[str, Any] = _AS_PACKED,
) -> int:
    """Train a pack's experiment into ``job.run``, results after every epoch into ``out``; returns 0, 3 out of time.

    With ``fit`` the recipe's steps are scaled to the job's deadline first; a run that goes on keeps those it has. Where
    they take longer than planned, the epochs that are left are shortened, then and when the run goes on.
    ``epochs`` are those of each phase instead of the recipe's, ``method`` changes its configuration.
    """
    about = read_about_pack(folder)
    recipe, begun = Recipe.model_validate(about["recipe"]), (job.run / "run.json").exists()
    recipe = known_keys_only(recipe.model_copy(update={"method": recipe.method | dict(method)}))
    if about["start"]:
        job = replace(job, start=Start(Path(about["start"]), state=load(joined(folder, _START))))
    if fit and begun:  # only its steps: what else differs is refused below
        recipe = recipe.model_copy(update={"phases": Recipe.model_validate(read_about(job.run)["recipe"]).phases})
    recipe = recipe if epochs is None else recipe.with_phases({"epochs": epochs})
    check_run(job.run, about_of(recipe, job))  # before films are read
    job.start.apply(recipe.target, make_fresh_net(recipe))
    check_writable(out)
    if fit and not begun:
        check_time(recipe, job)
    keys = ("experiment", "packed_from_sha256", "data_terms")
    note: dict[str, Any] = {key: about[key] for key in keys if key in about}
    films = read_pack(folder)
    planned = read_about(job.run).get(_PLANNED) if fit and begun else None  # nothing, of an earlier version
    if fit and not begun:
        recipe, planned = fit_to_deadline(recipe, films, job)
    if planned is not None:
        note[_PLANNED] = planned
        job = replace(job, planned_s=planned if job.machine.processes == 1 else None)
    job = replace(job, note=note, after=lambda: write_results(job.run, out))
    code = DONE
    try:
        carry_out(recipe, films, job)
    except TimeUp as over:
        _log.info("%s", over)
        code = TIME_UP
    if job.machine.leads:
        write_results(job.run, out, readings=_validation(recipe, films, job))
    return code


def _validation(recipe: Recipe, films: AgeFilms, job: Job) -> list[dict[str, float]]:
    """Read the validation films with the best weights so far, as the phase they come from reads them."""
    begun = [phase for phase in recipe.phases if read_curve(job.run / phase.name)]
    if not begun:
        raise RunError("The time was up before the first epoch; give more --minutes.")
    method = open_method(recipe.target, recipe.method | begun[-1].method)
    net = method.make_net()
    net.load_state_dict(read_run(job.run))
    ages = estimate(OnDevice(net, job.machine.device), films.validation, method)
    return [
        {"rsna_id": film.reading.rsna_id, "reference_months": film.reading.age_months, "estimate_months": float(age)}
        for film, age in zip(films.validation, ages, strict=True)
    ]


def write_results(run_folder: Path, out: Path, readings: list[dict[str, float]] | None = None) -> list[Path]:
    """Write the best weights so far, the figures and the summary, in files of at most RESULT_BYTES; returns them.

    Weights that were there stay until the new ones lie beside them.

    Raises
    ------
    RunError
        As :func:`training.storage.writing`.
    """
    make_folder(out)
    about = read_about(run_folder)
    phases = [phase["name"] for phase in about["recipe"]["phases"]]
    figures: dict[str, Any] = {
        "finished": (run_folder / "final.pt").exists(),
        "about": about,
        "curves": {name: read_curve(run_folder / name) for name in phases},
    }
    if readings is not None:
        errors = [row["estimate_months"] - row["reference_months"] for row in readings]
        figures |= {"validation_mae_months": float(np.abs(errors).mean()), "validation": readings}
    save_weights(read_run(run_folder), out / _WEIGHTS)
    for old in out.glob(f"{_WEIGHTS}.*"):
        old.unlink()
    parts = split_file(out / _WEIGHTS, RESULT_BYTES)
    write_text(out / _FIGURES, json.dumps(figures) + "\n")
    write_text(out / SUMMARY, (run_folder / SUMMARY).read_text("utf-8"))
    return [*parts, out / _FIGURES, out / SUMMARY]


def take(results: Path, run_folder: Path) -> None:
    """Make a run's folder of results, for ``export``, ``evaluate`` and ``train --init``.

    Raises
    ------
    RunError
        If the folder holds a run already or cannot be written to, or what was brought is torn.
    DataError
        If something was not brought.
    """
    if (run_folder / "run.json").exists():
        raise RunError(f"{run_folder} holds a run; name a new folder.")
    try:
        figures = json.loads(joined(results, _FIGURES))
        weights = load(joined(results, _WEIGHTS))
    except (ValueError, SafetensorError) as error:
        raise RunError(f"What lies in {results} is torn; bring all files of the results again.") from error
    if not isinstance(figures, dict) or not {"about", "curves"} <= set(figures):
        raise RunError(f"The {_FIGURES} in {results} is none of an experiment; name the folder that its run wrote.")
    make_folder(run_folder)
    for name, rows in figures["curves"].items():
        make_folder(run_folder / name)
        write_text(run_folder / name / "curve.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    full = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    save_state(full, run_folder / "final.pt")
    # Last, for it makes a run of the folder, which is taken no second time.
    write_text(run_folder / "run.json", json.dumps(figures["about"], indent=2) + "\n")
    write_summary(run_folder)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="boneage-node experiment", description=first_line(__doc__))
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="what there is to run, best first")
    packing = actions.add_parser("pack", help="write what an experiment needs into a folder")
    packing.add_argument("name", metavar="NAME")
    packing.add_argument("--data", type=Path, required=True, help="this project's data folder, RSNA's or a site's own")
    packing.add_argument("--out", type=Path, required=True, help="a new folder")
    packing.add_argument("--cache", type=Path, help="keeps where hands were found, such as runs/located")
    packing.add_argument("--imagenet", type=Path, help="ImageNet weights, for experiments that start from them")
    packing.add_argument("--piece-mb", type=float, default=PIECE_MB, help=f"most of a piece (default {PIECE_MB:.0f})")
    running = actions.add_parser("run", help="train a pack; run again to go on")
    running.add_argument("pack", metavar="PACK", type=Path)
    running.add_argument("--run", type=Path, help="the run's folder (default PACK/run)")
    running.add_argument("--out", type=Path, help="where results go (default PACK/results)")
    running.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    running.add_argument("--fit", action="store_true", help="scale the recipe's steps so that it ends in --minutes")
    running.add_argument("--epochs", type=positive_int, help="epochs instead of the recipe's (of each of its phases)")
    running.add_argument("--seed", type=seed_number, default=SEED)
    running.add_argument(
        "--set",
        action="append",
        default=[],
        type=read_assignment,
        metavar="KEY=VALUE",
        help="of the recipe's method, such as rows=256; again for each",
    )
    add_machine_options(running)
    taking = actions.add_parser("take", help="make a run's folder of results that were brought home")
    taking.add_argument("results", metavar="RESULTS", type=Path)
    taking.add_argument("--run", type=Path, required=True, help="a new folder")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    arguments.run = arguments.run or arguments.pack / "run"
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    with join(arguments.device, deterministic=arguments.deterministic) as machine:
        job = make_job(arguments, machine, Start())
        if job.deadline is not None:
            job = replace(job, deadline=job.deadline - RESERVE_S)
        out = arguments.out or arguments.pack / "results"
        changed = dict(arguments.set)
        return run(arguments.pack, job, out, fit=arguments.fit, epochs=arguments.epochs, method=changed)


def main(argv: list[str] | None = None) -> int:
    """Answer; returns 0, 2 when data, pack or run cannot be used, 3 when the time was up before the last epoch."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if is_leading() else logging.WARNING, format="%(asctime)s %(message)s")
    try:
        if arguments.action == "run":
            return _run(arguments)
        if arguments.action == "take":
            take(arguments.results, arguments.run)
        elif arguments.action == "list":
            print_experiments()
        else:
            files = pack(
                arguments.name,
                arguments.data,
                arguments.out,
                cache=arguments.cache,
                imagenet=arguments.imagenet,
                piece_mb=arguments.piece_mb,
            )
            for path in files:
                print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")  # noqa: T201 - a command's answer
    except TrainingError as error:
        _log.error("%s: %s", error.code, error)
        return WRONG_USAGE
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
