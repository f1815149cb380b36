"""The HTML report of one evaluation, from its JSON: for a radiologist who wants to know what was measured on what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from training.evaluation.drawing import COLOURS, Plot
from training.evaluation.page import (
    cards,
    decimal,
    figure,
    figures,
    page,
    paragraph,
    percent,
    section,
    table,
    verdicts,
)
from training.terms import SITE_FILMS

Figures = dict[str, Any]

_SEXES = {"M": ("boys", COLOURS[0]), "F": ("girls", COLOURS[1])}
_YEARS = tuple(range(0, 21, 2))
_IN_SAMPLE = (
    "The recalibration in force was fitted on these very films: new films are read worse than the figures here say. "
    "Honest ones, leave-one-out, stand in its file and on the page of the evaluation that fitted it."
)
MAYBE_TRAINED_ON = (
    "These weights learned from a site's own films. Films that are among those look better here than new ones will: "
    "boneage-node evaluate --data FOLDER --part test reads those alone that its training set aside."
)
MOST_NAMED = 50
"""So many refused films are named for each reason."""


def report(found: Figures, pictures: list[tuple[str, str]] | None = None) -> str:
    """Return the report.

    Parameters
    ----------
    found
        What ``boneage-node evaluate --json`` writes.
    pictures
        Films to show: caption and data URI.
    """
    model = found["model"]
    sections = [_summary(found), _material(found)]
    if found.get("acceptance"):
        sections.append(_acceptance(found["acceptance"]))
    sections += [_ages(found), _agreement(found), _intervals(found)]
    if found.get("recalibration"):
        sections.append(_recalibration(found["recalibration"]))
    sections += [_rois(found), _refusals(found)]
    if found.get("flags") is not None:  # evaluations of earlier versions do not tell
        sections.append(_flags(found))
    if found.get("stress"):
        sections.append(stress_section(found["stress"]))
    sections.append(_furthest(found, pictures or []))
    lead = (
        f"{model['name']} {model['version']} on {found['films']} films, part \N{LEFT SINGLE QUOTATION MARK}"
        f"{found['part']}\N{RIGHT SINGLE QUOTATION MARK}, measured {found['measured_at']}."
    )
    return page("How well bone age is read", lead, sections)


def _summary(found: Figures) -> str:
    total, low_high = found["table_3"]["all"]["total"], found["mae_interval_months"]
    agreement = found["bland_altman"]["all"]["total"]
    numbers = [
        (
            f"{decimal(total['mae_months'])} months",
            f"mean absolute error (95 %: {decimal(low_high[0])} to {decimal(low_high[1])})",
        ),
        (f"{decimal(agreement['bias_months'])} months", "bias: above 0 is read too old"),
        (percent(found["within_months"]["12"]), "of films within 12 months"),
        (percent(found["coverage_90"]), "of references inside their 90 % interval"),
        (percent(found["refused_share"], 1), "of films refused"),
    ]
    if found["roi"]:
        numbers.append((percent(found["roi"]["all"]["recall"], 1), "of the 13 bones found (IoU 0.5)"))
    return section("In short", cards(numbers))


def _material(found: Figures) -> str:
    model, films = found["model"], found["material"]
    rows = [
        ("Films", f"{found['films']}: {films['male']} of boys, {films['female']} of girls"
                  + (f"; {films['sex_differs']} headers state the other sex" if films["sex_differs"] else "")),
        ("Reference", f"{decimal(films['youngest_years'])} to {decimal(films['oldest_years'])} years; "
                      f"{films['reference']}"),
        ("Model", f"{model['name']} ({model['method']}), version {model['version']}"),
        ("Weights", f"SHA-256 {model['weights_sha256'][:16]}…; {decimal(found['cost']['megabytes'])} MB, "
                    f"{found['cost']['parameters'] / 1e6:.1f} million parameters"),
        ("Time", f"median {decimal(found['milliseconds_median'], 0)} ms a film on {found['cost']['device']}, "
                 f"{_threads(found['cost']['threads'])}, detection included"),
        ("Sources", f"boneage-node {found['revision']}"),
        *((f"Terms of the {what}", words) for what, words in (found.get("terms") or {}).items() if words),
    ]  # fmt: skip
    return section(
        "What was measured on what",
        table("Material", ("", ""), rows, words=2),
        paragraph(
            "Every film went through the node's own engine, as a film from a modality would, with the sex from the "
            "table of readings. The reference is a reading by people: two readers often differ by half a year."
        ),
        paragraph(_IN_SAMPLE) if found.get("recalibration_fitted_on_these") else "",
        paragraph(MAYBE_TRAINED_ON) if may_be_trained_on(found) else "",
    )


def may_be_trained_on(found: Figures) -> bool:
    """Tell whether weights that learned from a site's own films were measured on a site's table, whatever its parts."""
    return found["part"] == "site" and SITE_FILMS in str((found.get("terms") or {}).get("weights"))


def _threads(number: int) -> str:
    return f"{number} thread{'' if number == 1 else 's'}"


def _acceptance(verdict: list[dict[str, Any]]) -> str:
    good = all(row["passed"] for row in verdict)
    outcome = "All thresholds hold." if good else "Not accepted: at least one threshold fails."
    return section("Acceptance", paragraph(outcome), verdicts((row["passed"], row["sentence"]) for row in verdict))


def identity_plot(rows: list[dict[str, Any]], sex: str) -> Plot:
    """Draw estimate against reference, in years, with the identity line (Fig. 8 of Hui et al. 2022)."""
    name, colour = _SEXES[sex]
    plot = Plot(
        (0, 20), (0, 20), x_label="reference, years", y_label="estimate, years", title=f"Identity line, {name}",
        x_ticks=_YEARS, y_ticks=_YEARS,
    )  # fmt: skip
    plot.band([(0, 0), (1, 0), (20, 19)], [(0, 1), (19, 20), (20, 20)], "#808080", "within one year")
    plot.line([(0, 0), (20, 20)])
    read = [row for row in rows if row["sex"] == sex and row["estimate_months"] is not None]
    places = ((row["reference_months"] / 12, row["estimate_months"] / 12) for row in read)
    return plot.points(places, colour, f"{name}, {len(read)} films")


def cumulative_plot(curves: list[tuple[str, dict[str, float | None], str]]) -> Plot:
    """Draw the share of films within so many months (Fig. 9 of Hui et al. 2022): name, curve, colour each."""
    plot = Plot(
        (0, 24), (0, 100), x_label="error at most, months", y_label="films, %",
        title="Cumulative accuracy", x_ticks=range(0, 25, 3), y_ticks=range(0, 101, 20), legend_below=True,
    )  # fmt: skip
    for name, curve, colour in curves:
        points = [(float(month), 100 * share) for month, share in curve.items() if share is not None]
        if points:
            plot.line(sorted(points), colour, name)
    return plot


def _ages(found: Figures) -> str:
    groups = found["table_3"]
    rows = [
        (f"{group} years" if group != "all" else "all", *(_cell(row[sex]) for sex in ("male", "female", "total")))
        for group, row in groups.items()
    ]
    drawn = [
        figure(
            identity_plot(found["rows"], sex).svg(), f"Estimates of {name} against the reference; the line is right."
        )
        for sex, (name, _) in _SEXES.items()
    ]
    colours = {"male": COLOURS[0], "female": COLOURS[1], "total": "currentColor"}
    words = {"male": "boys", "female": "girls", "total": "all"}
    curves = [(words[sex], curve, colours[sex]) for sex, curve in found["cumulative_accuracy"].items()]
    drawn.append(figure(cumulative_plot(curves).svg(), "How many films are read within so many months."))
    drawn.append(figure(_group_plot(groups).svg(), "Error by age group and sex."))
    return section(
        "Ages",
        table(
            "Mean absolute / root mean square error in months (films), by age of the reference",
            ("age", "boys", "girls", "all"), rows, strong_last=True,
        ),
        figures(*drawn),
    )  # fmt: skip


def _cell(errors: dict[str, Any]) -> str:
    return f"{decimal(errors['mae_months'])} / {decimal(errors['rmse_months'])} ({errors['films']})"


def short_names(groups: Iterable[str]) -> list[str]:
    """Return names of age groups that fit below an axis: (4, 6] as 4 to 6 with a dash."""
    return [group.strip("(]").replace(", ", "\N{EN DASH}") for group in groups]


def _group_plot(groups: Figures) -> Plot:
    names = list(groups)
    highest = max((row[s]["mae_months"] or 0 for row in groups.values() for s in ("male", "female")), default=0)
    plot = Plot(
        (-0.6, len(names) - 0.4), (0, max(12.0, 1.1 * highest)), x_label="age over \N{EN DASH} to, years",
        y_label="MAE, months", title="Mean absolute error by age group and sex", names=short_names(names),
    )  # fmt: skip
    for place, row in enumerate(groups.values()):
        for shift, sex, colour in ((-0.18, "male", COLOURS[0]), (0.18, "female", COLOURS[1])):
            if row[sex]["mae_months"] is not None:
                plot.bar(place + shift, row[sex]["mae_months"], 0.32, colour)
    return plot.named("boys", COLOURS[0]).named("girls", COLOURS[1])


def _agreement(found: Figures) -> str:
    table_rows = [
        (
            f"{group} years" if group != "all" else "all",
            *(_bias(row[sex]) for sex in ("male", "female", "total")),
            _limits(row["total"]),
        )
        for group, row in found["bland_altman"].items()
    ]
    return section(
        "Agreement with the readers",
        figures(figure(
            bland_altman_plot(found).svg(),
            "Bland-Altman: estimate minus reference against the mean of both, with bias and limits of agreement.",
        )),
        table(
            "Bias in months with its 95 % interval, and limits of agreement (bias ± 1.96 SD) of all",
            ("age", "boys", "girls", "all", "limits of agreement"), table_rows, strong_last=True,
        ),
        paragraph(f"Above 0 the model reads older than the readers, below 0 younger. {_within_limits(found)}"),
    )  # fmt: skip


def _within_limits(found: Figures) -> str:
    """Say how many films lie within the limits of agreement of all; "" where there are none."""
    total = found["bland_altman"]["all"]["total"]
    if total["bias_months"] is None:
        return ""
    read = [row for row in found["rows"] if row["estimate_months"] is not None]
    off = (row["estimate_months"] - row["reference_months"] for row in read)
    inside = sum(total["limit_low_months"] <= one <= total["limit_high_months"] for one in off)
    return (
        f"{inside} of {len(read)} films lie within the limits of all; of normally distributed differences 95 % would."
    )


def _bias(row: dict[str, Any]) -> str:
    if row["bias_months"] is None:
        return "\N{EN DASH}"
    return f"{decimal(row['bias_months'])} ({decimal(row['bias_low_months'])} to {decimal(row['bias_high_months'])})"


def _limits(row: dict[str, Any]) -> str:
    if row["bias_months"] is None:
        return "\N{EN DASH}"
    return f"{decimal(row['limit_low_months'])} to {decimal(row['limit_high_months'])}"


def bland_altman_plot(found: Figures) -> Plot:
    """Draw differences against means, bias and limits of agreement."""
    read = [row for row in found["rows"] if row["estimate_months"] is not None]
    total = found["bland_altman"]["all"]["total"]
    limits = () if total["bias_months"] is None else (total["limit_low_months"], total["limit_high_months"])
    off = (row["estimate_months"] - row["reference_months"] for row in read)
    reach = max([24.0, *(abs(one) + 4 for one in (*off, *limits))])  # beyond it a line would be drawn at the edge
    plot = Plot(
        (0, 20), (-reach, 1.25 * reach), x_label="mean of estimate and reference, years", y_label="difference, months",
        title="Bland-Altman plot", x_ticks=_YEARS,
    )  # fmt: skip
    if limits:
        plot.level(total["bias_months"], dashed=False)
        for limit in limits:
            plot.level(limit)
    plot.level(0, "#808080")
    for sex, (name, colour) in _SEXES.items():
        places = (
            ((row["estimate_months"] + row["reference_months"]) / 24, row["estimate_months"] - row["reference_months"])
            for row in read
            if row["sex"] == sex
        )
        plot.points(places, colour, name)
    return plot


def _intervals(found: Figures) -> str:
    groups = found["intervals"]
    rows = [
        (
            f"{group} years" if group != "all" else "all",
            str(row["films"]),
            percent(row["coverage"]),
            f"{percent(row['coverage_low'])} to {percent(row['coverage_high'])}" if row["films"] else "\N{EN DASH}",
            decimal(row["width_months"]),
        )
        for group, row in groups.items()
    ]
    plot = Plot(
        (-0.6, len(groups) - 0.4), (0, 100), x_label="age over \N{EN DASH} to, years", y_label="coverage, %",
        title="Coverage of the 90 % intervals by age group", names=short_names(groups), y_ticks=range(0, 101, 10),
    )  # fmt: skip
    for place, row in enumerate(groups.values()):
        if row["films"]:
            plot.bar(place, 100 * row["coverage"], 0.6, COLOURS[2])
            plot.whisker(place, 100 * row["coverage_low"], 100 * row["coverage_high"])
    plot.level(90)
    return section(
        "Intervals",
        paragraph(
            "With each age the node reports an interval that should hold the reference in 9 of 10 films. With few "
            "films in a group chance alone moves the share by a lot: the whiskers show by how much (95 %)."
        ),
        figures(figure(plot.svg(), "Share of references inside their interval; the dashed line is the promise.")),
        table(
            "Intervals by age of the reference", ("age", "films", "coverage", "95 %", "mean width, months"), rows,
            strong_last=True,
        ),
    )  # fmt: skip


def _recalibration(fitted: Figures) -> str:
    rows = [
        (name, decimal(part["mae_months"], 2), decimal(part["bias_months"], 2), percent(part["coverage"]),
         decimal(part["width_months"]))
        for name, part in (("as it is", fitted["before"]), ("recalibrated, left-out", fitted["after_left_out"]))
    ]  # fmt: skip
    lines = "; ".join(
        f"{_SEXES[sex][0]}: {line['offset_months']:+.1f} months + {line['factor']:.3f} x age ({line['films']} films)"
        for sex, line in fitted["lines"].items()
    )
    return section(
        "A recalibration for this site",
        paragraph(f"A straight line per sex, fitted on these films. {lines}."),
        table("Error in months", ("", "MAE", "bias", "coverage", "mean width"), rows),
        paragraph(
            "The second line is leave-one-out: each film was corrected by the line of all the others, as new films "
            "will be. The coverage is what the widths were chosen for."
        ),
        paragraph(fitted["advice"]),
    )


def _rois(found: Figures) -> str:
    if not found["roi"]:
        return section("Regions of interest", paragraph("No film of this part has annotated boxes."))
    parts = {"all": "all films", "sharp": "half resolution", "small": "100 x 100 pixels"}
    known = {parts[key]: value for key, value in found["roi"].items() if value}
    changed = {name: value for name, value in (found.get("roi_changed") or {}).items() if value}
    if found.get("own_roi"):
        changed["all films, the method's own detector"] = found["own_roi"]
    rows = [
        (
            name, str(part["films"]), percent(part["precision"], 1), percent(part["recall"], 1), percent(part["f1"], 1),
            decimal(part["ap"], 3), decimal(part["ap50"], 3), decimal(part["ap75"], 3),
            percent(part["films_all_13_reported"], 1), percent(part["films_all_13_at_iou_50"], 1),
            percent(part["centre_median"], 2), percent(part["within_1_percent"], 1),
            percent(part["within_3_percent"], 1),
        )
        for name, part in (known | changed).items()
    ]  # fmt: skip
    bones = [
        (
            name, percent(bone["precision"], 1), percent(bone["recall"], 1), percent(bone["centre_median"], 2),
            percent(bone["within_1_percent"], 1), percent(bone["within_3_percent"], 1),
        )
        for name, bone in found["roi"]["all"]["bones"].items()
    ]  # fmt: skip
    plot = Plot(
        (0, 5), (0, 100), x_label="centre error, % of the hand's length", y_label="bones, %",
        title="Cumulative accuracy of the centres", x_ticks=range(6), y_ticks=range(0, 101, 20), legend_below=True,
    )  # fmt: skip
    for (name, part), colour in zip(known.items(), COLOURS, strict=False):
        plot.line([(float(k), 100 * share) for k, share in part["centre_accuracy"].items()], colour, name)
    return section(
        "Regions of interest",
        paragraph(
            "The 13 bones of TW3 RUS as the detector finds them, against boxes that people drew on films it was not "
            "trained on. The hand's length is from the radius to the third finger's distal phalanx."
        ),
        table(
            "The 13 bones together",
            ("films", "n", "precision", "recall", "F1", "AP", "AP50", "AP75", "all 13 reported", "all 13 at IoU 0.5",
             "median centre error", "within 1 %", "within 3 %"), rows,
        ),
        figures(figure(plot.svg(), "How many centres lie within so much of the hand's length.")),
        table(
            "Bone by bone", ("bone", "precision", "recall", "median centre error", "within 1 %", "within 3 %"), bones
        ),
    )  # fmt: skip


def _refusals(found: Figures) -> str:
    refused = ", ".join(f"{code}: {films}" for code, films in found["refused"].items()) or "none"
    words = f"Refused: {refused}, of {found['films']} films."
    if found["non_hands"]:
        words += f" Of {found['non_hands']} images without a hand, {found['non_hands_accepted']} got an age."
    of_code = {code: [row["rsna_id"] for row in found["rows"] if row["refusal"] == code] for code in found["refused"]}
    named = (f"{code}, by {_called(found)}: {_listed(films)}." for code, films in of_code.items())
    return section("Refusals", paragraph(words), *map(paragraph, named))


def _flags(found: Figures) -> str:
    rows = [
        (
            code, str(row["films"] + row["refused"]), percent((row["films"] + row["refused"]) / found["films"], 1),
            str(row["refused"]), decimal(row["mae_months"]), decimal(row["mae_months_without"]),
        )
        for code, row in found["flags"].items()
    ]  # fmt: skip
    if not rows:
        return section("Flags", paragraph("No film carries a flag."))
    return section(
        "Flags",
        paragraph(
            "What a reader is told beside the age. Films like those that the model knows carry few of the flags that "
            "question an age; many of one kind say that this material differs. Flags of the header are there only "
            "where films have one."
        ),
        table(
            "Films by flag; error in months of those with it that got an age, and of all others",
            ("flag", "films", "of all", "refused", "MAE with it", "MAE without"), rows,
        ),
    )  # fmt: skip


def _listed(films: list[int]) -> str:
    """Write numbers of films, and of more than MOST_NAMED how many more there are."""
    more = f" and {len(films) - MOST_NAMED} more" if len(films) > MOST_NAMED else ""
    return ", ".join(map(str, films[:MOST_NAMED])) + more


def stress_section(found: Figures) -> str:
    """Return the section of the stress suite, from what ``evaluate`` and ``stress`` keep of it in their JSON."""
    rows = [
        (
            row["change"], decimal(row["mae_before"], 2), decimal(row["mae_after"], 2), decimal(row["mean_shift"], 2),
            decimal(row["mean_absolute_shift"], 2), decimal(row["largest_shift"]), decimal(row["largest_silent_shift"]),
            percent(row["refused_share"]), percent(row["flagged_share"]), "yes" if row["passed"] else "NO",
        )
        for row in found["rows"]
    ]  # fmt: skip
    passed = sum(row["passed"] for row in found["rows"])
    return section(
        "Changed films",
        paragraph(
            f"Each of {found['films']} films once more per change that leaves the bones as they are: turned, mirrored, "
            f"in other greys, noisy, blurred, bordered, marked. {passed} of {len(rows)} changes pass: they move the "
            f"mean absolute error by at most {decimal(found['limit_months'])} months, or every film is refused."
        ),
        table(
            "Months; shifts are the age after minus the age before; silent are those without a new flag",
            ("change", "MAE before", "MAE after", "mean shift", "mean size of the shift", "largest", "largest silent",
             "refused", "newly flagged", "passes"), rows,
        ),
    )  # fmt: skip


def _called(found: Figures) -> str:
    """Return what the number of a film is: a site's films have that of their line in the table of readings."""
    own = (found.get("terms") or {}).get("films") == SITE_FILMS
    return "line in the table" if own else "film"


def _furthest(found: Figures, pictures: list[tuple[str, str]]) -> str:
    read = [row for row in found["rows"] if row["estimate_months"] is not None]
    read.sort(key=lambda row: -abs(row["estimate_months"] - row["reference_months"]))
    rows = [
        (
            str(row["rsna_id"]), _SEXES[row["sex"]][0][:-1], decimal(row["reference_months"] / 12),
            decimal(row["estimate_months"] / 12), decimal(row["estimate_months"] - row["reference_months"]),
            f"{decimal(row['low_months'] / 12)} to {decimal(row['high_months'] / 12)}",
        )
        for row in read[:10]
    ]  # fmt: skip
    films = "".join(
        f'<figure><img alt="" src="{uri}"><figcaption>{caption}</figcaption></figure>' for caption, uri in pictures
    )
    return section(
        "The furthest off",
        table(
            "Ten films with the largest errors; ages in years, difference in months",
            (_called(found), "sex", "reference", "estimate", "difference", "interval"), rows,
        ),
        f'<div class="films">{films}</div>' if films else "",
    )  # fmt: skip
