"""The content tree of the report: TID 1500 "Imaging Measurement Report" of PS3.16, one function for each template.

Bone age comes first in its group, because viewers print the first measurements only; every group has its region as a
SCOORD and a tracking UID, because viewers throw without them; image library and imaging measurements are always there,
for the same reason. The first number of a group has the region too: OHIF tracks a group by it. A refusal has no number:
its group carries the reason, and the hand's box or the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from inference.finding import BoneStage, Box, Estimate, Finding, Laterality, ModelIdentity, Refusal, Roi, Subject
from reports import codes, content, wording
from reports.clinic import Assessment, HeightPrediction, SdScore, difference_of
from reports.content import Item, Relation
from reports.errors import UnplaceableFinding
from reports.header import film_size, numbers_of, required_uid, text_of
from reports.identity import DocumentIdentity, tracking_uid
from reports.phrases import Language, translated

DIAGNOSTIC_SCORE = 0.7
"""From this mean detection score on an estimate's image is written as of diagnostic quality, below it as limited."""

MONTHS_OF_YEAR = 12.0

SERIAL_NUMBER_LENGTH = 16
"""Digits of the Device UID that stand for a serial number: software has none of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What the tree is made of. ``source`` is the header of the image that was read."""

    source: Dataset
    finding: Finding
    identity: DocumentIdentity
    assessment: Assessment | None = None
    """What an estimate means beside references and earlier results; None where nobody asked."""
    language: Language = "en"
    """Of what is written as text. Code meanings stay English: viewers match them."""
    tracking_identifier: str | None = None
    """Of every group; None names each by what it shows. The tracking UIDs are the groups' own either way."""

    @property
    def image_box(self) -> Box | None:
        """The whole image, None where the header does not say how large it is."""
        size = film_size(self.source)
        return None if size is None else Box(0.0, 0.0, float(size[1]), float(size[0]))

    def on_image(self, box: Box) -> Box | None:
        """Return the part of a box that lies on the image: SR takes a SCOORD outside it without a word."""
        image = self.image_box
        return None if image is None else box.clipped(int(image.x1), int(image.y1))


def measurement_report(report: Report) -> list[Item]:
    """Return what the root container of TID 1500 has in it.

    Raises
    ------
    UnplaceableFinding
        An estimate's hand does not lie on its image.
    """
    groups = _estimate_groups(report, report.finding) if isinstance(report.finding, Estimate) else ()
    groups = groups or _refusal_groups(report)
    return [
        content.code(codes.LANGUAGE, codes.LANGUAGES[report.language], relation=Relation.HAS_CONCEPT_MOD),
        *observer_context(report.identity, report.finding.model),
        *subject_context(report.finding.subject),
        content.code(codes.PROCEDURE_REPORTED, codes.BONE_AGE_PROCEDURE, relation=Relation.HAS_CONCEPT_MOD),
        _image_library(report.source),
        content.container(codes.IMAGING_MEASUREMENTS, *groups),
        content.container(codes.QUALITATIVE_EVALUATIONS, *_evaluations(report)),
    ]


def observer_context(identity: DocumentIdentity, model: ModelIdentity | None) -> list[Item]:
    """TID 1002 and 1004: the node as a device observer."""
    context = Relation.HAS_OBS_CONTEXT
    model_name = model.name if model else "boneage-node"
    return [
        content.code(codes.OBSERVER_TYPE, codes.DEVICE, relation=context),
        content.uid_reference(codes.DEVICE_UID, identity.device_uid),
        content.text(codes.DEVICE_NAME, identity.station_name, context),
        content.text(codes.DEVICE_MANUFACTURER, identity.manufacturer, context),
        content.text(codes.DEVICE_MODEL, model_name, context),
        content.text(codes.DEVICE_SERIAL, identity.device_uid[-SERIAL_NUMBER_LENGTH:], context),
    ]


