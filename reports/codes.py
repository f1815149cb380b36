"""The coded concepts of our documents. DICOM's own come from PS3.16, the others from LOINC, SNOMED CT, RadLex and UCUM.

Where no scheme has a concept (the difference of bone age and chronological age, a region of several carpal bones, the
reasons of a refusal) a private scheme is used, declared in Coding Scheme Identification Sequence (0008,0110).
"""

from __future__ import annotations

from hashlib import sha256

from pydicom.sr.coding import Code

from inference.finding import Laterality, RefusalCode, Sex
from reports.identity import derived_uid

PRIVATE_SCHEME = "99BONEAGE"
PRIVATE_SCHEME_NAME = "boneage-node concepts"
PRIVATE_SCHEME_UID = derived_uid("coding-scheme")


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


def _own(value: str, meaning: str) -> Code:
    """Return a private code; Code Value (0008,0100) is an SH of at most 16 characters, Code Meaning an LO of 64."""
    if len(value) > 16 or len(meaning) > 64:
        raise ValueError(f"Code {value!r} does not fit its attributes.")
    return Code(value, PRIVATE_SCHEME, meaning)


# The document, TID 1500. The English meanings are what viewers look for.
IMAGING_MEASUREMENT_REPORT = _dcm("126000", "Imaging Measurement Report")
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
MEASUREMENT_GROUP = _dcm("125007", "Measurement Group")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
PROCEDURE_REPORTED = _dcm("121058", "Procedure reported")
BONE_AGE_PROCEDURE = Code("37362-1", "LN", "XR Bones Bone age")
LANGUAGE = _dcm("121049", "Language of Content Item and Descendants")
ENGLISH = Code("en", "RFC5646", "English")
LANGUAGES: dict[str, Code] = {"en": ENGLISH, "zh": Code("zh", "RFC5646", "Chinese")}

UNPAIRED_PARTS: frozenset[str] = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "BLADDER", "BRAIN", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "COCCYX", "CSPINE",
    "CTSPINE", "FACE", "HEAD", "HEADNECK", "HEART", "JAW", "LIVER", "LSPINE", "LSSPINE", "MAXILLA", "MEDIASTINUM",
    "NECK", "NECKCHEST", "NOSE", "PANCREAS", "PELVIS", "PROSTATE", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM",
    "STOMACH", "TLSPINE", "TONGUE", "TSPINE", "UTERUS", "WHOLEBODY",
})  # fmt: skip
"""Terms of Body Part Examined (0018,0015) that have no side, of PS3.16 table L-1."""

# The key object selection, TID 2010.
OF_INTEREST = _dcm("113000", "Of Interest")
KEY_OBJECT_DESCRIPTION = _dcm("113012", "Key Object Description")

# The text report, TID 2000.
DIAGNOSTIC_IMAGING_REPORT = Code("18748-4", "LN", "Diagnostic Imaging Report")
FINDINGS = _dcm("121070", "Findings")
CONCLUSIONS = _dcm("121076", "Conclusions")

# Observation context, TID 1001.
OBSERVER_TYPE = _dcm("121005", "Observer Type")
DEVICE = _dcm("121007", "Device")
DEVICE_UID = _dcm("121012", "Device Observer UID")
DEVICE_NAME = _dcm("121013", "Device Observer Name")
DEVICE_MANUFACTURER = _dcm("121014", "Device Observer Manufacturer")
DEVICE_MODEL = _dcm("121015", "Device Observer Model Name")
DEVICE_SERIAL = _dcm("121016", "Device Observer Serial Number")
SUBJECT_CLASS = _dcm("121024", "Subject Class")
PATIENT = _dcm("121025", "Patient")
SUBJECT_SEX = _dcm("121032", "Subject Sex")
SUBJECT_AGE = _dcm("121033", "Subject Age")

# Image library entry, TID 1601 to 1603.
SOURCE = _sct("260753009", "Source")
MODALITY = _dcm("121139", "Modality")
IMAGE_LATERALITY = _dcm("111027", "Image Laterality")
ROWS = _dcm("110910", "Pixel Data Rows")
COLUMNS = _dcm("110911", "Pixel Data Columns")
ORIENTATION_ROW = _dcm("111044", "Patient Orientation Row")
ORIENTATION_COLUMN = _dcm("111043", "Patient Orientation Column")
SPACING_HORIZONTAL = _dcm("111026", "Horizontal Pixel Spacing")
SPACING_VERTICAL = _dcm("111066", "Vertical Pixel Spacing")
PIXELS = Code("{pixels}", "UCUM", "pixels")
MILLIMETRE = Code("mm", "UCUM", "millimeter")

