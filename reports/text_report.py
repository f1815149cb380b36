"""The report as an Enhanced SR (PS3.3 A.35.2): text in sections, for archives and viewers without measurement reports.

The tree is a Basic Diagnostic Imaging Report (TID 2000): findings with the bone age as a number, conclusions, and what
speaks against them. It says what the measurement report says, by the same sentences.
"""

from __future__ import annotations

from highdicom.sr import EnhancedSR
from pydicom.dataset import Dataset, FileDataset

from inference.finding import Estimate, Finding, Refusal
from reports import codes, content, wording
from reports.clinic import Assessment
from reports.content import Item, Relation
from reports.identity import DocumentIdentity
from reports.measurement_report import observer_context, subject_context
from reports.phrases import Language, translated
from reports.structured_report import Circumstances, Root, put_together

SERIES_DESCRIPTION = "Bone age report, text (research use only)"


def compose_text_sr(
    source: Dataset,
    finding: Finding,
    identity: DocumentIdentity,
    *,
    preliminary: bool = True,
    assessment: Assessment | None = None,
    language: Language = "en",
) -> FileDataset:
    """Compose the text report of one finding.

    Parameters
    ----------
    source
        The image that was read; its header may be as poor as real CR. It is not changed.
    finding
        An estimate, or a refusal: both become a report.
    identity
        The document's own UIDs, numbers and time.
    preliminary
        Preliminary Flag (0040,A496), see ``compose_sr``.
    assessment
        What an estimate means beside references and earlier results.
    language
        Of the text; code meanings stay English.

    Returns
    -------
    FileDataset
        Explicit VR Little Endian with file meta information, as a reader would get it.

    Raises
    ------
    IncompleteSource
        The source lacks a UID the report refers to.
    """
    about = Circumstances(source, finding, identity, preliminary, SERIES_DESCRIPTION)
    items = [
        content.code(codes.LANGUAGE, codes.LANGUAGES[language], relation=Relation.HAS_CONCEPT_MOD),
        *observer_context(identity, finding.model),
        *subject_context(finding.subject),
        content.container(codes.FINDINGS, *_findings(source, finding, assessment, language)),
        content.container(codes.CONCLUSIONS, content.text(codes.CONCLUSION, wording.conclusion(finding, language))),
        content.container(codes.REMARKS, *_remarks(finding, assessment, language)),
    ]
    return put_together(EnhancedSR, Root(codes.DIAGNOSTIC_IMAGING_REPORT, "2000"), items, about)


def _findings(source: Dataset, finding: Finding, assessment: Assessment | None, language: Language) -> list[Item]:
    """Return the number, what it means, whose hand it is, and the image."""
    items: list[Item] = []
    if isinstance(finding, Estimate):
        items.append(content.number(codes.BONE_AGE, finding.age_months, codes.MONTH))
        items.append(content.text(codes.FINDING, f"{wording.bone_age(finding, language)}."))
        items.append(content.text(codes.INTERVAL, wording.interval(finding, language)))
    else:
        items.append(content.code(codes.FINDING, codes.REFUSALS[finding.code]))
    items += [content.text(codes.ASSESSMENT, line) for line in wording.assessed(assessment, language)]
    return [*items, content.image(source, Relation.CONTAINS)]


def _remarks(finding: Finding, assessment: Assessment | None, language: Language) -> list[Item]:
    """Return what speaks against the result, what could not be told, the model, and the disclaimer."""
    items: list[Item] = []
    if isinstance(finding, Refusal):
        items.append(content.text(codes.RECOMMENDATION, translated(finding.remedy, language)))
        items.append(content.text(codes.COMMENT, wording.sex_stated(finding.subject, language)))
        items.append(content.text(codes.COMMENT, wording.chronological_age(finding.subject, language)))
    items += [content.text(codes.FLAG, sentence) for sentence in wording.flag_lines(finding, language)]
    items += [content.text(codes.COMMENT, note) for note in wording.notes(assessment, language)]
    items.append(content.text(codes.COMMENT, wording.model_line(finding, language)))
    items.append(content.text(codes.COMMENT, wording.disclaimer_sentence(language)))
    return items