def subject_context(subject: Subject) -> list[Item]:
    """TID 1006 and 1007: the patient, with the sex and the age that were used, where there are any."""
    context = Relation.HAS_OBS_CONTEXT
    items = [content.code(codes.SUBJECT_CLASS, codes.PATIENT, relation=context)]
    if subject.sex is not None:
        items.append(content.code(codes.SUBJECT_SEX, codes.SEXES[subject.sex], relation=context))
    if subject.age_months is not None:
        in_years = subject.age_span_months >= MONTHS_OF_YEAR  # 10 years, not 120.0 months, where no more is known
        age, unit = (subject.age_months / MONTHS_OF_YEAR, codes.YEAR) if in_years else (subject.age_months, codes.MONTH)
        items.append(content.number(codes.SUBJECT_AGE, age, unit, relation=context))
    return items


def _image_library(source: Dataset) -> Item:
    """TID 1600: the image that was read, with those of its descriptors the header has."""
    entry = content.with_children(content.image(source, Relation.CONTAINS), *_descriptors(source))
    return content.container(codes.IMAGE_LIBRARY, content.container(codes.IMAGE_LIBRARY_GROUP, entry), template="1600")


def _descriptors(source: Dataset) -> list[Item]:
    """TID 1602 and 1603. CR often has neither spacing nor orientation, so each is written where it is usable."""
    context = Relation.HAS_ACQ_CONTEXT
    stated = codes.STATED_MODALITIES.get(text_of(source, "Modality"))
    modality = codes.MODALITIES.get(required_uid(source, "SOPClassUID"), stated)
    items = [] if modality is None else [content.code(codes.MODALITY, modality, relation=context)]
    side = _header_side(source)
    if side is not None:
        items.append(content.code(codes.IMAGE_LATERALITY, codes.SIDES[side], relation=context))
    for name, keyword in ((codes.ROWS, "Rows"), (codes.COLUMNS, "Columns")):
        items.extend(content.count(name, int(size), codes.PIXELS, context) for size in numbers_of(source, keyword)[:1])
    orientation = patient_orientation(source)
    if orientation is not None:
        items.append(content.text(codes.ORIENTATION_ROW, orientation[0], context))
        items.append(content.text(codes.ORIENTATION_COLUMN, orientation[1], context))
    spacing = numbers_of(source, "ImagerPixelSpacing")
    if len(spacing) == 2 and min(spacing) > 0 and max(spacing) < float("inf"):
        items.append(content.measure(codes.SPACING_HORIZONTAL, spacing[1], codes.MILLIMETRE, context))
        items.append(content.measure(codes.SPACING_VERTICAL, spacing[0], codes.MILLIMETRE, context))
    return items


def _header_side(source: Dataset) -> Laterality | None:
    """Return the side the header states: Image Laterality (0020,0062), else the series' Laterality (0020,0060)."""
    for keyword in ("ImageLaterality", "Laterality"):
        for side in codes.SIDES:
            if text_of(source, keyword) == side.value:
                return side
    return None


def patient_orientation(source: Dataset) -> tuple[str, str] | None:
    """Return Patient Orientation (0020,0020) of rows and columns; None for the "PR" or nothing of many CR."""
    parts = text_of(source, "PatientOrientation").split("\\")
    if len(parts) != 2 or not all(part and set(part) <= set("ALPRHF") for part in parts):
        return None
    return parts[0], parts[1]


def _estimate_groups(report: Report, estimate: Estimate) -> list[Item]:
    """Return the hand's group with the bone age, then one group for each region that lies on the image."""
    hand = report.on_image(estimate.hand)
    if hand is None:
        raise UnplaceableFinding("The box of the hand does not lie on an image of these Rows and Columns.")
    side = estimate.laterality
    values = [
        content.code(codes.METHOD, codes.estimation_method(estimate.model.method), relation=Relation.HAS_CONCEPT_MOD),
        _site(codes.HAND, side),
        *_algorithm(estimate.model),
        _bone_age(report, estimate, hand),
        *_age_numbers(estimate, report.language),
        *_assessed_numbers(report.assessment, report.language),
        content.measure(codes.DETECTION_SCORE, round(estimate.quality, 4), codes.NO_UNITS, Relation.CONTAINS),
        *_estimate_codes(estimate, report.language),
        _listed(report),
    ]
    name = f"Bone age, {wording.LATERALITY_WORDS['en'][side]} hand" if side in codes.SIDES else "Bone age, hand"
    return [_group(report, name, codes.SKELETAL_MATURITY, hand, values), *_roi_groups(report, side)]