MODALITIES: dict[str, Code] = {
    "1.2.840.10008.5.1.4.1.1.1": _dcm("CR", "Computed Radiography"),
    "1.2.840.10008.5.1.4.1.1.1.1": _dcm("DX", "Digital Radiography"),
    "1.2.840.10008.5.1.4.1.1.1.1.1": _dcm("DX", "Digital Radiography"),
}
"""By SOP class of the source, CID 29."""
STATED_MODALITIES: dict[str, Code] = {
    "CR": _dcm("CR", "Computed Radiography"),
    "DX": _dcm("DX", "Digital Radiography"),
    "RG": _dcm("RG", "Radiographic imaging"),
}
"""By Modality (0008,0060), of films that come as secondary captures. Of others none is written: CID 29 has no OT."""

# A measurement group, TID 1410 and what it includes.
TRACKING_IDENTIFIER = _dcm("112039", "Tracking Identifier")
TRACKING_UID = _dcm("112040", "Tracking Unique Identifier")
FINDING = _dcm("121071", "Finding")
FINDING_SITE = _sct("363698007", "Finding Site")
LATERALITY = _sct("272741003", "Laterality")
METHOD = _sct("370129005", "Measurement Method")
IMAGE_REGION = _dcm("111030", "Image Region")
IMAGE_QUALITY = _dcm("111101", "Image Quality")
UNCERTAINTY_ABOVE = _sct("371886008", "+, range of upper measurement uncertainty")
UNCERTAINTY_BELOW = _sct("371885007", "-, range of lower measurement uncertainty")
BONE_AGE = Code("85151-9", "LN", "XR Bone age")
BONE_AGE_METHOD = Code("85150-1", "LN", "Bone age method")
GREULICH_PYLE = _sct("252956001", "Greulich and Pyle bone age assessment")
CHRONOLOGICAL_AGE = Code("30525-0", "LN", "Age")
MONTH = Code("mo", "UCUM", "month")
YEAR = Code("a", "UCUM", "year")
NO_UNITS = Code("1", "UCUM", "no units")

# The measurement beside a reference population: TID 310 to 312, and a number of its own.
Z_SCORE = _dcm("113071", "Z-score")
Z_SCORE_OF_MEASUREMENT = _dcm("121416", "Z-Score of measurement")
STANDARD_DEVIATION = _dcm("121414", "Standard deviation of population")
POPULATION = _dcm("121405", "Population description")
AUTHORITY = _dcm("121406", "Reference Authority")
NORMALITY = _dcm("121402", "Normality")
NORMAL_RANGE_LOW = _sct("385524004", "Normal Range Lower Limit")
NORMAL_RANGE_HIGH = _sct("371933006", "Normal Range Upper Limit")
NORMAL = _sct("17621005", "Normal")
ABNORMALLY_HIGH = _sct("371879000", "Abnormally High")
ABNORMALLY_LOW = _sct("371880002", "Abnormally Low")
VERDICTS: dict[str, Code] = {"advanced": ABNORMALLY_HIGH, "delayed": ABNORMALLY_LOW, "normal": NORMAL}
"""CID 222."""
CENTIMETRE = Code("cm", "UCUM", "centimeter")
MONTHS_PER_YEAR = Code("mo/a", "UCUM", "month per year")

# Algorithm identification, TID 4019.
ALGORITHM_NAME = _dcm("111001", "Algorithm Name")
ALGORITHM_VERSION = _dcm("111003", "Algorithm Version")
ALGORITHM_PARAMETERS = _dcm("111002", "Algorithm Parameters")
ALGORITHM_MANUFACTURER = _dcm("122405", "Algorithm Manufacturer")
ALGORITHM_FAMILY = _dcm("111000", "Algorithm Family")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")

# Qualitative evaluations.
CONCLUSION = _dcm("121077", "Conclusion")
RECOMMENDATION = _dcm("121075", "Recommendation")
COMMENT = _dcm("121106", "Comment")

