"""The one-page summary of a run, written after each epoch: how far it is, curves, best epoch, how it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.evaluation.drawing import COLOURS, Plot, ticks
from training.evaluation.page import cards, figure, figures, page, section, table
from training.fit import duration, read_curve
from training.run import read_about
from training.storage import write_text

NAME = "summary.html"
_MADE = (
    "data_terms", "seed", "data_sha256", "detector_sha256", "init", "imagenet", "device", "processes", "threads",
    "workers",
)  # fmt: skip

Curve = list[dict[str, Any]]


def read_phases(run: Path, about: dict[str, Any]) -> list[tuple[str, dict[str, Any], Curve]]:
    """Return each phase's name, settings and curve so far; a detector's run is one phase."""
    recipe = about.get("recipe", {})
    if "phases" in recipe:
        return [(phase["name"], phase, read_curve(run / phase["name"])) for phase in recipe["phases"]]
    return [(about["target"], recipe, read_curve(run))]


def best_of(curve: Curve) -> dict[str, Any] | None:
    """Return the line of the best validated epoch; None if none was validated."""
    return min((row for row in curve if row["score"] is not None), key=lambda row: row["score"], default=None)


def write_summary(run: Path) -> None:
    """Write ``summary.html`` of a run's folder, as far as the run is."""
    about = read_about(run)
    phases = read_phases(run, about)
    drawn = [_curve(name, key, label, curve) for name, _, curve in phases if curve for key, label in _drawn(curve)]
    sections = [
        cards(_cards(run, phases)),
        section("Curves", figures(*drawn)),
        section("Phases", _phases(phases)),
        section("How it was made", _made(about), _settings(phases)),
    ]
    write_text(run / NAME, page(f"Training of {about['target']}", _lead(about), sections))


def _drawn(curve: Curve) -> list[tuple[str, str]]:
    validated = best_of(curve) is not None
    return [("loss", "training loss")] + ([("score", "validation MAE, months")] if validated else [])


def _lead(about: dict[str, Any]) -> str:
    starts = about.get("starts", [])
    begun = f" Begun {starts[0]['at']}" if starts else ""
    often = {1: "", 2: ", resumed once"}.get(len(starts), f", resumed {len(starts) - 1} times")
    return "Training, as its last finished epoch left it." + (f"{begun}{often}." if begun else "")


def _cards(run: Path, phases: Sequence[tuple[str, dict[str, Any], Curve]]) -> list[tuple[str, str]]:
    done, wanted = (sum(numbers) for numbers in zip(*((len(c), p["epochs"]) for _, p, c in phases), strict=True))
    begun = [(name, curve) for name, _, curve in phases if curve]
    found = [
        ("finished" if (run / "final.pt").exists() else "not finished", "state"),
        (f"{done} of {wanted}", "epochs"),
    ]
    found.append((duration(sum(row["seconds"] for _, curve in begun for row in curve)), "training time"))
    best = best_of(begun[-1][1]) if begun else None
    if best is not None:
        found.append(
            (f"{best['score']:.2f}", f"best validation MAE, months: {begun[-1][0]}, epoch {best['epoch'] + 1}")
        )
    return found


def _curve(phase: str, key: str, label: str, curve: Curve) -> str:
    points = [(row["epoch"] + 1.0, float(row[key])) for row in curve if row[key] is not None]
    values = sorted(value for _, value in points)
    low, high = values[0], values[min(len(values) - 1, round(0.95 * len(values)))]  # an early peak may leave the frame
    # Of a curve that is all but flat the frame shows a twenty-fifth: ticks of more digits would run into its title.
    margin = max(0.05 * (high - low), (0.04 * max(abs(low), abs(high)) - (high - low)) / 2) or 0.5
    across = (0.0, max(2.0, points[-1][0]))
    plot = Plot(
        across, (low - margin, high + margin), x_label="epoch", y_label=label, title=f"{phase}: {label}",
        x_ticks=[place for place in ticks(*across) if place == round(place)],
    )  # fmt: skip
    colour = COLOURS[0] if key == "loss" else COLOURS[1]
    plot.line(points, colour)
    best = best_of(curve) if key == "score" else None
    if len(points) == 1:  # no line goes through one epoch
        plot.points(points, colour)
    elif best is not None:
        plot.points([(best["epoch"] + 1.0, best["score"])], colour)
    return figure(plot.svg(), f"{phase}: {label}" + (" (the best epoch as a dot)" if best else ""))


def _phases(phases: Sequence[tuple[str, dict[str, Any], Curve]]) -> str:
    rows = []
    for name, settings, curve in phases:
        best = best_of(curve)
        rows.append(
            (
                name,
                f"{len(curve)} of {settings['epochs']}",
                str(sum(row.get("steps", settings.get("steps_per_epoch", 0)) for row in curve)),
                f"{curve[-1]['loss']:.4f}" if curve else "",
                f"{best['score']:.2f} (epoch {best['epoch'] + 1})" if best else "",
                duration(sum(row["seconds"] for row in curve) / len(curve)) if curve else "",
            )
        )
    return table(
        "Phases", ("phase", "epochs", "steps", "last loss", "best validation MAE, months", "time an epoch"), rows
    )


def _made(about: dict[str, Any]) -> str:
    rows = [("git revision", str(about.get("revision")))]
    rows += [(key.replace("_", " "), str(about[key])) for key in _MADE if about.get(key) is not None]
    rows.append(("precision", "bfloat16 in the forward pass" if about.get("half_precision") else "float32"))
    rows += [(f"version of {name}", version) for name, version in about.get("versions", {}).items()]
    recipe = about.get("recipe", {})
    if "phases" in recipe:
        rows += [(key.replace("_", " "), _written(recipe[key])) for key in recipe if key not in {"phases", "target"}]
    return table("Run", ("setting", "value"), rows, words=2)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _settings(phases: Sequence[tuple[str, dict[str, Any], Curve]]) -> str:
    keys = sorted({key for _, settings, _ in phases for key in settings} - {"name", "target"})
    rows = [(key.replace("_", " "), *(str(settings.get(key, "")) for _, settings, _ in phases)) for key in keys]
    return table("Recipe", ("setting", *(name for name, _, _ in phases)), rows, words=1 + len(phases))