def _refusal_groups(report: Report) -> list[Item]:
    """Return the refused image's group: of the hand where one was found, else of the whole image; then the regions."""
    refusal = report.finding
    if not isinstance(refusal, Refusal):
        raise TypeError("Only a refusal has a group without a number.")
    hand = None if refusal.hand is None else report.on_image(refusal.hand)
    region = hand or report.image_box
    if region is None:  # no size, so nothing can be drawn; viewers load an empty container
        return []
    values = [] if hand is None else [_site(codes.HAND, Laterality.UNKNOWN)]
    values += [] if refusal.model is None else _algorithm(refusal.model)
    values += _assumed(report, refusal, region)
    values += _quality(codes.QUALITIES.get(codes.REFUSED_QUALITIES.get(refusal.code, "")))
    values.append(_listed(report))
    group = _group(report, "Refused, hand" if hand else "Refused, image", codes.REFUSALS[refusal.code], region, values)
    return [group, *_roi_groups(report, Laterality.UNKNOWN)]


def _listed(report: Report) -> Item:
    """Return the result as a comment: OHIF names a group that it tracks by its comment, and lists no number of it."""
    return content.text(codes.COMMENT, wording.headline(report.finding, report.language))


def _assumed(report: Report, refusal: Refusal, region: Box) -> list[Item]:
    """Return what either sex would give, each a number of its own concept with its interval, where it was read."""
    return [
        content.number(
            codes.ASSUMED_AGES[reading.sex],
            reading.age_months,
            codes.MONTH,
            *_uncertainty(reading.age_months, reading.interval_low_months, reading.interval_high_months),
            content.text(codes.INTERVAL, wording.interval(reading, report.language), Relation.HAS_PROPERTIES),
            content.region(region, report.source, Relation.INFERRED_FROM),
        )
        for reading in refusal.assumed
    ]


def _roi_groups(report: Report, side: Laterality) -> list[Item]:
    """One TID 1410 group for each region of interest, in the finding's order, with its stage if there is one."""
    algorithm = [] if report.finding.model is None else _algorithm_named(report.finding.model)
    profile = report.finding.profile if isinstance(report.finding, Estimate) else None
    stages = {} if profile is None else {bone.name: bone for bone in profile.bones}
    groups = []
    for roi in report.finding.rois:
        box = report.on_image(roi.box)
        if box is not None:
            told_by = None if profile is None else profile.model
            stage = _stage(report, stages.get(roi.name), box, told_by)
            values = [_site(codes.SITES[roi.name], side), *algorithm, *stage]
            groups.append(_group(report, f"Region {roi.name}", codes.REGIONS[roi.name], box, values))
    return groups


def _stage(report: Report, bone: BoneStage | None, box: Box, told_by: ModelIdentity | None) -> list[Item]:
    """Return a bone's maturity stage as a number of its scale, with its points and how sure the model is of it.

    ``told_by`` is that model, where it is not the group's.
    """
    if bone is None:
        return []
    scale = content.text(
        codes.SCALE, wording.scale_of_stages(bone.last_stage, report.language), Relation.HAS_PROPERTIES
    )
    probability = content.measure(
        codes.STAGE_PROBABILITY, round(bone.probability, 4), codes.NO_UNITS, Relation.HAS_PROPERTIES
    )
    stage = content.count(codes.BONE_STAGE, bone.stage, codes.NO_UNITS, Relation.CONTAINS)
    region = content.region(box, report.source, Relation.INFERRED_FROM)
    return [
        content.with_children(stage, *_told_by(told_by), scale, probability, region),
        content.number(codes.BONE_POINTS, bone.points, codes.NO_UNITS, *_told_by(told_by)),
    ]