# Purpose of reference of the secondary capture's source, CID 7202.
SOURCE_OF_PROCESSING = _dcm("121322", "Source image for image processing operation")

# Private concepts.
SKELETAL_MATURITY = _own("MATURITY", "Skeletal maturity")
AGE_DIFFERENCE = _own("AGE-DIFFERENCE", "Bone age minus chronological age")
DETECTION_SCORE = _own("DETECTION-SCORE", "Mean detection score of the regions")
INTERVAL = _own("INTERVAL", "Prediction interval")
SEX_USED = _own("SEX-USED", "Sex used for the estimate")
VALUE_SOURCE = _own("VALUE-SOURCE", "Where the value comes from")
FLAG = _own("FLAG", "Limitation or contradiction")
RUS_SCORE = _own("RUS-SCORE", "Skeletal maturity score, derived")
RUS_AGE = _own("RUS-AGE", "Bone age of the maturity score, derived")
BONE_STAGE = _own("BONE-STAGE", "Maturity stage, derived")
BONE_POINTS = _own("BONE-POINTS", "Points of the maturity stage, derived")
STAGE_PROBABILITY = _own("STAGE-PROB", "Probability of the stage")
SCALE = _own("SCALE", "Scale")
ADULT_HEIGHT = _own("ADULT-HEIGHT", "Predicted adult height")
VELOCITY = _own("VELOCITY", "Bone age velocity")
SD_CHANGE = _own("SD-CHANGE", "Change of the SD score")
REMARKS = _own("REMARKS", "Remarks")
ASSESSMENT = _own("ASSESSMENT", "Result beside references and earlier results")
EARLIER_RESULT = _own("EARLIER-RESULT", "Earlier bone age")
ASSUMED_AGES: dict[Sex, Code] = {
    Sex.MALE: _own("AGE-IF-MALE", "Bone age if the sex were male"),
    Sex.FEMALE: _own("AGE-IF-FEMALE", "Bone age if the sex were female"),
}
"""Concepts of their own, so that no program takes one of two possible ages for the bone age."""

SEXES: dict[Sex, Code] = {Sex.MALE: _dcm("M", "Male"), Sex.FEMALE: _dcm("F", "Female")}
"""CID 7455."""
UNKNOWN_SEX = _dcm("U", "Unknown sex")

SIDES: dict[Laterality, Code] = {
    Laterality.LEFT: _sct("7771000", "Left"),
    Laterality.RIGHT: _sct("24028007", "Right"),
}
"""CID 244. There is no entry for a side that is not known: the item is left out."""

QUALITIES: dict[str, Code] = {
    "diagnostic": Code("RID12", "RADLEX", "Diagnostic quality"),
    "limited": Code("RID13", "RADLEX", "Limited quality"),
    "non-diagnostic": Code("RID14", "RADLEX", "Non-diagnostic quality"),
}
"""CID 7036."""

REFUSALS: dict[RefusalCode, Code] = {
    RefusalCode.NOT_A_HAND: _own("NOT-A-HAND", "No bone age: the image does not show a hand"),
    RefusalCode.HAND_INCOMPLETE: _own("HAND-INCOMPLETE", "No bone age: the hand is not shown completely"),
    RefusalCode.UNREADABLE_PIXELS: _own("UNREADABLE", "No bone age: the pixels cannot be decoded"),
    RefusalCode.UNSUPPORTED_OBJECT: _own("UNSUPPORTED", "No bone age: this kind of object is not supported"),
    RefusalCode.POOR_IMAGE: _own("POOR-IMAGE", "No bone age: the image quality does not allow it"),
    RefusalCode.SEX_UNKNOWN: _own("SEX-UNKNOWN", "No bone age: the sex is not known"),
}
"""One code for each reason of a refusal."""

REFUSED_QUALITIES: dict[RefusalCode, str] = {
    RefusalCode.POOR_IMAGE: "non-diagnostic",
    RefusalCode.UNREADABLE_PIXELS: "non-diagnostic",
    RefusalCode.HAND_INCOMPLETE: "limited",
}
"""What a refusal says of the image quality; the other reasons say nothing of it."""

