"""What the report and the overlay say in words: one place, so that both say the same.

All text is plain English and ASCII where a viewer's font may be poor.
"""

from __future__ import annotations

from inference.finding import Estimate, Finding, Flag, Laterality, Refusal, Sex, Subject

DISCLAIMER = "Research use only - not for diagnosis"

DISCLAIMER_SENTENCE = (
    f"{DISCLAIMER}. This document was made by software without a reader's review. The software is not a medical device."
)

NO_PICTURE = "The image could not be displayed"

SEX_WORDS: dict[Sex, str] = {Sex.MALE: "male", Sex.FEMALE: "female"}

LATERALITY_WORDS: dict[Laterality, str] = {
    Laterality.LEFT: "left",
    Laterality.RIGHT: "right",
    Laterality.UNKNOWN: "side not known",
}


def years_and_months(age_months: float) -> str:
    """Return an age as "11 y 1 mo", rounded to whole months."""
    whole = round(abs(age_months))
    sign = "-" if age_months < 0 and whole else ""
    return f"{sign}{whole // 12} y {whole % 12} mo"


def months(age_months: float) -> str:
    """Return an age as "132.5 months"."""
    return f"{one_decimal(age_months)} months"


def one_decimal(value: float) -> str:
    """Return a number with one decimal and no negative zero."""
    return f"{round(value, 1) + 0.0:.1f}"


def bone_age(estimate: Estimate) -> str:
    """Return "Bone age 11 y 1 mo (132.5 months)"."""
    return f"Bone age {years_and_months(estimate.age_months)} ({months(estimate.age_months)})"


def interval(estimate: Estimate) -> str:
    """Return "90 % interval 10 y 0 mo to 12 y 1 mo (120.1 to 144.9 months)"."""
    low, high = estimate.interval_low_months, estimate.interval_high_months
    return (
        f"{interval_name(estimate)} {years_and_months(low)} to {years_and_months(high)} "
        f"({one_decimal(low)} to {months(high)})"
    )


def interval_name(estimate: Estimate) -> str:
    """Return "90 % interval"."""
    return f"{estimate.interval_level * 100:.3g} % interval"


def sex_used(subject: Subject) -> str:
    """Return the sex the estimate was made for and where it came from, or that there is none and why."""
    if subject.sex is None:
        return f"Sex: not known ({subject.sex_source})"
    return f"Sex used: {SEX_WORDS[subject.sex]}, from {subject.sex_source}"


def chronological_age(subject: Subject) -> str:
    """Return the chronological age and where it came from, or that there is none and why."""
    if subject.age_months is None:
        return f"Chronological age: not known ({subject.age_source})"
    age = subject.age_months
    return f"Chronological age {years_and_months(age)} ({months(age)}), from {subject.age_source}"


def difference(estimate: Estimate) -> str | None:
    """Return how far bone age and chronological age lie apart, None where there is no chronological age."""
    if estimate.subject.age_months is None:
        return None
    apart = estimate.age_months - estimate.subject.age_months
    if one_decimal(apart) == "0.0":
        return "Bone age equals chronological age"
    return f"Bone age is {months(abs(apart))} {'ahead of' if apart > 0 else 'behind'} chronological age"


def hand_read(estimate: Estimate) -> str:
    """Return which hand was read, of how many."""
    of_how_many = "" if estimate.hands_found == 1 else f", one of {estimate.hands_found} on the film"
    return f"Hand read: {LATERALITY_WORDS[estimate.laterality]}{of_how_many}"


def model_line(finding: Finding) -> str:
    """Return the model's name and version, and the first digits of its weights' hash."""
    if finding.model is None:
        return "No model was run"
    return f"{finding.model.name} {finding.model.version} (weights {finding.model.weights_sha256[:12]})"


def off_image(region: str) -> str:
    """Return what is said of a region that cannot be drawn."""
    return f"Region {region} lies outside the image and is not drawn."


def conclusion(finding: Finding) -> str:
    """Return the result as a paragraph: what a reader sees where only text is shown."""
    if isinstance(finding, Refusal):
        return f"No bone age was estimated. {finding.sentence}"
    sentences = [
        f"{bone_age(finding)}, {interval(finding)}",
        hand_read(finding),
        sex_used(finding.subject),
        chronological_age(finding.subject),
        difference(finding),
    ]
    return ". ".join(sentence for sentence in sentences if sentence) + "."


def flags(finding: Finding) -> tuple[Flag, ...]:
    """Return what speaks against the result, of the image first, then of the header; each once."""
    return tuple(dict.fromkeys((*finding.flags, *finding.subject.flags)))