def _told_by(model: ModelIdentity | None) -> list[Item]:
    """TID 4019 for one number, where another model made it than the rest."""
    return [] if model is None else _algorithm_named(model)


def rois_off_image(report: Report) -> list[Roi]:
    """Return the regions that could not be drawn because nothing of them lies on the image."""
    return [roi for roi in report.finding.rois if report.on_image(roi.box) is None]


def _group(report: Report, name: str, finding: Code, box: Box, values: list[Item]) -> Item:
    """TID 1410 "Planar ROI Measurements and Qualitative Evaluations", with its tracking identifiers (TID 4108)."""
    context = Relation.HAS_OBS_CONTEXT
    return content.container(
        codes.MEASUREMENT_GROUP,
        content.text(codes.TRACKING_IDENTIFIER, report.tracking_identifier or name, context),
        content.uid_reference(codes.TRACKING_UID, tracking_uid(report.identity.sop_instance_uid, name), context),
        content.code(codes.FINDING, finding),
        *values,
        content.region(box, report.source),
        template="1410",
    )


def _site(site: Code, side: Laterality) -> Item:
    """Return the finding site, with its side where it is known."""
    modifier = Relation.HAS_CONCEPT_MOD
    sides = [content.code(codes.LATERALITY, codes.SIDES[side], relation=modifier)] if side in codes.SIDES else []
    return content.code(codes.FINDING_SITE, site, *sides, relation=modifier)


def _algorithm_named(model: ModelIdentity) -> list[Item]:
    """TID 4019, its mandatory rows: enough for a region, the whole stands in the first group."""
    modifier = Relation.HAS_CONCEPT_MOD
    return [
        content.text(codes.ALGORITHM_NAME, model.name, modifier),
        content.text(codes.ALGORITHM_VERSION, model.version, modifier),
    ]


def _algorithm(model: ModelIdentity) -> list[Item]:
    """TID 4019: which model, which version, which weights."""
    modifier = Relation.HAS_CONCEPT_MOD
    return [
        *_algorithm_named(model),
        content.text(codes.ALGORITHM_MANUFACTURER, model.manufacturer, modifier),
        content.text(codes.ALGORITHM_PARAMETERS, f"method={model.method}", modifier),
        content.text(codes.ALGORITHM_PARAMETERS, f"weights-sha256={model.weights_sha256}", modifier),
        content.code(codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE, relation=modifier),
    ]


def _bone_age(report: Report, estimate: Estimate, hand: Box) -> Item:
    """TID 300: the bone age with its interval as uncertainty and in words, and the region it was read from.

    CID 225 carries no confidence level, hence the words. highdicom would write the uncertainties without their unit.
    """
    age = estimate.age_months
    properties = Relation.HAS_PROPERTIES
    return content.number(
        codes.BONE_AGE,
        age,
        codes.MONTH,
        *_uncertainty(age, estimate.interval_low_months, estimate.interval_high_months),
        content.text(codes.INTERVAL, wording.interval(estimate, report.language), properties),
        *_beside_population(report.assessment),
        content.region(hand, report.source, Relation.INFERRED_FROM),
    )


def _uncertainty(value: float, low: float, high: float, unit: Code = codes.MONTH) -> list[Item]:
    """Return how far an interval reaches above and below its number (CID 225)."""
    properties = Relation.HAS_PROPERTIES
    return [
        content.number(codes.UNCERTAINTY_ABOVE, high - value, unit, relation=properties),
        content.number(codes.UNCERTAINTY_BELOW, value - low, unit, relation=properties),
    ]


def _give_or_take(half_width: float | None, unit: Code = codes.MONTH) -> list[Item]:
    """Return the uncertainty of a number whose interval reaches as far up as down; nothing where it is not known."""
    return [] if half_width is None else _uncertainty(0.0, -half_width, half_width, unit)