HAND = _sct("85562004", "Hand")
_METACARPAL = _sct("36455000", "Metacarpal")
_PHALANX = _sct("28641004", "Phalanx of hand")
_CARPAL = _sct("83936004", "Carpal bone")

SITES: dict[str, Code] = {
    "radius": _sct("75129005", "Distal Radius"),
    "ulna": _sct("91238003", "Distal Ulna"),
    "MC1": _METACARPAL,
    "MC3": _METACARPAL,
    "MC5": _METACARPAL,
    "PP1": _PHALANX,
    "PP3": _PHALANX,
    "PP5": _PHALANX,
    "MP3": _PHALANX,
    "MP5": _PHALANX,
    "DP1": _PHALANX,
    "DP3": _PHALANX,
    "DP5": _PHALANX,
    "capitate-hamate": _CARPAL,
    "triquetrum-lunate": _CARPAL,
    "scaphoid": _sct("30518006", "Scaphoid"),
    "trapezium-trapezoid": _CARPAL,
    "carpus": _CARPAL,
}
"""Finding site of each region. No scheme codes a single digit's phalanx: the tracking identifier names the digit."""

REGIONS: dict[str, Code] = {
    "radius": _own("RADIUS", "Radius, distal epiphysis"),
    "ulna": _own("ULNA", "Ulna, distal epiphysis"),
    "MC1": _own("MC1", "First metacarpal, epiphysis"),
    "MC3": _own("MC3", "Third metacarpal, epiphysis"),
    "MC5": _own("MC5", "Fifth metacarpal, epiphysis"),
    "PP1": _own("PP1", "Proximal phalanx of the thumb, epiphysis"),
    "PP3": _own("PP3", "Proximal phalanx of the third digit, epiphysis"),
    "PP5": _own("PP5", "Proximal phalanx of the fifth digit, epiphysis"),
    "MP3": _own("MP3", "Middle phalanx of the third digit, epiphysis"),
    "MP5": _own("MP5", "Middle phalanx of the fifth digit, epiphysis"),
    "DP1": _own("DP1", "Distal phalanx of the thumb, epiphysis"),
    "DP3": _own("DP3", "Distal phalanx of the third digit, epiphysis"),
    "DP5": _own("DP5", "Distal phalanx of the fifth digit, epiphysis"),
    "capitate-hamate": _own("CAPITATE-HAMATE", "Capitate and hamate"),
    "triquetrum-lunate": _own("TRIQUETRUM-LUN", "Triquetrum and lunate"),
    "scaphoid": _own("SCAPHOID", "Scaphoid"),
    "trapezium-trapezoid": _own("TRAPEZIUM-TRAP", "Trapezium and trapezoid"),
    "carpus": _own("CARPUS", "Carpus"),
}
"""What each region of ``inference.anatomy.ROI_NAMES`` shows."""

_LONGEST_CODE, _HASH_DIGITS = 16, 4
"""Characters of Code Value (0008,0100), and how many of them tell one ensemble from another."""

REFERENCE_METHODS: dict[str, Code] = {
    "house": GREULICH_PYLE,
    "global-local": GREULICH_PYLE,
    "ala-net": GREULICH_PYLE,
    "unsupervised-mobilenet": GREULICH_PYLE,
    "2m-net": GREULICH_PYLE,
}
"""The atlas method whose readings a method was trained to reproduce. A method that is not listed says nothing of it."""


def reference_method(method: str) -> Code | None:
    """Return what a method, or all methods of an ensemble by name (``house+ala-net``), were trained to reproduce.

    None where that is not listed, or differs between the members.
    """
    found = {REFERENCE_METHODS.get(member) for member in method.split("+")}
    return found.pop() if len(found) == 1 else None


def estimation_method(method: str) -> Code:
    """Return the code of a method; a name that is too long is cut in the code, not in the meaning.

    That of several methods ends in digits of its hash: cut alone, other ensembles would have the same code.
    """
    value = method[:_LONGEST_CODE]
    if value != method and "+" in method:
        value = f"{method[: _LONGEST_CODE - _HASH_DIGITS - 1]}~{sha256(method.encode()).hexdigest()[:_HASH_DIGITS]}"
    return Code(value, PRIVATE_SCHEME, f"Bone age estimation by {method}"[:64])