def _beside_population(assessment: Assessment | None) -> list[Item]:
    """TID 310 to 312: how the bone age stands to the reference population at this chronological age."""
    if assessment is None:
        return []
    score, properties = assessment.sd, Relation.HAS_PROPERTIES
    items = []
    if assessment.verdict is not None:
        items.append(content.code(codes.NORMALITY, codes.VERDICTS[assessment.verdict], relation=properties))
    if score is None:
        return items if assessment.sd_range is None else [*items, *_reference(assessment.sd_range.oldest)]
    reach = assessment.normal_sd * score.sd_months  # the range is what the normality beside it was told by
    return [
        *items,
        content.measure(codes.Z_SCORE_OF_MEASUREMENT, round(score.value, 4), codes.NO_UNITS, properties),
        content.number(codes.STANDARD_DEVIATION, score.sd_months, codes.MONTH, relation=properties),
        content.number(codes.NORMAL_RANGE_LOW, score.mean_months - reach, codes.MONTH, relation=properties),
        content.number(codes.NORMAL_RANGE_HIGH, score.mean_months + reach, codes.MONTH, relation=properties),
        *_reference(score),
    ]


def _reference(score: SdScore) -> list[Item]:
    """Return which population a score refers to, and who published it."""
    return [
        content.text(codes.POPULATION, score.reference.title, Relation.HAS_PROPERTIES),
        content.text(codes.AUTHORITY, score.reference.citation, Relation.HAS_PROPERTIES),
    ]


def _assessed_numbers(assessment: Assessment | None, language: Language) -> list[Item]:
    """Return the SD score, the ages of derived stages, adult heights, velocity and earlier results, as numbers."""
    if assessment is None:
        return []
    items: list[Item] = []
    if assessment.sd is not None:
        score = content.measure(codes.Z_SCORE, round(assessment.sd.value, 4), codes.NO_UNITS, Relation.CONTAINS)
        items.append(content.with_children(score, *_score_range(assessment.sd), *_reference(assessment.sd)))
    for age in assessment.stage_ages:
        named = [_by(codes.METHOD, wording.method(age.method, language)), _by(codes.AUTHORITY, age.citation)]
        named = [*_told_by(age.model), *named]
        items.append(content.number(codes.RUS_SCORE, age.points, codes.NO_UNITS, *named))
        items.append(content.number(codes.RUS_AGE, age.age_months, codes.MONTH, *named))
    for prediction in assessment.heights:
        named = [
            _by(codes.METHOD, wording.method(prediction.method, language)),
            _by(codes.AUTHORITY, prediction.citation),
        ]
        around = _height_range(prediction, language)
        items.append(content.number(codes.ADULT_HEIGHT, prediction.centimetres, codes.CENTIMETRE, *around, *named))
    return [*items, *_course_numbers(assessment, language)]


def _score_range(score: SdScore) -> list[Item]:
    """Return how far the bone age's interval reaches above and below a score."""
    return [] if score.interval is None else _uncertainty(score.value, *score.interval, codes.NO_UNITS)


def _height_range(prediction: HeightPrediction, language: Language) -> list[Item]:
    """Return the uncertainty of an adult height by the method's error and the bone age's, and both in words.

    No number where the publication states no error at this age.
    """
    ranges, total = wording.height_ranges(prediction, language), prediction.total
    said = [_by(codes.INTERVAL, ranges)] if ranges else []
    return said if total is None else [*_uncertainty(prediction.centimetres, *total, codes.CENTIMETRE), *said]


def _course_numbers(assessment: Assessment, language: Language) -> list[Item]:
    """Return velocity, change of the SD score, and each earlier result with its date and where it was found.

    Each has its uncertainty beside it, where the intervals of all results it is made of are known.
    """
    items: list[Item] = []
    change = assessment.course
    if change is not None:
        since, unit = _by(codes.VALUE_SOURCE, wording.since(change, language)), codes.MONTHS_PER_YEAR
        around = _give_or_take(change.velocity_half_width, unit)
        items.append(content.number(codes.VELOCITY, change.velocity, unit, *around, since))
        if change.sd_change is not None:
            around = _give_or_take(change.sd_change_half_width, codes.NO_UNITS)
            items.append(content.number(codes.SD_CHANGE, change.sd_change, codes.NO_UNITS, *around, since))
    for prior in assessment.track:
        where = _by(codes.VALUE_SOURCE, wording.found_in(prior, language))
        around = _give_or_take(prior.half_width_months)
        items.append(content.number(codes.EARLIER_RESULT, prior.bone_age_months, codes.MONTH, *around, where))
    return items


def _by(name: Code, value: str) -> Item:
    return content.text(name, value, Relation.HAS_PROPERTIES)


def _age_numbers(estimate: Estimate, language: Language) -> list[Item]:
    """Chronological age, its source, and the difference; nothing where the header has no age.

    An age in whole weeks, months or years has what it leaves open as uncertainty; of whole years there is no difference
    as a number, which viewers show without its uncertainty.
    """
    subject = estimate.subject
    if subject.age_months is None:
        return []
    span, apart = subject.age_span_months, difference_of(estimate)
    source = _by(codes.VALUE_SOURCE, translated(subject.age_source, language))
    open_above = _uncertainty(0.0, 0.0, span) if span else []
    age = content.number(codes.CHRONOLOGICAL_AGE, subject.age_months, codes.MONTH, *open_above, source)
    if apart is None:
        return [age]
    around = _give_or_take(span / 2) if span else []
    return [age, content.number(codes.AGE_DIFFERENCE, apart, codes.MONTH, *around)]


def _estimate_codes(estimate: Estimate, language: Language) -> list[Item]:
    """Return the reference method, the sex used with its source, and the quality of the image."""
    reference = codes.reference_method(estimate.model.method)
    subject = estimate.subject
    sex = codes.UNKNOWN_SEX if subject.sex is None else codes.SEXES[subject.sex]
    source = _by(codes.VALUE_SOURCE, translated(subject.sex_source, language))
    quality = "diagnostic" if estimate.quality >= DIAGNOSTIC_SCORE else "limited"
    return [
        *([content.code(codes.BONE_AGE_METHOD, reference)] if reference else []),
        content.code(codes.SEX_USED, sex, source),
        *_quality(codes.QUALITIES[quality]),
    ]


def _quality(quality: Code | None) -> list[Item]:
    return [] if quality is None else [content.code(codes.IMAGE_QUALITY, quality)]


def _evaluations(report: Report) -> list[Item]:
    """Return what is read where only text is shown: conclusion, what speaks against it, disclaimer."""
    finding, language = report.finding, report.language
    items = [content.code(codes.FINDING, _main_finding(finding))]
    items.append(content.text(codes.CONCLUSION, wording.conclusion(finding, language)))
    if isinstance(finding, Refusal):
        items.append(content.text(codes.RECOMMENDATION, translated(finding.remedy, language)))
        items.append(content.text(codes.COMMENT, wording.sex_stated(finding.subject, language)))
        items.append(content.text(codes.COMMENT, wording.chronological_age(finding.subject, language)))
    items.extend(content.text(codes.ASSESSMENT, line) for line in wording.assessed(report.assessment, language))
    items.extend(content.text(codes.COMMENT, note) for note in wording.notes(report.assessment, language))
    said = [f"{translated(flag.sentence, language)} [{flag.code}]" for flag in wording.flags(finding)]
    items.extend(content.text(codes.FLAG, sentence) for sentence in said)
    items.extend(content.text(codes.FLAG, wording.off_image(roi.name, language)) for roi in rois_off_image(report))
    items.append(content.text(codes.COMMENT, wording.disclaimer_sentence(language)))
    return items


def _main_finding(finding: Finding) -> Code:
    return codes.REFUSALS[finding.code] if isinstance(finding, Refusal) else codes.SKELETAL_MATURITY
